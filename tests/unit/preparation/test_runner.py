"""Shards of a preparation: the same bytes for any number of jobs and kills, and nothing lost."""

import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
import torch
from PIL import Image

from genrefocus.data.sample import Sample
from genrefocus.data.shards import ShardDataset
from genrefocus.preparation import journal, runner
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import ImageFile, Item
from genrefocus.preparation.ledger import read_lines
from genrefocus.preparation.route import Prepared, Route, load_image
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate, LeakageCheck, split_of
from genrefocus.rejection import Reason, Rejected
from tests.trees import tree

ALIKE = LeakageCheck(against=(), distance=64, allow=())
NO_LEAKAGE = LeakageCheck(against=(), distance=0, allow=())
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Images:
    """A folder of PNG files; scenes by the part of the name before a dash, if there is one."""

    root: Path
    name = "images"
    roles = frozenset({"photo"})

    def items(self) -> list[Item]:
        return [
            Item(
                path.name,
                path.stem.split("-")[0] if "-" in path.stem else None,
                {"photo": ImageFile(path)},
            )
            for path in sorted(self.root.glob("*.png"))
        ]

    def problems(self) -> list[tuple[str, Rejected]]:
        return [
            (path.name, Rejected(Reason.FORMAT_UNSUPPORTED, path.suffix))
            for path in sorted(self.root.glob("*.raw"))
        ]


@dataclass(frozen=True)
class Copied(Route):
    """A sample whose sharp image is noise of its seed; brightness 0 is turned away."""

    batch_size: int = 2
    pause: float = 0.0
    name = "deblur"
    roles = frozenset({"photo"})

    def parameters(self) -> dict[str, Any]:
        return {"copied": True}

    def load(self, candidate: Candidate) -> torch.Tensor:
        return load_image(candidate, "photo", long_edge=64, least_edge=1)

    def estimate(self, candidates: Sequence[Candidate], loaded: Sequence[Any]) -> Sequence[Any]:
        time.sleep(self.pause)
        return loaded

    def sample(self, candidate: Candidate, estimated: torch.Tensor) -> Prepared:
        brightness = float(estimated.mean())
        if brightness == 0:
            raise Rejected(Reason.IMAGE_TOO_SMALL, brightness, "black")
        noise = candidate.generator().integers(0, 255, (3, *estimated.shape[1:]), np.uint8)
        bokeh = (estimated * 255).round().to(torch.uint8)
        sample = Sample(candidate.key, self.name, candidate.split, torch.from_numpy(noise), bokeh)
        return Prepared(sample, {"k": brightness, "ssim": float("nan")})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    for number in range(26):
        blocks = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(blocks).save(root / f"p{number:02d}.png")
    Image.new("RGB", (32, 32)).save(root / "black.png")
    (root / "cut.png").write_bytes((root / "p00.png").read_bytes()[:60])
    (root / "old.raw").touch()
    return root


def run(images: Path, out: Path, **changes: Any) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {
        "route": Copied(),
        "source": Images(images),
        "splits": SPLITS,
        "gates": Gates({}),
        "leakage": NO_LEAKAGE,
        "seed": 5,
        "items_per_shard": 4,
        "progress": False,
    }
    arguments |= changes
    return prepare(arguments.pop("route"), arguments.pop("source"), out, **arguments)


@pytest.fixture(scope="module")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed preparation in one process leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(images, out) is not None
    return tree(out)


def test_everything_found_is_in_a_shard_or_in_the_ledger(images: Path, tmp_path: Path) -> None:
    summary = run(images, tmp_path)
    assert summary is not None
    assert summary["found"] == 29
    samples, ledger = (list(read_lines(tmp_path / f"{x}.jsonl")) for x in ("samples", "rejections"))
    assert len(samples) == 26
    assert {entry["name"]: entry["reason"] for entry in ledger} == {
        "old.raw": "format_unsupported",
        "black.png": "image_too_small",
        "cut.png": "image_damaged",
    }
    assert summary["rejected"] == {
        "format_unsupported": 1,
        "image_damaged": 1,
        "image_too_small": 1,
    }
    keys = []
    for split, share in SPLITS.items():
        dataset = ShardDataset(tmp_path / split)
        dataset.verify()
        assert len(dataset) == summary["written"][split] > 0, share
        keys += dataset.keys
        for number in range(len(dataset)):
            sample = dataset[number]
            source = (images / sample.provenance["source"]).read_bytes()
            digest = hashlib.sha256(source).hexdigest()
            assert sample.provenance["images"]["photo"]["sha256"] == digest
            assert sample.split == split == split_of(digest, SPLITS)
            assert sample.provenance["measures"]["ssim"] is None
    assert keys == [sample["key"] for sample in samples]
    assert set(summary["measured_only"]) >= {"k", "ssim"}


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


def test_gates_turn_away_and_are_on_record(images: Path, tmp_path: Path) -> None:
    summary = run(images, tmp_path, gates=Gates({"k": {"max": 0.5}}))
    assert summary is not None
    ledger = [x for x in read_lines(tmp_path / "rejections.jsonl") if x["reason"] == "gate_k"]
    assert ledger
    assert all(entry["value"] > 0.5 and entry["measures"]["k"] > 0.5 for entry in ledger)
    assert all(one["measures"]["k"] <= 0.5 for one in read_lines(tmp_path / "samples.jsonl"))
    assert "k" not in summary["measured_only"]
    with pytest.raises(ValueError, match=r"nothing of 29 found can be used.*gate_k"):
        run(images, tmp_path / "none", gates=Gates({"k": {"max": 0.0}}))


def test_copies_and_leaks(images: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    for path in sorted(images.glob("p*.png")):
        (again / path.name).write_bytes(path.read_bytes())
    (again / "q00.png").write_bytes((again / "p00.png").read_bytes())
    summary = run(again, tmp_path / "copies")
    assert summary is not None
    [entry] = read_lines(tmp_path / "copies/rejections.jsonl")
    assert (entry["name"], entry["reason"], entry["value"]) == ("q00.png", "duplicate", "p00.png")
    # A scene's name decides its split; another encoding of an image then lies in another split.
    names = [f"s{n}" for n in range(40)]
    digests = {n: hashlib.sha256(f"images/{n}".encode()).hexdigest() for n in names}
    train, test = (
        next(n for n in names if split_of(digests[n], SPLITS) == split)
        for split in ("train", "test")
    )
    with Image.open(again / "p05.png") as image:
        image.save(again / f"{train}-a.png")
        image.resize((64, 64)).save(again / f"{test}-b.png")
    with pytest.raises(ValueError, match=rf"{train}-a\.png.*{test}-b\.png"):
        run(again, tmp_path / "leaks", leakage=LeakageCheck((), 64, ()))
    assert not list((tmp_path / "leaks").rglob("*.tar"))
    held = tmp_path / "held_out"
    held.mkdir()
    (held / "benchmark.png").write_bytes((again / "p07.png").read_bytes())
    with pytest.raises(ValueError, match=r"p07\.png.*benchmark\.png"):
        run(images, tmp_path / "against", leakage=LeakageCheck((held,), 0, ()))
    excused = LeakageCheck((held,), 0, ("p07.png",))
    assert run(images, tmp_path / "against", leakage=excused) is not None


def test_what_cannot_be_compared_ends_the_command(images: Path, tmp_path: Path) -> None:
    """A leak behind odd EXIF is found; a damaged image of a benchmark is named."""
    held = tmp_path / "held"
    held.mkdir()
    exif = piexif.dump({"0th": {274: 6, 271: b"72 dpi 1"}})
    exif = exif.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02")  # XResolution as text
    with Image.open(images / "p07.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(held / "turned.png", exif=exif)
    against = LeakageCheck((held,), 8, ())
    with pytest.raises(ValueError, match=r"p07\.png.*turned\.png"):
        run(images, tmp_path / "leak", leakage=against)
    (held / "turned.png").unlink()
    (held / "cut.png").write_bytes((images / "p00.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"1 of 1 images .* cannot be compared: .*held/cut\.png"):
        run(images, tmp_path / "cut", leakage=against)


def test_colours_are_converted_and_provenance_says_so(tmp_path: Path) -> None:
    exif = piexif.dump({"Exif": {piexif.ExifIFD.ColorSpace: 2}})
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (16, 16), (90, 80, 70)).save(tmp_path / "b.png")
    assert run(tmp_path, tmp_path / "out", splits={"train": 1.0}) is not None
    dataset = ShardDataset(tmp_path / "out/train")
    samples = {dataset[n].provenance["source"]: dataset[n] for n in range(2)}
    # Adobe RGB 200 100 50 in sRGB, by its primaries and exponent.
    assert samples["a.png"].bokeh[:, 0, 0].tolist() == [227, 100, 42]
    photo = samples["a.png"].provenance["images"]["photo"]
    assert photo["colours"] == "converted to sRGB from Adobe RGB"
    assert samples["b.png"].bokeh[:, 0, 0].tolist() == [90, 80, 70]
    assert "colours" not in samples["b.png"].provenance["images"]["photo"]


def test_images_that_look_alike_are_one_scene(images: Path, tmp_path: Path) -> None:
    """Bursts: re-encoded images go to one split, and nothing else moves."""
    burst = tmp_path / "burst"
    burst.mkdir()
    for path in sorted(images.glob("p*.png")):
        (burst / path.name).write_bytes(path.read_bytes())
    for number in range(6):
        with Image.open(burst / f"p{number:02d}.png") as image:
            for quality in (90, 60, 40):
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=quality)
                Image.open(buffer).save(burst / f"p{number:02d}x{quality}.png")
    alone = run(images, tmp_path / "alone", leakage=ALIKE)
    summary = run(burst, tmp_path / "out", leakage=ALIKE)
    assert alone is not None and summary is not None
    splits = {x["name"]: x["split"] for x in read_lines(tmp_path / "out/samples.jsonl")}
    before = {x["name"]: x["split"] for x in read_lines(tmp_path / "alone/samples.jsonl")}
    for number in range(6):
        stem = f"p{number:02d}"
        assert len({split for name, split in splits.items() if name.startswith(stem)}) == 1
    assert len(set(splits.values())) == 3
    assert {name: splits[name] for name in before if int(name[1:3]) >= 6} == {
        name: split for name, split in before.items() if int(name[1:3]) >= 6
    }


def test_images_as_jpeg(images: Path, tmp_path: Path) -> None:
    assert run(images, tmp_path / "out", image_format="jpeg", limit=10) is not None
    dataset = ShardDataset(tmp_path / "out" / "train")
    assert {"aif.jpg", "bokeh.jpg"} < set(dataset.members(0))
    assert dataset[0].provenance["image_compression"]["quality"] == 95
    with pytest.raises(ValueError, match="image_format 'jpeg', now it is 'png'"):
        run(images, tmp_path / "out", limit=10)
    # Its bokeh, the photograph itself, is found again behind the loss.
    with pytest.raises(ValueError, match=r"\.bokeh\.jpg"):
        run(images, tmp_path / "against", leakage=LeakageCheck((tmp_path / "out",), 40, ()))


def test_a_limit_takes_the_same_items_each_time(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "ten", limit=10)
    run(images, tmp_path / "five", limit=5)
    ten, five = (
        {
            entry["name"]
            for name in ("samples", "rejections")
            for entry in read_lines(tmp_path / folder / f"{name}.jsonl")
            if entry["name"] != "old.raw"
        }
        for folder in ("ten", "five")
    )
    assert (len(ten), len(five)) == (10, 5)
    assert five < ten


def test_a_ledger_is_json_lines(whole: dict[str, bytes]) -> None:
    for line in whole["rejections.jsonl"].splitlines():
        assert {"name", "reason", "value", "detail", "split"} <= set(json.loads(line))
    assert not [name for name in whole if "parts" in name or name.endswith((".lock", ".part"))]
