"""Folders of runs: one for each run, one for all its ranks, and which of them is the newest."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from genrefocus.runs import held, newest_runs, run_folder, sweep_folder


@pytest.fixture(autouse=True)
def another_sweep_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREFOCUS_SWEEP_FOLDER", "/of/another/process")


def write_run(outputs: Path, name: str, *, at: int, trial: bool = False) -> Path:
    run = outputs / name
    stage = run / "deblurnet"
    stage.mkdir(parents=True)
    (run / "config.yaml").write_text(f"seed: 1\ntrial: {str(trial).lower()}\n")
    os.utime(run / "config.yaml", (at, at))
    return run


def mark(run: Path, file: str, *, at: int) -> None:
    path = run / "deblurnet" / file
    path.touch()
    os.utime(path, (at, at))


def test_the_newest_run_is_the_one_that_was_written_to_last(tmp_path: Path) -> None:
    """Whatever it is called, and wherever its work was last written."""
    newer = write_run(tmp_path, "deblur/slurm_1000", at=20)
    older = write_run(tmp_path, "deblur/slurm_999", at=10)
    other = write_run(tmp_path, "bokeh/2026-01-01_00-00-00", at=15)
    write_run(tmp_path, "deblur/sweep_2026/0", at=90)
    write_run(tmp_path, "sweeps/lora_rank/rank_8/seed_1", at=90)
    assert list(newest_runs(tmp_path)) == [newer, other, older]
    assert list(newest_runs(tmp_path, "deblur")) == [newer, older]
    mark(other, "last.ckpt", at=30)
    mark(older, "summary.json", at=40)
    mark(newer, "stage.yaml", at=50)  # nothing was trained
    assert list(newest_runs(tmp_path)) == [older, other, newer]
    assert run_folder(str(tmp_path), "deblur", "latest") == str(older)
    failed = write_run(tmp_path, "deblur/failed", at=60)  # there is nothing to go on with
    mark(failed, "stage.yaml", at=70)
    assert next(newest_runs(tmp_path)) == failed
    assert run_folder(str(tmp_path), "deblur", "latest") == str(older)
    assert not list(newest_runs(tmp_path, "deblu*")) and not list(newest_runs(tmp_path / "absent"))


def test_a_trial_is_the_latest_run_of_trials_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path, "deblur/run", at=10)
    trial = write_run(tmp_path, "deblur/trial", at=20, trial=True)
    mark(trial, "last.ckpt", at=20)
    assert next(newest_runs(tmp_path)) == run
    assert run_folder(str(tmp_path), "deblur", "latest", trial=True) == str(trial)
    assert list(newest_runs(tmp_path, trials=True)) == [trial]


def test_the_run_that_was_begun_with_the_same_overrides_goes_on(tmp_path: Path) -> None:
    """Also where nothing of it has been trained yet, as when the data were being made."""
    begun = write_run(tmp_path, "deblur/begun", at=10)
    given = ["seed=1", "experiment=deblur", "resume=latest"]
    (begun / "overrides.yaml").write_text(yaml.safe_dump(given))
    other = write_run(tmp_path, "deblur/other", at=20)
    (other / "overrides.yaml").write_text(yaml.safe_dump(["seed=2"]))
    mark(other, "last.ckpt", at=20)

    def latest(overrides: str) -> str:
        return run_folder(str(tmp_path), "deblur", "latest", False, overrides)

    assert latest("experiment=deblur,seed=1") == str(begun)
    assert latest("seed=2") == latest("seed=3") == str(other)
    with pytest.raises(ValueError, match="no trial in .* was begun with these overrides"):
        run_folder(str(tmp_path), "deblur", "latest", True, "seed=1")


def test_a_run_that_another_process_trains_is_refused_until_that_one_dies(tmp_path: Path) -> None:
    text = (
        f"from pathlib import Path\nfrom genrefocus.runs import held\nimport time\n"
        f"with held(Path({str(tmp_path)!r})):\n  print(1, flush=True)\n  time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        for _ in range(2):  # a refusal changes nothing
            with pytest.raises(ValueError, match=f"by process {other.pid} on "), held(tmp_path):
                pass
        other.kill()
    with held(tmp_path):
        pass


def test_ranks_but_the_first_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(tmp_path):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with held(tmp_path):
            pass


@pytest.mark.parametrize(
    ("resume", "said"),
    [
        ("latest", "start one without"),
        ("", "resume= is empty"),
        (True, "resume=True: no such"),
        ("latst", "Did you mean resume=latest"),
    ],
)
def test_what_cannot_be_resumed_is_refused(tmp_path: Path, resume: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        run_folder(str(tmp_path), "deblur", resume)


def test_a_run_is_resumed_under_the_name_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "run")
    assert run_folder(str(tmp_path), "deblur", str(link)) == str(link)


@pytest.mark.parametrize("folder_of", [sweep_folder, lambda o, n: run_folder(o, n, None)])
def test_runs_of_the_same_second_have_a_folder_each(
    folder_of: Callable[[str, str], str], tmp_path: Path
) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: folder_of(str(tmp_path), "deblur"), range(16)))
    assert len(folders) == 16 and all(Path(folder).is_dir() for folder in folders)


@pytest.mark.parametrize(
    ("variable", "restarts"),
    [
        ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"),
        ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    ],
)
def test_ranks_and_requeues_of_a_job_share_a_folder_and_other_runs_in_it_do_not(
    variable: str, restarts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(overrides: str) -> str:
        return run_folder(str(tmp_path), "deblur", None, False, overrides)

    monkeypatch.setenv(variable, "1000")
    first = folder("experiment=deblur,seed=42")
    for name, value in ((restarts, "1"), ("RANK", "3"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
        assert folder("experiment=deblur,seed=42") == first
    assert folder("experiment=deblur,seed=7") != first
    assert sweep_folder(str(tmp_path), "deblur") == sweep_folder(str(tmp_path), "deblur")


def test_ranks_without_a_name_in_common_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="--rdzv-id"):
        run_folder(str(tmp_path), "deblur", None)
    assert not list(tmp_path.iterdir())


def test_ranks_that_a_sweep_starts_work_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep_folder(str(tmp_path), "deblur")
    for name, value in (("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):  # as Lightning starts them
        monkeypatch.setenv(name, value)
    assert sweep_folder(str(tmp_path), "deblur") == folder
    assert len(list((tmp_path / "deblur").iterdir())) == 1
