"""``genrefocus ablation FOLDER``: the table and the images of a sweep."""

import argparse
import json

from rich.console import Console

from genrefocus.benchmark import typeset
from genrefocus.benchmark.ablation import account, image_grid, read_sweep, record, text_table
from genrefocus.report.contact_sheet import sheet_of_files


def run(args: argparse.Namespace) -> int:
    """Print the table and write the grid; 1 where a run has failed or is missing."""
    sweep = read_sweep(args.folder, baseline=args.baseline)
    notes = Console(stderr=True)
    if args.json:
        print(json.dumps(record(sweep), indent=2))
    elif args.markdown or args.latex:
        print((typeset.latex if args.latex else typeset.markdown)(text_table(sweep)), end="")
    else:
        console = Console()
        title = f"{sweep.folder.name}: mean ± standard deviation over seeds, difference [95 %]"
        table = text_table(sweep, separator="\n")
        console.print(*typeset.terminal(table, title, console.width), sep="\n")
    rows, titles, seed = image_grid(sweep, count=args.images)
    if (sheet := sheet_of_files(rows, titles)) is not None:
        path = args.grid or args.folder / "grid.png"
        sheet.save(path)
        notes.print(f"images of seed {seed}  {path}", soft_wrap=True, markup=False)
    notes.print(account(sweep), soft_wrap=True, markup=False)
    return int(bool(sweep.failures or sweep.missing))
