"""The width of the sensor: from EXIF of every kind, and from the table of cameras."""

import csv

import pytest
from piexif import ExifIFD

from genrefocus.photograph.exif import read_exposure
from genrefocus.photograph.sensors import table_sensor_width
from genrefocus.rejection import Reason
from tests.unit.photograph.exposures import (
    CANON_7D,
    CENTIMETRE,
    FOCAL_PLANE,
    INCH,
    MILLIMETRE,
    rejection,
    write,
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
