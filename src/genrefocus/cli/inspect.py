"""``genrefocus inspect``: what sets of shards hold."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genrefocus.data.shards import ShardDataset
from genrefocus.preparation.inspection import inspect_set, preview
from genrefocus.preparation.ledger import QUANTILES, find_sets
from genrefocus.terminal import counted

_SHOWN = 6  # names of a kind


def run(args: argparse.Namespace) -> int:
    sets = find_sets(args.shards)
    if args.verify:
        for dataset in sets.values():
            dataset.verify()
    facts = {name: inspect_set(dataset) for name, dataset in sets.items()}
    if args.previews is not None:
        _write_previews(sets, args.previews, args.samples)
    if args.json:
        verified = {"verified": True} if args.verify else {}
        shown = {name: {**one, **verified} for name, one in facts.items()}
        print(json.dumps(shown, indent=2, allow_nan=False))
        return 0
    console = Console()
    for name, one in facts.items():
        console.print(_table(name, one, args.verify))
    samples = sum(one["samples"] for one in facts.values())
    console.print(f"{counted(len(facts), 'set')}, {counted(samples, 'sample')}")
    return 0


def _write_previews(sets: Mapping[str, ShardDataset], folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, dataset in sets.items():
        if len(dataset):
            preview(dataset, count).save(folder / f"{name.replace('/', '-')}.png")


def _table(name: str, facts: Mapping[str, Any], verified: bool) -> Table:
    table = Table(title=escape(name), title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    size = f"{counted(facts['shards'], 'shard')}, {facts['bytes'] / 2**20:.1f} MiB"
    table.add_row("samples", f"{facts['samples']} in {size}")
    if facts["captions"]:
        table.add_row("captions", str(facts["captions"]))
    checksums = ", checksums agree" if verified else ""
    table.add_row("fingerprint", f"{facts['fingerprint']}{checksums}")
    table.add_row("schema version", str(facts["schema_version"]))
    names = {"route": "routes", "split": "splits", "size (WxH)": "sizes"}
    kinds = {title: facts[name] for title, name in names.items()}
    for kind, counts in {**kinds, **facts["origins"]}.items():
        if counts:  # there are none in an empty set
            table.add_row(kind.replace("_", " "), _counts(counts))
    for measure, levels in facts["distributions"].items():
        table.add_row(measure.replace("_", " "), _levels(levels, facts["samples"]))
    return table


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {escape(name)}" for name, count in list(counts.items())[:_SHOWN]]
    if len(counts) > _SHOWN:
        shown.append(f"and {len(counts) - _SHOWN} more")
    return ", ".join(shown)


def _levels(levels: Mapping[str, float], samples: int) -> str:
    text = ", ".join(f"{name} {levels[name]:.4g}" for name in QUANTILES if name in levels)
    lacking = samples - int(levels["samples"])
    return f"{text} ({lacking} without)" if lacking else text
