"""Runs of train.py as the cells of a sweep: one that fails does not end the others.

A cell leaves ``result.json`` or ``failed.json`` in its folder, which ``genrefocus ablation`` reads;
one with a result is finished and not run again.
"""

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

import genrefocus.configuration.composing  # noqa: F401  registers the resolvers in other processes too
from genrefocus.runs import FAILURE_NAME, PLAN_NAME, RESULT_NAME, first_process
from genrefocus.terminal import counted
from genrefocus.writing import write_json

TRACE_NAME = "traceback.txt"


def is_cell() -> bool:
    """Whether this run is one of a sweep (``train.py -m``)."""
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def run_cell(folder: Path, work: Callable[[], float | None]) -> float | None:
    """Do the work of a cell; an exception is written down instead of raised.

    Args:
        folder: of the cell.
        work: writes ``result.json`` last, and returns its figure, if there is one.

    Returns:
        That figure, for sweepers that look for the best; None without one, or where it failed.
    """
    try:
        value = work()
    except Exception as error:  # of any kind: the other cells have to run
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        (folder / TRACE_NAME).write_text(traceback.format_exc())
        record = {"reason": reason, "traceback": TRACE_NAME}
        write_json(folder / FAILURE_NAME, record)
        print(f"train.py: {folder} failed: {reason}", file=sys.stderr)
        return None
    for name in (FAILURE_NAME, TRACE_NAME):
        (folder / name).unlink(missing_ok=True)
    return value


class SweepReport(Callback):
    """Before a sweep: its plan, and the data that all cells need. After it: what has failed.

    The exit status is 1 while the last attempt at any cell of this call has failed.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Write the plan of a named sweep; make the embedded data, which cells would race for."""
        if not first_process():
            return
        if config.sweep_name is not None:
            _write_plan(config)
        if config.data.build is not None and not Path(config.data.ready).exists():
            instantiate(config.data.build)

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        """
        Raises:
            SystemExit: 1 where a cell of this call has failed; other calls may run its sweep too.
        """
        if not first_process():
            return
        folder = Path(config.hydra.sweep.dir)
        failed = sorted(folder.rglob(FAILURE_NAME))
        finished = [
            path for path in folder.rglob(RESULT_NAME) if path.with_name(FAILURE_NAME) not in failed
        ]
        console = Console(stderr=True)
        for path in failed:
            reason = json.loads(path.read_bytes())["reason"]
            where = path.parent.relative_to(folder)
            console.print(
                f"[red]failed[/] {escape(f'{where}: {reason}')}", soft_wrap=True, highlight=False
            )
        console.print(
            f"{counted(len(finished), 'run')} finished, {len(failed)} failed in {folder}",
            soft_wrap=True,
            markup=False,
        )
        if any(_is_of(path.parent, config) for path in failed):
            console.print("the same command runs what has failed or is missing")
            sys.exit(1)


def _write_plan(config: DictConfig) -> None:
    """Cells and seeds of this call beside those planned before: a call may name a part of them."""
    path = Path(config.hydra.sweep.dir) / PLAN_NAME
    cells, seeds = list(_swept(config, "cell")), [int(one) for one in _swept(config, "seed")]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # jobs of an array begin at the same time
        before = json.loads(path.read_bytes()) if path.is_file() else {"cells": [], "seeds": []}
        plan = {
            "baseline": config.baseline,
            "cells": list(dict.fromkeys([*before["cells"], *cells])),
            "seeds": list(dict.fromkeys([*before["seeds"], *seeds])),
        }
        write_json(path, plan)


def _is_of(cell: Path, config: DictConfig) -> bool:
    """Whether the run in a folder is one of this call's; a sweep without a name has no others."""
    if config.sweep_name is None:
        return True
    names = {f"seed_{int(seed)}" for seed in _swept(config, "seed")}
    return cell.parent.name in set(_swept(config, "cell")) and cell.name in names


def _swept(config: DictConfig, key: str) -> Iterator[str]:
    """Values of an option of the sweep: those of the command line, else of the sweep's file."""
    params: Any = OmegaConf.to_container(config.hydra.sweeper.params) or {}
    given = [f"{name}={value}" for name, value in params.items()]
    overrides = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    [*_, last] = [one for one in overrides if one.get_key_element().lstrip("+") == key]
    if last.is_sweep_override():
        yield from (str(value) for value in last.sweep_string_iterator())
    else:
        yield last.get_value_element_as_str()
