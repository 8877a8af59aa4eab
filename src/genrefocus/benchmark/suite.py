"""Data sets with their protocols and methods: measured by any number of jobs, then published."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from filelock import FileLock
from rich.progress import TaskID

from genrefocus.benchmark.case import BenchmarkTask, Method
from genrefocus.benchmark.cases import CaseSet, cropped
from genrefocus.benchmark.methods import Classical, Identity, RichardsonLucy, Unsharp, UserMethod
from genrefocus.benchmark.protocol import BenchmarkProtocol, write_protocol
from genrefocus.benchmark.report import REPORT_NAME, write_report
from genrefocus.benchmark.results import NOTES_NAME, read_results
from genrefocus.benchmark.runner import Entry, gather, run
from genrefocus.benchmark.tables import BenchmarkTable, build_tables, write_tables
from genrefocus.metrics.registry import METRICS
from genrefocus.terminal import Bars, counted
from genrefocus.writing import write_json

_FITTED_EDGE = 256
"""Settings of classical methods are chosen on centres of validation images so large, px."""


SIMULATED = "The images are simulated."


def entry_of(
    cases: CaseSet,
    protocol: BenchmarkProtocol,
    methods: Sequence[Method],
    notes: Sequence[str] = (),
) -> Entry:
    """The entry of a data set; settings of fitted methods are added to the notes.

    Methods that are told the blur of photographs are left out, with a note, where cases do not
    state it.

    Raises:
        ValueError: the protocol is of another task, or a network is not asked as it says.
    """
    if protocol.task != cases.task:
        raise ValueError(f"the protocol of {cases.name} is of {protocol.task}, not {cases.task}")
    told = [method for method in methods if getattr(method, "told", False)]
    if told and cases[cases.keys[0]].own_defocus is None:
        methods = [method for method in methods if method not in told]
        names = ", ".join(method.name for method in told)
        notes = [*notes, f"{names}: not measured, the blur of the photographs is not stated"]
    for method in methods:
        _require_asked_alike(method, protocol)
    # LVCorr is of a series over K, which the runner makes.
    metrics = [METRICS[name] for name in protocol.metrics if name != "lvcorr"]
    unavailable = {one.name: why for one in metrics if (why := one.available()) is not None}
    found = {
        one.name: (one.implementation, one.weights())
        for one in metrics
        if one.name not in unavailable
    }
    protocol = protocol.filled(name=cases.name, fingerprint=cases.fingerprint, found=found)
    used = [getattr(one, "sharpened", None) or one for one in methods]
    fitted = [repr(one) for one in used if isinstance(one, (Unsharp, RichardsonLucy))]
    return Entry(cases, protocol, unavailable, methods, [*notes, *fitted])


def baselines(task: BenchmarkTask, validation: CaseSet | None, *, slow: bool) -> list[Method]:
    """The unmodified input, and classical methods.

    Args:
        task: ``deblur`` has the unsharp mask, other tasks the scatter renderer; ``refocus`` has
            the one after the other too.
        validation: pairs of ``deblur`` that settings are chosen on, none of those that are
            measured; without them nothing is sharpened.
        slow: with Richardson-Lucy and the layered renderer, which take minutes.
    """
    sharpened: list[Unsharp | RichardsonLucy] = []
    if task != "bokeh" and validation is not None:
        images = [validation[key] for key in validation.keys]
        edges = [min(*(case.size[axis] for case in images), _FITTED_EDGE) for axis in (0, 1)]
        centres = [cropped(case, (edges[0], edges[1])) for case in images]
        sharpened = [Unsharp.fitted(centres), *([RichardsonLucy.fitted(centres)] if slow else [])]
    if task == "deblur":
        return [Identity(), *sharpened]
    rendered = [Classical("scatter"), *([Classical("layered")] if slow else [])]
    chains = [
        replace(one, sharpened=first) for one, first in zip(rendered, sharpened, strict=False)
    ]
    return [Identity(), *rendered, *chains]


def measure_all(
    entries: Sequence[Entry],
    out: Path,
    *,
    bars: Bars,
    workers: int = 0,
    job: int = 0,
    jobs: int = 1,
) -> None:
    """Measure what has no record yet; see :func:`runner.run`.

    Args:
        entries: of different tasks or data sets.
        out: folder of the results.
        bars: show the progress.
        workers: processes of methods without a network.
        job, jobs: this job takes cases ``job``, ``job + jobs``, ...
    """
    (out / "protocols").mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        for entry in entries:
            write_protocol(entry.protocol, out / "protocols" / f"{entry.name}.yaml")
        write_json(out / NOTES_NAME, {entry.name: list(entry.notes) for entry in entries})
    for entry in entries:
        own = len(entry.cases.keys[job::jobs])
        bar = bars.add_task(entry.name, total=own * len(entry.methods))
        for number, method in enumerate(entry.methods):
            # Networks are not copied to processes, and code of users may hold anything.
            here = hasattr(method, "asked") or isinstance(method, UserMethod)
            run(
                entry,
                method,
                out,
                workers=None if here else workers,
                job=job,
                jobs=jobs,
                advance=partial(_advance, bars, bar, method.name, number * own),
            )


def _advance(bars: Bars, bar: TaskID, method: str, before: int, done: int) -> None:
    bars.update(bar, completed=before + done, note=method)


def conclude(entries: Sequence[Entry], out: Path, *, seed: int) -> list[BenchmarkTable]:
    """Write figures, tables and report.

    Args:
        entries: those that were measured.
        out: folder of the results.
        seed: of the bootstrap and of sign flips.

    Returns:
        The tables; none where records of other jobs are still missing, nothing is written then.
    """
    with FileLock(out / ".lock"):
        if not gather(out, entries):
            return []
        results = read_results(out)
        tables = build_tables(results, seed=seed)
        write_tables(tables, out)
        write_report(results, tables, out / REPORT_NAME)
        return tables


def _require_asked_alike(method: Method, protocol: BenchmarkProtocol) -> None:
    """
    Raises:
        ValueError: prompt or steps of a network differ from the protocol's.
    """
    for stage, (prompt, steps) in getattr(method, "asked", {}).items():
        differing = []
        if protocol.prompts.get(stage, prompt) != prompt:
            differing.append(f"the prompt {prompt!r}, the protocol {protocol.prompts[stage]!r}")
        if protocol.steps not in (None, steps):
            differing.append(f"{counted(steps, 'sampling step')}, the protocol {protocol.steps}")
        if differing:
            raise ValueError(
                f"{method.name} ({stage}) has {' and '.join(differing)}: figures would not be of "
                f"{protocol.task} on {protocol.dataset.name}; to measure it all the same, copy the "
                f"protocol file, change it, and name it: +protocols.{protocol.task}=FILE"
            )
