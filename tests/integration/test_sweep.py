"""A sweep of two cells and two seeds: one run fails, the others finish, a restart runs that one."""

import json
from pathlib import Path

import pytest
from PIL import Image

from genrefocus.cli import main
from tests.warm import python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tiny_training: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    kept = [one for one in tiny_training if not one.startswith(("experiment=", "stages."))]
    outputs = tmp_path_factory.mktemp("sweep")
    cells = ["cell=rank_8,rank_16", "seed=1,2", "baseline=rank_8"]
    return [
        *("train.py", "-m", "sweep=lora_rank", *cells),
        *kept,
        "debug=limit",
        "~callbacks.progress",
        f"paths.outputs={outputs}",
    ]


def test_a_failure_ends_neither_the_sweep_nor_its_restart(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(command[-1].partition("=")[2]) / "trials/lora_rank"
    obstacle = folder / "rank_8/seed_2/bokehnet_synthetic/stage.yaml"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("kind: another\n")
    done = python(*command, folder=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "3 runs finished, 1 failed" in done.stderr
    record = json.loads((folder / "rank_8/seed_2/failed.json").read_text())
    assert record["reason"].startswith("ValueError") and "other settings" in record["reason"]
    assert "Traceback" in (folder / "rank_8/seed_2" / record["traceback"]).read_text()
    results = sorted(path.parent for path in folder.glob("*/*/result.json"))
    assert [path.relative_to(folder).as_posix() for path in results] == [
        "rank_16/seed_1",
        "rank_16/seed_2",
        "rank_8/seed_1",
    ]
    assert main(["ablation", str(folder), "--json", "--images", "2"]) == 1
    table = json.loads(capsys.readouterr().out)
    assert list(table["failed"]) == ["rank_8/seed_2"]
    pairs = {(one["cell"], one["metric"]): one["pairs"] for one in table["figures"]}
    assert pairs["rank_16", "psnr"] == 1
    assert Image.open(folder / "grid.png").width > 4 * 2 * 32

    obstacle.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*/bokehNet.safetensors")}
    assert len(before) == 3
    done = python(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 runs finished, 0 failed" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(folder.rglob("failed.json"))
    assert main(["ablation", str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    (figure,) = (f for f in figures if (f["cell"], f["metric"]) == ("rank_16", "psnr"))
    values = {
        (cell, seed): json.loads((folder / cell / f"seed_{seed}/result.json").read_text())["value"]
        for cell in ("rank_8", "rank_16")
        for seed in (1, 2)
    }
    differences = [values["rank_16", seed] - values["rank_8", seed] for seed in (1, 2)]
    assert figure["difference"] == pytest.approx(sum(differences) / 2)

    # Settings that differ from those of a result: it is kept, and not taken for one of them.
    one_run = ["seed=1" if one == "seed=1,2" else one for one in command]
    done = python(*one_run, "sampling_steps=2", folder=tmp_path)
    assert done.returncode == 1
    assert "module.steps was 1, is 2" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
