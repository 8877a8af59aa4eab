"""Tables of texts on a terminal, as Markdown and as LaTeX."""

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

ARROWS = {True: "↑", False: "↓"}
"""Direction in which a metric improves, by whether higher is better."""

_HEAD = 6  # characters of a line of a head on a terminal, at least
_RICH = {"best": "[bold]{}[/]", "published": "[dim]{}[/]", "not comparable": "[dim strike]{}[/]"}
_MARKDOWN = {"best": "**{}**", "not comparable": "~~{}~~"}
_LATEX = {"best": r"\textbf{{{}}}", "not comparable": r"\textcolor{{gray}}{{{}}}"}
_TEX = {
    "\\": r"\textbackslash{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        texts: its cells; the names of the columns are the head.
        styles: row number -> style of each cell: ``best``, ``published``, ``not comparable`` or
            nothing; rows without an entry are plain.
        left: so many columns from the left name the row and are aligned to the left.
        rule: there is a line below so many rows; None for none.
    """

    texts: pd.DataFrame
    styles: Mapping[int, Sequence[str]]
    left: int = 1
    rule: int | None = None

    def marked(
        self, escaped: Callable[[str], str], markup: Mapping[str, str]
    ) -> tuple[list[str], list[list[str]]]:
        """Head and rows with their styles in a markup language."""
        rows = []
        for number, row in enumerate(self.texts.itertuples(index=False)):
            styles = self.styles.get(number) or [""] * len(row)
            rows.append(
                [
                    markup.get(style, "{}").format(escaped(text))
                    for text, style in zip(row, styles, strict=True)
                ]
            )
        return [escaped(name) for name in self.texts.columns], rows


def cell_text(cell: Mapping[str, Any] | None, separator: str = " ", intervals: bool = True) -> str:
    """A mean with its interval, and n with failures where it is not over all images."""
    if cell is None:
        return "-"
    if cell["mean"] is None:
        failed = f"failed ({cell['failed']})" if cell["failed"] else "-"
        return "n/a" if cell["remedy"] else failed
    parts = [number(cell["mean"])]
    if intervals and cell["low"] is not None:
        parts.append(f"[{number(cell['low'])}, {number(cell['high'])}]")
    if short := shortfall(cell):
        parts.append(f"({short})")
    return separator.join(parts)


def shortfall(cell: Mapping[str, Any]) -> str:
    """How many images a mean is over, where not all that were asked for; else empty."""
    if cell["n"] is None or cell["n"] == cell["of"]:
        return ""
    return f"n {cell['n']}, {cell['failed']} failed" if cell["failed"] else f"n {cell['n']}"


def number(value: float) -> str:
    """Four decimals, two from 10 on."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def markdown(table: TextTable) -> str:
    """A pipe table."""
    head, rows = table.marked(escaped_markdown, _MARKDOWN)
    rule = ["---"] * table.left + ["---:"] * (len(head) - table.left)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows)).replace("\n ", " ")


def latex(table: TextTable) -> str:
    """A tabular of the package booktabs; cells that are not comparable are grey (xcolor)."""
    head, rows = table.marked(escaped_latex, _LATEX)
    texts = pd.DataFrame(rows, columns=head).style.hide(axis="index")
    columns = "l" * table.left + "r" * (len(head) - table.left)
    lines = texts.to_latex(hrules=True, column_format=columns).splitlines()
    if table.rule is not None:
        first = lines.index(r"\midrule") + 1
        lines.insert(first + table.rule, r"\midrule")
    return "\n".join(["% needs \\usepackage{booktabs,xcolor}", *lines, ""])


def terminal(table: TextTable, title: str, width: int) -> list[Table]:
    """As many tables as the columns need in a terminal so many characters wide."""
    groups: list[list[int]] = [[]]
    for column in range(table.left, table.texts.shape[1]):
        if groups[-1] and _width(_rich(table, [*groups[-1], column], "")) > width:
            groups.append([])
        groups[-1].append(column)
    titles = [title, *["(continued)"] * (len(groups) - 1)]
    return [_rich(table, group, title) for group, title in zip(groups, titles, strict=True)]


def _rich(table: TextTable, columns: Sequence[int], title: str) -> Table:
    head, rows = table.marked(escape, _RICH)
    shown = Table(title=escape(title), title_justify="left")
    chosen = [*range(table.left), *columns]
    for column in chosen:
        name = _wrapped(head[column], table.texts.iloc[:, column])
        shown.add_column(name, justify="left" if column < table.left else "right", overflow="fold")
    for number, row in enumerate(rows, 1):
        shown.add_row(*(row[column] for column in chosen), end_section=number == table.rule)
    return shown


def _wrapped(head: str, cells: Iterable[str]) -> str:
    """A head between whose words lines break, so that it is hardly wider than its column.

    An arrow stays with the word before it, and a count in brackets stays together.
    """
    width = max((len(line) for cell in cells for line in cell.splitlines()), default=0)
    words = re.sub(r" (?=[↑↓]|\d+\))", "\N{NO-BREAK SPACE}", head).replace("_", " ")
    return textwrap.fill(words, max(width, _HEAD), break_long_words=False, break_on_hyphens=False)


def _width(table: Table) -> int:
    console = Console(width=10_000)
    return Measurement.get(console, console.options, table).maximum


def escaped_markdown(text: str) -> str:
    return re.sub(r"([\\|*_~<>`#])", r"\\\1", text)


def escaped_latex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)
