"""CLIP-IQA (Wang, Chan and Loy 2023): is it rather a good photo or a bad one, by CLIP?

The published metric runs CLIP's ResNet-50 without position embedding on images of full size; that
network has no form in transformers and is to be had through pyiqa, see
:mod:`genrefocus.metrics.no_reference`. Here the same question is put to a transformers CLIP (a
ViT, on its centre square), as torchmetrics does with the models that it names: figures of one are
not comparable with figures of the other, and neither with CLIP-IQA+, whose prompts are learned.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from genrefocus.metrics.clip_similarity import Clip, clip_embedding, require_clip
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Tally

PROMPTS = ("Good photo.", "Bad photo.")
SCALE = 100.0  # CLIP's logit scale after training


@in_float32
def clip_iqa(pred: Tensor, *, clip: Clip, prompts: tuple[str, str] = PROMPTS) -> Tensor:
    """Probability that CLIP gives the first prompt over the second, for each image.

    Args:
        pred: (B, 3, H, W) in [0, 1].
        clip: from :func:`genrefocus.metrics.clip_similarity.load_clip`.
        prompts: the better and the worse description; the paper's for quality by default.

    Returns:
        (B,) float32 in [0, 1], larger is better; NaN where an image is not finite.

    Raises:
        ValueError: images are not (B, 3, H, W), or values lie outside [0, 1].
        NotAvailable: the model's folder has no tokenizer.
    """
    valid = check_pair(pred, pred)
    images = clip_embedding(pred.nan_to_num(0.0, 0.0, 0.0), clip)
    logits = SCALE * images @ _prompt_embedding(clip, prompts).T
    return nan_where_invalid(logits.softmax(-1)[:, 0].to(pred.device), valid)


class ClipIQA(Tally):
    """Mean of :func:`clip_iqa` over all images seen; see :class:`Summary`."""

    higher_is_better = True

    def __init__(self, clip: Clip, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.clip = clip

    def update(self, pred: Tensor) -> None:
        """Add a batch: (B, 3, H, W) in [0, 1]."""
        self.record(clip_iqa(pred, clip=self.clip))


@functools.lru_cache(maxsize=8)
def _prompt_embedding(clip: Clip, prompts: tuple[str, str]) -> Tensor:
    from transformers import CLIPTokenizer

    require_clip(clip.source, revision=clip.revision, tokenizer=True)
    revision = {"revision": clip.revision} if clip.revision else {}
    tokenizer = CLIPTokenizer.from_pretrained(clip.source, local_files_only=True, **revision)
    tokens = tokenizer(list(prompts), padding=True, return_tensors="pt").to(clip.network.device)
    with torch.no_grad():
        features = clip.network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
    vectors = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(vectors, dim=-1)
