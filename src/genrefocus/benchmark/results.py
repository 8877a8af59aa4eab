"""A folder of results as a benchmark leaves it, and several of them as one.

::

    rows.parquet                                        figures of single images
    protocols/<task>-<dataset>.yaml                     what they were measured under
    images/<task>/<dataset>/<method>/<key>.png        answers; ``input`` and ``target`` as methods
    parts.json                                          optional, <task>-<dataset> -> key -> parts
    curves.jsonl                                        optional, a curve as JSON in each line
    notes.json                                          optional, <task>-<dataset> -> what to know
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from genrefocus.benchmark.figures import read_figures
from genrefocus.benchmark.protocol import BenchmarkProtocol, read_protocol, require_same
from genrefocus.runs import BENCHMARK

Place = tuple[str, str, str]
"""Task, data set and method."""

NOTES_NAME, PARTS_NAME, ROWS_NAME = "notes.json", "parts.json", "rows.parquet"

INPUT, TARGET = "input", "target"
"""Folders of images beside those of the methods."""

CURVE_COLUMNS = ("kind", "task", "dataset", "method", "key", "x", "y", "images")
"""A curve of a method: ``kind`` is ``ssim_k`` (SSIM with the target over K), ``lvcorr`` (Laplacian
variance over K) or ``radius_error`` (error of the blur radius over the radius asked for); ``key``
is missing where it is of the whole data set; ``x`` and ``y`` are lists in the order of x;
``images`` are files of the answers at x, empty where they were not kept."""

_PLACE = ["task", "dataset", "method"]


@dataclass(frozen=True)
class Results:
    """What one or several folders hold.

    Attributes:
        name: of the folder, or of all of them.
        figures: the long table, see ``benchmark.figures``.
        protocols: (task, dataset) -> protocol.
        curves: the table with ``CURVE_COLUMNS``.
        folders: task, data set and method -> folders of results, and the method's name there.
        notes: (task, dataset) -> what to know about the run: methods, cases that were left out.
        parts: (task, dataset) -> key -> parts of the data set that it belongs to, see
            ``benchmark.parts``.
    """

    name: str
    figures: pd.DataFrame
    protocols: Mapping[tuple[str, str], BenchmarkProtocol]
    curves: pd.DataFrame
    folders: Mapping[Place, tuple[tuple[Path, str], ...]]
    notes: Mapping[tuple[str, str], tuple[str, ...]]
    parts: Mapping[tuple[str, str], Mapping[str, Sequence[str]]] = field(default_factory=dict)

    def methods(self, task: str, dataset: str) -> list[str]:
        """Methods with figures on a data set, in the order of their first figure."""
        return [place[2] for place in self.folders if place[:2] == (task, dataset)]

    def image(self, task: str, dataset: str, method: str, key: str) -> Path | None:
        """File of an answer, or of ``input`` or ``target``; None where none was kept."""
        places = self.folders.get((task, dataset, method), ())
        if method in (INPUT, TARGET):
            places = tuple((folder, method) for some in self.folders.values() for folder, _ in some)
        for folder, name in dict.fromkeys(places):
            path = folder / "images" / task / dataset / name / f"{key}.png"
            if path.is_file():
                return path
        return None


def read_results(folder: str | Path) -> Results:
    """The results of a folder, or of a run of train.py, in its ``benchmark/``.

    Raises:
        FileNotFoundError: parts are missing.
        ValueError: a part is damaged, or figures and protocols do not belong together.
    """
    folder = Path(folder)
    if not (folder / ROWS_NAME).is_file() and (folder / BENCHMARK).is_dir():
        folder /= BENCHMARK
    *_, experiment, name, last = folder.resolve().parts
    figures = read_figures(folder / ROWS_NAME)
    protocols = {}
    for (task, dataset), some in figures.groupby(["task", "dataset"], sort=False):
        path = folder / "protocols" / f"{task}-{dataset}.yaml"
        protocols[task, dataset] = protocol = read_protocol(path)
        for metric in some["metric"].unique():
            protocol.require_metric(metric)
        if (protocol.task, protocol.dataset.name) != (task, dataset):
            raise ValueError(f"{path} is of {protocol.task} on {protocol.dataset.name}")
        if len(others := some.loc[some["protocol"] != protocol.hash, ["method", "protocol"]]):
            method, other = others.iloc[0]
            raise ValueError(
                f"{folder}: {method} on {task}/{dataset} was measured under protocol {other[:12]}, "
                f"the file has {protocol.hash[:12]}; run the benchmark again"
            )
    found, parts = (_read_json(folder / name) for name in (NOTES_NAME, PARTS_NAME))
    return Results(
        name=f"{experiment}/{name}" if last == BENCHMARK else last,
        figures=figures,
        protocols=protocols,
        curves=_read_curves(folder / "curves.jsonl"),
        folders={place: ((folder, place[2]),) for place, _ in figures.groupby(_PLACE, sort=False)},
        notes={pair: tuple(found.get("-".join(pair), ())) for pair in protocols},
        parts={pair: parts.get("-".join(pair), {}) for pair in protocols},
    )


def merge(parts: Sequence[Results]) -> Results:
    """Several results as one.

    A method that has the same figures on a data set wherever it has any keeps its name. With other
    figures in another part it becomes ``name @ folder``.

    Raises:
        ValueError: protocols of a task and data set differ, or two folders of one name have a
            method with different figures.
    """
    protocols: dict[tuple[str, str], BenchmarkProtocol] = {}
    notes: dict[tuple[str, str], tuple[str, ...]] = {}
    contents: dict[Place, set[str]] = {}
    for part in parts:
        for pair, protocol in part.protocols.items():
            require_same(protocols.setdefault(pair, protocol), protocol)
            named = tuple(f"{part.name}: {note}" for note in part.notes[pair])
            notes[pair] = (*notes.get(pair, ()), *named)
        for place, some in part.figures.groupby(_PLACE):
            content = some.sort_values(["key", "metric"]).to_csv(index=False)
            contents.setdefault(place, set()).add(content)
    figures: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    folders: dict[Place, tuple[tuple[Path, str], ...]] = {}
    for part in parts:
        label = {
            place: place[2] if len(contents[place]) == 1 else f"{place[2]} @ {part.name}"
            for place in part.folders
        }
        for rows, found in ((part.figures, figures), (part.curves, curves)):
            places = rows[_PLACE].itertuples(index=False, name=None)
            found.append(rows.assign(method=[label.get(place) for place in places]))
        for (task, dataset, method), places in part.folders.items():
            place = task, dataset, label[task, dataset, method]
            folders[place] = (*folders.get(place, ()), *places)
    table = pd.concat(figures, ignore_index=True).drop_duplicates()
    if (twice := table.duplicated([*_PLACE, "key", "metric"])).any():
        method, _, name = table.loc[twice, "method"].iloc[0].partition(" @ ")
        raise ValueError(f"two folders named {name} have a method {method}; rename one of them")
    name = ", ".join(part.name for part in parts)
    drawn = pd.concat(curves, ignore_index=True).drop_duplicates(["kind", *_PLACE, "key"])
    # Protocols agree, hence cases and their parts.
    known = {pair: own for part in parts for pair, own in part.parts.items()}
    return Results(name, table, protocols, drawn, folders, notes, known)


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _read_curves(path: Path) -> pd.DataFrame:
    rows = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for row in map(json.loads, lines):
        rows.append({**row, "images": [path.parent / one for one in row.get("images", ())]})
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))
