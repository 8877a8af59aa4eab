"""Pictures of candidates at their working size, and what is measured alike on all routes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genrefocus.data.images import image_of
from genrefocus.estimators import DetailRetention, MaskEstimator
from genrefocus.geometry import View, resize, size_within
from genrefocus.optics import BlurStrength, blur_radius
from genrefocus.preparation.pairs import PairMeasures
from genrefocus.preparation.plan import Candidate
from genrefocus.rejection import Reason, Rejected


def load_working(candidate: Candidate, role: str, long_edge: int) -> Tensor:
    """A picture (3, H, W) in [0, 1], upright, scaled down where its long edge exceeds the limit.

    Raises:
        Rejected: it cannot be decoded.
        OSError: it cannot be read.
    """
    name = candidate.item.name
    image = image_of(candidate.item.pictures[role].read(), name)
    height, width = image.shape[-2:]
    return resize(View(image), *size_within(height, width, long_edge)).image


def require_edge(picture: Tensor, least: int) -> None:
    """Raise Rejected where the short edge is below ``least`` px, which a crop would not fit in."""
    height, width = picture.shape[-2:]
    if min(height, width) < least:
        raise Rejected(
            Reason.PICTURE_TOO_SMALL,
            min(height, width),
            f"the short edge must have {least} px or more; this is {height}x{width} px (HxW)",
        )


def by_size(pictures: Sequence[Tensor]) -> dict[tuple[int, ...], list[int]]:
    """Positions of the pictures of each shape, for work on batches."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, picture in enumerate(pictures):
        groups.setdefault(tuple(picture.shape), []).append(number)
    return groups


def agreement_measure(estimator: MaskEstimator, agreement: float) -> dict[str, float]:
    """``mask_agreement``, but for detail retention: a mask agrees with what it was made from."""
    return {} if isinstance(estimator, DetailRetention) else {"mask_agreement": agreement}


def pair_measures(pair: PairMeasures) -> dict[str, float]:
    """The measures of a real pair that are single numbers, by name."""
    names = ("registration_error", "exposure_shift", "colour_shift", "sharpness_ratio")
    return {name: float(getattr(pair, name)) for name in (*names, "correlation")}


def blur_measures(
    disparity: Tensor, focus_disparity: float, strength: BlurStrength
) -> dict[str, float]:
    """K, focus and blur radii in px of a labelled picture.

    ``focus_quantile`` is the share of the picture that is farther than the plane of focus, which
    carries over to scenes of other depth.
    """
    radius = blur_radius(disparity, focus_disparity, strength)
    farther = (disparity < focus_disparity).float().mean()
    level = (disparity == focus_disparity).float().mean()
    return {
        "k": strength.k,
        "focus_disparity": focus_disparity,
        "focus_quantile": float(farther + level / 2),
        "largest_radius": float(radius.max()),
        "p99_radius": float(
            torch.quantile(radius.flatten()[:: max(1, radius.numel() >> 20)], 0.99)
        ),
        "long_edge": float(max(strength.height, strength.width)),
    }
