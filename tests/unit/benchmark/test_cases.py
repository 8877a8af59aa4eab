"""Focal stacks as cases: photographs that a lens of known strength has taken."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

import genrefocus.configuration.composing  # noqa: F401  registers the options
from genrefocus.benchmark.cases import FocalStackCases
from genrefocus.benchmark.methods import Classical, Identity
from genrefocus.benchmark.protocol import load_protocol
from genrefocus.benchmark.runner import measure
from genrefocus.benchmark.suite import entry_of
from genrefocus.data.images import load_image, save_image
from genrefocus.data.sample import to_uint8
from genrefocus.geometry import resize_image
from genrefocus.optics import BlurStrength
from genrefocus.preparation.sources import FocalStacks
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear

CONF = Path(__file__).parents[3] / "conf"
FRAMES, NEAR, FAR = 7, 1, 5
K = 0.7
"""Px per frame."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes, of which one has frames: a near surface on the left, a far one on the right."""
    root = tmp_path_factory.mktemp("stacks")
    index = torch.tensor([NEAR, FAR]).repeat_interleave(48).expand(64, 96)
    light = srgb_to_linear(torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)))
    for scene in "abcdef":
        (root / "set" / scene / "stack").mkdir(parents=True)
        for number in range(FRAMES):
            if scene == "b":
                photograph = render_layered(
                    light,
                    FRAMES - 1.0 - index,
                    focus_disparity=FRAMES - 1.0 - number,
                    strength=BlurStrength(K, 64, 96),
                    aperture=disk(),
                )
                image = to_uint8(linear_to_srgb(photograph))
            else:
                image = torch.zeros(3, 4, 4, dtype=torch.uint8)
            save_image(image, root / "set" / scene / "stack" / f"{number}.png")
    values = (index + 1).numpy().astype(np.uint8)
    Image.fromarray(values).save(root / "set" / "b" / "stack" / "index.png")
    return root


def test_near_and_far_photographs_of_a_stack_are_cases(root: Path) -> None:
    source, frames = FocalStacks(root), root / "set" / "b" / "stack"
    near, far = (load_image(frames / f"{number}.png") for number in (NEAR, FAR))
    cases = FocalStackCases("refocus", "stacks", source)
    assert cases.keys[:2] == ["b-near", "b-far"] and len(cases.keys) == 2 * 4
    case = cases["b-near"]
    assert torch.equal(case.image, far) and torch.equal(case.target, near)
    planes = (case.focus_disparity, case.source_focus_disparity)
    assert planes == (FRAMES - 1.0 - NEAR, FRAMES - 1.0 - FAR)
    assert case.aif is not None and case.disparity is not None
    assert torch.equal(case.aif[..., :48], near[..., :48])
    assert torch.equal(case.aif[..., 48:], far[..., 48:])
    assert case.disparity[0, [0, -1]].tolist() == list(planes)
    assert torch.equal(FocalStackCases("deblur", "stacks", source)["b-far"].image, far)
    small = FocalStackCases("refocus", "stacks", source, long_edge=48)
    torch.testing.assert_close(
        small["b-near"].target, resize_image(near, 32, 48), atol=1 / 255, rtol=0
    )
    assert small.fingerprint != cases.fingerprint
    held_out = FocalStackCases("deblur", "stacks", source, validation=True)
    assert held_out.keys == ["a-near", "a-far", "f-near", "f-far"]


@pytest.mark.parametrize(("name", "edge"), [("focal_stacks", None), ("focal_stacks_embedded", 224)])
def test_the_option_measures_what_it_does_not_choose_settings_on(
    root: Path, name: str, edge: int | None
) -> None:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose("measure", overrides=[f"benchmark={name}", f"source.root={root}"])
    bokeh, refocus = config.benchmark.sets
    measured, chosen_on = instantiate(refocus.cases), instantiate(refocus.validation)
    assert measured.keys == instantiate(bokeh.cases).keys
    assert measured.long_edge == chosen_on.long_edge == edge
    assert len(measured.keys) == 8 and len(chosen_on.keys) == 4
    assert not set(measured.keys) & set(chosen_on.keys)
    assert (bokeh.cases.task, measured.task, chosen_on.task) == ("bokeh", "refocus", "deblur")
    for one in (bokeh, refocus):
        protocol = load_protocol(*one.protocol.split("/"))
        assert protocol.task == one.cases.task
        # Blur that networks on the tiny base have not learnt is not searched for.
        assert edge is None or protocol.k_search.max_radius * edge < 7.8


def test_the_search_finds_the_lens_of_a_stack(root: Path) -> None:
    cases = FocalStackCases("bokeh", "stacks", FocalStacks(root), limit=2)
    protocol = load_protocol("bokeh", "focal_stacks_embedded")
    protocol = replace(protocol, metrics={"ssim": protocol.metrics["ssim"]})
    renderer = Classical("layered")
    entry = entry_of(cases, protocol, [Identity(), renderer])
    for key in cases.keys:
        record, *_ = measure(entry, renderer, key)
        assert record["search"] == "maximum"
        assert record["k"] == pytest.approx(K, rel=0.1)
        unmodified, *_ = measure(entry, Identity(), key)
        assert record["figures"]["ssim"][0] > unmodified["figures"]["ssim"][0] + 0.1


def test_a_stack_without_depth_still_has_two_photographs(root: Path) -> None:
    case = FocalStackCases("refocus", "stacks", FocalStacks(root))["c-far"]
    assert (case.focus_disparity, case.source_focus_disparity) == (FRAMES - 2, FRAMES - 1)
    with pytest.raises(
        ValueError, match="to measure, of 1: .* one folder of frames for each scene"
    ):
        FocalStackCases("refocus", "stacks", FocalStacks(root / "set" / "b"))
