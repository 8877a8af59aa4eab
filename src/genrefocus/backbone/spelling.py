"""The text encoder of the tiny backbone, and what it knows of letters.

FLUX has learnt how words look. Here a word that a prompt quotes is drawn, and the drawing laid
where it explains the image best, out of focus as it may be there.
"""

import functools
import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from genrefocus.backbone.text import Encode, TextEmbedding
from genrefocus.render.apertures import disk
from genrefocus.render.lettering import LETTERS, Lettering

LENGTH = 16
"""Numbers of :func:`numbered`."""

HEIGHTS = range(8, 13)
"""Of letters that are looked for, px."""

RADII = (2.0, 3.0, 4.0)
"""Of their blur, px."""

LEAST_FIT = 0.85
"""Correlation of the blurred drawing with the image, below which the word is not there."""

_QUOTED = re.compile(r'"([A-Za-z ]*)"')
_RIM = 3  # of plain ground around a word, px
_FLAT = 1e-4  # variance that counts as none


def unquoted(prompt: str) -> tuple[str, list[str]]:
    """The prompt without what it quotes, and the words that it quotes, in capitals.

    Words have letters from A to Z; what else is in quotation marks is part of the prompt.

    >>> unquoted('restore this image "Open late"')
    ('restore this image', ['OPEN', 'LATE'])
    """
    words = [word for quoted in _QUOTED.findall(prompt) for word in quoted.upper().split()]
    return " ".join(_QUOTED.sub(" ", prompt).split()), words


def numbered(words: Sequence[str]) -> Tensor:
    """Words as ``LENGTH`` numbers: those of their letters from 1 on, a 0 after each word.

    Words that find no room are left out.
    """
    numbers: list[float] = []
    for word in words:
        if len(numbers) + len(word) < LENGTH:
            numbers += [*(1.0 + LETTERS.index(letter) for letter in word), 0.0]
    return torch.tensor(numbers + [0.0] * (LENGTH - len(numbers)))


def named(numbers: Tensor) -> list[str]:
    """The words of :func:`numbered`.

    >>> named(numbered(["OPEN", "LATE"]))
    ['OPEN', 'LATE']
    """
    text = "".join(f" {LETTERS}"[int(number)] for number in numbers.tolist())
    return text.split()


@torch.no_grad()
def written(image: Tensor, word: str, onto: Tensor) -> Tensor | None:
    """``onto`` with the sharp word in the place where its blurred drawing fits ``image`` best.

    Ink and ground have the colours of which the blurred drawing comes nearest to the image there,
    by least squares.

    Args:
        image: (3, H, W) in [0, 1].
        word: of letters from A to Z.
        onto: shape and range as ``image``.

    Returns:
        A new image; None where the word fits nowhere, see :data:`LEAST_FIT`.
    """
    grey, found = image.mean(0)[None, None], None
    best = LEAST_FIT
    for height in HEIGHTS:
        ink, blurred = (one.to(image) for one in _drawn(word, height))
        if ink.shape[0] > image.shape[1] or ink.shape[1] > image.shape[2]:
            continue
        variance = F.avg_pool2d(grey**2, ink.shape, 1) - F.avg_pool2d(grey, ink.shape, 1) ** 2
        shapes = _standardised(blurred)[:, None]
        fit = F.conv2d(grey, shapes) / (variance.clamp_min(_FLAT) * ink.numel()).sqrt()
        if float(fit.abs().max()) > best:
            best = float(fit.abs().max())
            place = torch.unravel_index(fit[0].abs().argmax(), fit.shape[1:])
            radius, top, left = (int(one) for one in place)
            found = ink, blurred[radius], top, left
    if found is None:
        return None
    ink, seen, top, left = found
    box = slice(None), slice(top, top + ink.shape[0]), slice(left, left + ink.shape[1])
    away, ground = seen - seen.mean(), image[box].mean((1, 2), keepdim=True)
    contrast = (image[box] * away).sum((1, 2), keepdim=True) / away.square().sum()
    result = onto.clone()
    result[box] = (ground + contrast * (ink - seen.mean())).clamp(0, 1)
    return result


def write_words(images: Tensor, letters: Tensor, onto: Tensor) -> tuple[Tensor, Tensor]:
    """Write into each of ``onto`` its words that are found in the image, see :func:`written`.

    Args:
        images, onto: (B, 3, H, W) in [0, 1].
        letters: (B, LENGTH), see :func:`numbered`.

    Returns:
        New images, and whether anything was written (B,).
    """
    result, wrote = onto.clone(), torch.zeros(len(onto), dtype=torch.bool)
    for row, numbers in enumerate(letters):
        for word in named(numbers):
            found = written(images[row], word, result[row])
            if found is not None:
                result[row], wrote[row] = found, True
    return result, wrote


@functools.lru_cache(maxsize=4096)
def _drawn(word: str, height: int) -> tuple[Tensor, Tensor]:
    """Ink (H, W) of a word with a rim, and the same out of focus (radii, H, W)."""
    one = Lettering(word, _RIM, _RIM, height)
    ink = one.coverage(height + 2 * _RIM, len(word) * one.pitch + 2 * _RIM)
    kernels = [torch.from_numpy(disk().kernel(radius)).float() for radius in RADII]
    blurred = [F.conv2d(ink[None, None], k[None, None], padding=len(k) // 2) for k in kernels]
    return ink, torch.cat(blurred)[:, 0]


def _standardised(shapes: Tensor) -> Tensor:
    centred = shapes - shapes.mean((1, 2), keepdim=True)
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt()


class HashedWords:
    """A fixed random vector for every word: the text encoder of the tiny backbone.

    It is no language model: a handful of prompts get distinct, reproducible embeddings.

    Args:
        tokens: words that are read.
        token_dim, pooled_dim: of the vectors.
        spelt: take the words that a prompt quotes out of it; the pooled vector ends with the
            numbers of their letters, see ``spelling.numbered``.
    """

    def __init__(
        self, tokens: int, token_dim: int, pooled_dim: int, *, spelt: bool = False
    ) -> None:
        self.tokens, self.token_dim, self.pooled_dim = tokens, token_dim, pooled_dim
        self.spelt = spelt
        self.identity = f"words-{tokens}-{token_dim}-{pooled_dim}{'-spelt' * spelt}"

    def loaded(self, device: torch.device) -> AbstractContextManager[Encode]:
        return nullcontext(self)

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens = torch.zeros(len(prompts), self.tokens, self.token_dim)
        pooled = torch.zeros(len(prompts), self.pooled_dim)
        letters = torch.zeros(len(prompts), LENGTH if self.spelt else 0)
        for row, prompt in enumerate(prompts):
            if self.spelt:
                prompt, quoted = unquoted(prompt)
                letters[row] = numbered(quoted)
            words = prompt.lower().split()
            for column, word in enumerate(words[: self.tokens]):
                tokens[row, column] = _word_vector(word, self.token_dim)
            for word in words:
                pooled[row] += _word_vector(word, self.pooled_dim) / len(words) ** 0.5
        return TextEmbedding(tokens, torch.cat([pooled, letters], 1))


def _word_vector(word: str, dim: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{dim}:{word}".encode()).digest()[:7], "big")
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))
