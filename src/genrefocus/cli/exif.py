"""``genrefocus exif``: exposure facts of photographs, a JSON line a file, or a table of counts."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genrefocus.data.images import IMAGE_SUFFIXES, images_below
from genrefocus.photograph.exif import ExposureFacts, read_exposure
from genrefocus.rejection import Rejected


def run(args: argparse.Namespace) -> int:
    outcomes = ((path, _outcome(path)) for path in _files(args.photos))
    if args.summary:
        Console(soft_wrap=True).print(_summary([outcome for _, outcome in outcomes]))
        return 0
    for path, outcome in outcomes:
        print(json.dumps({"file": str(path), **_record(outcome)}, allow_nan=False), flush=True)
    return 0


def _files(given: Sequence[Path]) -> Iterator[Path]:
    """Files as they are named, and those below a folder whose names end as images' do."""
    for path in given:
        if path.is_dir():
            if not (found := images_below(path)):
                endings = ", ".join(IMAGE_SUFFIXES)
                raise ValueError(f"no photographs in {path}; looked for {endings}")
            yield from found
        else:
            yield path


def _outcome(path: Path) -> ExposureFacts | Rejected:
    try:
        return read_exposure(path)
    except Rejected as rejected:
        return rejected


def _record(outcome: ExposureFacts | Rejected) -> dict[str, object]:
    if isinstance(outcome, ExposureFacts):
        return dataclasses.asdict(outcome)
    return {"reason": outcome.reason.value, "value": outcome.value, "detail": outcome.detail}


def _summary(outcomes: Sequence[ExposureFacts | Rejected]) -> Table:
    usable = [outcome for outcome in outcomes if isinstance(outcome, ExposureFacts)]
    reasons = Counter(str(one.reason) for one in outcomes if isinstance(one, Rejected))
    sources = Counter(facts.sensor_width_source for facts in usable)
    flags = Counter(flag.partition(":")[0] for facts in usable for flag in facts.flags)
    table = Table("photographs", "", "count")
    table.columns[2].justify = "right"
    table.add_row("all", "", str(len(outcomes)), end_section=True)
    table.add_row("usable", "", str(len(usable)))
    _add_counts(table, "sensor width from", sources)
    _add_counts(table, "flagged", flags)
    table.add_row("rejected", "", str(reasons.total()))
    _add_counts(table, "because of", reasons)
    return table


def _add_counts(table: Table, title: str, counts: Counter[str]) -> None:
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        table.add_row(f"  {title}", name, str(count))
    if table.rows:
        table.rows[-1].end_section = True
