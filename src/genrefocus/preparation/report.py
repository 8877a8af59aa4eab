"""The report of a preparation: one page to look through before training on what it made.

It shows counts, settings and gates, how every measure is distributed, evenly spread samples, the
extremes of every measure, and what was rejected. It holds all of its pictures, so that it can be
sent and opened anywhere, and equal sets give equal bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from genrefocus.data.images import is_picture, load_image
from genrefocus.data.sample import SPLITS, Sample
from genrefocus.data.shards import ShardDataset
from genrefocus.pages import jpeg_uri, number, render_page, small
from genrefocus.preparation import charts
from genrefocus.preparation.outcome import (
    LEDGER_NAME,
    SAMPLES_NAME,
    Listed,
    Measured,
    distribution,
    find_sets,
    read_lines,
    read_summary,
    spread,
    tabulate,
)
from genrefocus.preparation.thumbnails import (
    Thumbnail,
    before_and_after,
    columns_of,
    sample_thumbnails,
)
from genrefocus.rejection import Rejected
from genrefocus.writing import write_atomically

REPORT_NAME = "report.html"

SHEET_SAMPLES = 24
EXAMPLES = 8  # of each reason
EXTREMES = 5  # at either end of a measure
CURVES = 40  # of each group

SHEET_EDGE, _EXTREME_EDGE = 200, 112  # px

# In the order of the page; others follow by name.
TITLES = {
    "k": "K (px at 1/m)",
    "largest_radius": "largest blur radius (px)",
    "p99_radius": "99th percentile of the blur radius (px)",
    "focus_disparity": "focus disparity (1/m)",
    "focus_quantile": "share of the picture behind the plane of focus",
    "pixel_ratio": "pixel ratio (px/mm)",
    "focal_length_mm": "focal length (mm)",
    "f_number": "f-number",
    "ssim": "SSIM of the rendering with the photograph",
    "evaluations": "renderings that the search of K took",
    "mask_agreement": "agreement of the in-focus mask",
    "mask_share": "share of the picture in focus",
    "registration_error": "registration error (px)",
    "exposure_shift": "exposure shift (stops)",
    "colour_shift": "colour shift (stops)",
    "correlation": "correlation of the registered pair",
    "sharpness_ratio": "sharpness of the photograph over that of its counterpart",
    "limited": "K brought to the greatest radius (1: yes)",
    "long_edge": "long edge (px)",
}


@dataclass(frozen=True)
class Row:
    """A sample on a sheet."""

    listed: Listed
    pictures: Mapping[str, Thumbnail | None]
    facts: str


@dataclass(frozen=True)
class Extreme:
    """A sample whose value of a measure is extreme."""

    listed: Listed
    picture: Thumbnail
    value: str


@dataclass(frozen=True)
class Rejections:
    """What was turned away for one reason."""

    reason: str
    count: int
    examples: Sequence[Mapping[str, Any]]
    curves: Sequence[charts.Curve] = field(default=())


@dataclass(frozen=True)
class Measure:
    """What the page says of a measure; levels and extremes are of accepted samples."""

    name: str
    title: str
    levels: Mapping[str, float]
    chart: Markup | None
    gate: str
    without: int
    lowest: Sequence[Extreme]
    highest: Sequence[Extreme]


def write_report(out: str | Path, *, root: str | Path | None = None) -> Path:
    """Write ``report.html`` about a finished preparation into its folder.

    Args:
        out: folder of the preparation.
        root: of the source; pictures of rejected candidates whose name is a file below it are
            shown.

    Returns:
        The page.

    Raises:
        FileNotFoundError: the preparation is not finished, or parts of it are missing.
        ValueError: lists and sets do not belong together, or are damaged.
    """
    out = Path(out)
    summary = read_summary(out)
    samples = tabulate(read_lines(out / SAMPLES_NAME))
    ledger = _Ledger(out / LEDGER_NAME)
    album = Album(out, samples.entries)
    parameters = summary["set"]["parameters"]
    measures = _measures(samples, ledger.measured, parameters["gates"], album)
    known = {measure.name for measure in measures}
    reasons = [_with_picture(one, root) for one in ledger.reasons]
    page = render_page(
        "genrefocus.preparation",
        "report.html.j2",
        title=f"{parameters['route']} from {parameters['source']}",
        summary=summary,
        written=sum(summary["written"].values()),
        splits=[
            (split, summary["written"].get(split, 0), ledger.by_split[split])
            for split in (*SPLITS, None)
            if summary["written"].get(split) or ledger.by_split[split]
        ],
        reasons=reasons,
        measured_only=[name for name in summary["measured_only"] if name in known],
        parameters=parameters,
        measures=measures,
        **album.sheet(
            [samples.entries[n] for n in spread(len(samples.entries), SHEET_SAMPLES)], SHEET_EDGE
        ),
        curves=_curves(samples.entries, album, ledger.reasons),
        most_curves=CURVES,
    )
    path = out / REPORT_NAME
    write_atomically(path, page.encode())
    return path


class Album:
    """Samples of a preparation by key, read one at a time and kept as thumbnails only.

    Raises:
        ValueError: a sample that is listed is in none of the sets.
    """

    def __init__(self, out: Path, entries: Iterable[Listed]) -> None:
        self._places: dict[str | None, tuple[ShardDataset, int]] = {}
        for dataset in find_sets(out).values():
            self._places |= {key: (dataset, n) for n, key in enumerate(dataset.keys)}
        for entry in entries:
            if entry.key not in self._places:
                raise ValueError(
                    f"{out / SAMPLES_NAME} lists {entry.key}, which no set in {out} holds; they "
                    "are of two preparations, delete the folder and prepare it again"
                )
        self._extremes: dict[str | None, Thumbnail] = {}

    def provenance(self, key: str | None) -> dict[str, Any]:
        """Provenance alone, without reading pictures."""
        dataset, number = self._places[key]
        return dict(dataset.metadata(number)["provenance"])

    def sheet(self, entries: Iterable[Listed], long_edge: int) -> dict[str, Any]:
        """What the template of a sheet shows: ``columns`` and the rows of ``sheet``."""
        rows = [self._row(entry, long_edge) for entry in entries]
        columns = columns_of(row.pictures for row in rows)
        missing: dict[str, Thumbnail | None] = dict.fromkeys(columns)
        rows = [Row(row.listed, missing | dict(row.pictures), row.facts) for row in rows]
        return {"columns": columns, "sheet": rows}

    def extreme(self, entry: Listed, value: float) -> Extreme:
        if entry.key not in self._extremes:
            self._extremes[entry.key] = before_and_after(self._sample(entry.key), _EXTREME_EDGE)
        return Extreme(entry, self._extremes[entry.key], number(value))

    def _row(self, entry: Listed, long_edge: int) -> Row:
        sample = self._sample(entry.key)
        facts = f"{entry.split}, {sample.size[0]} x {sample.size[1]} px"
        if sample.strength is not None:
            facts += f", K {number(sample.strength.k)}"
            facts += f", focus at {number(sample.focus_disparity)} 1/m"
        return Row(entry, sample_thumbnails(sample, long_edge), facts)

    def _sample(self, key: str | None) -> Sample:
        dataset, number = self._places[key]
        return dataset[number]


class _Ledger:
    """The ledger in two passes: counts and measures, then evenly spread examples."""

    def __init__(self, path: Path) -> None:
        self.by_split: Counter[str | None] = Counter()
        counts: Counter[str] = Counter()
        self.measured = tabulate(self._counted(read_lines(path), counts))
        examples = _chosen(path, {reason: spread(n, EXAMPLES) for reason, n in counts.items()})
        curved = _chosen(path, {reason: spread(n, CURVES) for reason, n in counts.items()})
        self.reasons = [
            Rejections(reason, count, examples[reason], _curves_of(curved[reason]))
            for reason, count in sorted(counts.items(), key=lambda one: (-one[1], one[0]))
        ]

    def _counted(
        self, entries: Iterable[dict[str, Any]], counts: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        for entry in entries:
            self.by_split[entry["split"]] += 1
            counts[entry["reason"]] += 1
            yield entry


def _chosen(path: Path, wanted: Mapping[str, Sequence[int]]) -> dict[str, list[dict[str, Any]]]:
    """Those entries of each reason that have the wanted numbers among their like."""
    seen: Counter[str] = Counter()
    chosen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in read_lines(path):
        reason = entry["reason"]
        if seen[reason] in wanted[reason]:
            chosen[reason].append(entry)
        seen[reason] += 1
    return chosen


def _curves_of(entries: Iterable[Mapping[str, Any]]) -> list[charts.Curve]:
    values = (entry["value"] for entry in entries)
    return [value["curve"] for value in values if isinstance(value, dict) and value.get("curve")]


def _curves(
    entries: Sequence[Listed], album: Album, reasons: Sequence[Rejections]
) -> Markup | None:
    """SSIM over K of evenly spread samples whose K was calibrated, and of rejected ones."""
    chosen = [entries[number].key for number in spread(len(entries), CURVES)]
    found = (album.provenance(key).get("calibration", {}).get("curve") for key in chosen)
    accepted = [curve for curve in found if curve]
    rejected = {one.reason: one.curves for one in reasons if one.curves}
    return Markup(charts.curves(accepted, rejected)) if accepted or rejected else None


def _with_picture(one: Rejections, root: str | Path | None) -> Rejections:
    examples = [{**entry, "picture": _picture(entry["name"], root)} for entry in one.examples]
    return Rejections(one.reason, one.count, examples, one.curves)


def _picture(name: str, root: str | Path | None) -> str | None:
    """The picture of a rejected candidate; None where it has none that can be shown."""
    if root is None:
        return None
    path = Path(root) / name
    if not path.resolve().is_relative_to(Path(root).resolve()) or not is_picture(path):
        return None
    try:
        return jpeg_uri(small(load_image(path), SHEET_EDGE))
    except Rejected:
        return None


def _measures(
    samples: Measured, rejected: Measured, gates: Mapping[str, Any], album: Album
) -> list[Measure]:
    names = sorted({*samples.columns, *rejected.columns}, key=_rank)
    return [
        _measure(
            name,
            _column(samples, name),
            _column(rejected, name),
            {side: x for side, x in gates.get(name, {}).items() if x is not None},
            samples.entries,
            album,
        )
        for name in names
    ]


def _measure(
    name: str,
    accepted: NDArray[np.float64],
    rejected: NDArray[np.float64],
    gate: Mapping[str, float],
    entries: Sequence[Listed],
    album: Album,
) -> Measure:
    title = TITLES.get(name, name)
    together = np.concatenate([accepted, rejected])
    levels = distribution(accepted)
    both = distribution(together)
    varies = bool(both) and both["min"] < both["max"]
    chart = Markup(charts.histogram(accepted, rejected, gate)) if varies else None
    order = [n for n in np.argsort(accepted, kind="stable") if np.isfinite(accepted[n])]
    cut = min(EXTREMES, len(order) // 2) if varies else 0
    shown = [
        [album.extreme(entries[n], float(accepted[n])) for n in some]
        for some in (order[:cut], order[len(order) - cut :])
    ]
    return Measure(
        name=name,
        title=title,
        levels=levels,
        chart=chart,
        gate=", ".join(f"{side} {number(value)}" for side, value in sorted(gate.items())),
        without=int((~np.isfinite(together)).sum()),
        lowest=shown[0],
        highest=shown[1],
    )


def _column(measured: Measured, name: str) -> NDArray[np.float64]:
    return measured.columns.get(name, np.full(len(measured.entries), np.nan))


def _rank(name: str) -> tuple[int, str]:
    order = list(TITLES)
    return (order.index(name) if name in TITLES else len(order)), name
