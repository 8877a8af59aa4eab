"""Train: ``python train.py experiment=semi_supervised``.

Runs the stages of the curriculum one after the other, each in its own folder below the run's. A stage that
has written its summary is finished: it is not repeated when the run is resumed (``resume=latest``).
"""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

ROOT = Path(__file__).resolve().parent
CONSOLE = Console()
FINISHED = "summary.json"


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and has saved
    """A signal stopped the run after a checkpoint."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}; go on with resume=latest")
        self.number = number


def run_folder(outputs: str, name: str, resume: str | None) -> str:
    """Folder of this run: a new one, the newest, or the one named.

    Jobs whose processes are started from outside (SLURM, torchrun) share a name that all of them know, so
    that there is one folder, not one for each rank; a requeued job finds its folder again.

    Raises:
        ValueError: there is nothing to resume.
    """
    base = Path(outputs) / name
    if resume == "latest":
        runs = sorted(path for path in base.glob("*") if (path / ".hydra").is_dir())
        if not runs:
            raise ValueError(f"resume=latest: no run in {base}; start one without resume")
        return str(runs[-1])
    if resume:
        if not Path(resume).is_dir():
            raise ValueError(f"resume={resume}: no such folder")
        return str(Path(resume).resolve())
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        if os.environ.get(variable, "none") != "none":
            return str(base / f"{variable.split('_')[0].lower()}_{os.environ[variable]}")
    return str(base / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


OmegaConf.register_new_resolver("checkout", lambda: str(ROOT), use_cache=True)
OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True)


@hydra.main(version_base=None, config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    """Run the curriculum; exit status 2 for wrong input, 128 + signal when interrupted."""
    try:
        run(config)
    except Interrupted as stopped:
        CONSOLE.print(f"[yellow]{stopped}[/]")
        sys.exit(128 + stopped.number)
    except (ValueError, OSError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
