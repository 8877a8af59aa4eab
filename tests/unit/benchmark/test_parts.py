"""Parts of a data set: by the blur that can be seen, and by the lens."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.figures import figure_table
from genrefocus.benchmark.parts import (
    HELD_OUT,
    VISIBLE,
    over_blur,
    parts_of,
    parts_table,
    summarise_parts,
    visible_first,
)
from genrefocus.benchmark.statistics import interval
from genrefocus.optics import BlurStrength


def case(radius: float, source: float | None = None, held_out: bool = False) -> Case:
    """A case with a tenth of its pixels blurred by a radius, and a few by far more."""
    image = torch.zeros(3, 20, 20)
    disparity = torch.ones(20, 20)
    disparity[:2] = 2.0
    disparity[0, :3] = 9.0  # under 1 % of the pixels
    strength = BlurStrength(radius, 20, 20)
    known = {} if source is None else {"source_strength": BlurStrength(source, 20, 20)}
    return Case(
        "deblur" if source is None else "refocus",
        "a",
        image=image,
        target=image,
        disparity=disparity,
        focus_disparity=1.0,
        strength=strength,
        source_focus_disparity=None if source is None else 1.0,
        held_out_lens=held_out,
        **known,
    )


@pytest.mark.parametrize(
    ("radius", "expected"),
    [
        (0.6, ("below 1 px",)),
        (1.0, ("1 to 2 px",)),
        (3.9, ("2 to 4 px", VISIBLE)),
        (4.0, ("4 px and more", VISIBLE)),
    ],
)
def test_a_case_belongs_to_the_bin_of_its_visible_blur(
    radius: float, expected: Sequence[str]
) -> None:
    assert parts_of(case(radius)) == expected
    assert parts_of(case(radius, held_out=True)) == (*expected, HELD_OUT)
    # A K that was searched for does not move it, for refocus the difference counts.
    assert parts_of(case(radius).with_k(50.0)) == expected
    assert parts_of(case(radius + 5.0, source=5.0)) == expected


def test_without_depth_there_are_no_parts() -> None:
    bare = Case("deblur", "a", image=torch.zeros(3, 4, 4), target=torch.zeros(3, 4, 4))
    assert parts_of(bare) == ()
    assert visible_first(["a", "b"], {"a": ()}) == ["a", "b"]
    assert visible_first(["a", "b"], {"a": (), "b": (VISIBLE,)}) == ["b"]


def test_keys_are_chosen_of_each_blur_alike_strong_blur_first() -> None:
    parts = {f"{n}": ("1 to 2 px",) for n in range(50)} | {"50": ("4 px and more", VISIBLE)}
    chosen = over_blur(list(parts), parts, 4)
    assert list(chosen.values()) == ["4 px and more", "1 to 2 px", "1 to 2 px"]
    assert len(over_blur(list(parts), {}, 4)) == 4


def test_parts_have_means_and_intervals_of_their_own() -> None:
    values = np.random.default_rng(0).normal(30.0, 2.0, 20)
    rows = [
        ("deblur", "set", method, f"{n:02d}", "psnr", value + add, None, "hash")
        for method, add in (("identity", 0.0), ("own", 1.0))
        for n, value in enumerate(values)
    ]
    parts = {f"{n:02d}": ("1 to 2 px",) if n < 12 else ("2 to 4 px", VISIBLE) for n in range(20)}
    lines = summarise_parts(figure_table(rows), parts, seed=3)
    assert list(lines["part"].unique()) == ["1 to 2 px", "2 to 4 px", VISIBLE]
    own = lines[(lines["part"] == "1 to 2 px") & (lines["method"] == "own")].iloc[0]
    assert own["n"] == own["of"] == 12
    assert own["mean"] == pytest.approx(values[:12].mean() + 1.0)
    assert (own["low"], own["high"]) == interval(values[:12] + 1.0, seed=3)
    texts = parts_table(lines, {"psnr": "psnr ↑"}).texts
    assert list(texts.columns)[2:] == ["1 to 2 px (n 12)", "2 to 4 px (n 8)", "2 px and more (n 8)"]
    assert list(texts["method"]) == ["identity", "own"]
    assert texts.iloc[1, 2].startswith(f"{own['mean']:.2f} [")
    assert summarise_parts(figure_table(rows), {}, seed=3).empty
