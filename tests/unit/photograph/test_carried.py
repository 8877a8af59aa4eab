"""What images made of a photograph carry on, as Pillow, piexif and tifffile read it."""

import io
from pathlib import Path

import numpy as np
import piexif
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from genrefocus.data.images import load_photograph
from genrefocus.photograph.exif import read_exposure

EXIF = {
    "0th": {
        271: b"SONY",
        272: b"ILCE-7M3",
        274: 6,
        282: (300, 1),
        283: (300, 1),
        296: 2,
        315: "Zoë Ångström".encode(),
        33432: b"(c) Zoe",
    },
    "Exif": {
        33434: (1, 250),
        33437: (18, 10),
        37386: (850, 10),
        36867: b"2020:01:01 10:00:00",
        37380: (-1, 3),
        37396: (20, 10, 5),
        37500: b"offsets of another file",
        37510: b"ASCII\0\0\0a note",
        40961: 2,
        40962: 60,
        40963: 40,
        41486: (5000, 3),
        41487: (2500, 3),
        41488: 3,
        41989: 85,
        42036: b"FE 85mm",
    },
    "GPS": {1: b"N", 2: ((48, 1), (30, 1), (1234, 100)), 3: b"E", 4: ((9, 1), (1, 1), (0, 1))},
    "Interop": {1: b"R03"},
}


def write_photograph(path: Path, **options) -> Path:
    """60 x 40 px as stored, to be turned; with a thumbnail."""
    ramp = np.linspace(0, 255, 60)[None, :, None] * np.ones((40, 1, 3))
    small = io.BytesIO()
    Image.new("RGB", (16, 12)).save(small, "JPEG")
    exif = {**EXIF, "1st": {513: 0, 514: 0}, "thumbnail": small.getvalue()}
    given = {"exif": piexif.dump(exif), **options}
    Image.fromarray(ramp.astype(np.uint8)).save(path, **given)
    return path


@pytest.mark.parametrize("made", ["out.jpg", "out.png", "out.webp", "out.tif", "deep.png"])
@pytest.mark.parametrize("kind", ["photo.jpg", "photo.png", "photo.tif", "photo.webp"])
def test_exif_is_carried_on_with_what_is_true_of_the_new_image(
    tmp_path: Path, kind: str, made: str
) -> None:
    photo = load_photograph(write_photograph(tmp_path / kind))
    assert photo.size == (60, 40)
    out = tmp_path / made
    photo.save(torch.rand(3, 30, 20), out, bits=16 if made == "deep.png" else 8, scale=0.5)
    with Image.open(out) as image:
        assert image.size == (20, 30)
        block = out.read_bytes() if made == "out.tif" else image.info["exif"]
        assert image.getexif().get_ifd(34665)[37386] == 85
    found = piexif.load(block)
    lossy = {315, 37510} if kind == "photo.tif" else set()  # which Pillow wrote into this one
    for tag, value in EXIF["0th"].items():
        if tag not in lossy:
            assert found["0th"][tag] == (1 if tag == 274 else value), tag
    changed = {40961: 1, 40962: 20, 40963: 30, 37396: None, 37500: None}
    changed |= {41486: (1250, 3), 41487: (2500, 3)}  # turned, and half of it
    for tag, value in EXIF["Exif"].items():
        new = found["Exif"].get(tag)
        expected = changed.get(tag, value)
        if isinstance(expected, tuple) and new is not None:
            assert np.isclose(new[0] / new[1], expected[0] / expected[1]), tag
        elif tag not in lossy:
            assert new == expected, tag
    assert found["GPS"][1] == b"N" and found["GPS"][4][0] == (9, 1)
    assert not found["Interop"] and not found["1st"] and found["thumbnail"] is None
    before, after = read_exposure(tmp_path / kind), read_exposure(out)
    assert after.focal_length_mm == before.focal_length_mm == 85
    assert after.sensor_width_mm == pytest.approx(before.sensor_width_mm, rel=1e-3)


def test_sixteen_bits_are_written_as_others_read_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (21, 17, 3), np.uint16)
    tifffile.imwrite(tmp_path / "photo.tif", values, photometric="rgb", iccprofile=SRGB)
    photo = load_photograph(tmp_path / "photo.tif", deep=True)
    assert photo.bits == 16 and photo.notices == []
    for name in ("out.png", "out.tif", "out.jpg"):
        photo.save(photo.image, tmp_path / name, bits=photo.bits)
        with Image.open(tmp_path / name) as image:
            assert image.info["icc_profile"] == SRGB
    with Image.open(tmp_path / "out.png") as image:  # Pillow reads the upper 8 bits
        assert np.array_equal(np.asarray(image), values >> 8)
    again = load_photograph(tmp_path / "out.png", deep=True).image.permute(1, 2, 0)
    np.testing.assert_allclose(again, values / 65535, atol=1e-7)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), values)
    photo.save(photo.image, tmp_path / "eight.tif")
    eight = tifffile.imread(tmp_path / "eight.tif")
    assert eight.dtype == np.uint8 and np.abs(eight - values / 257).max() < 0.51


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("L", (8, 6), 90), "grey becomes three equal channels"),
        (Image.new("RGBA", (8, 6), (9, 80, 7, 100)), "transparency is dropped"),
        (Image.new("CMYK", (8, 6), (9, 80, 7, 10)), "converted from CMYK without a profile to"),
    ],
)
def test_conversions_are_told(tmp_path: Path, image: Image.Image, said: str) -> None:
    image.save(tmp_path / "photo.tif")
    photo = load_photograph(tmp_path / "photo.tif")
    assert len(photo.notices) == 1 and said in photo.notices[0]
    photo.save(photo.image, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as made:
        assert made.mode == "RGB"
        # What was converted says what it is now.
        assert ("icc_profile" in made.info) == (image.mode == "CMYK")


def test_exif_that_cannot_be_carried_on_is_told(tmp_path: Path) -> None:
    damaged = bytearray(piexif.dump(EXIF))
    damaged[12:14] = b"\xff\xff"  # entries of the first directory
    long = piexif.dump({"Exif": {37510: bytes(65_200)}})
    for exif, said in ((bytes(damaged), "damaged"), (long, "too long")):
        write_photograph(tmp_path / "photo.png", exif=exif)
        photo = load_photograph(tmp_path / "photo.png")
        assert photo.notices == [f"the EXIF is {said}, and is left out"]
        photo.save(photo.image, tmp_path / "out.jpg")
        with Image.open(tmp_path / "out.jpg") as image:
            assert "exif" not in image.info
    # A tag of a type that piexif would not write: the others stay.
    odd = piexif.dump({"0th": {271: b"SONY"}, "Exif": {41729: b"\1", 42036: b"FE"}})
    odd = odd.replace(b"\xa3\x01\x00\x07", b"\xa3\x01\x00\x01")
    write_photograph(tmp_path / "photo.png", exif=odd)
    photo = load_photograph(tmp_path / "photo.png")
    photo.save(photo.image, tmp_path / "out.jpg")
    found = piexif.load(str(tmp_path / "out.jpg"))
    assert found["0th"][271] == b"SONY" and found["Exif"][42036] == b"FE"
