"""``genrefocus compare``: several results folders in one table, under one protocol."""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence

from rich.console import Console

from genrefocus.benchmark import typeset
from genrefocus.benchmark.printed import shown
from genrefocus.benchmark.report import write_report
from genrefocus.benchmark.results import merge, read_results
from genrefocus.benchmark.tables import (
    PAIRED_TITLE,
    build_tables,
    explained,
    latex,
    markdown,
    paired_table,
    plain,
    records,
)


def run(args: argparse.Namespace) -> int:
    parts = [read_results(folder) for folder in args.folders]
    results = merge(parts)
    for part in parts[1:]:
        if not set(part.protocols) & set(parts[0].protocols):
            raise ValueError(f"{parts[0].name} and {part.name} have no task and data set in common")
    first = {folder for places in parts[0].folders.values() for folder, _ in places}

    def pairs(task: str, dataset: str, methods: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Methods that only the first folder has, with those that only others have."""
        origins = {
            name: {folder for folder, _ in results.folders[task, dataset, name]} for name in methods
        }
        own = [name for name in methods if origins[name] == first]
        return itertools.product(own, [name for name in methods if not origins[name] & first])

    tables = build_tables(results, seed=args.seed, pairs=pairs)
    if args.html is not None:
        write_report(results, tables, args.html)
    if args.json:
        paired = [
            {"task": table.task, "dataset": table.dataset, **one, "protocol": table.protocol.hash}
            for table in tables
            for one in plain(table.compared)
        ]
        record = {"results": records(tables), "paired": paired}
        print(json.dumps(record, indent=1, allow_nan=False))
    elif args.markdown or args.latex:
        form = typeset.latex if args.latex else typeset.markdown
        for table in tables:
            print((latex if args.latex else markdown)(table))
            if len(table.compared):
                print(
                    f"{'%' if args.latex else '####'} {PAIRED_TITLE}\n\n{form(paired_table(table))}"
                )
        print(explained(tables, latex=args.latex), end="")
    else:
        console = Console()
        console.print(*shown(tables, console.width, paired=True), sep="\n")
    return 0
