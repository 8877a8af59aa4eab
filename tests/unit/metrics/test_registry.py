"""Metrics by name: each takes the facts it names, and says what is missing."""

import math
from pathlib import Path

import pytest
import torch

from genrefocus.cli import main
from genrefocus.metrics.aperture_shape import Light
from genrefocus.metrics.info import NotAvailable, file_hash
from genrefocus.metrics.lpips import lpips_available
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.registry import METRICS
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.trunks import trunk_file, trunk_hash
from genrefocus.optics import BlurStrength
from genrefocus.render.apertures import disk
from genrefocus.render.lettering import Lettering


def case() -> dict:
    """A square in focus before a wall: an all-in-focus image and facts."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 32, 32, generator=generator)
    wall, front = torch.nn.functional.interpolate(coarse, (96, 96), mode="bilinear")
    near = torch.zeros(96, 96, dtype=torch.bool)
    near[24:72, 24:72] = True
    aif = torch.where(near, 0.5 + 0.5 * front, 0.5 * wall)
    return {
        "target": torch.where(near, aif, aif.mean((1, 2), keepdim=True)),
        "aif": aif,
        "disparity": torch.where(near, 1.0, 0.2) + 0.1 * torch.linspace(0, 1, 96),
        "focus_disparity": 1.05,
        "strength": BlurStrength(5.0, 96, 96),
        "lettering": Lettering("ANY", 30, 30, 10),
        "aperture": disk(),
        "lights": [Light(12.0, 12.0, 0.2)],
    }


def test_every_available_metric_gives_a_number_for_the_facts_it_names() -> None:
    facts, measured = case(), {}
    for name, info in METRICS.items():
        assert name == info.name
        assert info.implementation
        if info.available() is None:
            value = info(facts["aif"], **{need: facts[need] for need in info.needs})
            assert isinstance(value, float)
            measured[name] = value
    assert {"psnr", "ssim", "focus_plane_error", "bleeding_near", "in_focus_ssim"} <= set(measured)
    pair = facts["aif"][None], facts["target"][None]
    assert measured["psnr"] == pytest.approx(psnr(*pair).item())
    assert measured["ssim"] == pytest.approx(ssim(*pair).item())
    assert measured["blur_radius_bias"] == pytest.approx(-measured["blur_radius_error"], abs=1e-3)
    assert 2.0 < measured["blur_radius_error"] < 4.25, "identity; 4.25 px is the most asked for"
    assert math.isnan(measured["focus_plane_error"]), "identity has no plane of focus"
    assert math.isnan(measured["blur_radius_error_16_up"]), "nothing is asked to be that blurred"
    assert measured["in_focus_psnr"] == 60.0, "identity is right where it is to be sharp"
    assert math.isnan(measured["shape_correlation"]), "no disc is large enough to tell a shape"


def test_an_output_that_is_not_finite_has_no_figure() -> None:
    facts = case()
    broken = facts["aif"] * math.nan
    for info in METRICS.values():
        if info.available() is None:
            assert math.isnan(info(broken, **{need: facts[need] for need in info.needs}))


def test_a_fact_that_is_not_known_is_named() -> None:
    image = case()["aif"]
    with pytest.raises(ValueError, match="metric psnr needs target"):
        METRICS["psnr"](image)
    with pytest.raises(ValueError, match="needs aif, disparity, focus_disparity, strength"):
        METRICS["blur_radius_bias"](image, target=image)


def test_what_is_missing_has_a_remedy_and_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    facts = case()
    for name in ("lpips", "lpips_vgg", "dists", "in_focus_lpips", "clip_i", "musiq"):
        info = METRICS[name]
        assert "not available" in info.available()
        with pytest.raises(NotAvailable):
            info(facts["aif"], **{need: facts[need] for need in info.needs})
        with pytest.raises(NotAvailable):
            info.weights()
    assert METRICS["psnr"].weights() is None


@pytest.mark.skipif(not lpips_available("alex"), reason="run `genrefocus weights`")
def test_the_hash_of_a_trunk_is_that_of_its_convolutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = METRICS["lpips"].weights()
    state = torch.load(trunk_file("alex"), weights_only=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trunk_file("alex").parent.mkdir(parents=True)
    classifier = {key: x for key, x in state.items() if not key.startswith("features.")}
    torch.save(state | {key: torch.zeros(1) for key in classifier}, trunk_file("alex"))
    assert trunk_hash("alex") == before
    state["features.0.weight"] = state["features.0.weight"] + 1e-4
    torch.save(state, trunk_file("alex"))
    assert trunk_hash("alex") != before


def test_a_hash_of_files(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    both = file_hash(tmp_path / "a", tmp_path / "b")
    assert both == hashlib.sha256(b"onetwo").hexdigest()


def test_the_command_lists_what_has_to_be_copied_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    main(["weights", "--verify-only"])
    brief = capsys.readouterr().out
    assert "--all): clip_i, musiq" in brief
    assert str(tmp_path / "hub/pyiqa") not in brief
    main(["weights", "--verify-only", "--all"])
    printed = capsys.readouterr().out
    for file in (
        "hub/pyiqa/musiq_koniq_ckpt-e95806b9.pth",
        "hub/clip/RN50.pt",
    ):
        assert str(tmp_path / file) in printed
    assert "no CLIP openai/clip" in printed
