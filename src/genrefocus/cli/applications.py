"""Commands that are Hydra applications; their arguments are checked before they are imported."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import yaml
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import (
    checkout,
    require_given,
    require_kinds,
    run_application,
    wrong_input_ends,
)

TASKS = ("deblur", "bokeh", "refocus")
_MADE_ON_FIRST_USE = "genrefocus.embedded."

PREPARE_HELP = """usage: genrefocus prepare route=ROUTE [source=SOURCE] [key=value ...]
       genrefocus prepare -m route=ROUTE job=0,1 jobs=2 hydra/launcher=joblib [...]

routes   synthetic, sweep, point_lights, in_the_wild, aperture_series, deblur_pairs
sources  scenes, night_scenes, camera_roll, aperture_roll (simulated); photographs,
         photograph_table, developed_raw, folder, pairs, dpdd, realdof, realbokeh_3mp, lfdof, ebb,
         focal_stacks
often    source.root=/folder  data.estimates=/folder  depth=... mask=... gates=...  out=/folder
         limit=20 for a trial;  route=ROUTE --cfg job prints all there is

See docs/preparation.md.
"""

BENCHMARK_HELP = """usage: genrefocus benchmark [benchmark=SET] [run=latest] [key=value ...]

sets     embedded (made on first use); dpdd, dpdd_crops, realdof, pairs, focal_stacks,
         focal_stacks_embedded with source.root=/folder;
         lightfields, shards with benchmark.folder=/folder
methods  run=outputs/NAME/DATE, run=null for none;  +runs.NAME=/folder: others beside it
         +loras.NAME.deblur=FILE +loras.NAME.bokeh=FILE flux=/folder: LoRA files on FLUX.1-dev
         +predictions.NAME=/folder with TASK/DATASET/KEY.png: other people's answers
         +methods.NAME._target_=a.module.Class: your own code
often    tasks=[deblur,bokeh]  limit=6 for a trial  out=/folder  device=cuda
         --cfg job prints all there is

See docs/benchmark.md.
"""


def main(name: str, arguments: Sequence[str]) -> int:
    """Run ``prepare`` or ``benchmark`` with overrides; exit status 2 for wrong input."""
    application, config, usage = APPLICATIONS[name]
    if name == "prepare" and not arguments:
        print(usage)
        return 2
    sys.argv = [f"genrefocus {name}", *arguments]
    decorate = hydra.main(
        version_base=None, config_path=str(checkout() / "conf"), config_name=config
    )
    run_application(decorate(application), f"genrefocus {name}", config, usage)
    return 0


@contextmanager
def _job(name: str, kept: str) -> Iterator[None]:
    """Wrong input, and an interruption, which the same command goes on from, are one line each."""
    try:
        with wrong_input_ends(name):
            yield
    except KeyboardInterrupt:
        line = f"{name}: interrupted; {kept} are kept, the same command goes on"
        print(line, file=sys.stderr)
        sys.exit(130)


def _prepare(config: DictConfig) -> None:
    with _job("genrefocus prepare", "complete shards"):
        require_kinds(config)
        require_given(OmegaConf.masked_copy(config, ["depth", "mask"]))
        if not config.gates:
            raise ValueError(
                "gates set nothing, not even null: is the file empty? gates=none has all"
            )
        root, made = (
            config.source.get("root"),
            config.source._target_.startswith(_MADE_ON_FIRST_USE),
        )
        if root is not None and not made and not Path(root).exists():
            raise FileNotFoundError(f"source {root} does not exist; set source.root")
        from genrefocus.cli.prepare import run_job

        run_job(config)


def _benchmark(config: DictConfig) -> None:
    with _job("genrefocus benchmark", "measured images"):
        require_given(config)
        _require_sense(config)
        require_kinds(config)
        from genrefocus.cli.benchmark import run_job

        run_job(config)


def _require_sense(config: DictConfig) -> None:
    """
    Raises:
        ValueError: keys that nothing reads, or values of the wrong kind.
    """
    with (checkout() / "conf" / "measure.yaml").open() as file:
        known = set(yaml.safe_load(file)) | {"benchmark", "depth", "paths", "source", "validation"}
    if strange := set(config) - known:
        raise ValueError(f"nothing reads {', '.join(map(str, strange))}; --cfg job prints all keys")
    if isinstance(config.tasks, str) or set(config.tasks) - set(TASKS):
        raise ValueError(f"tasks={config.tasks}: give some of {', '.join(TASKS)} in brackets")
    if config.limit is not None and not (isinstance(config.limit, int) and config.limit > 0):
        raise ValueError(f"limit={config.limit}: give a number of images, 1 or more, or null")


APPLICATIONS = {
    "prepare": (_prepare, "prepare", PREPARE_HELP),
    "benchmark": (_benchmark, "measure", BENCHMARK_HELP),
}
