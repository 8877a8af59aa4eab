"""Legibility: sharp words are read, whatever their colours; other words are not."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.metrics.legibility import legibility, read_letters
from genrefocus.metrics.registry import METRICS
from genrefocus.render.lettering import LETTERS, Lettering

WORDS = [LETTERS[n : n + 4] for n in range(0, 24, 4)] + ["WXYZ"]


def image(word: Lettering, ink: float = 0.9, ground: float = 0.1) -> Tensor:
    covered = word.coverage(32, 64).expand(3, -1, -1)
    return ground + (ink - ground) * covered


@pytest.mark.parametrize(("ink", "ground"), [(0.9, 0.1), (0.2, 0.3)])
@pytest.mark.parametrize("height", [8, 12])
def test_every_letter_is_read_in_any_colour(ink: float, ground: float, height: int) -> None:
    noise = (
        0.1 * abs(ink - ground) * torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    )
    for text in WORDS:
        word = Lettering(text, 9, 7, height)
        target = image(word, ink, ground)
        seen = (target + noise).clamp(0, 1)
        assert read_letters(seen, target, word) == text
        assert read_letters(seen.roll(1, -1), target, word) == text  # a pixel aside
        assert legibility(seen, target=target, lettering=word) == 1.0


def test_what_another_word_says_is_not_read() -> None:
    word, other = Lettering("CAFE", 9, 7, 10), Lettering("COPE", 9, 7, 10)
    assert legibility(image(other), target=image(word), lettering=word) == 0.5
    assert read_letters(image(other), image(word), word) == "COPE"


def test_blur_takes_letters_away_and_a_plain_sign_is_chance() -> None:
    words = [Lettering(text, 9, 7, 8) for text in WORDS]

    def mean(change) -> float:
        shown = [legibility(change(image(one)), target=image(one), lettering=one) for one in words]
        return sum(shown) / len(shown)

    sharp, soft, gone = (
        mean(lambda x, s=sigma: gaussian_blur(x, [21, 21], [s, s])) for sigma in (0.5, 1.5, 4.0)
    )
    assert sharp == 1.0 > soft > gone + 0.2
    assert mean(lambda x: torch.full_like(x, 0.4)) < 0.2
    assert mean(lambda x: avg_pool2d(x, 3, 1, 1)) > 0.5


def test_the_benchmark_knows_it() -> None:
    word = Lettering("CAFE", 9, 7, 10)
    info = METRICS["legibility"]
    assert info(image(word), target=image(word), lettering=word) == 1.0
    with pytest.raises(ValueError, match="metric legibility needs lettering, not known here"):
        info(image(word), target=image(word))
