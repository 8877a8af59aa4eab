"""Two processes over gloo do what one does: the global batch does not depend on their number."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from genrefocus.cli.verify_resume import DRAW_LOG, compare, finish, read_trace
from tests.slurm import LAUNCH, environment_of_job
from tests.warm import python

STAGE, STEPS = "deblurnet", 3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tiny_training: list[str]) -> list[str]:
    """Overrides of a run, whatever its processes."""
    fit = f"stages.{STAGE}.fit"
    return [
        *tiny_training,
        "global_batch=4",
        f"{fit}.max_steps={STEPS}",
        f"{fit}.val_check_interval={STEPS}",
        "callbacks.ema.decay=0.5",  # so that what is exported has moved
        "callbacks.checkpoint.every_n_train_steps=1",
        "stages.deblurnet.module.warmup_steps=1",
        "stages.deblurnet.module.told=0.5",
    ]


@pytest.fixture(scope="module")
def one(shared: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of one process."""
    outputs = tmp_path_factory.mktemp("ddp") / "one"
    finish(shared, outputs)
    return outputs


def assert_equal(outputs: Path, two: Path) -> None:
    """Samples, losses, LoRA, logs and figures of a run of two processes are those of one."""
    one, halves = read_trace(outputs, STAGE), read_trace(two, STAGE)
    assert sorted(halves.keys) == [(n, n + 1) for n in range(0, 4 * STEPS, 2)]
    for draws, keys in one.keys.items():
        assert keys == [*halves.keys[draws[:2]], *halves.keys[draws[2:]]]
        losses = halves.losses[draws[:2]] + halves.losses[draws[2:]]
        assert sum(losses) / 2 == pytest.approx(one.losses[draws][0], rel=1e-4)
    assert any(tensor.count_nonzero() for name, tensor in one.lora.items() if "lora_B" in name)
    # By norms: Adam moves an entry whose gradient is rounding by as much as any other.
    for name, tensor in one.lora.items():
        assert (halves.lora[name] - tensor).norm() <= 1e-2 * tensor.norm(), name

    logs = [logged(outputs), logged(two)]
    assert sorted(logs[0]) == sorted(logs[1]) == list(range(STEPS))
    for step, row in logs[0].items():
        assert {"train/loss", "train/grad_norm"} < row.keys()
        assert logs[1][step] == pytest.approx(row, rel=1e-3)

    results = [result(outputs), result(two)]
    assert results[0]["figures"] == pytest.approx(results[1]["figures"], abs=1e-3)
    assert results[0]["references"]["identity"] == results[1]["references"]["identity"]


@pytest.mark.parametrize(("trainer", "runs"), [("ddp_cpu", "sweep_*/0"), ("fsdp_cpu", "*")])
def test_two_processes_equal_one(
    trainer: str, runs: str, shared: list[str], one: Path, tmp_path: Path
) -> None:
    """As a run, and as a sweep without a name; evaluated in two processes, the run is moved."""
    sweep = ["-m"] if "sweep" in runs else []
    finish([*sweep, *shared, f"trainer={trainer}"], tmp_path / "two")
    (run,) = (tmp_path / "two" / "deblur").glob(runs)
    run.rename(tmp_path / "two" / "deblur" / "moved")
    assert_equal(one, tmp_path / "two")

    figures = result(tmp_path / "two")["figures"]
    shutil.rmtree(tmp_path / "two/deblur/moved/benchmark")
    done = python("eval.py", f"run={tmp_path}/two/deblur/moved", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    evaluated = json.loads((Path(json.loads(record)["benchmark"]) / "results.json").read_text())
    means = {one["metric"]: one["mean"] for one in evaluated if one["method"] == STAGE}
    assert means == pytest.approx(figures, abs=1e-3)


def test_two_nodes_of_torchrun_equal_one_process(
    shared: list[str], one: Path, tmp_path: Path
) -> None:
    """The launch file once for each node, on this machine."""
    given = [*shared, "trainer=ddp_cpu", f"paths.outputs={tmp_path}/two", DRAW_LOG]
    nodes = {"RUN": "play", "PROCESSES": "1", "NODES": "2", "PORT": free_port()}
    environment = {**os.environ, **nodes, "PYTHON": sys.executable}
    started = [
        subprocess.Popen(
            ["bash", str(LAUNCH / "torchrun.sh"), *given], env={**environment, "NODE": node}
        )
        for node in ("0", "1")
    ]
    assert [node.wait(timeout=300) for node in started] == [0, 0]
    assert [run.name[:14] for run in (tmp_path / "two/deblur").iterdir()] == ["torchrun_play_"]
    assert_equal(one, tmp_path / "two")


def test_a_job_that_slurm_interrupts_goes_on_as_if_it_had_not(
    shared: list[str], one: Path, tmp_path: Path
) -> None:
    """Its task is sent SIGTERM after the first step; the job is queued again, and finishes."""
    given = [*shared, f"paths.outputs={tmp_path}/job", DRAW_LOG]
    command = ["bash", str(LAUNCH / "train.sbatch"), *given]
    environment = environment_of_job(tmp_path)
    job = subprocess.Popen(command, env=environment)
    while not list(tmp_path.glob(f"job/*/*/{STAGE}/last.ckpt")):
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(int((tmp_path / "tasks").read_text()), signal.SIGTERM)
    assert job.wait(timeout=300) == 143
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert not list(tmp_path.glob("job/*/*/result.json"))
    assert subprocess.run(command, env=environment, timeout=300, check=False).returncode == 0
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert [run.name[:8] for run in (tmp_path / "job/deblur").iterdir()] == ["slurm_7_"]
    differences = compare(read_trace(one, STAGE), read_trace(tmp_path / "job", STAGE))
    assert not any(differences.values()), differences
    assert result(tmp_path / "job")["figures"] == result(one)["figures"]


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def result(outputs: Path) -> dict[str, Any]:
    """What the run has left for sweeps."""
    (path,) = outputs.glob("*/*/result.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def logged(outputs: Path) -> dict[int, dict[str, float]]:
    """Figures of every step that do not depend on speed."""
    found: dict[int, dict[str, float]] = {}
    (log,) = outputs.glob(f"*/*/{STAGE}/logs/metrics.csv")
    with log.open() as rows:
        for row in csv.DictReader(rows):
            for name, value in row.items():
                if value and name.startswith("train/") and "per_second" not in name:
                    found.setdefault(int(row["step"]), {})[name] = float(value)
    return found
