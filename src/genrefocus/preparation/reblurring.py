"""How much of a photograph's blur its made-up all-in-focus image lacks.

A DeblurNet leaves blur behind, and BokehNet is trained to turn its image into the photograph. So
less than K by EXIF is missing between the two, and how much less is what rendering shows.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from genrefocus.data.order import spread
from genrefocus.data.sample import Sample, to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.k_search import KSearch, search_k
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture, disk
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

_RATIOS = (0.1, 2.0)  # of K that is searched for to K that is known
_RATIO_BUDGET = 12
_LEAST_ERROR = 1e-10  # 100 dB: images that are equal


def reblurred(
    photographs: ShardDataset, most: int, advance: Callable[[int, int], None]
) -> dict[str, Any]:
    """How much of K the all-in-focus images of photographs lack, as plain JSON data.

    Args:
        photographs: samples of this route.
        most: photographs that are measured, spread over the set.
        advance: is told what is done and how much there is.

    Returns:
        ``ratio`` of the K at which the images, rendered, give the photographs back to K by EXIF, or
        ``rejected`` where they do not determine it; and ``psnr``, ``curve`` and ``photographs``.
    """
    samples = [photographs[index] for index in spread(len(photographs), most)]
    try:
        found = search_relative_k(samples, aperture=disk(), advance=advance)
    except Rejected as error:
        value: Any = error.value  # see search_k
        found_none = {"rejected": error.reason.value, "curve": value["curve"]}
        return {"photographs": len(samples), **found_none}
    curve = [list(one) for one in found.curve]
    return {"photographs": len(samples), "ratio": found.k, "psnr": 10 * found.score, "curve": curve}


def search_relative_k(
    samples: Sequence[Sample], *, aperture: Aperture, advance: Callable[[int, int], None]
) -> KSearch:
    """K relative to the samples' own at which their sharp images look most like their photographs.

    1 where the sharp images are sharp and the labels right; less where the sharp images still have
    part of the photographs' blur. One search for all samples, since a photograph alone often does
    not determine its K, by the mean squared error, as networks are trained. The renderer is the
    scatter renderer.

    Args:
        samples: with disparity and K, at least one.
        aperture: of the renderer.
        advance: is told how many renderings are done, and of how many at most.

    Returns:
        K as a ratio; the score is the PSNR of all renderings together in bel (10 dB).

    Raises:
        Rejected: as :func:`search_k`.
    """

    def error(sample: Sample, ratio: float) -> float:
        assert sample.disparity is not None and sample.strength is not None
        assert sample.focus_disparity is not None
        rendered = render_scatter(
            srgb_to_linear(to_float(sample.aif)),
            sample.disparity,
            focus_disparity=sample.focus_disparity,
            strength=replace(sample.strength, k=ratio * sample.strength.k),
            aperture=aperture,
        )
        return float((linear_to_srgb(rendered) - to_float(sample.bokeh)).square().mean())

    done = itertools.count(1)

    def score(ratio: float) -> float:
        errors = []
        for sample in samples:
            errors.append(error(sample, ratio))
            advance(next(done), _RATIO_BUDGET * len(samples))
        return -math.log10(max(statistics.fmean(errors), _LEAST_ERROR))

    low, high = _RATIOS
    with torch.inference_mode():
        return search_k(score, low=low, high=high, budget=_RATIO_BUDGET)
