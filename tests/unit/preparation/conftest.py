"""Images for a runner, and what a preparation of them leaves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrefocus.embedded.sets import build_embedded
from tests.trees import tree
from tests.unit.preparation.copying import run
from tests.unit.preparation.rolls import COUNT, landscape


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


@pytest.fixture(scope="session")
def roll(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A camera roll, some of it in a sub-folder, with files that cannot be used."""
    root = tmp_path_factory.mktemp("roll")
    counts = {"camera_roll": {"train": COUNT}}
    build_embedded(root, seed=1, counts=counts, size=32, workers=0, progress=False)
    made = root / "camera_roll/train"
    for kind in ("photos", "depth", "mask"):
        (made / kind / "trip").mkdir()
        for path in sorted((made / kind).glob("IMG_0000[0-3].*")):
            path.rename(made / kind / "trip" / path.name)
    Image.new("RGB", (48, 32)).save(made / "photos/screenshot.jpg")
    cut = (made / "photos/IMG_00005.jpg").read_bytes()[:700]
    (made / "photos/cut.jpg").write_bytes(cut)
    (made / "photos/notes.txt").write_text("not a photograph")
    np.save(made / "depth/flat.npy", np.full((32, 48), 2.0, np.float32))
    wide = landscape(made / "photos").read_bytes()
    (made / "photos/flat.jpg").write_bytes(wide + b"-")  # other bytes, or it is a copy
    Image.new("L", (48, 32), 255).save(made / "mask/flat.png")
    np.save(made / "depth/masked.npy", np.linspace(1, 2, 32 * 48, dtype=np.float32).reshape(32, 48))
    (made / "photos/masked.jpg").write_bytes(wide + b"+")
    Image.new("L", (48, 32), 0).save(made / "mask/masked.png")
    return made
