"""Prompt embeddings: computed once, after which the encoders are dropped."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEmbedding:
    """tokens (B, T, joint_attention_dim) and pooled (B, pooled_projection_dim)."""

    tokens: Tensor
    pooled: Tensor


class TextEncoder(Protocol):
    """Embeds prompts; the transformer reads them as text tokens and as a pooled vector."""

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding: ...


class HashedWords:
    """A fixed random vector for every word: the text encoder of the tiny backbone.

    It knows no language. It gives prompts distinct, reproducible embeddings, which is what a model
    needs that is trained with a handful of prompts.
    """

    def __init__(self, tokens: int, token_dim: int, pooled_dim: int) -> None:
        self.tokens, self.token_dim, self.pooled_dim = tokens, token_dim, pooled_dim

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens = torch.zeros(len(prompts), self.tokens, self.token_dim)
        pooled = torch.zeros(len(prompts), self.pooled_dim)
        for row, prompt in enumerate(prompts):
            words = prompt.lower().split()
            for column, word in enumerate(words[: self.tokens]):
                tokens[row, column] = _word_vector(word, self.token_dim)
            for word in words:
                pooled[row] += _word_vector(word, self.pooled_dim) / len(words) ** 0.5
        return TextEmbedding(tokens, pooled)


class FluxTextEncoders:
    """CLIP and T5 of FLUX.1, loaded for one call of :meth:`__call__` and dropped after it."""

    def __init__(
        self, path: str, *, device: str | torch.device, dtype: torch.dtype, max_length: int
    ) -> None:
        self.path, self.device, self.dtype, self.max_length = path, device, dtype, max_length

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        from diffusers import FluxPipeline

        pipeline = FluxPipeline.from_pretrained(
            self.path, transformer=None, vae=None, torch_dtype=self.dtype
        ).to(self.device)
        tokens, pooled, _ = pipeline.encode_prompt(
            prompt=list(prompts), prompt_2=None, max_sequence_length=self.max_length
        )
        return TextEmbedding(tokens, pooled)


class PromptCache:
    """Embeddings by prompt; the encoder runs once for each distinct prompt."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, TextEmbedding] = {}

    def __call__(
        self, prompts: Sequence[str], device: torch.device, dtype: torch.dtype
    ) -> TextEmbedding:
        """Embeddings of ``prompts`` in order, on ``device``."""
        new = sorted(set(prompts) - set(self._known))
        if new:
            embedded = self._encoder(new)
            for row, prompt in enumerate(new):
                self._known[prompt] = TextEmbedding(
                    embedded.tokens[row].to(device, dtype), embedded.pooled[row].to(device, dtype)
                )
        rows = [self._known[prompt] for prompt in prompts]
        return TextEmbedding(
            torch.stack([row.tokens for row in rows]).to(device, dtype),
            torch.stack([row.pooled for row in rows]).to(device, dtype),
        )


def _word_vector(word: str, dim: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{dim}:{word}".encode()).digest()[:7], "big")
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))
