"""Verdicts of a person on samples: which to look at, a list to fill in, and what it says."""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from genrefocus.preparation.ledger import (
    LEDGER_NAME,
    SAMPLES_NAME,
    read_lines,
    read_summary,
)
from genrefocus.preparation.report import SampleThumbnails, tabulate
from genrefocus.report import spread, write_page
from genrefocus.writing import write_atomically

_VERDICTS = {"1": True, "yes": True, "0": False, "no": False, "": None}
_LONG_EDGE = 320  # px


def write_template(out: Path, path: Path, *, most: int, measures: Sequence[str]) -> Path:
    """A list of samples to fill in, and a page that shows them.

    Args:
        out: folder of the preparation.
        path: of the list, ``.csv``; the page lies beside it as ``.html``.
        most: samples, > 0.
        measures: that the samples are spread over, see :func:`choose`.

    Returns:
        The page.

    Raises:
        FileNotFoundError: the preparation is not finished.
        ValueError: the list exists, and may hold verdicts; or its name does not end in ``.csv``.
    """
    if path.suffix != ".csv":
        raise ValueError(f"{path}: the list of samples to review must end in .csv")
    if path.exists():
        raise ValueError(f"{path} exists and may hold verdicts; delete it or choose another name")
    summary = read_summary(out)
    measured = tabulate(read_lines(out / SAMPLES_NAME))
    chosen = measured.iloc[choose(measured, measures, most)]
    album = SampleThumbnails(out, chosen["key"])
    path.parent.mkdir(parents=True, exist_ok=True)
    page = write_page(
        path.with_suffix(".html"),
        "genrefocus.preparation",
        "review.html.j2",
        title=f"{summary['set']['parameters']['route']}: samples to review",
        list_name=path.name,
        width="18rem",
        sheet=album.sheet(chosen, _LONG_EDGE),
    )
    write_atomically(
        path, "".join(["key,good\n", *(f"{key},\n" for key in chosen["key"])]).encode()
    )
    return page


def choose(measured: pd.DataFrame, measures: Sequence[str], most: int) -> list[int]:
    """Numbers of samples whose values are spread over the whole range of every measure, by rank.

    Measures take turns: ends first, then the middle, the quarters and so on. Where no measure
    varies, the samples are evenly spread over the list.
    """
    queues = []
    for name in measures:
        column = measured.get(name, pd.Series(dtype=float))
        ordered = column[np.isfinite(column)].sort_values(kind="stable")
        if ordered.nunique() > 1:
            queues.append(map(ordered.index.__getitem__, _coarse_to_fine(len(ordered))))
    if not queues:
        return spread(len(measured), most)
    chosen: set[int] = set()
    for number in itertools.chain.from_iterable(itertools.zip_longest(*queues)):
        if number is not None and len(chosen) < most:
            chosen.add(int(number))
    return sorted(chosen)


def read_verdicts(path: Path) -> dict[str, bool | None]:
    """Key -> whether the sample is good, None where that is left open.

    Args:
        path: CSV with columns ``key`` and ``good`` (1, 0, yes, no or nothing); may have others.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a column is missing, a key occurs twice, or a verdict is something else.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets mark their files
        rows = csv.DictReader(file)
        found = rows.fieldnames or []
        if missing := [name for name in ("key", "good") if name not in found]:
            raise ValueError(
                f"{path} lacks the column {' and '.join(missing)}, it has "
                f"{', '.join(found) or 'none'}; the first line must be key,good"
            )
        verdicts: dict[str, bool | None] = {}
        for row in rows:
            key, verdict = (str(row[name] or "").strip() for name in ("key", "good"))
            place = f"{path}, line {rows.line_num}"
            if key in verdicts:
                raise ValueError(f"{place}: key {key} occurs twice; keep one of the two lines")
            if verdict.lower() not in _VERDICTS:
                raise ValueError(f"{place}: good is {verdict!r}; give 1, 0, yes, no or nothing")
            verdicts[key] = _VERDICTS[verdict.lower()]
    return verdicts


def join_measures(
    out: Path, verdicts: Mapping[str, bool | None], measures: Sequence[str]
) -> tuple[pd.DataFrame, pd.Series]:
    """Measures and verdicts of the samples that have a verdict, in the order of the list.

    Samples that a gate turned away take part, since they were measured.

    Returns:
        A row for each key with a column for each of ``measures`` that occurs, NaN where a sample
        has none; and bool by the same keys.

    Raises:
        FileNotFoundError: the preparation is not finished.
        ValueError: a key that is not of this preparation, or that was turned away unmeasured.
    """
    read_summary(out)
    lists = [tabulate(read_lines(out / name)) for name in (SAMPLES_NAME, LEDGER_NAME)]
    measured = pd.concat(lists).set_index("key")
    if unknown := [key for key in verdicts if key not in measured.index]:
        shown = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{len(unknown)} of {len(verdicts)} reviewed keys were not measured in {out}: {shown}; "
            "keys must be those of its samples.jsonl, or of rejections.jsonl with measures"
        )
    good = pd.Series({key: one for key, one in verdicts.items() if one is not None}, dtype=bool)
    return measured.loc[good.index, [name for name in measures if name in measured]], good


def _coarse_to_fine(count: int) -> Iterator[int]:
    """All numbers below ``count``: the ends, the middle, the quarters, and so on."""
    seen: set[int] = set()
    for level in range(count.bit_length() + 2):
        for rank in np.linspace(0, count - 1, 2**level + 1).round():
            if rank not in seen:
                seen.add(int(rank))
                yield int(rank)
