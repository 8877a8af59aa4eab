"""Samples of noise, for tests of what carries samples."""

from typing import Any

import torch

from genrefocus.data.sample import Sample
from genrefocus.optics import BlurStrength


def noise_sample(number: int, height: int, width: int, **fields: Any) -> Sample:
    """A sample of the route ``synthetic`` whose images and disparity are drawn from ``number``."""
    generator = torch.Generator().manual_seed(number)

    def image() -> torch.Tensor:
        return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)

    drawn: dict[str, Any] = {
        "key": f"made-{number:03d}",
        "route": "synthetic",
        "split": "train",
        "aif": image(),
        "bokeh": image(),
        "disparity": torch.rand(height, width, generator=generator),
        "strength": BlurStrength(2.0, height, width),
        "focus_disparity": 0.5,
        "provenance": {"number": number},
    }
    return Sample(**drawn | fields)
