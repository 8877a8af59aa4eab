"""``genrefocus benchmark``: methods on data sets under their protocols, a Hydra application."""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from genrefocus.benchmark.case import TASKS, Case, Method, Score, Task
from genrefocus.benchmark.cases import CaseSet, ShardCases
from genrefocus.benchmark.methods import (
    Classical,
    Identity,
    Predictions,
    RichardsonLucy,
    Unsharp,
)
from genrefocus.benchmark.protocol import Protocol, load_protocol, write_protocol
from genrefocus.benchmark.report import every_pair, write_report
from genrefocus.benchmark.results import read_results
from genrefocus.benchmark.runner import KPolicy, Plan, gather, run
from genrefocus.benchmark.tables import build_tables, rich_table, write_tables
from genrefocus.cli.configuration import checkout, run_application
from genrefocus.metrics.registry import MetricInfo, metrics
from genrefocus.network_card import latest_run
from genrefocus.trained import methods_from_run

_VALIDATION = 32
"""Validation cases that settings of classical methods are chosen on."""

_REGISTERED = {
    "lpips": "lpips_alex",
    "clip_iqa": "clipiqa-rn50",
    "maniqa": "maniqa-koniq",
    "musiq": "musiq-koniq",
}
"""Metric of a protocol -> name in the registry, where the two differ."""


HELP = """usage: genrefocus benchmark [run=latest] [key=value ...]

often    run=outputs/NAME/DATE, run=null for none;  tasks=[deblur,bokeh];  limit=6 for a trial
         +predictions.NAME=/folder with TASK/DATASET/KEY.png: other people's answers
         out=/folder;  device=cuda;  --cfg job prints all there is

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
    run_application(application, "genrefocus benchmark")
    return 0


def run_job(config: DictConfig) -> None:
    """One job of a benchmark; the one that finds all records writes tables and report."""
    try:
        _run(config)
    except (ValueError, OSError) as error:
        print(f"genrefocus benchmark: {error}", file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class _Entry:
    """A data set, its protocol, and who answers it."""

    cases: CaseSet
    protocol: Protocol
    plan: Plan
    methods: list[Method]


def _run(config: DictConfig) -> None:
    console, out = Console(stderr=True), Path(config.out)
    _build(config)
    trained = _trained(config, console)
    entries = [
        _entry(one, config, trained) for one in config.benchmark.sets if one.task in config.tasks
    ]
    if not entries:
        raise ValueError(f"nothing to measure: tasks {list(config.tasks)} of {', '.join(TASKS)}")
    for entry in entries:
        folder = out / "protocols"
        folder.mkdir(parents=True, exist_ok=True)
        write_protocol(entry.protocol, folder / f"{entry.cases.task}-{entry.cases.name}.yaml")
    with _bars(console, config.progress) as bars:
        for entry in entries:
            for method in entry.methods:
                title = f"{entry.cases.task}, {method.name}"
                task = bars.add_task(title, total=len(entry.cases.keys))
                run(
                    entry.cases,
                    method,
                    entry.plan,
                    out,
                    workers=0 if method.name.startswith("trained") else config.workers,
                    job=config.job,
                    jobs=config.jobs,
                    advance=lambda done, total, task=task: bars.update(  # type: ignore[misc]
                        task, completed=done, total=total
                    ),
                )
    _conclude(entries, out, config, console)


def _conclude(entries: Sequence[_Entry], out: Path, config: DictConfig, console: Console) -> None:
    plans = {(one.cases.task, one.cases.name): one.plan for one in entries}
    names = {str(one.cases.task): [method.name for method in one.methods] for one in entries}
    if gather(out, plans, [one.cases for one in entries], names) is None:
        console.print(f"job {config.job} of {config.jobs} is done; others are not yet")
        return
    results = read_results(out)
    tables = build_tables(results, seed=config.seed)
    for table in tables:
        roomy = console.width >= 16 + 14 * len(table.metrics)
        console.print(rich_table(table, intervals=roomy))
    write_tables(tables, out)
    report = write_report(results, tables, out / "report.html", pairs=every_pair, seed=config.seed)
    console.print(
        f"figures of single pictures, tables and report in {out}\nreport {report}", soft_wrap=True
    )


def _build(config: DictConfig) -> None:
    for one in (config.benchmark.get("build") or {}).values():
        if not Path(one.ready).is_file():
            instantiate(one.make)


def _trained(config: DictConfig, console: Console) -> Mapping[Task, list[Method]]:
    if config.run is None:
        return {}
    folder = Path(config.run)
    if config.run == "latest":
        folder = latest_run(config.paths.outputs, ("deblur", "bokeh"))
        console.print(f"measuring {folder}", soft_wrap=True)
    return methods_from_run(folder, outputs=config.paths.outputs, device=config.device)


def _entry(one: DictConfig, config: DictConfig, trained: Mapping[Task, list[Method]]) -> _Entry:
    cases = ShardCases(one.task, one.dataset, Path(one.folder), config.limit)
    protocol = load_protocol(one.task, one.dataset)
    known = metrics()
    scored: dict[str, Score] = {}
    unavailable: dict[str, str] = {}
    weights: dict[str, str | None] = {}
    for name in protocol.metrics:
        if name == "lvcorr":  # of a series over K, which the runner makes
            continue
        info = known[_REGISTERED.get(name, name)]
        if (why := info.available()) is None:
            scored[name], weights[name] = _Scored(info.name), info.weights()
        else:
            unavailable[name] = why
    protocol = protocol.filled(fingerprint=cases.fingerprint, weights=weights)
    search = protocol.k_search
    policy = (
        KPolicy(False)
        if search is None
        else KPolicy(True, search.budget, search.least_radius, search.largest_radius)
    )
    plan = Plan(scored, unavailable, policy, "lvcorr" in protocol.metrics, protocol.hash)
    methods = [Identity(), *_classical(one, cases), *trained.get(one.task, [])]
    for name, folder in config.predictions.items():
        methods.append(Predictions(str(name), Path(folder) / one.task / one.dataset))
    return _Entry(cases, protocol, plan, methods)


@dataclass(frozen=True)
class _Scored:
    """A metric of the registry on an answer."""

    name: str

    def __call__(self, answer: Tensor, case: Case) -> float:
        return _metric(self.name)(
            answer,
            target=case.target,
            aif=case.aif,
            disparity=case.disparity,
            focus_disparity=case.focus_disparity,
            strength=case.strength,
        )


@functools.cache
def _metric(name: str) -> MetricInfo:
    return metrics()[name]


def _classical(one: DictConfig, cases: CaseSet) -> list[Method]:
    if one.task != "deblur":
        return [Classical("scatter"), Classical("layered")]
    if one.validation is None:
        return []
    validation = ShardCases(one.task, one.dataset, Path(one.validation), _VALIDATION)
    fitted = [validation[key] for key in validation.keys]
    return [Unsharp.fitted(fitted), RichardsonLucy.fitted(fitted)]


def _bars(console: Console, visible: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not visible,
    )
