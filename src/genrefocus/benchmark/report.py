"""The report of a benchmark: one page that holds tables, pictures and curves, and loads nothing."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from genrefocus.benchmark.charts import KINDS, Kind, chart
from genrefocus.benchmark.results import INPUT, TARGET, Curve, Results
from genrefocus.benchmark.statistics import Comparison
from genrefocus.benchmark.tables import (
    BenchmarkTable,
    cell_text,
    comparisons,
    name_of,
    notes_of,
    number,
    shortfall,
)
from genrefocus.data.images import load_image
from genrefocus.pages import jpeg_uri, render_page, small
from genrefocus.writing import write_atomically

SPREAD_CASES = 8  # evenly spread over the data set
EXTREMES = 3  # at either end, of each method and metric
CURVES = 40  # of each method and kind
SWEEPS = 4  # rows of pictures over K, of each method

_CASE_EDGE, _THUMBNAIL_EDGE, _SWEEP_EDGE = 480, 128, 160  # px


@dataclass(frozen=True)
class Layer:
    """A picture of a case: ``input``, ``target`` or the answer of a method."""

    name: str
    uri: str


@dataclass(frozen=True)
class ShownCase:
    """A case with its pictures and all of its figures."""

    key: str
    anchor: str
    aspect: str
    layers: Sequence[Layer]
    figures: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Extreme:
    """A picture whose value of a metric is among a method's best or worst."""

    key: str
    value: str
    uri: str | None
    anchor: str | None


@dataclass(frozen=True)
class Ends:
    """Best and worst pictures of a method in a metric."""

    method: str
    best: Sequence[Extreme]
    worst: Sequence[Extreme]


@dataclass(frozen=True)
class Chart:
    """Curves of a kind; a wide one has a panel for each method."""

    kind: Kind
    name: str
    wide: bool
    drawing: Markup


@dataclass(frozen=True)
class Sweep:
    """Answers of a method to one picture over K."""

    method: str
    key: str
    steps: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """What the page says of a task and data set."""

    anchor: str
    table: BenchmarkTable
    layers: Sequence[str]
    right: str
    cases: Sequence[ShownCase]
    ends: Mapping[str, Sequence[Ends]]
    charts: Sequence[Chart]
    sweeps: Sequence[Sweep]
    comparisons: Mapping[str, Sequence[Comparison]]
    failures: Sequence[tuple[str, str, str, str]]
    protocol: Mapping[str, Any]


def write_report(
    results: Results,
    tables: Sequence[BenchmarkTable],
    path: str | Path,
    *,
    pairs: Callable[[BenchmarkTable], Iterable[tuple[str, str]]],
    seed: int,
) -> Path:
    """Write a page about results.

    Args:
        results: of one folder or several.
        tables: of these, from ``tables.build_tables``.
        path: of the page.
        pairs: the methods that are compared picture by picture, such as :func:`every_pair`.
        seed: of resampling and sign flips.

    Returns:
        The page.

    Raises:
        Rejected: a picture that cannot be read.
    """
    sections = [
        _section(results, table, comparisons(results, table, pairs(table), seed=seed))
        for table in tables
    ]
    page = render_page(
        "genrefocus.benchmark",
        "report.html.j2",
        title=f"Benchmark: {results.name}",
        sections=sections,
        name_of=name_of,
        notes_of=notes_of,
        cell_text=cell_text,
        shortfall=shortfall,
        figure=number,
    )
    path = Path(path)
    write_atomically(path, page.encode())
    return path


def every_pair(table: BenchmarkTable) -> list[tuple[str, str]]:
    """All pairs of our own methods, in the order of the table."""
    return list(itertools.combinations(_methods(table), 2))


def _methods(table: BenchmarkTable) -> list[str]:
    return [line.method for line in table.lines if line.source is None]


def _section(
    results: Results, table: BenchmarkTable, compared: Mapping[str, Sequence[Comparison]]
) -> Section:
    methods = _methods(table)
    album = _Album(results, table)
    cases = album.cases()
    present = {layer.name for case in cases for layer in case.layers}
    layers = [name for name in (INPUT, *methods, TARGET) if name in present]
    # The last method, but not one that is a variant of another, such as trained_true_aif.
    whole = [n for n in methods if not any(n.startswith(f"{other}_") for other in methods)]
    answers = [name for name in reversed(whole) if name in present]
    curves = [c for c in results.curves if (c.task, c.dataset) == (table.task, table.dataset)]
    return Section(
        anchor=f"{table.task}-{table.dataset}",
        table=table,
        layers=layers,
        right=answers[0] if answers else TARGET,
        cases=cases,
        ends={metric: album.ends(metric) for metric in table.metrics},
        charts=_charts(curves, methods),
        sweeps=_sweeps(curves, methods),
        comparisons=compared,
        failures=[
            (method, metric, key, why)
            for (method, metric), summary in table.summaries.items()
            for key, why in summary.failures.items()
        ],
        protocol=asdict(table.protocol),
    )


class _Album:
    """Pictures of a data set: the cases that are shown whole, and thumbnails of extremes."""

    def __init__(self, results: Results, table: BenchmarkTable) -> None:
        self._results, self._table = results, table
        self._methods = _methods(table)
        self._thumbnails: dict[tuple[str, str], str | None] = {}
        self._anchors = {
            key: f"case-{table.task}-{table.dataset}-{n}" for n, key in enumerate(self._chosen())
        }

    def cases(self) -> list[ShownCase]:
        return [self._case(key, anchor) for key, anchor in self._anchors.items()]

    def ends(self, metric: str) -> list[Ends]:
        """Best and worst of every method."""
        found = []
        for method in self._methods:
            ranked = self._ranked(method, metric)
            cut = min(EXTREMES, len(ranked) // 2)
            if cut:
                best, worst = ranked[:cut], ranked[: -cut - 1 : -1]
                some = [[self._extreme(method, *one) for one in end] for end in (best, worst)]
                found.append(Ends(method, *some))
        return found

    def _chosen(self) -> list[str]:
        """Keys that have pictures: evenly spread ones, and each method's best and worst."""
        keys = sorted({key for one in self._table.summaries.values() for key in one.values})
        keys = [key for key in keys if any(self._path(name, key) for name in (INPUT, TARGET))]
        known = set(keys)
        chosen = [keys[n] for n in spread(len(keys), SPREAD_CASES)]
        for method, metric in itertools.product(self._methods, self._table.metrics[:1]):
            ranked = [key for key, _ in self._ranked(method, metric) if key in known]
            chosen += ranked[:1] + ranked[-1:]
        return sorted(set(chosen))

    def _case(self, key: str, anchor: str) -> ShownCase:
        layers, aspect = [], "1"
        for name in (INPUT, *self._methods, TARGET):
            if path := self._path(name, key):
                picture = load_image(path)
                aspect = f"{picture.shape[-1]} / {picture.shape[-2]}"
                layers.append(Layer(name, jpeg_uri(small(picture, _CASE_EDGE))))
        figures = {}
        for method in self._methods:
            own = {
                metric: number(summary.values[key])
                for metric in self._table.metrics
                if (summary := self._table.summaries.get((method, metric)))
                and key in summary.values
            }
            if own:
                figures[method] = own
        return ShownCase(key, anchor, aspect, layers, figures)

    def _extreme(self, method: str, key: str, value: float) -> Extreme:
        if (method, key) not in self._thumbnails:
            path = self._path(method, key)
            uri = jpeg_uri(small(load_image(path), _THUMBNAIL_EDGE)) if path else None
            self._thumbnails[method, key] = uri
        uri = self._thumbnails[method, key]
        return Extreme(key, number(value), uri, self._anchors.get(key))

    def _ranked(self, method: str, metric: str) -> list[tuple[str, float]]:
        """Keys and values from best to worst."""
        summary = self._table.summaries.get((method, metric))
        values = list(summary.values.items()) if summary else []
        sign = -1 if self._table.protocol.higher_is_better(metric) else 1
        return sorted(values, key=lambda one: (sign * one[1], one[0]))

    def _path(self, name: str, key: str) -> Path | None:
        return self._results.picture(self._table.task, self._table.dataset, name, key)


def _charts(curves: Sequence[Curve], methods: Sequence[str]) -> list[Chart]:
    charts = []
    for name, kind in KINDS.items():
        drawn: list[Curve] = []
        for method in methods:
            own = [c for c in curves if (c.kind, c.method) == (name, method)]
            drawn += [own[n] for n in spread(len(own), CURVES)]
        if drawn:
            wide = any(curve.key is not None for curve in drawn)
            charts.append(Chart(kind, name, wide, Markup(chart(name, drawn, methods))))
    return charts


def _sweeps(curves: Sequence[Curve], methods: Sequence[str]) -> list[Sweep]:
    sweeps = []
    for method in methods:
        own = [c for c in curves if c.method == method and c.pictures]
        for curve in (own[n] for n in spread(len(own), SWEEPS)):
            uris = [jpeg_uri(small(load_image(one), _SWEEP_EDGE)) for one in curve.pictures]
            steps = [(f"{k:.4g}", uri) for k, uri in zip(curve.x, uris, strict=True)]
            sweeps.append(Sweep(method, curve.key or "", steps))
    return sorted(sweeps, key=lambda one: one.key)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` evenly spread numbers below ``count``, both ends included."""
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, most)).tolist()})
