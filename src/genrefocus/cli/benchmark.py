"""``genrefocus benchmark``: methods on data sets under their protocols, a Hydra application."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from genrefocus.benchmark.case import TASKS, Method, Task
from genrefocus.benchmark.methods import Classical, Identity, Predictions, RichardsonLucy, Unsharp
from genrefocus.benchmark.protocol import write_protocol
from genrefocus.benchmark.report import every_pair, write_report
from genrefocus.benchmark.results import read_results
from genrefocus.benchmark.runner import gather, run
from genrefocus.benchmark.tables import build_tables, rich_tables, write_tables
from genrefocus.cli.benchmark_parts import Entry, entry_of
from genrefocus.cli.configuration import (
    checkout,
    require_given,
    run_application,
    wrong_input_ends,
)
from genrefocus.network_card import described, latest_run, networks_of
from genrefocus.progress import Bars
from genrefocus.trained import CaseDepth, EstimatedDepth, methods_from_flux, methods_from_run

_WITHOUT_NETWORK = (Identity, Classical, Unsharp, RichardsonLucy, Predictions)
_TAKEN = {"identity", "input", "target"}

HELP = """usage: genrefocus benchmark [benchmark=SET] [run=latest] [key=value ...]

sets     embedded (made on first use); dpdd, dpdd_crops, realdof, pairs with source.root=/folder;
         lightfields with lightfield_folder=/folder;  shards with benchmark.folder=/folder
methods  run=outputs/NAME/DATE, run=null for none;  +runs.NAME=/folder: others beside it
         +loras.NAME.deblur=FILE +loras.NAME.bokeh=FILE flux=/folder: LoRA files on FLUX.1-dev
         +predictions.NAME=/folder with TASK/DATASET/KEY.png: other people's answers
         +methods.NAME._target_=a.module.Class: your own code
often    tasks=[deblur,bokeh]  limit=6 for a trial  out=/folder  device=cuda
         --cfg job prints all there is

See docs/benchmark.md.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the application with overrides; exit status 2 for wrong input."""
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    sys.argv = ["genrefocus benchmark", *arguments]
    application = hydra.main(
        version_base=None, config_path=str(checkout() / "conf"), config_name="bench"
    )(run_job)
    run_application(application, "genrefocus benchmark", "bench")
    return 0


def run_job(config: DictConfig) -> None:
    """One job of a benchmark; the one that finds all records writes tables and report."""
    try:
        with wrong_input_ends("genrefocus benchmark"):
            _run(config)
    except KeyboardInterrupt:
        print(
            "genrefocus benchmark: interrupted; measured pictures are kept, "
            "the same command goes on",
            file=sys.stderr,
        )
        sys.exit(130)


def _run(config: DictConfig) -> None:
    require_given(config)
    console, out = Console(stderr=True), Path(config.out)
    if unknown := set(config.tasks) - set(TASKS):
        raise ValueError(f"tasks {sorted(unknown)} are unknown; use {', '.join(TASKS)}")
    chosen = [one for one in config.benchmark.sets if one.cases.task in config.tasks]
    if not chosen:
        raise ValueError(f"{config.name} has no data set for {', '.join(config.tasks)}")
    methods = _methods(config, console)
    _build(config)
    entries = [entry_of(one, config, methods[one.cases.task], console) for one in chosen]
    with _alone(out):
        (out / "protocols").mkdir(exist_ok=True)
        for entry in entries:
            name = f"{entry.cases.task}-{entry.cases.name}.yaml"
            write_protocol(entry.protocol, out / "protocols" / name)
    with Bars(config.progress and config.job == 0, console) as bars:
        for entry in entries:
            for method in entry.methods:
                _measure(entry, method, config, bars)
    with _alone(out):
        _conclude(entries, out, config, console)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of all jobs that work on a folder only one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


def _measure(entry: Entry, method: Method, config: DictConfig, bars: Bars) -> None:
    total = len(entry.cases.keys[config.job :: config.jobs])
    task = bars.add_task(f"{entry.cases.task}, {method.name}", total=total)
    run(
        entry.cases,
        method,
        entry.plan,
        Path(config.out),
        # Networks are not copied to other processes, and other people's code may hold anything.
        workers=config.workers if isinstance(method, _WITHOUT_NETWORK) else 0,
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
    results = read_results(out)
    tables = build_tables(results, seed=config.seed)
    for table in tables:
        console.print(*rich_tables(table, console.width), sep="\n")
    write_tables(tables, out)
    report = write_report(results, tables, out / "report.html", pairs=every_pair, seed=config.seed)
    console.print(
        f"figures of single pictures, tables and report in {out}\nreport {report}", soft_wrap=True
    )


def _build(config: DictConfig) -> None:
    """Make simulated data where they are missing; other jobs wait for the one that does."""
    for one in config.benchmark.build.values():
        ready = Path(one.ready)
        if not ready.is_file():
            with _alone(ready.parent):
                if not ready.is_file():
                    instantiate(one.make)


def _methods(config: DictConfig, console: Console) -> Mapping[Task, list[Method]]:
    """All but the shipped ones, by task."""
    runs = {**({} if config.run is None else {"trained": config.run}), **config.runs}
    depth = _depth(config) if runs or config.loras else None
    device, outputs, found = _device(config), config.paths.outputs, []
    for name, given in runs.items():
        folder = latest_run(outputs) if given == "latest" else Path(given)
        found.append(
            methods_from_run(folder, outputs=outputs, name=str(name), device=device, depth=depth)
        )
        console.print(f"{name}: {folder}, {described(networks_of(folder))}", soft_wrap=True)
    for name, files in config.loras.items():
        loras = methods_from_flux(
            config.flux,
            deblur_lora=files.get("deblur"),
            bokeh_lora=files.get("bokeh"),
            name=str(name),
            device=device,
            depth=depth,
        )
        found.append(loras)
    own = [_own(str(name), one) for name, one in config.methods.items()]
    methods: dict[Task, list[Method]] = {task: [] for task in TASKS}
    for task, some in methods.items():
        some += [method for part in found for method in part.get(task, [])]
        some += [method for tasks, method in own if task in tasks]
        names = [method.name for method in some] + list(map(str, config.predictions))
        if twice := {name for name in names if names.count(name) > 1 or name in _TAKEN}:
            raise ValueError(f"several methods are called {', '.join(twice)}; rename one of them")
    return methods


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
    method: Method = instantiate({key: given[key] for key in given if key != "tasks"})
    if method.name != name:
        raise ValueError(f"methods.{name} makes a method that calls itself {method.name}")
    return tasks, method
