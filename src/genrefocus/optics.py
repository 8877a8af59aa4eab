"""The control signal: disparity, focus disparity, blur strength K and the defocus map.

One definition for shards, loaders, training, evaluation, inference and reports::

    disparity        d   = 1 / depth                  1/m, depth in metres
    focus disparity  d_f = median(d in focus)         1/m, the median is taken on disparity
    blur radius      r   = K * |d - d_f|              px at the resolution that K is stated for
    defocus map      D   = clip(r / MAX_COC, 0, 1)    MAX_COC is global

Sources: Generative Refocusing (arXiv 2512.16923), Eq. 2 and 3, and the released inference code,
which has disparity in place of depth in Eq. 2, and MAX_COC.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from genrefocus.rejection import Reason, Rejected

MAX_COC = 100.0
"""Blur radius in pixels at which the defocus map saturates; never per image, route or dataset."""

RELATIVE_SPREAD_FLOOR = 1e-6
"""Disparity that varies by less than this part of its maximum is flat up to float32 rounding."""


@dataclass(frozen=True)
class BlurStrength:
    """K together with the image size it is stated for, so that a resize cannot forget it.

    Attributes:
        k: blur radius in px per 1/m of disparity, finite and >= 0. K = 0 is the pinhole: its
            defocus map is zero everywhere.
        height, width: size in px of the image that ``k`` holds for.

    Raises:
        Rejected: ``non_finite`` or ``k_negative`` for ``k``.
        ValueError: a size below one pixel.
    """

    k: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.k):
            raise Rejected(Reason.NON_FINITE, str(self.k), "K must be a finite number")
        if self.k < 0:
            raise Rejected(Reason.K_NEGATIVE, self.k, "K must not be negative")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"K is stated for an image of {self.width}x{self.height} px (WxH)")

    def resized(self, height: int, width: int) -> "BlurStrength":
        """K after the image was scaled to ``height`` x ``width``: k times the long-edge ratio."""
        scale = max(height, width) / max(self.height, self.width)
        return BlurStrength(self.k * scale, height, width)

    def cropped(self, height: int, width: int) -> "BlurStrength":
        """K after the image was cropped: the same k, stated for the new size.

        Raises:
            ValueError: the crop is larger than the image.
        """
        if height > self.height or width > self.width:
            raise ValueError(
                f"crop of {width}x{height} px exceeds the {self.width}x{self.height} px image (WxH)"
            )
        return BlurStrength(self.k, height, width)

    def require_positive(self) -> "BlurStrength":
        """Itself, where a label or a calibration needs actual blur.

        Raises:
            Rejected: ``k_not_positive`` for K = 0.
        """
        if self.k <= 0:
            raise Rejected(Reason.K_NOT_POSITIVE, self.k, "K must be above zero here")
        return self


class LensFacts(Protocol):
    """What Eq. 3 needs to know about an exposure; ``photograph.exif.ExposureFacts`` is one."""

    @property
    def focal_length_mm(self) -> float: ...

    @property
    def f_number(self) -> float: ...

    @property
    def sensor_width_mm(self) -> float: ...


@dataclass(frozen=True)
class Lens:
    """The :class:`LensFacts` that a user states; lengths in mm."""

    focal_length_mm: float
    sensor_width_mm: float
    f_number: float = 1.0


def depth_to_disparity(depth: Tensor) -> Tensor:
    """Disparity of metric depth, 1/m.

    Args:
        depth: (..., H, W) floating point, metres. Values of 0 or below mark pixels without a
            measurement and count as infinitely far, as in the released code: disparity 0.

    Returns:
        (..., H, W) in [0, inf), float32 or wider.

    Raises:
        Rejected: ``non_finite`` for NaN or infinite depth, or depth so small that its inverse is;
            ``depth_without_spread`` where the whole map has one disparity.
        ValueError: integer depth, which is rarely in metres.
    """
    if not depth.is_floating_point():
        raise ValueError(f"depth is {depth.dtype}; give metres as floating point")
    if depth.numel() == 0:
        raise ValueError(f"depth has no pixels: shape {tuple(depth.shape)}")
    metres = depth.float() if depth.dtype in (torch.float16, torch.bfloat16) else depth
    _require_finite(metres, "depth")
    far = torch.zeros((), dtype=metres.dtype, device=metres.device)
    disparity = torch.where(metres > 0, 1.0 / metres, far)
    _require_finite(disparity, "disparity (1 / depth)")
    require_spread(disparity)
    return disparity


def require_spread(disparity: Tensor) -> None:
    """Reject a disparity map with one value everywhere: no blur can depend on it.

    Raises:
        Rejected: ``depth_without_spread`` with the measured spread in 1/m.
    """
    low, high = disparity.aminmax()
    spread = float(high - low)
    if spread <= RELATIVE_SPREAD_FLOOR * float(high.abs()):
        raise Rejected(
            Reason.DEPTH_WITHOUT_SPREAD,
            spread,
            f"every pixel has disparity {float(high):.6g} 1/m; give a depth map that varies",
        )


def require_one_size(image: Tensor, disparity: Tensor) -> None:
    """Raise ValueError unless the image is (3, H, W) and the disparity (H, W) of one size."""
    if image.shape != (3, *disparity.shape):
        raise ValueError(
            f"image is {tuple(image.shape)} but disparity {tuple(disparity.shape)}; "
            "they must be (3, H, W) and (H, W) of one size"
        )


def focus_disparity(disparity: Tensor, mask: Tensor) -> float:
    """Disparity of the plane of focus: the median over the in-focus region, 1/m.

    For an even number of pixels it is the mean of the two middle values, as the released code has
    it (``torch.median`` would take the lower one).

    Args:
        disparity: (H, W), 1/m.
        mask: (H, W); non-zero where the photograph is in focus.

    Raises:
        Rejected: ``empty_mask``; ``non_finite`` for values under the mask.
        ValueError: sizes differ.
    """
    if mask.shape != disparity.shape:
        raise ValueError(
            f"mask is {_size(mask)} px and disparity {_size(disparity)} px (WxH); sizes must agree"
        )
    values = disparity[mask != 0]
    count = values.numel()
    if count == 0:
        raise Rejected(Reason.EMPTY_MASK, 0, "the in-focus mask selects no pixel")
    _require_finite(values, "disparity in focus")
    lower, upper = (values.kthvalue(rank).values for rank in ((count + 1) // 2, count // 2 + 1))
    return float((lower + upper) / 2)


def signed_defocus(disparity: Tensor, focus_disparity: float, strength: BlurStrength) -> Tensor:
    """Signed blur radius K * (d - d_f) in px: positive in front of the plane of focus.

    Renderers need the sign for the order of occlusion; networks see the magnitude.

    Args:
        disparity: (..., H, W), 1/m, of the size that ``strength`` is stated for.
        focus_disparity: d_f in 1/m.
        strength: K and its resolution.

    Raises:
        Rejected: ``non_finite`` for disparity or d_f, ``focus_disparity_negative``.
        ValueError: the size is not the one K is stated for.
    """
    if tuple(disparity.shape[-2:]) != (strength.height, strength.width):
        raise ValueError(
            f"disparity is {_size(disparity)} px but K is stated for "
            f"{strength.width}x{strength.height} px (WxH); use BlurStrength.resized or .cropped"
        )
    _require_focus(focus_disparity)
    _require_finite(disparity, "disparity")
    return strength.k * (disparity - focus_disparity)


def blur_radius(disparity: Tensor, focus_disparity: float, strength: BlurStrength) -> Tensor:
    """Blur radius r = K * |d - d_f| in px, (..., H, W); arguments and errors of signed_defocus."""
    return signed_defocus(disparity, focus_disparity, strength).abs()


def visible_blur(disparity: Tensor, focus_disparity: float, strength: BlurStrength) -> float:
    """Blur radius in px that one pixel in a hundred exceeds; arguments of signed_defocus."""
    return exceeded_radius(blur_radius(disparity, focus_disparity, strength))


def exceeded_radius(radius: Tensor) -> float:
    """The one of radii, any shape, that one in a hundred exceeds: wild pixels do not move it."""
    values = radius.flatten()
    return float(values.kthvalue(math.ceil(0.99 * values.numel())).values)


def defocus_map(disparity: Tensor, focus_disparity: float, strength: BlurStrength) -> Tensor:
    """Defocus map clip(r / MAX_COC, 0, 1), (..., H, W); arguments and errors of signed_defocus."""
    return defocus_of_radius(blur_radius(disparity, focus_disparity, strength))


def defocus_of_radius(radius: Tensor) -> Tensor:
    """Defocus map clip(r / MAX_COC, 0, 1) of blur radii in px, of any shape."""
    return (radius / MAX_COC).clamp(0, 1)


def lacking_radius(radius: Tensor, restored_radius: float) -> Tensor:
    """Radii of the blur that a deblurred image lacks, of its photograph's radii (px, any shape).

    A DeblurNet takes slight blur away, and of strong blur no more than it would of a radius of
    ``restored_radius``. Second moments of blur add: what is left has the radius
    ``sqrt(radius^2 - lacking^2)``. The form 1 / lacking^2 = 1 / radius^2 + 1 / restored_radius^2
    is this project's, see docs/ablations.md.
    """
    return radius * restored_radius / (radius.square() + restored_radius**2).sqrt()


def blur_strength_from_exif(
    facts: LensFacts, focus_disparity: float, height: int, width: int
) -> BlurStrength:
    """K from an exposure by Eq. 3 of the paper.

    With lengths in mm, K_mm = f^2 * z_f / (2 * F * (z_f - f)) * pixel_ratio in px*mm, and with
    disparity in 1/m, K = K_mm / 1000. It is evaluated as f^2 / (2 * F * (1 - f / z_f)), which is
    the same and also holds for focus at infinity (d_f = 0).

    Args:
        facts: focal length and sensor width in mm, f-number.
        focus_disparity: d_f = 1 / z_f in 1/m, from depth and in-focus mask.
        height, width: size in px of the *uncropped* photograph that K is to be stated for; the
            pixel ratio is its long edge over the sensor width. Crop afterwards with ``cropped``.

    Raises:
        Rejected: ``focus_within_focal_length`` for z_f <= f, ``lens_fact_not_positive``,
            ``non_finite``, ``focus_disparity_negative``.
    """
    for name in ("focal_length_mm", "f_number", "sensor_width_mm"):
        value = float(getattr(facts, name))
        if not math.isfinite(value):
            raise Rejected(Reason.NON_FINITE, str(value), f"{name} must be a finite number")
        if value <= 0:
            raise Rejected(Reason.LENS_FACT_NOT_POSITIVE, value, f"{name} must be above zero")
    _require_focus(focus_disparity)
    focal_over_distance = facts.focal_length_mm / 1000 * focus_disparity
    if focal_over_distance >= 1:
        raise Rejected(
            Reason.FOCUS_WITHIN_FOCAL_LENGTH,
            1 / focus_disparity,
            f"the focus distance in m must exceed the focal length of {facts.focal_length_mm} mm",
        )
    pixel_ratio = max(height, width) / facts.sensor_width_mm
    aperture_mm = facts.focal_length_mm / facts.f_number
    k_mm = facts.focal_length_mm * aperture_mm / 2 / (1 - focal_over_distance) * pixel_ratio
    return BlurStrength(k_mm / 1000, height, width)


def _require_focus(focus_disparity: float) -> None:
    if not math.isfinite(focus_disparity):
        raise Rejected(Reason.NON_FINITE, str(focus_disparity), "focus disparity must be finite")
    if focus_disparity < 0:
        raise Rejected(
            Reason.FOCUS_DISPARITY_NEGATIVE, focus_disparity, "1/m; 0 is focus at infinity"
        )


def _require_finite(values: Tensor, name: str) -> None:
    # The extremes are NaN where any value is; they cost a fraction of a test of every value.
    if values.numel() and not all(math.isfinite(end) for end in values.aminmax()):
        bad = int((~torch.isfinite(values)).sum())
        raise Rejected(
            Reason.NON_FINITE, bad, f"{name}: {bad} of {values.numel()} values are NaN or infinite"
        )


def _size(values: Tensor) -> str:
    return f"{values.shape[-1]}x{values.shape[-2]}"
