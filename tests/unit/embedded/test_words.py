"""Signs out of focus: words where the sample says, blurred as it says, made from seeds."""

from collections.abc import Mapping
from pathlib import Path

import torch

from genrefocus.benchmark.cases import ShardCases
from genrefocus.data.sample import to_float
from genrefocus.data.shards import ShardDataset
from genrefocus.embedded.words import EmbeddedWords, build_words, make_word_pair
from genrefocus.metrics.legibility import legibility
from genrefocus.optics import blur_radius
from genrefocus.render.lettering import Lettering

ONE = EmbeddedWords('a sign that says "{word}"', 3, 64)


def test_the_sharp_image_shows_the_word_of_the_caption() -> None:
    blurred, texts = [], set()
    for number in range(12):
        sample = make_word_pair(ONE, "train", number)
        word = Lettering(**sample.provenance["lettering"])
        texts.add(word.text)
        assert sample.prompt == f'a sign that says "{word.text}"'
        assert 8 <= word.height <= 12 and len(word.text) == 4
        aif = to_float(sample.aif)
        assert legibility(aif, target=aif, lettering=word) == 1.0
        blurred.append(legibility(to_float(sample.bokeh), target=aif, lettering=word))
        assert sample.disparity is not None and sample.strength is not None
        radius = blur_radius(sample.disparity, sample.focus_disparity or 0.0, sample.strength)
        on_the_sign = radius[word.box]
        assert float(on_the_sign.min()) >= 1.0 and float(on_the_sign.max()) <= 4.01
        torch.testing.assert_close(
            on_the_sign,
            torch.full_like(on_the_sign, sample.provenance["letters_radius"]),
            rtol=1e-4,
            atol=1e-4,
        )
    assert len(texts) == 12 and 0.2 < sum(blurred) / len(blurred) < 0.9


def test_sets_are_made_once_from_the_seed(tmp_path: Path) -> None:
    counts: Mapping[str, int] = {"train": 3, "test": 4}
    for name, workers in (("a", 0), ("b", 2), ("a", 0)):
        build_words(
            tmp_path / name,
            caption=ONE.caption,
            seed=3,
            counts=counts,
            size=32,
            workers=workers,
            progress=False,
        )
    first, second = (ShardDataset(tmp_path / name / "test") for name in ("a", "b"))
    assert first.fingerprint == second.fingerprint and len(first) == 4
    assert "3 to train, 4 to test" in (tmp_path / "a/README.md").read_text()
    cases = ShardCases("deblur", "words", tmp_path / "a/test", own_prompts=True)
    assert cases.shows_words
    shown = [cases[key] for key in cases.keys]
    for case in shown:
        assert case.prompt is not None and case.lettering is not None
        assert case.lettering.text in case.prompt and case.other_prompt != case.prompt
    assert {case.other_prompt for case in shown} == {case.prompt for case in shown}
