"""What a sweep over cells and seeds says: means, spread, and differences to its baseline.

A sweep is a folder with a plan, and a run in ``<cell>/seed_<number>/`` for every cell and seed. A
run leaves a result or, where it ended early, a failure; what has neither is missing. Cells are
compared with the baseline seed by seed: runs of one seed start from the same weights and draw in
the same way, so that their difference varies less than either figure.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student
from torch import Tensor

from genrefocus.data.images import load_image
from genrefocus.runs import FAILURE_NAME, PLAN_NAME, RESULT_NAME

CONFIDENCE = 0.95
HIGHER_IS_BETTER: Mapping[str, bool] = {
    "psnr": True,
    "ssim": True,
    "lpips": False,
    "dists": False,
    "lvcorr": True,
}
"""Metrics in the order of tables; others follow by name."""


@dataclass(frozen=True)
class Result:
    """What a run was measured at.

    Attributes:
        stage: whose network was measured, or ``chain``.
        figures: metric -> mean over the test pictures.
        references: method that needs no training -> the same figures of it.
        steps: optimiser steps of all stages of the run.
        test_data: name of a test set -> fingerprint of its content.
        pictures: folder with ``<sample>/{input,output,target}.png``; None without.
    """

    stage: str
    figures: Mapping[str, float]
    references: Mapping[str, Mapping[str, float]]
    steps: int
    test_data: Mapping[str, str]
    pictures: Path | None


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, by cell and seed.

    Attributes:
        folder: of the sweep.
        baseline: cell that others are compared with.
        cells, seeds: as planned, then those found beside.
        results: of finished runs.
        failures: (cell, seed) -> why the run ended; such a run has no result.
    """

    folder: Path
    baseline: str
    cells: tuple[str, ...]
    seeds: tuple[int, ...]
    results: Mapping[tuple[str, int], Result]
    failures: Mapping[tuple[str, int], str]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Planned runs that have neither result nor failure."""
        known = self.results.keys() | self.failures.keys()
        return [(c, s) for c in self.cells for s in self.seeds if (c, s) not in known]

    def of_cell(self, cell: str) -> dict[int, Result]:
        """Seed -> result of a cell's finished runs."""
        return {s: self.results[cell, s] for s in self.seeds if (cell, s) in self.results}


@dataclass(frozen=True)
class Figure:
    """One metric of one cell over the seeds.

    Attributes:
        mean: over seeds.
        spread: standard deviation over seeds (n - 1 in the denominator); None for one seed.
        n: seeds.
        difference: mean over the seeds that cell and baseline share of cell minus baseline; None
            for the baseline itself or without a shared seed.
        interval: 95 % confidence interval of that, by Student's t; None for fewer than two seeds.
        pairs: seeds shared with the baseline.
    """

    mean: float
    spread: float | None
    n: int
    difference: float | None
    interval: tuple[float, float] | None
    pairs: int


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
    results: dict[tuple[str, int], Result] = {}
    failures: dict[tuple[str, int], str] = {}
    for place in sorted(folder.glob("*/seed_*")):
        at = place.parent.name, int(place.name.removeprefix("seed_"))
        if (place / FAILURE_NAME).is_file():
            failures[at] = json.loads((place / FAILURE_NAME).read_bytes())["reason"]
        elif (place / RESULT_NAME).is_file():
            results[at] = _read_result(place / RESULT_NAME)
    found = sorted(results.keys() | failures.keys())
    cells = tuple(dict.fromkeys([*plan["cells"], *(cell for cell, _ in found)]))
    seeds = tuple(dict.fromkeys([*plan["seeds"], *(seed for _, seed in found)]))
    baseline = plan["baseline"] if baseline is None else baseline
    if baseline not in cells:
        raise ValueError(f"baseline {baseline} is no cell of {folder}: {', '.join(cells)}")
    sweep = Sweep(folder, baseline, cells, seeds, results, failures)
    if not results:
        raise ValueError(f"no run of {folder} is finished; {account(sweep)}")
    _require_one_test(sweep)
    return sweep


def _read_result(path: Path) -> Result:
    content = json.loads(path.read_bytes())
    pictures = content["pictures"]
    return Result(
        stage=content["stage"],
        figures=content["figures"],
        references=content["references"],
        steps=content["steps"],
        test_data=content["test_data"],
        pictures=None if pictures is None else path.parent / pictures,
    )


def _require_one_test(sweep: Sweep) -> None:
    [(first, reference), *others] = sweep.results.items()
    for at, result in others:
        if result.test_data == reference.test_data:
            continue
        names = result.test_data.keys() | reference.test_data.keys()
        differing = sorted(
            name for name in names if result.test_data.get(name) != reference.test_data.get(name)
        )
        raise ValueError(
            f"{_name(at)} was tested on other data than {_name(first)}: {', '.join(differing)}; "
            f"figures of different pictures are not compared, run one of them again"
        )


def _name(at: tuple[str, int]) -> str:
    return f"{at[0]}/seed_{at[1]}"


def metrics_of(sweep: Sweep) -> list[str]:
    """All metrics of any run, in the order of tables."""
    present = {name for result in sweep.results.values() for name in result.figures}
    return [*(n for n in HIGHER_IS_BETTER if n in present), *sorted(present - {*HIGHER_IS_BETTER})]


def compare(sweep: Sweep) -> dict[str, dict[str, Figure]]:
    """Cell -> metric -> figure, in the order of the plan, for cells with a finished run."""
    table: dict[str, dict[str, Figure]] = {}
    base = sweep.of_cell(sweep.baseline)
    for cell in sweep.cells:
        runs = sweep.of_cell(cell)
        figures = {}
        for metric in metrics_of(sweep):
            values = {s: r.figures[metric] for s, r in runs.items() if metric in r.figures}
            reference = {s: r.figures[metric] for s, r in base.items() if metric in r.figures}
            if values:
                figures[metric] = _figure(values, {} if cell == sweep.baseline else reference)
        if figures:
            table[cell] = figures
    return table


def _figure(values: Mapping[int, float], reference: Mapping[int, float]) -> Figure:
    own = list(values.values())
    differences = [value - reference[seed] for seed, value in values.items() if seed in reference]
    return Figure(
        mean=statistics.fmean(own),
        spread=statistics.stdev(own) if len(own) > 1 else None,
        n=len(own),
        difference=statistics.fmean(differences) if differences else None,
        interval=t_interval(differences) if len(differences) > 1 else None,
        pairs=len(differences),
    )


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of the mean of two or more values, by Student's t."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)) * error
    return mean - reach, mean + reach


def references_of(sweep: Sweep) -> dict[str, dict[str, float]]:
    """Method that needs no training -> metric -> figure; those that agree over all runs."""
    [first, *others] = sweep.results.values()
    return {
        method: dict(figures)
        for method, figures in first.references.items()
        if all(other.references.get(method) == figures for other in others)
    }


def account(sweep: Sweep) -> str:
    """One line on what is finished, what failed and why, and what is missing."""
    planned = len(sweep.cells) * len(sweep.seeds)
    parts = [f"{len(sweep.results)} of {planned} runs finished"]
    parts += [f"{_name(at)} failed: {reason}" for at, reason in sorted(sweep.failures.items())]
    if sweep.missing:
        parts.append(f"missing: {', '.join(_name(at) for at in sweep.missing)}")
    return "; ".join(parts)


def picture_grid(
    sweep: Sweep, *, count: int
) -> tuple[list[list[Tensor | None]], list[str], int] | None:
    """Test pictures of one seed: a row for each, with input, answer of every cell, and target.

    The seed is the first that most cells have finished.

    Returns:
        Rows and titles for ``pictures.contact_sheet``, and the seed; None where no run has
        pictures.
    """
    folders = {
        seed: {
            cell: result.pictures
            for cell in sweep.cells
            if (result := sweep.results.get((cell, seed))) and result.pictures
        }
        for seed in sweep.seeds
    }
    seed = max(sweep.seeds, key=lambda one: len(folders[one]))
    if not (chosen := folders[seed]):
        return None
    samples = [{path.name for path in folder.iterdir()} for folder in chosen.values()]
    rows: list[list[Tensor | None]] = []
    for sample in sorted(set.intersection(*samples))[:count]:
        first = next(iter(chosen.values())) / sample
        answers = [load_image(folder / sample / "output.png") for folder in chosen.values()]
        rows.append([load_image(first / "input.png"), *answers, load_image(first / "target.png")])
    return (rows, ["input", *chosen, "target"], seed) if rows else None


def plain(sweep: Sweep) -> dict[str, Any]:
    """The comparison as JSON data."""
    return {
        "baseline": sweep.baseline,
        "seeds": list(sweep.seeds),
        "cells": {
            cell: {
                "steps": sorted({result.steps for result in sweep.of_cell(cell).values()}),
                "figures": {metric: vars(figure) for metric, figure in figures.items()},
            }
            for cell, figures in compare(sweep).items()
        },
        "references": references_of(sweep),
        "failed": {_name(at): reason for at, reason in sweep.failures.items()},
        "missing": [_name(at) for at in sweep.missing],
    }
