"""`genrefocus prepare` as users run it: one command, several jobs, a kill, and then training."""

import subprocess
import time
from pathlib import Path

import pytest

from genrefocus.cli import main
from genrefocus.data.shards import ShardDataset
from tests.trees import tree
from tests.warm import Python, python

COUNTS = "source.counts={train: 30, val: 4, test: 4}"
SCENES = ["route=synthetic", COUNTS, "source.height=48", "source.width=48", "items_per_shard=6"]


def command(*overrides: str) -> list[str]:
    return ["-m", "genrefocus.cli", "prepare", *overrides, "progress=false"]


def run(*overrides: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python(*command(*overrides), folder=folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], str]:
    folder = tmp_path_factory.mktemp("whole")
    out = folder / "out"
    done = run(*SCENES, f"out={out}", folder=folder)
    assert done.returncode == 0, done.stderr
    return out, tree(out), done.stderr


def test_the_command_says_what_came_of_it(
    whole: tuple[Path, dict[str, bytes], str], tmp_path: Path
) -> None:
    out, files, said = whole
    assert "written to train" in said and "30" in said
    assert "measured only" in said and "largest_radius" in said
    assert {"report.html", "samples.jsonl", "rejections.jsonl", "summary.json"} <= set(files)
    assert len(ShardDataset(out / "train")) == 30
    again = run(*SCENES, f"out={out}", folder=tmp_path)
    assert again.returncode == 0
    assert tree(out) == files


def test_a_split_that_is_not_wanted_is_not_missed(tmp_path: Path) -> None:
    counts = "source.counts={train: 0, val: 1, test: 1}"
    size = ["source.height=48", "source.width=48", "workers=0"]
    done = run("route=sweep", counts, *size, f"out={tmp_path}/out", folder=tmp_path)
    assert done.returncode == 0 and "written to train" in done.stderr
    assert "empty" not in done.stderr and "splits=" not in done.stderr


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
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert tree(out) == whole[1]


def test_a_killed_command_goes_on(
    whole: tuple[Path, dict[str, bytes], str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = Python(*command(*SCENES, f"out={out}", "workers=2"), out=tmp_path / "log")
    deadline = time.monotonic() + 120
    while not list(out.glob("train/shard-*.tar")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "summary.json").exists()
    assert run(*SCENES, f"out={out}", folder=tmp_path).returncode == 0
    assert tree(out) == whole[1]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["route=nonsense"], "there is no route=nonsense, only"),
        ([], "route"),
        (["route=in_the_wild", "source=photographs"], "source.root"),
        (["route=synthetic", "source=photographs", "source.root={roll}"], "no photographs"),
        (["route=synthetic", "jobs=2", "job=2"], "numbered 0 to 1"),
        (["route=synthetic", "blur.low=1", "blur.high=0.5"], "0 < low <= high"),
        (["route=synthetic", "+gates.nonsense.min=1"], "nonsense"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    overrides: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    given = [one.format(roll=tmp_path) for one in overrides]
    with pytest.raises(SystemExit) as refused:
        main(["prepare", *given, f"out={tmp_path}/out", f"data.estimates={tmp_path}"])
    assert refused.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()  # the first may import what warns
    assert line.startswith("genrefocus prepare: ") and complaint in line
