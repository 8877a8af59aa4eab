"""How much of a photograph's blur its made-up all-in-focus image lacks.

A DeblurNet leaves blur behind, and BokehNet is trained to turn its image into the photograph. So
less blur than the label says is missing between the two, and how much less is what rendering shows.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import minimize_scalar

from genrefocus.data.order import spread
from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.optics import MAX_COC, BlurStrength, lacking_radius, signed_defocus
from genrefocus.rejection import Reason
from genrefocus.render.apertures import disk
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

_RADII = (0.1, MAX_COC)  # px, that are searched
_RENDERINGS = 16  # of a photograph, at most
_TOLERANCE = 0.02  # part of the radius to which it is searched
_LEAST_GAIN = 0.02  # dB over leaving the images as they are
_LEAST_ERROR = 1e-10  # 100 dB: images that are equal


def reblurred(
    photographs: ShardDataset, most: int, advance: Callable[[int, int], None]
) -> dict[str, Any]:
    """How much blur the all-in-focus images of photographs lack, as plain JSON data.

    The images are rendered with the radii of :func:`genrefocus.optics.lacking_radius`, and the
    ``restored_radius`` is searched at which they give their photographs back: one for all, since a
    photograph alone often does not determine it, by the mean squared error, as networks are
    trained. The renderer is the scatter renderer with a disk.

    Args:
        photographs: samples with disparity and K, at least one.
        most: photographs that are measured, spread over the set.
        advance: is told how many renderings are done, and of how many at most.

    Returns:
        ``photographs``, their number; ``psnr`` of the images as they are, of those rendered with
        the label and of those rendered with the found radius (all together, dB); and
        ``restored_radius`` in px, ``MAX_COC`` where the images lack all of the blur. Where
        rendering does not bring the images nearer to the photographs, they do not tell:
        ``rejected`` in place of the radius.
    """
    samples = [photographs[index] for index in spread(len(photographs), most)]
    done, total = itertools.count(1), _RENDERINGS * len(samples)

    def error(log_radius: float) -> float:
        errors = []
        for sample in samples:
            errors.append(_error(sample, math.exp(log_radius)))
            advance(next(done), total)
        return max(sum(errors) / len(errors), _LEAST_ERROR)

    low, high = map(math.log, _RADII)
    with torch.inference_mode():
        least, most_restored = error(low), error(high)
        search = {"maxiter": _RENDERINGS - 2, "xatol": _TOLERANCE}
        found = minimize_scalar(error, bounds=(low, high), method="bounded", options=search)
    advance(total, total)  # the search may need less
    # A search within bounds never reaches them.
    best, radius = min((float(found.fun), math.exp(found.x)), (most_restored, MAX_COC))
    measured = {"as_they_are": least, "by_label": most_restored, "best": best}
    report: dict[str, Any] = {
        "photographs": len(samples),
        "psnr": {name: round(_decibels(one), 3) for name, one in measured.items()},
    }
    if _decibels(best) - _decibels(least) < _LEAST_GAIN:
        return {**report, "rejected": Reason.SCORE_FLAT.value}
    return {**report, "restored_radius": round(radius, 4)}


def _error(sample: Sample, restored_radius: float) -> float:
    assert sample.disparity is not None and sample.strength is not None
    assert sample.focus_disparity is not None
    defocus = signed_defocus(sample.disparity, sample.focus_disparity, sample.strength)
    rendered = render_scatter(
        srgb_to_linear(to_float(sample.aif)),
        lacking_radius(defocus, restored_radius),
        focus_disparity=0.0,
        strength=BlurStrength(1.0, *sample.size),
        aperture=disk(),
    )
    return float((linear_to_srgb(rendered) - to_float(sample.bokeh)).square().mean())


def _decibels(error: float) -> float:
    return -10 * math.log10(error)
