"""What all sources share: finding files, keeping count of problems, saying what was looked for."""

import functools
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrefocus.data.images import IMAGE_SUFFIXES, files_below
from genrefocus.preparation.item import ImageFile, Item, Source
from genrefocus.rejection import Reason, Rejected
from genrefocus.terminal import counted

OPTION = "source.root"
REMEDY = f"name another folder with {OPTION}=/path"

_SHOWN = 6


class Scan:
    """Items and problems of one scan."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.items: list[Item] = []
        self.problems: list[tuple[str, Rejected]] = []

    def add(
        self,
        file: Path,
        images: Mapping[str, Path | ImageFile],
        *,
        scene: str | None,
        split: str | None = None,
        facts: Mapping[str, Any] | None = None,
        caption: str | None = None,
    ) -> None:
        """An item named after a file, or a problem where one of its images is not there."""
        parts = {
            role: one if isinstance(one, ImageFile) else ImageFile(one)
            for role, one in images.items()
        }
        for path in (file, *(part.path for part in parts.values())):
            if (name := _printable(path)) != str(path):
                detail = f"{name}: the name is not UTF-8; rename the file"
                self.reject(file, Reason.FILE_NAME_INVALID, _printable(Path(path.name)), detail)
                return
        for role, part in parts.items():
            if not part.path.exists():
                absent = self._absent(part.path)
                self.reject(file, Reason.FILE_MISSING, absent, f"no file for its {role}")
                return
        item = Item(self.name(file), scene, parts, facts or {}, split, caption=caption)
        self.items.append(item)

    def reject(self, file: Path, reason: Reason, value: object, detail: str) -> None:
        """A problem of a file or folder."""
        self.problems.append((self.name(file), Rejected(reason, value, detail)))

    def _absent(self, path: Path) -> str:
        if path.is_symlink():
            return f"a link to {path.readlink()}"
        return self.name(path) if path.is_relative_to(self.root) else str(path)

    def name(self, path: Path) -> str:
        """Relative to the root, with forward slashes; bytes that are not UTF-8 as ``\\xff``."""
        return _printable(path.relative_to(self.root))


def _printable(path: Path) -> str:
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class ScannedSource(Source):
    """A source that scans its root, once; make a new one to see later changes."""

    root: str | Path

    def items(self) -> list[Item]:
        return list(self._found.items)

    def problems(self) -> list[tuple[str, Rejected]]:
        return list(self._found.problems)

    @abstractmethod
    def _scan(self, found: Scan) -> None:
        """Add all that is in ``found.root``, in any order."""

    @functools.cached_property
    def _found(self) -> Scan:
        root = Path(self.root)
        found = Scan(root.parent if root.is_file() else root)
        self._scan(found)
        found.items.sort(key=lambda item: item.name)
        found.problems.sort(key=lambda problem: problem[0])
        if not found.items:
            raise ValueError(f"nothing usable in {self.root}: {_account(found)}; {REMEDY}")
        return found


def _account(found: Scan) -> str:
    if not found.problems:
        return f"found {suffix_counts(files_below(found.root))}, and no images in their place"
    examples = "; ".join(f"{name}: {reason}" for name, reason in found.problems[:3])
    return f"{counted(len(found.problems), 'problem')}, such as {examples}"


def require_folder(folder: Path, what: str, option: str = OPTION) -> None:
    """
    Raises:
        FileNotFoundError: it does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of {what} {folder} does not exist; set {option}")


def require_layout(root: Path, what: str, layout: str, fits: Callable[[Path], bool]) -> None:
    """
    Raises:
        FileNotFoundError: the root does not exist.
        ValueError: it is laid out otherwise; names what is there, and the folder below or above
            that fits.
    """
    require_folder(root, what)
    if fits(root):
        return
    above = root.absolute().parents
    near = next((folder for folder in (*folders_in(root), *above[:2]) if fits(folder)), None)
    hint = f"{near} looks right: set source.root={near}" if near else REMEDY
    raise ValueError(f"no {what} in {root}: found {_contents(root)}, looked for {layout}; {hint}")


def images_in(folder: Path) -> list[Path]:
    """Images directly in a folder, links to nothing included; hidden files are none."""
    return [path for path in _visible(folder) if is_image_name(path)]


def images_below(folder: Path, what: str, *, option: str = OPTION) -> list[Path]:
    """All images below a folder, see :func:`files_below`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image; says what was found instead.
    """
    require_folder(folder, what, option)
    files = files_below(folder)
    images = [path for path in files if is_image_name(path)]
    if not images:
        raise ValueError(
            f"no {what} in {folder}: found {suffix_counts(files)}, looked for "
            f"{', '.join(IMAGE_SUFFIXES)}; name another folder with {option}=/path"
        )
    return images


def suffix_counts(files: Iterable[Path]) -> str:
    """Such as "2 .jpg, 1 .txt"."""
    counts = Counter(path.suffix.lower() or "without suffix" for path in files)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no files"


def is_image_name(path: Path) -> bool:
    """Whether it is named as an image; a link to nothing may be."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def folders_in(folder: Path) -> list[Path]:
    """Folders directly in a folder, but for hidden ones."""
    return [path for path in _visible(folder) if path.is_dir()]


def _contents(folder: Path) -> str:
    names = [path.name for path in folders_in(folder)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    files = [path for path in _visible(folder) if not path.is_dir()]
    parts = [f"folders {', '.join(names[:_SHOWN])}{more}"] if names else []
    return ", ".join([*parts, *([suffix_counts(files)] if files or not names else [])])
