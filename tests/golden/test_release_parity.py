"""Our forward and denoising loop against golden tensors of the authors' inference code.

The files were made with the released forward (Genfocus, commit 54752a1, Apache-2.0) on tiny random
FLUX transformers in fp32. A test that only passes proves little, so the known mistakes are made on
purpose as well, and each must show.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genrefocus import denoiser
from genrefocus.backbone import (
    Backbone,
    Branch,
    TextEmbedding,
    branches,
    multi_condition_forward,
)
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.lora import lora_from_state, low_rank
from genrefocus.backbone.spelling import HashedWords
from genrefocus.cli import main
from genrefocus.compat import TOLERANCE, relative_error
from genrefocus.denoiser import ConditionTokens, Denoiser, Latents
from genrefocus.flow import Flow, Shift
from genrefocus.sampling import Tiling

FOLDER = Path(__file__).parent / "compat"
FILES = sorted(FOLDER.glob("*.safetensors"))
BOKEH = FOLDER / "forward_bokeh_two_conditions.safetensors"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_released_output(path):
    assert relative_error(path) < TOLERANCE


def test_every_golden_file_is_here():
    assert len(FILES) == 6


# What the forward must not do, with the error that the files' notes give for each mistake.


def metadata_of(path):
    with safe_open(path, "pt") as handle:
        return handle.metadata()


@pytest.fixture
def error():
    """Relative error of the two-condition forward, with one rule broken on request."""
    t = load_file(BOKEH)
    transformer = FluxTransformer2DModel(**json.loads(metadata_of(BOKEH)["config"])).eval()
    transformer.load_state_dict(
        {key.removeprefix("base."): t[key] for key in t if key.startswith("base.")}
    )
    released = {key: t[key] for key in t if key.startswith("transformer.")}
    lora = lora_from_state(released, transformer, source=str(BOKEH))

    @torch.no_grad()
    def run(*, condition_timestep=0.0, condition_guidance=1.0, lora=lora):
        image = Branch(t["hidden"], t["img_ids"], t["timestep"], t["guidance"])
        at = torch.full_like(t["timestep"], condition_timestep)
        guidance = torch.full_like(t["timestep"], condition_guidance)
        conditions = [
            Branch(t[name], t[f"{name}_ids"], at, guidance) for name in ("cond0", "cond1")
        ]
        ours = multi_condition_forward(
            transformer, t["text"], t["pooled"], image, conditions, lora=lora
        )
        return float((ours - t["expected"]).norm() / t["expected"].norm())

    return run


def test_nothing_broken(error):
    assert error() < TOLERANCE


def test_conditions_that_see_each_other_show(error, monkeypatch):
    def whole(layout):
        return [(layout.text + sum(layout.lengths), [slice(None)])]

    monkeypatch.setattr(branches._Layout, "visibility", whole)
    assert error() == pytest.approx(3e-3, rel=0.5)


def test_lora_on_the_noisy_image_shows(error, monkeypatch):
    layout = branches._Layout

    def from_the_first(self, module, x, name, lengths, last=False):
        first = lengths[0] - (self.lengths[0] if x.shape[1] > len(self.lengths) else 1)
        y = module(x)
        [(_, _, pairs)] = self.lora
        delta = low_rank(x[:, first:], *pairs[name])
        return torch.cat([y[:, :first], y[:, first:] + delta], 1)

    monkeypatch.setattr(layout, "_with_lora", from_the_first)
    assert error() == pytest.approx(0.2, rel=0.5)


def test_a_condition_timestep_other_than_zero_shows(error):
    assert error(condition_timestep=0.5) == pytest.approx(0.08, rel=0.5)


def test_the_noisy_images_guidance_on_a_condition_shows(error):
    assert error(condition_guidance=3.5) > 10 * TOLERANCE


def test_missing_lora_shows(error):
    assert error(lora=None) > 100 * TOLERANCE


@pytest.mark.parametrize(("ids", "same"), [("shifted", True), ("released", False)])
def test_the_draft_lies_beside_the_image_in_training_and_in_tiles(ids, same, monkeypatch):
    """Loss, and a step of a tile, from the released forward; the release drops the shift in it."""
    path = FOLDER / "forward_deblur_with_pre_deblur.safetensors"
    t, grid = load_file(path), (5, 7)
    transformer = FluxTransformer2DModel(**json.loads(metadata_of(path)["config"])).eval()
    transformer.load_state_dict({k[5:]: v for k, v in t.items() if k.startswith("base.")})
    released = {k: v for k, v in t.items() if k.startswith("transformer.")}
    lora = lora_from_state(released, transformer, source=str(path))
    monkeypatch.setattr(Tiling, "applies", lambda *_: True)
    for row in range(2):
        one = {name: t[name][row : row + 1] for name in ("hidden", "text", "pooled", "timestep")}
        sigma = float(one["timestep"])
        monkeypatch.setattr(denoiser, "schedule", lambda steps, mu, at=sigma: [at, 0.0])
        backbone = Backbone(
            *(transformer, PixelCodec(8), HashedWords(1, 1, 1)), shift=Shift(), tiling=Tiling(7, 7)
        )
        network = Denoiser(
            backbone, Flow(), lora, guidance=float(t["guidance"][row]), draft_ids=ids
        )
        text, x = TextEmbedding(one["text"], one["pooled"]), one["hidden"]
        draft, blurry = (t[name][row][None] for name in ("cond0", "cond1"))
        conditions = [ConditionTokens(draft, (0, 32)), ConditionTokens(blurry)]
        latents = Latents(text, conditions, x, x, x, grid)
        with torch.no_grad():  # towards x from x the velocity is 0, so the loss is the output's
            loss = network.loss(latents, one["timestep"])
        expected = t["expected"][row]
        torch.testing.assert_close(loss[0], expected.square().mean(), rtol=1e-4, atol=0)
        velocity = (x - network.sample_tokens(latents, 1))[0] / sigma
        gap = float((velocity - expected).norm() / expected.norm())
        assert gap < 10 * TOLERANCE if same else gap > 3e-3


@pytest.mark.parametrize(
    "change", [{"steps": "5"}, {"guidance": "1.0"}, {"height": "160", "width": "96"}], ids=str
)
def test_other_settings_of_the_loop_show(change, tmp_path):
    path = FOLDER / "sample_deblur_whole.safetensors"
    other = tmp_path / path.name
    save_file(load_file(path), other, metadata={**metadata_of(path), **change})
    assert relative_error(other) > 10 * TOLERANCE


# The command.


def test_command_reports_every_file(capsys):
    assert main(["compat", *map(str, FILES[:3])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * 3
    assert [line.split()[2] for line in lines] == [str(path) for path in FILES[:3]]
    assert all(float(line.split()[1]) < TOLERANCE for line in lines)


def test_command_fails_on_another_output(tmp_path, capsys):
    tensors = load_file(BOKEH)
    disturbed = tmp_path / "disturbed.safetensors"
    tensors["expected"] = tensors["expected"] * (1 + 4 * TOLERANCE)
    save_file(tensors, disturbed, metadata=metadata_of(BOKEH))
    assert main(["compat", str(BOKEH), str(disturbed)]) == 1
    ok, failed = capsys.readouterr().out.splitlines()
    verdict, size, file = failed.split()
    assert (ok.split()[0], verdict, file) == ("ok", "FAIL", str(disturbed))
    assert float(size) == pytest.approx(4 * TOLERANCE, rel=0.1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no tensors"), "no readable safetensors file"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "no golden file"),
        (lambda path: _without(path, "text"), "lacks 'text'"),
        (lambda path: _without(path, "base.proj_out.bias"), "do not fit"),
        (
            lambda path: _without(path, "transformer.x_embedder.lora_A.weight"),
            "transformer.x_embedder.lora_A.weight",
        ),
    ],
    ids=["missing", "no safetensors", "no golden file", "no input", "no weight", "no LoRA key"],
)
def test_command_refuses_other_files(make, says, tmp_path, capsys):
    path = tmp_path / "file.safetensors"
    make(path)
    assert main(["compat", str(BOKEH), str(path)]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("ok")  # the other files are reported all the same
    assert len(err.splitlines()) == 1 and str(path) in err and says in err


def _without(path, key):
    tensors = load_file(BOKEH)
    del tensors[key]
    save_file(tensors, path, metadata=metadata_of(BOKEH))
