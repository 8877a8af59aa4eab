"""The pseudo all-in-focus stage in two processes: the first is killed, and the run resumed."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genrefocus.backbone import Lora
from genrefocus.backbone.tiny import build_tiny
from tests.warm import Python, python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def given(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_training: list[str],
    tiny_settings: dict[str, Any],
) -> list[str]:
    """The stage alone, as the first of its process, on 12 photographs of a second or so each."""
    folder = tmp_path_factory.mktemp("in_the_wild")
    lora = folder / "lora.safetensors"
    Lora.for_transformer(build_tiny(**tiny_settings).transformer, 4).save(lora)
    changed = ("experiment=", "+data.build.counts=", "paths.data=")
    return [
        *(one for one in tiny_training if not one.startswith(changed)),
        "experiment=bokeh_semi_supervised",
        "curriculum=[in_the_wild]",
        f"inputs.deblur_lora={lora}",
        f"paths.data={folder}/data",
        "+data.build.counts={camera_roll:{train:12}}",
        "stages.in_the_wild.prepare.items_per_shard=3",
        "sampling_steps=60",
    ]


def members(session: int) -> set[int]:
    """Living processes of a session."""
    command = ["ps", "-o", "pid=", "-s", str(session)]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return {int(one) for one in listed.stdout.split()}


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


def test_a_killed_first_rank_leaves_no_orphan_and_the_run_goes_on(
    given: list[str], tmp_path: Path
) -> None:
    command = ["train.py", *given, f"paths.outputs={tmp_path}", "trainer=ddp_cpu"]
    first = Python(*command, out=tmp_path / "log")
    wait_for(lambda: len(list(tmp_path.rglob("train-*.lock"))) > 0, 200)
    wait_for(lambda: len({one.parent for one in tmp_path.rglob("train-*/0*.json")}) == 2, 100)
    assert len(members(first.pid)) == 2
    first.kill()
    first.wait()
    wait_for(lambda: not members(first.pid), 20)
    done = python(*command, "resume=latest", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("bokeh_semi_supervised/*/in_the_wild/summary.json")
    made = json.loads(summary.read_text())["photographs"]
    assert made["found"] == 12 == sum(made["written"].values())
