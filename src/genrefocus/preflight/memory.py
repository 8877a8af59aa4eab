"""Memory, disk and time that training takes, from a tracked step of every stage."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig

from genrefocus.backbone import Checkpointing
from genrefocus.backbone.lora import lora_modules
from genrefocus.backbone.quantised import all_weights
from genrefocus.configuration.composing import training_stages
from genrefocus.preflight.disk import find_disk
from genrefocus.preflight.files import Finding, in_hub_cache, shown_size
from genrefocus.preflight.inputs import find_base, is_flux, ranks_of
from genrefocus.preflight.tracking import TrackedStep, base_of, tracked_step
from genrefocus.preflight.validation import share, stage_costs, validation_sets

#: parameters of FLUX.1-dev's text encoders, which are gone while it trains
_FLUX_TEXT = 4_885_000_000
#: what `auto` chooses from, the fewest FLOPs and the most bytes first
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", 4, "feed_forward", 2, "all")
_LARGER = "trainer=fsdp trainer.devices=<several>, a larger device, or backbone=tiny"
#: share of a device that is left to CUDA's context and to gaps between tensors
_SPARE = 0.1

Steps = dict[str, TrackedStep]


def check_training(config: DictConfig, gpu: float | None, speed: float | None) -> Iterator[Finding]:
    """Base weights, LoRA targets, memory, disk and time of a run.

    Args:
        config: of train.py, resolved.
        gpu: bytes of a GPU in place of those that this machine has.
        speed: FLOP/s that a device reaches, if it is known.
    """
    found = list(find_base(config))
    try:
        base = base_of(config)
    except (HydraException, ValueError, OSError) as error:
        if is_flux(config):
            raise
        reason = " ".join(str(error.__cause__ or error).split())
        yield Finding("tiny base", "error", reason, "backbone.path=<weights of the tiny base>")
        return
    yield from found
    yield check_lora(base.transformer, base.transformer.config)
    path, download = str(config.backbone.get("path")), 0
    if is_flux(config):
        size = sum(one.nbytes for one in base_of(config, as_loaded=True).parameters())
        text = _FLUX_TEXT * base.dtype.itemsize
        if found[0].verdict == "ok" and not Path(path).is_dir() and not in_hub_cache(path):
            download = size + text
        here = ranks_of(config) // int(config.trainer.num_nodes)
        own = here * sum(one.nbytes for one in all_weights(base)) if config.backbone.quantise else 0
        yield check_main_memory(size, text, _main_memory(), quantised=own)
    steps: Steps = {}
    if training_stages(config):
        memory, chosen, steps = training_memory(config, gpu)
        yield from (memory, training_table(config, chosen, steps, speed))
    kept = config.callbacks.get("snapshots")
    files = 1 if kept is None else 2 + kept.newest  # what is exported, the newest, and the best
    parts = [one.parts for one in steps.values()]
    yield from find_disk(
        config,
        checkpoints=[sum(one.get(x, 0) for x in ("LoRA", "EMA", "optimiser")) for one in parts],
        loras=[one["LoRA"] * files for one in parts],
        download=download,
    )


def settle_checkpointing(config: DictConfig) -> Finding | None:
    """Replace ``backbone.checkpointing=auto`` by a choice that the device has memory for.

    Returns:
        The memory that the run takes with it; None where there was nothing to choose.
    """
    if config.backbone.get("checkpointing") != "auto" or not training_stages(config):
        return None
    finding, config.backbone.checkpointing, _ = training_memory(config, None)
    return finding


def training_memory(config: DictConfig, gpu: float | None) -> tuple[Finding, Checkpointing, Steps]:
    """The memory of the stage that takes most, the checkpointing counted with, and all steps.

    ``auto`` is what has the fewest FLOPs of what fits the device, or else all.

    Args:
        config: of train.py, with a stage that trains a network.
        gpu: bytes of a GPU in place of those that this machine has.
    """
    stages, given = training_stages(config), config.backbone.get("checkpointing", "none")
    where, available = ("the GPU", gpu) if gpu else _memory(config)

    def fits(how: Checkpointing) -> bool:
        # From the last on, which is given most: what does not fit ends it.
        tracked = (tracked_step(config, one, how) for one in reversed(stages.values()))
        return all(one.peak <= (1 - _SPARE) * available for one in tracked)

    chosen = given if given != "auto" else next(filter(fits, CHECKPOINTINGS), CHECKPOINTINGS[-1])
    steps = {name: tracked_step(config, one, chosen) for name, one in stages.items()}
    name = max(steps, key=lambda one: steps[one].peak)
    ranks = {one: stage.module.rank for one, stage in stages.items()}
    smaller = " ".join(f"stages.{one}.module.rank={rank // 2}" for one, rank in ranks.items())
    if is_flux(config):
        smaller = f"optimizer=adamw_8bit, backbone.quantise=nf4, or {smaller}"
    remedy = smaller if steps[name].parts["base"] < available else _LARGER
    if is_flux(config) and given not in ("auto", "all"):
        remedy = "backbone.checkpointing=auto"
    elif is_flux(config) and config.backbone.quantise is None:
        remedy = "backbone.quantise=int8"
    how = f"{name} with checkpointing={chosen}" if is_flux(config) else name
    peak = steps[name].peak
    return check_memory(peak, available, how=how, where=where, remedy=remedy), chosen, steps


def training_table(
    config: DictConfig, checkpointing: Checkpointing, steps: Steps, speed: float | None
) -> Finding:
    """What each stage takes: bytes of a rank, FLOPs, time, and the share of validation.

    Args:
        config: of train.py.
        checkpointing: of the steps.
        steps: a tracked step of each stage.
        speed: FLOP/s that a device reaches; None leaves out the hours.
    """
    world, columns, total = ranks_of(config), {}, 0.0
    for name, stage in training_stages(config).items():
        step, count = steps[name], int(stage.fit.max_steps)
        training, validation = stage_costs(stage, validation_sets(config, stage))
        flops = step.flops * step.micro_batches
        total += flops * count
        columns[name] = {part: shown_size(size) for part, size in step.parts.items()} | {
            "at the peak": shown_size(step.peak),
            "TFLOP a step": _rounded(flops * world / 1e12),
            "steps": str(count),
            "hours": "" if speed is None else _rounded(flops * count / speed / 3600),
            "validation": f"{share(validation, training):.1%} of training",
        }
    hours = "tflops=<TFLOP/s of a device> gives the hours"
    if speed is not None:
        at = f"{speed / 1e12:g} TFLOP/s on each of {world}"
        hours = f"{_rounded(total / speed / 3600)} hours without validation at {at}"
    table = pd.DataFrame(columns).fillna("").to_string()
    detail = f"a rank with checkpointing={checkpointing}, TFLOP of all ranks; {hours}\n{table}"
    return Finding("training", "ok", detail)


def _rounded(value: float) -> str:
    """Of three digits, without an exponent where there are more."""
    return f"{float(f'{value:.3g}'):g}"


def check_lora(transformer: torch.nn.Module, layers: Mapping[str, int]) -> Finding:
    """Linear targets against six in every block and one in front: 343 in FLUX.1-dev."""
    expected = 1 + 6 * (layers["num_layers"] + layers["num_single_layers"])
    targets = lora_modules(transformer).values()
    found = sum(isinstance(one, torch.nn.Linear) for one in targets)
    if found == expected:
        return Finding("LoRA targets", "ok", f"{found} modules")
    detail = f"{found} modules, expected {expected}: the transformer's layers are named otherwise"
    return Finding("LoRA targets", "error", detail, "pip install -r requirements.lock")


def check_memory(peak: float, available: float, *, how: str, where: str, remedy: str) -> Finding:
    """Bytes at the peak of a training step of ``how``, against nine tenths of the device's."""
    detail = f"{shown_size(peak)} for {how}; {where} has {shown_size(available)}"
    if peak > (1 - _SPARE) * available:
        detail += ", of which a tenth is left to CUDA's context and to gaps between tensors"
        return Finding("memory", "warning", detail, remedy)
    return Finding("memory", "ok", detail)


def check_main_memory(base: int, text: int, available: int, *, quantised: int = 0) -> Finding:
    """Bytes of main memory that FLUX.1-dev takes on a machine, however many its ranks.

    Args:
        base: of its transformer, which ranks map from its files: they share the pages, which the
            system may drop again.
        text: of its text encoders, which one rank holds while it encodes new prompts.
        available: of the machine.
        quantised: of what all ranks together hold of a base that is quantised when it is loaded.
    """
    own = f"; {shown_size(quantised)} quantised, until ranks move them to GPUs" if quantised else ""
    detail = (
        f"{shown_size(text)} for the text encoders, on one rank and only until the prompts are "
        f"encoded; {shown_size(base)} of the base are mapped from its files, shared by all ranks"
        f"{own}; this machine has {shown_size(available)}"
    )
    if text + quantised > available:
        remedy = "backbone.prompts=<folder of embeddings from a larger machine>"
        return Finding("main memory", "warning", detail, remedy)
    return Finding("main memory", "ok", detail)


def _memory(config: DictConfig) -> tuple[str, float]:
    """Name and bytes of the device that the run would train on."""
    if config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return device.name, int(device.total_memory)
    return "this machine (main memory)", _main_memory()


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
