"""Candidates to shards: resumable, in any number of processes and jobs, nothing lost.

A preparation is divided into parts, one a shard, and each part is a pure function of the source and
the settings. A part that is done leaves its shard and, after it, a record; one that was interrupted
goes on behind its last batch (see ``journal``). The job that finds all records writes the indices,
the ledger and the summary, so that the outcome does not depend on how many jobs there were, or on
where one was killed.

::

    <out>/<split>/shard-00000.tar ... index.json    sets of shards
    <out>/samples.jsonl       key, split and measures of every sample
    <out>/rejections.jsonl    name, split, reason, value and detail of everything turned away
    <out>/summary.json        counts and settings; written last
    <out>/.parts/             batches, records and fingerprints; removed at the end
"""

import functools
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock
from rich.progress import TaskID

from genrefocus import __version__
from genrefocus.data.processes import ordered_map
from genrefocus.data.sample import SPLITS, ImageFormat, encode
from genrefocus.data.shards import index_head, require_same, shard_name, write_index
from genrefocus.preparation.fingerprints import ReadingCache
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import Source
from genrefocus.preparation.journal import (
    PARTS_NAME,
    Outcome,
    is_begun,
    json_line,
    make_parts,
    record_path,
)
from genrefocus.preparation.ledger import (
    LEDGER_NAME,
    SAMPLES_NAME,
    SUMMARY_NAME,
    read_summary,
    rejection,
)
from genrefocus.preparation.route import Prepared, Route
from genrefocus.preparation.shard_plan import Candidate, LeakageCheck, ShardPlan, plan_shards
from genrefocus.rejection import Rejected
from genrefocus.terminal import Bars
from genrefocus.writing import write_atomically, write_json

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.9, "val": 0.05, "test": 0.05}


def prepare(
    route: Route,
    source: Source,
    out: str | Path,
    *,
    seed: int,
    items_per_shard: int,
    splits: Mapping[str, float] = DEFAULT_SPLITS,
    gates: Gates | None = None,
    leakage: LeakageCheck | None = None,
    image_format: ImageFormat = "png",
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
        seed: of everything random.
        items_per_shard: candidates that make a shard, > 0.
        splits: split -> share of the scenes, for items that have no split of their own.
        gates: a sample with a measure outside of them is rejected; None rejects none.
        leakage: what the images are compared with; None compares the splits with each other.
        image_format: of the samples' colour images, see ``data.sample.encode``.
        limit: of items, for a trial; None takes all.
        job, jobs: this is job number ``job`` of ``jobs``, which divide the shards among them.
        workers: processes; 0 works in this one, as routes with networks always do.
        progress: show bars with the time that is left on stderr.

    Returns:
        The summary, or None where shards of other jobs are still missing.

    Raises:
        ValueError: wrong settings, images that leak, a folder that holds something else, or
            nothing at all that can be used.
        OSError: the disk is full, or a file cannot be read; what is there stays as it is.
    """
    _check(route, source, items_per_shard, job, jobs)
    items = source.items()  # a root that does not fit ends it before there are processes
    out, gates = Path(out), gates or Gates({})
    idle = (out / SUMMARY_NAME).is_file() and not any(item.images for item in items)
    work = out / PARTS_NAME
    work.mkdir(parents=True, exist_ok=True)
    processes = nullcontext(map) if route.in_process or idle else ordered_map(workers)
    try:
        with processes as mapper, _bars(progress) as advance:
            plan = plan_shards(
                source,
                ReadingCache(work, mapper, advance),
                splits=splits,
                seed=seed,
                items_per_shard=items_per_shard,
                limit=limit,
                leakage=leakage or LeakageCheck(),
            )
            settings = {
                "route": route.name,
                "source": source.name,
                "settings": route.parameters(),
                "gates": gates.as_mapping(),
                "seed": seed,
                "image_format": image_format,
                "listing": plan.listing,
                "code_version": __version__,
            }
            head = index_head(settings, items_per_shard)
            if _is_finished(out, head):
                _remove(work)
                return read_summary(out)
            _begin(work, head)
            title = f"making {'/'.join(out.absolute().parts[-2:])}"
            title += f", job {job} of {jobs}" * (jobs > 1)
            make_parts(
                plan.parts[job::jobs],
                functools.partial(_run, route, gates, image_format),
                batch_size=route.batch_size,
                out=out,
                mapper=mapper,
                advance=lambda done, of, counts: advance(title, done, of, _counts(counts)),
            )
            over_all = functools.partial(
                route.summary, out, functools.partial(advance, "measuring")
            )
            return _conclude(plan, gates, head, out, splits, over_all)
    except FileNotFoundError:
        if work.is_dir() or not (out / SUMMARY_NAME).is_file():
            raise
        return read_summary(out)  # another job has concluded and removed the records


def _check(route: Route, source: Source, items_per_shard: int, job: int, jobs: int) -> None:
    if items_per_shard < 1:
        raise ValueError(f"items_per_shard is {items_per_shard}; give 1 or more")
    if not 0 <= job < jobs:
        raise ValueError(f"job {job} of {jobs}: jobs are numbered 0 to {jobs - 1}")
    missing = route.roles - source.roles
    if missing:
        raise ValueError(
            f"route {route.name} needs images of role {', '.join(sorted(missing))}, source "
            f"{source.name} has {', '.join(sorted(source.roles)) or 'none'}; choose another source"
        )


class _Advance(Protocol):
    def __call__(self, title: str, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def _bars(visible: bool) -> Iterator[_Advance]:
    """Bars on stderr, one for each title that is counted."""
    tasks: dict[str, TaskID] = {}
    with Bars(visible) as bars:

        def advance(title: str, done: int, total: int, note: str = "") -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=total)
            bars.update(tasks[title], completed=done, total=total, note=note)

        yield advance


def _run(
    route: Route, gates: Gates, image_format: ImageFormat, batch: Sequence[Candidate]
) -> list[Outcome]:
    """Make a batch, and turn away what the gates do not let pass."""
    made = zip(batch, route.make(batch), strict=True)
    return [_outcome(route, gates, image_format, *one) for one in made]


def _outcome(
    route: Route,
    gates: Gates,
    image_format: ImageFormat,
    candidate: Candidate,
    made: Prepared | Rejected,
) -> Outcome:
    item, split = candidate.item.name, candidate.split
    if isinstance(made, Rejected):
        return Outcome({}, {"key": candidate.key, **rejection(item, made, split)})
    measures = {
        name: float(value) if math.isfinite(value) else None
        for name, value in sorted(made.measures.items())
    }
    measured = {"key": candidate.key, "measures": measures}
    try:
        gates.check(made.measures)
    except Rejected as rejected:
        return Outcome({}, measured | rejection(item, rejected, split))
    samples = {}
    for sample in (made.sample, *made.more):
        provenance = {
            **candidate.provenance(),
            **route.parameters(),
            **sample.provenance,
            "measures": measures,
            "code_version": __version__,
        }
        prompt = sample.prompt or candidate.item.caption
        described = replace(sample, prompt=prompt, provenance=provenance)
        samples[sample.key] = encode(described, image_format)
    return Outcome(samples, measured | {"name": item, "split": split})


def _is_finished(out: Path, head: Mapping[str, Any]) -> bool:
    if not (out / SUMMARY_NAME).is_file():
        return False
    require_same(out, read_summary(out)["set"], head)
    return True


_OTHER = "give another: out=<folder>"


def _begin(work: Path, head: Mapping[str, Any]) -> None:
    """Record the settings, or compare them with those that the folder was begun with."""
    path = work / "settings.json"
    with FileLock(work / "settings.lock"):  # jobs begin at the same time
        if path.is_file() and is_begun(work.parent):
            require_same(work.parent, json.loads(path.read_bytes()), head, _OTHER)
        elif not path.is_file() and any(work.parent.glob(f"*/{shard_name(0)}")):
            raise ValueError(f"{work.parent} holds shards of something else; {_OTHER}")
        else:
            write_atomically(path, json_line(head))


def _conclude(
    plan: ShardPlan,
    gates: Gates,
    head: Mapping[str, Any],
    out: Path,
    splits: Collection[str],
    over_all: Callable[[], Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Write indices, ledger and summary where all parts are done."""
    work = out / PARTS_NAME
    with FileLock(work / "conclude.lock"):
        paths = [record_path(out, part) for part in plan.parts]
        if not all(path.is_file() for path in paths):
            return None
        for left in out.rglob(".*.part"):  # of a process that was killed at this place
            left.unlink()
        done = [json.loads(path.read_bytes()) for path in paths]
        summary = _write_outcome(plan, gates, head, out, splits, done, over_all)
        _remove(work)
        return summary


def _remove(work: Path) -> None:
    """Take the records away at once, so that another job finds all of them or none."""
    gone = work.with_name(f"{PARTS_NAME}.done")
    shutil.rmtree(gone, ignore_errors=True)
    work.rename(gone)
    shutil.rmtree(gone)


def _write_outcome(
    plan: ShardPlan,
    gates: Gates,
    head: Mapping[str, Any],
    out: Path,
    splits: Collection[str],
    done: Sequence[Mapping[str, Any]],
    over_all: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    records = [record for one in done for record in one["records"]]
    away = [*plan.rejections, *(record for record in records if "reason" in record)]
    samples = [record for record in records if "reason" not in record]
    write_atomically(out / LEDGER_NAME, b"".join(map(json_line, away)))
    reasons = Counter(record["reason"] for record in away)
    if not samples:
        examples = {record["reason"]: f"{record['name']}: {record['detail']}" for record in away}
        shown = "; ".join(f"{reason}: {example}" for reason, example in sorted(examples.items()))
        raise ValueError(
            f"nothing of {len(away)} found can be used; rejected {_counts(reasons)} ({shown}); "
            f"all are in {out / LEDGER_NAME}; name another source, or other estimators"
        )
    write_atomically(out / SAMPLES_NAME, b"".join(map(json_line, samples)))
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
        "found": len(records) + len(plan.rejections),
        "written": {split: sum(e["nsamples"] for e in entries[split]) for split in SPLITS},
        "rejected": dict(sorted(reasons.items())),
        "measured_only": [name for name in gates.unset() if name in measured],
        **over_all(),
        "set": head,
    }
    write_json(out / SUMMARY_NAME, summary)
    return summary


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counter.items())) or "none"
