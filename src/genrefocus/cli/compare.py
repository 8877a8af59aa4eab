"""``genrefocus compare``: several results folders in one table, under one protocol."""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from genrefocus.benchmark.report import write_report
from genrefocus.benchmark.results import Place, merge, method_labels, read_results
from genrefocus.benchmark.statistics import Comparison
from genrefocus.benchmark.tables import (
    BenchmarkTable,
    build_tables,
    comparisons,
    latex,
    latex_paired,
    markdown,
    markdown_paired,
    paired_rows,
    records,
    rich_paired,
    rich_tables,
)

Compared = Mapping[str, Sequence[Comparison]]


def run(args: argparse.Namespace) -> int:
    parts = [read_results(folder) for folder in args.folders]
    results = merge(parts)
    for part in parts[1:]:
        if not set(part.protocols) & set(parts[0].protocols):
            raise ValueError(f"{parts[0].name} and {part.name} have no task and data set in common")
    pairs = partial(_pairs, method_labels(parts))
    tables = build_tables(results, seed=args.seed)
    if args.html is not None:
        write_report(results, tables, args.html, pairs=pairs, seed=args.seed)
    compared = [comparisons(results, table, pairs(table), seed=args.seed) for table in tables]
    if args.json:
        print(json.dumps(_record(tables, compared), indent=1, allow_nan=False))
    else:
        shown = [
            (table, paired_rows(table, some)) for table, some in zip(tables, compared, strict=True)
        ]
        _print(shown, args)
    return 0


def _print(
    shown: Sequence[tuple[BenchmarkTable, list[list[str]]]], args: argparse.Namespace
) -> None:
    console = Console()
    for table, paired in shown:
        if args.markdown or args.latex:
            print((latex if args.latex else markdown)(table))
            if paired:
                print((latex_paired if args.latex else markdown_paired)(paired))
        else:
            console.print(*rich_tables(table, console.width), sep="\n")
            if paired:
                console.print(rich_paired(paired))


def _pairs(labels: Sequence[Mapping[Place, str]], table: BenchmarkTable) -> list[tuple[str, str]]:
    """Methods that only the first folder has, with those that only others have."""
    place = table.task, table.dataset
    first, *others = ([name for at, name in one.items() if at[:2] == place] for one in labels)
    theirs = list(dict.fromkeys(name for some in others for name in some))
    return [(a, b) for a in first if a not in theirs for b in theirs if b not in first]


def _record(tables: Sequence[BenchmarkTable], compared: Sequence[Compared]) -> dict[str, Any]:
    paired = [
        {
            "task": table.task,
            "dataset": table.dataset,
            "metric": metric,
            **dataclasses.asdict(one),
            "protocol": table.protocol.hash,
        }
        for table, some in zip(tables, compared, strict=True)
        for metric, found in some.items()
        for one in found
    ]
    return {"results": records(tables), "paired": paired}
