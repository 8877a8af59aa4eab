"""Exposure facts from files as they are found: each written with piexif, some damaged by hand."""

from pathlib import Path

import numpy as np
import piexif
import pytest
from piexif import ExifIFD, ImageIFD
from PIL import Image

from genrefocus.photograph.exif import (
    ExposureFacts,
    exposure_from_tags,
    exposure_of,
    read_exposure,
)
from genrefocus.rejection import Reason, Rejected
from tests.unit.photograph.exposures import CANON_7D, FOCAL_PLANE, SIZE, rejection, write


def test_facts_of_a_complete_photograph(photo):
    tags = {
        ExifIFD.FocalLength: (350, 10),
        ExifIFD.FocalLengthIn35mmFilm: 53,
        ExifIFD.SubjectDistance: (21, 10),
    }
    camera = ("NIKON CORPORATION", "NIKON D90")
    write(photo, tags, camera=camera, zeroth={ImageIFD.Orientation: 6})
    width_mm = 36 * 35 / 53
    assert read_exposure(photo) == ExposureFacts(
        focal_length_mm=35.0,
        f_number=1.8,
        focal_length_35mm=53.0,
        sensor_width_mm=pytest.approx(width_mm),
        sensor_width_source="focal_length_35mm",
        pixel_ratio=pytest.approx(96 / width_mm),
        make="NIKON CORPORATION",
        model="NIKON D90",
        width=96,
        height=64,
        orientation=6,
        subject_distance_m=2.1,
        digital_zoom=None,
        flags=(),
    )


def test_an_image_of_a_few_pixels_is_read(photo):
    assert read_exposure(write(photo, {}, camera=CANON_7D, size=(5, 3))).width == 5


def test_a_crop_after_the_exposure_has_no_pixel_ratio(photo):
    original = {ExifIFD.PixelXDimension: 6000, ExifIFD.PixelYDimension: 4000}
    resized = read_exposure(write(photo, original, camera=CANON_7D))
    assert resized.flags == ("resized",)
    cropped = rejection(write(photo, original, camera=CANON_7D, size=(64, 64)))
    assert cropped.reason is Reason.CROPPED_AFTER_EXPOSURE
    assert cropped.value == "6000x4000 px to 64x64 px"


@pytest.mark.parametrize(
    ("tags", "reason", "value"),
    [
        ({ExifIFD.FNumber: (0, 0)}, Reason.F_NUMBER_INVALID, "0/0"),
        ({ExifIFD.FNumber: (0, 1)}, Reason.F_NUMBER_INVALID, "0/1"),
        ({ExifIFD.FNumber: (28, 0)}, Reason.F_NUMBER_INVALID, "28/0"),
        ({ExifIFD.FNumber: None}, Reason.F_NUMBER_MISSING, None),
        ({ExifIFD.FocalLength: (0, 10)}, Reason.FOCAL_LENGTH_INVALID, "0/10"),
        ({ExifIFD.FocalLength: (50, 0)}, Reason.FOCAL_LENGTH_INVALID, "50/0"),
        ({ExifIFD.FocalLength: None}, Reason.FOCAL_LENGTH_MISSING, None),
    ],
)
def test_unusable_exposure_is_rejected_with_the_raw_value(photo, tags, reason, value):
    rejected = rejection(write(photo, {ExifIFD.FocalLengthIn35mmFilm: 75} | tags))
    assert (rejected.reason, rejected.value) == (reason, value)


NAMES = {
    ExifIFD.FocalLength: "FocalLength",
    ExifIFD.FNumber: "FNumber",
    ExifIFD.FocalLengthIn35mmFilm: "FocalLengthIn35mmFilm",
    ExifIFD.FocalPlaneXResolution: "FocalPlaneXResolution",
    ExifIFD.FocalPlaneResolutionUnit: "FocalPlaneResolutionUnit",
    ExifIFD.PixelXDimension: "ExifImageWidth",
    ExifIFD.PixelYDimension: "ExifImageHeight",
    ExifIFD.DigitalZoomRatio: "DigitalZoomRatio",
    ExifIFD.SubjectDistance: "SubjectDistance",
}


def outcome(read, *arguments, **keywords):
    try:
        return read(*arguments, **keywords)
    except Rejected as rejected:
        return rejected.reason, rejected.value


def as_table(tags: dict, camera: tuple[str, str], form) -> dict:
    """What is written into the file, as a table of names, rationals in another form."""
    named = {NAMES[tag]: form(v) if isinstance(v, tuple) else v for tag, v in tags.items()}
    return {"Make": camera[0], "Model": camera[1], "Artist": "ignored"} | named


@pytest.mark.parametrize(
    "form", [lambda r: f"{r[0]}/{r[1]}", list, np.array], ids=["text", "list", "array"]
)
@pytest.mark.parametrize("camera", [CANON_7D, ("ACME", "X")])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {ExifIFD.FocalLengthIn35mmFilm: 75, ExifIFD.SubjectDistance: (21, 10)},
        {ExifIFD.FocalLengthIn35mmFilm: 50},
        {ExifIFD.FocalLengthIn35mmFilm: 0} | FOCAL_PLANE,
        FOCAL_PLANE | {ExifIFD.FocalPlaneResolutionUnit: None, ExifIFD.PixelYDimension: 3000},
        FOCAL_PLANE | {ExifIFD.FocalPlaneXResolution: (6000, 0)},
        {ExifIFD.DigitalZoomRatio: (3, 2)},
        {ExifIFD.FNumber: (0, 0)},
        {ExifIFD.FNumber: None},
        {ExifIFD.FocalLength: (0, 10)},
        {ExifIFD.FocalLength: None},
    ],
)
def test_tags_as_a_table_say_what_the_file_says(photo, changed, camera, form):
    tags = {ExifIFD.FocalLength: (50, 1), ExifIFD.FNumber: (18, 10)} | changed
    from_file = outcome(read_exposure, write(photo, tags, camera=camera))
    assert from_file == outcome(exposure_of, photo.read_bytes(), "cell 7")
    table = as_table(tags, camera, form)
    from_table = outcome(exposure_from_tags, table, width=SIZE[0], height=SIZE[1])
    if isinstance(from_file, ExposureFacts):
        assert from_table == from_file
    else:
        assert from_table[0] is from_file[0]
        assert (from_table[1] is None) == (from_file[1] is None)


def test_what_a_table_lacks_is_missing_not_invalid():
    usable = {"FocalLength": 50.0, "FNumber": 1.8, "FocalLengthIn35mmFilm": 75}
    size = {"width": 48, "height": 32}
    assert exposure_from_tags(usable, **size).pixel_ratio == pytest.approx(2)
    for absent in (None, float("nan"), np.float32("nan")):
        reason = outcome(exposure_from_tags, usable | {"FNumber": absent}, **size)
        assert reason == (Reason.F_NUMBER_MISSING, None)
    for wrong in ("f/1.8", "0/0", [18, 0], -1.8, float("inf"), [1, 2, 3]):
        reason = outcome(exposure_from_tags, usable | {"FNumber": wrong}, **size)
        assert reason == (Reason.F_NUMBER_INVALID, str(wrong))
    facts = exposure_from_tags(usable | {"Make": np.nan, "Model": "A" * 500}, orientation=6, **size)
    assert (facts.make, facts.model, facts.orientation) == ("", "A" * 100, 6)


@pytest.mark.parametrize("distance", [(0, 1), (0xFFFFFFFF, 1), (0xFFFFFFFF, 1000), (1, 0)])
def test_an_unknown_or_infinite_subject_distance_is_none(photo, distance):
    assert (
        read_exposure(
            write(photo, {ExifIFD.SubjectDistance: distance}, camera=CANON_7D)
        ).subject_distance_m
        is None
    )


def test_no_exif_and_a_thumbnail_alone(tmp_path):
    bare = tmp_path / "bare.jpg"
    Image.new("RGB", SIZE).save(bare)
    assert rejection(bare).reason is Reason.NO_EXIF

    thumbnail = tmp_path / "thumbnail.jpg"
    exif = {"1st": {ImageIFD.Compression: 6}, "thumbnail": bare.read_bytes()}
    Image.new("RGB", SIZE).save(thumbnail, exif=piexif.dump(exif))
    assert rejection(thumbnail).reason is Reason.NO_EXIF


def test_files_that_are_no_usable_image(tmp_path):
    def file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert rejection(tmp_path / "absent.jpg").reason is Reason.FILE_MISSING
    assert rejection(tmp_path).reason is Reason.FILE_UNREADABLE
    assert rejection(file("empty.jpg", b"")).reason is Reason.NOT_AN_IMAGE
    assert rejection(file("text.jpg", b"holiday in Rome, day 3")).reason is Reason.NOT_AN_IMAGE
    assert rejection(file("raw.NEF", b"MM\x00*" + bytes(64))).reason is Reason.FORMAT_UNSUPPORTED
    whole = write(tmp_path / "whole.jpg", {}, camera=CANON_7D).read_bytes()
    for length in (len(whole) * 2 // 3, 40):
        assert rejection(file("cut.jpg", whole[:length])).reason is Reason.IMAGE_DAMAGED


def test_a_maker_note_that_breaks_parsers_does_not_cost_the_photograph(photo):
    # Taken for a directory of 19012 entries, with types and offsets that lead out of the file.
    note = b"DJ" + b"\x00\x00\x0c\x00\x01\x00\x00\x00\x0c\x0c\x0c\x0c" * 400
    facts = read_exposure(write(photo, {ExifIFD.MakerNote: note}, camera=CANON_7D))
    assert facts.focal_length_mm == 50.0


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_other_formats_carry_the_same_facts(tmp_path, photo, extension):
    jpeg = write(photo, {}, camera=CANON_7D)
    path = tmp_path / f"photo.{extension}"
    with Image.open(jpeg) as image:
        image.save(path, exif=image.getexif().tobytes())
    facts = read_exposure(path)
    assert (facts.focal_length_mm, facts.f_number, facts.model) == (50.0, 1.8, "Canon EOS 7D")


def test_a_multi_image_file_is_read_by_its_first_image(tmp_path):
    with Image.open(write(tmp_path / "one.jpg", {}, camera=CANON_7D)) as first:
        second = Image.new("RGB", (48, 32))
        path = tmp_path / "two.jpg"
        first.save(path, "MPO", save_all=True, append_images=[second], exif=first.getexif())
    facts = read_exposure(path)
    assert (facts.width, facts.height, facts.focal_length_mm) == (96, 64, 50.0)


def test_damaged_headers_end_in_facts_or_in_a_named_reason(photo):
    """Bytes of the EXIF block overwritten at random: never another exception, never a NaN."""
    camera = ("Canon", "Canon EOS 7D")
    whole = write(
        photo, FOCAL_PLANE | {ExifIFD.MakerNote: b"note" * 20}, camera=camera
    ).read_bytes()
    end = whole.index(b"\xff\xdb")
    generator = np.random.default_rng(7)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        for position in generator.integers(20, end, size=generator.integers(1, 12)):
            damaged[position] = generator.choice([0, 1, 255, generator.integers(256)])
        photo.write_bytes(damaged)
        try:
            facts = read_exposure(photo)
        except Rejected as rejected:
            outcomes.add(rejected.reason)
        else:
            assert facts.pixel_ratio > 0 and np.isfinite(facts.pixel_ratio)
            outcomes.add("facts")
    assert "facts" in outcomes and len(outcomes) > 3
