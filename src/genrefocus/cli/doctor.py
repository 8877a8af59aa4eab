"""``genrefocus doctor [OVERRIDES...]``: what would stop a run of train.py, found without a GPU."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genrefocus.configuration.composing import compose_training, settle_missing, trained
from genrefocus.configuration.needs import (
    find_base,
    find_data,
    find_inputs,
    find_parts,
    is_flux,
    ranks_of,
)
from genrefocus.data.batches import micro_batches
from genrefocus.preflight import Finding, check_disk, check_metrics

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
        missing = settle_missing(config)
        OmegaConf.resolve(config)
    except (ValueError, OmegaConfBaseException) as error:
        remedy = "python train.py --cfg job prints what there is"
        findings = [Finding("configuration", "error", " ".join(str(error).split()), remedy)]
    else:
        findings = [*_look(config, missing, gpu)]
    console = Console()
    console.print(_table(findings))
    for one in findings:  # whole lines below the table, which can be copied
        if one.remedy:
            console.print(f"{one.subject}:\n  {one.remedy}", **_PLAIN)
    return int(any(one.verdict == "error" for one in findings))


def _look(config: DictConfig, missing: Sequence[str], gpu: int | None) -> Iterator[Finding]:
    """All findings; of values that are missing, that they are, and what does not depend on them."""
    from genrefocus.configuration.validation_share import check_validation

    for key in missing:
        yield Finding(key, "error", f"{config.name} needs it, and it is not given", f"{key}=...")
    yield from _found("configuration", lambda: find_parts(config))
    if not missing:
        yield from _found("inputs", lambda: find_inputs(config))
        yield from _found("data", lambda: find_data(config))
    yield from _found("validation", lambda: [check_validation(config)])
    yield from _found("model", lambda: _model(config, gpu))
    yield check_metrics()


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


def _model(config: DictConfig, gpu: int | None) -> Iterator[Finding]:
    """Base weights, LoRA targets, memory and disk."""
    from genrefocus.training_memory import (
        FLUX_TEXT,
        check_lora,
        check_main_memory,
        check_memory,
        flux_dev_on_meta,
        lora_parameters,
        memory_parts,
    )

    base, flux = list(find_base(config)), is_flux(config)
    try:
        transformer = flux_dev_on_meta() if flux else instantiate(config.backbone).transformer
    except (HydraException, ValueError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        yield Finding("tiny base", "error", reason, "backbone.path=<weights of the tiny base>")
        return
    yield from base
    layers = (transformer.config.num_layers, transformer.config.num_single_layers)
    yield check_lora(transformer, layers)
    ranks = {name: stage.module.rank for name, stage in trained(config).items()}
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
    from genrefocus.activations import Step, activation_bytes
    from genrefocus.backbone.flux import FLUX_DEV_CONFIG

    side, ranks = config.data.crop // FLUX_PIXELS_PER_TOKEN, ranks_of(config)
    for stage in trained(config).values():
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
    import torch

    if config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return device.name, int(device.total_memory)
    return "this machine (main memory)", _main_memory()


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _table(findings: list[Finding]) -> Table:
    table = Table(title="Preflight", title_justify="left", show_lines=False)
    for column in ("", "checked", "found"):
        table.add_column(column, overflow="fold")
    for one in findings:
        verdict = f"[{_STYLE[one.verdict]}]{one.verdict}[/]"
        table.add_row(verdict, escape(one.subject), escape(one.detail))
    return table
