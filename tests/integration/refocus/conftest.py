from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 40, 57


@pytest.fixture
def folder(
    tmp_path: Path, write_echo_run: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working directory: photo.png, depth.npy (1 m left, 4 m right), mask.png, a run."""
    monkeypatch.chdir(tmp_path)
    y, x = np.linspace(0, 2, HEIGHT)[:, None], np.linspace(0, 3, WIDTH)
    colours = np.stack([np.sin(x + y), np.cos(x * y), np.cos(x - y)], -1) * 100 + 128
    Image.fromarray(colours.astype(np.uint8)).save("photo.png")
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    depth[:, WIDTH // 2 :] = 4
    np.save("depth.npy", depth)
    Image.fromarray((depth == 4).astype(np.uint8) * 255).save("mask.png")

    write_echo_run(tmp_path / "outputs" / "semi_supervised" / "one", tmp_path / "base.safetensors")
    return tmp_path
