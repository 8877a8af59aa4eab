"""RealBokeh_3MP: each scene at f/22 and at several wider apertures, with what the camera knew."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrefocus.preparation.sources.listing import Scan, ScannedSource, images_in, require_layout
from genrefocus.rejection import Reason, Rejected

_SPLITS = {"train": "train", "validation": "val", "test": "test"}


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Metadata(BaseModel):
    """What the set says of a scene; whatever else is there is not read."""

    model_config = ConfigDict(strict=True)

    source_image: str
    source_av: Positive
    target_images: list[str]
    target_avs: list[Positive]
    focal_length: Positive
    focus_plane_distance: Positive
    focus_plane_uncertainty: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _SceneFrames:
    """One metadata file: the narrow frame, and the wider ones with their f-numbers."""

    sharp: Path
    frames: Mapping[Path, float]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class RealBokeh3mp(ScannedSource):
    """RealBokeh_3MP: an item for each wider frame; its sharp image is the scene's f/22 frame.

    Facts of an item: ``f_number``, ``sharp_f_number``, ``focal_length_mm``, ``focus_distance_m``
    and ``focus_distance_uncertainty_m``, all from the scene's metadata. A scene without readable
    metadata is a problem, and so are frames that metadata and folder do not agree about.

    Args:
        root: holds ``train``, ``validation``, ``test``, or some of them.
        max_per_scene: frames of a scene at most: the widest, and others spread evenly over the
            stops; 2 to 21 are there, and a few scenes would dominate.
        sharpest: items of train at most, those with the sharpest f/22 frames; None takes all.
    """

    max_per_scene: int = 4
    sharpest: int | None = None

    name = "realbokeh_3mp"
    roles = frozenset({"sharp", "photo"})

    def __post_init__(self) -> None:
        if self.max_per_scene < 1:
            raise ValueError(f"max_per_scene is {self.max_per_scene}; give 1 or more")
        if self.sharpest is not None and self.sharpest < 1:
            raise ValueError(f"sharpest is {self.sharpest}; give 1 or more, or null for all")

    def _scan(self, found: Scan) -> None:
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

    def _add_scene(self, found: Scan, base: Path, name: str, split: str) -> None:
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
        names |= {path.stem.rpartition("_f")[0] or path.stem for path in images_in(base / "in")}
    return sorted(names)


def _frames_on_disk(base: Path, scene: str) -> set[Path]:
    folder = base / "gt" / scene
    return set(images_in(folder)) if folder.is_dir() else set()


def _read_scene(base: Path, name: str) -> _SceneFrames:
    """
    Raises:
        Rejected: ``file_missing``, ``file_unreadable`` or ``metadata_invalid``.
    """
    file = f"metadata/{name}.json"
    try:
        meta = _Metadata.model_validate_json((base / file).read_bytes())
    except FileNotFoundError:
        raise Rejected(Reason.FILE_MISSING, file, "no metadata") from None
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, file, str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        value = first["input"] if place and first["type"] != "missing" else file
        raise Rejected(Reason.METADATA_INVALID, value, f"{place or file}: {first['msg']}") from None
    sharp = _path(base, meta.source_image, "source_image")
    if not sharp.exists():
        raise Rejected(Reason.FILE_MISSING, meta.source_image, "no sharp frame")
    facts = {
        "sharp_f_number": meta.source_av,
        "focal_length_mm": meta.focal_length,
        "focus_distance_m": meta.focus_plane_distance,
        "focus_distance_uncertainty_m": meta.focus_plane_uncertainty,
    }
    return _SceneFrames(sharp, _wider_frames(base, meta), facts)


def _wider_frames(base: Path, meta: _Metadata) -> dict[Path, float]:
    if len(meta.target_images) != len(meta.target_avs):
        raise Rejected(
            Reason.METADATA_INVALID,
            f"{len(meta.target_images)} target_images, {len(meta.target_avs)} target_avs",
            "must be lists of one length",
        )
    frames = {}
    for image, number in zip(meta.target_images, meta.target_avs, strict=True):
        path = _path(base, image, "target_images")
        named = path.stem.rpartition("_f")[2]
        if named != f"{number:g}" and named != f"{number:.1f}":
            raise Rejected(
                Reason.METADATA_INVALID, number, f"target_avs does not fit the name {path.name}"
            )
        if number >= meta.source_av:
            detail = f"no wider than source_av {meta.source_av:g}"
            raise Rejected(Reason.METADATA_INVALID, number, detail)
        frames[path] = number
    return frames


def _path(base: Path, value: str, label: str) -> Path:
    parts = PurePosixPath(value).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise Rejected(Reason.METADATA_INVALID, value, f"{label} must be a path in {base.name}")
    return base.joinpath(*parts)
