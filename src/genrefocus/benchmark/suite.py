"""Data sets with their protocols and methods: measured by any number of jobs, then published."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from torch import Tensor

from genrefocus.benchmark.case import Case, Method, Score
from genrefocus.benchmark.cases import CaseSet, CroppedCases, cropped
from genrefocus.benchmark.methods import (
    Classical,
    GroundTruth,
    Identity,
    Predictions,
    RichardsonLucy,
    Unsharp,
)
from genrefocus.benchmark.protocol import Protocol, write_protocol
from genrefocus.benchmark.report import publish
from genrefocus.benchmark.results import write_notes
from genrefocus.benchmark.runner import Plan, gather, run
from genrefocus.benchmark.tables import BenchmarkTable
from genrefocus.metrics.blur_radius import RADIUS_EDGES, bin_names
from genrefocus.metrics.registry import METRICS
from genrefocus.terminal import Bars, counted

_WITHOUT_NETWORK = (Identity, Classical, Unsharp, RichardsonLucy, Predictions, GroundTruth)

_FITTED_EDGE = 256
"""Settings of classical methods are chosen on centres of validation images so large, px."""


@dataclass(frozen=True)
class Entry:
    """A data set, its protocol, and the methods that answer it.

    Attributes:
        cases: of one task, cropped as the protocol says.
        protocol: with the fingerprint of the data set and the metrics of this machine.
        plan: what is measured.
        methods: in the order of tables.
        notes: what to know about the run.
    """

    cases: CaseSet
    protocol: Protocol
    plan: Plan
    methods: Sequence[Method]
    notes: Sequence[str]


def entry_of(
    cases: CaseSet, protocol: Protocol, methods: Sequence[Method], notes: Sequence[str] = ()
) -> Entry:
    """The entry of a data set.

    Raises:
        ValueError: the protocol is of another task, or a network is not asked as it says.
    """
    if protocol.task != cases.task:
        raise ValueError(f"the protocol of {cases.name} is of {protocol.task}, not {cases.task}")
    if protocol.crop is not None:
        cases = CroppedCases(cases, protocol.crop)
    for method in methods:
        _require_asked_alike(method, protocol)
    plan, protocol = _plan(protocol, cases)
    return Entry(cases, protocol, plan, methods, notes)


def fitted_on(validation: CaseSet, *, deconvolution: bool) -> list[Method]:
    """The unsharp mask, and Richardson-Lucy with ``deconvolution``, at their best settings.

    Args:
        validation: pairs that the settings are chosen on; none of those that are measured.
        deconvolution: its search takes minutes.
    """
    images = [validation[key] for key in validation.keys]
    edges = [min(*(case.size[axis] for case in images), _FITTED_EDGE) for axis in (0, 1)]
    centres = [cropped(case, (edges[0], edges[1])) for case in images]
    found: list[Method] = [Unsharp.fitted(centres)]
    return [*found, RichardsonLucy.fitted(centres)] if deconvolution else found


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
    with _alone(out):
        (out / "protocols").mkdir(exist_ok=True)
        for entry in entries:
            name = f"{entry.cases.task}-{entry.cases.name}.yaml"
            write_protocol(entry.protocol, out / "protocols" / name)
        write_notes({(one.cases.task, one.cases.name): one.notes for one in entries}, out)
    for entry in entries:
        total = len(entry.cases.keys[job::jobs])
        for method in entry.methods:
            bar = bars.add_task(f"{entry.cases.task}, {method.name}", total=total)
            run(
                entry.cases,
                method,
                entry.plan,
                out,
                # Networks are not copied to processes, and code of users may hold anything.
                workers=workers if isinstance(method, _WITHOUT_NETWORK) else None,
                job=job,
                jobs=jobs,
                advance=lambda done, bar=bar: bars.update(bar, completed=done),  # type: ignore[misc]
            )


def conclude(
    entries: Sequence[Entry], out: Path, console: Console, *, seed: int
) -> list[BenchmarkTable] | None:
    """Write figures, tables and report; None where records of other jobs are still missing.

    Args:
        entries: those that were measured.
        out: folder of the results.
        console: what the tables are printed on.
        seed: of the bootstrap.
    """
    with _alone(out):
        measured = [(one.cases, one.plan, [m.name for m in one.methods]) for one in entries]
        return None if gather(out, measured) is None else publish(out, console, seed=seed)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of all jobs that work on a folder only one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _require_asked_alike(method: Method, protocol: Protocol) -> None:
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


def _plan(protocol: Protocol, cases: CaseSet) -> tuple[Plan, Protocol]:
    """What is measured, and the protocol with what was found on this machine."""
    scored: dict[str, Score] = {}
    unavailable: dict[str, str] = {}
    found: dict[str, tuple[str, str | None]] = {}
    for name in protocol.metrics:
        if name == "lvcorr":  # of a series over K, which the runner makes
            continue
        info = METRICS[name]
        if (why := info.available()) is None:
            scored[name], found[name] = _Scored(info.name), (info.implementation, info.weights())
        else:
            unavailable[name] = why
    protocol = protocol.filled(name=cases.name, fingerprint=cases.fingerprint, found=found)
    by_radius: dict[float, Score] = {}
    if "blur_radius_error" in scored:
        by_radius = {
            middle: _Scored(f"blur_radius_error_{name}")
            for middle, name in zip(_middles(), bin_names(RADIUS_EDGES), strict=True)
        }
    control = "lvcorr" in protocol.metrics
    return Plan(scored, unavailable, protocol.k_search, control, protocol.hash, by_radius), protocol


def _middles() -> list[float]:
    """Of the bins of asked radius; the last has no end and is taken as wide as it begins."""
    edges = [0.0, *RADIUS_EDGES, 2 * RADIUS_EDGES[-1]]
    return [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True)
class _Scored:
    """A metric of the registry on an answer.

    Regions of the target are those of its own K, whatever K the answer was asked with, so that all
    methods are measured on the same pixels; obedience is to the K that was asked for.
    """

    name: str

    def __call__(self, answer: Tensor, case: Case) -> float:
        metric = METRICS[self.name]
        of_target = "target" in metric.needs and case.target_strength is not None
        return metric(
            answer,
            target=case.target,
            aif=case.aif,
            disparity=case.disparity,
            focus_disparity=case.focus_disparity,
            strength=case.target_strength if of_target else case.strength,
        )
