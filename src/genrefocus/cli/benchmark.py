"""``genrefocus benchmark``: methods on data sets under their protocols, a Hydra application."""

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from genrefocus.benchmark.case import TASKS, BenchmarkTask, Method
from genrefocus.benchmark.cases import CaseSet
from genrefocus.benchmark.protocol import BenchmarkProtocol, load_protocol, read_protocol
from genrefocus.network_card import (
    NetworkCard,
    NetworkTask,
    described,
    latest_run,
    networks_of,
    released_card,
)
from genrefocus.preflight.inputs import find_crowd
from genrefocus.terminal import Bars

# Metrics and networks take seconds to import: what is wrong with the input is said before.
if TYPE_CHECKING:
    from genrefocus.benchmark.runner import Entry
    from genrefocus.network_methods import CaseDepth

_TAKEN = {"identity", "input", "target", "unsharp", "richardson_lucy"}
_TAKEN |= {"classical_scatter", "classical_layered", "unsharp_scatter", "richardson_lucy_layered"}
_PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False}

MethodNetworks = Mapping[str, tuple[Mapping[NetworkTask, NetworkCard], str]]
"""Method -> cards of its networks, and where they come from."""


def run_job(config: DictConfig) -> None:
    """One job of a benchmark; the one that finds all records writes tables and report."""
    console, out, started = Console(stderr=True), _folder(config), time.monotonic()
    chosen = [one for one in config.benchmark.sets if one.cases.task in config.tasks]
    if not chosen:
        raise ValueError(f"{config.name} has no data set for {', '.join(config.tasks)}")
    given = [config.runs, config.loras, config.methods, config.predictions]
    names = [str(name) for some in given for name in some] + ["trained"] * (config.run is not None)
    if twice := {name for name in names if names.count(name) > 1 or name in _TAKEN}:
        raise ValueError(f"several methods are called {', '.join(twice)}; rename one of them")
    trained = _trained(config, [one.cases.task for one in chosen])
    for name, root in config.predictions.items():
        if not Path(root).is_dir():
            raise FileNotFoundError(f"predictions of {name}: {root} does not exist")
    own = {
        str(name): instantiate({key: one[key] for key in one if key != "tasks"})
        for name, one in config.methods.items()
    }
    _build(config, chosen)
    sets: list[CaseSet] = [instantiate(one.cases) for one in chosen]
    protocols = [_protocol(one, config) for one in chosen]

    from genrefocus.benchmark.methods import UserMethodError
    from genrefocus.benchmark.printed import summary
    from genrefocus.benchmark.report import REPORT_NAME
    from genrefocus.benchmark.suite import conclude, measure_all

    asked = {prompt for one in sets for prompt in getattr(one, "prompts", ())}
    methods = _methods(config, trained, own, asked, console)
    entries = [
        _entry(one, cases, protocol, methods[cases.task], config, console)
        for one, cases, protocol in zip(chosen, sets, protocols, strict=True)
    ]
    if silent := set(config.predictions) - {m.name for one in entries for m in one.methods}:
        raise ValueError(
            f"no folder of predictions for any task: {', '.join(map(str, silent))}; they lie in "
            "<folder>/<task>/<data set>"
        )
    job, jobs = config.job, config.jobs
    try:
        with Bars(config.progress and job == 0, console) as bars:
            measure_all(entries, out, bars=bars, workers=config.workers, job=job, jobs=jobs)
    except UserMethodError as error:
        print(f"genrefocus benchmark: {error}", file=sys.stderr)
        sys.exit(1)
    if not (tables := conclude(entries, out, seed=config.seed)):
        console.print(f"job {job} of {jobs} is done; others are not yet")
        return
    console.print(*summary(tables, console.width), sep="\n")
    places = {"all figures": out / "tables.md", "report": out / REPORT_NAME, "output folder": out}
    for name, place in places.items():
        console.print(f"{name:15}{place}", **_PLAIN)
    console.print(f"time           {(time.monotonic() - started) / 60:.1f} min", highlight=False)


def _folder(config: DictConfig) -> Path:
    """Of the results: that which is named, or one for each choice of images."""
    if config.out is not None:
        return Path(config.out)
    dataset = config.benchmark.get("dataset")
    parts = [config.name, dataset, None if config.limit is None else f"first_{config.limit}"]
    name = "_".join(str(part) for part in parts if part is not None)
    return Path(config.paths.outputs) / "benchmark" / name


def _build(config: DictConfig, chosen: Sequence[DictConfig]) -> None:
    """Make what chosen sets lack of simulated data; other jobs wait for the one that does."""
    read = str([OmegaConf.to_container(one, resolve=True) for one in chosen])
    for one in config.benchmark.build.values():
        ready = Path(one.ready)
        if str(ready.parent) in read and not ready.is_file():
            ready.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(ready.parent / ".lock"):
                if not ready.is_file():
                    instantiate(one.make)


def _trained(config: DictConfig, tasks: Sequence[BenchmarkTask]) -> MethodNetworks:
    """Networks of runs and LoRA files.

    Raises:
        FileNotFoundError, ValueError: a run or a file is not there.
    """
    found: dict[str, tuple[Mapping[NetworkTask, NetworkCard], str]] = {}
    runs = {**({} if config.run is None else {"trained": config.run}), **config.runs}
    for name, given in map(tuple, runs.items()):
        folder = _latest(config.paths.outputs, tasks) if given == "latest" else Path(given)
        if not (cards := networks_of(folder)):
            raise FileNotFoundError(
                f"{folder} does not exist or has no trained network; name the folder of a run, or "
                "train one with: make train"
            )
        found[str(name)] = cards, f"{_shown_path(folder)}, {described(cards)}"
    for name, files in config.loras.items():
        released = {task: released_card(task, config.flux, file) for task, file in files.items()}
        if not released or set(released) - {"deblur", "bokeh"}:
            raise ValueError(f"method {name} names no LoRA file: give deblur, bokeh or both")
        for task, file in files.items():
            if not Path(file).is_file():
                raise FileNotFoundError(f"loras.{name}.{task}: LoRA file {file} does not exist")
        named = ", ".join(f"{task} {Path(file).name}" for task, file in files.items())
        found[str(name)] = released, f"{named} on {_shown_path(config.flux)}"
    return found


def _latest(outputs: str, tasks: Sequence[BenchmarkTask]) -> Path:
    every: tuple[NetworkTask, ...] = ("deblur", "bokeh")
    try:
        return latest_run(outputs, [one for one in every if {one, "refocus"} & set(tasks)])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run=null measures without one") from None


def _shown_path(path: str | Path) -> str:
    """Relative to the working directory where it lies in it."""
    absolute = Path(path).absolute()
    inside = absolute.is_relative_to(Path.cwd())
    return absolute.relative_to(Path.cwd()).as_posix() if inside else str(path)


def _protocol(one: DictConfig, config: DictConfig) -> BenchmarkProtocol:
    if (file := config.protocols.get(one.cases.task)) is not None:
        return read_protocol(file)
    return load_protocol(*str(one.protocol).split("/", 1))


def _methods(
    config: DictConfig,
    trained: MethodNetworks,
    own: Mapping[str, Any],
    prompts: Collection[str],
    console: Console,
) -> Mapping[BenchmarkTask, list[tuple[Method, str | None]]]:
    """Networks and methods of the user's by task, each with where it comes from."""
    from genrefocus.benchmark.methods import UserMethod
    from genrefocus.network import load_networks
    from genrefocus.network_methods import methods_of

    for one in find_crowd() if trained and config.device == "cpu" and config.jobs == 1 else ():
        console.print(f"{one.subject} {one.detail}; {one.remedy}", **_PLAIN)
    depth = _depth(config) if trained else None
    found: dict[BenchmarkTask, list[tuple[Method, str | None]]] = {task: [] for task in TASKS}
    for name, (cards, origin) in trained.items():
        console.print(f"{name}: {origin}", **_PLAIN)
        networks = load_networks(cards, device=_device(config), prompts=prompts)
        for task, some in methods_of(networks, name, depth=depth).items():
            found[task] += [(method, f"{name}: {origin}") for method in some]
    for name, answer in own.items():
        for task in config.methods[name].get("tasks", TASKS):
            found[task].append((UserMethod(name, answer), None))
    return found


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


def _depth(config: DictConfig) -> "CaseDepth | None":
    from genrefocus.network_methods import EstimatedDepth

    chosen = config.get("depth") or config.benchmark.depth
    if chosen is None:
        return None
    source = instantiate(chosen)
    return EstimatedDepth(source) if hasattr(source, "depth") else source


def _entry(
    one: DictConfig,
    cases: CaseSet,
    protocol: BenchmarkProtocol,
    methods: Sequence[tuple[Method, str | None]],
    config: DictConfig,
    console: Console,
) -> "Entry":
    """A data set with all of its methods: shipped ones, ``methods``, and predictions."""
    from genrefocus.benchmark.suite import SIMULATED, baselines, entry_of

    root = OmegaConf.select(one, "validation.source.root", default="")
    validation = None if one.validation is None or root is None else instantiate(one.validation)
    if cases.task != "bokeh" and validation is None:
        console.print(
            f"{cases.name} has no validation images to choose settings of classical methods on: "
            "no rows for unsharp and richardson_lucy, alone or before a renderer",
            **_PLAIN,
        )
    everyone = baselines(cases.task, validation, slow=True)
    everyone += [method for method, _ in methods] + _predictions(config, cases, console)
    notes = [SIMULATED] if config.benchmark.build else []
    notes += [] if config.limit is None else [f"limit={config.limit}: the first images alone"]
    notes += dict.fromkeys(origin for _, origin in methods if origin)
    return entry_of(cases, protocol, everyone, notes)


def _predictions(config: DictConfig, cases: CaseSet, console: Console) -> list[Method]:
    """Of those that have a folder for this data set."""
    from genrefocus.benchmark.methods import Predictions

    found: list[Method] = []
    for name, root in config.predictions.items():
        folder = Path(root) / cases.task / cases.name
        if folder.is_dir():
            found.append(Predictions(str(name), folder))
        else:
            console.print(f"{name} has no answers for {cases.task}: no {folder}", **_PLAIN)
    return found
