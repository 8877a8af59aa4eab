"""`genrefocus prepare` as users run it: one command, several jobs, a kill, and then training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrefocus.data.shards import ShardDataset

COUNTS = "source.counts={train: 30, val: 4, test: 4}"
SCENES = ["route=synthetic", COUNTS, "source.height=48", "source.width=48", "items_per_shard=6"]


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "genrefocus.cli", "prepare", *overrides, "progress=false"]


def run(*overrides: str, **keywords) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*overrides), capture_output=True, text=True, timeout=300, check=False, **keywords
    )


def tree(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], str]:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run(*SCENES, f"out={out}")
    assert done.returncode == 0, done.stderr
    return out, tree(out), done.stderr


def test_the_command_says_what_came_of_it(whole: tuple[Path, dict[str, bytes], str]) -> None:
    out, files, said = whole
    assert "written to train" in said and "30" in said
    assert "measured only" in said and "largest_radius" in said
    assert {"report.html", "samples.jsonl", "rejections.jsonl", "summary.json"} <= set(files)
    assert len(ShardDataset(out / "train")) == 30
    again = run(*SCENES, f"out={out}")
    assert again.returncode == 0
    assert tree(out) == files


def test_jobs_of_a_launcher_make_the_same_set(
    whole: tuple[Path, dict[str, bytes], str], tmp_path: Path
) -> None:
    """Hydra's multirun through joblib, as `hydra/launcher=submitit_slurm` would on a cluster."""
    out = tmp_path / "out"
    done = run(
        "-m",
        *SCENES,
        f"out={out}",
        f"paths.outputs={tmp_path}/runs",
        "job=0,1,2",
        "jobs=3",
        "workers=0",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    )
    assert done.returncode == 0, done.stderr
    assert tree(out) == whole[1]


def test_a_killed_command_goes_on(
    whole: tuple[Path, dict[str, bytes], str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = command(*SCENES, f"out={out}", "workers=2")
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("train/shard-*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    assert run(*SCENES, f"out={out}").returncode == 0
    assert tree(out) == whole[1]


def test_wrong_use_is_one_line_and_status_2(tmp_path: Path) -> None:
    roll = tmp_path / "roll"
    roll.mkdir()
    (roll / "notes.txt").touch()
    for overrides, complaint in (
        (["route=nonsense"], "Could not find 'route/nonsense'"),
        ([], "route"),
        (["route=in_the_wild", "source=photographs"], "source.root"),
        (
            ["route=synthetic", "source=photographs", f"source.root={roll}"],
            "no photographs",
        ),
        (["route=synthetic", "jobs=2", "job=2"], "numbered 0 to 1"),
        (["route=synthetic", "blur.low=1", "blur.high=0.5"], "0 < low <= high"),
        (["route=synthetic", "+gates.nonsense.min=1"], "nonsense"),
    ):
        done = run(*overrides, f"out={tmp_path}/out", f"data.estimates={tmp_path}")
        assert done.returncode == 2, (overrides, done.stderr)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("genrefocus prepare: ") and complaint in last, (overrides, last)
        assert "Traceback" not in done.stderr
