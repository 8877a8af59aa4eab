"""One tar of a set while it is written, also by several processes one after the other."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Written = tuple[str, int, int]
"""Of a sample in a shard: key, position in bytes, and shorter edge in px."""


class ShardFile:
    """One shard that is being written; it gets its name when it is complete.

    Args:
        path: of the shard; its folder is created where missing.
        written: what an interrupted process wrote, as :meth:`sync` returned it; the shard goes on
            behind that.
        end: the position behind what was written, in bytes.

    Raises:
        ValueError: what was written is no longer there.
    """

    def __init__(self, path: Path, written: Sequence[Written] = (), end: int = 0) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.part")
        self._written = list(written)
        path.parent.mkdir(parents=True, exist_ok=True)
        if end and path.is_file():  # complete, but the process ended before anybody knew
            path.replace(self._temporary)
        found = self._temporary.stat().st_size if end and self._temporary.is_file() else 0
        if found < end:
            raise ValueError(f"{self._temporary} has {found} bytes, {end} were written")
        self._file = self._temporary.open("r+b" if end else "w+b")
        self._file.truncate(end)
        self._file.seek(end)
        self._tar = tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)

    def __len__(self) -> int:
        return len(self._written)

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Append an encoded sample."""
        meta = json.loads(members["json"])
        self._written.append((key, self._file.tell(), min(meta["height"], meta["width"])))
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")  # time and owner are 0 by default
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))

    def sync(self) -> tuple[list[Written], int]:
        """Bring everything to the disk; returns what a new ``ShardFile`` goes on from."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._written, self._file.tell()

    def finish(self) -> dict[str, Any]:
        """Close the shard and give it its name; returns its entry for the index."""
        keys, offsets, edges = zip(*self._written, strict=True)
        offsets = (*offsets, self._file.tell())
        self._tar.close()
        self.sync()
        self._file.seek(0)
        digest = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.close()
        self._temporary.replace(self.path)
        return {
            "url": self.path.name,
            "nsamples": len(keys),
            "filesize": self.path.stat().st_size,
            "sha256": digest,
            "keys": list(keys),
            "offsets": list(offsets),
            "least_edge": min(edges),
        }

    def close(self) -> None:
        """Leave the shard as it is."""
        with contextlib.suppress(OSError):  # closing writes what is buffered; the disk may be full
            self._file.close()

    def discard(self) -> None:
        """Remove what was written."""
        self.close()
        self._temporary.unlink(missing_ok=True)
