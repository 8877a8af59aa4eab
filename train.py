"""Train: ``python train.py experiment=semi_supervised``.

Runs the stages of the curriculum one after the other, each in its own folder below the run's. A
stage that has written its summary is finished: it is not repeated when the run is resumed
(``resume=latest``). ``python train.py -m sweep=...`` runs the cells of an ablation.
"""

import genrefocus  # noqa: F401 (first: it turns away a Python that Hydra fails on)

# isort: split
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from genrefocus.configuration.composing import (
    options,
    require_sense,
    require_settled,
    run_application,
    write_settings,
    wrong_input_ends,
)
from genrefocus.configuration.summary import summary
from genrefocus.configuration.sweeps import is_cell, run_cell
from genrefocus.preflight.inputs import find_crowd, ranks_of, require_inputs
from genrefocus.runs import CONFIG, FINISHED, RESULT_NAME, ends_cleanly, first_process, held
from genrefocus.terminal import quiet_libraries

# Torch and what needs it are imported in functions: a wrong override must not wait for them.
if TYPE_CHECKING:
    from lit_models.stages import Stage

quiet_libraries()
CONSOLE = Console(quiet=not first_process())
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
USAGE = f"""usage: python train.py [GROUP=OPTION ...] [KEY=VALUE ...]

groups
{options("experiment", "scale", "data", "backbone", "trainer", "logger", "debug", "sweep")}
often
  resume=latest     goes on after an interruption
  --cfg job         prints the whole configuration
  -sc install=bash  prints what makes the tab key complete overrides
See docs/configs.md.
"""


@hydra.main(version_base=None, config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """See :func:`guarded`. Launchers send this function to other processes, without its module."""
    import train

    return train.guarded(config)


def guarded(config: DictConfig) -> float | None:
    """Run the curriculum; exit status 2 for wrong input, 128 + signal when interrupted.

    Returns the figure that ``result`` names, for sweepers; a cell that fails has none.
    """
    folder = Path(config.paths.run)
    with wrong_input_ends("train.py"), ends_cleanly(folder, sweep=is_cell()):
        return run_cell(folder, lambda: run(config)) if is_cell() else run(config)


def run(config: DictConfig) -> float | None:
    """All stages of the curriculum, then the benchmark of their networks.

    A run whose stages have all finished is shown, and nothing of it is written. Returns the figure
    that ``result`` names; None on ranks other than the first.

    Raises:
        ValueError: keys or values that nothing reads or that are out of bounds, missing inputs, or
            stages of the run that were begun with other settings.
    """
    require_sense(config, HydraConfig.get().overrides.task)
    require_settled(config)
    config.trial = bool(config.trial or config.trainer.fast_dev_run)
    folder, started = Path(config.paths.run), time.monotonic()
    files = (RESULT_NAME, *(f"{name}/{FINISHED}" for name in config.curriculum))
    finished = all((folder / file).is_file() for file in files)
    if not finished:
        require_inputs(config)
    from lightning import seed_everything

    from lit_models.evaluation import report, result_value
    from lit_models.stages import build_stages

    seed_everything(config.seed, workers=True, verbose=False)
    CONSOLE.rule(escape(config.name))
    whole = OmegaConf.to_yaml(config) if config.print_config else summary(config)
    CONSOLE.print(whole, markup=False, highlight=False, soft_wrap=True)
    stages = build_stages(config, folder)
    for stage in stages:
        stage.record.require_same_settings()
    if not finished:
        with held(folder):
            _train(stages, config, folder)
    if not first_process():
        return None
    report(folder, config.name, config.seed)
    took = f"{(time.monotonic() - started) / 60:.1f} min{' since it went on' * bool(config.resume)}"
    done = "all stages were finished, nothing was trained" if finished else took
    CONSOLE.print(f"time           {done}", highlight=False)
    return result_value(config, folder)


def _train(stages: "list[Stage]", config: DictConfig, folder: Path) -> None:
    """What is not finished of a run."""
    from genrefocus.preflight.memory import settle_checkpointing
    from genrefocus.preflight.validation import check_validation
    from lit_models.evaluation import evaluate
    from lit_models.ranks import Ranks
    from lit_models.stages import learn_prompts

    if first_process():
        alone = config.trainer.accelerator == "cpu" and ranks_of(config) == 1
        for one in find_crowd() if alone else ():
            CONSOLE.out(f"{one.subject} {one.detail}; {one.remedy}", highlight=False)
        if memory := settle_checkpointing(config):
            CONSOLE.out(f"memory     {memory.detail}", highlight=False)
        write_settings(config, folder)
        (folder / RESULT_NAME).unlink(missing_ok=True)
    ranks = Ranks.connect(instantiate(config.trainer, **QUIET), folder)
    with ranks.watched():
        with ranks.together("data"):
            if first_process():
                instantiate(config.data.build)  # null makes nothing
                if not config.trial:  # whose few steps say nothing about it
                    CONSOLE.out(f"validation {check_validation(config).detail}", highlight=False)
        # Of the run's folder: what the first process has settled holds for all.
        backbone = instantiate(OmegaConf.load(folder / CONFIG).backbone)
        if config.sharded_base and ranks.world > 1:
            backbone.shard(ranks.device)
        for stage in stages:
            if stage.record.finished():
                CONSOLE.out(f"{stage.name} is finished, see {stage.folder / FINISHED}")
                continue
            stage.record.begin()
            learn_prompts(stages, backbone, ranks, name=f"prompts_{stage.name}")
            CONSOLE.rule(f"{stage.name}: {type(stage).__name__}")
            stage.run(backbone, ranks)
        evaluate(config, folder, backbone, ranks)


if __name__ == "__main__":
    run_application(main, "train.py", "train", USAGE)
