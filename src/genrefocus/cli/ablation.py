"""``genrefocus ablation FOLDER``: the table and the pictures of a sweep."""

import argparse
import json

from rich.console import Console
from rich.table import Table

from genrefocus.benchmark.ablation import (
    HIGHER_IS_BETTER,
    Figure,
    Sweep,
    account,
    compare,
    metrics_of,
    picture_grid,
    plain,
    read_sweep,
    references_of,
)
from genrefocus.pictures import contact_sheet

_DIGITS = {"psnr": 2}
_NAMES = {"psnr": "PSNR dB", "lvcorr": "LVCorr"}
_REFERENCES = {"identity": "doing nothing", "floor": "classical"}


def run(args: argparse.Namespace) -> int:
    """Print the table and write the grid; 1 where a run has failed or is missing."""
    sweep = read_sweep(args.folder, baseline=args.baseline)
    notes = Console(stderr=True)
    if args.json:
        print(json.dumps(plain(sweep), indent=2))
    elif args.markdown or args.latex:
        rows = table_rows(sweep, plus_minus=r" $\pm$ " if args.latex else " ± ")
        print("\n".join(latex(rows) if args.latex else markdown(rows)))
    else:
        Console().print(_table(sweep))
    grid = picture_grid(sweep, count=args.pictures) if args.pictures else None
    if grid is not None:
        rows_of_pictures, titles, seed = grid
        path = args.grid or args.folder / "grid.png"
        contact_sheet(rows_of_pictures, titles, 2).save(path)
        notes.print(f"pictures of seed {seed}  {path}", soft_wrap=True, markup=False)
    notes.print(account(sweep), soft_wrap=True, markup=False)
    return int(bool(sweep.failures or sweep.missing))


def table_rows(sweep: Sweep, *, plus_minus: str) -> list[list[str]]:
    """Header and rows of the table as text: mean ± spread, and the difference with its interval."""
    metrics = metrics_of(sweep)
    header = ["cell", "steps", "seeds"]
    for metric in metrics:
        arrow = {True: " ↑", False: " ↓", None: ""}[HIGHER_IS_BETTER.get(metric)]
        label = _NAMES.get(metric, metric.upper()) + arrow
        header += [label, "difference [95 %]"]
    rows = [header]
    for cell, figures in compare(sweep).items():
        runs = sweep.of_cell(cell)
        steps = "/".join(str(n) for n in sorted({result.steps for result in runs.values()}))
        name = f"{cell} (baseline)" if cell == sweep.baseline else cell
        rows.append([name, steps, str(len(runs))])
        for metric in metrics:
            rows[-1] += _cells(figures.get(metric), metric, plus_minus)
    for method, values in references_of(sweep).items():
        if method in _REFERENCES:
            rows.append([_REFERENCES[method], "", ""])
            for metric in metrics:
                shown = f"{values[metric]:.{_digits(metric)}f}" if metric in values else "-"
                rows[-1] += [shown, ""]
    return rows


def _digits(metric: str) -> int:
    return _DIGITS.get(metric, 4)


def _cells(figure: Figure | None, metric: str, plus_minus: str) -> list[str]:
    if figure is None:
        return ["-", ""]
    digits = _digits(metric)
    mean = f"{figure.mean:.{digits}f}"
    if figure.spread is not None:
        mean += f"{plus_minus}{figure.spread:.{digits}f}"
    if figure.difference is None:
        return [mean, ""]
    difference = f"{figure.difference:+.{digits}f}"
    if figure.interval is not None:
        low, high = figure.interval
        difference += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return [mean, difference]


def markdown(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def latex(rows: list[list[str]]) -> list[str]:
    """Lines of a LaTeX tabular with booktabs rules."""
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "%": r"\%", "_": r"\_"}

    def line(row: list[str]) -> str:
        text = " & ".join(row)
        for sign, command in arrows.items():
            text = text.replace(sign, command)
        return text + r" \\"

    columns = "l" + "r" * (len(rows[0]) - 1)
    body = [line(row) for row in rows[1:]]
    return [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        line(rows[0]),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _table(sweep: Sweep) -> Table:
    """A row for every cell and metric, which fits a terminal."""
    table = Table(title=f"{sweep.folder.name}: mean ± standard deviation over seeds")
    for column in ("metric", "cell", "steps", "seeds", "mean", "difference [95 %]"):
        table.add_column(column, justify="left" if column in ("metric", "cell") else "right")
    [header, *rows] = table_rows(sweep, plus_minus=" ± ")
    for at in range(3, len(header), 2):
        for number, row in enumerate(rows):
            label = "" if number else header[at]
            table.add_row(label, *row[:3], *row[at : at + 2])
        table.add_section()
    return table
