"""Exposure facts from files as they are found: each written with piexif, some damaged by hand."""

import csv
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
from genrefocus.photograph.sensors import table_sensor_width
from genrefocus.rejection import Reason, Rejected

INCH, CENTIMETRE, MILLIMETRE = 2, 3, 4
SIZE = (96, 64)  # width, height


def write(path: Path, exposure: dict, *, camera=("", ""), size=SIZE, **main) -> Path:
    """A noisy JPEG with a 50 mm f/1.8 exposure, changed by ``exposure`` (None drops a tag)."""
    tags = {ExifIFD.FocalLength: (50, 1), ExifIFD.FNumber: (18, 10)} | exposure
    zeroth = {ImageIFD.Make: camera[0].encode(), ImageIFD.Model: camera[1].encode()}
    exif = {
        "0th": {tag: value for tag, value in (zeroth | main.get("zeroth", {})).items() if value},
        "Exif": {tag: value for tag, value in tags.items() if value is not None},
    }
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=piexif.dump(exif), quality=95)
    return path


def rejection(path: Path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_exposure(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture
def photo(tmp_path):
    return tmp_path / "photo.jpg"


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


@pytest.mark.parametrize(
    ("unit", "pixels_per_unit", "flags"),
    [
        (INCH, 6000 / 22.3 * 25.4, ()),
        (CENTIMETRE, 6000 / 22.3 * 10, ()),
        (MILLIMETRE, 6000 / 22.3, ()),
        (None, 6000 / 22.3 * 25.4, ("focal_plane_unit_absent",)),
    ],
)
def test_focal_plane_with_its_unit_and_the_original_width(photo, unit, pixels_per_unit, flags):
    """The file holds 96 px of the 6000 px that the focal plane resolution counts."""
    tags = {
        ExifIFD.FocalPlaneXResolution: (round(pixels_per_unit * 1000), 1000),
        ExifIFD.FocalPlaneResolutionUnit: unit,
        ExifIFD.PixelXDimension: 6000,
        ExifIFD.PixelYDimension: 4000,
    }
    facts = read_exposure(write(photo, tags))
    assert facts.sensor_width_source == "focal_plane"
    assert facts.sensor_width_mm == pytest.approx(22.3, rel=1e-4)
    assert facts.pixel_ratio == pytest.approx(96 / 22.3, rel=1e-4)
    assert facts.focal_length_35mm is None
    assert facts.flags == ("resized", *flags)


FOCAL_PLANE = {
    ExifIFD.FocalPlaneXResolution: (6000, 22),
    ExifIFD.FocalPlaneResolutionUnit: MILLIMETRE,
    ExifIFD.PixelXDimension: 6000,
}
CANON_7D = ("Canon", "Canon EOS 7D")


@pytest.mark.parametrize(
    ("tags", "camera", "width_mm", "source"),
    [
        ({ExifIFD.FocalLengthIn35mmFilm: 75} | FOCAL_PLANE, CANON_7D, 24.0, "focal_length_35mm"),
        ({ExifIFD.FocalLengthIn35mmFilm: 0} | FOCAL_PLANE, CANON_7D, 22.0, "focal_plane"),
        ({}, CANON_7D, 22.3, "table"),
        ({ExifIFD.FocalPlaneXResolution: (6000, 0)}, CANON_7D, 22.3, "table"),
        (FOCAL_PLANE | {ExifIFD.FocalPlaneResolutionUnit: 1}, CANON_7D, 22.3, "table"),
        (FOCAL_PLANE | {ExifIFD.PixelXDimension: None}, CANON_7D, 22.3, "table"),
        # Early Samsung cameras write tens of metres; an implausible width is no measurement.
        ({ExifIFD.FocalLengthIn35mmFilm: 48388}, CANON_7D, 22.3, "table"),
    ],
)
def test_order_of_the_sensor_width_sources(photo, tags, camera, width_mm, source):
    facts = read_exposure(write(photo, tags, camera=camera))
    assert facts.sensor_width_mm == pytest.approx(width_mm)
    assert facts.sensor_width_source == source


def test_an_unknown_sensor_is_rejected_with_the_camera(photo):
    rejected = rejection(write(photo, {}, camera=("ACME", "Pinhole 1")))
    assert (rejected.reason, rejected.value) == (Reason.SENSOR_WIDTH_UNKNOWN, "ACME Pinhole 1")


@pytest.mark.parametrize(
    ("camera", "flag", "width_mm", "source"),
    [
        (CANON_7D, ("f35_echoes_focal_length",), 22.3, "table"),
        (("Canon", "Canon EOS 5D Mark II"), (), 36.0, "focal_length_35mm"),
        (("SONY", "ILCE-7M3"), (), 36.0, "focal_length_35mm"),
        (("ACME", "X"), ("crop_factor_one_unverified",), 36.0, "focal_length_35mm"),
    ],
)
def test_crop_factor_of_exactly_one(photo, camera, flag, width_mm, source):
    facts = read_exposure(write(photo, {ExifIFD.FocalLengthIn35mmFilm: 50}, camera=camera))
    assert facts.flags == flag
    assert facts.sensor_width_mm == pytest.approx(width_mm)
    assert facts.sensor_width_source == source


def test_an_image_of_a_few_pixels_is_read(photo):
    assert read_exposure(write(photo, {}, camera=CANON_7D, size=(5, 3))).width == 5


def test_digital_zoom_narrows_the_sensor_but_is_within_the_35mm_equivalent(photo):
    zoom = {ExifIFD.DigitalZoomRatio: (2, 1)}
    listed = read_exposure(write(photo, zoom, camera=CANON_7D))
    assert listed.sensor_width_mm == pytest.approx(22.3 / 2)
    equivalent = read_exposure(write(photo, zoom | {ExifIFD.FocalLengthIn35mmFilm: 150}))
    assert equivalent.sensor_width_mm == pytest.approx(12.0)
    for facts in (listed, equivalent):
        assert facts.digital_zoom == 2.0
        assert "digital_zoom" in facts.flags
    none = read_exposure(write(photo, {ExifIFD.DigitalZoomRatio: (0, 1)}, camera=CANON_7D))
    assert none.digital_zoom is None and none.sensor_width_mm == 22.3


def test_a_crop_after_the_exposure_has_no_pixel_ratio(photo):
    original = {ExifIFD.PixelXDimension: 6000, ExifIFD.PixelYDimension: 4000}
    resized = read_exposure(write(photo, original, camera=CANON_7D))
    assert resized.flags == ("resized",)
    cropped = rejection(write(photo, original, camera=CANON_7D, size=(64, 64)))
    assert cropped.reason is Reason.CROPPED_AFTER_EXPOSURE
    assert cropped.value == "6000x4000 px to 64x64 px"


CANON_6D_II = ("Canon", "Canon EOS 6D Mark II")


@pytest.mark.parametrize(
    ("equivalent", "width_mm", "source", "flags"),
    [
        (
            69,
            22.3,
            "table",
            ("disagrees_with_table: 26.09 mm by focal_length_35mm",),
        ),  # more than the sensor has
        (71, 36 * 50 / 71, "focal_length_35mm", ()),
        (94, 36 * 50 / 94, "focal_length_35mm", ()),
        (96, 36 * 50 / 96, "focal_length_35mm", ("in_camera_crop",)),
        (7, 22.3, "table", ("f35_implausible",)),
    ],
)
def test_an_equivalent_of_more_than_the_sensor_is_passed_over(
    photo, equivalent, width_mm, source, flags
):
    tags = {ExifIFD.FocalLengthIn35mmFilm: equivalent}
    facts = read_exposure(write(photo, tags, camera=CANON_7D))
    assert facts.sensor_width_mm == pytest.approx(width_mm)
    assert (facts.sensor_width_source, facts.flags) == (source, flags)


def focal_plane(pixels_per_inch: float, columns: int) -> dict:
    return {
        ExifIFD.FocalPlaneXResolution: (round(pixels_per_inch * 1000), 1000),
        ExifIFD.FocalPlaneResolutionUnit: INCH,
        ExifIFD.PixelXDimension: columns,
        ExifIFD.PixelYDimension: columns * 2 // 3,
    }


def test_a_false_focal_plane_is_corrected_by_the_table(photo):
    """As every EOS 6D Mark II writes it: 23.75 mm, which would make K 1.5 times too large."""
    facts = read_exposure(write(photo, focal_plane(6673.8, 6240), camera=CANON_6D_II))
    assert (facts.sensor_width_mm, facts.sensor_width_source) == (35.9, "table")
    assert facts.flags == ("resized", "disagrees_with_table: 23.75 mm by focal_plane")
    unlisted = read_exposure(write(photo, focal_plane(6673.8, 6240), camera=("ACME", "X")))
    assert unlisted.sensor_width_mm == pytest.approx(23.75, abs=0.01)


def test_what_may_be_a_crop_mode_or_false_is_rejected(photo):
    """An EOS R in its crop mode: its focal plane is right, as nothing in the file tells."""
    tags = focal_plane(6720 / 36 * 25.4, 4176)
    rejected = rejection(write(photo, tags, camera=("Canon", "Canon EOS R")))
    assert (rejected.reason, rejected.value) == (Reason.SENSOR_WIDTH_UNKNOWN, "22.37 mm")


def test_the_f_of_a_phone_is_no_equivalent(photo):
    """No lens of 4 mm covers 36 mm, so that the field repeats f, here cut to a whole number."""
    tags = {ExifIFD.FocalLength: (425, 100), ExifIFD.FocalLengthIn35mmFilm: 4}
    rejected = rejection(write(photo, tags, camera=("Phones", "One")))
    assert rejected.reason is Reason.SENSOR_WIDTH_UNKNOWN and "f35_implausible" in str(rejected)


def test_focal_plane_of_the_original_in_a_reduced_image_is_no_sensor(photo):
    """Software wrote the new width and kept the resolution: a sensor half a millimetre wide."""
    reduced = FOCAL_PLANE | {ExifIFD.PixelXDimension: 200}
    assert rejection(write(photo, reduced)).reason is Reason.SENSOR_WIDTH_UNKNOWN
    facts = read_exposure(write(photo, reduced, camera=CANON_7D))
    assert (facts.sensor_width_source, facts.sensor_width_mm) == ("table", 22.3)
    assert "focal_plane_implausible" in facts.flags


def test_an_absurd_digital_zoom_is_no_sensor_width(photo):
    zoom = {ExifIFD.DigitalZoomRatio: (4_000_000_000, 1)}
    for tags in (zoom, zoom | FOCAL_PLANE):
        rejected = rejection(write(photo, tags, camera=CANON_7D))
        assert rejected.reason is Reason.SENSOR_WIDTH_UNKNOWN


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


def test_every_listed_camera_is_found_under_its_own_name(repo_root):
    count = set()
    for name, narrowest, widest in (
        ("sensor_widths.csv", 5, 60),
        ("sensor_widths_compact.csv", 4, 9),
    ):
        text = (repo_root / "src/genrefocus/photograph" / name).read_text()
        for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
            assert table_sensor_width(row["make"], row["model"]) == float(row["width_mm"])
            assert narrowest < float(row["width_mm"]) < widest
            camera = (row["make"].lower(), row["model"].lower())
            assert camera not in count
            count.add(camera)
    assert len(count) > 1700
    assert table_sensor_width("canon", "canon  EOS 7d") == 22.3
    assert table_sensor_width("", "NIKON D90") == 23.6
    assert table_sensor_width("Apple", "iPhone 13 Pro") is None


@pytest.mark.parametrize(
    ("make", "model", "columns", "pitch_um"),
    [
        ("Canon", "Canon EOS 5D Mark II", 5616, 6.41),
        ("Canon", "Canon EOS 7D", 5184, 4.3),
        ("Canon", "Canon EOS-1D Mark III", 3888, 7.2),
        ("NIKON CORPORATION", "NIKON D3", 4256, 8.45),
        ("NIKON CORPORATION", "NIKON D800", 7360, 4.88),
        ("NIKON CORPORATION", "NIKON D500", 5568, 4.22),
        ("SONY", "ILCE-7M3", 6000, 5.93),
        ("SONY", "DSC-RX100", 5472, 2.41),
        ("OLYMPUS IMAGING CORP.", "E-M5", 4608, 3.75),
        ("FUJIFILM", "GFX 50S", 8256, 5.3),
        ("SIGMA", "SIGMA DP2 Merrill", 4704, 5.0),
        ("Panasonic", "DC-GH5", 5184, 3.33),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", 7360, 4.88),
        ("Leica Camera AG", "M9 Digital Camera", 5212, 6.8),
    ],
)
def test_listed_widths_are_columns_times_published_pixel_pitch(make, model, columns, pitch_um):
    assert table_sensor_width(make, model) == pytest.approx(columns * pitch_um / 1000, rel=0.025)
