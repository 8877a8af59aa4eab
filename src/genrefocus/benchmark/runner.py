"""Methods on cases: answers, figures, and nothing computed twice.

Every case of every method leaves one record and one image below the results' folder; what an
interrupted run left is kept, and any number of processes or jobs leave the same records::

    <out>/records/<task>-<dataset>/<method>/<key>.json  figures, K and the curve of its search
    <out>/images/<task>/<dataset>/<method>/<key>.png  the answer; likewise input and target
    <out>/images/<task>/<dataset>/<method>_deblurred/<key>.png  what a chain refocused
    <out>/series/<task>/<dataset>/<method>/<key>-0.png  answers over K, of some cases
    <out>/rows.parquet, parts.json, curves.jsonl        written by `gather`
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from genrefocus.benchmark.case import Case, Method
from genrefocus.benchmark.cases import CaseSet, cropped
from genrefocus.benchmark.figures import NOT_AVAILABLE, UNDEFINED, figure_table, write_figures
from genrefocus.benchmark.parts import parts_of
from genrefocus.benchmark.protocol import BenchmarkProtocol
from genrefocus.benchmark.results import INPUT, PARTS_NAME, TARGET
from genrefocus.data.order import spread
from genrefocus.data.processes import ordered_map
from genrefocus.data.sample import to_float, to_uint8
from genrefocus.k_search import search_k
from genrefocus.metrics.blur_radius import RADIUS_EDGES, errors_by_bin, measure_radii
from genrefocus.metrics.lvcorr import PROTOCOL_K, laplacian_variance, lvcorr
from genrefocus.metrics.registry import METRICS
from genrefocus.metrics.ssim import ssim
from genrefocus.rejection import Rejected
from genrefocus.writing import whole, write_atomically, write_json

SERIES = 4
"""Cases of a set, at most, whose answers over K are kept as images."""

DEBLURRED = "_deblurred"
"""Behind the name of a chain: the folder of the images that it refocused."""

Figure = tuple[float | None, str | None]
"""A value, or None and why there is none."""

# The last bin of the radius asked for has no end and is taken as wide as it begins.
_EDGES = (0.0, *RADIUS_EDGES, 2 * RADIUS_EDGES[-1])
_MIDDLES = [(low + high) / 2 for low, high in zip(_EDGES, _EDGES[1:], strict=False)]


@dataclass(frozen=True)
class Entry:
    """A data set, its protocol, and the methods that answer it.

    Attributes:
        cases: of one task.
        protocol: with the fingerprint of the data set and the metrics of this machine.
        unavailable: metric -> why it cannot be computed here, and the remedy.
        methods: in the order of tables.
        notes: what to know about the run.
    """

    cases: CaseSet
    protocol: BenchmarkProtocol
    unavailable: Mapping[str, str]
    methods: Sequence[Method] = ()
    notes: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Task and data set, in the names of files."""
        return f"{self.cases.task}-{self.cases.name}"


def run(
    entry: Entry,
    method: Method,
    out: Path,
    *,
    workers: int | None = None,
    job: int = 0,
    jobs: int = 1,
    advance: Callable[[int], object] = lambda done: None,
) -> None:
    """Measure a method on all cases that have no record yet.

    Args:
        entry: data set and protocol.
        method: anything that answers.
        out: folder of the results.
        workers: processes of one thread each; 0 works in this one, likewise with one thread, so
            that figures do not depend on it. None works here with all threads, for networks.
        job, jobs: this job takes cases ``job``, ``job + jobs``, ...
        advance: called with the number of finished cases.
    """
    # What the answers depend on.
    fingerprint = str(getattr(method, "fingerprint", repr(method)))
    stamp = {"protocol": entry.protocol.hash, "method": fingerprint}
    keys = entry.cases.keys[job::jobs]
    waiting = [key for key in keys if not _is_done(_record(entry, method, out, key), stamp)]
    done = len(keys) - len(waiting)
    advance(done)
    with nullcontext(map) if workers is None else ordered_map(workers) as mapper:
        # Other methods are not copied to processes: they may hold networks.
        work = partial(_measure_and_write, replace(entry, methods=()), method, out, stamp)
        for number, _ in enumerate(mapper(work, waiting), done + 1):
            advance(number)


def gather(out: Path, entries: Sequence[Entry]) -> bool:
    """Write the figures of all records to ``rows.parquet`` and ``curves.jsonl``.

    Returns:
        False where records of other jobs are still missing; nothing is written then.
    """
    rows: list[tuple[Any, ...]] = []
    curves: list[dict[str, Any]] = []
    parts: dict[str, dict[str, list[str]]] = {entry.name: {} for entry in entries}
    for entry in entries:
        for method in entry.methods:
            place = {"task": entry.cases.task, "dataset": entry.cases.name, "method": method.name}
            radii: dict[float, list[float]] = {}
            for key in entry.cases.keys:
                path = _record(entry, method, out, key)
                if not path.is_file():
                    return False
                record = json.loads(path.read_bytes())
                parts[entry.name][key] = record["parts"]
                for metric, figure in record["figures"].items():
                    rows.append((*place.values(), key, metric, *figure, entry.protocol.hash))
                curves += [{**place, "key": key, **curve} for curve in record["curves"]]
                for radius, error in record["by_radius"]:
                    radii.setdefault(radius, []).append(error)
            if radii:
                x = sorted(radii)
                y = [sum(radii[radius]) / len(radii[radius]) for radius in x]
                curves.append({**place, "key": None, "kind": "radius_error", "x": x, "y": y})
    write_figures(figure_table(rows), out / "rows.parquet")
    write_json(out / PARTS_NAME, parts)
    lines = (json.dumps(curve, sort_keys=True) for curve in curves)
    write_atomically(out / "curves.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return True


def _record(entry: Entry, method: Method, out: Path, key: str) -> Path:
    return out / "records" / entry.name / method.name / f"{key}.json"


def _is_done(path: Path, stamp: Mapping[str, str]) -> bool:
    return path.is_file() and stamp.items() <= json.loads(path.read_bytes()).items()


def _measure_and_write(
    entry: Entry, method: Method, out: Path, stamp: Mapping[str, str], key: str
) -> None:
    record, images, series = measure(entry, method, key)
    place = f"{entry.cases.task}/{entry.cases.name}"
    for name, image in images.items():
        path = out / "images" / place / name / f"{key}.png"
        if name not in (INPUT, TARGET) or not path.is_file():
            _save(image, path)
    keys = entry.cases.keys
    if series and keys.index(key) in spread(len(keys), SERIES):
        files = [f"series/{place}/{method.name}/{key}-{n}.png" for n in range(len(series))]
        for image, file in zip(series, files, strict=True):
            _save(image, out / file)
        record["curves"][-1]["images"] = files
    path = _record(entry, method, out, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**record, **stamp}, sort_keys=True, allow_nan=False)
    write_atomically(path, text.encode() + b"\n")


def _save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        Image.fromarray(to_uint8(image).permute(1, 2, 0).numpy()).save(part, "PNG")


def measure(
    entry: Entry, method: Method, key: str
) -> tuple[dict[str, Any], dict[str, Tensor], list[Tensor]]:
    """Figures of one case, as a record, its images by name, and the answers over K.

    Figures are measured on the answer rounded to 8 bits, which is what a folder of images would
    hold. The curve of LVCorr is the last one.
    """
    started = time.monotonic()
    protocol = entry.protocol
    names = [one for one in protocol.metrics if one not in entry.unavailable and one != "lvcorr"]
    figures: dict[str, Figure] = {}
    curves: list[dict[str, Any]] = []
    record: dict[str, Any] = {"figures": figures, "curves": curves, "by_radius": [], "parts": []}
    record |= {"k": None, "search": None}
    images: dict[str, Tensor] = {}
    series: list[Tensor] = []
    try:
        case = entry.cases[key]
        if protocol.crop is not None:
            case = cropped(case, protocol.crop)
        images = {INPUT: case.image, TARGET: case.target}
        record["parts"] = parts_of(case)
        answer, case, record["search"] = _answer(method, case, protocol, curves)
        images[method.name] = answer
        deblurred = getattr(method, "deblurred", lambda case: None)(case)
        if deblurred is not None:
            images[method.name + DEBLURRED] = deblurred
    except (Rejected, ValueError, OSError) as error:
        figures |= dict.fromkeys(names, (None, " ".join(str(error).split())))
    else:
        record["k"] = None if case.strength is None else case.strength.k
        figures |= {name: _figure(partial(_score, name, answer, case)) for name in names}
        if figures.get("blur_radius_error", (None, None))[0] is not None:
            record["by_radius"] = _errors_by_radius(answer, case)
        if "lvcorr" in protocol.metrics and method.needs_k and case.strength is not None:
            figures["lvcorr"] = _figure(partial(_lvcorr, method, case, answer, curves, series))
    figures |= {name: (None, f"{NOT_AVAILABLE}{why}") for name, why in entry.unavailable.items()}
    record["seconds"] = round(time.monotonic() - started, 3)
    return record, images, series


def _answer(
    method: Method, case: Case, protocol: BenchmarkProtocol, curves: list[dict[str, Any]]
) -> tuple[Tensor, Case, str | None]:
    """The answer, the case with the K that it was given, and how the search for that ended."""
    if protocol.k_search is None or not method.needs_k:
        return _rounded(method(case), case), case, None
    if case.disparity is None or case.focus_disparity is None:
        raise ValueError(f"case {case.key} has no depth or focus to search K with")
    low, high = protocol.k_search.bounds(case.disparity, case.focus_disparity)
    answers: dict[float, Tensor] = {}

    def score(k: float) -> float:
        answers[k] = _rounded(method(case.with_k(k)), case)
        return float(ssim(answers[k][None], case.target[None])[0])

    try:
        found = search_k(score, low=low, high=high, budget=protocol.k_search.budget)
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


def _score(name: str, answer: Tensor, case: Case) -> float:
    """A metric of the registry on an answer.

    Regions of the target are those of its own K, whatever K the answer was asked with, so that all
    methods are measured on the same pixels; obedience is to the K that was asked for.
    """
    metric = METRICS[name]
    of_target = "target" in metric.needs and case.target_strength is not None
    return metric(
        answer,
        target=case.target,
        aif=case.aif,
        disparity=case.disparity,
        focus_disparity=case.focus_disparity,
        strength=case.target_strength if of_target else case.strength,
        lettering=case.lettering,
        aperture=case.aperture,
        lights=case.lights,
    )


def _errors_by_radius(answer: Tensor, case: Case) -> list[tuple[float, float]]:
    """Requested blur radius in px -> error of the answer at such places."""
    assert case.aif is not None and case.disparity is not None
    assert case.focus_disparity is not None and case.strength is not None
    patches = measure_radii(
        answer,
        case.aif,
        case.disparity,
        focus_disparity=case.focus_disparity,
        strength=case.strength,
    )
    errors, _ = errors_by_bin(patches)
    found = zip(_MIDDLES, errors.tolist(), strict=True)
    return [(radius, error) for radius, error in found if not math.isnan(error)]


def _lvcorr(
    method: Method,
    case: Case,
    answer: Tensor,
    curves: list[dict[str, Any]],
    series: list[Tensor],
) -> float:
    """LVCorr of the case at K in the proportions of ``PROTOCOL_K``; its own K is the last."""
    assert case.strength is not None
    ks = [case.strength.k * k / PROTOCOL_K[-1] for k in PROTOCOL_K]
    series += [*(_rounded(method(case.with_k(k)), case) for k in ks[:-1]), answer]
    variances = laplacian_variance(torch.stack(series))
    curves.append({"kind": "lvcorr", "x": ks, "y": [float(v) for v in variances]})
    return float(lvcorr(variances[None], PROTOCOL_K)[0])


def _figure(compute: Callable[[], float]) -> Figure:
    try:
        value = float(compute())
    except (Rejected, ValueError, RuntimeError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__
    if math.isnan(value):
        return None, UNDEFINED
    return (value, None) if math.isfinite(value) else (None, f"the value is {value}")
