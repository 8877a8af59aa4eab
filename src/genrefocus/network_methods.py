"""Networks as methods of the benchmark: DeblurNet, BokehNet, both in a chain, or one for both.

They answer through the pipeline that users call.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genrefocus.benchmark.case import BenchmarkTask, Case, Method
from genrefocus.estimators import DepthEstimator, Photo
from genrefocus.focus import SourceBlur
from genrefocus.network import Network
from genrefocus.network_card import NetworkTask
from genrefocus.optics import depth_to_disparity, focus_disparity
from genrefocus.pipeline import PreparedPhoto, RefocusPipeline
from genrefocus.render.apertures import disk
from genrefocus.world.estimates import estimate_depth

TOLD = "_told"
"""Ends the name of a method that is told the blur of the photographs."""

CAPTIONS: Mapping[str, str] = {"own": "", "none": "_uncaptioned", "other": "_wrong_caption"}
"""What a DeblurNet is asked with, and how the name of the method ends."""

NEAREST = 0.01
"""Part of the pixels, those nearest to the true plane of focus, that name it in estimated depth."""


class CaseDepth(Protocol):
    """Depth of a case as a camera would have to find it, in place of the true one."""

    @property
    def name(self) -> str:
        """What estimates, in which revision."""

    def __call__(self, case: Case, aif: Tensor) -> Tensor:
        """(H, W) in metres, of the all-in-focus image (3, H, W) of the case."""


@dataclass(frozen=True)
class EstimatedDepth:
    """Of an estimator, such as Depth Pro, or files named after the keys."""

    estimator: DepthEstimator

    @property
    def name(self) -> str:
        return self.estimator.name

    def __call__(self, case: Case, aif: Tensor) -> Tensor:
        (depth,) = self.estimator.depth([Photo(case.key, case.image, aif)])
        return depth


@dataclass(frozen=True)
class SimulatedDepth:
    """True depth with the errors of an estimator (``world.estimates``), the same at every call.

    Attributes:
        seed: of the errors, with the case's key.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        return f"simulated errors of an estimator, seed {self.seed}"

    def __call__(self, case: Case, aif: Tensor) -> Tensor:
        if case.disparity is None:
            raise ValueError(f"case {case.key} has no depth that errors could be added to")
        rng = np.random.default_rng((self.seed, zlib.crc32(case.key.encode())))
        least = 1e-3 * float(case.disparity.max())  # what lies at infinity has no finite depth
        return torch.from_numpy(
            estimate_depth(case.disparity.clamp_min(least).numpy(), rng).astype(np.float32)
        )


@dataclass(frozen=True)
class DeblurMethod:
    """DeblurNet.

    Attributes:
        network: asked as its card says.
        name: in tables.
        told: gets the defocus map of the photograph, see ``Network.takes_map``.
        caption: one of ``CAPTIONS``: the case's own, none, or another case's.
    """

    network: Network
    name: str
    told: bool = False
    caption: str = "own"

    needs_k = False

    @property
    def fingerprint(self) -> str:
        told = ", told the blur" if self.told else ""
        told += "" if self.caption == "own" else f", caption {self.caption}"
        return f"{self.network.weights}, {dict(self.asked)}, seed {self.network.seed}{told}"

    @property
    def asked(self) -> Mapping[str, tuple[str, int]]:
        """Stage -> prompt and steps."""
        return {"deblur": (self.network.prompt, self.network.steps)}

    def __call__(self, case: Case) -> Tensor:
        drafts = None
        if self.network.takes_draft and case.draft is not None:
            drafts = case.draft[None]
        prompts = {"own": case.prompt, "none": None, "other": case.other_prompt}
        if self.caption == "other" and case.other_prompt is None:
            raise ValueError(f"case {case.key}: no other case has another caption")
        network = _asked_for(self.network, replace(case, prompt=prompts[self.caption]))
        maps = _own_defocus(case)[None] if self.told else None
        return network(case.image[None], [_noise_number(case)], drafts, maps)[0]


@dataclass(frozen=True)
class RefocusMethod:
    """BokehNet on the case's sharp image, or the chain of both networks on its photograph.

    A BokehNet that can be told the shape of the aperture is told the case's, or a disc.

    Attributes:
        pipeline: with DeblurNet for ``refocus``, without for ``bokeh``.
        name: in tables.
        true_aif: start from the true all-in-focus image, which leaves out what the first stage
            loses.
        depth: in place of the true depth.
        seed: of the noise.
        told: DeblurNet is told the blur of the photograph.
    """

    pipeline: RefocusPipeline
    name: str
    true_aif: bool = False
    depth: CaseDepth | None = None
    seed: int = 0
    told: bool = False
    _prepared: dict[str, PreparedPhoto] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    needs_k = True

    @property
    def _networks(self) -> dict[str, Network]:
        stages = {"deblur": self.pipeline.deblur, "bokeh": self.pipeline.bokeh}
        return {stage: network for stage, network in stages.items() if network is not None}

    @property
    def fingerprint(self) -> str:
        weights = ", ".join(network.weights for network in self._networks.values())
        depth = "true depth" if self.depth is None else self.depth.name
        aif = ", true all-in-focus image" if self.true_aif else ""
        aif += ", told the blur" if self.told else ""
        return f"{weights}, {dict(self.asked)}, {depth}{aif}, seed {self.seed}"

    @property
    def asked(self) -> Mapping[str, tuple[str, int]]:
        """Stage -> prompt and steps."""
        return {stage: (one.prompt, one.steps) for stage, one in self._networks.items()}

    def __call__(self, case: Case) -> Tensor:
        if case.strength is None:
            raise ValueError(f"case {case.key} has no K")
        number = _noise_number(case)
        pipeline = self._asked_for(case)
        aperture = case.aperture or disk() if pipeline.bokeh.takes_shape else None
        shown = pipeline.refocus(
            self.scene(case), case.strength, seed=self.seed, number=number, aperture=aperture
        )
        return shown.image

    def deblurred(self, case: Case) -> Tensor | None:
        """What DeblurNet made of the case, (3, H, W) in [0, 1], if it takes part."""
        return None if self.pipeline.deblur is None else self.scene(case).aif

    def scene(self, case: Case) -> PreparedPhoto:
        """What does not depend on K, kept for the case at hand."""
        if case.key not in self._prepared:
            self._prepared.clear()
            self._prepared[case.key] = self._prepare(case)
        return self._prepared[case.key]

    def _asked_for(self, case: Case) -> RefocusPipeline:
        if case.prompt is None:
            return self.pipeline
        deblur, bokeh = self.pipeline.deblur, self.pipeline.bokeh
        asked = None if deblur is None else _asked_for(deblur, case)
        return RefocusPipeline(asked, _asked_for(bokeh, case))

    def _prepare(self, case: Case) -> PreparedPhoto:
        if case.disparity is None or case.focus_disparity is None:
            raise ValueError(f"case {case.key} has no depth or focus")
        image = case.aif if self.true_aif else case.image
        if image is None:
            raise ValueError(f"case {case.key} has no true all-in-focus image")
        source = None
        if self.told:
            _own_defocus(case)
            source = SourceBlur(case.source_strength, case.source_focus_disparity)
        scene = self._asked_for(case).prepare(
            image,
            focus=case.focus_disparity,
            disparity=case.disparity,
            seed=self.seed,
            source=source,
        )
        if self.depth is None:
            return scene
        estimated = depth_to_disparity(self.depth(case, scene.aif))
        plane = focus_disparity(estimated, nearest_to_focus(case.disparity, case.focus_disparity))
        return replace(scene, disparity=estimated, focus_disparity=plane)


def _asked_for(network: Network, case: Case) -> Network:
    """The network with the case's own prompt, if it has one."""
    return network if case.prompt is None else replace(network, prompt=case.prompt)


def _own_defocus(case: Case) -> Tensor:
    if case.own_defocus is None:
        raise ValueError(f"case {case.key} does not say how its photograph is blurred")
    return case.own_defocus


def _noise_number(case: Case) -> int:
    """Of the key, as in validation: a case has its noise, whatever is measured beside it."""
    return zlib.crc32(case.key.encode())


def nearest_to_focus(disparity: Tensor, focus_disparity: float) -> Tensor:
    """Mask (H, W) of the pixels nearest to the plane of focus, one in a hundred and one at least.

    What shall be sharp, said in a way that holds for any estimate of depth.
    """
    distance = (disparity - focus_disparity).abs()
    count = max(1, round(NEAREST * distance.numel()))
    return distance <= distance.flatten().kthvalue(count).values


def methods_of(
    networks: Mapping[NetworkTask, Network], name: str, *, depth: CaseDepth | None = None
) -> dict[BenchmarkTask, list[Method]]:
    """What networks can answer, by task.

    ``deblur`` where there is a DeblurNet, ``bokeh`` where there is a BokehNet. Where there are
    both, ``refocus`` has their chain, and with ``_true_aif`` the second stage on the true
    all-in-focus image; one network for both answers ``refocus`` alone. With ``depth`` there are the
    same with ``_estimated_depth``, so that the differences say which stage loses how much. A
    DeblurNet that can be told the blur answers blind, and with ``_told`` by the true map.

    Args:
        networks: see :func:`genrefocus.network.load_networks`.
        name: in tables.
        depth: measured in addition to the true depth.

    Raises:
        ValueError: DeblurNet reads a deblurred draft, which cases do not have.
    """
    deblur, bokeh = networks.get("deblur"), networks.get("bokeh")
    if bokeh is not None and bokeh.variant == "direct":
        return {"refocus": [RefocusMethod(RefocusPipeline(None, bokeh), name)]}
    if deblur is not None:
        deblur.require_no_draft()
    depths = {"": None} | ({} if depth is None else {"_estimated_depth": depth})
    found: dict[BenchmarkTask, list[Method]] = {}
    if deblur is not None:
        found["deblur"] = [DeblurMethod(deblur, name)]
        if deblur.takes_map:
            found["deblur"].append(DeblurMethod(deblur, name + TOLD, told=True))
    if bokeh is not None:
        alone = RefocusPipeline(None, bokeh)
        found["bokeh"] = [RefocusMethod(alone, name + s, depth=d) for s, d in depths.items()]
        if deblur is not None:
            both = RefocusPipeline(deblur, bokeh)
            found["refocus"] = [RefocusMethod(both, name + s, depth=d) for s, d in depths.items()]
            if deblur.takes_map:
                found["refocus"].append(RefocusMethod(both, name + TOLD, told=True))
            found["refocus"] += [
                RefocusMethod(alone, f"{name}_true_aif{s}", true_aif=True, depth=d)
                for s, d in depths.items()
            ]
    return found
