"""Sets of pairs: a folder of sharp images and one of the same scenes with depth of field."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genrefocus.data.images import files_below
from genrefocus.data.sample import SPLITS
from genrefocus.preparation.sources.listing import (
    Scan,
    ScannedSource,
    folders_in,
    images_in,
    is_image_name,
    require_layout,
)
from genrefocus.rejection import Reason

PAIR = frozenset({"sharp", "photo"})

_LARGEST_STEP = 2
"""Between the numbers of a DPDD pair: 1 for 498 of the 500 pairs that the authors list, else 2."""


@dataclass(frozen=True)
class Pairs(ScannedSource):
    """Two folders whose files have equal names, but for the suffix; sub-folders count as names.

    Args:
        root: holds both folders, or folders of splits that hold both.
        sharp, photo: names of the two folders.
        splits: folder within the root -> ``train``, ``val`` or ``test``; those that do not exist
            are passed over. Empty: both folders lie in the root, and there are no splits.
        by_order: pairs go by the order of names where the two folders share none, as for DPDD,
            whose source and target are two exposures with two names.
        name: for provenance and messages: which data set.
    """

    sharp: str = "sharp"
    photo: str = "photo"
    splits: Mapping[str, str] = field(default_factory=dict)
    by_order: bool = False
    name: str = "pairs"

    roles = PAIR

    def __post_init__(self) -> None:
        if unknown := set(self.splits.values()) - set(SPLITS):
            raise ValueError(f"splits {sorted(unknown)} are unknown; use {', '.join(SPLITS)}")

    def _scan(self, found: Scan) -> None:
        splits: Mapping[str, str | None] = {**self.splits} or {"": None}
        sides = self.sharp, self.photo

        def fits(at: Path) -> bool:
            return any(all((at / one / side).is_dir() for side in sides) for one in splits)

        layout = ", or ".join(f"{Path(x, self.photo)} with {Path(x, self.sharp)}" for x in splits)
        require_layout(found.root, f"pairs ({self.name})", layout, fits)
        for folder, split in splits.items():
            base = found.root / folder
            missing = [side for side in sides if not (base / side).is_dir()]
            if not missing:
                self._add_pairs(found, base, split)
            elif base.is_dir():
                found.reject(base, Reason.FILE_MISSING, ", ".join(missing), "no such folder in it")

    def _add_pairs(self, found: Scan, base: Path, split: str | None) -> None:
        sharp, photo = base / self.sharp, base / self.photo
        targets, photos = _by_stem(sharp), _by_stem(photo)
        if self.by_order and targets and photos and not targets.keys() & photos.keys():
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


@dataclass(frozen=True)
class Lfdof(ScannedSource):
    """LFDOF: several renderings of a light field, each focused elsewhere, for one sharp image.

    Args:
        root: holds ``train_data`` and ``test_data``, or one of them, each with
            ``input/<scene>/`` and ``ground_truth/<scene>.png``.
    """

    name = "lfdof"
    roles = PAIR

    def _scan(self, found: Scan) -> None:
        splits = {"train_data": "train", "test_data": "test"}
        layout = "train_data/input/<scene>/, train_data/ground_truth/<scene>.png, or test_data"
        require_layout(
            found.root,
            "LFDOF scenes",
            layout,
            lambda at: any((at / one / "input").is_dir() for one in splits),
        )
        for folder, split in splits.items():
            if (found.root / folder).is_dir():
                _add_focus_series(found, found.root / folder, split)


def _add_focus_series(found: Scan, base: Path, split: str) -> None:
    if not (base / "input").is_dir():
        found.reject(base, Reason.FILE_MISSING, "input", "no such folder in it")
        return
    sharp = _by_stem(base / "ground_truth") if (base / "ground_truth").is_dir() else {}
    for photo in images_in(base / "input"):
        found.reject(photo, Reason.FILE_MISSING, None, "not in the folder of a scene")
    scenes = {folder.name: folder for folder in folders_in(base / "input")}
    for scene, folder in scenes.items():
        targets = sharp.get(scene, [])
        photos = images_in(folder)
        if len(targets) != 1:
            _reject_counterparts(found, [folder], targets, base / "ground_truth")
        elif not photos:
            found.reject(folder, Reason.FILE_MISSING, None, "no image in it")
        for photo in photos if len(targets) == 1 else []:
            images = {"sharp": targets[0], "photo": photo}
            found.add(photo, images, scene=f"{base.name}/{scene}", split=split)
    for stem in sorted(sharp.keys() - scenes.keys()):
        _reject_counterparts(found, sharp[stem], [], base / "input")


def _reject_counterparts(
    found: Scan, files: list[Path], counterparts: list[Path], where: Path
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
            f"{base} has {len(photos)} photographs and {len(targets)} sharp images; pairs go by "
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
    """Images below a folder by their relative names without suffix."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files_below(folder):
        if is_image_name(path):
            groups[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(groups)
