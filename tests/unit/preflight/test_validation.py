"""What a validation costs: counted passes against the formula, and the defaults' share."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from genrefocus.backbone.tiny import build_tiny
from genrefocus.configuration.composing import compose_training, training_stages
from genrefocus.data.order import spread
from genrefocus.preflight import validation as costs
from genrefocus.preflight.inputs import condition_count, find_test_sets, task_of
from genrefocus.preflight.validation import check_validation, share, validation_sample
from lit_models import BokehNet, DeblurNet

ROWS, STEPS = 2, 3
OWN = f"{__name__}.AntiBokeh"
KINDS = {"synthetic": "pairs", "deblur": "pairs", "sweep": "sweep", "in_the_wild": "photographs"}


class Counted:
    """Images that pass a codec and rows that pass a transformer."""

    def __init__(self, backbone: Any) -> None:
        self.codec, self.cost = backbone.codec, np.zeros(2)
        self.factor, self.channels = self.codec.factor, self.codec.channels
        backbone.codec = self
        backbone.transformer.proj_out.register_forward_hook(self.forward)

    def forward(self, layer: Any, given: Any, output: Tensor) -> None:
        self.cost += [len(output), 0]

    def encode(self, image: Tensor, generators: Any, **_: Any) -> Tensor:
        self.cost += [0, len(image)]
        return self.codec.encode(image, generators)

    def decode(self, latents: Tensor) -> Tensor:
        self.cost += [0, len(latents)]
        return self.codec.decode(latents)


@pytest.mark.parametrize("kind", ["photographs", "pairs", "sweep", "told"])
def test_a_validation_passes_the_networks_as_often_as_is_counted(
    kind: Any, tiny_settings: dict[str, Any], network_settings: dict[str, Any]
) -> None:
    backbone = build_tiny(**tiny_settings).requires_grad_(False)
    settings = {**network_settings, "steps": STEPS}
    told = kind == "told"
    module = DeblurNet(backbone, told=0.5, **settings) if told else BokehNet(backbone, **settings)
    image = torch.rand(ROWS, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch: dict[str, Any] = {
        "key": ["a", "b"],
        "route": ["in_the_wild" if kind == "photographs" else "synthetic"] * ROWS,
        "prompt": [None] * ROWS,
        "aif": image,
        "bokeh": image / 2,
        "defocus": image[:, :1],
        "disparity": image[:, :1],
        "k": torch.tensor([3.0, 4.0]),
        "focus_disparity": torch.tensor([0.2, 0.5]),
    }
    if kind == "sweep":
        batch |= {f"sweep_{k}": image for k in (1, 5, 10)}
    counted = Counted(backbone)
    with torch.no_grad():
        module.validation_step(batch, 0)
    of_kind: Any = "pairs" if told else kind
    expected = validation_sample(of_kind, conditions=2, sigmas=5, steps=STEPS, told=told) * ROWS
    assert counted.cost.tolist() == expected.tolist()


def test_shares_take_the_dearer_of_both_networks() -> None:
    assert share(np.array([1, 30]), np.array([100, 100])) == 0.3


@pytest.mark.parametrize("scale", ["embedded", "paper"])
def test_validation_is_at_most_a_tenth_of_the_training(
    scale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every stage, with more samples in every set than are taken; the paper's batch is 32."""

    def full(folder: Path, most: int, expected: str) -> tuple[str, int]:
        return next(kind for name, kind in KINDS.items() if name in folder.parts), most

    monkeypatch.setattr(costs, "_kind", full)
    folders = [f"data.{name}=/{name}" for name in ("deblur", "synthetic", "sweep")]
    given = [*folders, "data.photos=/photos", "data.estimates=/photos"]
    config = compose_training([f"scale={scale}", *(given if scale == "paper" else [])])
    OmegaConf.update(config, "data.median_k", None)
    for name, stage in training_stages(config).items():
        training, validation = costs.stage_costs(stage, costs.validation_sets(config, stage))
        assert 0.01 < share(validation, training) <= 0.1, name
    assert costs.check_validation(config).verdict == "ok"
    more = compose_training([f"scale={scale}", "val_samples=1000", *given])
    found = costs.check_validation(more)
    assert found.verdict == "warning"
    enough = int(found.remedy.removeprefix("val_samples="))
    less = compose_training([f"scale={scale}", f"val_samples={enough}", *given])
    assert costs.check_validation(less).verdict == "ok"


def test_a_set_that_is_still_to_be_made_counts_as_what_it_will_be(tmp_path: Path) -> None:
    config = compose_training([f"data.sweep={tmp_path}/any", f"inputs.in_the_wild={tmp_path}/own"])
    config.data.synthetic = f"{tmp_path}/pairs"
    stage = training_stages(config)["bokehnet_semi_supervised"]
    kinds = [kind for kind, _ in costs.validation_sets(config, stage)]
    assert kinds == ["pairs", "sweep", "photographs"]
    assert "bokehnet_semi_supervised 48 images every 175 steps" in check_validation(config).detail


class AntiBokeh(DeblurNet):
    """A user's own DeblurNet, whose name is no hint."""


def test_a_network_is_what_its_class_states() -> None:
    config = compose_training(["experiment=deblur", f"stages.deblurnet.module._target_={OWN}"])
    (stage,) = training_stages(config).values()
    assert task_of(stage.module) == "deblur" and condition_count(stage.module) == 2, "told"
    stage.module.told = 0.0
    assert condition_count(stage.module) == 1
    folders = [found.subject.rpartition("/embedded/")[2] for found in find_test_sets(config)]
    assert folders == ["deblur/test", "deblur/val"]


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8])
def test_samples_are_spread_so_that_no_kind_disappears(period: int) -> None:
    total, most = 64, 16
    taken = spread(total, most)
    assert len(set(taken)) == most and list(taken) == sorted(taken)
    assert {index % period for index in taken} == set(range(period))  # kinds in turn
    assert {index * period // total for index in taken} == set(range(period))  # one by one
    assert list(spread(5, 16)) == list(spread(5, None)) == list(range(5))
