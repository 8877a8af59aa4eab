"""Evaluate a run: ``python eval.py run=<folder>`` (or ``run=latest``).

The networks of the run are measured on its test sets, as at the end of train.py: what is measured
already is kept, so that an interrupted evaluation goes on. The run's own configuration is used;
``+overrides.<key>=<value>`` changes it, such as ``+overrides.evaluation.classical=true``.
"""

import genrefocus  # noqa: F401 (first: it turns away a Python that Hydra fails on)

# isort: split
import json
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import require_kinds, run_application, wrong_input_ends
from genrefocus.runs import BENCHMARK, CONFIG, FINISHED, first_process, latest_of
from genrefocus.terminal import quiet_libraries

# Torch and what needs it are imported in functions: a wrong override must not wait for them.

quiet_libraries()

READ = ("evaluation", "test_samples", "seed", "data", "backbone", "trainer", "sharded_base")
USAGE = f"""usage: python eval.py [run=FOLDER] [outputs=FOLDER] [+overrides.KEY=VALUE ...]

{__doc__}"""


@hydra.main(version_base=None, config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Print the tables and write ``<run>/benchmark/``; exit status 2 for wrong input."""
    with wrong_input_ends("eval.py"):
        require_kinds(config)
        measure(config)


def measure(config: DictConfig) -> None:
    """Measure all networks of a run.

    Raises:
        ValueError: a change that an evaluation does not read.
        FileNotFoundError: no such run, or it has no trained network.
    """
    for key in config.overrides:
        if key not in READ:
            raise ValueError(
                f"+overrides.{key}: an evaluation does not read it, it reads {', '.join(READ)}; "
                "steps and prompts are those of the networks' cards"
            )
    run = _latest(Path(config.outputs)) if config.run == "latest" else Path(config.run)
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"{run} is no run of train.py: it has no {CONFIG}")
    run = run.absolute()
    text = (run / CONFIG).read_text()
    before = yaml.safe_load(text)["paths"]["run"]  # the run may have been moved
    own = OmegaConf.create(text.replace(f"{before}/", f"{run}/"))
    settings: Any = OmegaConf.merge(own, config.overrides)
    from lit_models.evaluation import evaluate, report, trained_stages
    from lit_models.ranks import Ranks

    if not trained_stages(settings, run):
        raise FileNotFoundError(f"{run} has no finished network to evaluate; train.py resume={run}")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    ranks = Ranks.connect(instantiate(settings.trainer, **quiet), run)
    with ranks.watched():
        backbone = instantiate(settings.backbone)
        if settings.get("sharded_base") and ranks.world > 1:
            backbone.shard(ranks.device)
        evaluate(settings, run, backbone, ranks)
    if ranks.rank == 0:
        report(run, f"evaluation of {run.name}", settings.seed)
        print(json.dumps({"benchmark": str(run / BENCHMARK)}))


def _latest(outputs: Path) -> Path:
    """The run with a finished network that was written to last."""

    def usable(run: Path) -> bool:
        return any((file.parent / "network.json").is_file() for file in run.glob(f"*/{FINISHED}"))

    run = latest_of(outputs, usable, "a network", "run=")
    if first_process():
        print(f"evaluating {run}")
    return run


if __name__ == "__main__":
    run_application(main, "eval.py", "eval", USAGE)
