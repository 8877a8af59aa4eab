"""``genrefocus exif``: exposure facts of photographs, a JSON line a file, or a table of counts."""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from genrefocus.data.images import IMAGE_SUFFIXES, images_below
from genrefocus.photograph.exif import ExposureFacts, read_exposure
from genrefocus.rejection import Rejected

_SHOWN = 3  # examples of a flag or a reason


def run(args: argparse.Namespace) -> int:
    outcomes = ((path, _outcome(path)) for path in _files(args.photos))
    if args.summary:
        console = Console(soft_wrap=True, markup=False, highlight=False)
        console.print(*_summary(list(outcomes)), sep="\n")
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


def _summary(outcomes: Sequence[tuple[Path, ExposureFacts | Rejected]]) -> list[Table | str]:
    """The table of counts, and examples of what is flagged or rejected."""
    sources: dict[str, list[Path]] = {}
    flags: dict[str, list[Path]] = {}
    reasons: dict[str, list[Path]] = {}
    for path, outcome in outcomes:
        if isinstance(outcome, Rejected):
            reasons.setdefault(str(outcome.reason), []).append(path)
            continue
        sources.setdefault(outcome.sensor_width_source, []).append(path)
        for flag in outcome.flags:
            flags.setdefault(flag.partition(":")[0], []).append(path)
    rejected = sum(map(len, reasons.values()))
    table = Table("photographs", "", "count")
    table.columns[2].justify = "right"
    table.add_row("all", "", str(len(outcomes)), end_section=True)
    table.add_row("usable", "", str(len(outcomes) - rejected))
    _add_counts(table, "sensor width from", sources)
    _add_counts(table, "flagged", flags)
    table.add_row("rejected", "", str(rejected))
    _add_counts(table, "because of", reasons)
    unusual = [*_most_first(flags), *_most_first(reasons)]
    remedy = ["genrefocus exif PHOTO shows what a photograph states"] if unusual else []
    return [table, *(f"{name}: {_examples(paths)}" for name, paths in unusual), *remedy]


def _examples(paths: Sequence[Path]) -> str:
    more = f" ... and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(map(str, paths[:_SHOWN])) + more


def _add_counts(table: Table, title: str, found: Mapping[str, Sequence[Path]]) -> None:
    for name, paths in _most_first(found):
        table.add_row(f"  {title}", name, str(len(paths)))
    if table.rows:
        table.rows[-1].end_section = True


def _most_first(found: Mapping[str, Sequence[Path]]) -> list[tuple[str, Sequence[Path]]]:
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
