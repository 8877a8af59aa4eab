"""``genrefocus benchmark`` as users run it: one process or several, killed and begun again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from genrefocus.benchmark.protocol import load_protocol, write_protocol
from genrefocus.benchmark.results import Results, read_results
from genrefocus.cli import main
from genrefocus.data.images import load_image, save_image
from genrefocus.metrics.psnr import psnr
from tests.warm import Python, python

pytestmark = pytest.mark.slow

CASES = 3
COUNTS = "{synthetic:{train:1,val:1,test:1},sweep:{val:1,test:1},camera_roll:{train:1}"
FILES = ("results.json", "rows.parquet", "curves.jsonl", "tables.md", "report.html")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Data sets of three scenes, which the first run makes."""
    data = tmp_path_factory.mktemp("data")
    counts = f"{COUNTS},deblur:{{train:1,val:4,test:{CASES}}}}}"
    return [
        f"paths.data={data}",
        f"+benchmark.build.embedded.make.counts={counts}",
        f"+benchmark.build.lightfields.make.count={CASES}",
        "+benchmark.build.lightfields.make.grid=5",
    ]


@pytest.fixture(scope="module")
def one_process(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "results"
    assert main(["benchmark", *settings, "run=null", f"out={out}", "workers=0"]) == 0
    return out


def command(*given: str) -> list[str]:
    return ["-m", "genrefocus.cli", "benchmark", "run=null", *given]


def test_what_a_benchmark_leaves(one_process: Path) -> None:
    results = read_results(one_process)
    assert set(results.protocols) == {
        ("deblur", "embedded"),
        ("bokeh", "lf_bokeh_embedded"),
        ("refocus", "lf_refocus_embedded"),
    }
    assert results.methods("deblur", "embedded") == ["identity", "unsharp", "richardson_lucy"]
    images = one_process / "images/deblur/embedded"
    for row in results.figures.itertuples():
        if (row.task, row.method, row.metric) == ("deblur", "identity", "psnr"):
            pair = [load_image(images / name / f"{row.key}.png") for name in ("input", "target")]
            assert row.value == pytest.approx(float(psnr(pair[0][None], pair[1][None])), abs=1e-3)
    curves = list(results.curves.itertuples())
    assert {curve.kind for curve in curves} == {"ssim_k", "lvcorr", "radius_error"}
    swept = [curve for curve in curves if curve.images]
    assert {curve.kind for curve in swept} == {"lvcorr"} and len(swept) >= 2
    for curve in swept:
        sharpness = [float(load_image(one).std()) for one in curve.images]
        assert len(sharpness) == 4 and sharpness[0] > sharpness[-1]
    radii = [c for c in curves if c.kind == "radius_error" and c.task == "bokeh"]
    errors = {curve.method: max(curve.y) for curve in radii}
    assert errors["classical_layered"] < errors["identity"]


def test_two_ranks_of_torchrun_leave_the_same(
    settings: list[str], one_process: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    given = command(*settings, f"out={out}", "workers=0")
    done = subprocess.run([*launcher, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of 2 is done; others are not yet" in done.stderr
    for name in FILES:
        assert (out / name).read_bytes() == (one_process / name).read_bytes(), name


def test_a_killed_benchmark_goes_on_where_it_was(
    settings: list[str], one_process: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results"
    begun = command(*settings, f"out={out}", "workers=2")
    process = Python(*begun, out=tmp_path / "log")
    while len(list(out.glob("records/*/*/*.json"))) < 5:
        assert process.poll() is None, "it was to be killed at work"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("records/*/*/*.json")}
    assert not (out / "results.json").exists()
    done = python(*begun, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for name in FILES:
        assert (out / name).read_bytes() == (one_process / name).read_bytes(), name


def test_a_trained_run_and_what_its_stages_lose(
    settings: list[str],
    write_echo_run: Callable[[Path, Path], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, out = tmp_path / "outputs/semi_supervised/one", tmp_path / "results"
    write_echo_run(run, tmp_path / "base.safetensors")
    given = ["benchmark", *settings, f"paths.outputs={tmp_path / 'outputs'}", f"out={out}"]
    with pytest.raises(SystemExit) as refused:
        main(given)
    message = capsys.readouterr().err
    assert refused.value.code == 2
    assert "the prompt 'a photo', the protocol 'restore this image'" in message
    assert "2 sampling steps, the protocol 1" in message and "+protocols.deblur=FILE" in message

    protocol = tmp_path / "refocus.yaml"
    write_protocol(load_protocol("refocus", "lf_refocus_embedded"), protocol)
    record = yaml.safe_load(protocol.read_text())
    record |= {"steps": 2, "prompts": {"deblur": "a photo", "bokeh": "a photo"}}
    record["metrics"] = {"psnr": record["metrics"]["psnr"]}
    record["k_search"]["budget"] = 8
    protocol.write_text(yaml.safe_dump(record))
    given += [f"+protocols.refocus={protocol}", "tasks=[refocus]", "limit=2"]
    assert main(given) == 0
    results = read_results(out)
    assert results.methods("refocus", "lf_refocus_embedded")[5:] == [
        "trained",
        "trained_estimated_depth",
        "trained_true_aif",
        "trained_true_aif_estimated_depth",
    ]
    figures = [row for row in results.figures.itertuples() if row.metric == "psnr"]
    found = {(row.method, row.key): row.value for row in figures}
    keys = {key for _, key in found}
    assert len(keys) == 2
    images = out / "images/refocus/lf_refocus_embedded"
    for key in keys:
        # Networks that change nothing: the chain is the input, and swapping shows what it lost.
        assert found["trained", key] == pytest.approx(found["identity", key], abs=0.2)
        target = load_image(images / "target" / f"{key}.png")
        swapped = load_image(images / "trained_true_aif" / f"{key}.png")
        aif = float(psnr(swapped[None], target[None]))
        assert found["trained_true_aif", key] == pytest.approx(aif, abs=1e-3)
        assert not torch.equal(swapped, load_image(images / "trained" / f"{key}.png"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A miniature of DPDD: 96 x 128 px, test and validation, sharp and blurred."""
    rng = np.random.default_rng(0)
    for split, count in (("val", 2), ("test", 3)):
        for number in range(count):
            sharp = torch.from_numpy(rng.integers(0, 256, (3, 24, 32), dtype=np.uint8))
            sharp = sharp.repeat_interleave(4, 1).repeat_interleave(4, 2)
            blurred = torch.nn.functional.avg_pool2d(sharp.float(), 5, 1, 2).to(torch.uint8)
            for name, image in (("target", sharp), ("source", blurred)):
                folder = tmp_path / f"DPDD/{split}_c/{name}"
                folder.mkdir(parents=True, exist_ok=True)
                save_image(image, folder / f"{number:03d}.png")
    return tmp_path / "DPDD"


def test_dpdd_from_its_folder_with_answers_of_others(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs/deblur/dpdd"
    theirs.mkdir(parents=True)
    for path in (pairs / "test_c/target").iterdir():
        (theirs / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "results"
    given = ["benchmark", "benchmark=dpdd", f"source.root={pairs}", "run=null", f"out={out}"]
    assert main([*given, f"+predictions.theirs={tmp_path / 'theirs'}"]) == 0
    records = json.loads((out / "results.json").read_text())
    means = {(one["method"], one["metric"]): one["mean"] for one in records}
    assert means["theirs", "ssim"] == pytest.approx(1)
    assert means["identity", "psnr"] < means["richardson_lucy", "psnr"] < means["theirs", "psnr"]
    text = (out / "tables.md").read_text()
    assert "~~GenRefocus (published, Table 2, not comparable)~~" in text
    assert "Input row differs" in text and "RichardsonLucy(radius=" in text

    (pairs / "test_c/target/001.png").unlink()
    with pytest.raises(SystemExit) as refused:
        main(given)
    assert refused.value.code == 2 and "1 files that are no pair" in capsys.readouterr().err
    (pairs / "test_c/source/001.png").unlink()
    crops = tmp_path / "crops"
    assert main(["benchmark", "benchmark=dpdd_crops", *given[2:-1], f"out={crops}"]) == 0
    text = (crops / "tables.md").read_text()
    assert "128x96 px, smaller than the crop of 512x512 px" in text and "failed (2)" in text


def test_any_pairs_and_code_of_ones_own(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    """A method that is given its name, and one that does not work."""
    own = "genrefocus.benchmark.methods.Unsharp"
    given = [
        *("benchmark=pairs", f"source.root={pairs / 'test_c'}", "benchmark.dataset=mine"),
        *("source.photo=source", "source.sharp=target", "run=null", f"out={out}"),
        f"+methods.soft={{_target_:{own},sigma:1.0,amount:0.5,tasks:[deblur]}}",
        f"+methods.hard={{_target_:{own},sigma:1.0,amount:2.0}}",
    ]
    assert main(["benchmark", *given]) == 0
    results = read_results(out)
    assert results.methods("deblur", "mine") == ["identity", "soft", "hard"]
    assert set(results.figures["key"]) == {"000", "001", "002"}
    broken = "+methods.broken={_target_:genrefocus.benchmark.methods.Unsharp,sigma:wide,amount:1}"
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", *given, broken])
    assert ended.value.code == 1
    assert "broken failed on 000: TypeError" in capsys.readouterr().err


def test_sets_of_shards_and_of_light_fields_from_elsewhere(
    settings: list[str], one_process: Path, tmp_path: Path
) -> None:
    data = Path(settings[0].partition("=")[2])
    fields = ["benchmark=lightfields", f"benchmark.folder={data / 'lightfields'}"]
    shards = [
        *("benchmark=shards", f"benchmark.folder={data / 'lightfields/lf_bokeh/test'}"),
        *("benchmark.task=bokeh", "benchmark.protocol=bokeh/lf_bokeh", "benchmark.dataset=mine"),
    ]
    known = _bokeh_psnr(read_results(one_process))
    for given, sets in (
        (fields, {("bokeh", "lf_bokeh"), ("refocus", "lf_refocus")}),
        (shards, {("bokeh", "mine")}),
    ):
        out = tmp_path / given[0].partition("=")[2]
        assert main(["benchmark", *given, "run=null", f"out={out}", "workers=0"]) == 0
        results = read_results(out)
        assert set(results.protocols) == sets
        assert _bokeh_psnr(results) == known


def _bokeh_psnr(results: Results) -> dict[str, float]:
    some = results.figures.query("task == 'bokeh' and method == 'identity' and metric == 'psnr'")
    return dict(zip(some["key"], some["value"], strict=True))
