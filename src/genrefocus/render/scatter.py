"""The classical renderer: every pixel of one image with depth spreads over its circle of confusion.

Pixels of nearly equal defocus form a layer; layers are laid over each other from far to near, and
the sum is divided by its coverage. What an edge hides is not in the image, so it cannot appear:
that is the limit of this method, which is a baseline (Potmesil and Chakravarty 1981).
"""

from collections.abc import Iterator

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from genrefocus.optics import BlurStrength, require_one_size, signed_defocus
from genrefocus.render.apertures import Aperture

_STEP = 0.25
"""Width of a layer in px of blur radius, up to _KNEE; above, it grows in proportion."""
_KNEE = 5.0


def render_scatter(
    image: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
    aperture: Aperture,
) -> Tensor:
    """Render depth of field into a sharp image with disparity.

    Args:
        image: (3, H, W) linear light, >= 0.
        disparity: (H, W) in 1/m.
        focus_disparity: d_f in 1/m.
        strength: K in px at 1/m, stated for H x W.
        aperture: the shape that a point is spread into; second moments are those of the shape at
            radius K |d - d_f|.

    Returns:
        (3, H, W) linear light, >= 0; equal to ``image`` for K = 0.

    Raises:
        ValueError: sizes that disagree, or what ``optics.signed_defocus`` rejects.
    """
    require_one_size(image, disparity)
    defocus = signed_defocus(disparity, focus_disparity, strength)
    light = torch.zeros_like(image)
    coverage = torch.zeros_like(disparity)
    for mask, radius in _layers(defocus):
        rows, columns, spread = _spread(image, mask, radius, aperture)
        colour, alpha = spread[:3].clamp_min(0.0), spread[3].clamp(0.0, 1.0)
        light[:, rows, columns] = light[:, rows, columns] * (1.0 - alpha) + colour
        coverage[rows, columns] = coverage[rows, columns] * (1.0 - alpha) + alpha
    return light / coverage.clamp_min(1e-6)


def defocus_level(defocus: Tensor, step: float, knee: float) -> Tensor:
    """Signed defocus in px in units of what can be told apart: `step` px, above `knee` px in
    proportion to the radius.

    Same shape; odd, monotonous and with a continuous slope.
    """
    magnitude = defocus.abs()
    levels = knee / step
    growing = levels + torch.log(magnitude.clamp_min(knee) / knee) * levels
    return torch.where(magnitude < knee, magnitude / step, growing) * defocus.sign()


def defocus_of_level(level: Tensor, step: float, knee: float) -> Tensor:
    """Signed defocus in px: the inverse of `defocus_level`."""
    magnitude = level.abs() * step
    growing = knee * torch.exp(magnitude.clamp_min(knee) / knee - 1.0)
    return torch.where(magnitude < knee, magnitude, growing) * level.sign()


def convolve(pieces: Tensor, kernels: Tensor) -> Tensor:
    """Pieces (n, C, h, w) by kernels (n or 1, k, k) with odd k: (n, C, h + k - 1, w + k - 1)."""
    more = kernels.shape[-1] - 1
    if more == 0:
        return pieces
    tall, wide = (size + more for size in pieces.shape[-2:])
    shape = [next_fast_len(size, real=True) for size in (tall, wide)]
    spectrum = torch.fft.rfft2(pieces, s=shape) * torch.fft.rfft2(kernels, s=shape)[:, None]
    return torch.fft.irfft2(spectrum, s=shape)[..., :tall, :wide]


def _layers(defocus: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Masks (H, W) of pixels with nearly equal signed defocus and their mean, far to near."""
    _, index = torch.unique(defocus_level(defocus, _STEP, _KNEE).round(), return_inverse=True)
    for number in range(int(index.max()) + 1):
        mask = index == number
        yield mask, float(defocus[mask].double().mean())


def _spread(
    image: Tensor, mask: Tensor, radius: float, aperture: Aperture
) -> tuple[slice, slice, Tensor]:
    """The layer under `mask` convolved with the aperture at a signed radius, where it reaches.

    Returns rows and columns of the image and colour and alpha (4, rows, columns), premultiplied.
    """
    kernel = torch.from_numpy(aperture.kernel(radius)).to(image)
    reach = kernel.shape[0] // 2
    covered = [torch.nonzero(mask.any(dim)).flatten() for dim in (1, 0)]
    (top, bottom), (left, right) = ((int(c[0]), int(c[-1]) + 1) for c in covered)
    own = mask[top:bottom, left:right].to(image.dtype)
    layer = torch.cat([image[:, top:bottom, left:right] * own, own[None]])
    layer = convolve(layer[None], kernel[None])[0]
    rows = slice(max(0, top - reach), min(mask.shape[0], bottom + reach))
    columns = slice(max(0, left - reach), min(mask.shape[1], right + reach))
    above, before = rows.start - (top - reach), columns.start - (left - reach)
    tall, wide = rows.stop - rows.start, columns.stop - columns.start
    return rows, columns, layer[:, above : above + tall, before : before + wide]
