"""Sets of pairs: a folder of sharp pictures and one of the same scenes with depth of field."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from genrefocus.data.images import files_below
from genrefocus.data.sample import SPLITS
from genrefocus.preparation.sources.listing import (
    Found,
    Listed,
    folders_in,
    is_picture_name,
    pictures_in,
    require_layout,
)
from genrefocus.rejection import Reason

PAIR = frozenset({"sharp", "photo"})

_LARGEST_STEP = 2
"""Between the numbers of a DPDD pair: 1 for 498 of the 500 pairs that the authors list, else 2."""


@dataclass(frozen=True)
class Pairs(Listed):
    """Two folders whose files have equal names, but for the suffix; sub-folders count as names.

    Args:
        root: holds both folders, or folders of splits that hold both.
        sharp, photo: names of the two folders.
        splits: folder within the root -> ``train``, ``val`` or ``test``; those that do not exist
            are passed over. Empty: both folders lie in the root, and there are no splits.
    """

    root: str | Path
    sharp: str = "sharp"
    photo: str = "photo"
    splits: Mapping[str, str] = field(default_factory=dict)

    name: ClassVar[str] = "pairs"
    roles: ClassVar[frozenset[str]] = PAIR

    def __post_init__(self) -> None:
        if unknown := set(self.splits.values()) - set(SPLITS):
            raise ValueError(f"splits {sorted(unknown)} are unknown; use {', '.join(SPLITS)}")

    def _scan(self) -> Found:
        splits: Mapping[str, str | None] = {**self.splits} or {"": None}
        return _scan_pairs(Path(self.root), "pairs", splits, self.sharp, self.photo)


@dataclass(frozen=True)
class Ebb(Listed):
    """EBB!: pairs at f/16 and f/1.8, numbered alike.

    Depth maps that come with the set are coarse and without a unit; they are not read.

    Args:
        root: holds ``train/original``, ``train/bokeh``, and the same of ``test``, or one of them.
    """

    root: str | Path

    name: ClassVar[str] = "ebb"
    roles: ClassVar[frozenset[str]] = PAIR

    def _scan(self) -> Found:
        splits = {"train": "train", "test": "test"}
        return _scan_pairs(Path(self.root), "EBB! pairs", splits, "original", "bokeh")


@dataclass(frozen=True)
class Dpdd(Listed):
    """DPDD, combined views only: ``source`` has depth of field, ``target`` is sharp.

    Source and target are two exposures, so their file names differ: pairs go by the order of the
    names, which gives the 500 pairs that the authors list. The set exists at 8 and at 16 bits;
    both are laid out alike.

    Args:
        root: holds ``train_c``, ``val_c``, ``test_c``, or some of them.
    """

    root: str | Path

    name: ClassVar[str] = "dpdd"
    roles: ClassVar[frozenset[str]] = PAIR

    def _scan(self) -> Found:
        splits = {"train_c": "train", "val_c": "val", "test_c": "test"}
        return _scan_pairs(
            Path(self.root), "DPDD pairs", splits, "target", "source", names_may_differ=True
        )


@dataclass(frozen=True)
class RealDof(Listed):
    """RealDOF: 50 pairs for testing, taken at once through a beam splitter.

    Pairs go by name, and by the order of names where source and target share none.

    Args:
        root: holds ``source`` and ``target``.
    """

    root: str | Path

    name: ClassVar[str] = "realdof"
    roles: ClassVar[frozenset[str]] = PAIR

    def _scan(self) -> Found:
        splits = {"": "test"}
        return _scan_pairs(
            Path(self.root), "RealDOF pairs", splits, "target", "source", names_may_differ=True
        )


@dataclass(frozen=True)
class Lfdof(Listed):
    """LFDOF: several renderings of a light field, each focused elsewhere, for one sharp picture.

    Args:
        root: holds ``train_data`` and ``test_data``, or one of them, each with
            ``input/<scene>/`` and ``ground_truth/<scene>.png``.
    """

    root: str | Path

    name: ClassVar[str] = "lfdof"
    roles: ClassVar[frozenset[str]] = PAIR

    def _scan(self) -> Found:
        root, splits = Path(self.root), {"train_data": "train", "test_data": "test"}
        layout = "train_data/input/<scene>/, train_data/ground_truth/<scene>.png, or test_data"
        require_layout(
            root,
            "LFDOF scenes",
            layout,
            lambda at: any((at / one / "input").is_dir() for one in splits),
        )
        found = Found(root)
        for folder, split in splits.items():
            if (root / folder).is_dir():
                _add_focus_series(found, root / folder, split)
        return found


def _add_focus_series(found: Found, base: Path, split: str) -> None:
    if not (base / "input").is_dir():
        found.reject(base, Reason.FILE_MISSING, "input", "no such folder in it")
        return
    sharp = _by_stem(base / "ground_truth") if (base / "ground_truth").is_dir() else {}
    for photo in pictures_in(base / "input"):
        found.reject(photo, Reason.FILE_MISSING, None, "not in the folder of a scene")
    scenes = {folder.name: folder for folder in folders_in(base / "input")}
    for scene, folder in scenes.items():
        targets = sharp.get(scene, [])
        photos = pictures_in(folder)
        if len(targets) != 1:
            _reject_counterparts(found, [folder], targets, base / "ground_truth")
        elif not photos:
            found.reject(folder, Reason.FILE_MISSING, None, "no picture in it")
        for photo in photos if len(targets) == 1 else []:
            pictures = {"sharp": targets[0], "photo": photo}
            found.add(photo, pictures, scene=f"{base.name}/{scene}", split=split)
    for stem in sorted(sharp.keys() - scenes.keys()):
        _reject_counterparts(found, sharp[stem], [], base / "input")


def _scan_pairs(
    root: Path,
    what: str,
    splits: Mapping[str, str | None],
    sharp: str,
    photo: str,
    *,
    names_may_differ: bool = False,
) -> Found:
    def fits(at: Path) -> bool:
        return any((at / one / sharp).is_dir() and (at / one / photo).is_dir() for one in splits)

    layout = ", or ".join(f"{Path(one, photo)} with {Path(one, sharp)}" for one in splits)
    require_layout(root, what, layout, fits)
    found = Found(root)
    for folder, split in splits.items():
        base = root / folder
        missing = [part for part in (sharp, photo) if not (base / part).is_dir()]
        if not missing:
            _add_pairs(found, base, base / sharp, base / photo, split, names_may_differ)
        elif base.is_dir():
            found.reject(base, Reason.FILE_MISSING, ", ".join(missing), "no such folder in it")
    return found


def _add_pairs(
    found: Found, base: Path, sharp: Path, photo: Path, split: str | None, names_may_differ: bool
) -> None:
    targets, photos = _by_stem(sharp), _by_stem(photo)
    if names_may_differ and targets and photos and not targets.keys() & photos.keys():
        targets = _renamed_in_order(targets, photos, base)
    for stem in sorted(targets.keys() | photos.keys()):
        ours, theirs = photos.get(stem, []), targets.get(stem, [])
        if len(ours) == len(theirs) == 1:
            # Pairs without splits may show a scene several times: their content tells.
            named = (base.relative_to(found.root) / stem).as_posix()
            scene = None if split is None else named
            found.add(ours[0], {"sharp": theirs[0], "photo": ours[0]}, scene=scene, split=split)
        elif ours:
            _reject_counterparts(found, ours, theirs, sharp)
        else:
            _reject_counterparts(found, theirs, ours, photo)


def _reject_counterparts(
    found: Found, files: list[Path], counterparts: list[Path], where: Path
) -> None:
    """Files that have none or several counterparts in a folder, or are several themselves."""
    for file in files:
        if counterparts:
            names = ", ".join(found.name(path) for path in [*files, *counterparts])
            found.reject(file, Reason.COUNTERPART_AMBIGUOUS, names, "keep one file of each name")
        else:
            found.reject(
                file, Reason.FILE_MISSING, f"{found.name(where)}/{file.stem}.*", "no counterpart"
            )


def _renamed_in_order(
    targets: Mapping[str, list[Path]], photos: Mapping[str, list[Path]], base: Path
) -> dict[str, list[Path]]:
    """Targets under the names of the photographs that stand at the same place.

    A missing file would shift all pairs behind it, so nothing doubtful is accepted.

    Raises:
        ValueError: the numbers of files differ, or the numbers in the names of a pair do.
    """
    if len(targets) != len(photos):
        raise ValueError(
            f"{base} has {len(photos)} photographs and {len(targets)} sharp pictures; pairs go by "
            f"order, so none may be missing{_first_doubt(targets, photos)}; unpack the set again"
        )
    if doubt := _first_doubt(targets, photos):
        raise ValueError(f"{base}: pairs go by order{doubt}; unpack the set again")
    return dict(zip(sorted(photos), (targets[stem] for stem in sorted(targets)), strict=True))


def _first_doubt(targets: Mapping[str, list[Path]], photos: Mapping[str, list[Path]]) -> str:
    """Where two lists of names in order stop looking like pairs; empty where they never do."""
    for photo, target in zip(sorted(photos), sorted(targets), strict=False):
        numbers = [re.search(r"\d+$", stem) for stem in (photo, target)]
        if all(numbers):
            first, second = (int(match.group()) for match in numbers if match)
            if abs(first - second) > _LARGEST_STEP:
                return f", and {photo} and {target} cannot be one: a file up to there is missing"
    return ""


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Pictures below a folder by their relative names without suffix."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder):
        if is_picture_name(path):
            groups[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(groups)
