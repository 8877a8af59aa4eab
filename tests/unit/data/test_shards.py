"""Shards: reproducible bytes, random access, readable by others, damage that is named."""

import json
import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import webdataset
from torch.utils.data import DataLoader
from wids import ShardListDataset

from genrefocus.data.sample import decode
from genrefocus.data.shards import ShardDataset, write_set
from tests.samples import noise_sample

PARAMETERS = {"seed": 1, "count": 7}


make_sample = partial(noise_sample, height=8, width=9)


def write(folder: Path, count: int = 7, start: int = 0) -> Path:
    write_numbers(folder, range(start, count))
    return folder


def write_numbers(folder: Path, numbers: Iterable[int]) -> None:
    samples = map(make_sample, numbers)
    write_set(folder, samples, parameters=PARAMETERS, samples_per_shard=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_random_access(tmp_path: Path) -> None:
    dataset = ShardDataset(write(tmp_path))
    assert len(dataset) == 7
    for number in (6, 0, 3, 2):
        sample, expected = dataset[number], make_sample(number)
        assert torch.equal(sample.aif, expected.aif)
        assert (dataset.keys[number], sample.provenance) == (expected.key, expected.provenance)
        assert dataset.metadata(number)["provenance"] == {"number": number}
    with pytest.raises(IndexError):
        dataset[7]


def test_equal_samples_make_equal_bytes(tmp_path: Path) -> None:
    assert contents(write(tmp_path / "a")) == contents(write(tmp_path / "b"))


def test_webdataset_and_wids_read_the_shards(tmp_path: Path, monkeypatch) -> None:
    dataset = ShardDataset(write(tmp_path / "set"))
    tars = [str(tmp_path / "set" / f"shard-{n:05d}.tar") for n in range(3)]
    streamed = list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in streamed] == dataset.keys
    assert torch.equal(decode(streamed[4]).bokeh, dataset[4].bokeh)
    monkeypatch.setenv("WIDS_CACHE", str(tmp_path / "cache"))
    indexed = ShardListDataset(str(tmp_path / "set/index.json"), transformations=[], keep=True)
    assert len(indexed) == 7
    members = {name.lstrip("."): data.read() for name, data in _members(indexed[5])}
    assert torch.equal(decode(members).bokeh, dataset[5].bokeh)


def _members(sample: dict) -> list:
    return [(name, data) for name, data in sample.items() if name.startswith(".")]


def test_workers_read_alike(tmp_path: Path) -> None:
    dataset = pickle.loads(pickle.dumps(ShardDataset(write(tmp_path))))
    read = [[s.key for s in DataLoader(dataset, None, num_workers=n)] for n in (0, 2)]
    assert read[0] == read[1] == dataset.keys


def test_a_finished_set_is_not_written_over(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="already holds a set"):
        write(tmp_path)


def test_an_error_leaves_no_index(tmp_path: Path) -> None:
    def interrupted() -> Iterator[int]:
        yield from range(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_numbers(tmp_path, interrupted())
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.tar"]
    with pytest.raises(FileNotFoundError, match="prepare the set first"):
        ShardDataset(tmp_path)


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    prints = [ShardDataset(write(tmp_path / str(count), count)).fingerprint for count in (6, 7)] + [
        ShardDataset(write(tmp_path / "again")).fingerprint
    ]
    assert prints[0] != prints[1] == prints[2]


def test_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made-001 occurs twice"):
        write_numbers(tmp_path, (0, 1, 1))


def test_truncated_and_missing_shards_are_named(tmp_path: Path) -> None:
    shard = write(tmp_path) / "shard-00001.tar"
    shard.write_bytes(shard.read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"shard-00001\.tar has 4000 bytes.*prepare it again"):
        ShardDataset(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.tar is missing"):
        ShardDataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ShardDataset(tmp_path / "nowhere")


def test_corruption_is_named(tmp_path: Path) -> None:
    dataset = ShardDataset(write(tmp_path))
    dataset.verify()
    shard = tmp_path / "shard-00001.tar"
    original = shard.read_bytes()
    for at in (100, original.index(b"IDAT") + 20):  # in a header, in an image
        shard.write_bytes(original[:at] + bytes(60) + original[at + 60 :])
        with pytest.raises(ValueError, match=r"shard-00001\.tar.*sha256"):
            dataset.verify()
        with pytest.raises(ValueError, match=r"shard-00001\.tar, sample made-003"):
            [dataset[n] for n in range(3, 6)]


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (0, "genrefocus prepare route="),
        (2, "a newer genrefocus wrote it; update this one"),
        (None, "prepare the data again"),
    ],
)
def test_another_schema_version_is_refused(tmp_path: Path, version, remedy: str) -> None:
    index = write(tmp_path) / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "schema_version": version}))
    with pytest.raises(ValueError, match=rf"index\.json has schema version {version}.*{remedy}"):
        ShardDataset(tmp_path)
