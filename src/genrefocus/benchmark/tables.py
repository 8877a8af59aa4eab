"""Tables of a benchmark: on a terminal, as Markdown, as LaTeX, and as data.

A mean is marked as the best among means over the same pictures: rows with failures, and published
rows that our protocol does not reproduce, are shown and never marked.
"""

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from genrefocus.benchmark.protocol import Protocol
from genrefocus.benchmark.published import IDENTITY, rows_for
from genrefocus.benchmark.results import Results
from genrefocus.benchmark.rows import Row
from genrefocus.benchmark.statistics import Comparison, Summary, compare, summarise
from genrefocus.writing import write_atomically

PAIRED_COLUMNS = (
    "metric",
    "first",
    "second",
    "n",
    "difference",
    "interval",
    "better",
    "equal",
    "worse",
    "p",
    "left out",
)
"""Columns of :func:`paired_rows`."""

PAIRED_TITLE = "paired: mean of first minus second over the pictures that both have a value of"

_LEFT: dict[str, Any] = {"title_justify": "left", "caption_justify": "left"}

ARROWS = {True: "↑", False: "↓"}


@dataclass(frozen=True)
class Cell:
    """A metric of a line.

    Attributes:
        mean, low, high: None where there is none.
        n: pictures in the mean; None in published lines.
        of: pictures that were asked for.
        failures: pictures where it failed.
        untold: pictures that the metric says nothing about.
        remedy: what makes the metric available; None where it is.
        comparable: whether it may be the best: it is over all pictures that any method has a
            value of.
        best: whether it is.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    of: int = 0
    failures: int = 0
    untold: int = 0
    remedy: str | None = None
    comparable: bool = False
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A method in a table.

    Attributes:
        method: its name.
        cells: metric -> cell; metrics without rows are absent.
        source: table of the paper; None for our own.
        version: of the paper.
        objection: why it may not be compared; None where it may.
    """

    method: str
    cells: Mapping[str, Cell]
    source: str | None = None
    version: str | None = None
    objection: str | None = None


@dataclass(frozen=True)
class BenchmarkTable:
    """The methods of a task on a data set.

    Attributes:
        task, dataset: what was measured.
        protocol: what it was measured under.
        metrics: names of the columns.
        pictures: metric -> how many pictures were asked for it.
        lines: our own first, then published ones.
        summaries: (method, metric) -> summary, of our own.
        notes: what to know about the lines.
        remedies: what makes metrics available that are not.
    """

    task: str
    dataset: str
    protocol: Protocol
    metrics: tuple[str, ...]
    pictures: Mapping[str, int]
    lines: tuple[Line, ...]
    summaries: Mapping[tuple[str, str], Summary]
    notes: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.task} on {self.dataset}, protocol {self.protocol.hash[:12]}"

    def heading(self, metric: str) -> str:
        """Name of a metric with the direction in which it improves."""
        return f"{metric} {ARROWS[self.protocol.higher_is_better(metric)]}"


def build_tables(results: Results, *, seed: int) -> list[BenchmarkTable]:
    """A table for each task and data set.

    Args:
        results: of one folder or several.
        seed: of the bootstrap.
    """
    return [
        _table(results, task, dataset, protocol, seed)
        for (task, dataset), protocol in results.protocols.items()
    ]


def comparisons(
    results: Results, table: BenchmarkTable, pairs: Iterable[tuple[str, str]], *, seed: int
) -> dict[str, list[Comparison]]:
    """Metric -> paired comparisons; pairs that have no rows of a metric are left out.

    Args:
        results: which the table is of.
        table: the task, the data set and the metrics.
        pairs: names of methods.
        seed: of resampling and sign flips.
    """
    grouped = _grouped(results, table.task, table.dataset)
    listed = list(pairs)
    found: dict[str, list[Comparison]] = {}
    for metric in table.metrics:
        sides = [(grouped.get((a, metric)), grouped.get((b, metric))) for a, b in listed]
        some = [
            compare(a, b, higher_is_better=table.protocol.higher_is_better(metric), seed=seed)
            for a, b in sides
            if a and b
        ]
        if some := [one for one in some if one.n]:
            found[metric] = some
    return found


def records(tables: Iterable[BenchmarkTable]) -> list[dict[str, Any]]:
    """Our own lines as JSON data, one record for each method and metric: ``results.json``."""
    return [
        {
            "task": table.task,
            "dataset": table.dataset,
            "method": line.method,
            "n": cell.n,
            "metric": metric,
            "mean": cell.mean,
            "low": cell.low,
            "high": cell.high,
            "failures": cell.failures + cell.untold,
            "protocol": table.protocol.hash,
        }
        for table in tables
        for line in table.lines
        if line.source is None
        for metric, cell in line.cells.items()
    ]


def paired_rows(
    table: BenchmarkTable, compared: Mapping[str, Sequence[Comparison]]
) -> list[list[str]]:
    """Paired comparisons as texts, a row for each; columns are ``PAIRED_COLUMNS``."""
    return [
        [
            table.heading(metric),
            one.first,
            one.second,
            str(one.n),
            "-" if one.difference is None else number(one.difference),
            "-" if one.low is None or one.high is None else bounds(one.low, one.high),
            *map(str, (one.wins, one.ties, one.losses)),
            "-" if one.p is None else f"{one.p:.2g}",
            ", ".join(one.excluded),
        ]
        for metric, some in compared.items()
        for one in some
    ]


def rich_remedies(tables: Sequence[BenchmarkTable]) -> RenderableType:
    """What makes metrics available, once for all tables."""
    remedies = dict.fromkeys(remedy for table in tables for remedy in table.remedies)
    return Text("\n".join(remedies), style="dim")


def rich_tables(table: BenchmarkTable, width: int) -> list[RenderableType]:
    """For a terminal so many characters wide: as many tables as the columns need, and the notes.

    Below 100 characters there are no intervals. See :func:`rich_remedies` too.
    """
    intervals = width >= _ROOMY
    # A column without a figure would only take the room of others; the notes say why.
    metrics = [
        metric
        for metric in table.metrics
        if any((cell := line.cells.get(metric)) and not cell.remedy for line in table.lines)
    ]
    room = width - _FRAME - 1 - max(len(name_of(line)) for line in table.lines)
    groups: list[dict[str, int]] = [{}]
    left = room
    for metric in metrics:
        texts = [_shown(line, metric, intervals)[0] for line in table.lines]
        words = [word for text in (_heading(table, metric), *texts) for word in _words(text)]
        least = max(map(len, words))
        if groups[-1] and least + _FRAME > left:
            groups.append({})
            left = room
        groups[-1][metric] = least
        left -= least + _FRAME
    shown = [_rich_table(table, group, intervals) for group in groups]
    for further in shown[1:]:
        further.title = "(continued)"
    head = notes_of(table)[0]
    if not intervals:
        head = head.replace(
            "Means with their 95 % bootstrap interval, where there are 8 values or more",
            "Means; a terminal of 100 characters shows intervals, and so does tables.md",
        )
    return [*shown, Text("\n".join([head, *table.notes]) + "\n", style="dim")]


_ROOMY, _FRAME = 100, 3  # characters


def _rich_table(table: BenchmarkTable, metrics: Mapping[str, int], intervals: bool) -> RichTable:
    """Of metrics with the width that each needs."""
    shown = RichTable(title=escape(table.title), **_LEFT)
    longest = max(len(name_of(line)) for line in table.lines)
    shown.add_column("method", overflow="fold", min_width=longest)
    for metric, least in metrics.items():
        lines = textwrap.wrap(_heading(table, metric), least, break_long_words=False)
        shown.add_column(escape("\n".join(lines)), justify="right")
    for line in table.lines:
        texts = []
        for text, best in (_shown(line, metric, intervals) for metric in metrics):
            texts.append(f"[bold]{escape(text)}[/bold]" if best else escape(text))
        style = "dim strike" if line.objection else "dim" if line.source else ""
        shown.add_row(escape(name_of(line)), *texts, style=style)
        if line is _last_own(table):
            shown.add_section()
    return shown


def _heading(table: BenchmarkTable, metric: str) -> str:
    """In words, so that a narrow column can break it."""
    return table.heading(metric).replace("_", " ")


def _shown(line: Line, metric: str, intervals: bool) -> tuple[str, bool]:
    text, best = _cell_text(line, metric, "\n", intervals=intervals)
    return text, best


def _words(text: str) -> list[str]:
    """What may not be broken: words of a heading, the last with its arrow; lines of a cell."""
    if any(arrow in text for arrow in ARROWS.values()):
        words = text.split()
        return [*words[:-2], " ".join(words[-2:])]
    return text.split("\n")


def rich_paired(rows: Iterable[Sequence[str]]) -> RichTable:
    """:func:`paired_rows` for a terminal."""
    shown = RichTable(title=PAIRED_TITLE, **_LEFT)
    for column, name in enumerate(PAIRED_COLUMNS):
        shown.add_column(name, overflow="fold", justify="right" if column >= 3 else "left")
    for *row, left_out in rows:
        count = len(left_out.split(", ")) if left_out else 0
        shown.add_row(*map(escape, row), str(count))
    return shown


def markdown(table: BenchmarkTable) -> str:
    """As a pipe table; best values in bold, lines that may not be compared struck out."""
    head = ["method", *(table.heading(metric) for metric in table.metrics)]
    lines = [f"### {_md(table.title)}", "", _pipes(map(_md, head))]
    lines.append(_pipes(["---", *("---:" for _ in table.metrics)]))
    for line in table.lines:
        texts = [(_md(name_of(line)), False)]
        texts += [(_md(text), best) for text, best in (_cell_text(line, m) for m in table.metrics)]
        struck = "~~{}~~" if line.objection else "{}"
        lines.append(_pipes(f"**{text}**" if best else struck.format(text) for text, best in texts))
    lines += ["", *(f"- {_md(note)}" for note in notes_of(table)), ""]
    return "\n".join(lines)


def markdown_paired(rows: Iterable[Sequence[str]]) -> str:
    """:func:`paired_rows` as a pipe table."""
    lines = [_pipes(PAIRED_COLUMNS), _pipes("---" for _ in PAIRED_COLUMNS)]
    lines += [_pipes(map(_md, row)) for row in rows]
    return "\n".join([f"#### {PAIRED_TITLE}", "", *lines, ""])


def latex(table: BenchmarkTable) -> str:
    """As a table of the package booktabs; lines that may not be compared are grey (xcolor)."""
    arrows = {True: r"$\uparrow$", False: r"$\downarrow$"}
    higher = table.protocol.higher_is_better
    head = ["method", *(f"{_tex(metric)} {arrows[higher(metric)]}" for metric in table.metrics)]
    lines = [
        "% needs \\usepackage{booktabs,xcolor}",
        "\\begin{tabular}{l" + "r" * len(table.metrics) + "}",
        "\\toprule",
        " & ".join(head) + r" \\",
        "\\midrule",
    ]
    for line in table.lines:
        texts = [_tex(name_of(line))]
        for text, best in (_cell_text(line, metric) for metric in table.metrics):
            texts.append(f"\\textbf{{{_tex(text)}}}" if best else _tex(text))
        if line.objection:
            texts = [f"\\textcolor{{gray}}{{{text}}}" for text in texts]
        lines.append(" & ".join(texts) + r" \\")
        if line is _last_own(table) and line is not table.lines[-1]:
            lines.append("\\midrule")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {_tex(note)}" for note in (table.title, *notes_of(table))]
    return "\n".join(lines) + "\n"


def latex_paired(rows: Iterable[Sequence[str]]) -> str:
    """:func:`paired_rows` as a table of the package booktabs."""
    lines = ["\\begin{tabular}{lllrrrrrrrl}", "\\toprule"]
    lines += [" & ".join(PAIRED_COLUMNS) + r" \\", "\\midrule"]
    lines += [" & ".join(map(_tex, row)) + r" \\" for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"% {PAIRED_TITLE}", ""])


def name_of(line: Line) -> str:
    """The method, published ones marked."""
    if line.source is None:
        return line.method
    doubt = ", not comparable" if line.objection else ""
    return f"{line.method} (published, {line.source}{doubt})"


def notes_of(table: BenchmarkTable) -> list[str]:
    """Everything that stands below a table."""
    counts = ", ".join(f"{metric} {count}" for metric, count in table.pictures.items())
    if len(set(table.pictures.values())) == 1:
        counts = str(next(iter(table.pictures.values())))
    return [
        f"Pictures (n): {counts}. Means with their 95 % bootstrap interval, where there are 8 "
        "values or more; n stands beside a mean over fewer pictures. Bold: the best of the "
        "comparable means. Units: docs/metrics.md.",
        *table.notes,
        *table.remedies,
    ]


def write_tables(tables: Sequence[BenchmarkTable], folder: str | Path) -> None:
    """Write ``results.json``, ``tables.md`` and ``tables.tex`` into a folder."""
    folder = Path(folder)
    text = json.dumps(records(tables), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "results.json", text.encode())
    write_atomically(folder / "tables.md", "\n".join(map(markdown, tables)).encode())
    write_atomically(folder / "tables.tex", "\n".join(map(latex, tables)).encode())


def number(value: float) -> str:
    """Four decimals, two from 10 on."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def bounds(low: float, high: float) -> str:
    """An interval."""
    return f"[{number(low)}, {number(high)}]"


def cell_text(cell: Cell | None, separator: str = " ", *, intervals: bool = True) -> str:
    """A cell in plain text: mean, interval, and n with failures where the mean is over fewer."""
    if cell is None:
        return "-"
    if cell.mean is None:
        return "n/a" if cell.remedy else f"failed ({cell.failures})" if cell.failures else "-"
    text = number(cell.mean)
    if intervals and cell.low is not None and cell.high is not None:
        text += f"{separator}{bounds(cell.low, cell.high)}"
    if short := shortfall(cell):
        text += f"{separator}({short})"
    return text


def shortfall(cell: Cell) -> str:
    """How many pictures a mean is over, where not all that were asked for; else empty."""
    if cell.n is None or cell.n == cell.of:
        return ""
    return f"n {cell.n}, {cell.failures} failed" if cell.failures else f"n {cell.n}"


def _cell_text(
    line: Line, metric: str, separator: str = " ", *, intervals: bool = True
) -> tuple[str, bool]:
    cell = line.cells.get(metric)
    return cell_text(cell, separator, intervals=intervals), cell is not None and cell.best


def _table(
    results: Results, task: str, dataset: str, protocol: Protocol, seed: int
) -> BenchmarkTable:
    grouped = _grouped(results, task, dataset)
    summaries = {pair: summarise(rows, seed=seed) for pair, rows in grouped.items()}
    present = {metric for _, metric in grouped}
    metrics = tuple(metric for metric in protocol.metrics if metric in present)
    asked = {
        metric: {row.key for (_, own), rows in grouped.items() if own == metric for row in rows}
        for metric in metrics
    }
    # What no method has a value of cannot be told from the picture, and is missing for all alike.
    told = {
        metric: {key for (_, own), one in summaries.items() if own == metric for key in one.values}
        for metric in metrics
    }
    methods = results.methods(task, dataset)
    own = [
        Line(
            method,
            {
                metric: _cell(summaries[method, metric], told[metric], len(asked[metric]))
                for metric in metrics
                if (method, metric) in summaries
            },
        )
        for method in sorted(methods, key=lambda name: name.partition(" @ ")[0] != IDENTITY)
    ]
    lines = [*own, *_published(own, task, dataset, protocol, metrics)]
    return BenchmarkTable(
        task=task,
        dataset=dataset,
        protocol=protocol,
        metrics=metrics,
        pictures={metric: len(keys) for metric, keys in asked.items()},
        lines=tuple(_with_best(lines, protocol, metrics)),
        summaries=summaries,
        notes=(*results.notes.get((task, dataset), ()), *_notes(lines, summaries)),
        remedies=tuple(
            dict.fromkeys(
                f"n/a: {metric}: {cell.remedy}"
                for line in own
                for metric, cell in line.cells.items()
                if cell.remedy
            )
        ),
    )


def _cell(summary: Summary, told: set[str], asked: int) -> Cell:
    return Cell(
        mean=summary.mean,
        low=summary.low,
        high=summary.high,
        n=summary.n,
        of=asked,
        failures=len(summary.failures),
        untold=len(summary.untold),
        remedy=summary.remedy,
        comparable=set(summary.values) == told,
    )


def _published(
    own: Sequence[Line], task: str, dataset: str, protocol: Protocol, metrics: Sequence[str]
) -> list[Line]:
    """Published lines in the columns that we have."""
    inputs = [line for line in own if line.method.partition(" @ ")[0] == IDENTITY]
    ours = {
        metric: cell.mean
        for line in inputs[:1]
        for metric, cell in line.cells.items()
        if cell.n == cell.of and cell.mean is not None
    }
    lines = []
    for row in rows_for(task, dataset, protocol, ours):
        cells = {
            metric: Cell(row.values[metric], comparable=row.objection is None and metric in ours)
            for metric in metrics
            if metric in row.values
        }
        lines.append(
            Line(row.method, cells, row.source, version=row.version, objection=row.objection)
        )
    return lines


def _with_best(lines: Sequence[Line], protocol: Protocol, metrics: Sequence[str]) -> list[Line]:
    best: dict[str, float] = {}
    for metric in metrics:
        means = [
            cell.mean
            for line in lines
            if (cell := line.cells.get(metric)) and cell.comparable and cell.mean is not None
        ]
        if len(means) > 1:
            best[metric] = max(means) if protocol.higher_is_better(metric) else min(means)
    return [
        replace(
            line,
            cells={
                metric: replace(cell, best=cell.comparable and cell.mean == best.get(metric, nan))
                for metric, cell in line.cells.items()
            },
        )
        for line in lines
    ]


def _notes(lines: Sequence[Line], summaries: Mapping[tuple[str, str], Summary]) -> list[str]:
    notes: dict[str, None] = {}
    for line in lines:
        if line.source is not None:
            checked = ", ".join(metric for metric, cell in line.cells.items() if cell.comparable)
            verdict = line.objection or f"comparable in {checked}, where the Input row agrees"
            notes[f"published rows of {line.source}, {line.version}: {verdict}"] = None
    return [*notes, *_failures(lines, summaries)]


_REASONS = 3  # of a method that are shown in full


def _failures(lines: Sequence[Line], summaries: Mapping[tuple[str, str], Summary]) -> Iterator[str]:
    """What failed of each method, with a reason; and where means are over other pictures."""
    untold: dict[str, int] = {}
    for line in lines:
        reasons: dict[tuple[str, str], list[str]] = {}
        for metric, cell in line.cells.items():
            untold[metric] = max(untold.get(metric, 0), cell.untold)
            if cell.failures:
                for place in summaries[line.method, metric].failures.items():
                    reasons.setdefault(place, []).append(metric)
        shown = [
            f"{key} ({', '.join(metrics)}): {why}"
            for (key, why), metrics in list(reasons.items())[:_REASONS]
        ]
        more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        if shown:
            yield f"{line.method} failed on {'; '.join(shown)}{more}"
    if some := {metric: count for metric, count in untold.items() if count}:
        yield (
            "Nothing to be told from up to so many pictures (no depth edge, nothing in focus, "
            "not blurred enough): " + ", ".join(f"{metric} {n}" for metric, n in some.items())
        )
    short = {
        metric: None
        for line in lines
        for metric, cell in line.cells.items()
        if line.source is None and cell.mean is not None and not cell.comparable
    }
    if short:
        yield (
            f"over different pictures for different methods, so not compared as means but in "
            f"pairs: {', '.join(short)}"
        )


def _grouped(results: Results, task: str, dataset: str) -> dict[tuple[str, str], list[Row]]:
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        if (row.task, row.dataset) == (task, dataset):
            grouped.setdefault((row.method, row.metric), []).append(row)
    return grouped


def _last_own(table: BenchmarkTable) -> Line | None:
    own = [line for line in table.lines if line.source is None]
    return own[-1] if own else None


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _md(text: str) -> str:
    return re.sub(r"([\\|*_~<>`#])", r"\\\1", text)


_TEX = {
    "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
