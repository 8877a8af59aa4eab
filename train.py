"""Train: ``python train.py experiment=semi_supervised``.

Runs the stages of the curriculum one after the other, each in its own folder below the run's. A
stage that has written its summary is finished: it is not repeated when the run is resumed
(``resume=latest``). ``python train.py -m sweep=...`` runs the cells of an ablation.
"""

import genrefocus  # noqa: F401 (first: it turns away a Python that Hydra fails on)

# isort: split
import json
import logging
import sys
import time
import warnings
from pathlib import Path

import hydra
from hydra.utils import instantiate
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf
from rich.tree import Tree

from genrefocus.benchmark.ablation import RESULT_NAME
from genrefocus.cli.cells import is_cell, run_cell
from genrefocus.cli.configuration import run_application, settle_missing
from genrefocus.cli.doctor import require_inputs
from genrefocus.runs import FINISHED, run_folder
from genrefocus.writing import write_json
from lit_models.callbacks import Interrupted
from lit_models.figures import CONSOLE, conclude, result_of
from lit_models.stages import RUNNERS, Stage, first_rank, on_first_rank

# What others' code says to itself, and what is meant to be: a rank may have no sample of a set.
for said in (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*was called before the ``update`` method.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Mismatch dtype between input and weight.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
):
    warnings.filterwarnings("ignore", said)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


@hydra.main(version_base=None, config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """See :func:`guarded`. Launchers send this function to other processes, without its module."""
    import train

    return train.guarded(config)


def guarded(config: DictConfig) -> float | None:
    """Run the curriculum; exit status 2 for wrong input, 128 + signal when interrupted.

    Returns the figure that ``result`` names, for sweepers; a cell that fails has none.
    """
    try:
        if is_cell():
            return run_cell(Path(config.paths.run), lambda: run_unless_finished(config))
        return run(config)
    except Interrupted as stopped:
        CONSOLE.print(f"[yellow]{stopped}[/]", soft_wrap=True)
        sys.exit(128 + stopped.number)
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


def run_unless_finished(config: DictConfig) -> float | None:
    """As :func:`run`, for a cell; where there is a result only the settings are compared.

    Raises:
        ValueError: the result is of other settings.
    """
    folder = Path(config.paths.run)
    if not (folder / RESULT_NAME).is_file():
        return run(config)
    settle_missing(config)
    for name in config.curriculum:
        Stage(name, config, folder / name).require_same_settings()
    CONSOLE.print(f"[green]{folder}[/] is finished", soft_wrap=True)
    value = json.loads((folder / RESULT_NAME).read_bytes())["value"]
    return None if value is None else float(value)


def run(config: DictConfig) -> float | None:
    """All stages of the curriculum, then the table and the pictures.

    Returns:
        The figure that ``result`` names; None on ranks other than the first.
    """
    folder = Path(config.paths.run)
    seed_everything(config.seed, workers=True, verbose=False)
    settle_missing(config)
    _announce(config, folder)
    require_inputs(config)
    if first_rank():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if config.data.build is not None:
        on_first_rank(lambda: instantiate(config.data.build), done=Path(config.data.ready))
    started = time.monotonic()
    backbone = instantiate(config.backbone)
    for name in config.curriculum:
        stage = Stage(name, config, folder / name)
        if stage.finished():
            CONSOLE.print(f"[green]{name}[/] is finished, see {stage.folder / FINISHED}")
            continue
        stage.require_same_settings()
        config.stage_folder = str(stage.folder)
        CONSOLE.rule(f"{name}: {stage.settings.kind}")
        RUNNERS[stage.settings.kind](stage, backbone)
    if not first_rank():
        return None
    summaries = conclude(config, folder, backbone, time.monotonic() - started)
    result = result_of(config, summaries)
    write_json(folder / RESULT_NAME, result)
    return None if result["value"] is None else float(result["value"])


def _announce(config: DictConfig, folder: Path) -> None:
    if not first_rank():
        return
    tree = Tree(f"[bold]{config.name}[/] in {folder}")
    for key in config:
        value = OmegaConf.to_yaml(OmegaConf.create({key: config._get_node(key)}))
        tree.add(value.rstrip())
    if config.print_config:
        CONSOLE.print(tree)


if __name__ == "__main__":
    run_application(main, "train.py", "train")
