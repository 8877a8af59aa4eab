"""Runs of ``train.py``: their folders, the records of their stages, and what is written last."""

import os
import subprocess
from datetime import datetime
from pathlib import Path

FINISHED = "summary.json"
ROOT = Path(__file__).resolve().parents[2]


def run_folder(outputs: str, name: str, resume: str | None) -> str:
    """Folder of this run: a new one, the newest, or the one named.

    Jobs whose processes are started from outside (SLURM, torchrun) share a name that all of them
    know, so that there is one folder, not one for each rank; a requeued job finds its folder again.

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


def git_commit() -> str:
    """Commit of the checkout, ``-dirty`` where files differ from it; ``unknown`` without git."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
