"""MUSIQ, MANIQA and CLIP-IQA(+): how good a picture looks, without a target, through pyiqa.

pyiqa is an optional extra (``iqa``). Its networks differ by training set
and prompts under one name, so that the variant is part of the metric's name and the version of
pyiqa goes beside it. Weights are read from TORCH_HOME and never downloaded here.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.metrics.lpips import NotAvailable
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Tally


@dataclass(frozen=True)
class Variant:
    """One network of pyiqa.

    Attributes:
        pyiqa: what pyiqa calls it.
        what: training set or backbone, in words.
        files: weights under TORCH_HOME/hub.
        hub: model that timm reads from the hub's cache, or "".
    """

    pyiqa: str
    what: str
    files: tuple[str, ...]
    hub: str = ""


_VIT = "timm/vit_base_patch8_224.augreg2_in21k_ft_in1k"

VARIANTS: Mapping[str, Variant] = {
    "musiq-koniq": Variant("musiq", "KonIQ-10k", ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",)),
    "maniqa-koniq": Variant("maniqa", "KonIQ-10k", ("pyiqa/ckpt_koniq10k.pt",), _VIT),
    "maniqa-kadid": Variant("maniqa-kadid", "KADID-10k", ("pyiqa/ckpt_kadid10k.pt",), _VIT),
    "clipiqa-rn50": Variant("clipiqa", "CLIP RN50, five prompt pairs", ("clip/RN50.pt",)),
    "clipiqa+-rn50": Variant(
        "clipiqa+",
        "CLIP RN50, learned prompts",
        ("clip/RN50.pt", "pyiqa/CLIP-IQA+_learned_prompts-603f3273.pth"),
    ),
}


def weight_files(variant: str) -> tuple[Path, ...]:
    """Where the weights of a variant are looked for: TORCH_HOME/hub/..."""
    return tuple(Path(torch.hub.get_dir()) / file for file in _variant(variant).files)


def require_no_reference(variant: str) -> str:
    """Version of pyiqa, if the variant can be computed on this machine.

    Raises:
        NotAvailable: pyiqa or weights are missing; the message says what to do.
        ValueError: no such variant.
    """
    chosen = _variant(variant)
    installed = importlib.util.find_spec("pyiqa") is not None
    steps = [] if installed else ["`pip install pyiqa`, the extra `iqa`"]
    missing = [str(file) for file in weight_files(variant) if not file.is_file()]
    if missing:
        steps.append(f"copy what pyiqa downloads elsewhere to {' and '.join(missing)}")
    if chosen.hub and not _in_hub_cache(chosen.hub):
        steps.append(f"fill the hub's cache (HF_HOME) with `hf download {chosen.hub}`")
    if steps:
        raise NotAvailable(f"{variant} is not available: {'; '.join(steps)}")
    return importlib.metadata.version("pyiqa")


@in_float32
def no_reference(pred: Tensor, *, variant: str) -> Tensor:
    """Quality of each image by one variant of pyiqa; larger is better, scales differ.

    MUSIQ gives about 0 to 100, the others 0 to 1. Images are taken one at a time, at their own
    size. MANIQA averages over 20 crops of 224 px, so it needs images of at least that size.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        variant: a key of ``VARIANTS``.

    Returns:
        (B,) float32; NaN where an image is not finite.

    Raises:
        ValueError: no such variant, images are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: pyiqa or weights are missing.
    """
    require_no_reference(variant)
    valid = check_pair(pred, pred)
    files = tuple((file, file.stat().st_mtime_ns) for file in weight_files(variant))
    network = _network(variant, files, pred.device)
    images = pred.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0)
    with torch.no_grad():
        values = [network(image[None]).reshape(-1)[0] for image in images]
    return nan_where_invalid(torch.stack(values) if values else pred.new_zeros(0), valid)


class NoReference(Tally):
    """Mean of :func:`no_reference` over all images seen; see :class:`Summary`.

    Attributes:
        name: of the metric in full, with variant and version.

    Raises:
        NotAvailable: at construction, when pyiqa or weights are missing.
    """

    higher_is_better = True

    def __init__(self, variant: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self.name = f"{variant} (pyiqa {require_no_reference(variant)})"

    def update(self, pred: Tensor) -> None:
        """Add a batch: (B, 3, H, W) in [0, 1]."""
        self.record(no_reference(pred, variant=self.variant))


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"unknown metric {name!r}; choose one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _in_hub_cache(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "model.safetensors"), str)


@functools.lru_cache(maxsize=2)
def _network(
    variant: str, files: tuple[tuple[Path, int], ...], device: torch.device
) -> torch.nn.Module:
    """The network; ``files`` with their times tell states of TORCH_HOME apart."""
    import pyiqa

    network: torch.nn.Module = pyiqa.create_metric(_variant(variant).pyiqa, device=device)
    return network.requires_grad_(False).eval()
