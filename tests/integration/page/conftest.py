"""A photograph with depth, and a visitor of a page whose networks return what they are given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
from PIL import Image

from genrefocus.network_card import networks_of
from genrefocus.page.session import Service
from genrefocus.pipeline import load_pipeline


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A JPEG photograph by a 50 mm lens, 1 m left and 4 m right."""
    lens = {
        piexif.ExifIFD.FocalLength: (50, 1),
        piexif.ExifIFD.FNumber: (2, 1),
        piexif.ExifIFD.FocalLengthIn35mmFilm: 50,
    }
    about = {piexif.ImageIFD.Artist: b"Ada", piexif.ImageIFD.Orientation: 1}
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    photo, depth = tmp_path / "photo.jpg", tmp_path / "depth.npy"
    Image.fromarray(pixels).save(photo, exif=piexif.dump({"0th": about, "Exif": lens}))
    metres = np.ones((40, 64), np.float32)
    metres[:, 32:] = 4
    np.save(depth, metres)
    return str(photo), str(depth)


@pytest.fixture
def page(
    tmp_path: Path, write_echo_run: Callable[[Path, Path], None], files: tuple[str, str]
) -> Any:
    from genrefocus.page.handlers import Page

    run = tmp_path / "run"
    write_echo_run(run, tmp_path / "base.safetensors")
    service = Service(load_pipeline(networks_of(run), run), long_edge=None, most_pixels=1e4)
    return Page(service, [(Path(files[0]), Path(files[1]))], "Networks.")


@pytest.fixture
def visitor(page: Any) -> Any:
    from tests.visitor import Visitor

    return Visitor(page)
