"""Trained networks as methods: asked as the protocols say, loaded once, true parts swapped in."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genrefocus.backbone.tiny import build_tiny
from genrefocus.benchmark.case import Case
from genrefocus.benchmark.protocol import load_protocol, protocol_at_given_k
from genrefocus.benchmark.runner import Entry, measure
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.estimators import SidecarDepth
from genrefocus.flow import Flow
from genrefocus.network import Network
from genrefocus.network_card import NetworkTask, released_card
from genrefocus.network_methods import (
    CAPTIONS,
    DeblurMethod,
    EstimatedDepth,
    RefocusMethod,
    SimulatedDepth,
    methods_of,
    nearest_to_focus,
)
from genrefocus.optics import BlurStrength, defocus_map

SIZE = 16, 24


@pytest.fixture
def networks(tiny_settings: dict[str, Any]) -> dict[NetworkTask, Network]:
    """Networks that return what they are given, asked as the released ones."""
    backbone = build_tiny(**tiny_settings)
    path = backbone.transformer.pixel_path
    for weights in (*path.last.parameters(), *path.mix.parameters()):
        torch.nn.init.zeros_(weights)
    denoiser, found = Denoiser(backbone, Flow("residual")), {}
    tasks: tuple[NetworkTask, NetworkTask] = ("deblur", "bokeh")
    for task in tasks:
        card = released_card(task, "flux", f"{task}Net.safetensors")
        found[task] = Network(denoiser, card.prompt, card.steps, weights=f"{task}Net 0123")
    return found


@pytest.fixture
def case() -> Case:
    generator = torch.Generator().manual_seed(1)
    image, aif, target = torch.rand(3, 3, *SIZE, generator=generator)
    disparity = torch.linspace(0.2, 1.0, SIZE[1]).expand(SIZE).clone()
    return Case(
        *("refocus", "k"),
        image=image,
        target=target,
        aif=aif,
        disparity=disparity,
        focus_disparity=0.6,
        strength=BlurStrength(3.0, *SIZE),
    )


def test_released_weights_are_asked_as_the_protocols_say(
    networks: dict[NetworkTask, Network],
) -> None:
    methods = methods_of(networks, "released")
    for task, dataset in (
        ("deblur", "dpdd"),
        ("deblur", "realdof"),
        ("bokeh", "lf_bokeh"),
        ("refocus", "lf_refocus"),
    ):
        protocol = load_protocol(task, dataset)
        for method in methods[task]:  # type: ignore[index]
            if "true_aif" in method.name:
                continue
            asked = {stage: prompt for stage, (prompt, _) in method.asked.items()}  # type: ignore[attr-defined]
            assert asked == protocol.prompts
            assert {steps for _, steps in method.asked.values()} == {protocol.steps}  # type: ignore[attr-defined]


def test_what_is_there_decides_what_is_answered(networks: dict[NetworkTask, Network]) -> None:
    for task in networks:
        assert list(methods_of({task: networks[task]}, "one")) == [task]
    direct = replace(networks["bokeh"], variant="direct")
    assert list(methods_of({"bokeh": direct}, "direct")) == ["refocus"]
    drafted = {**networks, "deblur": replace(networks["deblur"], variant="pre_deblur")}
    with pytest.raises(ValueError, match="reads a deblurred draft"):
        methods_of(drafted, "drafted")


def test_a_network_that_can_be_told_the_blur_answers_told_and_blind(
    networks: dict[NetworkTask, Network], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor | None] = []
    generate = Network.generate

    def spied(self: Network, *given: Any, **more: Any) -> Tensor:
        seen.append(more.get("control"))
        return generate(self, *given, **more)

    monkeypatch.setattr(Network, "generate", spied)
    told = {**networks, "deblur": replace(networks["deblur"], variant="told", steps=1)}
    methods = {one.name: one for some in methods_of(told, "ours").values() for one in some}
    assert {"ours_told", "ours", "ours_true_aif"} == set(methods)
    by_task = methods_of(told, "ours")
    assert [one.name for one in by_task["deblur"]] == ["ours", "ours_told"]
    own = replace(case, task="deblur", source_strength=None)
    for method in by_task["deblur"]:
        method(own)
    blind, map_ = seen
    assert blind is None and map_ is not None
    expected = defocus_map(case.disparity, 0.6, BlurStrength(3.0, *SIZE))  # type: ignore[arg-type]
    torch.testing.assert_close(map_[0, 0], expected)
    known = replace(
        case, source_strength=BlurStrength(5.0, *SIZE), source_focus_disparity=0.2, prompt=None
    )
    (chain,) = [one for one in by_task["refocus"] if one.name == "ours_told"]
    assert isinstance(chain, RefocusMethod)
    assert chain.scene(known).told == (BlurStrength(5.0, *SIZE), 0.2)
    with pytest.raises(ValueError, match="does not say how its photograph is blurred"):
        chain.scene(replace(case, key="other"))
    assert len({one.fingerprint for one in by_task["deblur"]}) == 2  # type: ignore[attr-defined]


def test_both_networks_of_a_chain_are_asked_with_the_caption(
    networks: dict[NetworkTask, Network], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sequence[str]] = []
    encode = Denoiser.encode

    def spied(self: Denoiser, conditions: Conditions, *given: Any) -> Any:
        asked.append(conditions.prompts)
        return encode(self, conditions, *given)

    monkeypatch.setattr(Denoiser, "encode", spied)
    few = {task: replace(network, steps=1) for task, network in networks.items()}
    chain = methods_of(few, "ours")["refocus"][0]
    chain(case)
    assert asked == [[few["deblur"].prompt], [few["bokeh"].prompt]]
    chain(replace(case, key="other", prompt="a sign"))
    assert asked[2:] == [["a sign"], ["a sign"]]


def test_a_deblurnet_is_asked_with_its_caption_with_none_or_with_a_wrong_one(
    networks: dict[NetworkTask, Network], case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Network, "__call__", lambda self, *_: asked.append(self.prompt) or [None])
    own = replace(case, task="deblur", prompt="a sign", other_prompt="a plant")
    methods = [DeblurMethod(networks["deblur"], "d", caption=one) for one in CAPTIONS]
    for method in methods:
        method(own)
    assert asked == ["a sign", networks["deblur"].prompt, "a plant"]
    assert len({method.fingerprint for method in methods}) == 3
    with pytest.raises(ValueError, match="no other case has another caption"):
        methods[-1](replace(own, other_prompt=None))


class One(dict[str, Case]):
    """A data set of one case."""

    task, name, keys = "refocus", "one", ["k"]  # type: ignore[assignment]


def test_a_chain_leaves_the_image_that_it_refocused(
    networks: dict[NetworkTask, Network], case: Case
) -> None:
    protocol = protocol_at_given_k("refocus", "one", ["psnr"], crop=None, seed=0)
    entry: Any = Entry(One(k=case), protocol, {})  # type: ignore[arg-type]
    few = {task: replace(network, steps=1) for task, network in networks.items()}
    chain, true = methods_of(few, "ours")["refocus"]
    _, images, _ = measure(entry, chain, "k")
    assert list(images) == ["input", "target", "ours", "ours_deblurred"]
    assert (images["ours_deblurred"] - case.image).abs().max() < 1e-5
    _, images, _ = measure(entry, true, "k")
    assert list(images) == ["input", "target", "ours_true_aif"]


def test_true_parts_are_swapped_in(networks: dict[NetworkTask, Network], case: Case) -> None:
    seen: list[Tensor] = []

    def half(case: Case, aif: Tensor) -> Tensor:
        """Depth twice as far as it is."""
        seen.append(aif)
        return 2 / case.disparity  # type: ignore[operator]

    half.name = "half"  # type: ignore[attr-defined]
    few = {task: replace(network, steps=2) for task, network in networks.items()}
    methods = methods_of(few, "ours", depth=half)  # type: ignore[arg-type]
    scenes = {}
    for method in methods["refocus"]:
        assert isinstance(method, RefocusMethod)
        scenes[method.name] = method.scene(case)
    assert list(scenes) == [
        "ours",
        "ours_estimated_depth",
        "ours_true_aif",
        "ours_true_aif_estimated_depth",
    ]
    for name, scene in scenes.items():
        image = case.aif if "true_aif" in name else case.image
        assert (scene.aif - image).abs().max() < 1e-5
        scale = 0.5 if "estimated" in name else 1.0
        torch.testing.assert_close(scene.disparity, scale * case.disparity)
        # One column in a hundred pixels: the nearest to the plane of focus, whatever the scale.
        assert scene.focus_disparity == pytest.approx(scale * 0.6, abs=0.02)
    assert len(seen) == 2 and len({method.fingerprint for method in methods["refocus"]}) == 4  # type: ignore[attr-defined]


def test_the_plane_of_focus_is_named_by_the_nearest_pixels() -> None:
    disparity = torch.arange(1000.0).reshape(20, 50)
    mask = nearest_to_focus(disparity, 500.2)
    assert sorted(disparity[mask].tolist()) == list(range(496, 506))
    assert nearest_to_focus(torch.tensor([[1.0, 2.0]]), 1.9).tolist() == [[False, True]]


def test_simulated_estimates_err_as_they_are_said_to(case: Case) -> None:
    depth = SimulatedDepth(seed=3)
    first, again = depth(case, case.image), depth(case, case.image)
    assert torch.equal(first, again) and first.shape == SIZE
    error = (first * case.disparity).log()
    assert 0.001 < float(error.std()) < 0.2 and abs(float(error.mean())) < 0.25
    assert not torch.equal(first, SimulatedDepth(seed=4)(case, case.image))
    far = Case("bokeh", "far", case.image, case.target, disparity=torch.zeros(SIZE).fill_(0.0))
    far.disparity[0, 0] = 1.0  # type: ignore[index]
    assert SimulatedDepth()(far, case.image).isfinite().all()


def test_depth_from_files_named_after_the_keys(case: Case, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.full(SIZE, 2.5, np.float32))
    source: Callable[[Case, Tensor], Tensor] = EstimatedDepth(SidecarDepth(tmp_path))
    assert (source(case, case.image) == 2.5).all()
