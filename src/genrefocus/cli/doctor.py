"""``genrefocus doctor [OVERRIDES...]``: what would stop a run of train.py, found without a GPU."""

import argparse
import difflib
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.batches import micro_batches
from genrefocus.activations import Step, activation_bytes
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.cli.configuration import compose_training, require_bounds, settle_missing
from genrefocus.cli.validation_share import check_validation
from genrefocus.data.images import pictures_below
from genrefocus.preflight import (
    FLUX_TEXT,
    Finding,
    Layout,
    check_disk,
    check_flux,
    check_layout,
    check_lora,
    check_main_memory,
    check_memory,
    check_metrics,
    check_shards,
    check_sidecars,
    check_sizes,
    flux_dev_on_meta,
    lora_parameters,
    memory_parts,
)

_GPU_MEMORY = "gpu_memory="
_PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
FLUX_PIXELS_PER_TOKEN = 16
_STYLE = {"ok": "green", "warning": "yellow", "error": "red"}


def run(args: argparse.Namespace) -> int:
    """Print every finding with what mends it; 1 when there is an error."""
    given = [one for one in args.overrides if one.startswith(_GPU_MEMORY)]
    gpu = _gpu_memory(given[-1]) if given else None
    try:
        config = compose_training([one for one in args.overrides if one not in given])
        settle_missing(config)
        require_bounds(config)
        OmegaConf.resolve(config)
    except (ValueError, OmegaConfBaseException) as error:
        remedy = "python train.py --cfg job prints what there is"
        findings = [Finding("configuration", "error", " ".join(str(error).split()), remedy)]
    else:
        findings = [
            *_found("configuration", lambda: _configuration(config)),
            *_found("inputs", lambda: _inputs(config)),
            *_found("data", lambda: _data(config)),
            *_found("validation", lambda: [check_validation(config)]),
            *_found("model", lambda: _model(config, gpu)),
            check_metrics(),
        ]
    console = Console()
    console.print(_table(findings))
    for one in findings:  # whole lines below the table, which can be copied
        if one.remedy:
            console.print(f"{one.subject}:\n  {one.remedy}", **_PLAIN)
    return int(any(one.verdict == "error" for one in findings))


def _found(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; one that cannot go on is an error in the table, not its end."""
    try:
        return list(check())
    except (ValueError, OSError, HydraException, OmegaConfBaseException) as error:
        remedy = "python train.py --cfg job prints what there is"
        return [Finding(subject, "error", " ".join(str(error).split()), remedy)]


def _gpu_memory(given: str) -> int:
    try:
        gib = float(given.removeprefix(_GPU_MEMORY))
    except ValueError:
        gib = 0.0
    if not gib > 0:
        raise ValueError(f"{given}: give the memory of a GPU in GiB, such as gpu_memory=80")
    return int(gib * 1024**3)


def require_inputs(config: DictConfig) -> None:
    """Look for the inputs of all stages before the first one starts.

    Raises:
        ValueError: some are missing, a class does not take what the configuration gives it, or
            there is no GPU; one line for each, with what mends it.
    """
    checks = (*_device(config), *_configuration(config), *_inputs(config), *_data(config))
    found = [one for one in checks if one.verdict == "error"]
    if found:
        lines = [f"{one.subject}: {one.detail}; {one.remedy}" for one in found]
        raise ValueError("\n  ".join(["inputs are missing or wrong", *lines]))


def print_validation_share(config: DictConfig) -> None:
    """A line about what validation costs, for the start of a run."""
    found = check_validation(config)
    Console().print(f"validation: {found.detail}", soft_wrap=True, markup=False, highlight=False)


def _configuration(config: DictConfig) -> Iterator[Finding]:
    """Every class exists, and the parts of every stage can be built."""
    groups = ("backbone", "trainer", "callbacks", "logger", "data")
    parts = {name: config.get(name) for name in groups}
    parts |= {f"stages.{name}": config.stages[name] for name in config.curriculum}
    failures = 0
    for place, target in _targets(parts):
        try:
            known = _known_options(get_object(target))
        except (HydraException, ImportError, ValueError) as error:
            failures += 1
            reason = " ".join(str(error).split())
            yield Finding(place, "error", f"{target}: {reason}", f"{place}._target_=<class>")
            continue
        given = [str(key) for key in OmegaConf.select(config, place) if str(key)[0] != "_"]
        for key in given:
            if known is None or key in known:
                continue
            failures += 1
            close = difflib.get_close_matches(key, known, n=1)
            detail = f"{target} has no such option"
            remedy = f"{place}.{close[0]}=..." if close else f"leave {place}.{key} out"
            yield Finding(f"{place}.{key}", "error", detail, remedy)
    for name in config.curriculum:
        stage = config.stages[name]
        try:
            for key in ("module", "network", "datamodule"):
                if key in stage:
                    instantiate(stage[key])
        except (HydraException, ValueError) as error:
            failures += 1
            reason = " ".join(str(error).split())
            yield Finding(f"stages.{name}", "error", reason, f"stages.{name}.<option>=<value>")
    if not failures:
        yield Finding("configuration", "ok", f"{config.name}: {', '.join(config.curriculum)}")


def _known_options(target: Any) -> set[str] | None:
    """Keywords that a class, with those it inherits from, or a function takes; None: any."""
    known: set[str] = set()
    for one in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        found = inspect.signature(one.__init__ if inspect.isclass(one) else one).parameters
        known |= set(found)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found.values()):
            return known
    return None


def _device(config: DictConfig) -> Iterator[Finding]:
    if config.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        yield Finding("trainer", "error", "torch finds no CUDA device", "trainer=cpu")


def _targets(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, (dict, DictConfig)):
        if isinstance(node.get("_target_"), str):
            yield place, node["_target_"]
        for key in node:
            yield from _targets(node[key], f"{place}.{key!s}".lstrip("."))


def _inputs(config: DictConfig) -> Iterator[Finding]:
    """LoRA files and photographs that stages start from: there, or made by an earlier stage."""
    run, done = Path(config.paths.run), set()
    for name in config.curriculum:
        stage = config.stages[name]
        given = stage.get("module", stage.get("network"))
        option = "inputs.bokeh_lora" if "bokeh" in given._target_.lower() else "inputs.deblur_lora"
        if OmegaConf.is_missing(given, "init_lora"):
            yield Finding(f"{name}: LoRA", "error", "none is given", f"{option}=<file>")
        elif (
            given.get("init_lora") is not None
            and run / Path(given.init_lora).parent.name not in done
        ):
            if not Path(given.init_lora).is_file():
                missing = f"{given.init_lora} does not exist"
                yield Finding(f"{name}: LoRA", "error", missing, f"{option}=<file>")
            else:
                yield Finding(f"{name}: LoRA", "ok", str(given.init_lora))
        if stage.kind == "pseudo_aif":
            if given.get("pre_deblur"):
                detail = "DeblurNet with pre_deblur=true reads a draft, which photographs lack"
                remedy = "stages.deblurnet.module.pre_deblur=false"
                yield Finding(f"{name}: draft", "error", detail, remedy)
            yield from _photographs(config, name)
        done.add(run / name)


def _photographs(config: DictConfig, stage: str) -> Iterator[Finding]:
    """The folders of photographs and of what belongs to them, unless the run makes them."""
    prepare = config.stages[stage].prepare
    photos = Path(prepare.photos)
    given = {"data.photos": photos}
    estimates: tuple[Literal["depth"], Literal["mask"]] = ("depth", "mask")
    given |= {f"{w}.folder": Path(prepare[w].folder) for w in estimates if "folder" in prepare[w]}
    own = {key: folder for key, folder in given.items() if _maker(config, folder) is None}
    absent = {key: folder for key, folder in own.items() if not folder.is_dir()}
    for key, folder in absent.items():
        detail = f"{folder} does not exist"
        yield Finding(f"{stage}: {key}", "error", detail, f"{key}=<folder>")
    if "data.photos" in own and not absent:
        for what in estimates:
            if f"{what}.folder" in given:
                yield from check_sidecars(
                    {path.relative_to(photos).as_posix(): path for path in pictures_below(photos)},
                    given[f"{what}.folder"],
                    what,
                    by_exif=True,
                )
        yield from check_sizes(photos, long_edge=prepare.long_edge, least_edge=prepare.least_edge)


def _data(config: DictConfig) -> Iterator[Finding]:
    """Shards of every stage that trains, and its samples against ranks, batches and workers."""
    ranks, seen = _ranks(config), set()
    for name in config.curriculum:
        stage = config.stages[name]
        if stage.kind != "train":
            continue
        data, routes = stage.datamodule, {}
        folders = {f"train.{route}": folder for route, folder in data.train.items()}
        folders |= {
            f"{split}.{n}": f for split in ("val", "test") for n, f in enumerate(data[split])
        }
        for key, folder in folders.items():
            split, _, route = key.partition(".")
            if split == "train" and not data.weights.get(route, 0) > 0:
                continue
            option = _option(config, Path(folder)) or (
                f"stages.{name}.datamodule.{key if split == 'train' else split}"
            )
            made_by = _maker(config, Path(folder))
            finding, count = check_shards(
                Path(folder), crop=data.crop, made_by=made_by, option=option
            )
            if folder not in seen:
                seen.add(folder)
                yield finding
            if split == "train" and count is not None:
                routes[route] = count
        try:
            batch, accumulate = micro_batches(stage.global_batch, data.batch_size, ranks)
        except ValueError as error:
            yield Finding(f"{name}: batch", "error", str(error), f"stages.{name}.global_batch=...")
            continue
        layout = Layout(ranks, data.num_workers, batch, accumulate)
        yield from check_layout(name, routes, layout)


def _option(config: DictConfig, folder: Path) -> str | None:
    """The option that names the parent of a split's folder, if one does."""
    for group in ("data", "inputs"):
        for key, value in config[group].items():
            if isinstance(value, str) and Path(value) == folder.parent:
                return f"{group}.{key}"
    return None


def _maker(config: DictConfig, folder: Path) -> str | None:
    """What makes a set during the run: the embedded data's build, or an earlier stage."""
    if config.data.build is not None and folder.is_relative_to(config.data.root):
        return "the first run"
    for name in config.curriculum:
        if config.stages[name].kind == "pseudo_aif" and folder.is_relative_to(
            config.stages[name].out
        ):
            return f"stage {name}"
    return None


def _model(config: DictConfig, gpu: int | None) -> Iterator[Finding]:
    """Base weights, LoRA targets, memory and disk."""
    flux = "flux" in config.backbone._target_
    if flux:
        yield check_flux(config.backbone.path)
        transformer = flux_dev_on_meta()
    else:
        try:
            transformer = instantiate(config.backbone).transformer
        except (HydraException, ValueError, OSError) as error:
            remedy = "backbone.path=<weights of the tiny base>"
            reason = str(error.__cause__ or error)
            yield Finding("tiny base", "error", " ".join(reason.split()), remedy)
            return
        yield Finding("tiny base", "ok", config.backbone.get("path", "untrained"))
    layers = (transformer.config.num_layers, transformer.config.num_single_layers)
    yield check_lora(transformer, layers)
    ranks = {
        name: config.stages[name].module.rank
        for name in config.curriculum
        if config.stages[name].kind == "train"
    }
    # Prodigy keeps two moments, the start and a running sum; the others two moments.
    moments = 4 if "prodigy" in config.optimizer._target_.lower() else 2
    sizes = [lora_parameters(transformer, rank) for rank in ranks.values()]
    bytes_each = instantiate(config.backbone.dtype).itemsize if flux else 4
    parts = memory_parts(
        transformer, max(sizes, default=0), bytes_each=bytes_each, moments=moments, flux=flux
    )
    if flux:
        yield check_main_memory(parts["base"], FLUX_TEXT * bytes_each, _main_memory())
        parts["activations"] = max(_activations(config), default=0)
    where, available = ("the GPU", gpu) if gpu else _memory(config)
    fits = parts["base"] < available
    smaller = " ".join(f"stages.{name}.module.rank={rank // 2}" for name, rank in ranks.items())
    yield check_memory(
        parts,
        available=available,
        where=where,
        remedy=smaller if fits else "trainer=gpu on a larger device, or backbone=tiny",
    )
    kept = config.callbacks.get("snapshots")
    files = 1 if kept is None else 2 + kept.newest  # what is exported, the newest, and the best
    yield check_disk(
        Path(config.paths.outputs),
        checkpoints=[4 * size * (2 + moments) for size in sizes],
        loras=[4 * size * files for size in sizes],
    )


def _activations(config: DictConfig) -> Iterator[int]:
    """Bytes that each stage keeps for backward at its micro-batch."""
    side, ranks = config.data.crop // FLUX_PIXELS_PER_TOKEN, _ranks(config)
    for name in config.curriculum:
        stage = config.stages[name]
        if stage.kind == "train":
            drafted = stage.module.get("pre_deblur", False)
            batch, _ = micro_batches(stage.global_batch, stage.datamodule.batch_size, ranks)
            step = Step(
                batch=batch,
                grid=(side, side),
                text=config.backbone.max_text_length,
                conditions=2 if drafted or "bokeh" in stage.module._target_.lower() else 1,
                rank=stage.module.rank,
                dtype=instantiate(config.backbone.dtype),
            )
            checkpointing = config.backbone.gradient_checkpointing
            yield activation_bytes(FLUX_DEV_CONFIG, step, checkpointing=checkpointing)


def _memory(config: DictConfig) -> tuple[str, int]:
    if config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return device.name, int(device.total_memory)
    return "this machine (main memory)", _main_memory()


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ranks(config: DictConfig) -> int:
    """Processes that the trainer would start; -1 devices are all that this machine has."""
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    if devices in (-1, "auto", "-1"):
        devices = max(1, torch.cuda.device_count())
    elif not isinstance(devices, int):
        devices = len(devices) if not isinstance(devices, str) else len(devices.split(","))
    return int(devices) * int(nodes)


def _table(findings: list[Finding]) -> Table:
    table = Table(title="Preflight", title_justify="left", show_lines=False)
    for column in ("", "checked", "found"):
        table.add_column(column, overflow="fold")
    for one in findings:
        verdict = f"[{_STYLE[one.verdict]}]{one.verdict}[/]"
        table.add_row(verdict, escape(one.subject), escape(one.detail))
    return table
