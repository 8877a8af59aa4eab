"""Memory and disk that training takes, from the shapes of the transformer and of its LoRA."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import Optimizer

from genrefocus.backbone import Checkpointing
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.lora import Lora, lora_modules, lora_shapes
from genrefocus.backbone.quantised import quantise_blocks, weight_bytes
from genrefocus.configuration.composing import training_stages
from genrefocus.data.batches import micro_batches
from genrefocus.preflight.activations import activation_bytes
from genrefocus.preflight.disk import find_disk
from genrefocus.preflight.files import Finding, in_hub_cache, shown_size
from genrefocus.preflight.inputs import condition_count, find_base, is_flux, ranks_of

#: parameters of FLUX.1-dev's autoencoder, and of its text encoders, which are gone while it trains
_FLUX_CODEC, _FLUX_TEXT = 84_000_000, 4_885_000_000
_FLUX_PIXELS_PER_TOKEN = 16
#: what `auto` chooses from, the fewest FLOPs and the most bytes first
CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", 4, "feed_forward", 2, "all")
_LARGER = "trainer=gpu on a larger device, or backbone=tiny"
#: share of a device that `auto` leaves to CUDA's context and to gaps between tensors
_SPARE = 0.1


def check_training(config: DictConfig, gpu: int | None) -> Iterator[Finding]:
    """Base weights, LoRA targets, memory and disk of a run.

    Args:
        config: of train.py, resolved.
        gpu: bytes of a GPU in place of those that this machine has.
    """
    base, flux = list(find_base(config)), is_flux(config)
    path, download = str(config.backbone.get("path")), 0
    try:
        transformer = flux_dev_on_meta() if flux else instantiate(config.backbone).transformer
    except (HydraException, ValueError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        yield Finding("tiny base", "error", reason, "backbone.path=<weights of the tiny base>")
        return
    yield from base
    yield check_lora(transformer, transformer.config)
    if flux:
        bytes_each = instantiate(config.backbone.dtype).itemsize
        size = sum(one.numel() for one in transformer.parameters()) + _FLUX_CODEC
        here = ranks_of(config) // int(config.trainer.num_nodes)
        own = here * base_bytes(config, transformer) if config.backbone.get("quantise") else 0
        if base[0].verdict == "ok" and not Path(path).is_dir() and not in_hub_cache(path):
            download = (size + _FLUX_TEXT) * bytes_each
        text = _FLUX_TEXT * bytes_each
        yield check_main_memory(size * bytes_each, text, _main_memory(), quantised=own)
    yield training_memory(config, transformer, gpu)[0]
    sizes = [lora_parameters(transformer, rank) for rank in _ranks(config).values()]
    kept_each = optimizer_bytes(instantiate(config.optimizer))
    kept = config.callbacks.get("snapshots")
    files = 1 if kept is None else 2 + kept.newest  # what is exported, the newest, and the best
    yield from find_disk(
        config,
        checkpoints=[round(size * (8 + kept_each)) for size in sizes],
        loras=[4 * size * files for size in sizes],
        download=download,
    )


def settle_checkpointing(config: DictConfig) -> Finding | None:
    """Replace ``backbone.checkpointing=auto`` by a choice that the device has memory for.

    Returns:
        The memory that the run takes with it; None where there was nothing to choose.
    """
    if config.backbone.get("checkpointing") != "auto":
        return None
    finding, config.backbone.checkpointing = training_memory(config, flux_dev_on_meta(), None)
    return finding


def training_memory(
    config: DictConfig, transformer: torch.nn.Module, gpu: int | None
) -> tuple[Finding, Checkpointing]:
    """The memory of training, of the stage that takes most, and the checkpointing counted with.

    ``auto`` is what has the fewest FLOPs of what fits the device, or else all.

    Args:
        config: of train.py, resolved.
        transformer: of the frozen base, with or without storage.
        gpu: bytes of a GPU in place of those that this machine has.
    """
    flux, ranks = is_flux(config), _ranks(config)
    largest = max((lora_parameters(transformer, rank) for rank in ranks.values()), default=0)
    codec = config.backbone.get("latents") is None  # else it is away in training
    parts = {
        "base": base_bytes(config, transformer, codec=codec),
        "LoRA and gradient": largest * 8,
        "optimiser": round(largest * optimizer_bytes(instantiate(config.optimizer))),
        "EMA": largest * 4,
    }
    where, available = ("the GPU", gpu) if gpu else _memory(config)
    lasting, given = sum(parts.values()), config.backbone.get("checkpointing")
    chosen: Checkpointing = "none"
    for chosen in (CHECKPOINTINGS if given == "auto" else (given,)) if flux else ():
        parts["activations"] = max(_activations(config, chosen), default=0)
        if lasting + parts["activations"] <= (1 - _SPARE) * available:
            break
    smaller = " ".join(f"stages.{name}.module.rank={rank // 2}" for name, rank in ranks.items())
    remedy = smaller if parts["base"] < available else _LARGER
    if flux and given not in ("auto", "all"):
        remedy = "backbone.checkpointing=auto"
    elif flux and config.backbone.get("quantise") is None:
        remedy = "backbone.quantise=int8"
    how = f" with checkpointing={chosen}" if flux else ""
    finding = check_memory(parts, available=available, where=where, remedy=remedy, how=how)
    return finding, chosen


def base_bytes(config: DictConfig, transformer: torch.nn.Module, *, codec: bool = True) -> int:
    """Bytes of the frozen base, FLUX.1-dev's autoencoder included if ``codec``.

    Args:
        config: of train.py, resolved; it says how FLUX.1-dev is quantised.
        transformer: of the base, with or without storage; the tiny one as it is computed with.
    """
    if not is_flux(config):
        return weight_bytes(transformer)
    dtype, how = instantiate(config.backbone.dtype), config.backbone.get("quantise")
    if how is None:
        numbers = sum(one.numel() for one in transformer.parameters())
        return int((numbers + codec * _FLUX_CODEC) * dtype.itemsize)
    quantised = torch.nn.Module.to(flux_dev_on_meta(), dtype)  # diffusers' own warns
    quantise_blocks(quantised, how)
    return weight_bytes(quantised) + int(codec * _FLUX_CODEC * dtype.itemsize)


def flux_dev_on_meta() -> FluxTransformer2DModel:
    """FLUX.1-dev's transformer without storage."""
    with torch.device("meta"):
        return FluxTransformer2DModel(**FLUX_DEV_CONFIG)


def check_lora(transformer: torch.nn.Module, layers: Mapping[str, int]) -> Finding:
    """Linear targets against six in every block and one in front: 343 in FLUX.1-dev."""
    expected = 1 + 6 * (layers["num_layers"] + layers["num_single_layers"])
    targets = lora_modules(transformer).values()
    found = sum(isinstance(one, torch.nn.Linear) for one in targets)
    if found == expected:
        return Finding("LoRA targets", "ok", f"{found} modules")
    detail = f"{found} modules, expected {expected}: the transformer's layers are named otherwise"
    return Finding("LoRA targets", "error", detail, "pip install -r requirements.lock")


def lora_parameters(transformer: torch.nn.Module, rank: int) -> int:
    """Trainable numbers at a rank."""
    lora = Lora(lora_shapes(transformer), rank, device="meta")
    return sum(one.numel() for one in lora.parameters())


def optimizer_bytes(optimizer: Callable[[list[torch.nn.Parameter]], Optimizer]) -> float:
    """Bytes that an optimiser keeps of each number of a matrix, counted after a step of it.

    The matrix has the size of one of FLUX.1-dev's LoRA: small ones are not kept in 8 bit.
    """
    weight = torch.nn.Parameter(torch.ones(64, 3072))
    weight.grad = torch.ones_like(weight)
    built = optimizer([weight])
    built.step()
    kept = built.state[weight].values()
    return sum(one.nbytes for one in kept if isinstance(one, Tensor)) / weight.numel()


def check_memory(
    parts: Mapping[str, int], *, available: int, where: str, remedy: str, how: str = ""
) -> Finding:
    """Bytes at the peak of a training step, done as ``how`` says, against what the device has."""
    total = sum(parts.values())
    listed = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.items())
    taken = f"{shown_size(total)} in training{how} ({listed})"
    detail = f"{taken}; {where} has {shown_size(available)}"
    if total > available:
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


def _ranks(config: DictConfig) -> dict[str, int]:
    """Rank of the LoRA of every stage that trains one."""
    return {name: int(stage.module.rank) for name, stage in training_stages(config).items()}


def _activations(config: DictConfig, checkpointing: Checkpointing) -> Iterator[int]:
    """Bytes that each stage keeps for backward at its micro-batch."""
    crop, ranks = config.data.crop, ranks_of(config)
    buckets = config.data.get("buckets") or [(crop, crop)]
    height, width = max(buckets, key=lambda one: one[0] * one[1])
    for stage in training_stages(config).values():
        batch, _ = micro_batches(stage.global_batch, stage.datamodule.batch_size, ranks)
        yield activation_bytes(
            FLUX_DEV_CONFIG,
            batch=batch,
            grid=(height // _FLUX_PIXELS_PER_TOKEN, width // _FLUX_PIXELS_PER_TOKEN),
            text=config.backbone.max_text_length,
            conditions=condition_count(stage.module),
            rank=stage.module.rank,
            dtype=instantiate(config.backbone.dtype),
            checkpointing=checkpointing,
            half_control=stage.module.get("half_control", False),
        )


def _memory(config: DictConfig) -> tuple[str, int]:
    """Name and bytes of the device that the run would train on."""
    if config.trainer.accelerator != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return device.name, int(device.total_memory)
    return "this machine (main memory)", _main_memory()


def _main_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
