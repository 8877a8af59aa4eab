"""Generic tasks of the tiny base: blur against torchvision, control map against a disk."""

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur as torchvision_blur

from genrefocus.optics import MAX_COC
from genrefocus.pretext import TASKS, blur_by_map, blur_map, draw_kind, gaussian_blur, restore


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


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.4, 2.8])
def test_uniform_blur_is_that_of_torchvision(image, sigma):
    side = 2 * max(1, round(3 * sigma)) + 1
    ours = gaussian_blur(image, torch.full((2, 1, 32, 40), sigma))
    torch.testing.assert_close(ours, torchvision_blur(image, side, sigma), rtol=1e-5, atol=1e-6)


def test_no_blur_where_sigma_is_zero(image):
    sigma = torch.zeros(2, 1, 32, 40)
    sigma[..., 20:] = 2.0
    blurred = gaussian_blur(image, sigma)
    assert torch.equal(blurred[..., :20], image[..., :20])
    assert not torch.allclose(blurred[..., 20:], image[..., 20:])


def test_levels_between_are_interpolated_monotonically(image):
    """More sigma, less variance: there is no jump where the level changes."""
    spread = [
        float(gaussian_blur(image, torch.full((2, 1, 32, 40), s)).var())
        for s in torch.linspace(0, 2.8, 30)
    ]
    assert all(after < before for before, after in zip(spread[:-1], spread[1:], strict=True))


def test_control_reads_as_the_radius_of_a_disk(image, layers):
    """A disk of radius r spreads a point as widely as the Gaussian whose map says r / MAX_COC."""
    task = blur_by_map(image, layers, generators(1))
    sigma = blur_map(layers, generators(1))
    radius = task.control * MAX_COC
    y, x = torch.meshgrid(torch.linspace(-1, 1, 2001), torch.linspace(-1, 1, 2001), indexing="ij")
    deviation = x[x**2 + y**2 <= 1].std()  # of a unit disk, along an axis
    torch.testing.assert_close(radius * deviation, sigma, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(task.target, gaussian_blur(image, sigma))
    assert torch.equal(task.source, image)


@pytest.mark.parametrize("make", TASKS, ids=lambda task: task.__name__)
def test_tasks_are_valid_and_depend_on_the_generators_alone(make, image, layers):
    before = torch.get_rng_state()
    task, again, other = (make(image, layers, generators(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(task.source, again.source) and torch.equal(task.target, again.target)
    assert not torch.equal(task.source, other.source) or not torch.equal(task.target, other.target)
    for picture in (task.source, task.target, task.draft):
        if picture is not None:
            assert picture.shape == image.shape
            assert picture.min() >= 0 and picture.max() <= 1
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
        assert both[0] is both[1] is None or torch.allclose(both[0][1:], both[1], atol=1e-6)


def test_kinds_are_drawn_by_weight():
    stream = generator()
    drawn = [draw_kind(stream) for _ in range(1000)]
    assert {kind: drawn.count(kind) / 1000 for kind in TASKS} == pytest.approx(TASKS, abs=0.05)
