"""Pictures that are not paired: photographs with EXIF, developed camera raw, sharp pictures."""

import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import exifread
from PIL import Image

from genrefocus.decoding import RAW_SUFFIXES
from genrefocus.preparation.sources.exposure import EXPOSURE_TAGS, plain_facts
from genrefocus.preparation.sources.listing import (
    REMEDY,
    Found,
    Listed,
    files_below,
    is_picture_name,
    pictures_below,
    require_folder,
    suffix_counts,
)
from genrefocus.rejection import Reason, Rejected

_EXIF_DIRECTORY, _F_NUMBER, _FOCAL_LENGTH = 0x8769, 0x829D, 0x920A


@dataclass(frozen=True)
class Photographs(Listed):
    """All photographs below a folder, each a scene of its own, known by its content.

    Args:
        root: searched with its sub-folders.
        depth: folder of depth maps, ``<name of the photograph>.npy``, or None.
        mask: folder of in-focus masks, ``<name of the photograph>.png``, or None.
    """

    root: str | Path
    depth: str | Path | None = None
    mask: str | Path | None = None

    name: ClassVar[str] = "photographs"

    @property
    def roles(self) -> frozenset[str]:
        """``photo``, and ``depth`` and ``mask`` where their folders are given."""
        return frozenset({"photo", *self._sidecars()})

    def _sidecars(self) -> dict[str, tuple[Path, str]]:
        given = {"depth": (self.depth, ".npy"), "mask": (self.mask, ".png")}
        return {role: (Path(at), suffix) for role, (at, suffix) in given.items() if at is not None}

    def _scan(self) -> Found:
        root, sidecars = Path(self.root), self._sidecars()
        for role, (folder, _) in sidecars.items():
            if not folder.is_dir():
                raise FileNotFoundError(f"folder {folder} does not exist; set source.{role}")
        found = Found(root)
        aside = [folder for folder, _ in sidecars.values()]
        for photo in pictures_below(root, "photographs", aside):
            name = found.name(photo)
            pictures = {"photo": photo}
            for role, (folder, suffix) in sidecars.items():
                pictures[role] = (folder / name).with_suffix(suffix)
            found.add(photo, pictures, scene=None)
        return found


@dataclass(frozen=True)
class Folder(Listed):
    """All pictures below a folder, taken as sharp; each a scene of its own, known by its content.

    Args:
        root: searched with its sub-folders.
    """

    root: str | Path

    name: ClassVar[str] = "folder"
    roles: ClassVar[frozenset[str]] = frozenset({"sharp"})

    def _scan(self) -> Found:
        found = Found(Path(self.root))
        for path in pictures_below(Path(self.root), "sharp pictures"):
            found.add(path, {"sharp": path}, scene=None)
        return found


@dataclass(frozen=True)
class DevelopedRaw(Listed):
    """Developed pictures of camera raw files; nothing is developed here.

    A developed picture has the name of its raw file but for the suffix, and lies beside it or in a
    folder ``developed`` beside it. Where it carries no exposure, the fact ``exif`` holds that of
    the raw file's header. The fact ``raw`` names the raw file.

    Args:
        root: searched with its sub-folders.
    """

    root: str | Path

    name: ClassVar[str] = "developed_raw"
    roles: ClassVar[frozenset[str]] = frozenset({"photo"})

    def _scan(self) -> Found:
        root = Path(self.root)
        require_folder(root, "camera raw")
        files = files_below(root)
        raws = [path for path in files if path.suffix.lower() in RAW_SUFFIXES]
        if not raws:
            raise ValueError(
                f"no camera raw in {root}: found {suffix_counts(files)}, looked for "
                f"{', '.join(RAW_SUFFIXES)}; {REMEDY}, or list photographs with "
                "source=photographs"
            )
        developed: defaultdict[Path, list[Path]] = defaultdict(list)
        for path in files:
            if is_picture_name(path):
                place = path.parent.parent if path.parent.name == "developed" else path.parent
                developed[place / path.stem].append(path)
        found = Found(root)
        for raw in raws:
            _add_developed(found, raw, developed.pop(raw.with_suffix(""), []))
        for pictures in developed.values():
            for path in pictures:
                found.reject(
                    path, Reason.FILE_MISSING, f"{path.stem}.*", "no camera raw of this name"
                )
        return found


def _add_developed(found: Found, raw: Path, pictures: list[Path]) -> None:
    if not pictures:
        found.reject(
            raw,
            Reason.FORMAT_UNSUPPORTED,
            raw.suffix,
            "camera raw; develop it to JPEG, TIFF or PNG, beside it or in a folder named developed",
        )
        return
    if len(pictures) > 1:
        names = ", ".join(found.name(path) for path in pictures)
        found.reject(raw, Reason.COUNTERPART_AMBIGUOUS, names, "keep one developed picture")
        return
    facts: dict[str, Any] = {"raw": found.name(raw)}
    try:
        if not _carries_exposure(pictures[0]):
            facts["exif"] = raw_exposure(raw)
    except Rejected as rejected:
        found.problems.append((found.name(raw), rejected))
        return
    found.add(pictures[0], {"photo": pictures[0]}, scene=facts["raw"], facts=facts)


def raw_exposure(path: Path) -> dict[str, float | str]:
    """The tags ``EXPOSURE_TAGS`` of a raw file's header, by EXIF name; maker notes are not read.

    Raises:
        Rejected: ``file_unreadable``, ``exif_corrupt``, or ``no_exif``: neither f-number nor focal
            length.
    """
    try:
        with path.open("rb") as file:
            tags = exifread.process_file(file, details=False, extract_thumbnail=False)
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, error.strerror) from None
    except Exception as error:  # exifread raises IndexError, struct.error, TypeError and others
        raise Rejected(Reason.EXIF_CORRUPT, type(error).__name__, str(error)) from error
    raw: dict[str, Any] = {}
    for name in EXPOSURE_TAGS:
        # TIFF/EP keeps the exposure in the main directory.
        tag = next((tags[key] for key in (f"EXIF {name}", f"Image {name}") if key in tags), None)
        values = getattr(tag, "values", None)
        raw[name] = values[0] if isinstance(values, list) and values else values
    facts = plain_facts(raw)
    if not {"FNumber", "FocalLength"} & facts.keys():
        raise Rejected(
            Reason.NO_EXIF,
            f"{len(tags)} tags",
            "neither the developed picture nor the raw file says f-number or focal length",
        )
    return facts


def _carries_exposure(path: Path) -> bool:
    """Whether a picture has EXIF of its own; one that cannot be opened is judged when read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            exif = image.getexif()
            return bool({_F_NUMBER, _FOCAL_LENGTH} & {*exif, *exif.get_ifd(_EXIF_DIRECTORY)})
    except Exception:  # the parsers of many formats, each with its own errors
        return True
