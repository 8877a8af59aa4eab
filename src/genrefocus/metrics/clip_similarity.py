"""CLIP-I: do two images show the same, in the eyes of CLIP (Radford et al. 2021)?

The cosine of their image embeddings. Which CLIP it is decides the figure, so the model is an
argument and its name belongs beside every figure. Models are read from a local folder or the hub's
cache and never downloaded here.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.metrics.lpips import NotAvailable
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Tally

MODEL = "openai/clip-vit-base-patch32"

_BESIDE = ("config.json", "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")


@dataclass(frozen=True, eq=False)
class Clip:
    """A loaded CLIP: network, preparation of images, and what to call it in a table."""

    network: Any
    processor: Any
    name: str
    source: str
    revision: str | None


def load_clip(
    model: str | Path = MODEL, *, revision: str | None = None, device: str | torch.device = "cpu"
) -> Clip:
    """Load a CLIP from a local folder, or from the hub's cache.

    Args:
        model: folder with config.json, model.safetensors and preprocessor_config.json as the hub
            has them, or a hub id.
        revision: commit of a hub id; without one, the one that the cache calls main.
        device: torch device.

    Raises:
        NotAvailable: there is no such folder, or the cache does not hold the model.
    """
    return _load(str(model), revision, torch.device(device))


def require_clip(
    model: str | Path = MODEL, *, revision: str | None = None, tokenizer: bool = False
) -> Path:
    """The file of a CLIP's weights, where everything that goes with them is there too.

    transformers makes up a tokenizer or a preparation whose files are missing, so they are looked
    for here.

    Args:
        model, revision: as for :func:`load_clip`.
        tokenizer: whether it is needed.

    Raises:
        NotAvailable: a file is neither in the folder nor in the hub's cache.
    """
    found = {name: _file(model, name, revision) for name in (*_BESIDE, *_WEIGHTS, *_TOKENIZER)}
    weights = next((found[name] for name in _WEIGHTS if found[name]), None)
    complete = all(found[name] for name in _BESIDE)
    if tokenizer:
        complete &= bool(found["tokenizer.json"] or (found["vocab.json"] and found["merges.txt"]))
    if weights is None or not complete:
        raise NotAvailable(
            f"CLIP-I and CLIP-IQA (ViT) are not available: no CLIP {model}; copy "
            f"{', '.join(_BESIDE)}, {_WEIGHTS[0]}, vocab.json and merges.txt from the hub into a "
            "folder and name it, or fill the hub's cache (HF_HOME) with `hf download`"
        )
    return weights


def _file(model: str | Path, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if Path(model).is_dir():
        file = Path(model) / name
        return file if file.is_file() else None
    cached = try_to_load_from_cache(str(model), name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


@in_float32
def clip_embedding(images: Tensor, clip: Clip) -> Tensor:
    """Image embeddings of length 1: (B, D) float32.

    Images are prepared as the model's own processor does it: for the released models the short
    edge is scaled to 224 px, bicubic, and the **centre square** is taken, so that the ends of a
    wide picture are not seen.

    Args:
        images: (B, 3, H, W) in [0, 1].
        clip: from :func:`load_clip`.
    """
    prepared = clip.processor(list(images.clamp(0.0, 1.0)), do_rescale=False, return_tensors="pt")
    pixels = prepared["pixel_values"].to(clip.network.device)
    with torch.no_grad():
        features = clip.network.get_image_features(pixel_values=pixels)
    # transformers 5 gives an output object where earlier ones gave the tensor.
    vectors = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(vectors, dim=-1)


@in_float32
def clip_similarity(pred: Tensor, target: Tensor, *, clip: Clip) -> Tensor:
    """CLIP-I of each image pair: cosine of the image embeddings, 1 for equal images.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.
        clip: from :func:`load_clip`.

    Returns:
        (B,) float32 in [-1, 1], on the images' device; NaN where an image is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), or values lie outside [0, 1].
    """
    valid = check_pair(pred, target)
    first, second = (clip_embedding(x.nan_to_num(0.0, 0.0, 0.0), clip) for x in (pred, target))
    cosine = (first * second).sum(-1).clamp(-1.0, 1.0).to(pred.device)
    return nan_where_invalid(cosine, valid)


class ClipSimilarity(Tally):
    """Mean of :func:`clip_similarity` over all images seen; see :class:`Summary`."""

    higher_is_better = True

    def __init__(self, clip: Clip, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch: both (B, 3, H, W) in [0, 1]."""
        self.record(clip_similarity(pred, target, clip=self.clip))


@functools.lru_cache(maxsize=2)
def _load(model: str, revision: str | None, device: torch.device) -> Clip:
    from transformers import CLIPImageProcessor, CLIPModel

    require_clip(model, revision=revision)
    local: dict[str, Any] = {"local_files_only": True}
    if revision:
        local["revision"] = revision
    network = CLIPModel.from_pretrained(model, dtype=torch.float32, **local)
    processor = CLIPImageProcessor.from_pretrained(model, **local)
    network.requires_grad_(False)
    commit = getattr(network.config, "_commit_hash", None)
    name = f"folder {Path(model).name}" if Path(model).is_dir() else f"{model}@{commit}"
    return Clip(network.eval().to(device), processor, name, model, revision)
