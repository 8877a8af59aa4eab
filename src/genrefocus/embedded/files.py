"""Folders of files that are made from seeds: whole, or not there."""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genrefocus.data.processes import ordered_map
from genrefocus.data.shards import require_same
from genrefocus.terminal import Bars
from genrefocus.writing import write_atomically

RECORD_NAME = "made.json"


def make_files(
    folder: Path,
    take: Callable[[Path, Any], object],
    items: Sequence[Any],
    *,
    parameters: Mapping[str, Any],
    workers: int,
    progress: bool,
) -> None:
    """Make a folder of files where it is not there yet.

    Args:
        folder: gets its name when it is complete; ``made.json`` in it has the parameters and a
            fingerprint of all files.
        take: (folder, item) writes the files of an item; a pure function of the item.
        items: which can be pickled.
        parameters: plain JSON data that determines the files.
        workers: processes; 0 works in this one.
        progress: show a bar with the time that is left on stderr.

    Raises:
        ValueError: the folder holds files of other parameters, or something else.
    """
    if (folder / RECORD_NAME).is_file():
        made = json.loads((folder / RECORD_NAME).read_bytes())
        require_same(folder, made, {"parameters": json.loads(json.dumps(parameters))})
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} has no {RECORD_NAME}; delete that folder or choose another")
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with ordered_map(workers) as mapper, Bars(progress) as bar:
        task = bar.add_task(f"making {'/'.join(folder.absolute().parts[-2:])}", total=len(items))
        for _ in mapper(functools.partial(take, unfinished), items):
            bar.advance(task)
    digest = hashlib.sha256()
    for path in sorted(path for path in unfinished.rglob("*") if path.is_file()):
        digest.update(path.relative_to(unfinished).as_posix().encode() + path.read_bytes())
    record = {"parameters": parameters, "fingerprint": digest.hexdigest()}
    write_atomically(unfinished / RECORD_NAME, json.dumps(record, sort_keys=True).encode() + b"\n")
    unfinished.rename(folder)
