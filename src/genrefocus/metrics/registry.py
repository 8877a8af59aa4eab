"""Every metric of one image by name, so that a benchmark can loop over them.

A new metric is one file, with its function and a tuple ``METRICS`` of its :class:`MetricInfo`, and
the name of that file in ``_MODULES`` below. Metrics of several images are not listed: LVCorr takes
a series over K (:mod:`genrefocus.metrics.lvcorr`), FID and KID take sets
(:mod:`genrefocus.metrics.fid_kid`).
"""

import importlib
from collections.abc import Mapping
from pathlib import Path

from genrefocus.metrics.clip import MODEL, infos
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
)

METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for module in _MODULES
    for info in importlib.import_module(f"genrefocus.metrics.{module}").METRICS
}
"""All metrics by name, with the default CLIP from the hub's cache."""


def metrics(
    *, clip: str | Path = MODEL, clip_revision: str | None = None
) -> Mapping[str, MetricInfo]:
    """All metrics of one image by name.

    Args:
        clip: folder or hub id of the model for CLIP-I and CLIP-IQA.
        clip_revision: commit of a hub id.
    """
    return {**METRICS, **{info.name: info for info in infos(clip, clip_revision)}}
