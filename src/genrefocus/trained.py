"""Trained networks as methods of the benchmark: DeblurNet, BokehNet, both in a chain, or one net.

They answer through the pipeline that users call.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from genrefocus.assembly import Deblurrer, Device, deblurrer_from_run, pipeline_from_run
from genrefocus.benchmark.case import Case, Method, Task
from genrefocus.network_card import networks_of
from genrefocus.pipeline import RefocusPipeline, Scene

Swap = Literal["nothing", "aif"]


@dataclass(frozen=True)
class TrainedDeblur:
    """DeblurNet."""

    deblur: Deblurrer
    name: str

    needs_k = False

    @property
    def fingerprint(self) -> str:
        return f"{self.deblur.name}, {self.deblur.steps} steps, seed {self.deblur.seed}"

    def __call__(self, case: Case) -> Tensor:
        return self.deblur(case.image[None])[0]


@dataclass(frozen=True)
class TrainedBokeh:
    """BokehNet on the case's sharp picture, or the chain of both networks on its photograph.

    Attributes:
        pipeline: with DeblurNet for ``refocus``, without for ``bokeh``.
        name: in tables.
        fingerprint: of the weights and the sampling.
        swap: ``aif`` starts from the true all-in-focus picture, which leaves the second stage's
            loss alone.
        seed: of the noise.
    """

    pipeline: RefocusPipeline
    name: str
    fingerprint: str
    swap: Swap = "nothing"
    seed: int = 0
    _prepared: dict[str, Scene] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs_k = True

    def __call__(self, case: Case) -> Tensor:
        if case.strength is None:
            raise ValueError(f"case {case.key} has no K")
        return self.pipeline.refocus(self._scene(case), case.strength, seed=self.seed).image

    def _scene(self, case: Case) -> Scene:
        """What does not depend on K, kept for the case at hand."""
        if case.key not in self._prepared:
            if case.disparity is None or case.focus_disparity is None:
                raise ValueError(f"case {case.key} has no depth or focus")
            picture = case.image
            if self.swap == "aif":
                if case.aif is None:
                    raise ValueError(f"case {case.key} has no true all-in-focus picture")
                picture = case.aif
            self._prepared.clear()
            self._prepared[case.key] = self.pipeline.prepare(
                picture, focus=case.focus_disparity, disparity=case.disparity, seed=self.seed
            )
        return self._prepared[case.key]


def methods_from_run(
    run: str | Path, *, outputs: str | Path, name: str = "trained", device: Device = "cpu"
) -> dict[Task, list[Method]]:
    """What a training run can answer, by task.

    Args:
        run: folder of a run.
        outputs: where runs lie.
        name: in tables.
        device: where the networks run.

    Returns:
        ``deblur`` where the run has a DeblurNet, ``bokeh`` where it has a BokehNet, and
        ``refocus``: the chain, and the second stage on the true all-in-focus picture; or one
        network for both where it was trained so.

    Raises:
        FileNotFoundError: the run has no network.
    """
    networks = networks_of(run)
    if not networks:
        raise FileNotFoundError(f"{run} has no trained network; train one with: make train")
    found: dict[Task, list[Method]] = {}
    if "deblur" in networks:
        deblurrer = deblurrer_from_run(run, outputs=outputs, device=device)
        found["deblur"] = [TrainedDeblur(deblurrer, name)]
    if "bokeh" not in networks:
        return found
    card = networks["bokeh"].card
    digests = ", ".join(
        f"{hashlib.sha256(network.lora.read_bytes()).hexdigest()[:16]} {network.card.steps} steps"
        for network in networks.values()
    )
    if card.variant == "direct":
        direct = pipeline_from_run(run, deblur=False, device=device)
        found["refocus"] = [TrainedBokeh(direct, name, digests)]
        return found
    bokeh = pipeline_from_run(run, deblur=False, device=device)
    found["bokeh"] = [TrainedBokeh(bokeh, name, digests)]
    if "deblur" in networks:
        chain = pipeline_from_run(run, device=device)
        found["refocus"] = [
            TrainedBokeh(chain, name, digests),
            TrainedBokeh(bokeh, f"{name}_true_aif", digests, swap="aif"),
        ]
    return found
