"""Generic image-to-image tasks for a base model that reads conditions.

They have no scenes and no cameras. An image is pasted over another one; each is blurred by a disk
or a Gaussian of its own, the one behind by one that changes along a ramp; highlights are brighter
than white before the blur. A base model trained on these understands "here is an image, here is a
map, edit the one by the other" and what blur looks like; depth, lenses and blurring itself are left
to the LoRA.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Generator, Tensor

from genrefocus.optics import MAX_COC
from genrefocus.render.apertures import disk
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

LARGEST_RADIUS = 6.0
"""Of the blur, in px."""

_REACH = 8  # of a kernel, px
_WIDEST_GAUSSIAN = 4.5  # stands for this radius, px: a wider one does not fit into the kernel
_RAMP = torch.linspace(0, 1, 5)  # places of the ramp behind, where its blur is computed


@dataclass(frozen=True)
class PretextBatch:
    """A batch of a task: prompt, images (B, 3, H, W), maps (B, 1, H, W), all in [0, 1]."""

    prompt: str
    source: Tensor
    target: Tensor
    control: Tensor | None = None
    draft: Tensor | None = None


@dataclass(frozen=True)
class Composite:
    """An image over another, in light, before any blur; see :func:`paste`.

    Attributes:
        behind: (B, 3, H, W) light, >= 0.
        before: (B, 4, H, W), premultiplied light and matte.
        place: (B, 1, H, W) in [0, 1], along the ramp behind.
        linear: (B, 1, 1, 1), whether light is linear, or display values.
    """

    behind: Tensor
    before: Tensor
    place: Tensor
    linear: Tensor

    def as_image(self, light: Tensor) -> Tensor:
        """Light (B, 3, H, W) as an image in [0, 1]."""
        return torch.where(self.linear, linear_to_srgb(light), light).clamp(0, 1)

    def sharp(self) -> Tensor:
        """Both images without blur, (B, 3, H, W) in [0, 1]."""
        return self.as_image(self.before[:, :3] + (1 - self.before[:, 3:]) * self.behind)


@dataclass(frozen=True)
class BlurRadii:
    """Blur radii in px, one row an image: (B,) each; ``round`` says disk or Gaussian."""

    before: Tensor
    first: Tensor
    last: Tensor
    round: Tensor

    def scaled(self, factor: Tensor) -> "BlurRadii":
        """All radii by a factor (B,)."""
        return replace(
            self,
            before=self.before * factor,
            first=self.first * factor,
            last=self.last * factor,
        )


def restore(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> PretextBatch:
    """Remove a blur, and in half of the images a little noise."""
    pasted, radii = _drawn(image, layers, generators)
    source = _noisy(blur(pasted, radii), generators)
    return PretextBatch("restore this image", source, pasted.sharp())


def restore_by_map(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> PretextBatch:
    """As :func:`restore`, with a map of the radii that is about right."""
    pasted, radii = _drawn(image, layers, generators)
    source = _noisy(blur(pasted, radii), generators)
    wrong = torch.exp(0.15 * _rows(torch.randn, (1, 1, 1), generators)).to(image.device)
    control = F.avg_pool2d(F.pad(wrong * radius_map(pasted, radii), (1,) * 4, "replicate"), 3, 1)
    return PretextBatch("restore this image", source, pasted.sharp(), control=control / MAX_COC)


def restore_with_draft(
    image: Tensor, layers: Tensor, generators: Sequence[Generator]
) -> PretextBatch:
    """As :func:`restore`, with a second condition: a draft in which part of the blur is gone."""
    pasted, radii = _drawn(image, layers, generators)
    rest = _rows(torch.rand, (), generators).to(image.device)
    source = _noisy(blur(pasted, radii), generators)
    draft = blur(pasted, radii.scaled(rest))
    return PretextBatch("restore this image with its draft", source, pasted.sharp(), draft=draft)


def measure(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> PretextBatch:
    """Return the map of the radii as a grey image, 1 for the largest radius."""
    pasted, radii = _drawn(image, layers, generators)
    source = _noisy(blur(pasted, radii), generators)
    grey = (radius_map(pasted, radii) / LARGEST_RADIUS).expand_as(source)
    return PretextBatch("show the blur of this image", source, grey)


#: Makes a batch of sharp images (B, 3, H, W) in [0, 1], the integer index of the layer that each
#: pixel shows (B, H, W), and one CPU generator a row, which is all the randomness there is.
PretextTask = Callable[[Tensor, Tensor, Sequence[Generator]], PretextBatch]

#: Tasks of the tiny base and how often each is drawn.
PRETEXT_TASKS: dict[PretextTask, float] = {
    restore: 0.42,
    restore_by_map: 0.42,
    restore_with_draft: 0.05,
    measure: 0.11,
}


def draw_task(generator: Generator) -> PretextTask:
    """A kind of task, drawn by weight."""
    choice = torch.multinomial(torch.tensor(list(PRETEXT_TASKS.values())), 1, generator=generator)
    return list(PRETEXT_TASKS)[int(choice)]


def paste(image: Tensor, layers: Tensor, generators: Sequence[Generator]) -> Composite:
    """Paste part of an image, turned over and with other colours, over the image itself.

    The part is one of its layers, so that outlines are those of objects. In three images of four
    light is linear; what is almost white is then up to 16 times as bright as white.
    """
    device = image.device
    chosen, linear, gain, angle = (
        part.to(device) for part in _rows(torch.rand, (4,), generators).T
    )
    linear = (linear < 0.75).view(-1, 1, 1, 1)
    brighter = (16**gain - 1).view(-1, 1, 1, 1) * ((image.amax(1, keepdim=True) - 0.9) * 10)
    light = torch.where(linear, srgb_to_linear(image) * (1 + brighter.clamp_min(0)), image)
    index = (layers.amax((1, 2)) * chosen + 1).floor().clamp_max(layers.amax((1, 2)))
    matte = (layers == index.view(-1, 1, 1)).flip(1, 2)[:, None].float()
    matte = F.avg_pool2d(F.pad(matte, (1,) * 4, "replicate"), 3, 1)
    other = light.flip(1, 2, 3)
    h, w = image.shape[-2:]
    y = torch.linspace(-0.5, 0.5, h, device=device)[:, None]
    x = torch.linspace(-0.5, 0.5, w, device=device)
    angle = 2 * torch.pi * angle.view(-1, 1, 1, 1)
    place = (0.5 + 0.7 * (angle.cos() * x + angle.sin() * y)).clamp(0, 1)
    return Composite(light, torch.cat([other * matte, matte], 1), place, linear)


def draw_radii(generators: Sequence[Generator]) -> BlurRadii:
    """Log-uniform largest radius; one image of two is sharp somewhere; most are round."""
    largest, ratio, ramp, sharp, kind = _rows(torch.rand, (5,), generators).T
    largest = 0.4 * (LARGEST_RADIUS / 0.4) ** largest
    behind = sharp < 0.6  # the largest radius lies behind
    other = torch.where((sharp % 0.2) < 0.1, torch.zeros(()), largest * ratio)
    before, first = torch.where(behind, other, largest), torch.where(behind, largest, other)
    last = (first * (1 - ramp * (kind % 0.5 < 0.25))).clamp_min(0)
    return BlurRadii(before, first, last, (kind < 2 / 3) | (largest > _WIDEST_GAUSSIAN))


def radius_map(pasted: Composite, radii: BlurRadii) -> Tensor:
    """Blur radius of the surface that each pixel shows, (B, 1, H, W) in px."""
    before, first, last = (
        one.to(pasted.place.device).view(-1, 1, 1, 1)
        for one in (radii.before, radii.first, radii.last)
    )
    return torch.where(pasted.before[:, 3:] > 0.5, before, torch.lerp(first, last, pasted.place))


def blur(pasted: Composite, radii: BlurRadii) -> Tensor:
    """The images, each blurred, one over the other: (B, 3, H, W) in [0, 1].

    Behind, the blur at a place is interpolated between those of the nearest steps of the ramp.
    """
    device = pasted.place.device
    steps = torch.lerp(radii.first[:, None], radii.last[:, None], _RAMP)
    shapes = kernels(torch.cat([radii.before[:, None], steps], 1), radii.round).to(device)
    before = _convolved(pasted.before[:, None], shapes[:, :1])[:, 0]
    behind = _convolved(pasted.behind[:, None], shapes[:, 1:])
    at = pasted.place * (len(_RAMP) - 1)
    low = at.floor().clamp_max(len(_RAMP) - 2)
    index = low.long()[:, :, None].expand(-1, -1, 3, -1, -1)
    mixed = torch.lerp(behind.gather(1, index)[:, 0], behind.gather(1, index + 1)[:, 0], at - low)
    return pasted.as_image(before[:, :3] + (1 - before[:, 3:]) * mixed)


def kernels(radii: Tensor, round_: Tensor) -> Tensor:
    """Kernels (B, M, 17, 17), sum 1, of radii (B, M) in px up to :data:`LARGEST_RADIUS`.

    A disk's variance along an axis is a quarter of its squared radius; a Gaussian that stands for
    the radius has the same.
    """
    made = radii.new_zeros(*radii.shape, 2 * _REACH + 1, 2 * _REACH + 1, dtype=torch.float32)
    for row, own in enumerate(radii.tolist()):
        for column, radius in enumerate(own):
            shape = disk().kernel(radius) if round_[row] else _gaussian(radius)
            rim = _REACH - len(shape) // 2
            made[row, column, rim : rim + len(shape), rim : rim + len(shape)] = torch.from_numpy(
                shape
            )
    return made


def _gaussian(radius: float) -> NDArray[np.float64]:
    x = np.arange(-_REACH, _REACH + 1) / max(radius / 2, 0.01)
    kernel = np.exp(-(x[:, None] ** 2 + x**2) / 2)
    return kernel / kernel.sum()


def _convolved(image: Tensor, shapes: Tensor) -> Tensor:
    """(B, 1, C, H, W) by shapes (B, M, k, k) -> (B, M, C, H, W), mirrored at the border."""
    h, w = image.shape[-2:]
    padded = F.pad(image[:, 0], (_REACH,) * 4, mode="reflect")[:, None]
    size = [next_fast_len(n, real=True) for n in padded.shape[-2:]]
    centred = F.pad(shapes, (0, size[1] - shapes.shape[-1], 0, size[0] - shapes.shape[-2]))
    centred = centred.roll((-_REACH, -_REACH), (-2, -1))[:, :, None]
    product = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(centred)
    return torch.fft.irfft2(product, s=size)[
        ..., _REACH : _REACH + h, _REACH : _REACH + w
    ].clamp_min(0)


def _drawn(
    image: Tensor, layers: Tensor, generators: Sequence[Generator]
) -> tuple[Composite, BlurRadii]:
    return paste(image, layers, generators), draw_radii(generators)


def _noisy(image: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Half of the images with Gaussian noise of a deviation up to 0.02."""
    strength = 0.02 * (2 * _rows(torch.rand, (1, 1, 1), generators) - 1).clamp_min(0)
    noise = _rows(torch.randn, image.shape[1:], generators)
    return (image + (strength * noise).to(image.device)).clamp(0, 1)


def _rows(
    draw: Callable[..., Tensor], shape: Sequence[int], generators: Sequence[Generator]
) -> Tensor:
    """(B, *shape) on the CPU, each row from its own generator."""
    return torch.stack([draw(tuple(shape), generator=generator) for generator in generators])
