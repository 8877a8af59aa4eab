"""Generic tasks of the tiny base: blur against torchvision, control map against a disk."""

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur as torchvision_blur

from genrefocus.optics import MAX_COC
from genrefocus.render.apertures import disk
from genrefocus.world.pretext import TASKS, blur_by_map, blur_map, draw_kind, restore, variable_blur


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(seed=0):
    return [generator(10 * seed + row) for row in range(2)]


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 40, generator=generator())


@pytest.fixture
def layers():
    index = torch.zeros(2, 32, 40, dtype=torch.int64)
    index[:, 8:24, 10:30] = 1
    index[:, 20:, :5] = 5
    return index


def blurred(image, sigma, disk):
    return variable_blur(image, torch.full((2, 1, 32, 40), sigma), [disk, disk])


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.4, 3.0])
def test_uniform_gaussian_is_that_of_torchvision(image, sigma):
    side = 2 * max(1, round(3 * sigma)) + 1
    expected = torchvision_blur(image, side, sigma)
    torch.testing.assert_close(blurred(image, sigma, False), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0])
def test_disk_is_the_aperture_of_the_renderer(sigma):
    """A point under blur of deviation sigma covers pixels as the lens's disk of radius 2 sigma."""
    point = torch.zeros(2, 3, 33, 41)
    point[..., 16, 20] = 1.0
    ours = variable_blur(point, torch.full((2, 1, 33, 41), sigma), [True, True])[0, 0].numpy()
    y, x = np.mgrid[-16:17, -20:21]
    theirs = disk().coverage(x, y, np.full(x.shape, 2 * sigma))
    assert ours.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(ours - theirs / theirs.sum()).max() < 0.06 * ours.max()  # edges are anti-aliased


def test_rows_have_kernels_of_their_own(image):
    mixed = variable_blur(image, torch.full((2, 1, 32, 40), 2.0), [True, False])
    for row, is_disk in enumerate((True, False)):
        torch.testing.assert_close(mixed[row], blurred(image, 2.0, is_disk)[row])


@pytest.mark.parametrize("disk", [True, False])
def test_no_blur_where_sigma_is_zero(image, disk):
    sigma = torch.zeros(2, 1, 32, 40)
    sigma[..., 20:] = 2.0
    result = variable_blur(image, sigma, [disk, disk])
    assert torch.equal(result[..., :20], image[..., :20])
    assert not torch.allclose(result[..., 20:], image[..., 20:])


def test_levels_between_are_interpolated_monotonically(image):
    """More sigma, less variance: there is no jump where the level changes."""
    spread = [float(blurred(image, float(s), False).var()) for s in torch.linspace(0, 3, 30)]
    assert all(after < before for before, after in zip(spread[:-1], spread[1:], strict=True))


def test_control_reads_as_the_radius_of_a_disk(image, layers):
    """A disk of radius r spreads a point as widely as the blur whose map says r / MAX_COC."""
    task = blur_by_map(image, layers, generators(1))
    sigma = blur_map(layers, generators(1))
    radius = task.control * MAX_COC
    y, x = torch.meshgrid(torch.linspace(-1, 1, 2001), torch.linspace(-1, 1, 2001), indexing="ij")
    deviation = x[x**2 + y**2 <= 1].std()  # of a unit disk, along an axis
    torch.testing.assert_close(radius * deviation, sigma, rtol=2e-3, atol=1e-6)
    assert torch.equal(task.source, image)
    sharp = (sigma == 0).expand_as(image)
    torch.testing.assert_close(task.target[sharp], image[sharp], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", TASKS, ids=lambda task: task.__name__)
def test_tasks_are_valid_and_depend_on_the_generators_alone(make, image, layers):
    before = torch.get_rng_state()
    task, again, other = (make(image, layers, generators(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(task.source, again.source) and torch.equal(task.target, again.target)
    assert not torch.equal(task.source, other.source) or not torch.equal(task.target, other.target)
    for made in (task.source, task.target, task.draft):
        if made is not None:
            assert made.shape == image.shape
            assert made.min() >= 0 and made.max() <= 1
    if task.control is not None:
        assert task.control.shape == (2, 1, 32, 40)
        assert task.control.min() >= 0 and task.control.max() <= 1


def test_restoring_leads_to_the_sharp_image(image, layers):
    task = restore(image, layers, generators(5))
    assert torch.equal(task.target, image)
    assert task.source.var() < image.var()


@pytest.mark.parametrize("make", TASKS, ids=lambda task: task.__name__)
def test_a_row_does_not_depend_on_its_batch(make, image, layers):
    whole, alone = make(image, layers, generators()), make(image[1:], layers[1:], generators()[1:])
    for name in ("source", "target", "control", "draft"):
        both = getattr(whole, name), getattr(alone, name)
        assert both[0] is both[1] is None or torch.allclose(both[0][1:], both[1], atol=1e-5)


def test_kinds_are_drawn_by_weight():
    stream = generator()
    drawn = [draw_kind(stream) for _ in range(1000)]
    assert {kind: drawn.count(kind) / 1000 for kind in TASKS} == pytest.approx(TASKS, abs=0.05)
