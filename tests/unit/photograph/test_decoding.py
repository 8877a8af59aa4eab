"""Where image files are opened: HEIC, sizes that are refused, orientation once and everywhere."""

import ast
import io
from pathlib import Path

import numpy as np
import piexif
import pillow_heif
import pytest
from PIL import Image

from genrefocus.cli.inputs import load_focus_mask
from genrefocus.data.images import image_of, load_image, save_image
from genrefocus.data.shards import ShardDataset
from genrefocus.estimators import SidecarDepth, SidecarMask
from genrefocus.photograph.exif import exposure_of, read_exposure
from genrefocus.preparation.in_the_wild import InTheWild
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.sources import Photographs
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import raster

WIDTH, HEIGHT = 48, 32
# What the EXIF standard says that each orientation does to the upright image before storing it.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def quadrants() -> np.ndarray:
    """Four flat colours, which JPEG and HEIC keep to a few levels; no symmetry."""
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[: HEIGHT // 2, : WIDTH // 2] = 200, 40, 40
    upright[: HEIGHT // 2, WIDTH // 2 :] = 40, 200, 40
    upright[HEIGHT // 2 :, : WIDTH // 2] = 40, 40, 200
    upright[HEIGHT // 2 :, WIDTH // 2 :] = 220, 220, 220
    return upright


def exif_block(orientation: int, width: int, height: int) -> bytes:
    """50 mm f/1.8 on a sensor 24 mm wide; ``width`` and ``height`` as stored."""
    exposure = {
        piexif.ExifIFD.FocalLength: (50, 1),
        piexif.ExifIFD.FNumber: (18, 10),
        piexif.ExifIFD.FocalLengthIn35mmFilm: 75,
        piexif.ExifIFD.PixelXDimension: width,
        piexif.ExifIFD.PixelYDimension: height,
    }
    return piexif.dump({"0th": {piexif.ImageIFD.Orientation: orientation}, "Exif": exposure})


def write(path: Path, orientation: int) -> Path:
    """The quadrants as a camera held so would store them; the suffix says the format."""
    stored = np.ascontiguousarray(STORED[orientation](quadrants()))
    height, width = stored.shape[:2]
    image = Image.fromarray(stored)
    exif = exif_block(orientation, width, height)
    quality = {
        ".jpg": {"quality": 100, "subsampling": 0},
        ".heic": {"quality": -1, "chroma": 444},
        ".webp": {"lossless": True},
    }
    image.save(path, exif=exif, **quality.get(path.suffix, {}))
    return path


def assert_upright(pixels: np.ndarray) -> None:
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - quadrants()).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".heic"])
def test_every_format_and_orientation_is_turned_once(tmp_path, suffix, orientation):
    path = write(tmp_path / f"photo{suffix}", orientation)
    loaded = (load_image(path) * 255).round().byte()
    assert_upright(loaded.permute(1, 2, 0).numpy())
    save_image(loaded, tmp_path / "saved.jpg")
    with Image.open(tmp_path / "saved.jpg") as image:
        assert not image.getexif() and image.size == (WIDTH, HEIGHT)

    facts = read_exposure(path)
    stored_size = (WIDTH, HEIGHT) if orientation < 5 else (HEIGHT, WIDTH)
    if suffix in (".heic", ".tif"):  # which their decoders turn
        assert (facts.width, facts.height, facts.orientation) == (WIDTH, HEIGHT, 1)
    else:
        assert (facts.width, facts.height) == stored_size
        assert facts.orientation == orientation
    assert facts.pixel_ratio == pytest.approx(WIDTH / 24)
    assert facts.flags == ()


def test_photographs_of_all_orientations_make_equal_samples(tmp_path):
    """Depth, mask and bokeh agree; K does not depend on how the camera was held."""
    for folder in ("photos", "depth", "mask"):
        (tmp_path / folder).mkdir()
    depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    depth[: HEIGHT // 2, : WIDTH // 2] = 1.0
    for orientation in range(1, 9):
        name = f"IMG_{orientation}"
        suffix = ".heic" if orientation == 8 else ".jpg"
        write(tmp_path / "photos" / f"{name}{suffix}", orientation)
        np.save(tmp_path / "depth" / f"{name}.npy", depth)
        Image.fromarray((depth == 1).astype(np.uint8) * 255).save(tmp_path / f"mask/{name}.png")
    route = InTheWild(
        depth=SidecarDepth(tmp_path / "depth"),
        mask=SidecarMask(tmp_path / "mask"),
        deblur=lambda images, numbers: images,
        deblur_name="none",
        long_edge=1024,
        least_edge=1,
        batch_size=8,
    )
    report = prepare(
        route,
        Photographs(tmp_path / "photos"),
        tmp_path / "shards",
        seed=0,
        items_per_shard=8,
        splits={"train": 1.0},
        progress=False,
    )
    assert report["written"] == {"train": 8, "val": 0, "test": 0}
    dataset = ShardDataset(tmp_path / "shards/train")
    strengths = []
    for number in range(8):
        sample = dataset[number]
        assert_upright(sample.bokeh.permute(1, 2, 0).numpy())
        assert sample.mask[0, 0] and not sample.mask[-1, -1]
        assert sample.focus_disparity == pytest.approx(1.0, rel=1e-4)
        strengths.append(sample.strength.k)
    assert strengths == pytest.approx([strengths[0]] * 8)


def test_masks_and_apertures_are_turned_too(tmp_path):
    """A mark in a corner of the mask, and an opening that is wide, not high."""
    mask = np.zeros((4, 6), np.uint8)
    mask[0, 0] = 255
    exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}})
    Image.fromarray(np.ascontiguousarray(np.rot90(mask))).save(tmp_path / "mask.png", exif=exif)
    assert load_focus_mask(tmp_path / "mask.png", 4, 6).nonzero().tolist() == [[0, 0]]

    opening = np.zeros((64, 64), np.uint8)
    opening[28:36, 4:60] = 255
    Image.fromarray(opening).save(tmp_path / "wide.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(opening))).save(tmp_path / "6.png", exif=exif)
    upright, turned = raster(tmp_path / "wide.png"), raster(tmp_path / "6.png")
    x, y = np.meshgrid(np.linspace(-0.9, 0.9, 19), np.linspace(-0.9, 0.9, 19))
    assert np.allclose(upright.distance(x, y), turned.distance(x, y), atol=0.05)


def test_images_are_opened_in_few_places(repo_root):
    """Elsewhere nobody can forget orientation, HEIC, size limits or reasons."""
    allowed = {
        "decoding.py": "photographs",
        "sample.py": "own shards",
        "camera.py": "what a simulated camera has just compressed",
        "apertures.py": "shapes that samples describe",
        "focal_stack.py": "index maps",
    }
    callers = set()
    for folder in ("src", "datamodules", "lit_models"):
        for path in (repo_root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                    callers.add(path.name)
    assert callers == set(allowed)


def test_heic_with_a_second_image_and_damage(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    first = Image.fromarray(noise)
    first.info["exif"] = exif_block(1, 96, 64)
    file = pillow_heif.from_pillow(first)
    file.add_from_pillow(Image.new("RGB", (48, 32)))
    file.save(tmp_path / "burst.heic", quality=90)
    assert load_image(tmp_path / "burst.heic").shape == (3, 64, 96)
    facts = read_exposure(tmp_path / "burst.heic")
    assert (facts.width, facts.height, facts.sensor_width_mm) == (96, 64, 24.0)
    whole = (tmp_path / "burst.heic").read_bytes()
    for length in (40, len(whole) // 2, len(whole) - 100):
        for read in (exposure_of, image_of):
            with pytest.raises(Rejected) as caught:
                read(whole[:length], "cut.heic")
            assert caught.value.reason is Reason.IMAGE_DAMAGED


def test_too_many_pixels_are_refused_before_decoding(monkeypatch, recwarn):
    """Between once and twice the limit Pillow only warns, above it raises an error of its own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for width in (11, 21):
        buffer = io.BytesIO()
        monkeypatch.undo()
        Image.new("RGB", (width, 10)).save(buffer, "PNG")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        for read in (exposure_of, image_of):
            with pytest.raises(Rejected) as caught:
                read(buffer.getvalue(), "large.png")
            assert caught.value.reason is Reason.IMAGE_TOO_LARGE
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 210)
    assert image_of(buffer.getvalue(), "large.png").shape == (3, 10, 21)
    assert not recwarn


def test_decoders_that_start_programs_are_not_tried():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(Rejected) as caught:
        image_of(postscript, "photo.jpg")
    assert caught.value.reason is Reason.NOT_AN_IMAGE
