"""CLIP-I: cosine of image embeddings of a CLIP of transformers (Radford et al. 2021).

Which CLIP it is decides the value, so its name belongs beside every figure. It is read from the
hub's cache or a local folder and never downloaded here.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrefocus.metrics.info import (
    TARGET,
    MetricInfo,
    NotAvailable,
    file_hash,
    of_batches,
    version_of,
)
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32

MODEL = "openai/clip-vit-base-patch32"


def require_clip(model: str | Path = MODEL) -> Path:
    """The file of a CLIP's weights, if the preparation of its images is there too.

    Args:
        model: folder with the files of the hub, or a hub id.

    Raises:
        NotAvailable: a file is neither in the folder nor in the hub's cache.
    """
    from huggingface_hub import try_to_load_from_cache

    folder = Path(model)
    cached = None if folder.is_dir() else try_to_load_from_cache(str(model), "config.json")
    if isinstance(cached, str):
        folder = Path(cached).parent
    names = ("model.safetensors", "pytorch_model.bin")
    weights = next((folder / name for name in names if (folder / name).is_file()), None)
    # transformers makes up a preparation whose file is missing.
    needed = ("config.json", "preprocessor_config.json")
    if weights is None or not all((folder / name).is_file() for name in needed):
        raise NotAvailable(
            f"CLIP-I is not available: no CLIP {model}; fill the hub's cache (HF_HOME) with "
            f"`hf download {MODEL}`"
        )
    return weights


@in_float32
def clip_similarity(pred: Tensor, target: Tensor, *, model: str | Path = MODEL) -> Tensor:
    """CLIP-I of each image pair: cosine of the image embeddings, 1 for equal images.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.
        model: as for :func:`require_clip`.

    Returns:
        (B,) float32 in [-1, 1]; NaN where an image is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: as for :func:`require_clip`.
    """
    clip = _load(require_clip(model).parent, pred.device)
    valid = check_pair(pred, target)
    first, second = (_embedding(images, clip) for images in (pred, target))
    return nan_where_invalid((first * second).sum(-1).clamp(-1.0, 1.0), valid)


class _Clip(NamedTuple):
    network: Any
    processor: Any


@functools.lru_cache(maxsize=2)
def _load(folder: Path, device: torch.device) -> _Clip:
    from transformers import CLIPImageProcessor, CLIPModel

    network = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return _Clip(
        network.requires_grad_(False).eval().to(device),
        CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
    )


@torch.no_grad()
def _embedding(images: Tensor, clip: _Clip) -> Tensor:
    """Image embeddings of length 1, (B, D).

    The model's own processor prepares the images: for the released models it scales the short edge
    to 224 px, bicubic, and takes the centre square, so that the ends of a wide image are lost.
    """
    shown = images.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0)
    prepared = clip.processor(list(shown), do_rescale=False, return_tensors="pt").to(images.device)
    features = clip.network.get_image_features(pixel_values=prepared["pixel_values"])
    # transformers 5 gives an output object where earlier ones gave the tensor.
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)


METRICS = (
    MetricInfo(
        "clip_i",
        of_batches(clip_similarity),
        "higher",
        TARGET,
        implementation=f"{version_of('transformers')}, {MODEL}",
        require=require_clip,
        hash_weights=lambda: file_hash(require_clip()),
    ),
)
