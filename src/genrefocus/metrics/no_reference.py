"""MUSIQ, MANIQA and CLIP-IQA(+) through pyiqa: how good an image looks, without a target.

pyiqa is an optional extra (``iqa``). Its networks differ by training set and prompts under one
name, which ``implementation`` states. Weights are read from TORCH_HOME and never downloaded here.
"""

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from genrefocus.metrics.info import MetricInfo, NotAvailable, file_hash, of_batches, version_of
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32


class PyiqaNetwork(NamedTuple):
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

NETWORKS: Mapping[str, PyiqaNetwork] = {
    "musiq": PyiqaNetwork("musiq", "KonIQ-10k", ("pyiqa/musiq_koniq_ckpt-e95806b9.pth",)),
    "maniqa": PyiqaNetwork("maniqa", "KonIQ-10k", ("pyiqa/ckpt_koniq10k.pt",), _VIT),
    "maniqa_kadid": PyiqaNetwork("maniqa-kadid", "KADID-10k", ("pyiqa/ckpt_kadid10k.pt",), _VIT),
    "clip_iqa": PyiqaNetwork("clipiqa", "CLIP RN50, five prompt pairs", ("clip/RN50.pt",)),
    "clip_iqa_plus": PyiqaNetwork(
        "clipiqa+",
        "CLIP RN50, learned prompts",
        ("clip/RN50.pt", "pyiqa/CLIP-IQA+_learned_prompts-603f3273.pth"),
    ),
}


def require_no_reference(variant: str) -> tuple[Path, ...]:
    """The weights of a variant, TORCH_HOME/hub/..., if it can be computed on this machine.

    Raises:
        NotAvailable: pyiqa or weights are missing; the message says what to do.
    """
    files = tuple(Path(torch.hub.get_dir()) / file for file in NETWORKS[variant].files)
    steps = []
    if importlib.util.find_spec("pyiqa") is None:
        steps.append("`pip install pyiqa`, the extra `iqa`")
    if missing := [str(file) for file in files if not file.is_file()]:
        steps.append(f"copy what pyiqa downloads elsewhere to {' and '.join(missing)}")
    if (hub := NETWORKS[variant].hub) and not _in_hub_cache(hub):
        steps.append(f"fill the hub's cache (HF_HOME) with `hf download {hub}`")
    if steps:
        raise NotAvailable(f"{variant} is not available: {'; '.join(steps)}")
    return files


@in_float32
def no_reference(pred: Tensor, *, variant: str) -> Tensor:
    """Quality of each image by one variant of pyiqa; larger is better, scales differ.

    MUSIQ gives about 0 to 100, the others 0 to 1. Images are taken one at a time, at their own
    size. MANIQA averages over 20 crops of 224 px, so it needs images of at least that size.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        variant: a key of ``NETWORKS``.

    Returns:
        (B,) float32; NaN where an image is not finite.

    Raises:
        ValueError: images are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: pyiqa or weights are missing.
    """
    files = tuple((file, file.stat().st_mtime_ns) for file in require_no_reference(variant))
    valid = check_pair(pred, pred)
    network = _network(variant, files, pred.device)
    images = pred.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0)
    with torch.no_grad():
        values = [network(image[None]).reshape(-1)[0] for image in images]
    return nan_where_invalid(torch.stack(values), valid)


def _in_hub_cache(model: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, "model.safetensors"), str)


@functools.lru_cache(maxsize=2)
def _network(
    variant: str, files: tuple[tuple[Path, int], ...], device: torch.device
) -> torch.nn.Module:
    """The network; ``files`` with their times tell states of TORCH_HOME apart."""
    import pyiqa

    network: torch.nn.Module = pyiqa.create_metric(NETWORKS[variant].pyiqa, device=device)
    return network.requires_grad_(False).eval()


def _info(name: str, variant: PyiqaNetwork) -> MetricInfo:
    return MetricInfo(
        name,
        of_batches(no_reference, variant=name),
        "higher",
        implementation=f"{version_of('pyiqa')}, {variant.pyiqa}, {variant.what}",
        require=functools.partial(require_no_reference, name),
        hash_weights=lambda: file_hash(*require_no_reference(name)),
    )


METRICS = tuple(_info(name, variant) for name, variant in NETWORKS.items())
