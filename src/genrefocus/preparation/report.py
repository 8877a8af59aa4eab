"""The report of a preparation: one page to look through before training on what it made.

It shows counts, settings and gates, how every measure is distributed, evenly spread samples, the
extremes of every measure, and what was rejected. It holds all of its images, so that it can be
sent and opened anywhere, and equal sets give equal bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from genrefocus.data.images import is_image
from genrefocus.data.sample import SPLITS, Sample
from genrefocus.data.shards import ShardDataset
from genrefocus.preparation.ledger import (
    LEDGER_NAME,
    SAMPLES_NAME,
    distribution,
    find_sets,
    read_lines,
    read_summary,
)
from genrefocus.rejection import Rejected
from genrefocus.report import charts, ends, number, spread, write_page
from genrefocus.report.thumbnails import (
    Thumbnail,
    before_and_after,
    columns_of,
    file_uri,
    sample_thumbnails,
)

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
    "focus_quantile": "share of the image behind the plane of focus",
    "pixel_ratio": "pixel ratio (px/mm)",
    "focal_length_mm": "focal length (mm)",
    "f_number": "f-number",
    "ssim": "SSIM of the rendering with the photograph",
    "evaluations": "renderings that the search of K took",
    "mask_agreement": "agreement of the in-focus mask",
    "mask_share": "share of the image in focus",
    "registration_error": "registration error (px)",
    "exposure_shift": "exposure shift (stops)",
    "colour_shift": "colour shift (stops)",
    "correlation": "correlation of the registered pair",
    "sharpness_ratio": "sharpness of the photograph over that of its counterpart",
    "limited": "K brought to the greatest radius (1: yes)",
    "long_edge": "long edge (px)",
}


LedgerLine = Mapping[str, Any]
"""A line of the list of samples, or of the ledger."""


def write_report(out: str | Path, *, root: str | Path | None = None) -> Path:
    """Write ``report.html`` about a finished preparation into its folder.

    Args:
        out: folder of the preparation.
        root: of the source; images of rejected candidates whose name is a file below it are
            shown.

    Returns:
        The page.

    Raises:
        FileNotFoundError: the preparation is not finished, or parts of it are missing.
        ValueError: lists and sets do not belong together, or are damaged.
    """
    out = Path(out)
    summary = read_summary(out)
    parameters = summary["set"]["parameters"]
    samples = tabulate(read_lines(out / SAMPLES_NAME))
    album = SampleThumbnails(out, samples["key"])
    ledger = list(read_lines(out / LEDGER_NAME))
    rejected = tabulate(ledger)
    names = {*samples, *rejected} - {"name", "key", "split"}
    away = Counter(entry["split"] for entry in ledger)
    reasons = _by_reason(ledger)
    measures = [
        _measure(name, samples, rejected, parameters["gates"].get(name, {}), album)
        for name in sorted(names, key=_rank)
    ]
    return write_page(
        out / REPORT_NAME,
        "genrefocus.preparation",
        "report.html.j2",
        title=f"{parameters['route']} from {parameters['source']}",
        summary=summary,
        written=sum(summary["written"].values()),
        splits=[
            (split, written, away[split])
            for split in (*SPLITS, None)
            if (written := summary["written"].get(split, 0)) or away[split]
        ],
        reasons=[
            {
                "reason": reason,
                "count": len(some),
                "examples": [_with_image(some[n], root) for n in spread(len(some), EXAMPLES)],
            }
            for reason, some in reasons.items()
        ],
        measured_only=[name for name in summary["measured_only"] if name in names],
        parameters=parameters,
        measures=measures,
        sheet=album.sheet(samples.iloc[spread(len(samples), SHEET_SAMPLES)], SHEET_EDGE),
        curves=_calibrations(samples["key"], album, reasons),
        most_curves=CURVES,
    )


class SampleThumbnails:
    """Samples of a preparation by key, read one at a time and kept as thumbnails only.

    Raises:
        ValueError: a sample that is listed is in none of the sets.
    """

    def __init__(self, out: Path, keys: Iterable[str]) -> None:
        self._places: dict[str, tuple[ShardDataset, int]] = {}
        for dataset in find_sets(out).values():
            self._places |= {key: (dataset, n) for n, key in enumerate(dataset.keys)}
        for key in keys:
            if key not in self._places:
                raise ValueError(
                    f"{out / SAMPLES_NAME} lists {key}, which no set in {out} holds; they "
                    "are of two preparations, delete the folder and prepare it again"
                )
        self._extremes: dict[str, Thumbnail] = {}

    def provenance(self, key: str) -> dict[str, Any]:
        """Provenance alone, without reading images."""
        dataset, number = self._places[key]
        return dict(dataset.metadata(number)["provenance"])

    def sheet(self, listed: pd.DataFrame, long_edge: int) -> dict[str, Any]:
        """What ``sheet.html.j2`` shows of listed samples."""
        rows = []
        for one in listed.itertuples():
            sample = self._sample(one.key)
            facts = f"{one.split}, {sample.size[0]} x {sample.size[1]} px"
            if sample.strength is not None:
                facts += f", K {number(sample.strength.k)}"
                facts += f", focus at {number(sample.focus_disparity)} 1/m"
            images = sample_thumbnails(sample, long_edge)
            rows.append({"name": one.name, "key": one.key, "facts": facts, "images": images})
        return {"columns": columns_of(row["images"] for row in rows), "rows": rows}

    def extremes(self, listed: pd.DataFrame, values: pd.Series) -> list[dict[str, Any]]:
        """Thumbnails of the samples that some values of a measure belong to."""
        for key in listed.loc[values.index, "key"]:
            if key not in self._extremes:
                self._extremes[key] = before_and_after(self._sample(key), _EXTREME_EDGE)
        return [
            {"name": one.name, "key": one.key, "image": self._extremes[one.key], "value": value}
            for one, value in zip(listed.loc[values.index].itertuples(), values, strict=True)
        ]

    def _sample(self, key: str) -> Sample:
        dataset, number = self._places[key]
        return dataset[number]


def tabulate(entries: Iterable[LedgerLine]) -> pd.DataFrame:
    """Name, key, split and measures of those entries that were measured.

    Returns:
        Columns ``name`` (of the item in its source), ``key`` (of the sample), ``split`` and a
        column for each measure, NaN where an entry has none.
    """
    measured = [one for one in entries if "measures" in one]
    names = pd.DataFrame(measured, columns=["name", "key", "split"])
    return names.join(pd.DataFrame([one["measures"] for one in measured], dtype=float))


def _by_reason(ledger: Sequence[LedgerLine]) -> dict[str, list[LedgerLine]]:
    """What was rejected for each reason, the most frequent first."""
    found: dict[str, list[LedgerLine]] = defaultdict(list)
    for entry in ledger:
        found[entry["reason"]].append(entry)
    return dict(sorted(found.items(), key=lambda one: (-len(one[1]), one[0])))


def _calibrations(
    keys: Sequence[str], album: SampleThumbnails, rejected: Mapping[str, Sequence[LedgerLine]]
) -> Markup | None:
    """SSIM over K of evenly spread samples whose K was calibrated, and of rejected ones."""
    accepted = (album.provenance(keys[n]) for n in spread(len(keys), CURVES))
    groups = {"accepted": [one.get("calibration") for one in accepted]}
    groups |= {
        reason: [some[n]["value"] for n in spread(len(some), CURVES)]
        for reason, some in rejected.items()
    }
    panels = {}
    for title, found in groups.items():
        colour = "accepted" if title == "accepted" else "rejected"
        points = [one["curve"] for one in found if isinstance(one, dict) and one.get("curve")]
        sorted_points = (np.array(sorted(some), dtype=np.float64).T for some in points)
        if drawn := [charts.Series(k, ssim, colour) for k, ssim in sorted_points]:
            panels[title] = drawn
    if not panels:
        return None
    return charts.curves(panels, x="K (px at 1/m)", y="SSIM", log_x=True, best=True)


def _with_image(entry: LedgerLine, root: str | Path | None) -> dict[str, Any]:
    """A rejected candidate with its image, where it has one that can be shown."""
    image = None
    if root is not None:
        path = Path(root) / entry["name"]
        if path.resolve().is_relative_to(Path(root).resolve()) and is_image(path):
            with suppress(Rejected):
                image = file_uri(path, SHEET_EDGE)
    return {**entry, "image": image}


def _measure(
    name: str,
    samples: pd.DataFrame,
    rejected: pd.DataFrame,
    gate: Mapping[str, Any],
    album: SampleThumbnails,
) -> dict[str, Any]:
    """What the page says of a measure; levels and extremes are of accepted samples."""
    columns = [
        table[name] if name in table else pd.Series(np.nan, table.index)
        for table in (samples, rejected)
    ]
    accepted, away = (column.to_numpy() for column in columns)
    together = np.concatenate([accepted, away])
    both = distribution(together)
    varies = bool(both) and both["min"] < both["max"]
    set_gate = {side: value for side, value in gate.items() if value is not None}
    lowest, highest = ends(columns[0], EXTREMES if varies else 0)
    return {
        "name": name,
        "title": TITLES.get(name, name),
        "levels": distribution(accepted),
        "chart": charts.histogram(accepted, away, set_gate) if varies else None,
        "gate": ", ".join(f"{side} {number(value)}" for side, value in sorted(set_gate.items())),
        "without": int((~np.isfinite(together)).sum()),
        "lowest": album.extremes(samples, lowest),
        "highest": album.extremes(samples, highest),
    }


def _rank(name: str) -> tuple[int, str]:
    order = list(TITLES)
    return (order.index(name) if name in TITLES else len(order)), name
