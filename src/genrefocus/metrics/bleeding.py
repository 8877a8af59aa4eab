"""Does colour bleed across depth edges?

A renderer that forgets which surface hides which lets the blurred background spill over a sharp
foreground, or smears the sharp foreground into the blurred background. Both are measured beside
edges where something in focus stands before something out of focus, against the target, as the
share of the other side's colour that is mixed in too much.

At such an edge the right picture does not depend on K on the near side, and hardly on the far one,
so that a wrong amount of blur alone is not bleeding.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from genrefocus.metrics.blur_radius import to_linear
from genrefocus.metrics.pairs import check_pair, for_each_valid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Tally
from genrefocus.optics import BlurStrength, signed_defocus

SHARP_PX = 1.0
"""The near side of an edge has a blur radius below this."""

BLURRED_PX = 2.0
"""The far side has a blur radius of at least this."""

BAND_PX = 6
"""Width of the bands beside edges."""

# The pixel at the edge itself mixes both colours in any picture.
EDGE_PX = 1
LEAST_PIXELS = 50
# Sides whose colours differ by less (rms of linear light) cannot show a mixture.
LEAST_CONTRAST = 0.05

Side = Literal["near", "far"]
SIDES: tuple[Side, ...] = get_args(Side)


class Bleeding(NamedTuple):
    """Share of the other side's colour mixed in too much; 0 is right, NaN where not to be told.

    Attributes:
        near: blurred background in the sharp foreground. Below 0, the foreground has less of it
            than the target has.
        far: sharp foreground in the blurred background, likewise.
    """

    near: float
    far: float


@in_float32
def measure_bleeding(
    pred: Tensor,
    target: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: float,
    strength: BlurStrength,
) -> Bleeding:
    """Bleeding beside the depth edges of one image.

    In a band of ``BAND_PX`` px on either side, without the outermost ``EDGE_PX``, each pixel of the
    sharp picture has a colour of its own, F, and a mean colour of the other side nearby, B, both
    in linear light. The share is the least-squares a in pred - target = a (B - F).

    Args:
        pred: (3, H, W) sRGB in [0, 1], the output.
        target: same shape and range.
        aif: same shape and range, all in focus.
        disparity: (H, W), 1/m.
        focus_disparity: of the target, 1/m.
        strength: K of the target, stated for H x W.

    Raises:
        ValueError: shapes differ or values lie outside [0, 1].
        Rejected: disparity or focus cannot be used.
    """
    check_pair(pred[None], target[None])
    check_pair(aif[None], target[None])
    defocus = signed_defocus(disparity, focus_disparity, strength)[None]
    sharp = defocus.abs() < SHARP_PX
    behind = defocus <= -BLURRED_PX
    difference = to_linear(pred) - to_linear(target)
    colours = to_linear(aif)
    return Bleeding(
        _share(difference, colours, own=sharp, other=behind),
        _share(difference, colours, own=behind, other=sharp),
    )


def bleeding(
    pred: Tensor,
    target: Tensor,
    aif: Tensor,
    disparity: Tensor,
    *,
    focus_disparity: Sequence[float],
    strength: Sequence[BlurStrength],
    side: Side,
) -> Tensor:
    """:func:`measure_bleeding` of each image on one side of its edges.

    Args:
        pred, target, aif: (B, 3, H, W) sRGB in [0, 1].
        disparity: (B, H, W), 1/m.
        focus_disparity: B values, 1/m.
        strength: B values of K, stated for H x W.
        side: ``near``, background in the foreground, or ``far``, foreground in the background.

    Returns:
        (B,) float32, signed share, 0 best; NaN where an image is not finite or has no such edge
        with different colours on its sides.

    Raises:
        ValueError, Rejected: as for :func:`measure_bleeding`, or an unknown side.
    """
    if side not in SIDES:
        raise ValueError(f"unknown side {side!r}; choose one of {', '.join(SIDES)}")

    def measure(i: int) -> float:
        found = measure_bleeding(
            pred[i],
            target[i],
            aif[i],
            disparity[i],
            focus_disparity=focus_disparity[i],
            strength=strength[i],
        )
        return float(getattr(found, side))

    return for_each_valid(measure, check_pair(pred, target) & check_pair(aif, target))


class BleedingShare(Tally):
    """Mean of the magnitude of :func:`bleeding` over all images seen; see :class:`Summary`."""

    higher_is_better = False

    def __init__(self, side: Side, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side: Side = side

    def update(
        self,
        pred: Tensor,
        target: Tensor,
        aif: Tensor,
        disparity: Tensor,
        focus_disparity: Sequence[float],
        strength: Sequence[BlurStrength],
    ) -> None:
        """Add a batch; shapes as for :func:`bleeding`."""
        values = bleeding(
            pred,
            target,
            aif,
            disparity,
            focus_disparity=focus_disparity,
            strength=strength,
            side=self.side,
        )
        self.record(values.abs())


def _share(difference: Tensor, colours: Tensor, *, own: Tensor, other: Tensor) -> float:
    """Least-squares share of the other side's colour in the band on the own side."""
    band = own & _within(other, BAND_PX + EDGE_PX) & ~_within(~own, EDGE_PX)
    weight = _mean_around(other.float())
    away = _mean_around(colours * other) / weight.clamp_min(1e-6) - colours
    band &= away.square().mean(0, keepdim=True).sqrt() >= LEAST_CONTRAST
    if int(band.sum()) < LEAST_PIXELS:
        return float("nan")
    return float((difference * away * band).sum() / (away.square() * band).sum())


def _within(mask: Tensor, px: int) -> Tensor:
    """Pixels (1, H, W) that have one of `mask` at most `px` away, in rows and columns."""
    return max_pool2d(mask.float(), 2 * px + 1, 1, px) > 0


def _mean_around(values: Tensor) -> Tensor:
    reach = 2 * BAND_PX
    rows = avg_pool2d(values, (2 * reach + 1, 1), 1, (reach, 0))
    return avg_pool2d(rows, (1, 2 * reach + 1), 1, (0, reach))
