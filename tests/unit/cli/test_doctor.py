"""``genrefocus doctor`` finds what it says and names what mends it."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.cli import main
from genrefocus.configuration.composing import compose_training
from genrefocus.data.sample import Sample
from genrefocus.data.shards import write_set
from genrefocus.preflight.files import (
    Finding,
    check_flux,
    check_shards,
    check_sidecars,
    check_sizes,
)
from genrefocus.preflight.inputs import find_data, find_parts
from genrefocus.preflight.memory import check_lora, check_main_memory, check_memory


def test_a_transformer_with_other_names_is_an_error() -> None:
    assert check_lora(torch.nn.Linear(2, 2), FLUX_DEV_CONFIG).verdict == "error"


def test_too_few_samples_too_many_workers_and_absent_maps_are_found(tmp_path: Path) -> None:
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    samples = (Sample(f"s{number}", "deblur", "train", image, image) for number in range(15))
    write_set(tmp_path / "train", samples, parameters={}, samples_per_shard=15)

    def found(*overrides: str) -> list[Finding]:
        given = ["experiment=deblur", f"data.deblur={tmp_path}", "global_batch=16", *overrides]
        return list(find_data(compose_training(given)))

    few, workers = found("data.num_workers=1000")[-2:]
    assert few.subject == "deblurnet: route deblur" and "fewer than the 16" in few.detail
    assert workers.subject == "deblurnet: workers" and "data.num_workers=" in workers.remedy
    (enough,) = (one for one in found("global_batch=15") if one.subject == "deblurnet: samples")
    assert enough.verdict == "ok" and enough.detail == "deblur 15; 15 samples a step"
    # These state neither depth nor K, so that there is nothing that a network could be told.
    blind = [x for x in found("stages.deblurnet.module.told=0.5") if "told" in x.subject]
    assert [x.verdict for x in blind] == ["error"]


@pytest.mark.parametrize(
    ("option", "package"),
    [
        ("optimizer=adamw_8bit", "bitsandbytes"),
        ("backbone.quantise=nf4", "bitsandbytes"),
        ("backbone.quantise=fp8", "torchao"),
    ],
)
def test_a_package_of_an_extra_that_is_not_there(
    option: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (found,) = find_parts(compose_training(["experiment=deblur", option]))
    assert found.verdict == "error"
    assert f"{package} is not installed" in found.detail
    assert found.remedy == "pip install -e '.[quantise]'"


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    (found,) = find_parts(compose_training(["experiment=deblur", "backbone.compile=true"]))
    assert (found.subject, found.verdict) == ("backbone.compile", "error")


def test_memory_is_compared_with_what_is_there() -> None:
    said = {"how": "a stage", "where": "x", "remedy": "r"}
    assert check_memory(2, 1, **said).verdict == "warning"
    assert check_memory(0.95, 1, **said).verdict == "warning"  # a tenth is left
    assert check_memory(0.9, 1, **said).verdict == "ok"
    assert check_main_memory(base=9, text=2, available=2).verdict == "ok", "the base is mapped"
    assert check_main_memory(base=9, text=2, available=1).verdict == "warning"
    assert check_main_memory(base=9, text=2, available=5, quantised=4).verdict == "warning"


def test_what_is_smaller_than_the_crop_is_found_beforehand(tmp_path: Path) -> None:
    (tmp_path / "trip").mkdir()
    for name, size in {"a.jpg": (1000, 600), "trip/b.png": (600, 1000), "c.jpg": (96, 64)}.items():
        Image.new("RGB", size).save(tmp_path / name)
    (tmp_path / "d.jpg").write_bytes(b"no image")
    assert check_sizes(tmp_path, long_edge=1000, least_edge=64) == []
    (found,) = check_sizes(tmp_path, long_edge=500, least_edge=300)
    assert found.verdict == "warning" and found.remedy == "data.crop=64"
    assert "1 of 3" in found.detail and "edge is 64 px at" in found.detail
    (found,) = check_sizes(tmp_path, long_edge=500, least_edge=301)
    assert found.verdict == "error" and "64 to 300 px" in found.detail
    assert found.remedy == "data.long_edge=502, or data.crop=64"
    (found,) = check_sizes(tmp_path, long_edge=502, least_edge=301)
    assert "1 of 3" in found.detail

    images = [torch.zeros(3, edge, 50, dtype=torch.uint8) for edge in (40, 33, 48)]
    samples = [Sample(f"s{n}", "deblur", "train", one, one) for n, one in enumerate(images)]
    write_set(tmp_path / "set", samples, parameters={}, samples_per_shard=2)
    finding, count = check_shards(tmp_path / "set", crop=33, made_by=None, option="data.deblur")
    assert (finding.verdict, count) == ("ok", 3)
    finding, _ = check_shards(tmp_path / "set", crop=34, made_by=None, option="data.deblur")
    assert finding.verdict == "error" and "33 px, below the crop of 34" in finding.detail
    assert finding.remedy == "data.crop=32, or data.deblur=<folder of a finished set>"


def test_only_a_validation_set_of_the_run_itself_may_be_empty(tmp_path: Path) -> None:
    """A run that goes on without one has to be continued without one."""
    for split in ("train", "val"):
        write_set(tmp_path / split, [], parameters={})
    for split, made_by, verdict in (
        ("val", "stage in_the_wild", "warning"),
        ("val", None, "error"),
        ("train", "stage in_the_wild", "error"),
    ):
        given = {"crop": 16, "made_by": made_by, "option": "inputs.in_the_wild"}
        finding, count = check_shards(tmp_path / split, **given)  # type: ignore[arg-type]
        assert (finding.verdict, count) == (verdict, 0)


def test_an_image_that_a_network_reads_is_missed_beforehand(tmp_path: Path) -> None:
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    some = [Sample(f"s{n}", "synthetic", "train", image, image) for n in range(2)]
    write_set(tmp_path / "plain", some, parameters={})
    blurry = [replace(one, extras={"blurry": image}) for one in some]
    write_set(tmp_path / "blurry", blurry, parameters={})

    def verdict(folder: str, reads: str | None, made_by: str | None = None) -> str:
        given = {"crop": 16, "made_by": made_by, "option": "data.synthetic", "reads": reads}
        return check_shards(tmp_path / folder, **given)[0].verdict  # type: ignore[arg-type]

    assert [verdict("plain", one) for one in (None, "blurry")] == ["ok", "error"]
    assert [verdict("blurry", one) for one in (None, "blurry")] == ["ok", "ok"]
    assert verdict("none", "blurry", "the first run") == "ok"
    assert verdict("none", "blurry", "stage in_the_wild") == "error"


@pytest.mark.parametrize("given", ["direct=true", "direct=false"])
def test_folders_and_files_of_a_stage_alone(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Inputs are given, which a run would have in its own folder."""
    stage = f"stages.bokehnet_semi_supervised.module.{given}"
    main(["doctor", "experiment=bokeh_semi_supervised", "inputs.bokeh_lora=/nowhere", stage])
    printed = capsys.readouterr().out
    lora = "bokehnet_semi_supervised: LoRA: /nowhere does not exist\n  inputs.bokeh_lora=<file>\n"
    assert lora in printed
    assert ("in_the_wild=<folder of a finished set>" in printed) == (given == "direct=true")


def test_missing_estimates_are_named_with_the_way_out(tmp_path: Path) -> None:
    photos = {name: tmp_path / name for name in ("a.jpg", "trip/b.jpg")}
    (tmp_path / "a.png").touch()
    (found,) = check_sidecars(photos, tmp_path, "mask", by_exif=False)
    assert "1 of 2" in found.detail and f"{tmp_path}/trip/b.png is needed" in found.detail
    assert found.remedy.startswith("data.estimates=<folder that holds mask/>, or mask.folder=")
    assert "or mask=detail_retention, or mask=onnx mask.file=<ONNX file>" in found.remedy
    assert check_sidecars(photos, tmp_path, "mask", by_exif=True) == []  # EXIF rejects it first


def test_every_file_of_a_flux_folder_is_looked_for(tmp_path: Path) -> None:
    shards = {
        "transformer": ("diffusion_pytorch_model", 3),
        "vae": ("diffusion_pytorch_model", 1),
        "text_encoder": ("model", 1),
        "text_encoder_2": ("model", 2),
    }
    files = ["scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    files += ["tokenizer_2/spiece.model", *(f"{part}/config.json" for part in shards)]
    for part, (stem, count) in shards.items():
        names = [f"{stem}-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        names = names if count > 1 else [f"{stem}.safetensors"]
        files += [f"{part}/{name}" for name in names]
        if count > 1:
            index = {"metadata": {"total_size": 8 * count}, "weight_map": dict(enumerate(names))}
            (tmp_path / part).mkdir()
            (tmp_path / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(8))
    assert check_flux(str(tmp_path)).verdict == "ok"
    for name in files:
        (tmp_path / name).unlink()
        found = check_flux(str(tmp_path))
        assert found.verdict == "error" and found.detail == f"{tmp_path} lacks {name}"
        (tmp_path / name).write_bytes(bytes(8))
    (tmp_path / files[-1]).write_bytes(bytes(7))
    assert "a part of text_encoder_2" in check_flux(str(tmp_path)).detail
    absent = check_flux(str(tmp_path / "absent"))
    assert absent.verdict == "error" and absent.detail == f"{tmp_path / 'absent'} does not exist"
    assert absent.remedy.startswith("backbone.path=")


@pytest.mark.parametrize(
    "given",
    [
        "learning_rate=abc",
        "seed=4294967296",
        "global_batch=0",
        "mix.synthetic=-0.1",
        "val_samples=0",
        "data.long_edge=0",
        "stages.deblurnet.fit.max_steps=0",
        "+backbone.checkpointing=0",
        "+backbone.checkpointing=some",
        "stages.deblurnet.fit.val_check_interval=0",
    ],
)
def test_values_out_of_bounds(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["experiment=deblur", "mix={synthetic: 1.0}", given]
    assert main(["doctor", *overrides]) == 1
    assert f"{given.lstrip('+')}: give" in capsys.readouterr().out


@pytest.fixture
def four_blocks(resize_flux: Callable[[dict[str, Any]], None]) -> None:
    """FLUX.1-dev with few of its blocks, which are counted in a few seconds."""
    resize_flux({"num_layers": 1, "num_single_layers": 3})


@pytest.mark.usefixtures("four_blocks")
def test_missing_values_do_not_hide_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["scale=paper", "data.photos=/nowhere", "gpu_memory=80", "tflops=400"]
    assert main(["doctor", *given]) == 1
    printed = capsys.readouterr().out
    for key in ("data.deblur", "data.synthetic", "data.sweep", "data.estimates"):
        assert f"{key}: semi_supervised needs it, and it is not given\n  {key}=...\n" in printed
    assert "the GPU has 80.0 GiB" in printed and "as many network passes as training" in printed
    assert "hours without validation at 400 TFLOP/s on each of 1\n" in printed
    assert "None" not in printed


def test_memory_of_training_on_a_stated_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At full size: bytes and FLOPs that are known of 12 billion parameters in bf16."""
    given = ["scale=paper", "experiment=deblur", "trainer=gpu", f"backbone.path={tmp_path}"]
    given += [f"paths.outputs='{tmp_path}/[x]'", f"data.deblur='{tmp_path}/[y]'"]
    main(["doctor", *given, "gpu_memory=80"])
    printed = capsys.readouterr().out
    assert "343 modules" in printed and "the GPU has 80.0 GiB" in printed
    assert "memory: 49.7 GiB for deblurnet with checkpointing=none; the GPU has 80.0" in printed
    rows = dict(re.findall(r"^(\w.*?)  +(\S+)(?: GiB)?$", printed, re.MULTILINE))
    parts = {"base": "22.3", "LoRA": "1.7", "optimiser": "3.5", "activations": "18.7"}
    assert rows.items() >= (parts | {"TFLOP a step": "2770", "steps": "60000"}).items()
    # A path is in one line, however narrow the terminal is.
    assert f"error    shards {tmp_path}/[y]/train: " in printed
    assert "  data.deblur=<folder of a finished set>\n" in printed


@pytest.mark.usefixtures("four_blocks")
def test_what_mends_memory_that_is_too_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["scale=paper", "experiment=deblur", "trainer=gpu", f"backbone.path={tmp_path}"]

    def mended(*more: str) -> str:
        main(["doctor", *given, *more])
        return capsys.readouterr().out

    assert "tensors\n  backbone.quantise=int8\n" in mended("gpu_memory=2")
    assert "tensors\n  backbone.checkpointing=auto\n" in mended(
        "gpu_memory=2", "backbone.checkpointing=4"
    )
    if find_spec("torchao"):
        assert "nf4, or stages.deblurnet.module.rank=64\n" in mended(
            "gpu_memory=1.2", "backbone.quantise=int8"
        )
        assert "tensors\n  trainer=fsdp trainer.devices=<several>" in mended(
            "gpu_memory=0.5", "backbone.quantise=int8"
        )
    for wrong, example in {"gpu_memory=large": "gpu_memory=80", "tflops=0": "tflops=400"}.items():
        assert main(["doctor", *given, wrong]) == 2
        assert f"{wrong}: give a number above 0, such as {example}" in capsys.readouterr().err


@pytest.fixture
def base(tmp_path: Path, tiny_settings: dict[str, Any]) -> str:
    path = tmp_path / "base.safetensors"
    save_tiny(build_tiny(**tiny_settings), path, settings=tiny_settings, card={})
    return f"backbone.path={path}"


@pytest.mark.usefixtures("four_blocks")
def test_command_on_a_machine_without_data(
    base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [base, f"paths.data={tmp_path}/data", f"paths.outputs={tmp_path}/outputs"]
    assert main(["doctor", *given]) == 0
    printed = capsys.readouterr().out
    assert "13 modules" in printed and "will be made by stage in_the_wild" in printed

    cases = {
        "data.build=null": "data.deblur=<folder of a finished set>",
        "backbone.path=/nowhere": "backbone.path=<weights",
        "experiment=bokeh_semi_supervised": "inputs.bokeh_lora=<file>",
        "data.photos=/nowhere": "data.photos=<folder>",
        "nonsense=1": "python train.py --cfg job",
        "backbone=flux_dev": "backbone.path=<folder of FLUX.1-dev>",
        "stages.deblurnet.module.nonsense._target_=no.such": "stages.deblurnet",
    }
    for override, remedy in cases.items():
        plus = "+" if "module.nonsense" in override else ""
        own = given[1:] if override.startswith("backbone=") else given
        assert main(["doctor", *own, plus + override]) == 1, override
        printed = capsys.readouterr().out
        assert "error" in printed and remedy in printed, printed
    assert not (tmp_path / "outputs").exists()
