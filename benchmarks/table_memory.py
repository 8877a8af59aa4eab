"""Memory and time of reading a table of photographs in order, by how its file was written.

Each line is one fresh process::

    python benchmarks/table_memory.py
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet

from genrefocus.preparation.item import ImageFile

IMAGES, BYTES = 1500, 200_000
WRITERS: tuple[dict[str, int], ...] = ({}, {"row_group_size": 100}, {"write_batch_size": 16})


def write(path: Path, options: dict[str, int]) -> None:
    """A table of images that differ and do not compress."""
    cell = random.Random(0).randbytes(BYTES)
    table = pyarrow.table({"image": [cell[n:] + cell[:n] for n in range(IMAGES)]})
    pyarrow.parquet.write_table(table, path, **options)


def read(path: Path) -> dict[str, float]:
    """Most bytes that pyarrow held between two images, and seconds."""
    begin, held = time.perf_counter(), 0
    for row in range(IMAGES):
        ImageFile(path, (row, "image")).read()
        held = max(held, pyarrow.total_allocated_bytes())
    return {"held_mb": round(held / 1e6), "seconds": round(time.perf_counter() - begin, 2)}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(read(Path(sys.argv[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for options in WRITERS:
            path = Path(folder, "photos.parquet")
            write(path, options)
            command = [sys.executable, __file__, str(path)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            print(options or "defaults", output.strip(), flush=True)


if __name__ == "__main__":
    main()
