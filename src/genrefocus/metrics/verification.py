"""Do the trunks in TORCH_HOME give the figures that are documented for LPIPS and DISTS?

Authorities:

- LPIPS 0.1 documents its example pairs (ex_ref, ex_p0) and (ex_ref, ex_p1) as 0.722 and 0.138 for
  alex, 0.569 and 0.422 for vgg. The three images are part of its repository (``imgs/``) and of no
  package, so this check needs a folder that holds them.
- torchmetrics documents DISTS, which runs on the VGG16 trunk, for random images of seed 42. This
  check needs no file.
- The figures of the built-in pattern were measured once, with trunks that reproduce all of the
  above; they make the verification of both trunks possible without any file.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import deep_image_structure_and_texture_similarity as dists

from genrefocus.metrics.lpips import NETS, Net, lpips

_PATTERN_FIGURES: dict[Net, tuple[float, float]] = {
    "alex": (0.08427, 0.11458),
    "vgg": (0.05967, 0.31838),
}
_PATTERN_TOLERANCE = 2e-4

_EXAMPLE_FIGURES: dict[Net, tuple[float, float]] = {"alex": (0.722, 0.138), "vgg": (0.569, 0.422)}
_EXAMPLE_TOLERANCE = 6e-4  # three documented decimals
_EXAMPLE_SHA256 = {
    "ex_ref.png": "57aff3a0aeb6ebea151411f35b4487ea130aedcac6addd91c8c015969f9df097",
    "ex_p0.png": "f44901a99c82755cfe78cdbde66579ae06cd0ebbba4a2539aa35ef96bbe703db",
    "ex_p1.png": "6ada2a42a3378bfa408027ba2d54a827c6f2cec30a0506e4f140fddaca661022",
}

_DISTS_FIGURE = 0.1285
_DISTS_TOLERANCE = 2e-4


@dataclass(frozen=True)
class Check:
    """One figure; it passes when it could be measured and is as documented.

    Attributes:
        net: the trunk under test.
        what: the metric and the images.
        expected: documented figure.
        tolerance: largest absolute difference that passes.
        measured: what this machine gives, or None where ``problem`` says why there is nothing.
        problem: why the figure could not be measured, or "".
    """

    net: Net
    what: str
    expected: float
    tolerance: float
    measured: float | None = None
    problem: str = ""

    @property
    def passed(self) -> bool:
        return self.measured is not None and abs(self.measured - self.expected) <= self.tolerance


def verify(nets: Iterable[Net] = NETS, *, example: Path | None = None) -> list[Check]:
    """Measure the documented figures with the trunks in TORCH_HOME; downloads nothing.

    Args:
        nets: trunks to check.
        example: folder with ex_ref.png, ex_p0.png and ex_p1.png of the LPIPS repository, to check
            its documented example too.

    Returns:
        The checks of every trunk. One that is missing or damaged gives a check with a problem.

    Raises:
        FileNotFoundError: an example image is missing.
        ValueError: an example image is not the one that the figures are documented for.
    """
    triple = None if example is None else read_example(example)
    return [check for net in nets for check in _verify_one(net, triple)]


def pattern() -> tuple[Tensor, Tensor, Tensor]:
    """The built-in images: a reference and two distortions, each (1, 3, 64, 64) in [0, 1].

    A coloured chirp in closed form, then the same with less contrast, then the same bent.
    """
    y, x = torch.meshgrid(torch.arange(64) / 64, torch.arange(64) / 64, indexing="ij")

    def chirp(bend: float, contrast: float) -> Tensor:
        phases = torch.stack([3 * x + 2 * y, 7 * x * y + y, 5 * x * x - 4 * y + bend * x * y * y])
        return (0.5 + 0.5 * contrast * torch.sin(2 * math.pi * (phases + bend * y * y)))[None]

    return chirp(0.0, 1.0), chirp(0.0, 0.4), chirp(1.5, 1.0)


def read_example(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The documented example of LPIPS: ex_ref, ex_p0, ex_p1, each (1, 3, 64, 64) in [0, 1].

    Raises:
        FileNotFoundError: one of them is not in ``folder``.
        ValueError: one of them is another image.
    """
    images = []
    for name, expected in _EXAMPLE_SHA256.items():
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; pass the folder imgs/ of the LPIPS repository"
            )
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{file} is not the image that the LPIPS figures are documented for")
        with Image.open(file) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
        images.append(pixels.permute(2, 0, 1)[None].float() / 255.0)
    reference, first, second = images
    return reference, first, second


@torch.no_grad()
def _verify_one(net: Net, example: tuple[Tensor, Tensor, Tensor] | None) -> Iterator[Check]:
    figures = _PATTERN_FIGURES[net]
    what = f"LPIPS {net}, built-in pattern"
    reference, *distorted = pattern()
    try:
        measured = [lpips(reference, image, net=net).item() for image in distorted]
    except (FileNotFoundError, ValueError) as error:
        yield Check(net, what, figures[0], _PATTERN_TOLERANCE, problem=str(error))
        return
    for number, (value, expected) in enumerate(zip(measured, figures, strict=True)):
        yield Check(net, f"{what} {number}", expected, _PATTERN_TOLERANCE, value)
    if net == "vgg":
        yield Check(
            net, "DISTS, example of torchmetrics", _DISTS_FIGURE, _DISTS_TOLERANCE, _dists_example()
        )
    if example is not None:
        for number, expected in enumerate(_EXAMPLE_FIGURES[net]):
            value = lpips(example[0], example[1 + number], net=net).item()
            what = f"LPIPS {net}, documented (ex_ref, ex_p{number})"
            yield Check(net, what, expected, _EXAMPLE_TOLERANCE, value)


def _dists_example() -> float:
    """The first of the five pairs that torchmetrics documents in the docstring of its DISTS."""
    generator = torch.Generator().manual_seed(42)
    first, second = (torch.rand(5, 3, 256, 256, generator=generator) for _ in range(2))
    return float(dists(first[:1], second[:1]))
