"""Two processes over gloo do what one does with twice the batch."""

import json
from pathlib import Path

import pytest
import torch

from genrefocus.cli.verify_resume import finish, read_trace

STAGE, STEPS = "deblurnet", 3

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trainer", ["ddp_cpu", "fsdp_cpu"])
def test_two_processes_equal_one_with_twice_the_batch(
    trainer: str, tiny_training: list[str], tmp_path: Path
) -> None:
    fit = f"stages.{STAGE}.fit"
    shared = [
        *tiny_training,
        f"{fit}.max_steps={STEPS}",
        f"{fit}.val_check_interval={STEPS}",
        "callbacks.ema.decay=0.5",  # so that what is exported has moved
        "stages.deblurnet.module.warmup_steps=1",
    ]
    batch = f"stages.{STAGE}.datamodule.batch_size"
    finish([*shared, f"{batch}=4"], tmp_path / "one")
    finish([*shared, f"{batch}=2", f"trainer={trainer}"], tmp_path / "two")
    one, two = (read_trace(tmp_path / name, STAGE) for name in ("one", "two"))

    assert sorted(two.keys) == [(n, n + 1) for n in range(0, 4 * STEPS, 2)]
    for draws, keys in one.keys.items():
        assert keys == [*two.keys[draws[:2]], *two.keys[draws[2:]]]
        halves = two.losses[draws[:2]] + two.losses[draws[2:]]
        assert sum(halves) / 2 == pytest.approx(one.losses[draws][0], rel=1e-5)
    assert any(tensor.count_nonzero() for name, tensor in one.lora.items() if "lora_B" in name)
    torch.testing.assert_close(two.lora, one.lora, rtol=0, atol=1e-5)

    summaries = [
        json.loads(next((tmp_path / name).glob(f"*/*/{STAGE}/summary.json")).read_text())
        for name in ("one", "two")
    ]
    assert summaries[0]["metrics"] == pytest.approx(summaries[1]["metrics"], abs=2e-4)
    runs = [path for path in (tmp_path / "two" / "deblur").iterdir() if path.is_dir()]
    assert len(runs) == 1
