"""RealBokeh_3MP: each scene at f/22 and at several wider apertures, with what the camera knew."""

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from genrefocus.preparation.sources.listing import Found, Listed, pictures_in, require_layout
from genrefocus.rejection import Reason, Rejected

_SPLITS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Scene:
    """One metadata file: the narrow frame, and the wider ones with their f-numbers."""

    sharp: Path
    frames: Mapping[Path, float]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class RealBokeh3mp(Listed):
    """RealBokeh_3MP: an item for each wider frame; its sharp picture is the scene's f/22 frame.

    Facts of an item: ``f_number``, ``sharp_f_number``, ``focal_length_mm``, ``focus_distance_m``
    and ``focus_distance_uncertainty_m``, all from the scene's metadata. A scene without readable
    metadata is a problem, and so are frames that metadata and folder do not agree about.

    Args:
        root: holds ``train``, ``validation``, ``test``, or some of them.
        max_per_scene: frames of a scene at most: the widest, and others spread evenly over the
            stops; 2 to 21 are there, and a few scenes would dominate.
        sharpest: items of train at most, those with the sharpest f/22 frames; None takes all.
    """

    root: str | Path
    max_per_scene: int = 4
    sharpest: int | None = None

    name = "realbokeh_3mp"
    roles = frozenset({"sharp", "photo"})

    def __post_init__(self) -> None:
        if self.max_per_scene < 1:
            raise ValueError(f"max_per_scene is {self.max_per_scene}; give 1 or more")
        if self.sharpest is not None and self.sharpest < 1:
            raise ValueError(f"sharpest is {self.sharpest}; give 1 or more, or null for all")

    def _scan(self, found: Found) -> None:
        root = found.root
        layout = (
            "train/in/<scene>_f22.JPG, train/gt/<scene>/<scene>_f<number>.JPG, "
            "train/metadata/<scene>.json, or the like in validation and test"
        )
        require_layout(
            root,
            "RealBokeh_3MP scenes",
            layout,
            lambda at: any(
                (at / one / "gt").is_dir() and (at / one / "in").is_dir() for one in _SPLITS
            ),
        )
        for folder, split in _SPLITS.items():
            for scene in _scene_names(root / folder):
                self._add_scene(found, root / folder, scene, split)
        if self.sharpest is not None:
            pool = (self.name, self.sharpest)
            found.items = [
                replace(item, pool=pool) if item.split == "train" else item for item in found.items
            ]

    def _add_scene(self, found: Found, base: Path, name: str, split: str) -> None:
        try:
            scene = _read_scene(base, name)
        except Rejected as rejected:
            found.problems.append((found.name(base / name), rejected))
            return
        present = {path: number for path, number in scene.frames.items() if path.exists()}
        for path in scene.frames.keys() - present.keys():
            found.reject(path, Reason.FILE_MISSING, found.name(path), "named in the metadata")
        for path in _frames_on_disk(base, name) - scene.frames.keys():
            found.reject(path, Reason.METADATA_INVALID, path.name, "not named in the metadata")
        for path in spread_over_stops(present, self.max_per_scene):
            found.add(
                path,
                {"sharp": scene.sharp, "photo": path},
                scene=f"{base.name}/{name}",
                split=split,
                facts={**scene.facts, "f_number": present[path]},
            )


def spread_over_stops(frames: Mapping[Path, float], count: int) -> list[Path]:
    """At most ``count`` frames: the widest, the narrowest, and the nearest to even steps between.

    Args:
        frames: path -> f-number, > 0.
        count: >= 1; 1 leaves the widest.
    """
    left = sorted(frames, key=lambda path: (frames[path], path.name))
    if len(left) <= count:
        return left
    widest, narrowest = (math.log2(frames[path]) for path in (left[0], left[-1]))
    chosen = []
    for place in range(count):
        aim = widest + (narrowest - widest) * place / max(count - 1, 1)
        nearest = min(left, key=lambda path: abs(math.log2(frames[path]) - aim))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


def _scene_names(base: Path) -> list[str]:
    """Scenes that any of the three folders knows of."""
    names: set[str] = set()
    if (base / "metadata").is_dir():
        names |= {path.stem for path in (base / "metadata").glob("[!.]*.json")}
    if (base / "gt").is_dir():
        names |= {path.name for path in (base / "gt").glob("[!.]*") if path.is_dir()}
    if (base / "in").is_dir():
        names |= {path.stem.rpartition("_f")[0] or path.stem for path in pictures_in(base / "in")}
    return sorted(names)


def _frames_on_disk(base: Path, scene: str) -> set[Path]:
    folder = base / "gt" / scene
    return set(pictures_in(folder)) if folder.is_dir() else set()


def _read_scene(base: Path, name: str) -> _Scene:
    """
    Raises:
        Rejected: ``file_missing``, ``file_unreadable`` or ``metadata_invalid``.
    """
    path = base / "metadata" / f"{name}.json"
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Rejected(Reason.FILE_MISSING, f"metadata/{name}.json", "no metadata") from None
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, f"metadata/{name}.json", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise Rejected(Reason.METADATA_INVALID, f"metadata/{name}.json", str(error)) from None
    if not isinstance(meta, dict):
        raise Rejected(Reason.METADATA_INVALID, f"metadata/{name}.json", "no JSON object")
    sharp = _path(base, meta.get("source_image"), "source_image")
    if not sharp.exists():
        raise Rejected(Reason.FILE_MISSING, meta["source_image"], "no sharp frame")
    sharp_f_number = _number(meta.get("source_av"), "source_av")
    return _Scene(
        sharp,
        _wider_frames(base, meta, sharp_f_number),
        {
            "sharp_f_number": sharp_f_number,
            "focal_length_mm": _number(meta.get("focal_length"), "focal_length"),
            "focus_distance_m": _number(meta.get("focus_plane_distance"), "focus_plane_distance"),
            "focus_distance_uncertainty_m": _number(
                meta.get("focus_plane_uncertainty"), "focus_plane_uncertainty", zero_allowed=True
            ),
        },
    )


def _wider_frames(base: Path, meta: Mapping[str, Any], sharp: float) -> dict[Path, float]:
    images, numbers = meta.get("target_images"), meta.get("target_avs")
    if not (isinstance(images, list) and isinstance(numbers, list) and len(images) == len(numbers)):
        raise Rejected(
            Reason.METADATA_INVALID,
            f"{_length(images)} target_images, {_length(numbers)} target_avs",
            "must be lists of one length",
        )
    frames = {}
    for image, listed in zip(images, numbers, strict=True):
        path, number = _path(base, image, "target_images"), _number(listed, "target_avs")
        named = path.stem.rpartition("_f")[2]
        if named != f"{number:g}" and named != f"{number:.1f}":
            raise Rejected(
                Reason.METADATA_INVALID, number, f"target_avs does not fit the name {path.name}"
            )
        if number >= sharp:
            raise Rejected(Reason.METADATA_INVALID, number, f"no wider than source_av {sharp:g}")
        frames[path] = number
    return frames


def _path(base: Path, value: object, label: str) -> Path:
    parts = PurePosixPath(value).parts if isinstance(value, str) else ()
    if not parts or ".." in parts or parts[0] == "/":
        raise Rejected(Reason.METADATA_INVALID, value, f"{label} must be a path in {base.name}")
    return base.joinpath(*parts)


def _number(value: object, label: str, *, zero_allowed: bool = False) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of integers without end
            number = float(value)
            if math.isfinite(number) and (number > 0 or (zero_allowed and number == 0)):
                return number
    raise Rejected(Reason.METADATA_INVALID, value, f"{label} must be a number above zero")


def _length(values: object) -> object:
    return len(values) if isinstance(values, list) else "no list of"
