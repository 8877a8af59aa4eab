"""Generic image-to-image tasks for a base model that can read a condition branch.

They have no scenes: blur is a convolution, Gaussian or with a disk, in display values or in
linear light, that varies over the image and mixes neighbouring regions, without depth and
occlusion. A base model trained on them understands "here is an image, here
is a map, edit the one by the other"; depth of field and its removal are left to the LoRA that is
trained on top.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from genrefocus.optics import MAX_COC
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

_LEVELS = torch.tensor([0.0, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0])  # deviations in px
_SAMPLES = 16  # a pixel's side, where the area of a disk is measured


@dataclass(frozen=True)
class Task:
    """One batch: prompt, images (B, 3, H, W) and control maps (B, 1, H, W), all in [0, 1]."""

    prompt: str
    source: Tensor
    target: Tensor
    control: Tensor | None = None
    draft: Tensor | None = None


def restore(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """Remove a blur that differs from layer to layer, and in half of the images a little noise."""
    source = _blurred(image, blur_map(layers, generators), generators)
    strength = 0.02 * (2 * _rows(torch.rand, (1, 1, 1), generators) - 1).clamp_min(0)
    noise = _rows(torch.randn, image.shape[1:], generators).to(image.device)
    source = source + strength.to(image.device) * noise
    return Task("restore this image", source.clamp(0, 1), image)


def restore_with_draft(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """As :func:`restore`, with a second condition: a draft in which part of the blur is gone."""
    sigma = blur_map(layers, generators)
    rest = _rows(torch.rand, (1, 1, 1), generators).to(image.device)
    source, draft = _blurred(image, torch.cat([sigma, sigma * rest], 1), generators).chunk(2, 1)
    return Task("restore this image with its draft", source, image, draft=draft)


def blur_by_map(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Task:
    """Blur by a control map, which holds 2 / MAX_COC times the deviation.

    A disk of radius r has a standard deviation of r / 2 along an axis, so that a blur of radius r
    reads as r / MAX_COC here and in a defocus map.
    """
    sigma = blur_map(layers, generators)
    return Task(
        "blur this image by the map",
        image,
        _blurred(image, sigma, generators),
        control=sigma * 2 / MAX_COC,
    )


#: Makes a task of sharp images (B, 3, H, W) in [0, 1], the integer index of the layer that each
#: pixel shows (B, H, W), and one CPU generator a row, which is all the randomness there is.
TaskKind = Callable[[Tensor, Tensor, Sequence[Generator]], Task]

#: Tasks of the tiny base and how often each is drawn.
TASKS: dict[TaskKind, float] = {restore: 0.55, blur_by_map: 0.35, restore_with_draft: 0.1}


def draw_kind(generator: Generator) -> TaskKind:
    """A kind of task, drawn by weight."""
    choice = torch.multinomial(torch.tensor(list(TASKS.values())), 1, generator=generator)
    return list(TASKS)[int(choice)]


def blur_map(layers: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Random deviations (B, 1, H, W) in px: one value a layer, plus a ramp, some layers sharp."""
    b, h, w = layers.shape
    strongest = 0.4 * (3.0 / 0.4) ** _rows(torch.rand, (1,), generators)
    values = strongest * _rows(torch.rand, (32,), generators)
    values = values * (_rows(torch.rand, (32,), generators) > 0.15)
    slope = 0.3 * strongest * _rows(torch.randn, (2,), generators)
    values, slope = values.to(layers.device), slope.to(layers.device).view(b, 2, 1, 1, 1)
    sigma = values.gather(1, layers.long().clamp_max(31).flatten(1)).view(b, 1, h, w)
    y = torch.linspace(-1, 1, h, device=layers.device).view(1, 1, h, 1)
    x = torch.linspace(-1, 1, w, device=layers.device).view(1, 1, 1, w)
    return (sigma + slope[:, 0] * y + slope[:, 1] * x).clamp(0, float(_LEVELS[-1]))


def variable_blur(image: Tensor, sigma: Tensor, disks: Sequence[bool]) -> Tensor:
    """Spatially varying blur, interpolated between uniformly blurred copies.

    Args:
        image: (B, 3, H, W), larger than 9 px.
        sigma: (B, M, H, W) standard deviation along an axis in px, at most 3; one blur for each
            of M maps.
        disks: for each row whether the kernel is a disk, of radius 2 sigma, or a Gaussian.

    Returns:
        (B, 3 M, H, W), the images of the first map first.
    """
    b, _, h, w = image.shape
    stack = torch.stack([_uniform_blur(image, n, disks) for n in range(len(_LEVELS))], dim=1)
    levels = _LEVELS.to(sigma.device)
    position = torch.bucketize(sigma, levels[1:-1], right=True)
    low, high = levels[position], levels[position + 1]
    mix = ((sigma - low) / (high - low)).clamp(0, 1)[:, :, None]
    index = position[:, :, None].expand(-1, -1, 3, -1, -1)
    between = torch.lerp(stack.gather(1, index), stack.gather(1, index + 1), mix)
    return between.reshape(b, -1, h, w)


def _blurred(image: Tensor, sigma: Tensor, generators: Sequence[Generator]) -> Tensor:
    """``variable_blur`` row by row with either kernel, on display values or in linear light."""
    shaped, in_light = (_rows(torch.rand, (2,), generators) < 0.5).T
    linear = in_light.to(image.device).view(-1, 1, 1, 1)
    light = torch.where(linear, srgb_to_linear(image), image)
    blurred = variable_blur(light, sigma, shaped.tolist()).clamp(0, 1)
    return torch.where(linear, linear_to_srgb(blurred), blurred)


def _uniform_blur(image: Tensor, level: int, disks: Sequence[bool]) -> Tensor:
    if level == 0:
        return image
    b, channels = image.shape[:2]
    kernels = torch.stack([_kernel(level, disk) for disk in disks]).to(image)
    reach = kernels.shape[-1] // 2
    padded = F.pad(image, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    weight = kernels[:, None].expand(-1, channels, -1, -1).flatten(0, 1)[:, None]
    return F.conv2d(padded, weight, groups=b * channels).view_as(image)


@lru_cache
def _kernel(level: int, disk: bool) -> Tensor:
    """(2 R + 1, 2 R + 1), sum 1; R = 3 sigma also for the disk, so that rows can be stacked."""
    sigma = float(_LEVELS[level])
    reach = max(1, round(3 * sigma))
    if disk:
        side = (2 * reach + 1) * _SAMPLES
        x = (torch.arange(side, dtype=torch.float64) + 0.5) / _SAMPLES - reach - 0.5
        inside = (x[:, None] ** 2 + x[None, :] ** 2 <= (2 * sigma) ** 2).double()
        kernel = F.avg_pool2d(inside[None, None], _SAMPLES)[0, 0]
    else:
        x = torch.exp(-(torch.arange(-reach, reach + 1).double() / sigma).square() / 2)
        kernel = x[:, None] * x[None, :]
    return kernel / kernel.sum()


def _rows(
    draw: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[Generator]
) -> Tensor:
    """(B, *shape) on the CPU, each row from its own generator."""
    return torch.stack([draw(tuple(shape), generator=generator) for generator in generators])
