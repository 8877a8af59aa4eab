"""Prompt embeddings: computed once, after which the encoders are dropped."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrefocus.noise import to_device
from genrefocus.writing import whole

_TOGETHER = 8  # prompts that are encoded at once
_RECENT = 64  # embeddings in main memory beside those on disk


@dataclass(frozen=True)
class TextEmbedding:
    """tokens (B, T, joint_attention_dim) and pooled (B, pooled_projection_dim)."""

    tokens: Tensor
    pooled: Tensor

    def repeated(self, times: int) -> "TextEmbedding":
        """All rows, then all rows again, and so on."""
        return TextEmbedding(self.tokens.repeat(times, 1, 1), self.pooled.repeat(times, 1))


Encode = Callable[[Sequence[str]], TextEmbedding]


class TextEncoder(Protocol):
    """Embeds prompts; the transformer reads them as text tokens and as a pooled vector."""

    @property
    def identity(self) -> str:
        """Of what embeddings depend on, for names of files."""
        ...

    def loaded(self, device: torch.device) -> AbstractContextManager[Encode]:
        """The encoder in memory, computing on ``device``; what it returns is on the CPU."""
        ...


class FluxTextEncoders:
    """CLIP and T5 of FLUX.1, which are in memory within :meth:`loaded` alone.

    Args:
        path: folder or hub id of FLUX.1-dev.
        dtype: that they compute in.
        max_length: tokens of T5.
    """

    def __init__(self, path: str, *, dtype: torch.dtype, max_length: int) -> None:
        self.path, self.dtype, self.max_length = path, dtype, max_length

    @cached_property
    def identity(self) -> str:
        """Digest of what embeddings depend on: the encoders' files by size, and the settings."""
        folder, facts = Path(self.path), [str(self.dtype), str(self.max_length)]
        if folder.is_dir():
            for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
                files = sorted((folder / part).glob("*"))
                facts += [f"{part}/{file.name} {file.stat().st_size}" for file in files]
        else:  # the hub's cache names the folder of a snapshot after its commit
            snapshot = Path(hf_hub_download(self.path, "model_index.json")).parent
            facts += [self.path, snapshot.name]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]

    @contextmanager
    def loaded(self, device: torch.device) -> Iterator[Encode]:
        """The encoders on ``device``; what they return is on the CPU."""
        from diffusers import FluxPipeline

        pipeline = FluxPipeline.from_pretrained(
            self.path, transformer=None, vae=None, torch_dtype=self.dtype
        ).to(device)

        @torch.no_grad()
        def encode(prompts: Sequence[str]) -> TextEmbedding:
            tokens, pooled, _ = pipeline.encode_prompt(
                prompt=list(prompts), prompt_2=None, max_sequence_length=self.max_length
            )
            return TextEmbedding(tokens.cpu(), pooled.cpu())

        yield encode


class PromptCache:
    """Embeddings by prompt: each is computed once, and none stays on the device.

    An embedding of FLUX takes 4 MiB. With a folder they lie there, by digest of prompt and encoder,
    and the last that were used are in main memory; unknown prompts are refused then, as ranks
    that train must not load an encoder each. Without a folder all are in memory, and are computed
    when they are asked for.

    Args:
        encoder: computes embeddings.
        folder: where they are kept, or None.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path | None = None) -> None:
        self._encoder = encoder
        self.folder = None if folder is None else Path(folder)
        self._recent: OrderedDict[str, TextEmbedding] = OrderedDict()

    def learn(self, prompts: Iterable[str], device: torch.device) -> int:
        """Compute the embeddings that are not known, on ``device``; returns how many those were."""
        new = sorted(prompt for prompt in set(prompts) if not self._is_known(prompt))
        if not new:
            return 0
        with self._encoder.loaded(device) as encode:
            for first in range(0, len(new), _TOGETHER):
                part = new[first : first + _TOGETHER]
                embedded = encode(part)
                for row, prompt in enumerate(part):
                    self._keep(prompt, TextEmbedding(embedded.tokens[row], embedded.pooled[row]))
        return len(new)

    def __call__(
        self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> TextEmbedding:
        """Embeddings of ``prompts`` in order, on ``device``.

        Raises:
            ValueError: there is a folder, and a prompt was not learnt.
        """
        if self.folder is None:
            self.learn(prompts, device)
        rows = [self._known(prompt) for prompt in prompts]
        return TextEmbedding(
            to_device(torch.stack([row.tokens for row in rows]).to(dtype), device),
            to_device(torch.stack([row.pooled for row in rows]).to(dtype), device),
        )

    def _file(self, prompt: str) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(prompt.encode()).hexdigest()[:32]
        return self.folder / self._encoder.identity / f"{name}.safetensors"

    def _is_known(self, prompt: str) -> bool:
        return prompt in self._recent or (self.folder is not None and self._file(prompt).is_file())

    def _known(self, prompt: str) -> TextEmbedding:
        if prompt not in self._recent:
            if not self._is_known(prompt):
                raise ValueError(
                    f"the prompt {prompt!r} has no embedding in {self.folder}: prompts of stages "
                    "and sets are encoded before a stage is trained, and this one was not among "
                    "them; leave the sets as they are, and resume the run"
                )
            self._remember(prompt, TextEmbedding(**load_file(self._file(prompt))))
        self._recent.move_to_end(prompt)
        return self._recent[prompt]

    def _keep(self, prompt: str, embedding: TextEmbedding) -> None:
        if self.folder is not None:
            file = self._file(prompt)
            file.parent.mkdir(parents=True, exist_ok=True)
            tensors = {"tokens": embedding.tokens, "pooled": embedding.pooled}
            with whole(file) as part:
                save_file({k: v.contiguous() for k, v in tensors.items()}, str(part))
        self._remember(prompt, embedding)

    def _remember(self, prompt: str, embedding: TextEmbedding) -> None:
        self._recent[prompt] = embedding
        if self.folder is not None and len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
