"""Letters in cells: all of them differ, and a word is its letters side by side."""

from itertools import combinations

import pytest
import torch

from genrefocus.render.lettering import LETTERS, Lettering, glyph


@pytest.mark.parametrize("height", [8, 12])
def test_letters_fill_their_height_and_can_be_told_apart(height: int) -> None:
    drawn = {letter: glyph(letter, height) for letter in LETTERS}
    for letter, ink in drawn.items():
        assert ink.shape == (height, round(0.85 * height))
        assert float(ink.min()) >= 0 and float(ink.max()) <= 1
        assert ink[0].max() > 0.3 and ink[-1].max() > 0.3, letter  # top and foot
    pairs = [
        torch.stack([drawn[a].flatten(), drawn[b].flatten()]) for a, b in combinations(LETTERS, 2)
    ]
    assert max(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) < 0.95


def test_a_word_is_its_letters_side_by_side() -> None:
    word = Lettering("CAFE", top=3, left=5, height=10)
    ink = word.coverage(16, 48)
    for letter, cell in zip("CAFE", word.cells, strict=True):
        assert torch.equal(ink[cell], glyph(letter, 10))
        ink[cell] = 0.0
    assert not ink.any()
    assert word.cells[0][1].start == 5 and word.cells[-1][1].stop == word.box[1].stop == 37
    with pytest.raises(ValueError, match="beyond an image of 36x16 px"):
        word.coverage(16, 36)
    for text in ("", "Cafe", "ÖL"):
        with pytest.raises(ValueError, match="cannot be drawn; letters are ABC"):
            Lettering(text, 0, 0, 8)
