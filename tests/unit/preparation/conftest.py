"""Images for a runner, and what a preparation of them leaves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trees import tree
from tests.unit.preparation.copying import run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    for number in range(26):
        blocks = rng.integers(0, 255, (8, 8, 3), np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(blocks).save(root / f"p{number:02d}.png")
    Image.new("RGB", (32, 32)).save(root / "black.png")
    (root / "cut.png").write_bytes((root / "p00.png").read_bytes()[:60])
    (root / "old.raw").touch()
    return root


@pytest.fixture(scope="session")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed preparation in one process leaves."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(images, out) is not None
    return tree(out)
