"""Two processes over gloo do what one does: the global batch does not depend on their number."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from genrefocus.cli.verify_resume import finish, read_trace
from tests.warm import python

STAGE, STEPS = "deblurnet", 3

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("trainer", "runs"), [("ddp_cpu", "sweep_*/0"), ("fsdp_cpu", "*")])
def test_two_processes_equal_one(
    trainer: str, runs: str, tiny_training: list[str], tmp_path: Path
) -> None:
    """As a run, and as a sweep without a name; evaluated in two processes, the run is moved."""
    fit = f"stages.{STAGE}.fit"
    shared = [
        *tiny_training,
        "global_batch=4",
        f"{fit}.max_steps={STEPS}",
        f"{fit}.val_check_interval={STEPS}",
        "callbacks.ema.decay=0.5",  # so that what is exported has moved
        "stages.deblurnet.module.warmup_steps=1",
        "stages.deblurnet.module.told=0.5",
    ]
    finish(shared, tmp_path / "one")
    sweep = ["-m"] if "sweep" in runs else []
    finish([*sweep, *shared, f"trainer={trainer}"], tmp_path / "two")
    (run,) = (tmp_path / "two" / "deblur").glob(runs)
    run.rename(tmp_path / "two" / "deblur" / "moved")
    one, two = (read_trace(tmp_path / name, STAGE) for name in ("one", "two"))

    assert sorted(two.keys) == [(n, n + 1) for n in range(0, 4 * STEPS, 2)]
    for draws, keys in one.keys.items():
        assert keys == [*two.keys[draws[:2]], *two.keys[draws[2:]]]
        halves = two.losses[draws[:2]] + two.losses[draws[2:]]
        assert sum(halves) / 2 == pytest.approx(one.losses[draws][0], rel=1e-4)
    assert any(tensor.count_nonzero() for name, tensor in one.lora.items() if "lora_B" in name)
    # By norms: Adam moves an entry whose gradient is rounding by as much as any other.
    for name, tensor in one.lora.items():
        assert (two.lora[name] - tensor).norm() <= 1e-2 * tensor.norm(), name

    logs = [logged(tmp_path / name) for name in ("one", "two")]
    assert sorted(logs[0]) == sorted(logs[1]) == list(range(STEPS))
    for step, row in logs[0].items():
        assert {"train/loss", "train/grad_norm"} < row.keys()
        assert logs[1][step] == pytest.approx(row, rel=1e-3)

    results = [
        json.loads(next((tmp_path / name).glob("*/*/result.json")).read_text())
        for name in ("one", "two")
    ]
    assert results[0]["figures"] == pytest.approx(results[1]["figures"], abs=1e-3)
    assert results[0]["references"]["identity"] == results[1]["references"]["identity"]
    shutil.rmtree(tmp_path / "two/deblur/moved/benchmark")
    done = python("eval.py", f"run={tmp_path}/two/deblur/moved", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (record,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    evaluated = json.loads((Path(json.loads(record)["benchmark"]) / "results.json").read_text())
    means = {one["metric"]: one["mean"] for one in evaluated if one["method"] == STAGE}
    assert means == pytest.approx(results[1]["figures"], abs=1e-3)


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


SPY = """
import runpy
import sys
from lit_models.callbacks import Images
from lit_models.throughput import Throughput
from torch.distributed.tensor import DTensor

def spied(kind, name):
    own = getattr(kind, name)
    def hook(self, trainer, module, *args, **kwargs):
        block = module.backbone.transformer.transformer_blocks[0]
        split = all(isinstance(p, DTensor) for p in block.parameters())
        print(f"SPY {name} step {trainer.global_step} split {split}")
        return own(self, trainer, module, *args, **kwargs)
    setattr(kind, name, hook)

spied(Throughput, "on_train_batch_start")
spied(Images, "on_validation_batch_end")
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def test_the_base_is_split_in_training_also_after_a_validation(
    tiny_training: list[str], tmp_path: Path
) -> None:
    fit = f"stages.{STAGE}.fit"
    steps = [f"{fit}.max_steps=4", f"{fit}.val_check_interval=2"]
    given = [*tiny_training, *steps, "trainer=fsdp_cpu", "trainer.devices=1"]
    (tmp_path / "spy.py").write_text(SPY)
    done = python(str(tmp_path / "spy.py"), *given, f"paths.outputs={tmp_path}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    seen = {line for line in done.stdout.splitlines() if line.startswith("SPY")}
    assert {f"SPY on_train_batch_start step {n} split True" for n in range(4)} <= seen
    assert {line for line in seen if "validation" in line and "True" in line} == set()
    assert any("validation" in line for line in seen)
