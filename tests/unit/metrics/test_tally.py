"""A summary over ranks is bit for bit the summary of one process that saw every image."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from genrefocus.metrics.tally import Tally

# For each case what each of two ranks sees, in batches: uneven shares with failures among them, a
# rank without any image, and no image at all.
CASES = [
    ([[0.1, 0.7], [float("nan"), 0.3]], [[float("inf"), 1e8, 0.2]]),
    ([], [[0.1], [0.2]]),
    ([], []),
]

# One process imports and forks: importing is what takes long.
RANKS = """
import datetime, os, pathlib, sys, torch
import torch.distributed as dist
from genrefocus.metrics.tally import Tally
folder, cases = sys.argv[1], eval(sys.argv[2], {"nan": float("nan"), "inf": float("inf")})
other = os.fork()
rank = 0 if other else 1
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=120))
lines = []
for case in cases:
    tally = Tally(lambda values: values)
    for values in case[rank]:
        tally.update(torch.tensor(values))
    mean, valid, failed = tally.compute()
    lines.append(f"{mean.item().hex()} {valid.item()} {failed.item()}")
pathlib.Path(folder, f"rank{rank}").write_text("\\n".join(lines))
dist.destroy_process_group()
if other:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def summary_line(batches: list[list[float]]) -> str:
    tally = Tally(lambda values: values)
    for values in batches:
        tally.update(torch.tensor(values))
    mean, valid, failed = tally.compute()
    return f"{mean.item().hex()} {valid.item()} {failed.item()}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    expected = [summary_line([*first, *second]) for first, second in CASES]
    assert [line.split()[1:] for line in expected] == [["5", "2"], ["2", "0"], ["0", "0"]]
    subprocess.run(
        [sys.executable, "-c", RANKS, str(tmp_path), repr(CASES)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        timeout=180,
        check=True,
    )
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text().splitlines() == expected
