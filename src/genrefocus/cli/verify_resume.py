"""``genrefocus verify-resume [OVERRIDES...]``: a killed and resumed run equals a whole one."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrefocus.configuration.composing import (
    checkout,
    compose_training,
    require_settled,
    training_stages,
)
from genrefocus.runs import FINISHED

if TYPE_CHECKING:  # a wrong override must not wait for torch
    from torch import Tensor

DRAW_LOG = '+callbacks.draw_log={_target_: lit_models.draw_log.DrawLog, folder: "${stage_folder}"}'


def run(args: argparse.Namespace) -> int:
    """Train without and with a SIGKILL, compare, print the verdict; 1 where something differs."""
    kill_at = args.steps // 2 if args.kill_at is None else args.kill_at
    config = compose_training(args.overrides)
    require_settled(config)
    stages = list(training_stages(config))
    if not stages:
        raise ValueError(f"experiment {config.name} trains no stage; choose another experiment")
    stage = args.stage or stages[0]
    if stage not in stages:
        raise ValueError(f"--stage {stage}: choose one that trains: {', '.join(stages)}")
    overrides = [*args.overrides, *_short_run(stage, args.steps)]
    with tempfile.TemporaryDirectory(prefix="genrefocus-resume-") as scratch:
        folder = args.keep or Path(scratch)
        whole, killed = folder / "whole", folder / "killed"
        for place in (whole, killed):
            if place.exists():
                raise ValueError(f"--keep {folder}: {place} exists already; name another folder")
        folder.mkdir(parents=True, exist_ok=True)
        finish(overrides, whole)
        interrupt(overrides, killed, stage, after=kill_at)
        finish([*overrides, "resume=latest"], killed)
        differences = compare(read_trace(whole, stage), read_trace(killed, stage))
    print(f"{stage}: {args.steps} steps, killed after step {kill_at} or later and resumed")
    for what, difference in differences.items():
        print(f"{what:14}{difference or 'equal'}")
    return int(any(differences.values()))


def finish(overrides: list[str], outputs: Path) -> None:
    """Run train.py to its end.

    Raises:
        ValueError: it failed; the message says where its output is.
    """
    process = start(overrides, outputs)
    if process.wait() != 0:
        log = outputs.with_suffix(".log")
        last = (log.read_text().strip().splitlines() or ["it printed nothing"])[-1]
        raise ValueError(f"train.py ended with status {process.wait()}: {last}")


def interrupt(
    overrides: list[str], outputs: Path, stage: str, *, after: int, number: int = signal.SIGKILL
) -> int:
    """Start train.py and send a signal to all its processes once ``after`` steps are on disk.

    Returns:
        Its exit status.

    Raises:
        ValueError: it ended before.
    """
    process = start(overrides, outputs)
    try:
        while process.poll() is None:
            found = list(outputs.glob(f"*/*/{stage}/last.ckpt"))
            if found and _steps(found[0]) >= after:
                os.killpg(process.pid, number)
                return process.wait()
            time.sleep(0.02)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    last = (outputs.with_suffix(".log").read_text().strip().splitlines() or [""])[-1]
    raise ValueError(f"train.py ended before it could be interrupted; raise --steps. {last}")


def start(overrides: list[str], outputs: Path) -> subprocess.Popen[bytes]:
    """train.py in a process group of its own; what it prints goes to ``<outputs>.log``."""
    command = [sys.executable, "train.py", *overrides, f"paths.outputs={outputs}", DRAW_LOG]
    with outputs.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, cwd=checkout(), start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )


@dataclass(frozen=True)
class Trace:
    """What a run left behind.

    Attributes:
        keys: draws of a micro-batch -> keys of its samples, in the order of training.
        losses: draws of a micro-batch -> its loss; several where it was repeated.
        lora: tensors by released name.
    """

    keys: dict[tuple[int, ...], list[str]]
    losses: dict[tuple[int, ...], list[float]]
    lora: dict[str, Tensor]


def read_trace(outputs: Path, stage: str) -> Trace:
    """The trace of the one run below ``outputs``.

    Raises:
        ValueError: there is not exactly one run: a resumed one must go on in its folder.
    """
    from genrefocus.backbone.lora import read_lora

    folders = list(outputs.glob(f"*/*/{stage}"))
    if len(folders) != 1:
        raise ValueError(f"{outputs} holds {len(folders)} runs of {stage}, expected one")
    keys: dict[tuple[int, ...], list[str]] = {}
    losses: dict[tuple[int, ...], list[float]] = {}
    for log in sorted(folders[0].glob("draws_rank*.jsonl")):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            draws = tuple(entry["draws"])
            keys.setdefault(draws, entry["keys"])
            losses.setdefault(draws, []).append(entry["loss"])
    trained = json.loads((folders[0] / FINISHED).read_text())["lora"]  # beside what is frozen
    lora = read_lora(folders[0].parent / trained)
    return Trace(keys, losses, dict(sorted(lora.items())))


def compare(whole: Trace, resumed: Trace) -> dict[str, str | None]:
    """The first difference of samples, losses and LoRA of two runs, bit for bit; None without."""
    learnt = any(one.count_nonzero() for name, one in whole.lora.items() if ".lora_B." in name)
    return {
        "sample order": _first(whole.keys, resumed.keys, lambda one, other: one == other),
        "losses": _first(whole.losses, resumed.losses, lambda one, other: {*one} == {*other}),
        "LoRA tensors": _first(whole.lora, resumed.lora, lambda one, other: one.equal(other))
        or (None if learnt else "nothing was learnt: lora_B is zero"),
    }


def _first(
    whole: Mapping[Any, Any], resumed: Mapping[Any, Any], equal: Callable[[Any, Any], bool]
) -> str | None:
    if list(whole) != list(resumed):
        return f"{len(resumed)} instead of {len(whole)}, others, or in another order"
    for key, expected in whole.items():
        if not equal(expected, resumed[key]):
            return f"{key}: {expected!r}, after the resume {resumed[key]!r}"
    return None


def _short_run(stage: str, steps: int) -> list[str]:
    fit = f"++stages.{stage}.fit"
    return [
        f"curriculum=[{stage}]",
        f"{fit}.max_steps={steps}",
        f"{fit}.val_check_interval={steps}",
        f"{fit}.limit_val_batches=1",
        "test_samples=1",
        "++callbacks.checkpoint.every_n_train_steps=1",
    ]


def _steps(checkpoint: Path) -> int:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["global_step"])
