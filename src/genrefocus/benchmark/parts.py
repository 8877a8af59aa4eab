"""Parts of a data set that figures are given of as well: cases by their blur, and by the lens."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pandas as pd

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.statistics import summarise
from genrefocus.benchmark.typeset import TextTable, cell_text
from genrefocus.data.order import spread

EDGES_PX = (0.0, 1.0, 2.0, 4.0)
BINS = ("below 1 px", "1 to 2 px", "2 to 4 px", "4 px and more")
VISIBLE = "2 px and more"
"""Cases whose blur can be seen at a glance."""
HELD_OUT = "held-out lens"
PARTS = (*BINS, VISIBLE, HELD_OUT)

TITLE = "by blur radius (the one that 1 % of the pixels exceed) and by lens"


def parts_of(case: Case) -> tuple[str, ...]:
    """The parts that a case belongs to; none where neither blur nor lens is known."""
    found = []
    if (blur := case.blur) is not None:
        ends = pairwise((*EDGES_PX, float("inf")))
        found += [name for name, (low, high) in zip(BINS, ends, strict=True) if low <= blur < high]
        found += [VISIBLE] if blur >= EDGES_PX[2] else []
    return (*found, HELD_OUT) if case.held_out_lens else tuple(found)


def summarise_parts(
    figures: pd.DataFrame, parts: Mapping[str, Sequence[str]], *, seed: int
) -> pd.DataFrame:
    """Means of every part with their intervals.

    Args:
        figures: the long table of a task and data set.
        parts: key -> its parts.
        seed: of the bootstrap.

    Returns:
        ``part``, in the order of ``PARTS``, ``of`` (its cases), and the columns of
        ``statistics.summarise``; no rows where no case has a part.
    """
    found = []
    for part in PARTS:
        keys = [key for key, own in parts.items() if part in own]
        some = figures[figures["key"].isin(keys)]
        if len(some):
            found.append(summarise(some, seed=seed).assign(part=part, of=len(keys)))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["part"])


def visible_first(keys: Sequence[str], parts: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of some keys with visible blur; all of them where none has."""
    return [key for key in keys if VISIBLE in parts.get(key, ())] or list(keys)


def over_blur(keys: Sequence[str], parts: Mapping[str, Sequence[str]], most: int) -> dict[str, str]:
    """About so many keys with the bin of their blur: of each bin alike, strong blur first.

    They are spread over all keys, without a bin, where no blur is known.
    """
    bins = {name: [key for key in keys if name in parts.get(key, ())] for name in reversed(BINS)}
    bins = {name: own for name, own in bins.items() if own} or {"": list(keys)}
    each = -(-most // len(bins))
    return {own[n]: name for name, own in bins.items() for n in spread(len(own), each)}


def parts_table(
    lines: pd.DataFrame,
    headings: Mapping[str, str],
    *,
    separator: str = " ",
    intervals: bool = True,
) -> TextTable:
    """The texts of parts: a row for each metric and method, a column for each part.

    Args:
        lines: of ``summarise_parts``, with rows.
        headings: metric -> its heading, of those that are shown.
        separator, intervals: see ``typeset.cell_text``.
    """
    counts = lines.drop_duplicates("part").set_index("part")["of"]
    cells = {
        (one["metric"], one["method"], one["part"]): one
        for one in lines.astype(object).where(lines.notna(), None).to_dict("records")
    }
    rows = [
        [
            headings[metric],
            method,
            *(
                cell_text(cells.get((metric, method, part)), separator, intervals)
                for part in counts.index
            ),
        ]
        for metric in headings
        for method in lines.loc[lines["metric"] == metric, "method"].unique()
    ]
    heads = [f"{part} (n {count})" for part, count in counts.items()]
    return TextTable(pd.DataFrame(rows, columns=["metric", "method", *heads]), {}, left=2)
