"""Images that are not paired: photographs with EXIF, developed camera raw, sharp images."""

import io
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import exifread
from PIL import ExifTags

from genrefocus.data.images import files_below
from genrefocus.photograph.decoding import RAW_SUFFIXES, opened
from genrefocus.photograph.exif import TAGS
from genrefocus.preparation.sources.exposure import plain_facts
from genrefocus.preparation.sources.listing import (
    REMEDY,
    Scan,
    ScannedSource,
    images_below,
    is_image_name,
    require_folder,
    suffix_counts,
)
from genrefocus.rejection import Reason, Rejected

_TIFF_MAGIC = {b"II": b"II*\0", b"MM": b"MM\0*"}


@dataclass(frozen=True)
class Photographs(ScannedSource):
    """All photographs below a folder, each a scene of its own, known by its content.

    Files of estimates are named after the photograph without its suffix, so that photographs whose
    names differ in nothing else (``IMG_1.JPG``, ``IMG_1.jpg``) are problems.

    Args:
        root: searched with its sub-folders.
        option: the override that sets ``root``, for messages.
    """

    option: str = "source.root"

    name = "photographs"
    roles = frozenset({"photo"})

    def _scan(self, found: Scan) -> None:
        alike: defaultdict[Path, list[Path]] = defaultdict(list)
        for photo in images_below(found.root, "photographs", option=self.option):
            alike[photo.with_suffix("")].append(photo)
        for photos in alike.values():
            if len(photos) == 1:
                found.add(photos[0], {"photo": photos[0]}, scene=None)
                continue
            names = ", ".join(map(found.name, photos))
            detail = "they would share one file of depth and one mask; rename all but one"
            for photo in photos:
                found.reject(photo, Reason.COUNTERPART_AMBIGUOUS, names, detail)


@dataclass(frozen=True)
class Folder(ScannedSource):
    """All images below a folder, taken as sharp; each a scene of its own, known by its content.

    Args:
        root: searched with its sub-folders.
    """

    name = "folder"
    roles = frozenset({"sharp"})

    def _scan(self, found: Scan) -> None:
        for path in images_below(found.root, "sharp images"):
            found.add(path, {"sharp": path}, scene=None)


@dataclass(frozen=True)
class DevelopedRaw(ScannedSource):
    """Developed images of camera raw files; nothing is developed here.

    A developed image has the name of its raw file but for the suffix, and lies beside it or in a
    folder ``developed`` beside it. Where it carries no exposure, the fact ``exif`` holds that of
    the raw file's header. The fact ``raw`` names the raw file.

    Args:
        root: searched with its sub-folders.
    """

    name = "developed_raw"
    roles = frozenset({"photo"})

    def _scan(self, found: Scan) -> None:
        root = found.root
        require_folder(root, "camera raw")
        files = files_below(root)
        raws: defaultdict[Path, list[Path]] = defaultdict(list)
        developed: defaultdict[Path, list[Path]] = defaultdict(list)
        for path in files:
            if path.suffix.lower() in RAW_SUFFIXES:
                raws[path.with_suffix("")].append(path)
            elif is_image_name(path):
                place = path.parent.parent if path.parent.name == "developed" else path.parent
                developed[place / path.stem].append(path)
        if not raws:
            raise ValueError(
                f"no camera raw in {root}: found {suffix_counts(files)}, looked for "
                f"{', '.join(RAW_SUFFIXES)}; {REMEDY}, or list photographs with "
                "source=photographs"
            )
        for stem, same in raws.items():
            _add_developed(found, same, developed.pop(stem, []))
        for images in developed.values():
            for path in images:
                found.reject(
                    path, Reason.FILE_MISSING, f"{path.stem}.*", "no camera raw of this name"
                )


def _add_developed(found: Scan, raws: list[Path], images: list[Path]) -> None:
    """An item of one raw file and its one developed image, or the problem of each raw file."""
    names = ", ".join(found.name(path) for path in [*raws, *images])
    for raw in raws if len(raws) > 1 or len(images) != 1 else []:
        if images:
            found.reject(raw, Reason.COUNTERPART_AMBIGUOUS, names, "keep one of each")
        else:
            detail = "camera raw; develop it to JPEG, TIFF or PNG, here or in a folder developed"
            found.reject(raw, Reason.FORMAT_UNSUPPORTED, raw.suffix, detail)
    if len(raws) > 1 or len(images) != 1:
        return
    raw = raws[0]
    facts: dict[str, Any] = {"raw": found.name(raw)}
    try:
        if not _carries_exposure(images[0]):
            facts["exif"] = raw_exposure(raw)
    except Rejected as rejected:
        found.problems.append((found.name(raw), rejected))
        return
    found.add(images[0], {"photo": images[0]}, scene=None, facts=facts)


def raw_exposure(path: Path) -> dict[str, Any]:
    """The tags ``exif.TAGS`` that a raw file's header has, by name; maker notes are not read.

    Raises:
        Rejected: ``file_unreadable``, ``exif_corrupt``, ``format_unsupported`` (not a header that
            exifread knows), ``no_exif`` (neither f-number nor focal length).
    """
    try:
        with path.open("rb") as file:
            tags = exifread.process_file(_as_tiff(file), details=False, extract_thumbnail=False)
    except OSError as error:
        raise Rejected(Reason.FILE_UNREADABLE, error.strerror) from None
    except Exception as error:  # exifread raises IndexError, struct.error, TypeError and others
        raise Rejected(Reason.EXIF_CORRUPT, type(error).__name__, str(error)) from error
    if not tags:
        raise Rejected(
            Reason.FORMAT_UNSUPPORTED,
            path.suffix,
            "its EXIF cannot be read here; develop it so that the image keeps the EXIF",
        )
    facts = plain_facts({name: _first_value(tags, name) for name in TAGS})
    if not {"FNumber", "FocalLength"} & facts.keys():
        raise Rejected(
            Reason.NO_EXIF,
            f"{len(tags)} tags",
            "neither the developed image nor the raw file says f-number or focal length",
        )
    return facts


def _as_tiff(file: BinaryIO) -> BinaryIO:
    """Olympus and Panasonic write a number of their own into a header that is TIFF otherwise."""
    start = file.read(4)
    file.seek(0)
    magic = _TIFF_MAGIC.get(start[:2])
    if magic is None or start == magic:
        return file
    return io.BytesIO(magic + file.read()[4:])


def _first_value(tags: Mapping[str, Any], name: str) -> Any:
    spelt = "ExifImageLength" if name == "ExifImageHeight" else name
    # TIFF/EP keeps the exposure in the main directory.
    tag = next((tags[key] for key in (f"EXIF {spelt}", f"Image {spelt}") if key in tags), None)
    values = getattr(tag, "values", None)
    return values[0] if isinstance(values, list) and values else values


def _carries_exposure(path: Path) -> bool:
    """Whether an image has EXIF of its own; one that cannot be opened is judged when read."""
    wanted = {ExifTags.Base.FNumber, ExifTags.Base.FocalLength}
    try:
        with opened(path.read_bytes(), path.name) as image:
            exif = image.getexif()
            return bool(wanted & {*exif, *exif.get_ifd(ExifTags.IFD.Exif)})
    except Rejected:
        return True
