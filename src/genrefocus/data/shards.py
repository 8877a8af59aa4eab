"""Sets of samples as WebDataset tars with an index: written reproducibly, read at random.

A set is a folder of ``shard-00000.tar`` ... and ``index.json``, which appears last and so marks
the set as finished. The tars can be read by ``webdataset`` and the index by ``wids``. Equal samples
give equal bytes: tar headers carry no time, no owner. The index holds where in its tar every
sample starts, so that a read is one ``pread`` and a parse of that slice; ``wids`` itself would
walk all headers of a shard in every worker, and would pass over a truncated shard in silence.
"""

import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from genrefocus.data.sample import (
    SCHEMA_VERSION,
    Sample,
    decode,
    decode_metadata,
    encode,
    require_schema,
)
from genrefocus.writing import whole, write_atomically

INDEX_NAME = "index.json"

Encoded = tuple[str, Mapping[str, bytes]]
"""Key of a sample, and extension -> bytes."""

_BLOCK = tarfile.BLOCKSIZE


def write_set(
    folder: str | Path,
    samples: Iterable[Sample | Encoded],
    *,
    parameters: Mapping[str, Any],
    samples_per_shard: int = 1000,
) -> None:
    """Write a set of samples that are there already.

    What must be computed and may be interrupted goes through ``preparation``.

    Args:
        folder: of the set, created where missing.
        samples: some of them may be encoded already, as key and members.
        parameters: plain JSON data that determines the samples; kept in the index.
        samples_per_shard: > 0.

    Raises:
        ValueError: the folder holds a finished set, or a key occurs twice.
    """
    folder = Path(folder)
    if (folder / INDEX_NAME).is_file():
        raise ValueError(f"{folder} already holds a set; delete it to make it anew")
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Any]] = []
    keys: set[str] = set()
    encoded = ((one.key, encode(one)) if isinstance(one, Sample) else one for one in samples)
    while some := list(itertools.islice(encoded, samples_per_shard)):
        for key, _ in some:
            if key in keys:
                raise ValueError(f"{folder}: sample key {key} occurs twice; keys must be unique")
            keys.add(key)
        shards.append(write_shard(folder / shard_name(len(shards)), some))
    write_index(folder, index_head(parameters, samples_per_shard), shards)


def write_shard(path: Path, samples: Iterable[Encoded]) -> dict[str, Any]:
    """Write encoded samples, one or more, to a tar; returns its entry for the index."""
    keys, offsets, edges = [], [], []
    with whole(path) as temporary:
        with tarfile.TarFile(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in samples:
                meta = json.loads(members["json"])
                keys.append(key)
                offsets.append(tar.offset)
                edges.append(min(meta["height"], meta["width"]))
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"{key}.{extension}")  # time and owner are 0
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
            offsets.append(tar.offset)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "url": path.name,
        "nsamples": len(keys),
        "filesize": path.stat().st_size,
        "sha256": digest,
        "keys": keys,
        "offsets": offsets,
        "least_edge": min(edges),
    }


def read_shard(path: Path, entry: Mapping[str, Any]) -> Iterator[Encoded]:
    """The samples of a shard, in order, as :func:`write_shard` took them."""
    for key, (start, stop) in zip(entry["keys"], itertools.pairwise(entry["offsets"]), strict=True):
        yield key, _read_members(path, key, start, stop)


class ShardDataset:
    """Random access to a finished set; every read opens its file, so that it can be forked.

    Args:
        folder: of the set.

    Raises:
        FileNotFoundError: no set, or an unfinished one.
        ValueError: another schema version, a shard that is missing or of another size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        self.fingerprint: str = index["fingerprint"]
        self.parameters: dict[str, Any] = index["parameters"]
        self._shards: list[dict[str, Any]] = index["shardlist"]
        self._ends = np.cumsum([0, *(shard["nsamples"] for shard in self._shards)])
        for shard in self._shards:
            _require_size(self.folder / shard["url"], shard["filesize"])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def least_edge(self) -> int:
        """Shortest edge of any sample in px; 0 without samples."""
        return min((int(shard["least_edge"]) for shard in self._shards), default=0)

    @property
    def keys(self) -> list[str]:
        """Keys of all samples, in order."""
        return [key for shard in self._shards for key in shard["keys"]]

    def __getitem__(self, index: int) -> Sample:
        """The sample at ``index``.

        Raises:
            IndexError: outside 0 .. len - 1.
            ValueError: the sample is damaged; the message names shard and key.
        """
        with self._place(index) as place:
            return decode(_read_members(*place))

    def members(self, index: int) -> dict[str, bytes]:
        """The encoded sample at ``index``, extension -> bytes; errors as for the sample."""
        with self._place(index) as place:
            return _read_members(*place)

    def metadata(self, index: int) -> dict[str, Any]:
        """The JSON member of a sample, read without its images; errors as for the sample."""
        with self._place(index) as (path, key, start, _):
            header = _pread(path, start, _BLOCK)
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            if _extension(info.name, key) != "json":
                raise ValueError(f"expected the metadata first, found {info.name}")
            return decode_metadata(_pread(path, start + _BLOCK, info.size))

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a sample in px, read without its images; errors as for the sample."""
        found = self.metadata(index)
        return found["height"], found["width"]

    def verify(self) -> None:
        """Compare every shard with its checksum in the index.

        Raises:
            ValueError: a shard differs.
        """
        for shard in self._shards:
            path = self.folder / shard["url"]
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != shard["sha256"]:
                raise ValueError(
                    f"shard {path} has sha256 {digest}, its index says {shard['sha256']}; "
                    f"copy it again, or delete {self.folder} and prepare it again"
                )

    @contextmanager
    def _place(self, index: int) -> Iterator[tuple[Path, str, int, int]]:
        """Shard, key, begin and end of a sample; an error about what lies there names it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {self.folder}, which has {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right")) - 1
        shard, inner = self._shards[number], index - int(self._ends[number])
        path, key = self.folder / shard["url"], shard["keys"][inner]
        try:
            yield path, key, shard["offsets"][inner], shard["offsets"][inner + 1]
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(
                f"shard {path}, sample {key}: {error}; if the shard is damaged, copy it again or "
                f"delete {self.folder} and prepare it again"
            ) from error


def require_crop(dataset: ShardDataset, crop: int) -> None:
    """
    Raises:
        ValueError: samples are smaller than the crop (px), which is found before training.
    """
    if len(dataset) and dataset.least_edge < crop:
        raise ValueError(
            f"{dataset.folder} has samples whose shorter edge is {dataset.least_edge} px, below "
            f"the crop of {crop}; set data.crop={dataset.least_edge // 16 * 16}, or prepare them "
            f"again with route.least_edge={crop}"
        )


def shard_name(number: int) -> str:
    """File name of the ``number``-th shard of a set."""
    return f"shard-{number:05d}.tar"


def write_index(folder: Path, head: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    """Write the index of a set, which marks it as finished.

    Args:
        folder: of the set.
        head: from :func:`index_head`.
        shards: entries as :func:`write_shard` returns them, in the order of the samples.
    """
    content = _json([SCHEMA_VERSION, *(shard["sha256"] for shard in shards)])
    index = {
        **head,
        "fingerprint": hashlib.sha256(content).hexdigest(),
        "samples": sum(shard["nsamples"] for shard in shards),
        "shardlist": list(shards),
    }
    write_atomically(folder / INDEX_NAME, _json(index))


def index_head(parameters: Mapping[str, Any], samples_per_shard: int) -> dict[str, Any]:
    """What an index says besides its shards; ``parameters`` determine the samples."""
    return {
        "wids_version": 1,
        "schema_version": SCHEMA_VERSION,
        "samples_per_shard": samples_per_shard,
        "parameters": json.loads(json.dumps(parameters)),
    }


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a finished set.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, or is of another schema version.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no {INDEX_NAME} in {folder}, which holds {_listing(folder)}; prepare the set first"
        )
    index = _read_json(path)
    require_schema(index.get("schema_version"), str(path))
    return index


def require_same(
    folder: Path,
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    other: str = "choose another",
) -> None:
    """Compare the record of a set with what is asked for now; keys that are not asked for pass.

    Args:
        folder: of the set.
        found: its record.
        expected: what is asked for now.
        other: how another folder is named, for the message.

    Raises:
        ValueError: the first difference, and the folder to delete.
    """
    for name, value in expected.items():
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            require_same(folder, found[name], value, other)
        elif found.get(name) != value:
            raise ValueError(
                f"{folder} holds a set made with {name} {found.get(name)!r}, now it is {value!r}; "
                f"delete that folder or {other}"
            )


def _require_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise ValueError(
            f"shard {path} is missing; copy it again, or delete {path.parent} and prepare it again"
        )
    size = path.stat().st_size
    if size != expected:
        raise ValueError(
            f"shard {path} has {size} bytes, its index says {expected}: it is truncated or was "
            f"replaced; copy it again, or delete {path.parent} and prepare it again"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is no index ({error}); delete {path.parent} and prepare it again"
        ) from error


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, allow_nan=False).encode() + b"\n"


def _pread(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, offset)


def _read_members(path: Path, key: str, start: int, stop: int) -> dict[str, bytes]:
    data = _pread(path, start, stop - start)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = ((_extension(info.name, key), tar.extractfile(info)) for info in tar)
        return {name: file.read() if file else b"" for name, file in members}


def _extension(name: str, key: str) -> str:
    stem, _, extension = name.partition(".")
    if stem != key:
        raise ValueError(f"found member {name} in its place")
    return extension


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "nothing (the folder does not exist)"
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") or "nothing"
