"""Parts of a preparation while they are made: locks, journals, shards, records.

A part that is done has its shard and, after it, a record. While it is made, its shard has another
name, and a journal says which candidates are in it or were turned away. A process that finds a
journal goes on behind its last line.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrefocus.data.processes import OrderedMap
from genrefocus.data.shard_file import ShardFile, Written
from genrefocus.data.shards import shard_name
from genrefocus.preparation.shard_plan import Candidate, Part
from genrefocus.writing import whole_lines, write_atomically

PARTS_NAME = ".parts"


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
class Task:
    """A batch of a part; ``is_last`` ends the part."""

    part: tuple[str, int]
    candidates: tuple[Candidate, ...]
    is_last: bool


def make_parts(
    parts: Sequence[Part],
    make: Callable[[Task], tuple[Task, list[Outcome]]],
    *,
    batch_size: int,
    out: Path,
    mapper: OrderedMap,
    advance: Callable[[int, int, Mapping[str, int]], None],
) -> None:
    """Make the parts that have no record and that no other process is making.

    Args:
        parts: of this job.
        make: the outcomes of a task.
        batch_size: candidates of a task.
        out: folder of the sets.
        mapper: runs ``make``.
        advance: is told of (candidates that are done, all of them, outcomes made here by kind).
    """
    total = sum(len(part.candidates) for part in parts)
    waiting = [part for part in parts if not record_path(out, part).is_file()]
    finished = total - sum(len(part.candidates) for part in waiting)
    counts: Counter[str] = Counter()
    opened: dict[tuple[str, int], _OpenPart] = {}
    advance(finished, total, counts)
    try:
        for task, outcomes in mapper(make, _tasks(waiting, batch_size, out, opened)):
            part = opened[task.part]
            part.add(outcomes)
            counts.update("kept" if one.samples else "rejected" for one in outcomes)
            advance(finished + len(part.records), total, counts)
            if task.is_last:
                finished += len(part.records)
                opened.pop(task.part).finish()
    finally:
        for part in opened.values():
            part.close()


def record_path(out: Path, part: Part) -> Path:
    """Of a part that is done."""
    return out / PARTS_NAME / f"{part.split}-{part.number:05d}.json"


def is_begun(out: Path) -> bool:
    """Whether a part has a record or a journal."""
    return any((out / PARTS_NAME).glob("*-[0-9][0-9][0-9][0-9][0-9].json*"))


def json_line(content: Mapping[str, Any]) -> bytes:
    """One entry of a list in a file."""
    return json.dumps(content, sort_keys=True, default=str).encode() + b"\n"


class _OpenPart:
    """A part that this process makes, from where its journal ends.

    A line of the journal has the records of a batch, its samples in the shard, and where the shard
    ends; it is written when the shard is on disk so far.

    Attributes:
        records: of all candidates that are done, in order.
    """

    def __init__(self, part: Part, out: Path, lock: FileLock) -> None:
        self._lock = lock
        self._record = record_path(out, part)
        self._shard_path = out / part.split / shard_name(part.number)
        self._shard: ShardFile | None = None
        path = self._record.with_suffix(".jsonl")
        notes = [json.loads(line) for line in whole_lines(path)]
        written: list[Written] = [tuple(one) for note in notes for one in note["written"]]
        if written:
            try:
                self._shard = ShardFile(self._shard_path, written, notes[-1]["end"])
            except ValueError:  # somebody removed the shard: the part is made again
                notes = []
                path.unlink()
        self.records: list[dict[str, Any]] = [one for note in notes for one in note["records"]]
        self._journal = path.open("ab")

    def add(self, outcomes: Sequence[Outcome]) -> None:
        samples = [one for outcome in outcomes for one in outcome.samples.items()]
        for key, members in samples:
            self._shard = self._shard or ShardFile(self._shard_path)
            self._shard.add(key, members)
        written, end = self._shard.sync() if self._shard else ([], 0)
        new = [one.record for one in outcomes]
        note = {"records": new, "written": written[len(written) - len(samples) :], "end": end}
        self._journal.write(json_line(note))
        self._journal.flush()
        self.records += new

    def finish(self) -> None:
        entry = None if self._shard is None else self._shard.finish()
        write_atomically(self._record, json_line({"entry": entry, "records": self.records}))
        self._shard = None
        self.close()

    def close(self) -> None:
        if self._shard is not None:
            self._shard.close()
        self._journal.close()
        self._lock.release()


def _tasks(
    parts: Sequence[Part], batch_size: int, out: Path, opened: dict[tuple[str, int], _OpenPart]
) -> Iterator[Task]:
    """Batches of the parts in order; a part that another process holds is left to it."""
    for part in parts:
        path = record_path(out, part)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if path.is_file():
            lock.release()
            continue
        one = _OpenPart(part, out, lock)
        count = len(part.candidates)
        if len(one.records) == count:
            one.finish()
            continue
        opened[part.split, part.number] = one
        for first in range(len(one.records), count, batch_size):
            batch = part.candidates[first : first + batch_size]
            yield Task((part.split, part.number), batch, first + batch_size >= count)
