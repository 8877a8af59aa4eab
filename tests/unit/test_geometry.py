"""Joint geometry: no field is left behind, and resampling agrees with other libraries."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import map_coordinates

from genrefocus.geometry import (
    View,
    crop,
    fitted,
    flip,
    resize,
    resize_disparity,
    resize_image,
    resize_long_edge_and_crop,
    round_up_to_multiple,
)
from genrefocus.optics import BlurStrength, defocus_map


def view(height=20, width=30, seed=0) -> View:
    generator = torch.Generator().manual_seed(seed)
    return View(
        image=torch.rand(3, height, width, generator=generator),
        disparity=torch.rand(height, width, generator=generator) + 0.1,
        mask=torch.rand(height, width, generator=generator) > 0.5,
        strength=BlurStrength(9.0, height, width),
    )


def bilinear(field: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, edges repeated, by scipy."""
    rows = (np.arange(height) + 0.5) * field.shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * field.shape[1] / width - 0.5
    grid = np.meshgrid(rows, columns, indexing="ij")
    return map_coordinates(field, grid, order=1, mode="nearest")


def test_fields_of_different_sizes_do_not_make_a_view():
    image = torch.zeros(3, 4, 6)
    for wrong in (
        {"disparity": torch.zeros(4, 5)},
        {"mask": torch.zeros(1, 4, 6, dtype=torch.bool)},
        {"strength": BlurStrength(1.0, 6, 4)},
    ):
        with pytest.raises(ValueError, match="image"):
            View(image, **wrong)
    with pytest.raises(ValueError, match="image"):
        View(torch.zeros(4, 6, 3))


@pytest.mark.parametrize("size", [(10, 15), (7, 41), (33, 50)])
def test_resize_takes_disparity_and_mask_by_nearest_neighbour_as_pillow_does(size):
    before = view()
    after = resize(before, *size)
    pillow_size = size[::-1]
    disparity = Image.fromarray(before.disparity.numpy()).resize(pillow_size, Image.NEAREST)
    mask = Image.fromarray(before.mask.numpy()).resize(pillow_size, Image.NEAREST)
    np.testing.assert_array_equal(after.disparity, np.array(disparity))
    np.testing.assert_array_equal(after.mask, np.array(mask))
    assert after.mask.dtype == torch.bool
    assert after.image.shape == (3, *size)
    assert after.strength.k == pytest.approx(9.0 * max(size) / 30)


def lanczos(before: int, after: int) -> np.ndarray:
    """The filter as a matrix (after, before): sinc(x) sinc(x / 3), wider where it shrinks."""
    scale = max(before / after, 1.0)
    centres = (np.arange(after)[:, None] + 0.5) * before / after
    x = (np.arange(before) + 0.5 - centres) / scale
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(10, 15), (7, 41), (33, 50)])
def test_images_are_resized_by_the_lanczos_filter(size):
    image = view().image
    rows, columns = lanczos(20, size[0]), lanczos(30, size[1])
    expected = np.clip(rows @ image.double().numpy() @ columns.T, 0, 1)
    for resized in (resize_image(image, *size), resize(View(image), *size).image):
        np.testing.assert_allclose(resized.numpy(), expected, atol=1e-5)


def test_a_map_of_other_proportions_does_not_fit():
    disparity = view().disparity
    assert fitted(disparity, 20, 30, "d.npy") is disparity
    assert torch.equal(fitted(disparity, 10, 15, "d.npy"), resize(view(), 10, 15).disparity)
    assert fitted(view().mask, 21, 31, "m.png").dtype == torch.bool  # off by rounding
    with pytest.raises(ValueError, match=r"d\.npy is 30x20 px but the image is 20x30 px"):
        fitted(disparity, 30, 20, "d.npy")


@pytest.mark.parametrize("size", [(9, 12), (40, 61)])
def test_released_depth_resizes_by_name(size):
    generator = np.random.default_rng(1)
    depth = generator.uniform(1, 9, (20, 30)).astype(np.float32)
    depth[:4, :5] = 0  # no measurement: disparity 0, and depth 0 in the average
    disparity = np.divide(1, depth, out=np.zeros_like(depth), where=depth > 0)
    averaged = bilinear(depth, *size)
    expected = {
        "bilinear_before_inversion": np.divide(
            1, averaged, out=np.zeros_like(averaged), where=averaged > 0
        ),
        "bilinear_after_inversion": bilinear(disparity, *size),
    }
    for mode, value in expected.items():
        actual = resize_disparity(torch.from_numpy(disparity), *size, mode=mode)
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-6)


def test_nearest_invents_no_depth_and_the_bilinear_modes_do():
    edge = torch.cat([torch.full((8, 4), 2.0), torch.full((8, 4), 0.2)], 1)
    assert set(resize_disparity(edge, 5, 5).unique().tolist()) == set(edge.unique().tolist())
    assert len(resize_disparity(edge, 5, 5, mode="bilinear_after_inversion").unique()) > 2
    with pytest.raises(ValueError, match="bilinear_before_inversion"):
        resize_disparity(edge, 5, 5, mode="bilinear")


def test_a_resized_view_shows_the_same_relative_blur():
    before = view()
    after = resize(before, 40, 60)
    small = defocus_map(before.disparity, 0.5, before.strength)
    large = defocus_map(after.disparity, 0.5, after.strength)
    torch.testing.assert_close(large, 2 * small.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_crop_and_defocus_map_commute():
    before = view()
    after = crop(before, 3, 5, 11, 13)
    whole = defocus_map(before.disparity, 0.5, before.strength)
    torch.testing.assert_close(defocus_map(after.disparity, 0.5, after.strength), whole[3:14, 5:18])
    torch.testing.assert_close(after.image, before.image[:, 3:14, 5:18])
    assert torch.equal(after.mask, before.mask[3:14, 5:18])
    assert after.strength.k == before.strength.k


@pytest.mark.parametrize("window", [(-1, 0, 5, 5), (0, 0, 21, 5), (0, 28, 5, 3), (0, 0, 0, 5)])
def test_a_crop_must_stay_inside(window):
    with pytest.raises(ValueError, match="px"):
        crop(view(), *window)


def test_flip_mirrors_every_field_and_undoes_itself():
    before = view()
    after = flip(before)
    for name in ("image", "disparity", "mask"):
        field, mirrored = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(mirrored, field.numpy()[..., ::-1])
        assert torch.equal(getattr(flip(after), name), field)
    assert after.strength == before.strength


def test_rounding_up_keeps_a_fitting_view_and_scales_another():
    fitting = view(32, 48)
    assert round_up_to_multiple(fitting, 16) is fitting
    after = round_up_to_multiple(view(), 16)
    assert after.strength == BlurStrength(9.0 * 32 / 30, 32, 32)


def test_long_edge_then_crop_follows_the_released_sizes():
    after = resize_long_edge_and_crop(view(100, 150), 51, 16)
    assert (after.height, after.width) == (32, 48)
    assert after.strength.k == pytest.approx(9.0 * 51 / 150)
    scaled = resize(view(100, 150), 34, 51)
    assert torch.equal(after.image, scaled.image[:, 1:33, 1:49])
    with pytest.raises(ValueError, match="larger long edge"):
        resize_long_edge_and_crop(view(10, 100), 64, 16)


def test_missing_fields_stay_missing():
    for after in (
        resize(View(torch.rand(3, 8, 8)), 4, 4),
        crop(View(torch.rand(3, 8, 8)), 0, 0, 4, 4),
        flip(View(torch.rand(3, 8, 8))),
    ):
        assert after.disparity is after.mask is after.strength is None
