"""Tables of a benchmark, from the long table of figures: what is averaged, compared and marked.

``build_tables`` makes a table for each task and data set, and ``write_tables`` writes them into
files. A mean is marked as the best among means over the same images: rows with failures, and
published rows that our protocol does not reproduce, are shown and never marked.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from genrefocus.benchmark import typeset
from genrefocus.benchmark.figures import NOT_AVAILABLE, UNDEFINED
from genrefocus.benchmark.parts import TITLE, parts_table, summarise_parts
from genrefocus.benchmark.protocol import BenchmarkProtocol
from genrefocus.benchmark.published import IDENTITY, published_figures
from genrefocus.benchmark.results import Results
from genrefocus.benchmark.statistics import compare, summarise
from genrefocus.benchmark.typeset import ARROWS, TextTable, cell_text, number
from genrefocus.writing import write_atomically

RECORDS_NAME = "results.json"
_MEANT = {
    IDENTITY: "the unmodified input",
    "base": "the frozen network without LoRA",
    "chain": "DeblurNet, then BokehNet",
}
WITH_INTERVALS = "Means with their 95 % bootstrap interval, where there are 8 values or more"
PAIRED_TITLE = "paired: mean of first minus second over the images that both have a value of"

_REASONS = 3  # of failures of a method that are shown in full

MethodPairs = Callable[[str, str, Sequence[str]], Iterable[tuple[str, str]]]
"""(task, data set, methods) -> the pairs of methods that are compared image by image."""


@dataclass(frozen=True)
class BenchmarkTable:
    """The methods of a task on a data set.

    Attributes:
        protocol: what was measured, and under what.
        figures: the long table of the task and data set.
        lines: a row for each method and metric, our own first, then published ones: the columns of
            ``statistics.summarise``; ``of`` (images that were asked for); ``source``, ``version``
            and ``objection`` of published ones; ``comparable`` (the mean is over all images that
            any method has a value of) and ``best``.
        compared: a row for each paired comparison: ``metric`` and ``statistics.compare``.
        parts: of parts of the data set, see ``benchmark.parts.summarise_parts``.
        notes: what to know about the lines.
        remedies: what makes metrics available that are not.
    """

    protocol: BenchmarkProtocol
    figures: pd.DataFrame
    lines: pd.DataFrame
    compared: pd.DataFrame
    parts: pd.DataFrame
    notes: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def task(self) -> str:
        return self.protocol.task

    @property
    def dataset(self) -> str:
        return self.protocol.dataset.name

    @property
    def title(self) -> str:
        return f"{self.task} on {self.dataset}, protocol {self.protocol.hash[:12]}"

    @property
    def metrics(self) -> list[str]:
        """Metrics with figures of ours, in the order of the protocol."""
        present = set(self.figures["metric"])
        return [metric for metric in self.protocol.metrics if metric in present]

    @property
    def measured(self) -> list[str]:
        """Those of ``metrics`` that have figures on this machine, or published ones."""
        without = self.lines.groupby("metric")["remedy"].agg(lambda some: some.notna().all())
        return [metric for metric in self.metrics if not without[metric]]

    @property
    def methods(self) -> list[str]:
        """Our own, in the order of the table."""
        return list(self.lines.loc[self.lines["source"].isna(), "method"].unique())

    def heading(self, metric: str) -> str:
        """Name of a metric with the direction in which it improves."""
        return f"{metric} {ARROWS[self.protocol.higher_is_better(metric)]}"

    def rows(self) -> list[dict[str, Any]]:
        """``method``, ``source``, ``objection`` and ``cells`` (metric -> line) of every row."""
        return [
            {
                **{name: cells[0][name] for name in ("method", "source", "objection")},
                "cells": {cell["metric"]: cell for cell in cells},
            }
            for _, some in self.lines.groupby(["method", "source"], sort=False, dropna=False)
            if (cells := plain(some))
        ]


def every_pair(task: str, dataset: str, methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All pairs, in the order of the table."""
    return itertools.combinations(methods, 2)


def build_tables(
    results: Results, *, seed: int, pairs: MethodPairs = every_pair
) -> list[BenchmarkTable]:
    """A table for each task and data set.

    Args:
        results: of one folder or several.
        seed: of the bootstrap and of sign flips.
        pairs: the methods that are compared image by image.
    """
    tables = []
    for (task, dataset), protocol in results.protocols.items():
        figures = results.figures
        figures = figures[(figures["task"] == task) & (figures["dataset"] == dataset)]
        lines = _lines(figures, protocol, seed)
        methods = list(lines.loc[lines["source"].isna(), "method"].unique())
        notes = (*results.notes.get((task, dataset), ()), *_notes(lines, figures))
        missing = lines.dropna(subset="remedy").drop_duplicates("metric")
        remedies = tuple(f"n/a: {one.metric}: {one.remedy}" for one in missing.itertuples())
        compared = _compared(figures, protocol, pairs(task, dataset, methods), seed)
        parts = summarise_parts(figures, results.parts.get((task, dataset), {}), seed=seed)
        tables.append(BenchmarkTable(protocol, figures, lines, compared, parts, notes, remedies))
    return tables


def markdown(table: BenchmarkTable) -> str:
    """Best values in bold, lines that may not be compared struck out."""
    notes = (legend(table), *table.notes, *table.remedies)
    lines = "\n".join(f"- {typeset.escaped_markdown(note)}" for note in notes)
    title = typeset.escaped_markdown(table.title)
    by_part = ""
    if len(table.parts):
        head = typeset.escaped_markdown(f"{table.task} on {table.dataset}, {TITLE}")
        texts = parts_table(table.parts, headings(table, table.metrics))
        by_part = f"\n{head}:\n\n{typeset.markdown(texts)}"
    whole = typeset.markdown(text_table(table, table.metrics))
    return f"### {title}\n\n{whole}\n{lines}\n{by_part}"


def latex(table: BenchmarkTable) -> str:
    """Best values in bold, lines that may not be compared grey; the notes are comments."""
    notes = (table.title, legend(table), *table.notes, *table.remedies)
    comments = "".join(f"% {typeset.escaped_latex(note)}\n" for note in notes)
    texts = [text_table(table, table.metrics)]
    texts += [parts_table(table.parts, headings(table, table.metrics))] if len(table.parts) else []
    return "\n".join(map(typeset.latex, texts)) + comments


def explained(tables: Sequence[BenchmarkTable], *, latex: bool) -> str:
    """:func:`explanation` behind the tables: paragraphs of Markdown, or comments of LaTeX."""
    if latex:
        return "".join(f"% {typeset.escaped_latex(one)}\n" for one in explanation(tables))
    return "".join(f"\n{typeset.escaped_markdown(one)}\n" for one in explanation(tables))


def write_tables(tables: Sequence[BenchmarkTable], folder: str | Path) -> None:
    """Write ``results.json``, ``tables.md`` and ``tables.tex`` into a folder."""
    folder = Path(folder)
    text = json.dumps(records(tables), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / RECORDS_NAME, text.encode())
    for name, form in (("tables.md", markdown), ("tables.tex", latex)):
        text = "\n".join(map(form, tables)) + explained(tables, latex=form is latex)
        write_atomically(folder / name, text.encode())


def records(tables: Iterable[BenchmarkTable]) -> list[dict[str, Any]]:
    """Our own lines as JSON data, one record for each method and metric: ``results.json``.

    Those of parts of a data set name it as ``part``, which is None for the whole.
    """
    return [
        {
            "task": table.task,
            "dataset": table.dataset,
            **{name: line[name] for name in ("method", "n", "metric", "mean", "low", "high")},
            "part": part,
            "failures": line["failed"] + line["undefined"],
            "protocol": table.protocol.hash,
        }
        for table in tables
        for part, line in (
            *((None, line) for line in plain(table.lines[table.lines["source"].isna()])),
            *((line["part"], line) for line in plain(table.parts)),
        )
    ]


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries, with None for what is missing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def text_table(
    table: BenchmarkTable,
    metrics: Sequence[str],
    *,
    separator: str = " ",
    intervals: bool = True,
) -> TextTable:
    """The texts of some metrics: mean, interval, and n with failures where it is not over all."""
    rows, styles = [], {}
    for place, row in enumerate(table.rows()):
        cells = [row["cells"].get(metric) for metric in metrics]
        style = "not comparable" if row["objection"] else "published" if row["source"] else ""
        best = ("best" if cell and cell["best"] else style for cell in cells)
        styles[place] = [style, *best]
        rows.append([name_of(row), *(cell_text(cell, separator, intervals) for cell in cells)])
    texts = pd.DataFrame(rows, columns=["method", *map(table.heading, metrics)])
    own = len(table.methods)
    return TextTable(texts, styles, rule=own if own < len(rows) else None)


def paired_table(table: BenchmarkTable, *, narrow: bool = False) -> TextTable:
    """The texts of the paired comparisons.

    ``narrow`` puts both methods into one column, and counts the keys left out, if there are any.
    """
    names = ["first, second"] if narrow else ["first", "second"]
    columns = ["metric", *names, "n", "difference", "interval"]
    columns += ["better", "equal", "worse", "p", "left out"]
    rows = [
        [
            table.heading(one["metric"]),
            *([f"{one['first']},\n{one['second']}"] if narrow else [one["first"], one["second"]]),
            str(one["n"]),
            number(one["difference"]),
            "-" if one["low"] is None else f"[{number(one['low'])}, {number(one['high'])}]",
            *(str(one[name]) for name in ("wins", "ties", "losses")),
            f"{one['p']:.2g}",
            str(len(one["excluded"])) if narrow else ", ".join(one["excluded"]),
        ]
        for one in plain(table.compared)
    ]
    texts = pd.DataFrame(rows, columns=columns)
    if narrow and (texts["left out"] == "0").all():
        texts = texts.drop(columns="left out")
    return TextTable(texts, {}, left=1 + len(names))


def name_of(row: Mapping[str, Any]) -> str:
    """The method, published ones marked."""
    if row["source"] is None:
        return row["method"]
    doubt = ", not comparable" if row["objection"] else ""
    return f"{row['method']} (published, {row['source']}{doubt})"


def headings(table: BenchmarkTable, metrics: Sequence[str]) -> dict[str, str]:
    """Metric -> its heading."""
    return {metric: table.heading(metric) for metric in metrics}


def legend(table: BenchmarkTable) -> str:
    """Over how many images the figures of a table are."""
    asked = table.figures.groupby("metric")["key"].nunique()[table.metrics]
    counts = ", ".join(f"{metric} {count}" for metric, count in asked.items())
    if asked.nunique() == 1:
        counts = str(asked.iloc[0])
    return f"Images (n): {counts}."


def explanation(tables: Sequence[BenchmarkTable], means: str = WITH_INTERVALS) -> list[str]:
    """What the figures of all tables are, and what names of methods mean, in two lines."""
    there = {method for table in tables for method in table.methods}
    named = [f"{name}: {meant}" for name, meant in _MEANT.items() if name in there]
    figures = (
        f"{means}; n stands beside a mean over fewer images. "
        "Bold: the best of the comparable means. Units: docs/metrics.md."
    )
    return [figures, *([f"{'; '.join(named)}."] if named else [])]


def _lines(figures: pd.DataFrame, protocol: BenchmarkProtocol, seed: int) -> pd.DataFrame:
    own = summarise(figures, seed=seed)
    own["of"] = own["metric"].map(figures.groupby("metric")["key"].nunique())
    # What no method has a value of is missing for all alike.
    valued = figures.dropna(subset="value").groupby("metric")["key"].nunique()
    own["comparable"] = own["n"] == own["metric"].map(valued)
    own = own.set_index(["method", "metric"])
    methods = sorted(own.index.unique("method"), key=lambda name: not _is_identity(name))
    order = [pair for pair in itertools.product(methods, protocol.metrics) if pair in own.index]
    own = own.loc[order].reset_index()
    inputs = own[own["method"].map(_is_identity) & (own["n"] == own["of"]) & own["mean"].notna()]
    ours = inputs.drop_duplicates("metric").set_index("metric")["mean"].to_dict()
    published = pd.DataFrame(
        [
            {**one, "comparable": one["objection"] is None and one["metric"] in ours}
            for one in published_figures(protocol, ours)
            if one["metric"] in set(own["metric"])
        ],
        columns=["method", "metric", "mean", "source", "version", "objection", "comparable"],
    )
    counts = {name: "Int64" for name in ("n", "of", "failed", "undefined")}
    lines = pd.concat([own.astype({"remedy": object}), published], ignore_index=True)
    lines = lines.astype({**counts, "comparable": bool, "source": object, "objection": object})
    lines["best"] = False
    for metric, some in lines[lines["comparable"]].groupby("metric"):
        means = some["mean"].dropna()
        if len(means) > 1:
            best = means.max() if protocol.higher_is_better(metric) else means.min()
            lines.loc[means.index[means == best], "best"] = True
    return lines


def _is_identity(method: str) -> bool:
    return method.partition(" @ ")[0] == IDENTITY


def _compared(
    figures: pd.DataFrame, protocol: BenchmarkProtocol, pairs: Iterable[tuple[str, str]], seed: int
) -> pd.DataFrame:
    """Without pairs that have no image of a metric in common."""
    listed, found = list(pairs), []
    for metric in protocol.metrics:
        some = figures[figures["metric"] == metric]
        higher = protocol.higher_is_better(metric)
        for first, second in listed:
            one = compare(some, first, second, higher_is_better=higher, seed=seed)
            if one["n"]:
                found.append({"metric": metric, **one})
    return pd.DataFrame(found)


def failures_in(figures: pd.DataFrame) -> pd.DataFrame:
    """The figures that a method failed to give."""
    failed = figures.dropna(subset="failure")
    missing = failed["failure"].str.startswith(NOT_AVAILABLE)
    return failed[~missing & (failed["failure"] != UNDEFINED)]


def _notes(lines: pd.DataFrame, figures: pd.DataFrame) -> Iterator[str]:
    """Whether published rows are comparable, what failed and why, and what means are over."""
    for (source, version), some in lines.groupby(["source", "version"], sort=False):
        verdict = some["objection"].iloc[0]
        if pd.isna(verdict):
            checked = ", ".join(some.loc[some["comparable"], "metric"].unique())
            verdict = f"comparable in {checked}, where the Input row agrees"
        yield f"published rows of {source}, {version}: {verdict}"
    for method, some in failures_in(figures).groupby("method", sort=False):
        reasons = some.groupby(["key", "failure"], sort=False)["metric"].agg(", ".join)
        texts = [f"{key} ({of}): {why}" for (key, why), of in reasons.head(_REASONS).items()]
        more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
        yield f"{method} failed on {'; '.join(texts)}{more}"
    undefined = lines.groupby("metric", sort=False)["undefined"].max()
    if counts := [f"{metric} {count}" for metric, count in undefined[undefined > 0].items()]:
        yield (
            "Not defined for up to so many images (no depth edge, nothing in focus, or too little "
            f"blur): {', '.join(counts)}"
        )
    own = lines["source"].isna() & lines["mean"].notna()
    if len(short := lines.loc[own & ~lines["comparable"], "metric"].unique()):
        yield (
            "over different images for different methods, so compared in pairs and not as means: "
            f"{', '.join(short)}"
        )
