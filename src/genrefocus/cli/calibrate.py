"""``genrefocus calibrate``: gates from samples that a person has reviewed."""

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from genrefocus.preparation.gates import KNOWN_MEASURES
from genrefocus.preparation.review import join_measures, read_verdicts, write_template
from genrefocus.preparation.thresholds import Proposal, keep_most, pass_all, propose_thresholds


def run(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    if args.template is not None:
        page = write_template(args.out, args.template, most=args.samples, measures=KNOWN_MEASURES)
        console.print(f"look at {page}\nand fill in {args.template}", soft_wrap=True, markup=False)
        return 0
    verdicts = read_verdicts(args.reviewed)
    measured, good = join_measures(args.out, verdicts, KNOWN_MEASURES)
    if good.empty:
        raise ValueError(f"{args.reviewed} has no verdict; fill in the column good")
    proposals = propose_thresholds(measured, good, precision=args.precision)
    kept, others = keep_most(proposals, args.recall)
    passed = good[pass_all(measured, kept)]
    console.print(_table(proposals))
    console.print(
        f"{len(good)} reviewed, {good.sum()} of them good, {len(verdicts) - len(good)} left open\n"
        f"the proposed gates together pass {len(passed)}, {passed.sum()} of them good",
        soft_wrap=True,
        markup=False,
    )
    if kept and passed.sum() < args.recall * good.sum():
        console.print(
            f"that is less than the part {args.recall:g} of the good ones: all are comments; "
            "review more samples, or set single gates by hand",
            soft_wrap=True,
            markup=False,
        )
        kept, others = [], [*kept, *others]
    print(f"# conf/gates/<name>.yaml: {len(good)} reviewed samples, precision {args.precision:g}")
    for proposal in others:
        print(f"# {_line(proposal)}")
    print("\n".join(map(_line, kept)) or "{}")
    return 0


def _table(proposals: Sequence[Proposal]) -> Table:
    table = Table(title="proposed gates, most telling measure first")
    for title in ("measure", "gate", "precision, 95 %", "recall", "AUC", "pass"):
        left = title in ("measure", "gate")
        table.add_column(title, justify="left" if left else "right", no_wrap=left)
    for one in proposals:
        gate, precision = "none", ""
        if one.threshold is not None and one.interval is not None:
            gate = f"{one.side} {one.threshold:.4g}"
            low, high = one.interval
            precision = f"{one.precision:.2f}, {low:.2f} to {high:.2f}"
        table.add_row(
            one.measure,
            gate,
            precision,
            f"{one.recall:.2f}",
            f"{one.auc:.2f}",
            f"{one.passing}/{one.reviewed}",
        )
    return table


def _line(one: Proposal) -> str:
    """A line of a file of ``conf/gates``, with the figures as a comment."""
    if one.threshold is None:
        return f"{one.measure}: no threshold reaches that precision, AUC {one.auc:.3g}"
    return (
        f"{one.measure}: {{{one.side}: {one.threshold!r}}}  "
        f"# precision {one.precision:.3g}, recall {one.recall:.3g}, AUC {one.auc:.3g}"
    )
