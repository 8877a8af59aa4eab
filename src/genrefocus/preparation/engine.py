"""Candidates to shards: resumable, in any number of processes and jobs, nothing lost.

A preparation is divided into parts, one a shard, and each part is a pure function of the source and
the settings. A part that is done leaves its shard and, after it, a record; what else an interrupted
process leaves is made again. The job that finds all records writes the indices, the ledger and the
summary, so that the outcome does not depend on how many jobs there were, or on where one was
killed.

::

    <out>/<split>/shard-00000.tar ... index.json    sets of shards
    <out>/samples.jsonl       key, split and measures of every sample
    <out>/rejections.jsonl    name, split, reason, value and detail of everything turned away
    <out>/summary.json        counts and settings; written last
    <out>/.parts/             records and fingerprints; removed at the end
"""

import functools
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from rich.progress import TaskID

from genrefocus import __version__
from genrefocus.data.processes import OrderedMap, ordered_map
from genrefocus.data.sample import SPLITS, PictureFormat, Sample, encode
from genrefocus.data.shards import (
    ShardFile,
    index_head,
    require_same,
    shard_name,
    write_index,
)
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import Source
from genrefocus.preparation.outcome import LEDGER_NAME, SAMPLES_NAME, SUMMARY_NAME, read_summary
from genrefocus.preparation.plan import Candidate, LeakageCheck, Part, Plan, facts_of, make_plan
from genrefocus.progress import Bars
from genrefocus.rejection import Rejected
from genrefocus.writing import write_atomically, write_json

PARTS_NAME = ".parts"


@dataclass(frozen=True)
class Made:
    """A sample and what was measured on the way, as numbers by name."""

    sample: Sample
    measures: Mapping[str, float]


class Route(Protocol):
    """How samples are made of items."""

    @property
    def name(self) -> str:
        """Route of the samples, one of ``data.sample.ROUTES``."""

    @property
    def roles(self) -> frozenset[str]:
        """Roles of pictures that it needs."""

    @property
    def batch_size(self) -> int:
        """Candidates at a time."""

    @property
    def in_process(self) -> bool:
        """Whether it holds a network, which worker processes would each copy."""

    def parameters(self) -> dict[str, Any]:
        """Plain JSON data that determines the samples, estimators and renderer by name."""

    def make(self, batch: Sequence[Candidate]) -> list[Made | Rejected]:
        """A sample, or why there is none, for each candidate, in order.

        Raises:
            OSError: a file cannot be read, which is an error and no reason to leave a sample out.
        """


@dataclass(frozen=True)
class _Encoded:
    """What becomes of one candidate, ready to be written."""

    members: dict[str, bytes] | None
    record: dict[str, Any]


def prepare(
    route: Route,
    source: Source,
    out: str | Path,
    *,
    splits: Mapping[str, float],
    gates: Gates,
    leakage: LeakageCheck,
    seed: int,
    items_per_shard: int,
    picture_format: PictureFormat = "png",
    limit: int | None = None,
    job: int = 0,
    jobs: int = 1,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Make sets of shards of a source.

    Killed at any moment and started again, it ends at the same bytes. Where all is done, it
    returns what is there.

    Args:
        route, source: what is made, and of what.
        out: folder of the sets.
        splits: split -> share of the scenes, for items that have no split of their own.
        gates: measures outside of them turn a sample away.
        leakage: what the pictures are compared with.
        seed: of everything random.
        items_per_shard: candidates that make a shard, > 0.
        picture_format: of the samples' colour pictures, see ``data.sample.encode``.
        limit: of items, for a trial; None takes all.
        job, jobs: this is job number ``job`` of ``jobs``, which divide the shards among them.
        workers: processes; 0 works in this one, as routes with networks always do.
        progress: show bars with the time that is left on stderr.

    Returns:
        The summary, or None where shards of other jobs are still missing.

    Raises:
        ValueError: wrong settings, pictures that leak, a folder that holds something else, or
            nothing at all that can be used.
        OSError: the disk is full, or a file cannot be read; what is there stays as it is.
    """
    if items_per_shard < 1:
        raise ValueError(f"items_per_shard is {items_per_shard}; give 1 or more")
    if not 0 <= job < jobs:
        raise ValueError(f"job {job} of {jobs}: jobs are numbered 0 to {jobs - 1}")
    missing = route.roles - source.roles
    if missing:
        raise ValueError(
            f"route {route.name} needs pictures of role {', '.join(sorted(missing))}, source "
            f"{source.name} has {', '.join(sorted(source.roles)) or 'none'}; choose another source"
        )
    out = Path(out)
    work = out / PARTS_NAME
    work.mkdir(parents=True, exist_ok=True)
    processes = nullcontext(map) if route.in_process else ordered_map(workers)
    with processes as mapper, _Progress(progress) as bar:
        plan = make_plan(
            source,
            folder=work,
            splits=splits,
            seed=seed,
            items_per_shard=items_per_shard,
            limit=limit,
            leakage=leakage,
            mapper=mapper,
            advance=bar.advance,
        )
        settings = {
            "route": route.name,
            "source": source.name,
            "settings": route.parameters(),
            "gates": gates.as_mapping(),
            "seed": seed,
            "picture_format": picture_format,
            "listing": plan.listing,
            "code_version": __version__,
        }
        head = index_head(settings, items_per_shard)
        if _is_finished(out, head):
            shutil.rmtree(work)
            return read_summary(out)
        _begin(work, head)
        title = f"{route.name}, job {job} of {jobs}" if jobs > 1 else route.name
        make = functools.partial(_run, route, gates, picture_format)
        _make_parts(route, make, plan.parts[job::jobs], out, mapper, title, bar)
    return _conclude(plan, gates, head, out, splits)


class _Progress:
    """Bars on stderr: one for each thing that is counted."""

    def __init__(self, visible: bool) -> None:
        self._bar = Bars(visible)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, title: str, done: int, total: int, note: str = "") -> None:
        if title not in self._tasks:
            self._tasks[title] = self._bar.add_task(title, total=total, note="")
        self._bar.update(self._tasks[title], completed=done, total=total, note=note)


@dataclass(frozen=True)
class _Task:
    """A batch of a part; ``is_last`` ends the part."""

    split: str
    number: int
    candidates: tuple[Candidate, ...]
    is_last: bool


def _make_parts(
    route: Route,
    make: Callable[[_Task], tuple[_Task, list[_Encoded]]],
    parts: Sequence[Part],
    out: Path,
    mapper: OrderedMap,
    title: str,
    bar: _Progress,
) -> None:
    """Make the parts that have no record and that no other process is making."""
    work = out / PARTS_NAME
    total = sum(len(part.candidates) for part in parts)
    waiting = [part for part in parts if not _record_path(work, part).is_file()]
    done = total - sum(len(part.candidates) for part in waiting)
    counts: Counter[str] = Counter()
    locks: dict[Path, FileLock] = {}
    shard: ShardFile | None = None
    records: list[dict[str, Any]] = []
    bar.advance(title, done, total)
    tasks = _tasks(waiting, route.batch_size, work, locks)
    try:
        for task, outcomes in mapper(make, tasks):
            for one in outcomes:
                if one.members is not None:
                    shard = shard or ShardFile(out / task.split / shard_name(task.number))
                    shard.add(one.record["key"], one.members)
                records.append(one.record)
                counts["rejected" if "reason" in one.record else "kept"] += 1
            done += len(outcomes)
            bar.advance(title, done, total, _counts(counts))
            if task.is_last:
                entry = None if shard is None else shard.finish()
                shard = None
                record = {"entry": entry, "records": records}
                path = _record_path(work, task)
                write_atomically(path, _line(record))
                records = []
                locks.pop(path).release()
    except BaseException:
        if shard is not None:
            shard.discard()
        raise
    finally:
        for lock in locks.values():
            lock.release()


def _tasks(
    parts: Sequence[Part], batch_size: int, work: Path, locks: dict[Path, FileLock]
) -> Iterator[_Task]:
    """Batches of the parts in order; a part that another process holds is left to it."""
    for part in parts:
        path = _record_path(work, part)
        lock = FileLock(path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        if path.is_file():
            lock.release()
            continue
        locks[path] = lock
        count = len(part.candidates)
        for first in range(0, count, batch_size):
            batch = part.candidates[first : first + batch_size]
            yield _Task(part.split, part.number, batch, first + batch_size >= count)


def _run(
    route: Route, gates: Gates, picture_format: PictureFormat, task: _Task
) -> tuple[_Task, list[_Encoded]]:
    """Make a batch, and turn away what the gates do not let pass."""
    outcomes = route.make(task.candidates)
    pairs = zip(task.candidates, outcomes, strict=True)
    return task, [_encoded(route, gates, picture_format, *pair) for pair in pairs]


def _encoded(
    route: Route,
    gates: Gates,
    picture_format: PictureFormat,
    candidate: Candidate,
    outcome: Made | Rejected,
) -> _Encoded:
    record: dict[str, Any] = {
        "key": candidate.key,
        "name": candidate.item.name,
        "split": candidate.split,
    }
    measures: dict[str, float | None] = {}
    if isinstance(outcome, Made):
        measures = {name: _finite(value) for name, value in sorted(outcome.measures.items())}
        record["measures"] = measures
        try:
            gates.check(outcome.measures)
        except Rejected as rejected:
            outcome = rejected
    if isinstance(outcome, Rejected):
        return _Encoded(None, record | _explained(outcome))
    provenance = {
        **facts_of(candidate),
        **route.parameters(),
        **outcome.sample.provenance,
        "measures": measures,
        "code_version": __version__,
    }
    sample = replace(outcome.sample, provenance=provenance)
    return _Encoded(encode(sample, picture_format), record)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _explained(rejected: Rejected) -> dict[str, Any]:
    return {
        "reason": rejected.reason.value,
        "value": rejected.value,
        "detail": rejected.detail,
    }


def _record_path(work: Path, part: Part | _Task) -> Path:
    return work / f"{part.split}-{part.number:05d}.json"


def _is_finished(out: Path, head: Mapping[str, Any]) -> bool:
    if not (out / SUMMARY_NAME).is_file():
        return False
    require_same(out, read_summary(out)["set"], head)
    return True


def _begin(work: Path, head: Mapping[str, Any]) -> None:
    """Record the settings, or compare them with those that the folder was begun with."""
    path = work / "settings.json"
    begun = any(work.glob("*-[0-9][0-9][0-9][0-9][0-9].json"))
    if path.is_file() and begun:
        require_same(work.parent, json.loads(path.read_bytes()), head)
    elif not path.is_file() and any(work.parent.glob(f"*/{shard_name(0)}")):
        raise ValueError(f"{work.parent} holds shards of something else; choose another folder")
    else:
        write_atomically(path, _line(head))


def _conclude(
    plan: Plan, gates: Gates, head: Mapping[str, Any], out: Path, splits: Collection[str]
) -> dict[str, Any] | None:
    """Write indices, ledger and summary where all parts are done."""
    work = out / PARTS_NAME
    try:
        with FileLock(work / "conclude.lock"):
            paths = [_record_path(work, part) for part in plan.parts]
            if not all(path.is_file() for path in paths):
                return None
            done = [json.loads(path.read_bytes()) for path in paths]
            summary = _write_outcome(plan, gates, head, out, splits, done)
            shutil.rmtree(work)
            return summary
    except FileNotFoundError:
        if not _is_finished(out, head):
            raise
        return read_summary(out)  # another job has just concluded and removed the records


def _write_outcome(
    plan: Plan,
    gates: Gates,
    head: Mapping[str, Any],
    out: Path,
    splits: Collection[str],
    done: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    records = [record for one in done for record in one["records"]]
    listed = [
        {"name": one.name, "split": one.split, **_explained(one.rejected)} for one in plan.turned
    ]
    away = listed + [record for record in records if "reason" in record]
    samples = [record for record in records if "reason" not in record]
    write_atomically(out / LEDGER_NAME, b"".join(map(_line, away)))
    reasons = Counter(record["reason"] for record in away)
    if not samples:
        examples = {record["reason"]: f"{record['name']}: {record['detail']}" for record in away}
        shown = "; ".join(f"{reason}: {example}" for reason, example in sorted(examples.items()))
        raise ValueError(
            f"nothing of {len(away)} found can be used; rejected {_counts(reasons)} ({shown}); "
            f"all are in {out / LEDGER_NAME}; name another source, or other estimators"
        )
    write_atomically(out / SAMPLES_NAME, b"".join(map(_line, samples)))
    measured = {name for record in samples for name in record["measures"]}
    entries: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for part, one in zip(plan.parts, done, strict=True):
        if one["entry"] is not None:
            entries[part.split].append(one["entry"])
    for split, shards in entries.items():
        if shards or split in splits:
            (out / split).mkdir(parents=True, exist_ok=True)
            own = {**head, "parameters": {**head["parameters"], "split": split}}
            write_index(out / split, own, shards)
    summary = {
        "found": len(records) + len(listed),
        "written": {split: sum(e["nsamples"] for e in entries[split]) for split in SPLITS},
        "rejected": dict(sorted(reasons.items())),
        "measured_only": [name for name in gates.unset() if name in measured],
        "set": head,
    }
    write_json(out / SUMMARY_NAME, summary)
    return summary


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, default=str).encode() + b"\n"


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"
