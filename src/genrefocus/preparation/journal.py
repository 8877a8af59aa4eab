"""Parts of a preparation while they are made: batches, shards, records.

::

    <out>/.parts/train-00000/000032.json      what became of a batch, written when it is done
    <out>/.parts/train-00000/000032.samples   its samples, a small shard
    <out>/train/shard-00000.tar               all of them, written when the last batch is done
    <out>/.parts/train-00000/record.json      what became of the part; the batches are removed

Every file takes its name when it is whole, so a process goes on behind what it finds.
"""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrefocus.data.processes import OrderedMap
from genrefocus.data.shards import read_shard, shard_name, write_shard
from genrefocus.preparation.shard_plan import Candidate, Part
from genrefocus.writing import write_atomically

PARTS_NAME = ".parts"
_RECORD_NAME = "record.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate, ready to be written.

    Attributes:
        samples: key -> encoded sample; empty where the candidate was turned away.
        record: plain JSON data for the lists of samples and rejections.
    """

    samples: Mapping[str, Mapping[str, bytes]]
    record: dict[str, Any]


@dataclass(frozen=True)
class CandidateBatch:
    """Candidates that are made together.

    Attributes:
        candidates: of the batch.
        record: file that says what became of them; its folder is that of the part.
        shard: of the part.
        is_last: whether the part is done with them.
    """

    candidates: tuple[Candidate, ...]
    record: Path
    shard: Path
    is_last: bool


def make_parts(
    parts: Sequence[Part],
    make: Callable[[Sequence[Candidate]], list[Outcome]],
    *,
    batch_size: int,
    out: Path,
    mapper: OrderedMap,
    advance: Callable[[int, int, Mapping[str, int]], None],
) -> None:
    """Make the parts that have no record and that no other process is making.

    Args:
        parts: of this job.
        make: the outcomes of some candidates.
        batch_size: candidates of a batch, what an interruption costs.
        out: folder of the sets.
        mapper: runs ``make``.
        advance: called with (candidates that are done, all of them, outcomes here by kind).
    """
    total = sum(len(part.candidates) for part in parts)
    waiting = [part for part in parts if not record_path(out, part).is_file()]
    done = total - sum(len(part.candidates) for part in waiting)
    counts: Counter[str] = Counter()
    locks: dict[Path, FileLock] = {}
    advance(done, total, counts)
    try:
        batches = _batches(waiting, batch_size, out, locks)
        for batch, records in mapper(functools.partial(_make_batch, make), batches):
            done += len(records)
            counts.update("rejected" if "reason" in one else "kept" for one in records)
            advance(done, total, counts)
            if batch.is_last:
                _join(batch.record.parent, batch.shard)
                locks.pop(batch.record.parent).release()
    finally:
        for lock in locks.values():
            lock.release()


def record_path(out: Path, part: Part) -> Path:
    """Of a part that is done."""
    return out / PARTS_NAME / f"{part.split}-{part.number:05d}" / _RECORD_NAME


def is_begun(out: Path) -> bool:
    """Whether a batch or a part has a record."""
    return any((out / PARTS_NAME).glob("*/*.json"))


def json_line(content: Mapping[str, Any]) -> bytes:
    """One entry of a list in a file."""
    return json.dumps(content, sort_keys=True, default=str).encode() + b"\n"


def _batches(
    parts: Sequence[Part], batch_size: int, out: Path, locks: dict[Path, FileLock]
) -> Iterator[CandidateBatch]:
    """Batches of the parts in order; a part that another process holds is left to it."""
    for part in parts:
        record = record_path(out, part)
        record.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(record.parent.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if record.is_file():
            lock.release()
            continue
        locks[record.parent] = lock
        shard = out / part.split / shard_name(part.number)
        for first in range(0, len(part.candidates), batch_size):
            after = first + batch_size
            own, path = part.candidates[first:after], record.with_name(f"{first:06d}.json")
            yield CandidateBatch(own, path, shard, after >= len(part.candidates))


def _make_batch(
    make: Callable[[Sequence[Candidate]], list[Outcome]], batch: CandidateBatch
) -> tuple[CandidateBatch, list[dict[str, Any]]]:
    """The records of a batch, from its file where it is there already."""
    if batch.record.is_file():
        return batch, json.loads(batch.record.read_bytes())["records"]
    outcomes = make(batch.candidates)
    records = [one.record for one in outcomes]
    samples = [one for outcome in outcomes for one in outcome.samples.items()]
    entry = write_shard(batch.record.with_suffix(".samples"), samples) if samples else None
    write_atomically(batch.record, json_line({"entry": entry, "records": records}))
    return batch, records


def _join(folder: Path, shard: Path) -> None:
    """Write the shard of a part whose batches are all there, then its record."""
    paths = sorted(folder.glob("*.json"))
    batches = [json.loads(path.read_bytes()) for path in paths]
    full = [
        (path.with_suffix(".samples"), batch["entry"])
        for path, batch in zip(paths, batches, strict=True)
        if batch["entry"] is not None
    ]
    entry = None
    if full:
        shard.parent.mkdir(exist_ok=True)
        here = folder / shard.name  # what a kill leaves of it is removed with the folder
        entry = write_shard(here, itertools.chain.from_iterable(read_shard(*one) for one in full))
        here.replace(shard)
    records = [one for batch in batches for one in batch["records"]]
    write_atomically(folder / _RECORD_NAME, json_line({"entry": entry, "records": records}))
    for path in paths:
        path.unlink()
        path.with_suffix(".samples").unlink(missing_ok=True)
