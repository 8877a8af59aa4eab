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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genrefocus.configuration.composing import checkout, compose_training, require_settled, trained

if TYPE_CHECKING:  # a wrong override must not wait for torch
    from torch import Tensor

_LOG = '+callbacks.draw_log={_target_: lit_models.draw_log.DrawLog, folder: "${stage_folder}"}'


def run(args: argparse.Namespace) -> int:
    """Train without and with a SIGKILL, compare, print a table; 1 where something differs."""
    kill_at = args.steps // 2 if args.kill_at is None else args.kill_at
    config = compose_training(args.overrides)
    require_settled(config)
    stages = list(trained(config))
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
        findings = compare(read_trace(whole, stage), read_trace(killed, stage))
    title = f"{stage}: {args.steps} steps, killed after step {kill_at} or later and resumed"
    Console().print(_table(title, findings))
    return 0 if all(one.difference is None for one in findings) else 1


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
    command = [sys.executable, "train.py", *overrides, f"paths.outputs={outputs}", _LOG]
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
    (lora,) = folders[0].glob("*.safetensors")
    return Trace(keys, losses, read_lora(lora))


@dataclass(frozen=True)
class Finding:
    """One row of the verdict: what was compared, how many of it, the first difference if any."""

    what: str
    count: int
    difference: str | None


def compare(whole: Trace, resumed: Trace) -> list[Finding]:
    """Sample order, loss of every micro-batch and LoRA tensors of two runs, bit for bit."""
    return [
        Finding("sample order, micro-batches", len(whole.keys), _first_of_order(whole, resumed)),
        Finding("losses", len(whole.losses), _first_of_losses(whole, resumed)),
        Finding("LoRA tensors", len(whole.lora), _first_of_lora(whole, resumed)),
    ]


def _first_of_order(whole: Trace, resumed: Trace) -> str | None:
    if len(whole.keys) != len(resumed.keys):
        return f"{len(resumed.keys)} instead of {len(whole.keys)} micro-batches"
    for expected, found in zip(whole.keys.items(), resumed.keys.items(), strict=True):
        if expected != found:
            return f"draws {expected[0]} were {expected[1]}, after the resume {found}"
    return None


def _first_of_losses(whole: Trace, resumed: Trace) -> str | None:
    for draws, (expected, *_) in whole.losses.items():
        for loss in resumed.losses.get(draws, [float("nan")]):
            if loss != expected:
                return f"draws {draws}: {expected!r}, after the resume {loss!r}"
    return None


def _first_of_lora(whole: Trace, resumed: Trace) -> str | None:
    import torch

    if whole.lora.keys() != resumed.lora.keys():
        return f"{len(resumed.lora)} instead of {len(whole.lora)} tensors, or other names"
    for name, expected in whole.lora.items():
        found = resumed.lora[name]
        if not torch.equal(expected, found):
            return f"{name} by up to {float((expected - found).abs().max()):.2e}"
    if not any(t.count_nonzero() for name, t in whole.lora.items() if ".lora_B." in name):
        return "nothing was learnt: lora_B is zero"
    return None


def _short_run(stage: str, steps: int) -> list[str]:
    fit = f"++stages.{stage}.fit"
    return [
        f"curriculum=[{stage}]",
        f"{fit}.max_steps={steps}",
        f"{fit}.val_check_interval={steps}",
        f"{fit}.limit_val_batches=1",
        f"{fit}.limit_test_batches=1",
        "++callbacks.checkpoint.every_n_train_steps=1",
        "print_config=false",
    ]


def _steps(checkpoint: Path) -> int:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return int(state["global_step"])


def _table(title: str, findings: list[Finding]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("compared", "count", "verdict"):
        table.add_column(column, justify="right" if column == "count" else "left")
    for one in findings:
        verdict = (
            "[green]equal[/]" if one.difference is None else f"[red]{escape(one.difference)}[/]"
        )
        table.add_row(one.what, str(one.count), verdict)
    return table
