"""Every mode and colour space of a file as upright sRGB in [0, 1], or turned away by name."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import piexif
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageCms, TiffImagePlugin

from genrefocus.data.images import image_of, load_image, load_mask
from genrefocus.photograph.colours import Pixels, orientation_of, pixels_of, srgb_profile
from genrefocus.photograph.decoding import read_pixels
from genrefocus.photograph.exif import read_exposure
from genrefocus.photograph.profiles import to_linear_srgb
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import raster


def stored(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def through(image: Image.Image, kind: str, **options) -> Pixels:
    return read_pixels(stored(image, kind, **options), f"image.{kind.lower()}")


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[..., None], 3, 2)


BYTES = arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4)))
WORDS = arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5)))


@settings(max_examples=40, deadline=None)
@given(BYTES)
def test_modes_of_eight_bits(values: np.ndarray) -> None:
    """What Pillow's modes mean, by their definitions and not by its conversions."""
    rgb, alpha, first = values[..., :3], values[..., 3], values[..., 0]
    ink = 1 - rgb / 255
    cases = {
        ("1", "PNG"): (Image.fromarray(first >= 128), grey((first >= 128) * 1.0), None),
        ("L", "PNG"): (Image.fromarray(first), grey(first / 255), None),
        ("LA", "PNG"): (
            Image.fromarray(np.ascontiguousarray(values[..., [0, 3]])),
            grey(first / 255),
            alpha / 255,
        ),
        ("RGB", "PNG"): (Image.fromarray(np.ascontiguousarray(rgb)), rgb / 255, None),
        ("RGBA", "PNG"): (Image.fromarray(values), rgb / 255, alpha / 255),
        ("CMYK", "TIFF"): (
            Image.fromarray(values, mode="CMYK"),
            ink * (1 - alpha / 255)[..., None],
            None,
        ),
    }
    for (mode, kind), (image, colour, opacity) in cases.items():
        assert image.mode == mode
        found = through(image, kind)
        np.testing.assert_allclose(found.colour, colour, atol=1.01 / 255, err_msg=mode)
        assert found.colour.dtype == np.float32
        assert (found.opacity is None) == (opacity is None), mode
        if opacity is not None:
            np.testing.assert_allclose(found.opacity, opacity, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(WORDS)
def test_sixteen_bits_and_floating_point_are_kept(values: np.ndarray) -> None:
    expected = grey(values.astype(np.float32) / 65535)
    for kind in ("PNG", "TIFF", "PPM"):
        found = through(Image.fromarray(values), kind)
        np.testing.assert_allclose(found.colour, expected, atol=1e-6, err_msg=kind)
    swapped = Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes())
    np.testing.assert_allclose(through(swapped, "TIFF").colour, expected, atol=1e-6)
    found = through(Image.fromarray(values.astype(np.float32) / 65535), "TIFF")
    np.testing.assert_allclose(found.colour, expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["P", "PA", "YCbCr", "HSV", "RGBX", "RGBa", "La"])
def test_modes_that_hold_one_colour(mode: str) -> None:
    """Pure blue, opaque, survives all of them; grey survives those without colour."""
    blue = Image.new("RGBA", (3, 2), (0, 0, 255, 255))
    steps = {"PA": ("P",), "YCbCr": ("RGB",), "HSV": ("RGB",), "RGBX": ("RGB",), "La": ("LA",)}
    for step in (*steps.get(mode, ()), mode):
        blue = blue.convert(step)
    expected = grey(np.full((2, 3), 29 / 255)) if mode == "La" else np.zeros((2, 3, 3)) + (0, 0, 1)
    np.testing.assert_allclose(pixels_of(blue, "x").colour, expected, atol=1.01 / 255)


def test_every_mode_of_pillow_is_read_or_turned_away_by_name() -> None:
    for mode in Image.MODES:
        image = Image.new(mode, (4, 3))
        found = pixels_of(image, mode)
        assert found.colour.shape == (3, 4, 3) and found.light.shape == (3, 4)
        assert found.colour.min() >= 0 and found.colour.max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0.0, 255.0]], np.float32), "floating point"),
        (np.array([[-0.1, 1.0]], np.float32), "-0.1 to 1"),
        (np.array([[np.nan, 1.0]], np.float32), "nan"),
        (np.array([[0, 70000]], np.int32), "32 bit integers"),
        (np.array([[0, 200]], np.int32), "32 bit integers"),
    ],
)
def test_values_without_a_known_white_are_turned_away(values: np.ndarray, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        through(Image.fromarray(values), "TIFF")
    assert caught.value.reason is Reason.FORMAT_UNSUPPORTED and said in str(caught.value)


def test_tiff_of_twelve_bits_and_with_white_at_zero() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    image = Image.fromarray(np.array([[0.0, 0.25]], np.float32))
    data = bytearray(stored(image, "TIFF"))
    entry = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00")  # PhotometricInterpretation, one short
    data[entry + 8] = 0
    np.testing.assert_allclose(read_pixels(bytes(data), "x").colour[0, :, 0], [1, 0.75])
    words = bytearray(stored(Image.fromarray(np.zeros((2, 2), np.uint16)), "TIFF"))
    entry = words.index(b"\x02\x01\x03\x00\x01\x00\x00\x00")  # BitsPerSample
    words[entry + 8] = 12
    at = words.rindex(bytes(8))
    words[at : at + 6] = b"\xff\xf8\x00" * 2  # 4095 and 2048, twice
    np.testing.assert_allclose(
        read_pixels(bytes(words), "x").colour[..., 0], [[1, 2048 / 4095]] * 2
    )


def test_tiff_of_colour_that_pillow_has_no_mode_for_is_named() -> None:
    data = bytearray(stored(Image.new("RGB", (2, 2)), "TIFF"))
    at = data.index(struct.pack("<3H", 8, 8, 8))
    data[at : at + 6] = struct.pack("<3H", 32, 32, 32)
    with pytest.raises(Rejected) as caught:
        read_pixels(bytes(data), "x.tif")
    assert (caught.value.reason, caught.value.value) == (
        Reason.FORMAT_UNSUPPORTED,
        "32/32/32 bits",
    )
    with pytest.raises(Rejected) as caught:
        read_pixels(bytes(data[:12]), "x.tif")
    assert caught.value.reason is Reason.IMAGE_DAMAGED


# Colour spaces. Matrices from linear light to that of sRGB follow from the primaries (D65).
ADOBE = (lambda v: v ** (563 / 256), [[1.39836, -0.39836, 0], [0, 1, 0], [0, -0.04293, 1.04293]])
P3 = (
    lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4),
    [[1.22494, -0.22494, 0], [-0.04206, 1.04206, 0], [-0.01964, -0.07864, 1.09827]],
)
COLOURS = np.array([[[200, 100, 50], [90, 160, 140], [255, 255, 255], [12, 12, 12]]], np.uint8)


def converted(space) -> np.ndarray:
    decode, matrix = space
    linear = np.clip(decode(COLOURS / 255) @ np.array(matrix).T, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def curve_tag(kind: str) -> bytes:
    """The curve of Adobe RGB (1998), and some that are nearly or not at all so."""
    table = np.round(65535 * np.linspace(0, 1, 1024) ** 2.2).astype(">u2")
    parts = {"power": [2.2], "srgb": [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045]}
    parts |= {"shifted": [2.2, 0.9, 0.1], "raised": [2.0, 0.9, 0.05, 0.02]}
    parts["seven"] = [*parts["srgb"], 0.0, 0.0]
    if kind in parts:
        order = {1: 0, 3: 1, 4: 2, 5: 3, 7: 4}[len(parts[kind])]
        values = struct.pack(f">{len(parts[kind])}i", *(round(x * 65536) for x in parts[kind]))
        return struct.pack(">4s4xH2x", b"para", order) + values
    if kind == "table":
        return struct.pack(">4s4xI", b"curv", 1024) + table.tobytes()
    if kind == "line":
        return struct.pack(">4s4xI", b"curv", 0)
    return struct.pack(">4s4xIH2x", b"curv", 1, 563)


def adobe_profile(kind: str = "adobe") -> bytes:
    """An ICC profile (version 2.4) of Adobe RGB (1998): primaries at D50 as XYZ, and its curve."""
    points = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
    white = struct.pack(">3i", *(round(x * 65536) for x in (0.96420, 1.0, 0.82491)))
    curve = curve_tag(kind)
    tags = {
        b"desc": struct.pack(">4s4xI10s79x", b"desc", 10, b"Adobe RGB\0"),
        b"wtpt": b"XYZ " + bytes(4) + white,
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    for name, point in zip((b"rXYZ", b"gXYZ", b"bXYZ"), points, strict=True):
        tags[name] = struct.pack(">4s4x3i", b"XYZ ", *(round(x * 65536) for x in point))
    table, data, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    kind = struct.pack(">4xI4s4s4s12x4s28x", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header = struct.pack(">I", start + len(data)) + kind + white
    return header + bytes(128 - len(header)) + table + data


def interop(index: bytes) -> bytes:
    return piexif.dump({"Exif": {piexif.ExifIFD.ColorSpace: 65535}, "Interop": {1: index}})


def test_adobe_rgb_by_profile_and_by_exif_is_converted() -> None:
    image = Image.fromarray(COLOURS)
    exif_2 = piexif.dump({"Exif": {piexif.ExifIFD.ColorSpace: 2}})
    for options in ({"icc_profile": adobe_profile()}, {"exif": interop(b"R03")}, {"exif": exif_2}):
        found = through(image, "PNG", **options)
        np.testing.assert_allclose(found.colour, converted(ADOBE), atol=1.5 / 255)
        assert found.space == "Adobe RGB"
    assert through(image, "PNG", exif=interop(b"R98")).space == "sRGB"


@pytest.mark.parametrize(
    "kind", ["adobe", "table", "line", "power", "shifted", "raised", "srgb", "seven"]
)
def test_sixteen_bits_are_converted_as_little_cms_converts_eight(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    profile = adobe_profile(kind)
    eight = through(Image.fromarray(values), "PNG", icc_profile=profile).colour
    convert = to_linear_srgb(profile, srgb_profile())
    assert convert is not None
    linear = convert(values / 255).clip(0, 1)
    sixteen = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(sixteen - eight).max() < 1.5 / 255


def deep_png(values: np.ndarray) -> bytes:
    """RGB or RGBA of 16 bits, by the words of the PNG specification."""
    height, width, channels = values.shape
    rows = np.zeros((height, 1 + 2 * channels * width), np.uint8)
    rows[:, 1:] = values.astype(">u2").reshape(height, -1).view(np.uint8)
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    whole = [
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_keeps_sixteen_bits_where_it_is_asked_to(channels: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (20, 24, channels), np.uint16)
    (tmp_path / "a.png").write_bytes(deep_png(values))
    more: dict = {"photometric": "rgb", "extrasamples": ["unassalpha"] * (channels - 3)}
    tiffs = {"plain": {}, "big": {"byteorder": ">"}, "tiles": {"tile": (16, 16)}}
    tiffs |= {"deflate": {"compression": "zlib"}, "six": {"extratags": [(274, 3, 1, 6, True)]}}
    for name, options in tiffs.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", values, **more, **options)
    for path in tmp_path.iterdir():
        found = read_pixels(path.read_bytes(), path.name, deep=True)
        upright = np.rot90(values, -1) if path.stem == "six" else values
        np.testing.assert_allclose(found.colour, upright[..., :3] / 65535, atol=1e-7)
        assert found.bits == 16 and (found.opacity is None) == (channels == 3)
        shallow = read_pixels(path.read_bytes(), path.name)
        assert shallow.bits == 16
        np.testing.assert_array_equal(shallow.colour * 255, upright[..., :3] >> 8)
    apart = np.ascontiguousarray(np.moveaxis(values[..., :3], 2, 0))
    tifffile.imwrite(tmp_path / "apart.tif", apart, photometric="rgb", planarconfig="separate")
    with pytest.raises(Rejected, match="16 bits.*interleaved"):  # Pillow reads them wrongly
        read_pixels((tmp_path / "apart.tif").read_bytes(), "apart.tif")


def test_display_p3_of_a_heic_is_converted() -> None:
    flat = Image.fromarray(np.repeat(np.repeat(COLOURS, 32, 0), 32, 1))
    data = stored(
        flat, "HEIF", quality=-1, chroma=444, color_primaries=12, transfer_characteristics=13
    )
    found = read_pixels(data, "x.heic")
    assert found.space == "Display P3"
    np.testing.assert_allclose(found.colour[16:17, 16::32], converted(P3), atol=5 / 255)
    hdr = stored(flat, "HEIF", color_primaries=9, transfer_characteristics=16)
    with pytest.raises(Rejected, match="HDR"):
        read_pixels(hdr, "x.heic")


def test_profiles_of_srgb_change_nothing_and_broken_ones_are_named() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    plain = through(image, "PNG").colour
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = through(image, "PNG", icc_profile=profile)
    assert found.space == "sRGB" and np.array_equal(found.colour, plain)
    broken = through(image, "PNG", icc_profile=b"no profile")
    assert "taken for sRGB" in broken.space and np.array_equal(broken.colour, plain)


def test_cielab_in_closed_form() -> None:
    lab = Image.frombytes("LAB", (2, 1), bytes([127, 20, 226, 204, 246, 40]))
    found = through(lab, "TIFF")
    assert found.space == "CIELAB"
    # L 49.8 a 20 b -30 and L 80 a -10 b 40 under D50, by the formulas of CIE 15 and IEC 61966-2-1.
    expected = np.array([[[132.4, 107.5, 169.9], [199.6, 202.8, 121.6]]])
    np.testing.assert_allclose(found.colour * 255, expected, atol=1.5)


# Doors.


def test_a_mask_painted_on_transparency_is_what_was_painted(tmp_path: Path) -> None:
    painted = np.full((6, 8, 4), 255, np.uint8)
    painted[..., 3] = 0
    painted[1:3, 2:5, 3] = 255
    Image.fromarray(painted).save(tmp_path / "mask.png")
    expected = np.zeros((6, 8), bool)
    expected[1:3, 2:5] = True
    assert np.array_equal(load_mask(tmp_path / "mask.png").numpy(), expected)


def test_sixteen_bit_masks_and_apertures(tmp_path: Path) -> None:
    y, x = np.mgrid[:64, :64]
    disc = np.hypot(x - 31.5, y - 31.5) < 20
    levels = np.where(disc, 40000, 20000).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "disc.png")
    assert np.array_equal(load_mask(tmp_path / "disc.png").numpy(), disc)
    Image.fromarray(disc).save(tmp_path / "plain.png")
    sixteen, one = raster(tmp_path / "disc.png"), raster(tmp_path / "plain.png")
    x, y = np.meshgrid(np.linspace(-1, 1, 31), np.linspace(-1, 1, 31))
    assert np.array_equal(sixteen.distance(x, y), one.distance(x, y))


def with_text_resolution(kind: str) -> bytes:
    """Orientation 6, and an XResolution that is text, which no EXIF writer of Pillow can write."""
    exif = piexif.dump(
        {"0th": {274: 6, 271: b"XXXXXXXX"}, "Exif": {0x829D: (18, 10), 0x920A: (50, 1), 0xA405: 75}}
    )
    exif = exif.replace(b"\x01\x0f\x00\x02", b"\x01\x1a\x00\x02")  # the make becomes XResolution
    stripes = np.zeros((4, 6, 3), np.uint8)
    stripes[:, :2] = 255
    if kind != "TIFF":
        return stored(Image.fromarray(stripes), kind, exif=exif)
    data = stored(Image.fromarray(stripes), kind, exif=exif.replace(b"\x01\x1a", b"\x01\x0f"))
    make = data.index(b"\x0f\x01\x02\x00")
    return data[:make] + b"\x1a" + data[make + 1 :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_tags_that_are_not_needed_do_not_matter(kind: str, tmp_path: Path) -> None:
    data = with_text_resolution(kind)
    image = image_of(data, "x")
    assert image.shape == (3, 6, 4)
    assert image[:, 0].min() > 0.8 and image[:, -1].max() < 0.2  # the left became the top
    path = tmp_path / f"x.{kind.lower()}"
    path.write_bytes(data)
    assert read_exposure(path).focal_length_mm == 50


def test_an_orientation_in_text_is_the_number() -> None:
    exif = piexif.dump({"0th": {271: b"6"}}).replace(b"\x01\x0f\x00\x02", b"\x01\x12\x00\x02")
    data = stored(Image.new("RGB", (5, 4)), "JPEG", exif=exif)
    assert image_of(data, "x").shape == (3, 5, 4)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(6, 60), st.integers(1, 8))
def test_whatever_the_exif_holds_the_pixels_are_read(noise: bytes, at: int, turn: int) -> None:
    exif = bytearray(piexif.dump({"0th": {274: turn, 282: (72, 1)}, "Exif": {0xA001: 1}}))
    exif[at : at + len(noise)] = noise
    image = Image.new("RGB", (5, 4), (10, 200, 30))
    with warnings.catch_warnings(action="ignore"):
        data = stored(image, "PNG", exif=bytes(exif))
        shape = image_of(data, "x").shape
        with Image.open(io.BytesIO(data)) as opened:
            assert shape == ((3, 4, 5) if orientation_of(opened) < 5 else (3, 5, 4))


def test_images_of_one_image_are_equal_whatever_holds_them(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    for name, options in {
        "a.png": {},
        "a.tif": {},
        "a.webp": {"lossless": True},
        "a.bmp": {},
    }.items():
        Image.fromarray(values).save(tmp_path / name, **options)
        assert np.array_equal(load_image(tmp_path / name).permute(1, 2, 0).numpy() * 255, values), (
            name
        )
