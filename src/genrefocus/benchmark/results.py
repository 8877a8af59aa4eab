"""A folder of results as a benchmark leaves it, and several of them as one.

::

    rows.parquet                                        figures of single pictures
    protocols/<task>-<dataset>.yaml                     what they were measured under
    pictures/<task>/<dataset>/<method>/<key>.png        answers; ``input`` and ``target`` as methods
    curves.jsonl                                        optional, a ``Curve`` as JSON in each line
    notes.json                                          optional, what to know about the run
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from genrefocus.benchmark.protocol import Protocol, read_protocol, require_same
from genrefocus.benchmark.rows import Row, read_rows
from genrefocus.writing import write_atomically

ROWS_NAME, PROTOCOLS_NAME, PICTURES_NAME, CURVES_NAME, NOTES_NAME = (
    "rows.parquet",
    "protocols",
    "pictures",
    "curves.jsonl",
    "notes.json",
)
Place = tuple[str, str, str]
"""Task, data set and method."""

INPUT, TARGET = "input", "target"
"""Folders of pictures beside those of the methods."""

CurveKind = Literal["ssim_k", "radius_error", "lvcorr"]


@dataclass(frozen=True)
class Curve:
    """A curve of a method, of one picture or of a whole data set.

    Attributes:
        kind: ``ssim_k`` (SSIM with the target over K), ``radius_error`` (error of the blur radius
            over the radius asked for) or ``lvcorr`` (Laplacian variance over K).
        task, dataset, method: what it belongs to.
        key: of the picture; None for the data set.
        x, y: equally many finite values, in the order of x.
        pictures: files of the answers at x; empty where they were not kept.
    """

    kind: CurveKind
    task: str
    dataset: str
    method: str
    key: str | None
    x: tuple[float, ...]
    y: tuple[float, ...]
    pictures: tuple[Path, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(CurveKind):
            raise ValueError(f"curve of kind {self.kind!r}, not {', '.join(get_args(CurveKind))}")
        if len(self.x) != len(self.y) or not self.x:
            raise ValueError(f"curve with {len(self.x)} x and {len(self.y)} y")
        if not all(map(math.isfinite, (*self.x, *self.y))) or list(self.x) != sorted(self.x):
            raise ValueError("curve with values that are not finite, or x out of order")
        if len(self.pictures) not in (0, len(self.x)):
            raise ValueError(f"curve with {len(self.x)} x and {len(self.pictures)} pictures")


@dataclass(frozen=True)
class Results:
    """What one or several folders hold.

    Attributes:
        name: of the folder, or of all of them.
        rows: all figures.
        protocols: (task, dataset) -> protocol.
        curves: all curves.
        pictures: task, data set and method -> folders of results, and the method's name there.
        notes: (task, dataset) -> what to know about the run: methods, cases that were left out.
    """

    name: str
    rows: tuple[Row, ...]
    protocols: Mapping[tuple[str, str], Protocol]
    curves: tuple[Curve, ...]
    pictures: Mapping[Place, tuple[tuple[Path, str], ...]]
    notes: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def methods(self, task: str, dataset: str) -> list[str]:
        """Methods with rows of a data set, in the order of their first row."""
        rows = (row for row in self.rows if (row.task, row.dataset) == (task, dataset))
        return list(dict.fromkeys(row.method for row in rows))

    def picture(self, task: str, dataset: str, method: str, key: str) -> Path | None:
        """File of an answer, or of ``input`` or ``target``; None where none was kept."""
        places = self.pictures.get((task, dataset, method), ())
        if method in (INPUT, TARGET):
            folders = (folder for some in self.pictures.values() for folder, _ in some)
            places = tuple((folder, method) for folder in dict.fromkeys(folders))
        for folder, name in places:
            path = folder / PICTURES_NAME / task / dataset / name / f"{key}.png"
            if path.is_file():
                return path
        return None


def read_results(folder: str | Path) -> Results:
    """The results of a folder.

    Raises:
        FileNotFoundError: parts are missing.
        ValueError: a part is damaged, or rows and protocols do not belong together.
    """
    folder = Path(folder)
    rows = tuple(read_rows(folder / ROWS_NAME))
    if not rows:
        raise ValueError(f"{folder / ROWS_NAME} has no rows; run the benchmark again")
    named = (row for row in rows if row.method in (INPUT, TARGET))
    if (row := next(named, None)) is not None:
        raise ValueError(f"{folder}: a method may not be called {row.method}")
    protocols = {}
    for task, dataset in dict.fromkeys((row.task, row.dataset) for row in rows):
        path = folder / PROTOCOLS_NAME / f"{task}-{dataset}.yaml"
        protocols[task, dataset] = protocol = read_protocol(path)
        if (protocol.task, protocol.dataset.name) != (task, dataset):
            raise ValueError(f"{path} is of {protocol.task} on {protocol.dataset.name}")
    _check_rows(rows, protocols, folder)
    return Results(
        name=folder.resolve().name,
        rows=rows,
        protocols=protocols,
        curves=_read_curves(folder / CURVES_NAME),
        pictures={_place(row): ((folder, row.method),) for row in rows},
        notes=_read_notes(folder / NOTES_NAME),
    )


def merge(parts: Sequence[Results]) -> Results:
    """Several results as one, with methods named as :func:`method_labels` says.

    Raises:
        ValueError: protocols of a task and data set differ, or two folders cannot be told apart.
    """
    protocols: dict[tuple[str, str], Protocol] = {}
    for part in parts:
        for pair, protocol in part.protocols.items():
            require_same(protocols.setdefault(pair, protocol), protocol)
    rows: dict[Row, None] = {}
    curves: dict[Curve, None] = {}
    pictures: dict[Place, tuple[tuple[Path, str], ...]] = {}
    for part, labels in zip(parts, method_labels(parts), strict=True):
        rows |= {replace(row, method=labels[_place(row)]): None for row in part.rows}
        known = (curve for curve in part.curves if _place(curve) in labels)
        curves |= {replace(curve, method=labels[_place(curve)]): None for curve in known}
        for (task, dataset, method), places in part.pictures.items():
            place = task, dataset, labels[task, dataset, method]
            pictures[place] = (*pictures.get(place, ()), *places)
    notes: dict[tuple[str, str], tuple[str, ...]] = {}
    for part in parts:
        for pair, some in part.notes.items():
            told = tuple(f"{part.name}: {note}" for note in some)
            notes[pair] = (*notes.get(pair, ()), *told)
    name = ", ".join(part.name for part in parts)
    return Results(name, tuple(rows), protocols, tuple(curves), pictures, notes)


def method_labels(parts: Sequence[Results]) -> list[dict[Place, str]]:
    """Names that the methods of each part have in :func:`merge`.

    A method that has the same rows of a data set wherever it has any keeps its name. With other
    rows in another part it is told apart as ``name @ folder``.

    Raises:
        ValueError: two folders of one name have a method with different rows.
    """
    contents = [_contents(part) for part in parts]
    variants = Counter(place for place, _ in {pair for some in contents for pair in some.items()})
    labels: list[dict[Place, str]] = []
    seen: dict[Place, frozenset[Row]] = {}
    for part, content in zip(parts, contents, strict=True):
        own = {}
        for place, rows in content.items():
            task, dataset, method = place
            own[place] = label = method if variants[place] == 1 else f"{method} @ {part.name}"
            if seen.setdefault((task, dataset, label), rows) != rows:
                raise ValueError(
                    f"two folders named {part.name} have a method {method}; rename one of them"
                )
        labels.append(own)
    return labels


def _contents(part: Results) -> dict[Place, frozenset[Row]]:
    grouped: dict[Place, set[Row]] = {}
    for row in part.rows:
        grouped.setdefault(_place(row), set()).add(row)
    return {place: frozenset(rows) for place, rows in grouped.items()}


def _place(one: Row | Curve) -> Place:
    return one.task, one.dataset, one.method


def _check_rows(
    rows: Iterable[Row], protocols: Mapping[tuple[str, str], Protocol], folder: Path
) -> None:
    hashes = {pair: protocol.hash for pair, protocol in protocols.items()}
    seen = set()
    for row in rows:
        pair = row.task, row.dataset
        if row.protocol != hashes[pair]:
            raise ValueError(
                f"{folder}: {row.method} on {row.task}/{row.dataset} was measured under protocol "
                f"{row.protocol[:12]}, the file has {hashes[pair][:12]}; run the benchmark again"
            )
        protocols[pair].higher_is_better(row.metric)  # which refuses metrics it does not name
        place = (*pair, row.method, row.key, row.metric)
        if place in seen:
            raise ValueError(f"{folder} has two rows of {', '.join(place)}")
        seen.add(place)


def write_notes(notes: Mapping[tuple[str, str], Sequence[str]], folder: str | Path) -> None:
    """Write what to know about a run: (task, data set) -> lines."""
    record = {"-".join(pair): list(lines) for pair, lines in notes.items()}
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_atomically(Path(folder) / NOTES_NAME, text.encode())


def _read_notes(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    if not path.is_file():
        return {}
    record: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    pairs = {name: name.split("-", 1) for name in record}
    return {(task, dataset): tuple(record[name]) for name, (task, dataset) in pairs.items()}


def _read_curves(path: Path) -> tuple[Curve, ...]:
    if not path.is_file():
        return ()
    curves = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            record |= {axis: tuple(map(float, record[axis])) for axis in ("x", "y")}
            record["pictures"] = tuple(path.parent / one for one in record.get("pictures", ()))
            curves.append(Curve(**record))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number} is no curve: {error}") from None
    return tuple(curves)
