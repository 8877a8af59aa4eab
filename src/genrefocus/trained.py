"""Trained networks as methods of the benchmark: DeblurNet, BokehNet, both in a chain, or one net.

They answer through the pipeline that users call.
"""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genrefocus.assembly import (
    Deblurrer,
    Device,
    deblurrer_from_lora,
    deblurrer_from_run,
    deblurrer_of,
    pipeline_from_flux,
    pipeline_from_run,
    without_deblur,
)
from genrefocus.benchmark.case import Case, Method, Task
from genrefocus.estimators import DepthEstimator, Photo
from genrefocus.network_card import networks_of
from genrefocus.pipeline import STEPS, Focus, RefocusPipeline, Scene
from genrefocus.render.estimates import estimate_depth

NEAREST = 0.01
"""Part of the pixels, those nearest to the true plane of focus, that name it in estimated depth."""


class CaseDepth(Protocol):
    """Depth of a case as a camera would have to find it, in place of the true one."""

    @property
    def name(self) -> str:
        """What estimates, in which revision."""

    def __call__(self, case: Case, aif: Tensor) -> Tensor:
        """(H, W) in metres, of the all-in-focus picture (3, H, W) of the case."""


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
    """True depth with the errors of an estimator (``render.estimates``), the same at every call.

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
class _OfCase:
    """A case's depth as the estimator that the pipeline asks."""

    depth_of: CaseDepth
    case: Case

    holds_network = False

    @property
    def name(self) -> str:
        return self.depth_of.name

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        return [self.depth_of(self.case, photo.aif) for photo in photos]


@dataclass(frozen=True)
class TrainedDeblur:
    """DeblurNet."""

    deblur: Deblurrer
    name: str

    needs_k = False

    @property
    def fingerprint(self) -> str:
        return f"{self.deblur.name}, {self.deblur.steps} steps, seed {self.deblur.seed}"

    @property
    def asked(self) -> Mapping[str, tuple[str, int]]:
        """Stage -> prompt and steps."""
        return {"deblur": (self.deblur.prompt, self.deblur.steps)}

    def __call__(self, case: Case) -> Tensor:
        return self.deblur(case.image[None])[0]


@dataclass(frozen=True)
class TrainedBokeh:
    """BokehNet on the case's sharp picture, or the chain of both networks on its photograph.

    Attributes:
        pipeline: with DeblurNet for ``refocus``, without for ``bokeh``.
        name: in tables.
        weights: digests of the LoRA files.
        true_aif: start from the true all-in-focus picture, which leaves out what the first stage
            loses.
        depth: in place of the true depth.
        seed: of the noise.
    """

    pipeline: RefocusPipeline
    name: str
    weights: str
    true_aif: bool = False
    depth: CaseDepth | None = None
    seed: int = 0
    _prepared: dict[str, Scene] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs_k = True

    @property
    def fingerprint(self) -> str:
        depth = "true depth" if self.depth is None else self.depth.name
        aif = ", true all-in-focus picture" if self.true_aif else ""
        return f"{self.weights}, {dict(self.asked)}, {depth}{aif}, seed {self.seed}"

    @property
    def asked(self) -> Mapping[str, tuple[str, int]]:
        """Stage -> prompt and steps."""
        pipeline = self.pipeline
        found = {"bokeh": (pipeline.bokeh_prompt, pipeline.bokeh_steps)}
        if pipeline.deblur is not None:
            found["deblur"] = (pipeline.deblur_prompt, pipeline.deblur_steps)
        return found

    def __call__(self, case: Case) -> Tensor:
        if case.strength is None:
            raise ValueError(f"case {case.key} has no K")
        return self.pipeline.refocus(self._scene(case), case.strength, seed=self.seed).image

    def _scene(self, case: Case) -> Scene:
        """What does not depend on K, kept for the case at hand."""
        if case.key not in self._prepared:
            self._prepared.clear()
            self._prepared[case.key] = self._prepare(case)
        return self._prepared[case.key]

    def _prepare(self, case: Case) -> Scene:
        if case.disparity is None or case.focus_disparity is None:
            raise ValueError(f"case {case.key} has no depth or focus")
        picture = case.aif if self.true_aif else case.image
        if picture is None:
            raise ValueError(f"case {case.key} has no true all-in-focus picture")
        focus: Focus = case.focus_disparity
        if self.depth is None:
            return self.pipeline.prepare(
                picture, focus=focus, disparity=case.disparity, seed=self.seed
            )
        focus = nearest_to_focus(case.disparity, case.focus_disparity)
        estimator = _OfCase(self.depth, case)
        return self.pipeline.prepare(picture, focus=focus, estimator=estimator, seed=self.seed)


def nearest_to_focus(disparity: Tensor, focus_disparity: float) -> Tensor:
    """Mask (H, W) of the pixels nearest to the plane of focus, one in a hundred and one at least.

    What shall be sharp, said in a way that holds for any estimate of depth.
    """
    distance = (disparity - focus_disparity).abs()
    count = max(1, round(NEAREST * distance.numel()))
    return distance <= distance.flatten().kthvalue(count).values


def methods_from_run(
    run: str | Path,
    *,
    outputs: str | Path,
    name: str = "trained",
    device: Device = "cpu",
    depth: CaseDepth | None = None,
) -> dict[Task, list[Method]]:
    """What a training run can answer, by task.

    Args:
        run: folder of a run.
        outputs: where runs lie.
        name: in tables.
        device: where the networks run.
        depth: measured in addition to the true depth.

    Returns:
        ``deblur`` where the run has a DeblurNet, ``bokeh`` where it has a BokehNet, and
        ``refocus`` where it has both: see :func:`methods_of`. One network for both where it was
        trained so.

    Raises:
        FileNotFoundError: the run has no network.
        ValueError: files do not fit their card, or DeblurNet wants a deblurred draft.
    """
    if not Path(run).is_dir():
        raise FileNotFoundError(f"{run} does not exist; name the folder of a run")
    networks = networks_of(run)
    if not networks:
        raise FileNotFoundError(f"{run} has no trained network; train one with: make train")
    files = {task: network.lora for task, network in networks.items()}
    if "bokeh" not in networks:
        deblurrer = deblurrer_from_run(run, outputs=outputs, device=device)
        return {"deblur": [TrainedDeblur(deblurrer, name)]}
    direct = networks["bokeh"].card.variant == "direct"
    pipeline = pipeline_from_run(run, deblur="deblur" in networks and not direct, device=device)
    if pipeline.deblur_takes_draft:
        raise ValueError(
            f"DeblurNet of {run} reads a deblurred draft, which cases of the benchmark do not have"
        )
    if direct:
        return {"refocus": [TrainedBokeh(pipeline, name, _digest(files["bokeh"]))]}
    return methods_of(
        pipeline, name, deblur_lora=files.get("deblur"), bokeh_lora=files["bokeh"], depth=depth
    )


def methods_from_flux(
    flux: str,
    *,
    deblur_lora: str | Path | None,
    bokeh_lora: str | Path | None,
    name: str,
    steps: int = STEPS,
    device: Device = "cpu",
    depth: CaseDepth | None = None,
) -> dict[Task, list[Method]]:
    """What LoRA files on FLUX.1-dev can answer, the released ones included, by task.

    Arguments and errors as for :func:`genrefocus.assembly.pipeline_from_flux` and
    :func:`methods_from_run`; one of the files may be None.

    Raises:
        ValueError: no file.
    """
    if bokeh_lora is not None:
        pipeline = pipeline_from_flux(
            flux, deblur_lora=deblur_lora, bokeh_lora=bokeh_lora, steps=steps, device=device
        )
        return methods_of(
            pipeline, name, deblur_lora=deblur_lora, bokeh_lora=bokeh_lora, depth=depth
        )
    if deblur_lora is None:
        raise ValueError(f"method {name} names no LoRA file: give deblur, bokeh or both")
    deblurrer = deblurrer_from_lora(flux, lora=deblur_lora, steps=steps, device=device)
    return {"deblur": [TrainedDeblur(deblurrer, name)]}


def methods_of(
    pipeline: RefocusPipeline,
    name: str,
    *,
    deblur_lora: str | Path | None,
    bokeh_lora: str | Path,
    depth: CaseDepth | None = None,
) -> dict[Task, list[Method]]:
    """What the networks of a pipeline can answer, by task; nothing is loaded again.

    For ``refocus`` there is the chain, and with ``_true_aif`` the second stage on the true
    all-in-focus picture. With ``depth`` there are the same with ``_estimated_depth``, so that the
    differences say which stage loses how much.

    Args:
        pipeline: with DeblurNet or without.
        name: in tables.
        deblur_lora, bokeh_lora: files, for provenance.
        depth: measured in addition to the true depth.
    """
    found: dict[Task, list[Method]] = {}
    depths = {"": None} | ({} if depth is None else {"_estimated_depth": depth})
    alone, own = without_deblur(pipeline), _digest(bokeh_lora)
    found["bokeh"] = [
        TrainedBokeh(alone, name + suffix, own, depth=source) for suffix, source in depths.items()
    ]
    if pipeline.deblur is None or deblur_lora is None:
        return found
    both = f"{_digest(deblur_lora)}, {own}"
    found["deblur"] = [TrainedDeblur(deblurrer_of(pipeline, lora=deblur_lora), name)]
    found["refocus"] = [
        TrainedBokeh(
            alone if true_aif else pipeline,
            f"{name}{'_true_aif' if true_aif else ''}{suffix}",
            own if true_aif else both,
            true_aif=true_aif,
            depth=source,
        )
        for true_aif in (False, True)
        for suffix, source in depths.items()
    ]
    return found


def _digest(lora: str | Path) -> str:
    return hashlib.sha256(Path(lora).read_bytes()).hexdigest()[:16]
