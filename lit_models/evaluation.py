"""The end of a run: the benchmark of its networks on its own test sets, and its tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from genrefocus.backbone import Backbone
from genrefocus.benchmark.case import BenchmarkTask, Method
from genrefocus.benchmark.cases import ShardCases
from genrefocus.benchmark.methods import GroundTruth, Identity
from genrefocus.benchmark.parts import VISIBLE, over_blur
from genrefocus.benchmark.printed import shown
from genrefocus.benchmark.protocol import protocol_at_given_k
from genrefocus.benchmark.published import IDENTITY
from genrefocus.benchmark.report import REPORT_NAME
from genrefocus.benchmark.results import read_results
from genrefocus.benchmark.runner import DEBLURRED, Entry
from genrefocus.benchmark.suite import SIMULATED, baselines, conclude, entry_of, measure_all
from genrefocus.benchmark.tables import RECORDS_NAME, build_tables
from genrefocus.benchmark.typeset import number
from genrefocus.network import Network, network_of
from genrefocus.network_card import FILE_NAME, read_network_card
from genrefocus.network_methods import CAPTIONS, TOLD, DeblurMethod, RefocusMethod
from genrefocus.pipeline import RefocusPipeline
from genrefocus.report.contact_sheet import sheet_of_files
from genrefocus.runs import BENCHMARK, FINISHED, RESULT_NAME, git_commit
from genrefocus.terminal import Bars, counted
from genrefocus.writing import write_json
from lit_models.ranks import Ranks

CONSOLE = Console()
CHAIN = "chain"
"""Name of both networks of a run, one after the other."""

_FIDELITY = ("psnr", "ssim", "lpips")
_SHAPE = ("shape_recognised", "shape_correlation")
_FITTED = 32  # validation pairs that settings of classical methods are chosen on
_ROWS = 8  # of a contact sheet, about


def evaluate(config: DictConfig, folder: Path, backbone: Backbone, ranks: Ranks) -> None:
    """Measure all networks of a run on its test sets; finished measurements are kept.

    Args:
        config: of the run.
        folder: of the run, which gets ``benchmark/``.
        backbone: that the networks were trained on.
        ranks: each measures its share of the cases.

    Raises:
        FileNotFoundError, ValueError: a test set or a network cannot be used.
    """
    if not (stages := trained_stages(config, folder)):
        return
    out, first = folder / BENCHMARK, ranks.rank == 0
    with ranks.together("evaluation"), Bars(first) as bars:
        entries = _entries(config, folder, stages, backbone.to(ranks.device))
        with ranks.together("prompts_evaluation"):
            if first:
                backbone.prompts.learn(_prompts(entries), ranks.device)
        measure_all(entries, out, bars=bars, job=ranks.rank, jobs=ranks.world)
        backbone.meet()
    with ranks.together("tables"):
        if first:
            conclude(entries, out, seed=config.seed)
            for one in entries:
                _write_sheet(one, stages, out)


def trained_stages(config: DictConfig, folder: Path) -> list[str]:
    """Stages of the curriculum that have trained a network."""
    files = (FILE_NAME, FINISHED)
    return [n for n in config.curriculum if all((folder / n / one).is_file() for one in files)]


def _entries(
    config: DictConfig, folder: Path, stages: Sequence[str], backbone: Backbone
) -> list[Entry]:
    """Test sets with the networks of their task; LVCorr has a set of its own."""
    networks: dict[BenchmarkTask, dict[str, Network]] = {}
    for name in stages:
        network = network_of(read_network_card(folder / name), backbone)
        networks.setdefault(_task(folder / name), {})[name] = replace(network, seed=config.seed)
    entry = partial(_entry, config, folder)
    found = []
    for task, some in networks.items():
        compared = [*_baselines(task, config), *_methods(task, some, config)]
        test = _cases(task, "test", config)
        read = ("legibility",) if test.shows_words else ()
        found.append(entry(test, (*_FIDELITY, *read), compared))
        if task != "deblur":
            control = _cases(task, "control", config)
            found.append(entry(control, ("lvcorr",), [*compared[1:], GroundTruth()]))
        if task == "bokeh" and any(network.takes_shape for network in some.values()):
            shapes = _cases(task, "shapes", config)
            found.append(entry(shapes, (*_FIDELITY, *_SHAPE), [*compared, GroundTruth()]))
    if {"deblur", "bokeh"} <= networks.keys():
        deblur, bokeh = ([*networks[one].values()][-1] for one in ("deblur", "bokeh"))
        test = _cases("refocus", "test", config)
        if deblur.takes_draft:
            CONSOLE.print("the chain was not measured: DeblurNet reads a draft of each photograph")
        elif not test.has("blurry"):
            CONSOLE.print("the chain was not measured: no test sample has a blurred photograph")
        else:
            both = RefocusPipeline(deblur, bokeh)
            chains = [RefocusMethod(both, CHAIN, seed=config.seed)]
            if deblur.takes_map:
                chains.append(RefocusMethod(both, CHAIN + TOLD, seed=config.seed, told=True))
            found.append(entry(test, _FIDELITY, [*_baselines("refocus", config), *chains]))
    return found


def _task(stage: Path) -> BenchmarkTask:
    card = read_network_card(stage)
    return "refocus" if card.variant == "direct" else card.task


def _cases(task: BenchmarkTask, name: str, config: DictConfig) -> ShardCases:
    key = name if name != "test" else "deblur" if task == "deblur" else "bokeh"
    folder = Path(config.evaluation[key])
    most = config.test_samples
    return ShardCases(task, name, folder, limit=most, spread=True, own_prompts=True)


def _baselines(task: BenchmarkTask, config: DictConfig) -> list[Method]:
    validation = None
    if task != "bokeh":
        folder = Path(config.evaluation.validation)
        validation = ShardCases("deblur", "validation", folder, limit=_FITTED)
    return baselines(task, validation, slow=config.evaluation.classical)


def _methods(
    task: BenchmarkTask, networks: Mapping[str, Network], config: DictConfig
) -> list[Method]:
    """The networks of the stages, after the base without LoRA."""
    last = [*networks.values()][-1]
    bare = replace(last.denoiser, lora=None, shape_lora=None)
    base = replace(last, denoiser=bare, weights="no LoRA", origin="")
    named = {**({"base": base} if config.evaluation.base else {}), **networks}
    if last.takes_shape and len(networks) == 1:  # what it is no worse than, asked for a disc
        alone = replace(last, denoiser=replace(last.denoiser, shape_lora=None))
        named[f"{[*networks][-1]}_frozen"] = replace(alone, weights=f"{last.weights}, the first")
    if task == "deblur":
        told = [DeblurMethod(n, name + TOLD, True) for name, n in networks.items() if n.takes_map]
        asked = [*CAPTIONS] if config.evaluation.captions else ["own"]
        blind = [
            DeblurMethod(network, name + CAPTIONS[caption], caption=caption)
            for name, network in named.items()
            for caption in asked
        ]
        return [*blind, *told]
    return [
        RefocusMethod(RefocusPipeline(None, network), name, seed=config.seed)
        for name, network in named.items()
    ]


def _entry(
    config: DictConfig,
    folder: Path,
    cases: ShardCases,
    metrics: Sequence[str],
    methods: Sequence[Method],
) -> Entry:
    protocol = protocol_at_given_k(
        cases.task, cases.name, metrics, crop=config.data.crop, seed=config.seed
    )
    notes = [SIMULATED] if config.data.build is not None else []
    for name in (method.name for method in methods):
        if name in config.curriculum:
            made = json.loads((folder / name / FINISHED).read_text())
            steps, speed = counted(made["steps"], "step"), made["samples_per_second"]
            notes.append(f"{name}: {steps}, {speed} samples/s")
    return entry_of(cases, protocol, methods, notes)


def _prompts(entries: Sequence[Entry]) -> set[str]:
    """All that networks are asked with."""
    asked = [getattr(method, "asked", {}) for entry in entries for method in entry.methods]
    found = {prompt for stages in asked for prompt, _ in stages.values()}
    sets = [entry.cases for entry in entries]
    return found.union(*(one.prompts for one in sets if isinstance(one, ShardCases)))


def _write_sheet(entry: Entry, stages: Sequence[str], out: Path) -> None:
    """A contact sheet of strong and slight blur: input, baselines, outputs, target, figures.

    Beside the output of a chain stands what its DeblurNet made.
    """
    place, results = (entry.cases.task, entry.cases.name), read_results(out)
    images, trained = out.joinpath("images", *place), (*stages, CHAIN)
    metric, figures = next(iter(entry.protocol.metrics)), results.figures
    figures = figures[(figures[["task", "dataset"]] == place).all(axis=1)]
    values = figures[figures["metric"] == metric].set_index(["method", "key"])["value"].dropna()
    shown = "true all-in-focus image" if entry.cases.task == "bokeh" else "photograph"
    columns, titles = [("input", IDENTITY)], [f"input: {shown}"]
    for name in (one.name for one in entry.methods if not isinstance(one, (Identity, GroundTruth))):
        if (images / f"{name}{DEBLURRED}").is_dir():
            columns.append((f"{name}{DEBLURRED}", ""))
            titles.append(f"all in focus: {name}")
        columns.append((name, name))
        titles.append(f"{'output' if name.startswith(trained) else 'baseline'}: {name}")
    rows, captions = [], []
    for key, blur in over_blur(entry.cases.keys, results.parts[place], _ROWS).items():
        rows.append([images / name / f"{key}.png" for name, _ in (*columns, ("target", ""))])
        own = [values.get((method, key)) for _, method in columns]
        texts = ["" if one is None else f"{metric} {number(one)}" for one in own]
        captions.append([*texts, f"{key}{blur and f', blur {blur}'}"])
    if (sheet := sheet_of_files(rows, [*titles, "target"], captions)) is not None:
        sheet.save(out / f"{entry.name}.png")


def report(folder: Path, title: str, seed: int) -> None:
    """Print the tables of a run's benchmark, and where to look."""
    CONSOLE.rule(escape(title))
    out = folder / BENCHMARK
    if (out / "rows.parquet").is_file():
        tables = build_tables(read_results(out), seed=seed, pairs=lambda *_: ())
        CONSOLE.print(*shown(tables, CONSOLE.width), sep="\n")
    for sheet in sorted(out.glob("*.png")):
        CONSOLE.print(f"contact sheet  {sheet}", soft_wrap=True, markup=False)
    for page in out.glob(REPORT_NAME):
        CONSOLE.print(f"report         {page}", soft_wrap=True, markup=False)
    CONSOLE.print(f"output folder  {folder}", soft_wrap=True, markup=False)


def result_value(config: DictConfig, folder: Path) -> float | None:
    """The figure of ``result.json``, which is written first if it is not there.

    Raises:
        ValueError: ``result`` names a stage or, in a named sweep, a metric that was not measured.
    """
    if not (file := folder / RESULT_NAME).is_file():
        write_json(file, _result(config, folder))
    value: float | None = json.loads(file.read_bytes())["value"]
    return value


def _result(config: DictConfig, folder: Path) -> dict[str, Any]:
    """What sweeps compare: the figures of one stage, for ``genrefocus.benchmark.ablation``."""
    files = [folder / name / FINISHED for name in config.curriculum]
    summaries = {one.parent.name: json.loads(one.read_text()) for one in files if one.is_file()}
    means = _means(folder / BENCHMARK)
    tasks = {method: task for task, some in means.items() for method in some}
    own = {name: one["metrics"] for name, one in summaries.items() if "metrics" in one}  # a base
    made = (*config.curriculum, CHAIN)
    own |= {n: means[task][n] for n, task in tasks.items() if n.removesuffix(TOLD) in made}
    trained = [name for name in config.curriculum if name in own]
    stage = config.result.stage or (trained[-1] if trained else None)
    if stage not in (*own, None):
        raise ValueError(f"result.stage={stage} was not measured; there are {', '.join(own)}")
    figures, task = (own[stage], tasks.get(stage)) if stage else ({}, None)
    metric = config.result.metric
    if metric not in figures and config.sweep_name is not None:
        raise ValueError(f"result.metric={metric} was not measured; there are {', '.join(figures)}")
    baselines = {name: some for name, some in means.get(task, {}).items() if name not in own}
    images = Path(BENCHMARK) / "images" / str(task) / "test"
    columns = {"input": "input", "output": str(stage), "target": "target"}
    parts = read_results(folder / BENCHMARK).parts.get((str(task), "test"), {}) if task else {}
    return {
        "cell": config.cell,
        "seed": config.seed,
        "stage": stage,
        "metric": metric,
        "value": figures.get(metric),
        "figures": figures,
        "references": baselines,
        "steps": sum(one.get("steps", 0) for one in summaries.values()),
        "test_data": _test_data(folder / BENCHMARK, task),
        "images": {title: str(images / name) for title, name in columns.items()} if task else {},
        "visible": [key for key, own in parts.items() if VISIBLE in own],
        "git_commit": git_commit(),
    }


def _means(out: Path) -> dict[Any, dict[str, dict[str, float]]]:
    """Task -> method -> metric -> mean over a test set."""
    found: dict[Any, dict[str, dict[str, float]]] = {}
    for one in json.loads((out / RECORDS_NAME).read_text()) if out.is_dir() else []:
        if one["mean"] is not None and one["part"] is None:
            figures = found.setdefault(one["task"], {}).setdefault(one["method"], {})
            figures[one["metric"]] = round(one["mean"], 4)
    return found


def _test_data(out: Path, task: str | None) -> dict[str, str | None]:
    """Test set -> fingerprint; BokehNet and the chain have the same sets."""
    protocols = read_results(out).protocols if task else {}
    deblurs = task == "deblur"
    return {
        dataset: protocol.dataset.fingerprint
        for (other, dataset), protocol in protocols.items()
        if (other == "deblur") == deblurs
    }
