"""The whole scheme in a few steps: stages, figures, images, trackers, evaluation, ablation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.backbone.lora import read_lora
from genrefocus.benchmark.results import read_results
from genrefocus.cli import main
from genrefocus.cli.verify_resume import finish
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.sets import build_embedded
from tests.warm import python

pytestmark = pytest.mark.slow
STAGES = ("deblurnet", "bokehnet_synthetic", "bokehnet_semi_supervised", "bokehnet_shape")
CURRICULUM = f"curriculum=[{','.join([*STAGES[:2], 'in_the_wild', *STAGES[2:]])}]"


@pytest.fixture(scope="module")
def overrides(tiny_training: list[str]) -> list[str]:
    kept = [one for one in tiny_training if not one.startswith(("experiment=", "stages."))]
    ranks = [f"stages.{name}.module.rank=4" for name in STAGES]
    return [*kept, *ranks, "debug=limit", "data.long_edge=48", "~callbacks.progress"]


@pytest.fixture(scope="module")
def run(overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("scheme") / "outputs"
    told = "stages.deblurnet.module.told=0.5"
    finish(["experiment=semi_supervised", CURRICULUM, "logger=wandb", told, *overrides], outputs)
    (folder,) = (outputs / "semi_supervised").iterdir()
    return folder


def summary(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "summary.json").read_text())


def test_every_stage_leaves_its_figures_and_its_network(run: Path) -> None:
    for stage in STAGES:
        found = summary(run, stage)
        assert found["steps"] == 4 and found["samples_per_second"] > 0 and found["seconds"] > 0
        assert (run / found["lora"]).is_file() and found["dataset"] and found["git_commit"]
    results = read_results(run / "benchmark")
    deblur = ["unsharp", "base", "deblurnet", "deblurnet_told"]
    assert results.methods("deblur", "test") == ["identity", *deblur]
    bokeh = ["classical_scatter", "base", *STAGES[1:]]
    assert results.methods("bokeh", "test") == ["identity", *bokeh]
    assert results.methods("bokeh", "control") == [*bokeh, "ground_truth"]
    assert results.methods("bokeh", "shapes") == ["identity", *bokeh, "ground_truth"]
    classical = ["classical_scatter", "unsharp_scatter"]
    chains = ["chain", "chain_told"]
    assert results.methods("refocus", "test") == ["identity", *classical, *chains]
    for (task, dataset), some in results.figures.groupby(["task", "dataset"]):
        expected = {"lvcorr"} if dataset == "control" else {"psnr", "ssim"}
        assert expected <= set(some["metric"]), task
        assert some[some["metric"].isin(expected)]["failure"].isna().all()
    made = {path.name for path in (run / "benchmark/images/refocus/test").iterdir()}
    assert {f"{name}_deblurred" for name in chains} < made
    assert Image.open(run / "benchmark/refocus-test.png").width > 8 * 192  # with these
    assert Image.open(run / "benchmark/deblur-test.png").width > 5 * 192  # with baselines
    assert json.loads((run / "result.json").read_text())["stage"] == STAGES[-1]


def test_photographs_are_trained_on_with_what_the_first_stage_made_of_them(run: Path) -> None:
    counts = summary(run, "in_the_wild")["photographs"]
    assert counts["found"] == sum(counts["written"].values()) + sum(counts["rejected"].values())
    shards = ShardDataset(run / "in_the_wild" / "shards" / "train")
    assert shards[0].route == "in_the_wild" and shards[0].strength.k > 0
    assert shards[0].provenance["deblur"] == "told"
    trained = summary(run, "bokehnet_semi_supervised")["dataset"]
    assert shards.fingerprint in trained.values()
    cards = [
        json.loads((run / stage / "network.json").read_text()) for stage in (STAGES[0], STAGES[-2])
    ]
    assert [card["depth"] for card in cards] == [None, "sidecar depth"]


def test_the_second_lora_lies_beside_the_first_which_is_as_it_was(run: Path) -> None:
    folder, frozen = run / STAGES[-1], run / STAGES[-2] / "bokehNet.safetensors"
    assert (folder / frozen.name).read_bytes() == frozen.read_bytes()
    card = json.loads((folder / "network.json").read_text())
    assert (card["lora"], card["shape_lora"]) == (frozen.name, "apertureShape.safetensors")
    learnt = read_lora(folder / card["shape_lora"])
    assert any(b.any() for name, b in learnt.items() if ".lora_B." in name)
    assert list((folder / "snapshots").glob("step_*.safetensors"))


def test_photographs_prepared_by_command_are_trained_on(
    run: Path, overrides: list[str], tmp_path: Path
) -> None:
    """In the wild: from a folder of photographs to steps of training, with the network of a run."""
    counts = {"camera_roll": {"train": 8}}
    build_embedded(tmp_path, seed=1, counts=counts, size=32, workers=0, progress=False)
    roll, out = tmp_path / "camera_roll/train", tmp_path / "out"
    status = main(
        [
            "prepare",
            "route=in_the_wild",
            f"source.root={roll}/photos",
            f"data.estimates={roll}",
            f"deblur.run={run}",
            "route.long_edge=48",
            "splits={train: 0.5, val: 0.5, test: 0}",
            f"out={out}",
            f"paths.outputs={tmp_path}",
            "progress=false",
        ]
    )
    assert status == 0
    made = json.loads((out / "summary.json").read_text())
    assert made["found"] == 8
    assert made["set"]["parameters"]["settings"]["deblur"].startswith("deblurNet.safetensors")
    given = [
        "experiment=bokeh_semi_supervised",
        "curriculum=[bokehnet_semi_supervised]",
        f"inputs.in_the_wild={out}",
        f"inputs.bokeh_lora={run}/bokehnet_synthetic/bokehNet.safetensors",
        "logger=none",
    ]
    finish([*given, *overrides], tmp_path / "outputs")
    (folder,) = (tmp_path / "outputs/bokeh_semi_supervised").iterdir()
    trained = summary(folder, "bokehnet_semi_supervised")
    assert trained["steps"] == 4
    assert ShardDataset(out / "train").fingerprint in trained["dataset"].values()


def test_the_last_stage_starts_from_the_synthetic_one(run: Path) -> None:
    stage = (run / "bokehnet_semi_supervised" / "stage.yaml").read_text()
    assert "init_lora: <run>/bokehnet_synthetic/bokehNet.safetensors\n" in stage


def test_wandb_is_offline_without_a_key_and_keeps_the_csv(run: Path) -> None:
    for stage in STAGES:
        assert list((run / stage).glob("wandb/offline-run-*/*.wandb"))
        header = (run / stage / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
        assert {"train/loss", "val/psnr", "val/loss"} <= set(header)


def test_evaluation_finds_what_training_found(run: Path, tmp_path: Path) -> None:
    figures = read_results(run / "benchmark").figures
    lost, *kept = (run / "benchmark").glob("records/*/*/*.json")
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in kept}
    done = python("eval.py", f"run={run}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read_results(run / "benchmark").figures.equals(figures)


def test_a_photograph_goes_through_both_networks(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = (torch.rand(40, 56, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    Image.fromarray(photo.numpy()).save("photo.png")
    depth = torch.linspace(1, 4, 56).expand(40, 56)
    np.save("depth.npy", depth.numpy())
    command = ["refocus", "photo.png", "--depth", "depth.npy", "--focus", "5,5", "--k", "10"]
    assert main([*command, "-o", "out.png", "--run", str(run), "--aperture", "heart"]) == 0
    assert Image.open("out.png").size == (56, 40)


def test_direct_refocusing_under_the_published_objective(
    overrides: list[str], tmp_path: Path
) -> None:
    published = ["objective=rectified_flow", "sampling_steps=2"]
    finish(["experiment=direct_refocusing", *published, *overrides], tmp_path / "outputs")
    (folder,) = (tmp_path / "outputs" / "direct_refocusing").iterdir()
    found = json.loads((folder / "result.json").read_text())
    assert {"psnr", "lvcorr"} <= found["figures"].keys()
    assert {"identity", "classical_scatter", "base"} <= found["references"].keys()
    card = json.loads((folder / "bokehnet_synthetic" / "network.json").read_text())
    assert (card["flow"]["prediction"], card["steps"], card["variant"]) == ("velocity", 2, "direct")
