"""What a sweep over cells and seeds says: means, spread, and differences to its baseline.

A sweep is a folder with a plan, and a run in ``<cell>/seed_<number>/`` for every cell and seed. A
run leaves a result or, where it ended early, a failure; what has neither is missing. Cells are
compared with the baseline seed by seed: runs of one seed start from the same weights and draw in
the same way, so that their difference varies less than either figure.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t as student

from genrefocus.benchmark.tables import plain
from genrefocus.benchmark.typeset import ARROWS, TextTable
from genrefocus.runs import FAILURE_NAME, PLAN_NAME, RESULT_NAME

CONFIDENCE = 0.95
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "dists": False, "lvcorr": True}
"""Metrics in the order of tables; others follow by name."""

_DIGITS = {"psnr": 2}
_NAMES = {"psnr": "PSNR dB", "lvcorr": "LVCorr"}
_REFERENCES = {"identity": "unmodified input"}


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, by cell and seed.

    Attributes:
        folder: of the sweep.
        baseline: cell that others are compared with.
        cells, seeds: as planned, then those found beside.
        results: of finished runs, as their ``result.json`` holds it.
        failures: (cell, seed) -> why the run ended; such a run has no result.
    """

    folder: Path
    baseline: str
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    results: Mapping[tuple[str, int], Mapping[str, Any]]
    failures: Mapping[tuple[str, int], str]

    @property
    def missing(self) -> list[str]:
        """Planned runs that have neither result nor failure."""
        planned = ((cell, seed) for cell in self.cells for seed in self.seeds)
        known = self.results.keys() | self.failures.keys()
        return [_name(at) for at in planned if at not in known]

    def of_cell(self, cell: str) -> dict[int, Mapping[str, Any]]:
        """Seed -> result of a cell's finished runs."""
        return {s: self.results[cell, s] for s in self.seeds if (cell, s) in self.results}

    def steps(self, cell: str) -> list[int]:
        """Optimiser steps of a cell's finished runs, without repetition."""
        return sorted({result["steps"] for result in self.of_cell(cell).values()})


def read_sweep(folder: str | Path, *, baseline: str | None = None) -> Sweep:
    """All that is in a sweep's folder.

    Args:
        folder: of the sweep.
        baseline: cell to compare with; None takes the plan's.

    Raises:
        FileNotFoundError: no such folder, or it holds no sweep.
        ValueError: no result at all, no such baseline, or runs that were tested on other data.
    """
    folder = Path(folder)
    if not (folder / PLAN_NAME).is_file():
        raise FileNotFoundError(
            f"no {PLAN_NAME} in {folder}; name the folder of a sweep that "
            "`python train.py -m sweep=...` made"
        )
    plan = json.loads((folder / PLAN_NAME).read_bytes())
    results, failures = {}, {}
    for place in sorted(folder.glob("*/seed_*")):
        at = place.parent.name, int(place.name.removeprefix("seed_"))
        if (place / FAILURE_NAME).is_file():
            failures[at] = json.loads((place / FAILURE_NAME).read_bytes())["reason"]
        elif (place / RESULT_NAME).is_file():
            results[at] = json.loads((place / RESULT_NAME).read_bytes())
    found = sorted(results.keys() | failures.keys())
    cells = tuple(dict.fromkeys([*plan["cells"], *(cell for cell, _ in found)]))
    seeds = tuple(dict.fromkeys([*plan["seeds"], *(seed for _, seed in found)]))
    baseline = plan["baseline"] if baseline is None else baseline
    if baseline not in cells:
        raise ValueError(
            f"baseline {baseline} is no cell of {folder}; give --baseline one of {', '.join(cells)}"
        )
    sweep = Sweep(folder, baseline, cells, seeds, results, failures)
    if not results:
        raise ValueError(f"no run of {folder} is finished; {account(sweep)}")
    [(first, reference), *others] = results.items()
    for at, result in others:
        if differing := dict(result["test_data"].items() ^ reference["test_data"].items()):
            raise ValueError(
                f"{_name(at)} was tested on other data than {_name(first)}: "
                f"{', '.join(sorted(differing))}; figures of different images are not compared, "
                "run one of them again"
            )
    return sweep


def _name(at: tuple[str, int]) -> str:
    return f"{at[0]}/seed_{at[1]}"


def compare(sweep: Sweep) -> pd.DataFrame:
    """Cells with a finished run in the order of the plan, metric by metric.

    Returns:
        Columns ``cell``, ``metric``, ``mean`` over the seeds, ``spread`` (standard deviation, n - 1
        in the denominator), ``n`` (seeds); ``difference`` (mean of cell minus baseline over the
        seeds that both have), ``low`` and ``high`` of its 95 % confidence interval by Student's t,
        and ``pairs`` (those seeds). What does not exist is NaN.
    """
    present = {metric for result in sweep.results.values() for metric in result["figures"]}
    order = [*(n for n in HIGHER_IS_BETTER if n in present), *sorted(present - {*HIGHER_IS_BETTER})]

    def values(cell: str, metric: str) -> pd.Series:
        runs = sweep.of_cell(cell)
        found = {seed: run["figures"].get(metric) for seed, run in runs.items()}
        return pd.Series(found, dtype=float).dropna()

    rows = []
    for cell in sweep.cells:
        for metric in order:
            if (own := values(cell, metric)).empty:
                continue
            other = values(sweep.baseline, metric)
            differences = (own - other).dropna() if cell != sweep.baseline else other[:0]
            reach = student.ppf(0.5 + CONFIDENCE / 2, len(differences) - 1) * differences.sem()
            rows.append(
                {
                    "cell": cell,
                    "metric": metric,
                    "mean": own.mean(),
                    "spread": own.std(),
                    "n": len(own),
                    "difference": differences.mean(),
                    "low": differences.mean() - reach,
                    "high": differences.mean() + reach,
                    "pairs": len(differences),
                }
            )
    return pd.DataFrame(rows)


def references_of(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Method that needs no training -> metric -> figure; those that agree over all runs."""
    [first, *others] = sweep.results.values()
    return {
        method: dict(figures)
        for method, figures in first["references"].items()
        if all(other["references"].get(method) == figures for other in others)
    }


def account(sweep: Sweep) -> str:
    """One line on what is finished, what failed and why, and what is missing."""
    planned = len(sweep.cells) * len(sweep.seeds)
    parts = [f"{len(sweep.results)} of {planned} runs finished"]
    parts += [f"{_name(at)} failed: {reason}" for at, reason in sorted(sweep.failures.items())]
    if sweep.missing:
        parts.append(f"missing: {', '.join(sweep.missing)}")
    return "; ".join(parts)


def text_table(sweep: Sweep, *, separator: str = " ") -> TextTable:
    """Texts of the comparison: mean ± spread, then the difference with its interval."""
    found = compare(sweep)
    metrics = list(found["metric"].unique())
    rows = []
    for cell, figures in found.groupby("cell", sort=False):
        name = f"{cell} (baseline)" if cell == sweep.baseline else str(cell)
        texts = {one["metric"]: _text(one, separator) for one in plain(figures)}
        steps = "/".join(map(str, sweep.steps(str(cell))))
        head = [name, steps, str(len(sweep.of_cell(str(cell))))]
        rows.append([*head, *(texts.get(metric, "-") for metric in metrics)])
    cells = len(rows)
    for method, values in references_of(sweep).items():
        shown = (f"{values[m]:.{_digits(m)}f}" if m in values else "-" for m in metrics)
        rows.append([_REFERENCES.get(method, method), "", "", *shown])
    arrows = {metric: ARROWS[higher] for metric, higher in HIGHER_IS_BETTER.items()}
    heads = [f"{_NAMES.get(m, m.upper())} {arrows.get(m, '')}" for m in metrics]
    texts = pd.DataFrame(rows, columns=["cell", "steps", "seeds", *map(str.strip, heads)])
    return TextTable(texts, {}, left=1, rule=cells if cells < len(rows) else None)


def _digits(metric: str) -> int:
    return _DIGITS.get(metric, 4)


def _text(one: Mapping[str, Any], separator: str) -> str:
    digits = _digits(one["metric"])
    mean = f"{one['mean']:.{digits}f}"
    parts = [mean if one["spread"] is None else f"{mean} ± {one['spread']:.{digits}f}"]
    if one["difference"] is not None:
        parts.append(f"{one['difference']:+.{digits}f}")
    if one["low"] is not None:
        parts[-1] += f" [{one['low']:+.{digits}f}, {one['high']:+.{digits}f}]"
    return separator.join(parts)


def image_grid(sweep: Sweep, *, count: int) -> tuple[list[list[Path]], list[str], int]:
    """Test images of one seed: a row for each, with input, answer of every cell, and target.

    The seed is the first that most cells have finished. Images with visible blur are shown, where
    there are some.

    Returns:
        Rows of files and titles for ``report.contact_sheet``, and the seed; no rows where no run
        has images.
    """
    folders: dict[int, dict[str, dict[str, Path]]] = {seed: {} for seed in sweep.seeds}
    for (cell, seed), result in sweep.results.items():
        if images := result["images"]:
            run = sweep.folder / _name((cell, seed))
            folders[seed][cell] = {title: run / place for title, place in images.items()}
    seed = max(sweep.seeds, key=lambda one: len(folders[one]))
    chosen = {cell: folders[seed][cell] for cell in sweep.cells if cell in folders[seed]}
    if not chosen:
        return [], [], seed
    samples = [{path.name for path in one["output"].glob("*.png")} for one in chosen.values()]
    first, *_ = chosen.values()
    places = [first["input"], *(one["output"] for one in chosen.values()), first["target"]]
    shared = sorted(set.intersection(*samples))
    visible = {f"{key}.png" for cell in chosen for key in sweep.results[cell, seed]["visible"]}
    shared = [sample for sample in shared if sample in visible] or shared
    rows = [[place / sample for place in places] for sample in shared[:count]]
    return rows, ["input", *chosen, "target"], seed


def record(sweep: Sweep) -> dict[str, Any]:
    """The comparison as JSON data; ``figures`` has a record for each cell and metric."""
    return {
        "baseline": sweep.baseline,
        "seeds": list(sweep.seeds),
        "figures": [{**one, "steps": sweep.steps(one["cell"])} for one in plain(compare(sweep))],
        "references": references_of(sweep),
        "failed": {_name(at): reason for at, reason in sweep.failures.items()},
        "missing": sweep.missing,
    }
