"""CLIP-I and CLIP-IQA with a CLIP of transformers (Radford et al. 2021; Wang, Chan and Loy 2023).

Which CLIP it is decides the value, so the model is an argument and its name belongs beside every
figure. Models are read from a local folder or the hub's cache and never downloaded here.

The published CLIP-IQA runs CLIP's ResNet-50 without position embedding on images of full size;
transformers has no such network, but pyiqa has (:mod:`genrefocus.metrics.no_reference`). Here a ViT
answers the same question on the centre square, as in torchmetrics. Values of the two cannot be
compared, nor with CLIP-IQA+, whose prompts are learned.
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
PROMPTS = ("Good photo.", "Bad photo.")
SCALE = 100.0  # CLIP's logit scale after training


def require_clip(model: str | Path = MODEL, *, revision: str | None = None) -> Path:
    """The file of a CLIP's weights, if everything that goes with them is there too.

    transformers makes up a tokenizer or a preparation whose files are missing, so this function
    looks for the files.

    Args:
        model: folder with the files of the hub, or a hub id.
        revision: commit of a hub id; without one, the one that the cache calls main.

    Raises:
        NotAvailable: a file is neither in the folder nor in the hub's cache.
    """
    from huggingface_hub import try_to_load_from_cache

    folder: Path | None = Path(model)
    if not Path(model).is_dir():
        cached = try_to_load_from_cache(str(model), "config.json", revision=revision)
        folder = Path(cached).parent if isinstance(cached, str) else None
    found = {file.name: file for file in folder.iterdir() if file.is_file()} if folder else {}
    weights = found.get("model.safetensors") or found.get("pytorch_model.bin")
    complete = {"config.json", "preprocessor_config.json"} <= set(found)
    tokenizer = "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= set(found)
    if weights is None or not complete or not tokenizer:
        raise NotAvailable(
            f"CLIP-I and CLIP-IQA (ViT) are not available: no CLIP {model}; copy config.json, "
            "preprocessor_config.json, model.safetensors, vocab.json and merges.txt from the hub "
            "into a folder and name it, or fill the hub's cache (HF_HOME) with `hf download`"
        )
    return weights


@in_float32
def clip_similarity(
    pred: Tensor, target: Tensor, *, model: str | Path = MODEL, revision: str | None = None
) -> Tensor:
    """CLIP-I of each image pair: cosine of the image embeddings, 1 for equal images.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        target: same shape and range.
        model, revision: as for :func:`require_clip`.

    Returns:
        (B,) float32 in [-1, 1]; NaN where an image is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: as for :func:`require_clip`.
    """
    clip = _load(require_clip(model, revision=revision).parent, pred.device)
    valid = check_pair(pred, target)
    first, second = (_embedding(images, clip) for images in (pred, target))
    return nan_where_invalid((first * second).sum(-1).clamp(-1.0, 1.0), valid)


@in_float32
def clip_iqa(
    pred: Tensor,
    *,
    model: str | Path = MODEL,
    revision: str | None = None,
    prompts: tuple[str, str] = PROMPTS,
) -> Tensor:
    """Probability that CLIP gives the first prompt over the second, for each image.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        model, revision: as for :func:`require_clip`.
        prompts: the better and the worse description; by default the paper's for quality.

    Returns:
        (B,) float32 in [0, 1], larger is better; NaN where an image is not finite.

    Raises:
        ValueError: images are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: as for :func:`require_clip`.
    """
    clip = _load(require_clip(model, revision=revision).parent, pred.device)
    valid = check_pair(pred, pred)
    logits = SCALE * _embedding(pred, clip) @ _prompt_embedding(clip, prompts).T
    return nan_where_invalid(logits.softmax(-1)[:, 0], valid)


def infos(model: str | Path = MODEL, revision: str | None = None) -> tuple[MetricInfo, ...]:
    """CLIP-I and CLIP-IQA with a CLIP; arguments as for :func:`require_clip`."""
    require = functools.partial(require_clip, model, revision=revision)
    return tuple(
        MetricInfo(
            name,
            of_batches(function, model=model, revision=revision),
            "higher",
            needs,
            implementation=f"{version_of('transformers')}, {model}"
            + (f"@{revision}" if revision else ""),
            require=require,
            hash_weights=lambda: file_hash(require()),
        )
        for name, function, needs in (
            ("clip_i", clip_similarity, TARGET),
            ("clip_iqa_vit", clip_iqa, frozenset()),
        )
    )


METRICS = infos()


class _Clip(NamedTuple):
    network: Any
    processor: Any
    tokenizer: Any


@functools.lru_cache(maxsize=2)
def _load(folder: Path, device: torch.device) -> _Clip:
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return _Clip(
        network.requires_grad_(False).eval().to(device),
        CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
        CLIPTokenizer.from_pretrained(folder, local_files_only=True),
    )


@torch.no_grad()
def _embedding(images: Tensor, clip: _Clip) -> Tensor:
    """Image embeddings of length 1, (B, D).

    The model's own processor prepares the images: for the released models it scales the short edge
    to 224 px, bicubic, and takes the centre square, so that the ends of a wide image are lost.
    """
    shown = images.nan_to_num(0.0, 0.0, 0.0).clamp(0.0, 1.0)
    prepared = clip.processor(list(shown), do_rescale=False, return_tensors="pt").to(images.device)
    return _normalised(clip.network.get_image_features(pixel_values=prepared["pixel_values"]))


@functools.lru_cache(maxsize=8)
@torch.no_grad()
def _prompt_embedding(clip: _Clip, prompts: tuple[str, str]) -> Tensor:
    tokens = clip.tokenizer(list(prompts), padding=True, return_tensors="pt").to(
        clip.network.device
    )
    features = clip.network.get_text_features(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    )
    return _normalised(features)


def _normalised(features: Any) -> Tensor:
    # transformers 5 gives an output object where earlier ones gave the tensor.
    return torch.nn.functional.normalize(getattr(features, "pooler_output", features), dim=-1)
