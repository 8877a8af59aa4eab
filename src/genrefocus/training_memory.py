"""What training takes of memory, from the shapes of the transformer and of its LoRA."""

from collections.abc import Mapping

import torch
from diffusers import FluxTransformer2DModel

from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.lora import lora_modules
from genrefocus.preflight import Finding, shown_size

#: LoRA modules of FLUX.1-dev, as released
FLUX_TARGETS = 343
#: parameters of its autoencoder, and of its text encoders, which are gone while it trains
_FLUX_CODEC, FLUX_TEXT = 84_000_000, 4_885_000_000


def flux_dev_on_meta() -> FluxTransformer2DModel:
    """FLUX.1-dev's transformer without storage."""
    with torch.device("meta"):
        return FluxTransformer2DModel(**FLUX_DEV_CONFIG)


def check_lora(transformer: torch.nn.Module, layers: tuple[int, int]) -> Finding:
    """Target count against six in every block and one in front: 343 in FLUX.1-dev."""
    expected, found = 1 + 6 * sum(layers), len(lora_modules(transformer))
    if found == expected:
        return Finding("LoRA targets", "ok", f"{found} modules")
    detail = f"{found} modules, expected {expected}: the transformer's layers are named otherwise"
    return Finding("LoRA targets", "error", detail, "pip install -r requirements.lock")


def lora_parameters(transformer: torch.nn.Module, rank: int) -> int:
    """Trainable numbers at a rank."""
    targets = lora_modules(transformer).values()
    return sum(rank * (one.in_features + one.out_features) for one in targets)


def check_memory(parts: Mapping[str, int], *, available: int, where: str, remedy: str) -> Finding:
    """Bytes at the peak of a training step against what the device has."""
    total = sum(parts.values())
    listed = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.items())
    detail = f"{shown_size(total)} in training ({listed}); {where} has {shown_size(available)}"
    if total > available:
        return Finding("memory", "warning", detail, remedy)
    return Finding("memory", "ok", detail)


def check_main_memory(base: int, text: int, available: int) -> Finding:
    """Bytes of main memory that FLUX.1-dev takes on a machine, however many its ranks.

    Args:
        base: of its transformer, which ranks map from its files: they share the pages, which the
            system may drop again.
        text: of its text encoders, which one rank holds while it encodes new prompts.
        available: of the machine.
    """
    detail = (
        f"{shown_size(text)} for the text encoders, on one rank and only until the prompts are "
        "encoded; "
        f"{shown_size(base)} of the base are mapped from its files, shared by all ranks; "
        f"this machine has {shown_size(available)}"
    )
    if text > available:
        remedy = "backbone.prompts=<folder of embeddings from a larger machine>"
        return Finding("main memory", "warning", detail, remedy)
    return Finding("main memory", "ok", detail)


def memory_parts(
    transformer: torch.nn.Module, trainable: int, *, bytes_each: int, moments: int, flux: bool
) -> dict[str, int]:
    """Bytes of the frozen base and of all that belongs to the LoRA, which is fp32.

    Args:
        transformer: of the base.
        trainable: numbers in the LoRA.
        bytes_each: of a number of the base.
        moments: numbers that the optimiser keeps for each trainable one.
        flux: whether the autoencoder is FLUX.1-dev's.
    """
    frozen = sum(one.numel() for one in transformer.parameters()) + flux * _FLUX_CODEC
    parts = {
        "base": frozen * bytes_each,
        "LoRA and gradient": trainable * 8,
        "optimiser": trainable * 4 * moments,
        "EMA": trainable * 4,
    }
    return parts
