"""Generic image-to-image tasks for a base model that can read a condition branch.

They know nothing of lenses: blur is Gaussian, in display space, without occlusion. A base model
trained on them understands "here is an image, here is a map, edit the one by the other"; depth of
field and its removal are left to the LoRA that is trained on top.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from genrefocus.optics import MAX_COC

_LEVELS = torch.tensor([0.0, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8])  # Gaussian sigmas in px


@dataclass(frozen=True)
class Task:
    """One batch: prompt, images (B, 3, H, W) and control maps (B, 1, H, W), all in [0, 1]."""

    prompt: str
    source: Tensor
    target: Tensor
    control: Tensor | None = None
    draft: Tensor | None = None


def restore(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """Remove a Gaussian blur that differs from layer to layer, and a little noise."""
    source = gaussian_blur(image, blur_map(layers, generators))
    strength = 0.02 * _rows(torch.rand, (1, 1, 1), generators).to(image.device)
    noise = _rows(torch.randn, image.shape[1:], generators).to(image.device)
    return Task("restore this image", (source + strength * noise).clamp(0, 1), image)


def restore_with_draft(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """As :func:`restore`, with a second condition: a draft in which part of the blur is gone."""
    sigma = blur_map(layers, generators)
    rest = _rows(torch.rand, (1, 1, 1), generators).to(image.device)
    return Task(
        "restore this image with its draft",
        gaussian_blur(image, sigma),
        image,
        draft=gaussian_blur(image, sigma * rest),
    )


def blur_by_map(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """Blur as a control map says, which is 2 sigma / MAX_COC.

    A disk of radius r has a standard deviation of r / 2 along an axis, so that a blur of radius r
    reads as r / MAX_COC here and in a defocus map.
    """
    sigma = blur_map(layers, generators)
    return Task(
        "blur this image by the map",
        image,
        gaussian_blur(image, sigma),
        control=sigma * 2 / MAX_COC,
    )


#: Makes a task of sharp images (B, 3, H, W) in [0, 1], the integer index of the layer that each
#: pixel shows (B, H, W), and one CPU generator a row, which is all the randomness there is.
TaskKind = Callable[[Tensor, Tensor, Sequence[Generator]], Task]

#: Tasks of the tiny base and how often each is drawn.
TASKS: dict[TaskKind, float] = {restore: 0.45, blur_by_map: 0.45, restore_with_draft: 0.1}


def draw_kind(generator: Generator) -> TaskKind:
    """A kind of task, drawn by weight."""
    choice = torch.multinomial(torch.tensor(list(TASKS.values())), 1, generator=generator)
    return list(TASKS)[int(choice)]


def blur_map(layers: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Random sigma (B, 1, H, W) in px: one value a layer, plus a ramp, some layers sharp."""
    b, h, w = layers.shape
    strongest = 0.8 * (2.6 / 0.8) ** _rows(torch.rand, (1,), generators)
    values = strongest * _rows(torch.rand, (32,), generators)
    values = values * (_rows(torch.rand, (32,), generators) > 0.15)
    slope = 0.3 * strongest * _rows(torch.randn, (2,), generators)
    values, slope = values.to(layers.device), slope.to(layers.device).view(b, 2, 1, 1, 1)
    sigma = values.gather(1, layers.long().clamp_max(31).flatten(1)).view(b, 1, h, w)
    y = torch.linspace(-1, 1, h, device=layers.device).view(1, 1, h, 1)
    x = torch.linspace(-1, 1, w, device=layers.device).view(1, 1, 1, w)
    return (sigma + slope[:, 0] * y + slope[:, 1] * x).clamp(0, float(_LEVELS[-1]))


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Spatially varying Gaussian blur, interpolated between uniformly blurred copies.

    Args:
        image: (B, 3, H, W).
        sigma: (B, 1, H, W) standard deviation in px, at most 2.8.
    """
    stack = torch.stack([_uniform_blur(image, float(level)) for level in _LEVELS], dim=1)
    levels = _LEVELS.to(sigma.device)
    position = torch.bucketize(sigma, levels[1:-1], right=True)
    low, high = levels[position], levels[position + 1]
    mix = ((sigma - low) / (high - low)).clamp(0, 1)
    index = position[:, None].expand(-1, 1, 3, -1, -1)
    return torch.lerp(stack.gather(1, index)[:, 0], stack.gather(1, index + 1)[:, 0], mix)


def _uniform_blur(image: Tensor, sigma: float) -> Tensor:
    if sigma == 0:
        return image
    reach = max(1, round(3 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(x / sigma).square() / 2)
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[..., None, :], groups=image.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=image.shape[1])


def _rows(
    draw: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[Generator]
) -> Tensor:
    """(B, *shape) on the CPU, each row from its own generator."""
    return torch.stack([draw(tuple(shape), generator=generator) for generator in generators])
