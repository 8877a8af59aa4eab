"""Renderers, metrics, light fields and K search on CUDA tensors, without a GPU; see fake_cuda.

Left out: what works on arrays or files and never sees a device (simulated scenes, lights,
apertures, the camera's files, reading light fields, Richardson-Lucy by scikit-image), and metrics
whose package or weights are not in place.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.lightfield import estimate_disparity, refocus
from genrefocus.benchmark.lightfield.simulated import simulate
from genrefocus.benchmark.methods import Classical, Identity, Unsharp
from genrefocus.k_search import KRange, search_k
from genrefocus.metrics.aperture_shape import Light
from genrefocus.metrics.lvcorr import lvcorr_of_images
from genrefocus.metrics.registry import METRICS
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.tally import Tally
from genrefocus.optics import BlurStrength, defocus_map, depth_to_disparity, focus_disparity
from genrefocus.render.apertures import disk, polygon
from genrefocus.render.layered import render_layered
from genrefocus.render.lens import render_lens
from genrefocus.render.lettering import Lettering
from genrefocus.render.scatter import render_scatter
from genrefocus.render.scene import Scene, scene_aif, scene_disparity
from genrefocus.render.tone import in_linear_light
from genrefocus.world.scenes import procedural_scene
from tests.fake_cuda import CUDA, DeviceMismatchError, FakeCuda, HostSyncError, OnCuda, fake_cuda

SIZE = 72


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """A square in focus before a wall."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 24, 24, generator=generator)
    wall, front = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bilinear")
    near = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    near[18:54, 18:54] = True
    aif = torch.where(near, 0.5 + 0.5 * front, 0.5 * wall)
    return {
        "target": torch.where(near, aif, aif.mean((1, 2), keepdim=True)),
        "aif": aif,
        "disparity": torch.where(near, 1.0, 0.2) + 0.1 * torch.linspace(0, 1, SIZE),
        "focus_disparity": 1.05,
        "strength": BlurStrength(5.0, SIZE, SIZE),
        "lettering": Lettering("ANY", 20, 20, 10),
        "aperture": disk(),
        "lights": [Light(12.0, 12.0, 0.2)],
    }


def both(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """The answer on the CPU, and on CUDA, brought back; tensors of an answer have to stay there."""
    expected = function(*args, **kwargs)
    with fake_cuda():
        placed = [x.to("cuda") if isinstance(x, Tensor) else x for x in args]
        named = {k: x.to("cuda") if isinstance(x, Tensor) else x for k, x in kwargs.items()}
        found = function(*placed, **named)
        if isinstance(found, Tensor):
            assert isinstance(found, OnCuda), "the answer has left the device"
            found = found.cpu()
    return expected, found


def agree(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    torch.testing.assert_close(*both(function, *args, **kwargs), rtol=0, atol=0, equal_nan=True)


# The instrument itself.


def test_mistakes_of_placing_raise() -> None:
    host = torch.ones(3, 3)
    with fake_cuda() as gpu:
        there = torch.ones(3, 3, device="cuda")
        assert there.device == (there @ there).device == CUDA and there.new_zeros(2).is_cuda
        for mixed in (
            lambda: there @ host,
            lambda: torch.cat([there, host]),
            lambda: torch.stack([there[0, 0], host[0, 0]]),
            lambda: host[there > 0],
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(DeviceMismatchError):
                mixed()
        with pytest.raises(TypeError, match="cuda:0"):
            there.numpy()
        torch.where(there > 0, there, host.sum())  # a number may come from the host
        assert not gpu.syncs


def test_waits_of_the_host_raise_where_there_should_be_none() -> None:
    waits: list[Callable[[Tensor], Any]] = [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.cpu(),
        lambda x: x[torch.arange(2)],
        lambda x: torch.tensor([1.0, 2.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x.__setitem__(x > 0, x[0]),
        lambda x: f"{x.mean():.2f}",
    ]
    with fake_cuda() as gpu:
        there = torch.ones(3, 3, device="cuda")
        with gpu.no_sync():
            there.masked_fill(there > 0, 0.0)
            torch.ones(3).pin_memory().to("cuda", non_blocking=True)
            for call in waits:
                with pytest.raises(HostSyncError):
                    call(there)


def test_gradients_and_modules_stay_on_the_device() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 3), torch.ones(2, 3)
    layer(x).square().sum().backward()
    expected = layer.weight.grad
    with fake_cuda() as gpu:
        layer = layer.to("cuda")
        layer.zero_grad()
        x = x.to("cuda")
        with gpu.no_sync():
            layer(x).square().sum().backward()
            torch.optim.AdamW(layer.parameters()).step()
        assert layer.weight.grad.is_cuda and isinstance(layer.weight, torch.nn.Parameter)
        assert torch.equal(layer.weight.grad.cpu(), expected)


# Control signal and renderers.


def test_control_signal(facts: dict[str, Any]) -> None:
    disparity, mask = facts["disparity"], facts["disparity"] > 0.9
    agree(depth_to_disparity, 1 / disparity)
    assert len(set(both(focus_disparity, disparity, mask))) == 1
    agree(defocus_map, disparity, 1.0, facts["strength"])


@pytest.mark.parametrize("render", [render_scatter, render_layered])
@pytest.mark.parametrize("aperture", [disk(), polygon(6)], ids=["disk", "hexagon"])
def test_renderers_of_images(render: Any, aperture: Any, facts: dict[str, Any]) -> None:
    def rendered(image: Tensor, disparity: Tensor) -> Tensor:
        return in_linear_light(
            lambda linear: render(
                linear,
                disparity,
                focus_disparity=1.0,
                strength=BlurStrength(6.0, *disparity.shape),
                aperture=aperture,
            ),
            image,
            "srgb",
        )

    agree(rendered, facts["aif"][:, 8:48, 8:48], facts["disparity"][8:48, 8:48])


def test_renderers_of_scenes() -> None:
    scene = procedural_scene(3, 40, 40, margin=8)

    def seen(*canvases: Tensor) -> Tensor:
        layers = [replace(x, rgba=c) for x, c in zip(scene.layers, canvases, strict=True)]
        placed = Scene(tuple(layers), 40, 40, scene.margin)
        sharp, disparity = scene_aif(placed), scene_disparity(placed)
        blurred = render_lens(
            placed,
            focus_disparity=float(disparity.median()),
            strength=BlurStrength(3.0, 40, 40),
            positions=disk().positions(16),
        )
        return torch.cat([sharp, blurred, disparity[None]])

    agree(seen, *(layer.rgba for layer in scene.layers))


def test_methods_of_the_benchmark(facts: dict[str, Any]) -> None:
    def answers(aif: Tensor, target: Tensor, disparity: Tensor) -> Tensor:
        strength = facts["strength"]
        case = Case("bokeh", "a", aif, target, aif, disparity, 1.05, strength)
        blurry = Case("deblur", "b", target, aif)
        found = [method(case) for method in (Identity(), Classical())]
        return torch.stack([*found, Unsharp.fitted([blurry])(blurry)])

    agree(answers, facts["aif"], facts["target"], facts["disparity"])


# Metrics.


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str, facts: dict[str, Any]) -> None:
    info = METRICS[name]
    if (reason := info.available()) is not None:
        pytest.skip(reason)

    def measured(pred: Tensor, *given: Any) -> float:
        return info(pred, **dict(zip(sorted(info.needs), given, strict=True)))

    needed = [facts[need] for need in sorted(info.needs)]
    expected, found = both(measured, facts["aif"], *needed)
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_sweep(facts: dict[str, Any]) -> None:
    def measured(images: Tensor) -> Tensor:
        metric = Tally(lvcorr_of_images).to(images.device)
        metric.update(images)
        return metric.compute().mean

    agree(measured, torch.stack([facts["aif"] * s for s in (1.0, 0.8, 0.5, 0.3)])[None])


# K search and light fields.


def test_k_search(facts: dict[str, Any]) -> None:
    truth = 4.0

    def found(aif: Tensor, disparity: Tensor) -> float:
        def photo(k: float) -> Tensor:
            strength = BlurStrength(k, *disparity.shape)
            return Classical()(Case("bokeh", "a", aif, aif, aif, disparity, 1.05, strength))

        target = photo(truth)
        low, high = KRange(0.5 / SIZE, 12 / SIZE, 10).bounds(disparity, 1.05)
        score = lambda k: float(ssim(photo(k)[None], target[None]))  # noqa: E731
        return search_k(score, low=low, high=high, budget=10).k

    on_cpu, on_cuda = both(found, facts["aif"], facts["disparity"])
    assert on_cuda == on_cpu and math.isclose(on_cpu, truth, rel_tol=0.2)


def test_light_fields() -> None:
    field = simulate(2, size=64, grid=3).field

    def built(views: Tensor) -> Tensor:
        placed = replace(field, views=views)
        disparity = estimate_disparity(placed, low=0.0, high=4.0)
        photographs = [
            refocus(
                placed,
                focus=1.0,
                radius=0.9,
                aperture=disk(),
                disparity=disparity,
                between=between,
                count=4,
            )
            for between in ("warped", "linear", "nearest")
        ]
        return torch.cat([*photographs, disparity[None]])

    agree(built, field.views)


def test_the_instrument_names_the_line() -> None:
    with fake_cuda() as gpu:
        metric = Tally(lvcorr_of_images).to("cuda")
        metric.update(torch.rand(1, 4, 3, 8, 8).to("cuda"))
        metric.compute()
        assert isinstance(gpu, FakeCuda)
    assert any("src/genrefocus/metrics/tally.py:" in one for one in gpu.syncs)
