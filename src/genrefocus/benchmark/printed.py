"""Tables of a benchmark on a terminal: all figures, or the main ones."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from genrefocus.benchmark import typeset
from genrefocus.benchmark.parts import TITLE, parts_table
from genrefocus.benchmark.tables import (
    PAIRED_TITLE,
    WITH_INTERVALS,
    BenchmarkTable,
    explanation,
    headings,
    legend,
    paired_table,
    text_table,
)

_WIDE = 100  # characters of a terminal that shows intervals
_MAIN = {"psnr", "ssim", "lpips", "lvcorr", "blur_radius_error", "shape_recognised"}


def shown(
    tables: Sequence[BenchmarkTable], width: int, *, paired: bool = False
) -> Iterator[RenderableType]:
    """Tables and notes for a terminal so many characters wide; below 100 without intervals.

    Args:
        tables: to show.
        width: of the terminal.
        paired: whether to show the paired comparisons too.
    """
    wide = width >= _WIDE
    for table in tables:
        texts = text_table(table, table.measured, separator="\n", intervals=wide)
        yield from _with_notes(table, texts, width)
        if len(table.parts):
            heads = headings(table, table.measured)
            by_part = parts_table(table.parts, heads, separator="\n", intervals=wide)
            yield from typeset.terminal(by_part, f"{table.task} on {table.dataset}, {TITLE}", width)
        if paired and len(table.compared):
            yield from typeset.terminal(paired_table(table, narrow=True), PAIRED_TITLE, width)
    means = "Means; a terminal of 100 characters shows intervals, and so does tables.md"
    remedies = dict.fromkeys(remedy for table in tables for remedy in table.remedies)
    lines = [*explanation(tables, WITH_INTERVALS if wide else means), *remedies]
    yield Text("\n".join(lines), style="dim")


def summary(tables: Sequence[BenchmarkTable], width: int) -> Iterator[RenderableType]:
    """The main metrics without intervals, a row for each method; all where none of them is there.

    Args:
        tables: to show.
        width: of the terminal.
    """
    missing: dict[str, None] = {}
    for table in tables:
        missing |= dict.fromkeys(table.lines.dropna(subset="remedy")["metric"])
        main = [metric for metric in table.measured if metric in _MAIN] or table.measured
        yield from _with_notes(table, text_table(table, main, intervals=False), width)
    lines = explanation(tables, "Means of the main metrics")
    if missing:
        lines += [f"Not available here: {', '.join(missing)}; tables.md says what they need."]
    yield Text("\n".join([*lines, ""]), style="dim")


def _with_notes(
    table: BenchmarkTable, texts: typeset.TextTable, width: int
) -> Iterator[RenderableType]:
    yield from typeset.terminal(texts, table.title, width)
    yield Text("\n".join([legend(table), *table.notes, ""]), style="dim")
