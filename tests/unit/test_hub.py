"""Folders for the Hub: what is saved is loaded again, under the names that other code looks for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from huggingface_hub import HfApi, ModelCard
from torch import Tensor

from genrefocus import hub
from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.cli import main
from genrefocus.flow import Flow
from genrefocus.network_card import (
    BackboneSource,
    NetworkCard,
    networks_of,
    write_network_card,
)
from genrefocus.optics import BlurStrength
from genrefocus.pipeline import RefocusPipeline, load_pipeline
from genrefocus.render.apertures import heart

MakeCard = Callable[..., NetworkCard]
PROTOCOL = "ab" * 32


@pytest.fixture
def run(
    tmp_path: Path, tiny_settings: dict[str, Any], tiny_card: MakeCard, random_lora: Any
) -> Path:
    """A run of two stages, with data and figures."""
    base, run = tmp_path / "weights" / "base.safetensors", tmp_path / "run"
    base.parent.mkdir()
    backbone = build_tiny(**tiny_settings)
    save_tiny(backbone, base, settings=tiny_settings, card={})
    for seed, task in enumerate(("deblur", "bokeh")):
        folder = run / f"{task}net"
        folder.mkdir(parents=True)
        random_lora(backbone.transformer, 2, seed).save(folder / "lora.safetensors")
        card = tiny_card(task, base)
        if task == "bokeh":  # with a second LoRA
            random_lora(backbone.transformer, 2, 5).save(folder / "apertureShape.safetensors")
            depth = "net.onnx, relative_disparity, assumed from 1 to 9 m"
            card = replace(card, depth=depth, shape_lora="apertureShape.safetensors")
        write_network_card(folder, card)
        summary = {"steps": 7, "git_commit": "0123", "dataset": {f"{task}/train": "f00d"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    (run / "benchmark").mkdir()
    figure = {"task": "deblur", "dataset": "test", "metric": "psnr", "n": 96, "part": None}
    figure |= {"low": 26.0, "high": 28.0, "failures": 0, "protocol": PROTOCOL}
    records = [{**figure, "method": m, "mean": 27.0} for m in ("identity", "deblurnet")]
    (run / "benchmark" / "results.json").write_text(json.dumps(records))
    (run / "benchmark" / "tables.md").write_text("### deblur on test\n| a table |\n")
    return run


def answer(pipeline: RefocusPipeline) -> Tensor:
    photo = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))
    disparity = torch.linspace(0, 1, 24).expand(16, 24)
    scene = pipeline.prepare(photo, focus=(3, 3), disparity=disparity)
    return pipeline.refocus(scene, BlurStrength(2.0, 16, 24), aperture=heart()).image


def test_a_saved_pipeline_answers_the_same_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(networks_of(run), run, deblur_prompt="a sign", steps=1)
    pipeline.save_pretrained(tmp_path / "saved")
    expected = answer(pipeline)
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "weights")
    # As the Hub's cache has it.
    cache = tmp_path / "cache" / "models--someone--refocus"
    shutil.move(tmp_path / "saved", cache / "snapshots" / "0123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123")
    loaded = RefocusPipeline.from_pretrained(
        "someone/refocus", cache_dir=cache.parent, local_files_only=True
    )
    assert loaded.deblur is not None and loaded.deblur.prompt == "a sign"
    assert torch.equal(answer(loaded), expected)
    with pytest.raises(ValueError, match="condition images alone.*no merged weight does the same"):
        loaded.fuse_lora()


def test_the_card_has_data_and_figures_and_goes_along(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    (result,) = card.data.eval_results
    assert (result.dataset_config, result.metric_value) == ("deblur", 27.0)
    assert result.dataset_args == {"protocol": PROTOCOL, "n": 96}
    mixed = str(shutil.copytree(run / "deblurnet", tmp_path / "other" / "deblurnet").parent)
    assert main(["export", str(run), mixed, str(tmp_path / "mixed")]) == 0
    figures = ModelCard.load(tmp_path / "mixed" / "README.md").data.eval_results
    assert not figures  # of another DeblurNet than this
    depth = "Depth of BokehNet's training data: net.onnx, relative_disparity, assumed from 1 to 9 m"
    parts = (
        "| a table |",
        "deblur/train: `f00d`",
        "7 steps, code 0123",
        "not on FLUX.1-dev",
        depth,
    )
    assert all(part in card.text for part in parts) and "Depth of DeblurNet" not in card.text
    pushed = {}

    def upload(self: Any, *, folder_path: Path, **_: Any) -> str:
        pushed.update({file.name: file.read_bytes() for file in folder_path.iterdir()})
        return "url"

    named = type("Url", (), {"repo_id": "someone/refocus"})
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: named)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    RefocusPipeline.from_pretrained(tmp_path / "out").push_to_hub("someone/refocus")
    assert pushed.keys() == {file.name for file in (tmp_path / "out").iterdir()}
    assert pushed["README.md"] == (tmp_path / "out" / "README.md").read_bytes()


@pytest.fixture
def flux_run(tmp_path: Path, tiny_flux: Any, random_lora: Any) -> Path:
    """A run on FLUX whose DeblurNet is of the pre-deblur variant."""
    run = tmp_path / "flux_run"
    for task, variant in (("deblur", "pre_deblur"), ("bokeh", "standard")):
        (run / task).mkdir(parents=True)
        random_lora(tiny_flux()).save(run / task / f"{task}Net.safetensors")
        source, lora = BackboneSource("flux_dev", str(tmp_path)), f"{task}Net.safetensors"
        card = NetworkCard(task, source, Flow(), "a photo", 1.0, 28, 4, lora, variant)  # type: ignore[arg-type]
        write_network_card(run / task, card)
    return run


def test_files_have_the_names_and_keys_that_released_code_loads(
    flux_run: Path, tmp_path: Path, tiny_flux: Any
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(flux_run), str(out)]) == 0
    names = {"deblurNet_with_pre_deblur.safetensors": "deblurring", "bokehNet.safetensors": "bokeh"}
    assert {file.name for file in out.glob("*.safetensors")} == names.keys()
    transformer = tiny_flux()
    for name, adapter in names.items():  # what FluxPipeline.load_lora_weights does
        state = FluxPipeline.lora_state_dict(out, weight_name=name)
        transformer.load_lora_adapter(state, prefix="transformer", adapter_name=adapter)
    carrying = [m for m in transformer.modules() if "bokeh" in getattr(m, "scaling", {})]
    assert len(carrying) == 2 * 6 + 2 * 6 + 1
    assert all(m.scaling == {"deblurring": 1.0, "bokeh": 1.0} for m in carrying)
    card = ModelCard.load(out / "README.md")
    assert card.data.base_model == hub.FLUX and "authors' demo" in card.text
    assert str(tmp_path) not in "".join(file.read_text() for file in out.glob("*.json"))


def test_released_files_need_no_cards(
    flux_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, NetworkCard] = {}
    monkeypatch.setattr(hub, "load_networks", lambda cards, **_: given.update(cards) or cards)
    for task in ("deblur", "bokeh"):
        shutil.copy(flux_run / task / f"{task}Net.safetensors", tmp_path)
    RefocusPipeline.from_pretrained(tmp_path, flux="/models/FLUX.1-dev")
    assert [given[task].guidance for task in ("deblur", "bokeh")] == [3.5, 1.0]
    assert {card.backbone.path for card in given.values()} == {"/models/FLUX.1-dev"}
    (tmp_path / "bokehNet.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no bokehNet\.safetensors"):
        RefocusPipeline.from_pretrained(tmp_path)


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "out")
    for arguments, message in (
        ([str(run), out, "--merge"], "--merge: the LoRA acts on the tokens of condition images"),
        ([str(run), str(run)], "is not empty; name a new folder"),
        ([str(run / "benchmark"), out], "has no network"),
        ([str(run), out, "--results", out], "has no results.json"),
    ):
        assert main(["export", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not Path(out).exists()
    made = load_pipeline(networks_of(run), run)
    with pytest.raises(ValueError, match="not loaded from files"):
        RefocusPipeline(None, replace(made.bokeh, card=None)).save_pretrained(out)
