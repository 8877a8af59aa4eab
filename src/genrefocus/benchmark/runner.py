"""Methods on cases: answers, figures, and nothing computed twice.

Every case of every method leaves one record and one picture below the results' folder; what an
interrupted run left is kept, and any number of processes or jobs leave the same records::

    <out>/cells/<task>-<dataset>/<method>/<key>.json    figures, K and the curve of its search
    <out>/pictures/<task>/<dataset>/<method>/<key>.png  the answer; likewise input and target
    <out>/sweeps/<task>/<dataset>/<method>/<key>-0.png  answers over K, of some cases
    <out>/rows.parquet, curves.jsonl                    written by `gather`
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from genrefocus.benchmark.case import Case, Method, Score
from genrefocus.benchmark.cases import CaseSet
from genrefocus.benchmark.figures import NOT_AVAILABLE, UNDEFINED, figure_table, write_figures
from genrefocus.data.images import save_image
from genrefocus.data.processes import ordered_map
from genrefocus.data.sample import to_float, to_uint8
from genrefocus.k_search import KRange, search_k
from genrefocus.metrics.lvcorr import PROTOCOL_K, laplacian_variance, lvcorr
from genrefocus.metrics.ssim import ssim
from genrefocus.rejection import Rejected
from genrefocus.writing import write_atomically

SWEEPS = 4
"""Cases of a set, at most, whose answers over K are kept as pictures."""

Advance = Callable[[int], None]
"""Told how many cases are done."""


@dataclass(frozen=True)
class Plan:
    """What is measured, of one task and data set.

    Attributes:
        metrics: name -> figure of an answer.
        unavailable: name -> why a metric cannot be computed here, and the remedy.
        k_search: where K is searched for that maximises SSIM with the target; None takes the K of
            the case.
        control: whether LVCorr is measured: the case at K in the proportions of ``PROTOCOL_K``, its
            own K being the last.
        protocol: hash, for the rows.
        by_radius: blur radius in px -> error of an answer where about so much blur is asked for;
            the curve of a method is their mean over the cases that have such places.
    """

    metrics: Mapping[str, Score]
    unavailable: Mapping[str, str]
    k_search: KRange | None
    control: bool
    protocol: str
    by_radius: Mapping[float, Score] = field(default_factory=dict)


def run(
    cases: CaseSet,
    method: Method,
    plan: Plan,
    out: Path,
    *,
    workers: int | None = None,
    job: int = 0,
    jobs: int = 1,
    advance: Advance = lambda done: None,
) -> None:
    """Measure a method on all cases that have no record yet.

    Args:
        cases: of one task.
        method: anything that answers.
        plan: what is measured.
        out: folder of the results.
        workers: processes of one thread each; 0 works in this one, likewise with one thread, so
            that figures do not depend on it. None works here with all threads, for networks.
        job, jobs: this job takes cases ``job``, ``job + jobs``, ...
        advance: is told of the cases that are done.
    """
    keys = cases.keys[job::jobs]
    identity = fingerprint_of(method)
    waiting = [key for key in keys if not _is_done(_cell(out, cases, method, key), plan, identity)]
    done = len(keys) - len(waiting)
    advance(done)
    with nullcontext(map) if workers is None else ordered_map(workers) as mapper:
        work = partial(_measure_and_write, cases, method, plan, out, identity)
        for _ in mapper(work, waiting):
            done += 1
            advance(done)


def fingerprint_of(method: Method) -> str:
    """What a method's answers depend on; its name where it says nothing else."""
    return str(getattr(method, "fingerprint", repr(method)))


def gather(
    out: Path, measured: Sequence[tuple[CaseSet, Plan, Sequence[str]]]
) -> pd.DataFrame | None:
    """Figures of all records, written to ``rows.parquet`` and ``curves.jsonl``.

    Args:
        out: folder of the results.
        measured: sets of cases, each with its plan and the names of its methods.

    Returns:
        The long table; None where records of other jobs are still missing.
    """
    rows: list[tuple[Any, ...]] = []
    curves: list[dict[str, Any]] = []
    for cases, plan, methods in measured:
        for name in methods:
            radii: dict[float, list[float]] = {}
            for key in cases.keys:
                path = out / "cells" / f"{cases.task}-{cases.name}" / name / f"{key}.json"
                if not path.is_file():
                    return None
                record = json.loads(path.read_bytes())
                for metric, (value, failure) in record["figures"].items():
                    place = cases.task, cases.name, name, key, metric
                    rows.append((*place, value, failure, plan.protocol))
                head = {"task": cases.task, "dataset": cases.name, "method": name, "key": key}
                curves += [{**head, **curve} for curve in record["curves"]]
                for radius, error in record["by_radius"]:
                    radii.setdefault(radius, []).append(error)
            if radii:
                errors = {radius: sum(radii[radius]) / len(radii[radius]) for radius in radii}
                x = sorted(errors)
                curve = {"kind": "radius_error", "x": x, "y": [errors[radius] for radius in x]}
                curves.append({**head, "key": None, **curve})
    figures = figure_table(rows)
    write_figures(figures, out / "rows.parquet")
    lines = (json.dumps(curve, sort_keys=True) for curve in curves)
    write_atomically(out / "curves.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return figures


def _cell(out: Path, cases: CaseSet, method: Method, key: str) -> Path:
    return out / "cells" / f"{cases.task}-{cases.name}" / method.name / f"{key}.json"


def _is_done(cell: Path, plan: Plan, identity: str) -> bool:
    if not cell.is_file():
        return False
    record = json.loads(cell.read_bytes())
    same = record["protocol"] == plan.protocol and record["method"] == identity
    return same and set(plan.metrics) <= set(record["figures"])


def _measure_and_write(
    cases: CaseSet, method: Method, plan: Plan, out: Path, identity: str, key: str
) -> None:
    record, pictures, sweep = measure(cases, method, plan, key)
    folder = out / "pictures" / cases.task / cases.name
    for name, picture in pictures.items():
        path = folder / (method.name if name == "answer" else name) / f"{key}.png"
        if name == "answer" or not path.is_file():
            _save(picture, path)
    if key in _shown(cases.keys):
        place = f"sweeps/{cases.task}/{cases.name}/{method.name}"
        files = [f"{place}/{key}-{number}.png" for number in range(len(sweep))]
        for picture, file in zip(sweep, files, strict=True):
            _save(picture, out / file)
        for curve in record["curves"]:
            if curve["kind"] == "lvcorr":
                curve["pictures"] = files
    cell = _cell(out, cases, method, key)
    cell.parent.mkdir(parents=True, exist_ok=True)
    record = {"protocol": plan.protocol, "method": identity, **record}
    write_atomically(cell, json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n")


def _save(picture: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.stem}.{os.getpid()}.part.png")
    save_image(to_uint8(picture), partial_path)
    partial_path.replace(path)


def _shown(keys: Sequence[str]) -> set[str]:
    """Keys, spread over the set, whose answers over K are kept."""
    step = max(1, -(-len(keys) // SWEEPS))
    return set(keys[::step])


def measure(
    cases: CaseSet, method: Method, plan: Plan, key: str
) -> tuple[dict[str, Any], dict[str, Tensor], list[Tensor]]:
    """Figures of one case, as a record, its pictures, and the answers over K.

    Figures are measured on the answer rounded to 8 bits, which is what a folder of pictures would
    hold.
    """
    started = time.monotonic()
    figures: dict[str, tuple[float | None, str | None]] = {}
    curves: list[dict[str, Any]] = []
    pictures: dict[str, Tensor] = {}
    sweep: list[Tensor] = []
    try:
        case = cases[key]
        pictures = {"input": case.image, "target": case.target}
        answer, case, search = _answer(method, case, plan.k_search, curves)
        pictures["answer"] = answer
    except (Rejected, ValueError, OSError) as error:
        failure = " ".join(str(error).split())
        figures = {name: (None, failure) for name in plan.metrics}
        figures |= _unavailable(plan)
        facts: dict[str, Any] = {"k": None, "search": None, "by_radius": []}
        return _record(figures, curves, facts, started), pictures, sweep
    for name, score in plan.metrics.items():
        figures[name] = _figure(partial(score, answer, case))
    if plan.control and method.needs_k and case.strength is not None:
        figures["lvcorr"] = _figure(partial(_control, method, case, answer, curves, sweep))
    figures |= _unavailable(plan)
    k = None if case.strength is None else case.strength.k
    errors = [
        (radius, _figure(partial(score, answer, case))) for radius, score in plan.by_radius.items()
    ]
    by_radius = [(radius, value) for radius, (value, _) in errors if value is not None]
    facts = {"k": k, "search": search, "by_radius": by_radius}
    return _record(figures, curves, facts, started), pictures, sweep


def _unavailable(plan: Plan) -> dict[str, tuple[float | None, str | None]]:
    return {name: (None, f"{NOT_AVAILABLE}{why}") for name, why in plan.unavailable.items()}


def _record(
    figures: Mapping[str, tuple[float | None, str | None]],
    curves: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    started: float,
) -> dict[str, Any]:
    return {
        "figures": {name: list(figure) for name, figure in figures.items()},
        "curves": list(curves),
        **facts,
        "seconds": round(time.monotonic() - started, 3),
    }


def _answer(
    method: Method, case: Case, k_search: KRange | None, curves: list[dict[str, Any]]
) -> tuple[Tensor, Case, str | None]:
    """The answer, the case with the K that it was given, and how the search for that ended."""
    if k_search is None or not method.needs_k:
        return _rounded(method(case), case), case, None
    if case.disparity is None or case.focus_disparity is None:
        raise ValueError(f"case {case.key} has no depth or focus to search K with")
    low, high = k_search.bounds(case.disparity, case.focus_disparity)
    answers: dict[float, Tensor] = {}

    def score(k: float) -> float:
        answers[k] = _rounded(method(case.with_k(k)), case)
        return float(ssim(answers[k][None], case.target[None])[0])

    try:
        found = search_k(score, low=low, high=high, budget=k_search.budget)
        k, curve, verdict = found.k, found.curve, "maximum"
    except Rejected as rejected:
        if not isinstance(rejected.value, dict):
            raise
        # A method that K does not move, or that wants more than the protocol allows, is scored at
        # the best of what was tried; the curve says so.
        curve, verdict = rejected.value["curve"], rejected.reason.value
        k = max(curve, key=lambda one: one[1])[0]
    ks, scores = zip(*curve, strict=True)
    curves.append({"kind": "ssim_k", "x": list(ks), "y": list(scores)})
    return answers[k], case.with_k(k), verdict


def _rounded(answer: Tensor, case: Case) -> Tensor:
    if answer.shape != case.target.shape:
        raise ValueError(
            f"the answer to {case.key} is {tuple(answer.shape)}, the target "
            f"{tuple(case.target.shape)}; nothing is resized"
        )
    if not bool(torch.isfinite(answer).all()):
        raise ValueError(f"the answer to {case.key} is not finite")
    return to_float(to_uint8(answer.detach().cpu().contiguous()))


def _control(
    method: Method,
    case: Case,
    answer: Tensor,
    curves: list[dict[str, Any]],
    sweep: list[Tensor],
) -> float:
    """LVCorr; the answer at the case's own K is the last of the series."""
    assert case.strength is not None
    ks = [case.strength.k * k / PROTOCOL_K[-1] for k in PROTOCOL_K]
    sweep += [*(_rounded(method(case.with_k(k)), case) for k in ks[:-1]), answer]
    variances = laplacian_variance(torch.stack(sweep))
    curves.append({"kind": "lvcorr", "x": ks, "y": [float(v) for v in variances]})
    return float(lvcorr(variances[None], PROTOCOL_K)[0])


def _figure(compute: Callable[[], float]) -> tuple[float | None, str | None]:
    try:
        value = float(compute())
    except (Rejected, ValueError, RuntimeError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__
    if math.isnan(value):
        return None, UNDEFINED
    return (value, None) if math.isfinite(value) else (None, f"the value is {value}")
