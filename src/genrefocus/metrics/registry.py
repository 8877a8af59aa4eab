"""Every metric of one image by name, so that a benchmark can loop over them.

A new metric is one file, with its function and a tuple ``METRICS`` of its :class:`MetricInfo`, and
the name of that file in ``_MODULES`` below. LVCorr takes a series over K and is not listed
(:mod:`genrefocus.metrics.lvcorr`).
"""

import importlib
from collections.abc import Mapping

from genrefocus.metrics.info import MetricInfo

_MODULES = (
    "psnr",
    "ssim",
    "lpips",
    "dists",
    "clip",
    "no_reference",
    "focus_plane",
    "blur_radius",
    "in_focus",
    "bleeding",
    "legibility",
    "aperture_shape",
)

METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for module in _MODULES
    for info in importlib.import_module(f"genrefocus.metrics.{module}").METRICS
}
"""All metrics by name."""
