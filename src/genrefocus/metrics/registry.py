"""Every metric of one image by name, so that a benchmark can loop over them.

A metric takes an output and what is known about the case, all as of one picture, and gives one
number. What needs more than one picture is not here: LVCorr takes a series over K, FID and KID take
sets (:func:`set_metrics_available`).
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from genrefocus.metrics.bleeding import SIDES, Side, measure_bleeding
from genrefocus.metrics.blur_radius import (
    RADIUS_EDGES,
    RadiusPatches,
    bin_names,
    errors_by_bin,
    measure_radii,
)
from genrefocus.metrics.clip_iqa import clip_iqa
from genrefocus.metrics.clip_similarity import MODEL, clip_similarity, load_clip, require_clip
from genrefocus.metrics.dists import dists
from genrefocus.metrics.fid_kid import load_inception
from genrefocus.metrics.focus_plane import find_focus
from genrefocus.metrics.in_focus import MEASURES, Measure, in_focus, in_focus_region
from genrefocus.metrics.lpips import NETS, Net, NotAvailable, lpips, require_trunk
from genrefocus.metrics.no_reference import (
    VARIANTS,
    no_reference,
    require_no_reference,
    weight_files,
)
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.weights import file_hash, trunk_hash
from genrefocus.optics import BlurStrength

VERSION = 1
"""Of this project's own metrics, raised with every change of their values."""

Direction = Literal["higher", "lower", "zero", "none"]
Need = Literal["target", "aif", "disparity", "focus_disparity", "strength"]

_CONTROL: frozenset[Need] = frozenset({"disparity", "focus_disparity", "strength"})


def _nothing_to_require() -> None:
    """A metric without weights is always there."""


@dataclass(frozen=True)
class MetricInfo:
    """One metric of one image.

    Attributes:
        name: key in tables and files.
        unit: "dB", "px", "1/m" or "" for a pure number.
        direction: ``higher`` or ``lower`` is better, or best at ``zero``, signed; ``none`` for
            what only tells how much was measured.
        needs: what has to be known about the case.
        implementation: whose code, in which version, and which network.
        measure: (pred, **the needed facts) to a number; call the metric itself instead.
        require: raises NotAvailable where it cannot be computed.
        hash_weights: of its network, in hex; None for a metric without.
    """

    name: str
    unit: str
    direction: Direction
    needs: frozenset[Need]
    implementation: str
    measure: Callable[..., float] = field(repr=False)
    require: Callable[[], object] = field(default=_nothing_to_require, repr=False)
    hash_weights: Callable[[], str] | None = field(default=None, repr=False)

    def available(self) -> str | None:
        """None where it can be computed, else why not and what to do."""
        try:
            self.require()
        except NotAvailable as missing:
            return str(missing)
        return None

    def weights(self) -> str | None:
        """SHA-256 of its weights, in hex; None for a metric without weights.

        Raises:
            NotAvailable: they are not on this machine.
        """
        if self.hash_weights is None:
            return None
        self.require()
        return self.hash_weights()

    def __call__(
        self,
        pred: Tensor,
        *,
        target: Tensor | None = None,
        aif: Tensor | None = None,
        disparity: Tensor | None = None,
        focus_disparity: float | None = None,
        strength: BlurStrength | None = None,
    ) -> float:
        """The figure of one output.

        Args:
            pred: (3, H, W) sRGB in [0, 1], the output.
            target: same shape and range.
            aif: all in focus, same shape and range.
            disparity: (H, W), 1/m.
            focus_disparity: asked for, 1/m.
            strength: K asked for, stated for H x W.

        Returns:
            NaN where it cannot be told from this picture, or where the output is not finite: to
            be counted as failed.

        Raises:
            ValueError: a fact that the metric needs is not given, or shapes or ranges are wrong.
            NotAvailable: weights or a package are missing; see :meth:`available`.
        """
        given = {
            "target": target,
            "aif": aif,
            "disparity": disparity,
            "focus_disparity": focus_disparity,
            "strength": strength,
        }
        missing = sorted(need for need in self.needs if given[need] is None)
        if missing:
            raise ValueError(f"metric {self.name} needs {', '.join(missing)}, not known here")
        self.require()
        if not bool(pred.isfinite().all()):
            return math.nan
        return self.measure(pred, **{need: given[need] for need in self.needs})


def metrics(
    *, clip: str | Path = MODEL, clip_revision: str | None = None
) -> Mapping[str, MetricInfo]:
    """All metrics of one image by name.

    Args:
        clip: folder or hub id of the model for CLIP-I and CLIP-IQA.
        clip_revision: commit of a hub id.
    """
    found = [
        *_fidelity(),
        *_clip(str(clip), clip_revision),
        *(_no_reference(variant) for variant in VARIANTS),
        *_control(),
    ]
    return {info.name: info for info in found}


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _own() -> str:
    return f"genrefocus, metrics version {VERSION}"


def _of_pair(function: Callable[..., Tensor], **settings: Any) -> Callable[..., float]:
    def measure(pred: Tensor, target: Tensor) -> float:
        with torch.no_grad():
            return float(function(pred[None], target[None], **settings))

    return measure


def _fidelity() -> list[MetricInfo]:
    pair: frozenset[Need] = frozenset({"target"})
    torchmetrics = _version("torchmetrics")

    def lpips_info(net: Net) -> MetricInfo:
        return MetricInfo(
            f"lpips_{net}",
            "",
            "lower",
            pair,
            f"{_version('lpips')}, v0.1, {net}",
            _of_pair(lpips, net=net),
            functools.partial(require_trunk, net),
            functools.partial(trunk_hash, net),
        )

    return [
        MetricInfo("psnr", "dB", "higher", pair, _own(), _of_pair(psnr)),
        MetricInfo("ssim", "", "higher", pair, f"{torchmetrics}, 11 px Gaussian", _of_pair(ssim)),
        *(lpips_info(net) for net in NETS),
        MetricInfo(
            "dists",
            "",
            "lower",
            pair,
            torchmetrics,
            _of_pair(dists),
            functools.partial(require_trunk, "vgg", "DISTS"),
            functools.partial(trunk_hash, "vgg"),
        ),
    ]


def _clip(model: str, revision: str | None) -> list[MetricInfo]:
    require = functools.partial(require_clip, model, revision=revision, tokenizer=True)
    implementation = f"{_version('transformers')}, {model}" + (f"@{revision}" if revision else "")

    def similarity(pred: Tensor, target: Tensor) -> float:
        clip = load_clip(model, revision=revision, device=pred.device)
        return float(clip_similarity(pred[None], target[None], clip=clip))

    def quality(pred: Tensor) -> float:
        clip = load_clip(model, revision=revision, device=pred.device)
        return float(clip_iqa(pred[None], clip=clip))

    def info(name: str, needs: frozenset[Need], measure: Callable[..., float]) -> MetricInfo:
        return MetricInfo(
            name,
            "",
            "higher",
            needs,
            implementation,
            measure,
            require,
            lambda: file_hash(require()),
        )

    return [
        info("clip_i", frozenset({"target"}), similarity),
        info("clip_iqa_vit", frozenset(), quality),
    ]


def _no_reference(variant: str) -> MetricInfo:
    try:
        version = _version("pyiqa")
    except importlib.metadata.PackageNotFoundError:
        version = "pyiqa, not installed"
    chosen = VARIANTS[variant]
    return MetricInfo(
        variant,
        "",
        "higher",
        frozenset(),
        f"{version}, {chosen.pyiqa}, {chosen.what}",
        lambda pred: float(no_reference(pred[None], variant=variant)),
        functools.partial(require_no_reference, variant),
        lambda: file_hash(*weight_files(variant)),
    )


def _control() -> list[MetricInfo]:
    measured = _LastPatches()

    def info(
        name: str, unit: str, direction: Direction, value: Callable[[RadiusPatches], object]
    ) -> MetricInfo:
        def measure(pred: Tensor, **facts: Any) -> float:
            return float(value(measured(pred, **facts)))  # type: ignore[arg-type]

        return MetricInfo(name, unit, direction, _CONTROL | {"aif"}, _own(), measure)

    found = [
        *(_focus_plane(measured, in_px) for in_px in (False, True)),
        info("blur_radius_error", "px", "lower", lambda x: (x.measured - x.asked).abs().mean()),
        info("blur_radius_bias", "px", "zero", lambda x: (x.measured - x.asked).mean()),
        info("blur_radius_coverage", "", "none", lambda x: x.coverage),
    ]
    for number, name in enumerate(bin_names(RADIUS_EDGES)):

        def absolute(patches: RadiusPatches, number: int = number) -> Tensor:
            return errors_by_bin(patches).absolute[number]

        def bias(patches: RadiusPatches, number: int = number) -> Tensor:
            return errors_by_bin(patches).bias[number]

        found += [
            info(f"blur_radius_error_{name}", "px", "lower", absolute),
            info(f"blur_radius_bias_{name}", "px", "zero", bias),
        ]
    return [
        *found,
        *(_in_focus(measure) for measure in MEASURES),
        *(_bleeding(side) for side in SIDES),
        MetricInfo("bleeding", "", "lower", _CONTROL | {"target", "aif"}, _own(), _mean_bleeding),
    ]


def _focus_plane(measured: "_LastPatches", in_px: bool) -> MetricInfo:
    def measure(
        pred: Tensor, *, focus_disparity: float, strength: BlurStrength, **maps: Tensor
    ) -> float:
        patches = measured(
            pred,
            aif=maps["aif"],
            disparity=maps["disparity"],
            focus_disparity=focus_disparity,
            strength=strength,
        )
        error = abs(find_focus(patches, strength.k).disparity - focus_disparity)
        return error * strength.k if in_px else error

    name, unit = ("focus_plane_error_px", "px") if in_px else ("focus_plane_error", "1/m")
    return MetricInfo(name, unit, "lower", _CONTROL | {"aif"}, _own(), measure)


def _in_focus(measure: Measure) -> MetricInfo:
    def value(
        pred: Tensor,
        target: Tensor,
        disparity: Tensor,
        focus_disparity: float,
        strength: BlurStrength,
    ) -> float:
        region = in_focus_region(
            disparity[None], focus_disparity=[focus_disparity], strength=[strength]
        )
        with torch.no_grad():
            return float(in_focus(pred[None], target[None], region, measure=measure))

    learned = measure == "lpips"
    return MetricInfo(
        f"in_focus_{measure}",
        "dB" if measure == "psnr" else "",
        "lower" if learned else "higher",
        _CONTROL | {"target"},
        f"{_own()}, {_version('lpips')}, v0.1, alex" if learned else _own(),
        value,
        functools.partial(require_trunk, "alex") if learned else _nothing_to_require,
        functools.partial(trunk_hash, "alex") if learned else None,
    )


def _bleeding(side: Side) -> MetricInfo:
    return MetricInfo(
        f"bleeding_{side}",
        "",
        "zero",
        _CONTROL | {"target", "aif"},
        _own(),
        lambda pred, **facts: float(getattr(measure_bleeding(pred, **facts), side)),
    )


def _mean_bleeding(pred: Tensor, **facts: Any) -> float:
    """Mean magnitude over the sides where it can be told."""
    found = torch.tensor(measure_bleeding(pred, **facts)).abs()
    return float(found.nanmean())


class _LastPatches:
    """Remembers the patches of the last image: many metrics read them, one after the other."""

    def __init__(self) -> None:
        self.last: tuple[list[Tensor], float, BlurStrength, RadiusPatches] | None = None

    @in_float32
    def __call__(
        self,
        pred: Tensor,
        *,
        aif: Tensor,
        disparity: Tensor,
        focus_disparity: float,
        strength: BlurStrength,
    ) -> RadiusPatches:
        given = [pred, aif, disparity]
        if self.last is not None:
            held, focus, k, patches = self.last
            same = all(
                a.shape == b.shape and a.device == b.device and torch.equal(a, b)
                for a, b in zip(given, held, strict=True)
            )
            if same and (focus, k) == (focus_disparity, strength):
                return patches
        patches = measure_radii(
            pred, aif, disparity, focus_disparity=focus_disparity, strength=strength
        )
        self.last = [x.detach().clone() for x in given], focus_disparity, strength, patches
        return patches


METRICS: Mapping[str, MetricInfo] = metrics()
"""With the default CLIP, from the hub's cache."""


def set_metrics_available() -> str | None:
    """None where FID and KID can be computed, else why not and what to do."""
    try:
        load_inception()
    except NotAvailable as missing:
        return str(missing)
    return None
