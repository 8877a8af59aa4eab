"""Captions of images by a network of transformers, such as BLIP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.data.sample import to_uint8


class Captioner:
    """Describes images in words.

    Args:
        model: local folder or hub id of a network that turns an image into text, such as
            ``Salesforce/blip-image-captioning-base``.
        revision: commit of a hub id; needed for one.
        begin: words that captions begin with, for networks that continue a text.
        most_tokens: of a caption.
        device: torch device.

    Raises:
        ValueError: a hub id without revision, or a network that is asked in a chat.
        FileNotFoundError: it cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        begin: str | None = None,
        most_tokens: int = 40,
        device: str = "cpu",
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if not Path(model).is_dir() and not revision:
            raise ValueError(
                f"captioning model {model} is no local folder; for a hub id name the commit too: "
                f"{model}@COMMIT"
            )
        at = {"revision": revision} if revision else {}
        try:
            self.processor: Any = AutoProcessor.from_pretrained(model, **at)
            network = AutoModelForImageTextToText.from_pretrained(model, **at)
        except (OSError, ValueError) as error:  # the latter of a network of another kind
            first = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"captioning model {model} cannot be loaded ({first}); give a folder with the "
                "files of a network that turns an image into text"
            ) from error
        if getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"captioning model {model} is asked in a chat, which is not built; take one such "
                "as BLIP or GIT, or write the text files yourself"
            )
        self.model: Any = network.to(device).eval()
        self.begin, self.most_tokens = begin, most_tokens

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[str]:
        """A line of text for each image (3, H, W) in [0, 1]."""
        text = {} if self.begin is None else {"text": [self.begin] * len(images)}
        inputs = self.processor(
            images=[to_uint8(image) for image in images], **text, return_tensors="pt"
        )
        found = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype), max_new_tokens=self.most_tokens
        )
        lines = self.processor.batch_decode(found, skip_special_tokens=True)
        return [" ".join(line.split()) for line in lines]
