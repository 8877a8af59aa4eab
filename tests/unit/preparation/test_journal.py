"""Kills, full disks and other processes: a preparation ends at the same bytes, or is refused."""

import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrefocus.preparation import journal, runner
from genrefocus.preparation.item import ImageFile
from tests.trees import tree
from tests.unit.preparation.copying import Copied, run


def test_jobs_and_processes_do_not_show(
    images: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    assert run(images, tmp_path / "processes", workers=2) is not None
    assert tree(tmp_path / "processes") == whole
    ended = [run(images, tmp_path / "jobs", job=job, jobs=3) for job in (2, 0, 1)]
    assert [one is None for one in ended] == [True, True, False]
    assert tree(tmp_path / "jobs") == whole
    assert run(images, tmp_path / "jobs") == ended[-1]  # finished: nothing is made again
    assert tree(tmp_path / "jobs") == whole
    with pytest.raises(ValueError, match="numbered 0 to 2"):
        run(images, tmp_path / "jobs", job=3, jobs=3)


def test_killed_at_random_it_ends_at_the_same_bytes(
    images: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    rng, kills = random.Random(4), 0
    fork = multiprocessing.get_context("fork")
    while True:
        process = fork.Process(
            target=run,
            args=(images, tmp_path / "out"),
            kwargs={"route": Copied(pause=0.01), "workers": 0},
        )
        process.start()
        process.join(rng.uniform(0.02, 0.2 + kills / 50))  # on a slow machine too
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        process.kill()
        process.join()
        kills += 1
        assert kills < 200, "it does not get on"
    assert kills >= 3
    assert tree(tmp_path / "out") == whole


def test_an_interruption_costs_one_batch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[list[str]] = []
    run_task = runner._run

    def told(*args: Any) -> Any:
        tasks.append([candidate.key for candidate in args[-1]])
        if len(tasks) == 4:
            raise OSError("the disk is full")
        return run_task(*args)

    monkeypatch.setattr(runner, "_run", told)
    with pytest.raises(OSError, match="full"):
        run(images, tmp_path / "out", items_per_shard=100)
    run(images, tmp_path / "out", items_per_shard=100)
    assert tasks[3] == tasks[4]  # the one that failed
    made = [key for task in tasks[:3] + tasks[4:] for key in task]
    assert len(made) == len(set(made)) == 27
    monkeypatch.undo()
    run(images, tmp_path / "whole", items_per_shard=100)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["record", "shard", "batch"])
def test_what_a_kill_between_two_files_leaves(
    images: Path, tmp_path: Path, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(images, tmp_path / "whole", items_per_shard=100)
    whole = tree(tmp_path / "whole")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    # "record": the shard is there; "shard": all batches are; "batch": some are.
    name = "write_shard" if lost == "shard" else "write_atomically"
    write = getattr(journal, name)
    ends = {"record": "record.json", "shard": ".tar", "batch": "000006.json"}[lost]
    monkeypatch.setattr(
        journal, name, lambda path, x: killed() if str(path).endswith(ends) else write(path, x)
    )
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", items_per_shard=100)
    monkeypatch.undo()
    run(images, tmp_path / "out", items_per_shard=100)
    assert tree(tmp_path / "out") == whole


def test_worker_processes_end_with_a_killed_parent(images: Path, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    process = fork.Process(
        target=run,
        args=(images, tmp_path / "out"),
        kwargs={"route": Copied(pause=0.3), "workers": 2},
    )
    process.start()
    children: list[str] = []
    for _ in range(100):
        time.sleep(0.05)
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if len(listed) >= 2:
            children = listed
            break
    assert children
    process.kill()
    process.join()
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{child}/exe") for child in children):
            break
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{child}/exe") for child in children)


def in_a_process(function: Callable[[], None]) -> int:
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def test_a_full_disk_leaves_what_is_there_intact(
    images: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A limit on the size of files stands for the disk: the write fails alike."""
    sizes = {len(data) for name, data in whole.items() if name.endswith(".tar")}
    limit = max(sizes) - 1  # the largest shards do not fit

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            run(images, tmp_path / "out")
        except OSError:
            os._exit(7)

    assert in_a_process(limited) == 7
    left = tree(tmp_path / "out")
    shards = {name: data for name, data in left.items() if name.endswith(".tar")}
    assert shards.items() <= whole.items()
    run(images, tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_a_file_that_cannot_be_read_is_an_error_and_no_rejection(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    read = ImageFile.read
    reads: list[str] = []

    def fails(self: ImageFile) -> bytes:
        reads.append(self.path.name)
        if reads.count("p20.png") == 2:  # the first was for its fingerprint
            raise OSError(5, "Input/output error", str(self.path))
        return read(self)

    monkeypatch.setattr(ImageFile, "read", fails)
    with pytest.raises(OSError, match=r"p20\.png"):
        run(images, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out/rejections.jsonl").exists()
    run(images, tmp_path / "out")
    assert tree(tmp_path / "out") == whole


def test_other_settings_or_images_are_refused(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out", job=0, jobs=3)
    with pytest.raises(ValueError, match="seed 5, now it is 6"):
        run(images, tmp_path / "out", seed=6)
    run(images, tmp_path / "out")
    with pytest.raises(ValueError, match="samples_per_shard 4, now it is 8"):
        run(images, tmp_path / "out", items_per_shard=8)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(images.glob("p*.png"))[:9]:
        (fewer / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="listing"):
        run(fewer, tmp_path / "out")
