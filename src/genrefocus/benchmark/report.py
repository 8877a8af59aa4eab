"""The report of a benchmark: one page that holds tables, images and curves, and loads nothing."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from genrefocus.benchmark.parts import parts_table, visible_first
from genrefocus.benchmark.results import INPUT, TARGET, Results
from genrefocus.benchmark.tables import (
    BenchmarkTable,
    explanation,
    failures_in,
    legend,
    paired_table,
    plain,
)
from genrefocus.benchmark.typeset import cell_text, number, shortfall
from genrefocus.data.images import load_image
from genrefocus.report import charts, ends, spread, write_page
from genrefocus.report.thumbnails import file_uri, jpeg_uri, small

REPORT_NAME = "report.html"

CASES = 8  # evenly spread over what has visible blur
EXTREMES = 3  # at either end, of each method and metric
CURVES = 40  # of each method and kind
SERIES = 4  # rows of images over K, of each method

_CASE_EDGE, _THUMBNAIL_EDGE, _SERIES_EDGE = 480, 128, 160  # px

_CHARTS: Mapping[str, Mapping[str, Any]] = {
    "ssim_k": {
        "title": "Search of K",
        "explanation": "SSIM with the target over K, a line for each image; dots are the K that "
        "was taken. A sound curve has one peak within its ends.",
        "axes": {"x": "K (px at 1/m)", "y": "SSIM", "log_x": True, "best": True},
    },
    "lvcorr": {
        "title": "LVCorr",
        "explanation": "Laplacian variance over K, focus fixed, a line for each image. It should "
        "fall.",
        "axes": {"x": "K (px at 1/m)", "y": "Laplacian variance", "log_x": True, "log_y": True},
    },
    "radius_error": {
        "title": "Error by blur radius",
        "explanation": "Error of the blur radius of the answer, by the requested radius. "
        "Mean over the images with such places.",
        "axes": {"x": "blur radius asked for (px)", "y": "mean error (px)"},
    },
}


def write_report(results: Results, tables: Sequence[BenchmarkTable], path: str | Path) -> Path:
    """Write a page about results.

    Args:
        results: of one folder or several.
        tables: of these, from ``tables.build_tables``.
        path: of the page.

    Returns:
        The page.

    Raises:
        Rejected: an image that cannot be read.
    """
    return write_page(
        path,
        "genrefocus.benchmark",
        "report.html.j2",
        title=f"Benchmark: {results.name}",
        sections=[_section(results, table) for table in tables],
        cell_text=cell_text,
        shortfall=shortfall,
        legend=legend,
        explanation=explanation(tables),
        figure=number,
    )


def _section(results: Results, table: BenchmarkTable) -> dict[str, Any]:
    """What the page says of a task and data set."""
    album = _CaseImages(results, table)
    cases = [album.case(key) for key in album.anchors]
    present = {name for case in cases for name in case["layers"]}
    # The last method, but not one that is a variant of another, such as trained_true_aif.
    own = table.methods
    whole = [one for one in own if not any(one.startswith(f"{other}_") for other in own)]
    answers = [name for name in reversed(whole) if name in present]
    headings = {metric: table.heading(metric) for metric in table.metrics}
    curves = results.curves
    drawn = curves[(curves["task"] == table.task) & (curves["dataset"] == table.dataset)]
    return {
        "anchor": f"{table.task}-{table.dataset}",
        "table": table,
        "layers": [name for name in (INPUT, *own, TARGET) if name in present],
        "right": answers[0] if answers else TARGET,
        "cases": cases,
        "ends": {metric: album.ends(metric) for metric in table.metrics},
        "charts": _charts(drawn, own),
        "series": _series(drawn, own),
        "parts": parts_table(table.parts, headings).texts if len(table.parts) else None,
        "paired": paired_table(table).texts,
        "failures": plain(failures_in(table.figures)),
        "protocol": asdict(table.protocol),
    }


class _CaseImages:
    """Images of a data set: the cases that are shown whole, and thumbnails of extremes."""

    def __init__(self, results: Results, table: BenchmarkTable) -> None:
        self._results, self._table = results, table
        self._thumbnails: dict[tuple[str, str], str | None] = {}
        self._values = table.figures.dropna(subset="value").sort_values("key")
        keys = [
            key
            for key in self._values["key"].unique()
            if any(self._path(name, key) for name in (INPUT, TARGET))
        ]
        seen = visible_first(keys, results.parts.get((table.task, table.dataset), {}))
        chosen = {seen[n] for n in spread(len(seen), CASES)}
        for method, metric in itertools.product(table.methods, table.metrics[:1]):
            values = self._of(method, metric)
            for end in ends(values[values.index.isin(keys)], 1):
                chosen |= set(end.index)
        place = f"case-{table.task}-{table.dataset}"
        self.anchors = {key: f"{place}-{n}" for n, key in enumerate(sorted(chosen))}

    def case(self, key: str) -> dict[str, Any]:
        """A case with its images and all of its figures."""
        layers, aspect = {}, "1"
        for name in (INPUT, *self._table.methods, TARGET):
            if path := self._path(name, key):
                image = load_image(path)
                aspect = f"{image.shape[-1]} / {image.shape[-2]}"
                layers[name] = jpeg_uri(small(image, _CASE_EDGE))
        own = self._values[self._values["key"] == key]
        figures = {
            method: {one.metric: number(one.value) for one in some.itertuples()}
            for method in self._table.methods
            if len(some := own[own["method"] == method])
        }
        anchor = self.anchors[key]
        return {
            "key": key,
            "anchor": anchor,
            "aspect": aspect,
            "layers": layers,
            "figures": figures,
        }

    def ends(self, metric: str) -> list[dict[str, Any]]:
        """Best and worst images of every method."""
        higher = self._table.protocol.higher_is_better(metric)
        found = []
        for method in self._table.methods:
            best, worst = ends(self._of(method, metric), EXTREMES, ascending=not higher)
            if len(best):
                sides = {"best": best, "worst": worst}
                shown = {side: self._extremes(method, some) for side, some in sides.items()}
                found.append({"method": method, **shown})
        return found

    def _extremes(self, method: str, values: pd.Series) -> list[dict[str, Any]]:
        for key in values.index:
            if (method, key) not in self._thumbnails:
                path = self._path(method, key)
                uri = file_uri(path, _THUMBNAIL_EDGE) if path else None
                self._thumbnails[method, key] = uri
        return [
            {
                "key": key,
                "value": number(value),
                "uri": self._thumbnails[method, key],
                "anchor": self.anchors.get(key),
            }
            for key, value in values.items()
        ]

    def _of(self, method: str, metric: str) -> pd.Series:
        """Key -> value."""
        found = self._values
        found = found[(found["method"] == method) & (found["metric"] == metric)]
        return found.set_index("key")["value"]

    def _path(self, name: str, key: str) -> Path | None:
        return self._results.image(self._table.task, self._table.dataset, name, key)


def _charts(curves: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """A chart of each kind: a panel for each method, or one for all where none is of an image."""
    found = []
    for kind, chart in _CHARTS.items():
        panels: dict[str, list[charts.Series]] = {}
        for place, method in enumerate(methods):
            own = curves[(curves["kind"] == kind) & (curves["method"] == method)]
            for curve in own.iloc[spread(len(own), CURVES)].itertuples():
                whole = pd.isna(curve.key)
                colour = charts.SERIES[place % len(charts.SERIES)]
                series = charts.Series(curve.x, curve.y, colour, method if whole else None)
                panels.setdefault("" if whole else method, []).append(series)
        if panels:
            drawing = charts.curves(panels, **chart["axes"])
            found.append({**chart, "name": kind, "wide": "" not in panels, "drawing": drawing})
    return found


def _series(curves: pd.DataFrame, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Answers of every method to some images over K."""
    found = []
    for method in methods:
        own = curves[(curves["method"] == method) & (curves["images"].str.len() > 0)]
        for curve in own.iloc[spread(len(own), SERIES)].itertuples():
            uris = [file_uri(path, _SERIES_EDGE) for path in curve.images]
            steps = [(f"{k:.4g}", uri) for k, uri in zip(curve.x, uris, strict=True)]
            found.append({"method": method, "key": curve.key, "steps": steps})
    return sorted(found, key=lambda one: one["key"])
