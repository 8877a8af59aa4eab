"""``genrefocus benchmark``: methods on data sets under their protocols, a Hydra application."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from genrefocus.benchmark.case import TASKS, Method, Task
from genrefocus.benchmark.methods import Classical, Identity, Predictions, RichardsonLucy, Unsharp
from genrefocus.benchmark.protocol import write_protocol
from genrefocus.benchmark.report import REPORT_NAME, publish
from genrefocus.benchmark.results import write_notes
from genrefocus.benchmark.runner import gather, run
from genrefocus.cli.benchmark_parts import Entry, Own, OwnError, entry_of, shown_path
from genrefocus.network import load_networks
from genrefocus.network_card import described, latest_run, networks_of, released_card
from genrefocus.network_methods import CaseDepth, EstimatedDepth, methods_of
from genrefocus.progress import Bars

_WITHOUT_NETWORK = (Identity, Classical, Unsharp, RichardsonLucy, Predictions)
_LOG_WIDTH = 140
_TAKEN = {"identity", "input", "target"}


def run_job(config: DictConfig) -> None:
    """One job of a benchmark; the one that finds all records writes tables and report."""
    try:
        _run(config)
    except OwnError as error:
        print(f"genrefocus benchmark: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(
            "genrefocus benchmark: interrupted; measured pictures are kept, "
            "the same command goes on",
            file=sys.stderr,
        )
        sys.exit(130)


def _run(config: DictConfig) -> None:
    console, out = _console(), _folder(config)
    chosen = [one for one in config.benchmark.sets if one.cases.task in config.tasks]
    if not chosen:
        raise ValueError(f"{config.name} has no data set for {', '.join(config.tasks)}")
    methods, origins = _methods(config, [one.cases.task for one in chosen], console)
    _build(config)
    entries = [entry_of(one, config, methods[one.cases.task], origins, console) for one in chosen]
    if silent := set(config.predictions) - {m.name for one in entries for m in one.methods}:
        raise ValueError(
            f"no folder of predictions for any task: {', '.join(map(str, silent))}; they lie in "
            "<folder>/<task>/<data set>"
        )
    with _alone(out):
        (out / "protocols").mkdir(exist_ok=True)
        for entry in entries:
            name = f"{entry.cases.task}-{entry.cases.name}.yaml"
            write_protocol(entry.protocol, out / "protocols" / name)
        write_notes({(one.cases.task, one.cases.name): one.notes for one in entries}, out)
    with Bars(config.progress and config.job == 0, console) as bars:
        for entry in entries:
            for method in entry.methods:
                _measure(entry, method, out, config, bars)
    with _alone(out):
        _conclude(entries, out, config, console)


def _console() -> Console:
    """On stderr; a log is wide enough for intervals, whatever a terminal would be."""
    wide = not sys.stderr.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=True, width=_LOG_WIDTH if wide else None)


def _folder(config: DictConfig) -> Path:
    """Of the results: that which is named, or one for each choice of pictures."""
    if config.out is not None:
        return Path(config.out)
    dataset = config.benchmark.get("dataset")
    parts = [config.name, dataset, None if config.limit is None else f"first_{config.limit}"]
    name = "_".join(str(part) for part in parts if part is not None)
    return Path(config.paths.outputs) / "benchmark" / name


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of all jobs that work on a folder only one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _measure(entry: Entry, method: Method, out: Path, config: DictConfig, bars: Bars) -> None:
    total = len(entry.cases.keys[config.job :: config.jobs])
    task = bars.add_task(f"{entry.cases.task}, {method.name}", total=total)
    run(
        entry.cases,
        method,
        entry.plan,
        out,
        # Networks are not copied to other processes, and other people's code may hold anything.
        workers=config.workers if isinstance(method, _WITHOUT_NETWORK) else None,
        job=config.job,
        jobs=config.jobs,
        advance=lambda done, total: bars.update(task, completed=done, total=total),
    )


def _conclude(entries: Sequence[Entry], out: Path, config: DictConfig, console: Console) -> None:
    plans = {(one.cases.task, one.cases.name): one.plan for one in entries}
    names = {
        (one.cases.task, one.cases.name): [method.name for method in one.methods] for one in entries
    }
    if gather(out, plans, [one.cases for one in entries], names) is None:
        console.print(f"job {config.job} of {config.jobs} is done; others are not yet")
        return
    publish(out, console, seed=config.seed)
    console.print(
        f"figures of single images, tables and report in {out}\nreport {out / REPORT_NAME}",
        soft_wrap=True,
        markup=False,
    )


def _build(config: DictConfig) -> None:
    """Make simulated data where they are missing; other jobs wait for the one that does."""
    for one in config.benchmark.build.values():
        ready = Path(one.ready)
        if not ready.is_file():
            with _alone(ready.parent):
                if not ready.is_file():
                    instantiate(one.make)


def _methods(
    config: DictConfig, tasks: Sequence[Task], console: Console
) -> tuple[Mapping[Task, list[Method]], list[str]]:
    """All but the shipped ones, by task, and where they come from."""
    runs = {**({} if config.run is None else {"trained": config.run}), **config.runs}
    depth = _depth(config) if runs or config.loras else None
    device, outputs, found = _device(config), config.paths.outputs, []
    origins: list[str] = []
    for name, given in runs.items():
        folder = _latest(outputs, tasks) if given == "latest" else Path(given)
        if not (cards := networks_of(folder)):
            raise FileNotFoundError(
                f"{folder} does not exist or has no trained network; name the folder of a run, or "
                "train one with: make train"
            )
        found.append(methods_of(load_networks(cards, device=device), str(name), depth=depth))
        origins.append(f"{name}: {shown_path(folder)}, {described(cards)}")
        console.print(origins[-1], soft_wrap=True, markup=False)
    for name, files in config.loras.items():
        released = {task: released_card(task, config.flux, file) for task, file in files.items()}
        if not released or set(released) - {"deblur", "bokeh"}:
            raise ValueError(f"method {name} names no LoRA file: give deblur, bokeh or both")
        found.append(methods_of(load_networks(released, device=device), str(name), depth=depth))
        named = ", ".join(f"{task} {Path(file).name}" for task, file in files.items())
        origins.append(f"{name}: {named} on {shown_path(config.flux)}")
    own = [_own(str(name), one) for name, one in config.methods.items()]
    methods: dict[Task, list[Method]] = {task: [] for task in TASKS}
    for task, some in methods.items():
        some += [method for part in found for method in part.get(task, [])]
        some += [method for tasks, method in own if task in tasks]
        names = [method.name for method in some] + list(map(str, config.predictions))
        if twice := {name for name in names if names.count(name) > 1 or name in _TAKEN}:
            raise ValueError(f"several methods are called {', '.join(twice)}; rename one of them")
    return methods, origins


def _latest(outputs: str, tasks: Sequence[Task]) -> Path:
    deblurs, renders = {"deblur", "refocus"} & set(tasks), {"bokeh", "refocus"} & set(tasks)
    networks: list[Literal["deblur", "bokeh"]] = []
    networks += ["deblur"] if deblurs else []
    networks += ["bokeh"] if renders else []
    try:
        return latest_run(outputs, networks)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run=null measures without one") from None


def _device(config: DictConfig) -> str:
    """Of this process: ranks of torchrun and SLURM have a GPU each."""
    device = str(config.device)
    if not device.startswith("cuda"):
        return device
    if not torch.cuda.is_available():
        raise ValueError(f"device={device}: torch finds no CUDA device; use device=cpu")
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if device == "cuda" and local is not None:
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device


def _depth(config: DictConfig) -> CaseDepth | None:
    chosen = config.get("depth") or config.benchmark.depth
    if chosen is None:
        return None
    source = instantiate(chosen)
    return EstimatedDepth(source) if hasattr(source, "depth") else source


def _own(name: str, given: DictConfig) -> tuple[Sequence[str], Method]:
    tasks = given.get("tasks", TASKS)
    method = instantiate({key: given[key] for key in given if key != "tasks"})
    return tasks, Own(name, method)
