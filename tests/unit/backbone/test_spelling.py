"""What the tiny backbone knows of letters: quoted words, found in an image and drawn there."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from genrefocus.backbone.spelling import LENGTH, HashedWords, named, numbered, unquoted, written
from genrefocus.render.apertures import disk
from genrefocus.render.lettering import Lettering

WORD = Lettering("CAFE", 20, 14, 10)
INK, GROUND = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([0.1, 0.2, 0.25])


def scene(ink: Tensor) -> Tensor:
    """A board with the word before noise, (3, 64, 64)."""
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    board = slice(None), slice(16, 34), slice(9, 54)
    shown = torch.lerp(GROUND[:, None, None], INK[:, None, None], ink)
    image[board] = shown[board]
    return image


def blurred(image: Tensor, radius: float) -> Tensor:
    kernel = torch.from_numpy(disk().kernel(radius)).float()[None, None]
    rim = kernel.shape[-1] // 2
    return conv2d(pad(image[:, None], (rim,) * 4, "replicate"), kernel)[:, 0].clamp(0, 1)


@pytest.mark.parametrize("radius", [2.0, 2.6, 3.5])
def test_a_word_is_drawn_where_it_stands_in_its_colours(radius: float) -> None:
    sharp = scene(WORD.coverage(64, 64))
    seen = blurred(sharp, radius)
    noise = 0.01 * torch.randn(seen.shape, generator=torch.Generator().manual_seed(2))
    drawn = written((seen + noise).clamp(0, 1), "CAFE", torch.zeros(3, 64, 64))
    assert drawn is not None
    inside = slice(None), *WORD.box
    assert (drawn[inside] - sharp[inside]).abs().mean() < 0.05
    assert (seen[inside] - sharp[inside]).abs().mean() > 0.1
    assert not drawn[:, :12].any() and not drawn[:, 40:].any()  # elsewhere as it was


def test_a_word_that_is_not_there_is_not_drawn() -> None:
    seen = blurred(scene(WORD.coverage(64, 64)), 2.0)
    for word in ("ZWKI", "OPEN", "A" * 9):
        assert written(seen, word, seen) is None
    empty = blurred(scene(torch.zeros(64, 64)), 2.0)
    assert written(empty, "CAFE", empty) is None
    assert written(seen[..., :12], "CAFE", seen[..., :12]) is None  # smaller than the word


def test_quoted_words_leave_the_prompt_and_come_back_from_numbers() -> None:
    prompt = 'restore this image "cafe", "open late"'
    assert unquoted(prompt) == ("restore this image ,", ["CAFE", "OPEN", "LATE"])
    for words in (["CAFE"], ["OPEN", "LATE"], [], ["A" * 15]):
        assert named(numbered(words)) == words and numbered(words).shape == (LENGTH,)
    assert named(numbered(["CAFE", "A" * 15, "OPEN"])) == ["CAFE", "OPEN"]
    assert unquoted('a "route 66"') == ('a "route 66"', [])


def test_a_prompt_without_quotes_is_embedded_as_ever() -> None:
    plain, spelt = HashedWords(8, 64, 32), HashedWords(8, 64, 32, spelt=True)
    prompts = ["restore this image", 'restore this image "CAFE"']
    before, now = plain(prompts), spelt(prompts)
    assert torch.equal(now.tokens[0], before.tokens[0])
    assert torch.equal(now.pooled[0, :32], before.pooled[0]) and not now.pooled[0, 32:].any()
    assert torch.equal(now.tokens[1], now.tokens[0])  # the words are taken out
    assert named(now.pooled[1, 32:]) == ["CAFE"]
    assert plain.identity != spelt.identity
