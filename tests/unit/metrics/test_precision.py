"""Every metric gives its float32 figure whatever precision the model beside it runs in."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cudnn

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.methods import Classical
from genrefocus.metrics import clip, dists, lpips, no_reference, registry
from genrefocus.metrics.aperture_shape import Light
from genrefocus.metrics.lvcorr import lvcorr_of_images
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.trunks import NETS, trunk_file
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk
from genrefocus.render.lettering import Lettering

KERNEL = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))


class Distance(nn.Module):
    """In place of networks whose weights may be missing: a convolution, which autocast rounds."""

    def __init__(self, spatial: bool = False) -> None:
        super().__init__()
        self.spatial = spatial

    def forward(self, pred: Tensor, target: Tensor | None = None, normalize: bool = True) -> Tensor:
        difference = pred if target is None else pred - target
        local = nn.functional.conv2d(difference, KERNEL, padding=2).square().mean(1, keepdim=True)
        return local if self.spatial else local.mean((1, 2, 3))


@pytest.fixture
def everything(
    tmp_path: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> registry.Mapping:
    """The registry as on a machine that has all weights, whose networks are :class:`Distance`."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    stub = ModuleType("pyiqa")
    stub.__spec__ = ModuleSpec("pyiqa", None)
    monkeypatch.setitem(sys.modules, "pyiqa", stub)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0")
    cached = lambda model, name: str(clip_folder / name)  # noqa: E731
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    for file in (
        *(trunk_file(net) for net in NETS),
        *(tmp_path / "hub" / x for one in no_reference.NETWORKS.values() for x in one.files),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(lpips, "_network", lambda *given: Distance(spatial=given[-1]))
    for module in (dists, no_reference):
        monkeypatch.setattr(module, "_network", lambda *_: Distance())
    return registry.METRICS


def case() -> dict:
    """A square in focus before a wall, rendered with too little blur against the right one."""
    coarse = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    wall, front = nn.functional.interpolate(coarse, (96, 96), mode="bilinear")
    near = torch.zeros(96, 96, dtype=torch.bool)
    near[24:72, 24:72] = True
    aif = torch.where(near, 0.5 + 0.5 * front, 0.5 * wall)
    disparity = torch.where(near, 1.0, 0.2) + 0.1 * torch.linspace(0, 1, 96)
    pred, target = (
        Classical()(Case("bokeh", "a", aif, aif, aif, disparity, 1.05, BlurStrength(k, 96, 96)))
        for k in (3.0, 5.0)
    )
    return {
        "pred": pred.clamp(0, 1),
        "target": target.clamp(0, 1),
        "aif": aif,
        "disparity": disparity,
        "focus_disparity": 1.05,
        "strength": BlurStrength(5.0, 96, 96),
        "lettering": Lettering("ANY", 30, 30, 10),
        "aperture": disk(),
        "lights": [Light(12.0, 12.0, 0.2)],
    }


def figures(found: registry.Mapping, facts: dict) -> dict[str, float]:
    pred, target = facts["pred"], facts["target"]
    values = {
        name: info(pred, **{need: facts[need] for need in info.needs})
        for name, info in found.items()
    }
    series = torch.stack([pred, target, facts["aif"], pred.flip(-1)])
    values["lvcorr"] = float(lvcorr_of_images(series[None]))
    return values


def test_a_metric_does_not_depend_on_autocast_nor_on_the_dtype_of_its_images(everything):
    half = {
        key: value.bfloat16() if isinstance(value, Tensor) else value
        for key, value in case().items()
    }
    same = {key: x.float() if isinstance(x, Tensor) else x for key, x in half.items()}
    expected = figures(everything, same)
    assert sum(value == value for value in expected.values()) > 20, "most can be measured"
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = figures(registry.METRICS, same)
    assert under_autocast == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    of_half = figures(registry.METRICS, half)
    assert of_half == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_neither_convolutions_nor_products_are_rounded_and_settings_come_back():
    @in_float32
    def settings(_: Tensor) -> tuple[bool, str]:
        return cudnn.allow_tf32, torch.get_float32_matmul_precision()

    try:
        torch.set_float32_matmul_precision("medium")
        assert settings(torch.zeros(1)) == (False, "highest")
        assert (cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "medium")
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_clip_stored_in_half_precision_computes_in_float32(clip_folder, tmp_path):
    from transformers import CLIPModel

    for file in clip_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").unlink()
    CLIPModel.from_pretrained(clip_folder).half().save_pretrained(tmp_path)
    network = clip._load(tmp_path, torch.device("cpu")).network
    assert {x.dtype for x in network.parameters()} == {torch.float32}
