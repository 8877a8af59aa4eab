"""How well a sharp image and a photograph of one scene belong together.

Real pairs are taken one after the other, at times with two cameras or two crops: they are shifted,
turned, exposed and coloured differently, and the photograph may be no blurrier than its
counterpart. All of it is measured here, in linear light, where defocus is a symmetric average that
moves no edge; nothing is changed.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import fourier_shift, gaussian_filter, laplace
from skimage.filters import window
from skimage.measure import block_reduce
from skimage.registration import phase_cross_correlation
from torch import Tensor

from genrefocus.rejection import Reason, Rejected
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

Array = NDArray[np.floating]

LEAST_SIDE = 96
"""Shorter edges leave no room for a 3 x 3 grid of windows."""

SCALES = (4.0, 2.0, 1.0)
"""Widths (sigma, px) of the band-pass that images are registered at, coarse to fine."""

TRUSTED = 0.7
"""Correlation from which on the shift of a finer scale is taken: below, blur has turned phases."""

RECOGNISED = 0.6
"""Least correlation at the coarsest scale of two images of one scene."""

WINDOW_TRUSTED = 0.85
"""As TRUSTED, for a window: it is small, so that blur moves its peak more."""

FARTHEST = 1 / 8
"""Longest shift of an image or window, in parts of its shorter edge; farther is a chance match."""

CORNERS = 0.1
"""Least ratio of the structure tensor's eigenvalues of a window that a shift shows in."""

SHARPEST = 0.3
"""Part of the cells, those where the photograph keeps most detail, that colours are compared in."""

TEXTURE = 1e-3
"""Least deviation of band-passed linear light of an image with texture."""

_STEP = 50  # shifts are resolved to 1 / 50 px
_SATURATED, _BLACK = 0.98, 0.004  # sRGB
_LEAST_CELLS = 32


@dataclass(frozen=True)
class Correction:
    """Colour of the sharp image -> colour of the photograph, linear light, per channel.

    Attributes:
        gain, offset: photograph = gain * sharp + offset, for red, green and blue.
        residual: median absolute difference that remains, linear light.
    """

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    residual: float


@dataclass(frozen=True)
class PairMeasures:
    """Measures of a pair; ``dataclasses.asdict`` makes JSON data of them.

    Attributes:
        shift: how far the photograph lies from the sharp image as a whole, (down, right) in px.
        registration_error: the greatest displacement found anywhere, px: that of the whole, or of
            one of 3 x 3 windows, so that rotation and zoom show.
        deformation: the greatest difference between the shift of a window and that of the whole,
            px; None where no window could be measured.
        windows: how many of the nine could: they have texture, and the photograph keeps it.
        correlation: of the band-passed images at the coarsest scale after the shift, 0 to 1.
        correction: see :class:`Correction`.
        exposure_shift: stops by which the photograph is brighter, at the mean colour.
        colour_shift: greatest difference between two channels' shifts in stops, >= 0.
        sharpness_ratio: mean |Laplacian| of the photograph over that of the colour-corrected sharp
            image, both after a Gaussian of 1 px against noise; below 1 for a blurrier photograph.
    """

    shift: tuple[float, float]
    registration_error: float
    deformation: float | None
    windows: int
    correlation: float
    correction: Correction
    exposure_shift: float
    colour_shift: float
    sharpness_ratio: float

    def numbers(self) -> dict[str, float]:
        """The measures that are single numbers, by name."""
        names = ("registration_error", "exposure_shift", "colour_shift", "sharpness_ratio")
        return {name: float(getattr(self, name)) for name in (*names, "correlation")}


def measure_pair(sharp: Tensor, photo: Tensor) -> PairMeasures:
    """Measure a pair of images of one scene.

    Args:
        sharp: (3, H, W) sRGB in [0, 1], the (nearly) all-in-focus image.
        photo: same shape and range, the photograph with depth of field.

    Raises:
        Rejected: ``sizes_differ``; ``image_too_small`` for an edge below 96 px;
            ``registration_failed`` with the texture of an image that has too little, the
            correlation or the gains of two that do not show one scene, or the count of unsaturated
            cells that are too few to compare colours; ``non_finite``.
        ValueError: not (3, H, W).
    """
    _check(sharp, photo)
    linear_sharp, linear_photo = _linear(sharp), _linear(photo)
    sharp_bands, photo_bands = _bands(linear_sharp), _bands(linear_photo)
    shift, correlation = _register(sharp_bands, photo_bands)
    local = _window_shifts(sharp_bands[1:], photo_bands[1:], shift)
    overlap = _overlap(linear_sharp, linear_photo, shift)
    correction, mean = _fit_colour(*overlap)
    stops = _stops(correction, mean)
    return PairMeasures(
        shift=shift,
        registration_error=max(math.hypot(*x) for x in (shift, *local)),
        deformation=max((math.dist(x, shift) for x in local), default=None),
        windows=len(local),
        correlation=correlation,
        correction=correction,
        exposure_shift=stops[3],
        colour_shift=max(stops[:3]) - min(stops[:3]),
        sharpness_ratio=_sharpness_ratio(sharp, photo, correction),
    )


def correct(image: Tensor, correction: Correction) -> Tensor:
    """A sharp image (..., 3, H, W), sRGB in [0, 1], in the photograph's colours; clipped."""
    gain, offset = (
        torch.tensor(x, dtype=image.dtype, device=image.device)[:, None, None]
        for x in (correction.gain, correction.offset)
    )
    return linear_to_srgb(srgb_to_linear(image) * gain + offset)


def _check(sharp: Tensor, photo: Tensor) -> None:
    if any(x.ndim != 3 or x.shape[0] != 3 for x in (sharp, photo)):
        raise ValueError(
            f"images must be (3, H, W), got {tuple(sharp.shape)} and {tuple(photo.shape)}"
        )
    sizes = [f"{x.shape[2]}x{x.shape[1]}" for x in (sharp, photo)]
    if sizes[0] != sizes[1]:
        raise Rejected(
            Reason.SIZES_DIFFER,
            f"{sizes[0]} and {sizes[1]}",
            "sharp image and photograph (WxH px) must have one size",
        )
    if min(sharp.shape[1:]) < LEAST_SIDE:
        raise Rejected(
            Reason.IMAGE_TOO_SMALL,
            sizes[0],
            f"a pair needs {LEAST_SIDE} px a side to be measured",
        )

    if bad := int(sum((~x.isfinite()).sum() for x in (sharp, photo))):
        raise Rejected(Reason.NON_FINITE, bad, "values of the images are NaN or infinite")


def _linear(image: Tensor) -> Array:
    values: Array = srgb_to_linear(image.detach().float().cpu()).numpy()
    return values


def _bands(linear: Array) -> list[Array]:
    """Grey, band-passed at each of SCALES."""
    grey = linear.mean(0)
    bands = [gaussian_filter(grey, s) - gaussian_filter(grey, 4 * s) for s in SCALES]
    texture = float(bands[-1].std())
    if not texture >= TEXTURE:
        raise Rejected(
            Reason.REGISTRATION_FAILED, texture, f"too little texture, {TEXTURE} is the least"
        )
    return bands


def _register(sharp: list[Array], photo: list[Array]) -> tuple[tuple[float, float], float]:
    """Shift (down, right) of the photograph in px, and the correlation at the coarsest scale."""
    shift, correlation = _shift(sharp[0], photo[0], (0.0, 0.0))
    if not correlation >= RECOGNISED or _is_far(shift, sharp[0]):
        raise Rejected(
            Reason.REGISTRATION_FAILED,
            correlation,
            f"at their best shift of {shift[0]:.1f}, {shift[1]:.1f} px the images correlate by "
            f"{correlation:.2f}; the least is {RECOGNISED}, within 1/8 of the shorter edge",
        )
    for one, other in zip(sharp[1:], photo[1:], strict=True):
        finer, trust = _shift(one, other, shift)
        if trust >= TRUSTED:
            shift = finer
    return shift, correlation


def _window_shifts(
    sharp: list[Array], photo: list[Array], shift: tuple[float, float]
) -> list[tuple[float, float]]:
    """Shifts of those of 3 x 3 windows that can be trusted at every one of the scales given."""
    height, width = sharp[0].shape
    aligned = [_moved(x, shift) for x in photo]
    found = []
    for row in range(3):
        for column in range(3):
            part = (
                slice(row * height // 3, (row + 1) * height // 3),
                slice(column * width // 3, (column + 1) * width // 3),
            )
            scales = [(x[part], y[part]) for x, y in zip(sharp, aligned, strict=True)]
            local = _window_shift(scales)
            if local is not None:
                found.append((shift[0] + local[0], shift[1] + local[1]))
    return found


def _window_shift(scales: list[tuple[Array, Array]]) -> tuple[float, float] | None:
    if not _has_corners(scales[-1][0]):
        return None
    local = (0.0, 0.0)
    for sharp, photo in scales:
        local, correlation = _shift(sharp, photo, local)
        if correlation < WINDOW_TRUSTED or _is_far(local, sharp):
            return None
    return local


def _is_far(shift: tuple[float, float], image: Array) -> bool:
    return max(map(abs, shift)) > FARTHEST * min(image.shape)


def _has_corners(image: Array) -> bool:
    """Whether there is texture in two directions: along a single edge a shift does not show."""
    down, right = np.gradient(image)
    tensor = np.array([[down * down, down * right], [down * right, right * right]]).mean((2, 3))
    least, greatest = np.linalg.eigvalsh(tensor).tolist()
    return image.std() >= TEXTURE and least >= CORNERS * greatest


def _shift(
    sharp: Array, photo: Array, start: tuple[float, float]
) -> tuple[tuple[float, float], float]:
    """Shift of the photograph (down, right) by cross-correlation, and the correlation there.

    The window that tapers both pulls the peak towards zero, so the photograph is moved back and
    what remains measured again. Frequencies keep their weight: blur leaves noise where it has
    removed them, and equal weights would give noise the most say.
    """
    taper = window("hann", sharp.shape)
    reference = sharp * taper
    total = np.array(start)
    for _ in range(4):
        moved = _moved(photo, total) * taper
        remaining = phase_cross_correlation(
            reference, moved, upsample_factor=_STEP, normalization=None
        )[0]
        total = total - remaining
        if np.abs(remaining).max() <= 1 / _STEP:
            break
    moved = _moved(photo, total) * taper
    power = float((reference**2).sum() * (moved**2).sum())
    correlation = float((reference * moved).sum()) / math.sqrt(power) if power > 0 else 0.0
    return (float(total[0]), float(total[1])), correlation


def _moved(image: Array, shift: tuple[float, float] | Array) -> Array:
    """The image moved back by a shift; what leaves on one side enters on the other."""
    spectrum = fourier_shift(np.fft.rfft2(image), [-x for x in shift], n=image.shape[1])
    back: Array = np.fft.irfft2(spectrum, s=image.shape)
    return back


def _overlap(sharp: Array, photo: Array, shift: tuple[float, float]) -> tuple[Array, Array]:
    """What both show, (3, h, w) each, aligned to whole pixels."""
    parts: list[list[slice]] = [[slice(None)], [slice(None)]]
    for length, offset in zip(sharp.shape[1:], (round(x) for x in shift), strict=True):
        parts[0].append(slice(max(0, -offset), length - max(0, offset)))
        parts[1].append(slice(max(0, offset), length - max(0, -offset)))
    return sharp[tuple(parts[0])], photo[tuple(parts[1])]


def _fit_colour(sharp: Array, photo: Array) -> tuple[Correction, Array]:
    """Gain and offset per channel from means over cells, and the mean colour of the cells (3,).

    Blur lowers contrast, which a fit would take for a low gain. So the cells are large, and only
    those count where the photograph keeps most detail; the fit treats the rest of it as outliers.
    Cells with a saturated or black pixel are left out.
    """
    edge = max(8, max(sharp.shape[1:]) // 32)
    height, width = (n // edge * edge for n in sharp.shape[1:])
    sharp, photo = sharp[:, :height, :width], photo[:, :height, :width]
    low, high = (float(srgb_to_linear(torch.tensor(x))) for x in (_BLACK, _SATURATED))
    usable = (np.minimum(sharp, photo) >= low).all(0) & (np.maximum(sharp, photo) <= high).all(0)
    whole = block_reduce(usable, (edge, edge), np.min)
    if whole.sum() < _LEAST_CELLS:
        raise Rejected(
            Reason.COLOURS_NOT_COMPARABLE,
            int(whole.sum()),
            f"too few unsaturated cells to compare colours, {_LEAST_CELLS} are the least",
        )
    kept, detail = (block_reduce(_detail(x), (edge, edge), np.mean)[whole] for x in (photo, sharp))
    retention = kept / np.maximum(detail, 1e-9)
    sharpest = retention >= np.quantile(retention, 1 - SHARPEST)
    ones, others = (
        block_reduce(x, (1, edge, edge), np.mean)[:, whole][:, sharpest] for x in (sharp, photo)
    )
    lines = [_robust_line(x, y) for x, y in zip(ones, others, strict=True)]
    gain, offset = (np.array(x)[:, None] for x in zip(*lines, strict=True))
    residual = float(np.median(np.abs(gain * ones + offset - others)))
    return Correction(_three(gain), _three(offset), residual), ones.mean(1)


def _detail(image: Array) -> Array:
    """|Laplacian| (H, W) of the grey image (3, H, W) after a Gaussian of 1 px against noise."""
    found: Array = np.abs(laplace(gaussian_filter(image.mean(0), 1.0)))
    return found


def _three(values: Array) -> tuple[float, float, float]:
    red, green, blue = values.ravel().tolist()
    return red, green, blue


def _robust_line(x: Array, y: Array) -> tuple[float, float]:
    """Gain and offset of y over x by least squares with Tukey's biweight, iterated."""
    gain, offset = float(np.median(y) / np.median(x)), 0.0
    for _ in range(30):
        error = np.abs(gain * x + offset - y)
        scale = 1.4826 * float(np.median(error)) + 1e-6
        weight = np.clip(1 - (error / (4.685 * scale)) ** 2, 0, None) ** 2
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = float((weight * (x - mean_x) ** 2).sum())
        if spread <= 1e-9 * float(weight.sum()):  # one tone only, which an offset cannot explain
            return float(mean_y / mean_x), 0.0
        gain = float((weight * (x - mean_x) * (y - mean_y)).sum()) / spread
        offset = float(mean_y - gain * mean_x)
    return gain, offset


def _stops(correction: Correction, mean: Array) -> tuple[float, float, float, float]:
    """Shift in stops at the mean colour: red, green, blue and all of them together."""
    seen = np.array(correction.gain) * mean + np.array(correction.offset)
    if min(correction.gain) <= 0 or seen.min() <= 0:
        raise Rejected(
            Reason.REGISTRATION_FAILED,
            list(correction.gain),
            "colours do not correspond: gains of red, green and blue must be above zero",
        )
    red, green, blue = np.log2(seen / mean).tolist()
    return red, green, blue, math.log2(float(seen.sum() / mean.sum()))


def _sharpness_ratio(sharp: Tensor, photo: Tensor, correction: Correction) -> float:
    kept, detail = (
        float(_detail(x.detach().float().cpu().numpy()).mean())
        for x in (photo, correct(sharp, correction))
    )
    return kept / detail
