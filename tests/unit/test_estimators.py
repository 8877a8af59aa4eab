"""Estimators: sidecars at any scale, detail retention on rendered blur."""

from pathlib import Path

import numpy as np
import pytest
import torch

from genrefocus.data.images import save_image
from genrefocus.estimators import (
    DetailRetention,
    Photo,
    SidecarDepth,
    SidecarMask,
    detail_retention,
    mask_agreement,
)
from genrefocus.optics import blur_radius
from genrefocus.render.apertures import disk
from genrefocus.render.lens import render_lens
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.scenes import draw_focus, draw_strength, procedural_scene


def photo(name: str = "trip/a.jpg", height: int = 20, width: int = 30) -> Photo:
    image = torch.rand(3, height, width)
    return Photo(name, image, image.clone())


def test_sidecars_are_found_beside_nested_photographs(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).uniform(0.5, 5, (20, 30)).astype(np.float16)
    mask = torch.rand(20, 30) < 0.4
    (tmp_path / "trip").mkdir()
    np.save(tmp_path / "trip/a.npy", depth)
    save_image(mask.to(torch.uint8) * 255, tmp_path / "trip/a.png")
    [found] = SidecarDepth(tmp_path).depth([photo()])
    assert torch.equal(found, torch.from_numpy(depth.astype(np.float32)))
    assert torch.equal(SidecarMask(tmp_path).mask([photo()])[0].region, mask)
    # Half the size: every value is one of the map's, none an average.
    [small] = SidecarDepth(tmp_path).depth([photo(height=10, width=15)])
    assert small.shape == (10, 15)
    assert set(small.flatten().tolist()) <= set(found.flatten().tolist())
    assert SidecarMask(tmp_path).mask([photo(height=10, width=15)])[0].region.dtype == torch.bool


def test_sidecars_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"trip/a\.jpg has no depth: .*trip/a\.npy.*data\.estimates"
    ):
        SidecarDepth(tmp_path).depth([photo()])
    with pytest.raises(FileNotFoundError, match=r"no mask: .*a\.png.*data\.estimates"):
        SidecarMask(tmp_path).mask([photo()])
    (tmp_path / "trip").mkdir()
    np.save(tmp_path / "trip/a.npy", np.ones((30, 20), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy is 20x30 px but the image is 30x20"):
        SidecarDepth(tmp_path).depth([photo()])
    np.save(tmp_path / "trip/a.npy", np.ones((20, 30), np.int32))
    with pytest.raises(ValueError, match="2-D floating point"):
        SidecarDepth(tmp_path).depth([photo()])
    (tmp_path / "trip/a.npy").write_text("not an array")
    with pytest.raises(ValueError, match=r"numpy\.save"):
        SidecarDepth(tmp_path).depth([photo()])


@pytest.fixture(scope="module")
def rendered() -> list[tuple[Photo, torch.Tensor]]:
    """Lens-sampled photographs with their blur radius in px."""
    photos = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = procedural_scene(seed, 64, 96, lights=0.0)
        focus = draw_focus(scene, rng)
        strength = draw_strength(scene, focus, rng, low=4.0, high=5.0)
        light = render_lens(
            scene, focus_disparity=focus, strength=strength, positions=disk().positions(96)
        )
        images = (linear_to_srgb(light), linear_to_srgb(scene_aif(scene)))
        radius = blur_radius(scene_disparity(scene), focus, strength)
        photos.append((Photo(f"{seed}.jpg", *images), radius))
    return photos


def test_detail_is_retained_where_the_photograph_is_sharp(
    rendered: list[tuple[Photo, torch.Tensor]],
) -> None:
    for one, radius in rendered:
        kept, detail = detail_retention(one, window=5)
        textured = detail > 0.01
        sharp, blurred = kept[(radius < 0.2) & textured], kept[(radius > 2) & textured]
        assert sharp.median() > 0.85
        if len(blurred):
            assert blurred.median() < 0.5
        [found] = DetailRetention(window=5).mask([one])
        assert mask_agreement(found.region, one) > 0.85


def test_agreement_tells_true_masks_from_false_ones(
    rendered: list[tuple[Photo, torch.Tensor]],
) -> None:
    for one, radius in rendered:
        true = radius < 0.5
        assert mask_agreement(true, one) > 0.8
        assert mask_agreement(~true, one) == pytest.approx(1 - mask_agreement(true, one))
        assert mask_agreement(torch.ones_like(true), one) == 0.5
        chance = torch.rand(64, 96) < 0.5
        assert abs(mask_agreement(chance, one) - 0.5) < 0.05


def test_a_window_has_a_middle() -> None:
    with pytest.raises(ValueError, match="odd number"):
        DetailRetention(window=4)
