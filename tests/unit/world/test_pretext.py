"""Generic tasks of the tiny base: kernels against closed forms, occlusion, independence of rows."""

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from genrefocus.optics import MAX_COC
from genrefocus.world.pretext import (
    LARGEST_RADIUS,
    PRETEXT_TASKS,
    BlurRadii,
    Composite,
    blur,
    draw_radii,
    draw_task,
    kernels,
    measure,
    paste,
    radius_map,
    restore,
    restore_by_map,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def generators(seed=0, rows=2):
    return [generator(10 * seed + row) for row in range(rows)]


@pytest.fixture
def image():
    return torch.rand(2, 3, 32, 40, generator=generator())


@pytest.fixture
def layers():
    index = torch.zeros(2, 32, 40, dtype=torch.int64)
    index[:, 8:24, 10:30] = 1
    index[:, 20:, :5] = 2
    return index


def flat(image, before=None, linear=False):
    """An image without a ramp, behind another, or behind nothing."""
    before = torch.zeros(len(image), 4, *image.shape[-2:]) if before is None else before
    place = torch.zeros(len(image), 1, *image.shape[-2:])
    return Composite(image, before, place, torch.full((len(image), 1, 1, 1), linear))


def radii(before, behind, round_):
    one = torch.ones(2)
    return BlurRadii(before * one, behind * one, behind * one, torch.tensor([round_] * 2))


@pytest.mark.parametrize(
    ("radius", "round_"),
    [(0.6, True), (2.5, True), (LARGEST_RADIUS, True), (2.5, False), (4, False)],
)
def test_both_kernels_spread_a_point_as_a_disk_of_the_radius_does(radius, round_):
    kernel = kernels(torch.tensor([[float(radius)]]), torch.tensor([round_]))[0, 0].double()
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    x = torch.arange(17) - 8.0
    assert (kernel.sum(0) * x**2).sum() == pytest.approx(radius**2 / 4, rel=0.03)


@pytest.mark.parametrize("radius", [1.0, 2.0, 4.0])
def test_gaussian_is_that_of_torchvision(image, radius):
    found = blur(flat(image), radii(0.0, radius, round_=False))
    torch.testing.assert_close(found, gaussian_blur(image, 17, radius / 2), rtol=0, atol=1e-4)


def test_no_blur_at_radius_zero(image, layers):
    pasted = paste(image, layers, generators())
    found = blur(pasted, radii(0.0, 0.0, round_=True))
    torch.testing.assert_close(found, pasted.sharp(), rtol=0, atol=1e-4)


def test_what_is_sharp_in_front_keeps_its_outline_and_hides_what_is_blurred_behind():
    white, black = torch.ones(2, 3, 32, 40), torch.zeros(2, 4, 32, 40)
    black[:, 3, :, :20] = 1.0  # a black half in front of white
    found = blur(flat(white, black), radii(0.0, 6.0, round_=True))
    torch.testing.assert_close(found, flat(white, black).sharp(), rtol=0, atol=1e-4)
    soft = blur(flat(white, black), radii(6.0, 0.0, round_=True))
    assert 0.05 < soft[..., 17].mean() < 0.5 < soft[..., 22].mean() < 0.95


def test_a_ramp_goes_from_the_first_radius_to_the_last(image):
    pasted = flat(image)
    pasted.place[:] = torch.linspace(0, 1, 40)
    drawn = BlurRadii(
        torch.zeros(2), torch.zeros(2), torch.full((2,), 4.0), torch.tensor([True, True])
    )
    assert torch.equal(radius_map(pasted, drawn)[0, 0, 5], torch.linspace(0, 4, 40))
    found, even = blur(pasted, drawn), blur(flat(image), radii(0.0, 4.0, round_=True))
    torch.testing.assert_close(found[..., 0], image[..., 0], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[..., -1], even[..., -1], rtol=0, atol=1e-4)


def test_lights_are_brighter_than_white_in_linear_light_alone(layers):
    image = torch.full((40, 3, 32, 40), 0.5)
    image[..., :4, :4] = 1.0
    pasted = paste(image, layers[:1].expand(40, -1, -1), generators(rows=40))
    lights = pasted.behind[..., :4, :4].amax((1, 2, 3))
    linear = pasted.linear.flatten()
    assert 0.5 < linear.float().mean() < 0.95
    assert (lights[linear] > 1).all() and (lights[linear] <= 16).all() and lights.max() > 8
    assert (lights[~linear] == 1).all()
    torch.testing.assert_close(pasted.sharp()[:, :, 8:, 8:].amax(), torch.tensor(0.5))


def test_radii_cover_their_range():
    drawn = draw_radii(generators(rows=2000))
    largest = torch.stack([drawn.before, drawn.first]).amax(0)
    assert 0.4 <= largest.min() < 0.42 and 5.9 < largest.max() <= LARGEST_RADIUS
    sharp = (torch.stack([drawn.before, drawn.first]).amin(0) == 0).float().mean()
    assert sharp == pytest.approx(0.5, abs=0.05)
    assert drawn.round[largest > 4.5].all()
    assert drawn.round[largest < 4.5].float().mean() == pytest.approx(2 / 3, abs=0.05)


def test_control_holds_the_radius_about_right_as_a_defocus_map_does(image, layers):
    task, shown = (
        restore_by_map(image, layers, generators(3)),
        measure(image, layers, generators(3)),
    )
    found, true = task.control * MAX_COC, shown.target[:, :1] * LARGEST_RADIUS
    wrong = found.sum((1, 2, 3), keepdim=True) / true.sum((1, 2, 3), keepdim=True)
    assert ((wrong > 0.6) & (wrong < 1.6) & ((wrong - 1).abs() > 1e-3)).all()
    assert (found / wrong - true).abs().median() < 0.05  # but where it is smoothed


@pytest.mark.parametrize("make", PRETEXT_TASKS, ids=lambda task: task.__name__)
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
    assert torch.equal(task.target, paste(image, layers, generators(5)).sharp())
    assert task.source.var() < task.target.var()


@pytest.mark.parametrize("make", PRETEXT_TASKS, ids=lambda task: task.__name__)
def test_a_row_does_not_depend_on_its_batch(make, image, layers):
    whole, alone = make(image, layers, generators()), make(image[1:], layers[1:], generators()[1:])
    for name in ("source", "target", "control", "draft"):
        both = getattr(whole, name), getattr(alone, name)
        assert both[0] is both[1] is None or torch.allclose(both[0][1:], both[1], atol=1e-5)


def test_kinds_are_drawn_by_weight():
    stream = generator()
    drawn = [draw_task(stream) for _ in range(1000)]
    assert {kind: drawn.count(kind) / 1000 for kind in PRETEXT_TASKS} == pytest.approx(
        PRETEXT_TASKS, abs=0.05
    )
