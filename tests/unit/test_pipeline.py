"""The camera: sizes, control signal, focus and noise, with networks whose answer is known."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from genrefocus.backbone import Backbone, Lora
from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import Denoiser
from genrefocus.estimators import Photo
from genrefocus.flow import Flow
from genrefocus.focus import SourceBlur
from genrefocus.geometry import resize_image
from genrefocus.network import Network
from genrefocus.optics import BlurStrength, blur_strength_from_exif
from genrefocus.pipeline import BeyondTraining, RefocusPipeline
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear


class Given(NamedTuple):
    source: Tensor
    control: Tensor | None


class Answering(Network):
    """A network that answers with a function of what it is given, and remembers it."""

    def __init__(self, backbone: Backbone, answer: Any, **settings: Any) -> None:
        super().__init__(Denoiser(backbone, Flow()), "a photo", 1, **settings)
        vars(self).update(answer=answer, given=[])

    def generate(
        self, source: Tensor, generators: Any, *, control: Tensor | None = None, **_: Any
    ) -> Tensor:
        self.given.append(Given(source, control))  # type: ignore[attr-defined]
        return self.answer(self.given[-1])  # type: ignore[attr-defined]


class Estimator:
    """Depth with 1 m left and 2 m right, of images that it remembers."""

    name = "step"

    def __init__(self) -> None:
        self.photos: list[Photo] = []

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        self.photos += photos
        return [1 / step(*photo.size) for photo in photos]


def step(height: int, width: int) -> Tensor:
    disparity = torch.ones(height, width)
    disparity[:, width // 2 :] = 0.5
    return disparity


def source(given: Given) -> Tensor:
    return given.source


def control(given: Given) -> Tensor:
    assert given.control is not None
    return given.control.expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def backbone(tiny_settings: dict[str, Any]) -> Backbone:
    return build_tiny(**tiny_settings).requires_grad_(False).eval()


@pytest.fixture
def photo() -> Tensor:
    """101 x 77 px (HxW) of smooth colour."""
    y, x = torch.linspace(0, 3, 101)[:, None], torch.linspace(0, 2, 77)
    return torch.stack([(y + x).sin(), (y * x).cos(), (y - x).cos()]) / 2 + 0.5


def ask(pipeline: RefocusPipeline, photo: Tensor, k: float = 20.0, **given: Any):
    height, width = photo.shape[-2:]
    given = {"focus": (0, 0), "disparity": step(height, width), **given}
    seed = given.pop("seed", 0)
    scene = pipeline.prepare(photo, seed=seed, **given)
    return pipeline.refocus(scene, BlurStrength(k, height, width), seed=seed)


def test_any_size_comes_back_as_it_went_in(backbone: Backbone, photo: Tensor) -> None:
    deblur, bokeh = Answering(backbone, source), Answering(backbone, source)
    result = ask(RefocusPipeline(deblur, bokeh), photo)
    assert bokeh.given[0].source.shape == deblur.given[0].source.shape == (1, 3, 104, 80)
    assert result.image.shape == (3, 101, 77)
    torch.testing.assert_close(result.image, photo, rtol=0, atol=0.01)
    whole = photo[:, :96, :72].contiguous()
    assert torch.equal(ask(RefocusPipeline(deblur, bokeh), whole).image, whole)


def test_the_network_sees_the_defocus_map_of_the_photograph(backbone: Backbone) -> None:
    """Closed form K |d - d_f| / 100; K grows with the long edge from 101 to 104 px."""
    bokeh = Answering(backbone, control)
    pipeline = RefocusPipeline(None, bokeh)
    result = ask(pipeline, torch.rand(3, 104, 80))
    assert result.image[:, :, 0].unique().item() == 0
    torch.testing.assert_close(result.image[:, :, -1], torch.full((3, 104), 20 * 0.5 / 100))
    result = ask(pipeline, torch.rand(3, 101, 77))
    seen = bokeh.given[-1].control
    assert seen is not None and float(seen.max()) == pytest.approx(0.1 * 104 / 101)
    assert seen.unique().numel() == 2  # no depth between the two surfaces is invented
    torch.testing.assert_close(result.defocus, (1 - step(101, 77)) * 0.2)


def test_focus_by_pixel_mask_and_disparity(backbone: Backbone, photo: Tensor) -> None:
    pipeline = RefocusPipeline(None, Answering(backbone, source))
    disparity = torch.rand(101, 77)
    mask = torch.zeros(101, 77, dtype=torch.bool)
    mask[40, 10:13] = True
    for focus, expected in (
        ((70, 5), float(disparity[5, 70])),
        (mask, float(disparity[40, 10:13].median())),
        (0.25, 0.25),
    ):
        scene = pipeline.prepare(photo, focus=focus, disparity=disparity)
        assert scene.focus_disparity == pytest.approx(expected)


def test_depth_is_estimated_on_the_deblurred_image(backbone: Backbone, photo: Tensor) -> None:
    deblur = Answering(backbone, lambda given: 1 - given.source)
    estimator = Estimator()
    pipeline = RefocusPipeline(deblur, Answering(backbone, source))
    scene = pipeline.prepare(photo, focus=(76, 0), estimator=estimator)
    assert torch.equal(estimator.photos[0].aif, scene.aif)
    assert torch.equal(estimator.photos[0].image, photo)
    torch.testing.assert_close(scene.aif, 1 - photo, rtol=0, atol=0.01)
    assert scene.focus_disparity == 0.5
    mask = step(101, 77) == 1
    assert pipeline.prepare(photo, focus=mask, estimator=estimator).focus_disparity == 1


@pytest.mark.parametrize("estimated", [False, True])
def test_long_edge_scales_crops_and_restates_k(backbone: Backbone, estimated: bool) -> None:
    """84 x 120 px to a long edge of 60: 42 x 60, cropped to 40 x 56; K halves."""
    pipeline = RefocusPipeline(None, Answering(backbone, source))
    depth = {"disparity": None, "estimator": Estimator()} if estimated else {}
    for x, plane in ((5, 1.0), (59, 1.0), (60, 0.5), (115, 0.5)):
        given = {"focus": (x, 40), "long_edge": 60, **depth}
        result = ask(pipeline, torch.rand(3, 84, 120), **given)
        assert result.image.shape == (3, 40, 56)
        assert result.strength == BlurStrength(10.0, 40, 56)
        near, far = result.defocus[0, 0], result.defocus[0, -1]
        expected = (0.05 * (1 - plane) * 2, 0.05 * (plane - 0.5) * 2)
        assert (float(near), float(far)) == pytest.approx(expected, abs=1e-5)


def test_a_focus_that_is_cropped_away_is_named(backbone: Backbone) -> None:
    pipeline = RefocusPipeline(None, Answering(backbone, source))
    with pytest.raises(ValueError, match="0,40 is cropped away"):
        pipeline.prepare(torch.rand(3, 84, 150), focus=(0, 40), estimator=Estimator(), long_edge=70)


def trained(backbone: Backbone, steps: int) -> Network:
    """A network whose LoRA is random, so that every condition counts."""
    generator = torch.Generator().manual_seed(1)
    lora = Lora.for_transformer(backbone.transformer, 2, generator=generator)
    for weight in lora.lora_b.values():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return Network(Denoiser(backbone, Flow(), lora.requires_grad_(False)), "a photo", steps)


def test_a_batch_of_any_size_goes_to_whole_tokens_and_back_by_lanczos(backbone: Backbone) -> None:
    """As in the pipeline, so that one photograph has one all-in-focus image."""
    network, photographs = Answering(backbone, source), torch.rand(2, 3, 14, 19)
    edited = network(photographs, maps=torch.full((2, 1, 14, 19), 0.05))
    told = network.given[-1].control  # type: ignore[attr-defined]
    assert told.shape == (2, 1, 16, 24) and float(told.max()) == pytest.approx(0.05 * 24 / 19)
    whole = torch.stack([resize_image(one, 16, 24) for one in photographs])
    assert torch.equal(network.given[0].source, whole)  # type: ignore[attr-defined]
    assert torch.equal(edited, torch.stack([resize_image(one, 14, 19) for one in whole]))


def test_seed_k_and_steps_decide_the_image_and_nothing_else(backbone: Backbone) -> None:
    pipeline = RefocusPipeline(trained(backbone, 2), trained(backbone, 2))
    photo = torch.rand(3, 24, 32)
    first = ask(pipeline, photo).image
    assert torch.equal(first, ask(pipeline, photo).image)
    assert not torch.equal(first, ask(pipeline, photo, seed=1).image)
    assert not torch.equal(first, ask(pipeline, photo, k=0.0).image)
    pinhole = ask(pipeline, photo, k=0.0)
    assert not pinhole.defocus.any()


def test_large_images_are_tiled_and_every_evaluation_is_reported(backbone: Backbone) -> None:
    """Tiles of 4 x 4 tokens every 3: one covers 32 x 32 px, 4 rows of 3 cover 101 x 77 px."""
    pipeline = RefocusPipeline(trained(backbone, 3), trained(backbone, 2))
    told: list[tuple[str, int, int]] = []

    def report(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))

    for size, parts in (((32, 32), 1), ((101, 77), 12)):
        told.clear()
        photo, disparity = torch.rand(3, *size), step(*size)
        scene = pipeline.prepare(photo, focus=(0, 0), disparity=disparity, report=report)
        result = pipeline.refocus(scene, BlurStrength(5, *size), report=report)
        assert result.image.isfinite().all()
        assert told == [
            (stage, done, steps * parts)
            for stage, steps in (("deblur", 3), ("bokeh", 2))
            for done in range(steps * parts + 1)
        ]
    assert not backbone._forward_hooks


def test_what_fills_one_tile_is_the_same_with_and_without_tiling(
    tiny_settings: dict[str, Any],
) -> None:
    photo, images = torch.rand(3, 32, 32), []
    for tile in (4, 100):
        backbone = build_tiny(**{**tiny_settings, "tile": tile}).requires_grad_(False)
        images.append(ask(RefocusPipeline(None, trained(backbone, 2)), photo).image)
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"disparity": None}, "give one"),
        ({"estimator": Estimator()}, "give one"),
        ({"disparity": torch.rand(5, 5)}, "disparity is"),
        ({"focus": (77, 0)}, "77,0 lies outside the 77x101 px"),
        ({"focus": (-1, 0)}, "outside"),
        ({"focus": torch.ones(5, 5)}, "mask"),
        ({"disparity": torch.ones(101, 77)}, "depth_without_spread"),
        ({"focus": torch.zeros(101, 77, dtype=torch.bool)}, "empty_mask"),
    ],
)
def test_wrong_input_is_named_before_a_network_runs(
    backbone: Backbone, photo: Tensor, given: dict[str, Any], message: str
) -> None:
    deblur = Answering(backbone, source)
    with pytest.raises(ValueError, match=message):
        ask(RefocusPipeline(deblur, Answering(backbone, source)), photo, **given)
    assert not deblur.given


def test_k_of_another_size_and_a_negative_focus_are_refused(
    backbone: Backbone, photo: Tensor
) -> None:
    pipeline = RefocusPipeline(None, Answering(backbone, source))
    scene = pipeline.prepare(photo, focus=(0, 0), disparity=step(101, 77))
    with pytest.raises(
        ValueError, match="K is stated for 38x50 px but the photograph is 77x101 px"
    ):
        pipeline.refocus(scene, BlurStrength(5, 50, 38))
    with pytest.raises(Rejected) as refusal:
        ask(pipeline, photo, focus=-0.5)
    assert refusal.value.reason is Reason.FOCUS_DISPARITY_NEGATIVE
    with pytest.raises(ValueError, match="steps must be at least 1"):
        replace(trained(backbone, 1), steps=0)


def blurred_twice(given: Given) -> Tensor:
    """Answers with the map where it is told, else with the photograph."""
    return given.source if given.control is None else control(given)


class Exposure(NamedTuple):
    focal_length_mm: float = 50.0
    f_number: float = 2.0
    sensor_width_mm: float = 36.0


@pytest.mark.parametrize("estimated", [False, True])
def test_a_network_is_told_the_blur_of_the_photograph(
    backbone: Backbone, photo: Tensor, estimated: bool
) -> None:
    """The map is K |d - d_f| / 100 of the photograph, at the size that the network takes."""
    deblur = Answering(backbone, blurred_twice, variant="told")
    pipeline = RefocusPipeline(deblur, Answering(backbone, source))
    given: Any = {"estimator": Estimator()} if estimated else {"disparity": step(101, 77)}
    near = BlurStrength(10.0, 101, 77)
    of_exif = blur_strength_from_exif(Exposure(), 0.5, 101, 77)
    for blur, strength, plane in (
        (SourceBlur(near, (0, 0)), near, 1.0),
        (SourceBlur(near, 0.75), near, 0.75),
        (SourceBlur(Exposure(), (76, 0)), of_exif, 0.5),
    ):
        deblur.given.clear()  # type: ignore[attr-defined]
        scene = pipeline.prepare(photo, focus=(0, 0), source=blur, **given)
        blind, told = deblur.given  # type: ignore[attr-defined]
        assert blind.control is None and told.control is not None
        assert torch.equal(blind.source, told.source) and scene.told == (strength, plane)
        expected = strength.k * abs(torch.tensor([1.0, 0.5]) - plane) / 100 * 104 / 101
        seen = told.control[0, 0, 50]
        torch.testing.assert_close(seen[[0, -1]], expected)
        assert torch.equal(scene.aif, resize_image(told.control[0].expand(3, -1, -1), 101, 77))
    scaled = pipeline.prepare(
        photo, focus=(5, 50), source=SourceBlur(near, (5, 50)), long_edge=56, **given
    )
    assert scaled.told == (near, 1.0)
    last = deblur.given[-1].control  # type: ignore[attr-defined]
    assert float(last.max()) == pytest.approx(10 * 0.5 / 100 * 56 / 101)


@pytest.mark.parametrize(
    ("k", "blind", "told"),
    [(20.0, 10.0, math.sqrt(10**2 - 4**2)), (6.0, 3.0, 0.0)],
)
def test_bokeh_is_asked_for_what_the_deblurred_image_lacks(
    backbone: Backbone, photo: Tensor, k: float, blind: float, told: float
) -> None:
    """The far half has 5 px of blur; of it DeblurNet takes 3 px away, and leaves 4 px."""
    bokeh = Answering(backbone, source, restored_radius=3.75)
    pipeline = RefocusPipeline(Answering(backbone, blurred_twice, variant="told"), bokeh)
    own = SourceBlur(BlurStrength(10.0, 101, 77), 1.0)
    for given, radius in ((None, blind), (own, told)):
        scene = pipeline.prepare(photo, focus=1.0, disparity=step(101, 77), source=given)
        shown = pipeline.refocus(scene, BlurStrength(k, 101, 77))
        asked = bokeh.given[-1].control[0, 0, 50]  # type: ignore[attr-defined]
        expected = torch.tensor([0.0, radius]) / 100 * 104 / 101
        torch.testing.assert_close(asked[[0, -1]], expected)
        # What the user asked for is reported.
        assert float(shown.defocus[50, -1]) == pytest.approx(blind / 100)


def test_the_blur_of_a_photograph_is_found_by_rendering(backbone: Backbone) -> None:
    """A network that restores the sharp image, and a photograph that was rendered from it."""
    generator = torch.Generator().manual_seed(0)
    disparity = torch.linspace(0.2, 1.0, 96).expand(64, 96).contiguous()
    sharp = torch.rand(3, 64, 96, generator=generator)
    strength = BlurStrength(6.0, 64, 96)
    light = render_layered(
        srgb_to_linear(sharp), disparity, focus_disparity=1.0, strength=strength, aperture=disk()
    )
    photo = linear_to_srgb(light)
    deblur = Answering(backbone, lambda given: sharp[None], variant="told")
    pipeline = RefocusPipeline(deblur, Answering(backbone, source))
    scene = pipeline.prepare(photo, focus=0.5, disparity=disparity, source=SourceBlur(None))
    assert scene.told is not None and scene.focus_disparity == 0.5
    found, plane = scene.told
    assert plane == pytest.approx(1.0, abs=0.05)  # where the photograph keeps the detail
    assert found.k == pytest.approx(6.0, rel=0.12)
    deblur = Answering(backbone, source, variant="told")
    pipeline = RefocusPipeline(deblur, Answering(backbone, source))
    with pytest.raises(Rejected, match="--source-k none"):
        pipeline.prepare(photo, focus=0.5, disparity=disparity, source=SourceBlur(None, 1.0))
    with pytest.raises(ValueError, match=r"no DeblurNet .* can be told"):
        blind = RefocusPipeline(Answering(backbone, source), Answering(backbone, source))
        blind.prepare(photo, focus=0.5, disparity=disparity, source=SourceBlur(strength))


def test_blur_beyond_training_gives_a_warning_with_both_numbers_and_the_largest_k(
    backbone: Backbone, photo: Tensor
) -> None:
    disparity = torch.ones(101, 77)
    disparity[:50] = 1.5
    pipeline = RefocusPipeline(None, Answering(backbone, source, largest_radius=5.0))
    scene = pipeline.prepare(photo, focus=1.0, disparity=disparity)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.refocus(scene, BlurStrength(9.0, 101, 77))  # 4.5 px of the photograph
    with pytest.warns(BeyondTraining, match=r"Bokeh.* 1\d\.\d px.* up to 5\.0 px") as said:
        for k in (20.0, 21.0, 30.0):
            pipeline.refocus(scene, BlurStrength(k, 101, 77))
    first, second = (str(one.message) for one in said)
    assert "too little blur" in first and "for K 20," in first and "for K 30," in second
    within = float(first.split("K up to ")[1].split()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh = RefocusPipeline(pipeline.deblur, pipeline.bokeh)
        fresh.refocus(scene, BlurStrength(within, 101, 77))
    assert within == pytest.approx(10.0 * 101 / 104, rel=0.05)
    deblur = Answering(backbone, blurred_twice, variant="told", largest_radius=4.0)
    told = SourceBlur(BlurStrength(20.0, 101, 77), 1.0)
    with pytest.warns(BeyondTraining, match=r"Deblur.* 1\d\.\d px, .* up to 4\.0 px.* not sharp"):
        RefocusPipeline(deblur, Answering(backbone, source)).prepare(
            photo, focus=1.0, disparity=disparity, source=told
        )
