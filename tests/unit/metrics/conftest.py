"""Images for learned metrics, and a machine without their weights."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def pattern() -> tuple[Tensor, Tensor, Tensor]:
    """A reference and two distortions, each (1, 3, 64, 64) in [0, 1].

    A coloured chirp in closed form, then the same with less contrast, then the same bent.
    """
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")

    def chirp(bend: float, contrast: float) -> Tensor:
        phases = torch.stack([3 * x + 2 * y, 7 * x * y + y, 5 * x * x - 4 * y + bend * x * y * y])
        return (0.5 + 0.5 * contrast * torch.sin(2 * math.pi * (phases + bend * y * y)))[None]

    return chirp(0.0, 1.0), chirp(0.0, 0.4), chirp(1.5, 1.0)


@pytest.fixture
def empty_torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TORCH_HOME without weights, where any attempt to download is an error."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was attempted")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path
