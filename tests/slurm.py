"""SLURM as its launch file sees it: srun, squeue and scontrol for one job, as scripts on PATH."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "docs" / "launch"

# One task on each node; their ids are in a file, as SLURM signals tasks and not srun.
_SRUN = """
while [[ $1 == --* ]]; do shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do
  SLURM_PROCID=$node SLURM_NODEID=$node SLURM_LOCALID=0 "$@" &
  tasks+=($!)
done
echo "${tasks[@]}" >"$SLURM_PLAY/tasks"
for task in "${tasks[@]}"; do
  wait "$task"
  status=$?
  ((status > largest)) && largest=$status
done
exit "${largest:-0}"
"""
_SCRIPTS = {
    "srun": _SRUN,
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'echo "$@" >>"$SLURM_PLAY/scontrol"',
}


def environment_of_job(folder: Path, *, nodes: int = 1, **variables: str) -> dict[str, str]:
    """The environment of a batch script, with one task on each node.

    Args:
        folder: gets the commands; ``tasks`` and ``scontrol`` there say what they did.
        nodes: of the job.
        variables: further ones.
    """
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in _SCRIPTS.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "SLURM_PLAY": str(folder),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "genrefocus",
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(nodes),
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_CPUS_PER_TASK": "1",
        **variables,
    }
