"""From sample to batch: one crop and flip for all fields, derived defocus, label ablations."""

import numpy as np
import pytest
import torch

from datamodules.examples import KLabel, TrainDraws, collate, to_example
from genrefocus.data.batches import EvalBatches, TrainBatches, micro_batches
from genrefocus.data.order import GlobalOrder
from genrefocus.data.sample import Sample, to_float
from genrefocus.optics import MAX_COC, BlurStrength
from genrefocus.render.apertures import disk, heart

HEIGHT, WIDTH = 12, 20


def make_sample(key: str = "s", route: str = "in_the_wild", **changes) -> Sample:
    """Every field holds the pixel's own number, so that a field out of step shows."""
    number = torch.arange(HEIGHT * WIDTH, dtype=torch.uint8).reshape(HEIGHT, WIDTH)
    image = number.expand(3, -1, -1).clone()
    fields = {
        "aif": image,
        "bokeh": image.clone(),
        "disparity": number.float() / 255,
        "strength": BlurStrength(30.0, HEIGHT, WIDTH),
        "focus_disparity": 0.25,
        "extras": {"pre_deblur": image.clone()},
    }
    return Sample(key=key, route=route, split="train", **{**fields, **changes})


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("place", "top", "left"), [((0, 0), 0, 0), ((0.99, 0.5), 4, 7)])
def test_all_fields_are_cut_alike(mirrored: bool, place: tuple, top: int, left: int) -> None:
    item = to_example(make_sample(), (8, 6), place, mirrored)
    whole = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    expected = torch.from_numpy(whole[top : top + 8, left : left + 6].copy()).float() / 255
    expected = expected.flip(-1) if mirrored else expected
    for name in ("aif", "bokeh", "pre_deblur"):
        assert torch.equal(item[name], expected.expand(3, -1, -1))
    assert torch.equal(item["disparity"][0], expected)
    radius = 30.0 * (expected - 0.25).abs()
    assert torch.allclose(item["defocus"][0], radius / MAX_COC)
    assert item["radius"] == pytest.approx(float(radius.mean()), rel=1e-5)
    assert (item["k"], item["focus_disparity"]) == (30.0, 0.25)


def test_the_shape_is_drawn_whole_after_the_crop_and_turned_by_the_mirror() -> None:
    """A crop of other proportions, in a corner; a sample without a shape shows a disc."""
    shape = heart(0.4)
    sample = make_sample(aperture=shape.facts)
    for mirrored in (False, True):
        shown = to_example(sample, (8, 6), (0, 1), mirrored, shape=True)["shape"]
        assert torch.equal(shown, shape.image(6).flip(-1) if mirrored else shape.image(6))
    unknown = to_example(make_sample(), (8, 8), (0, 0), False, shape=True)
    assert torch.equal(unknown["shape"], disk().image(8))
    assert "shape" not in to_example(sample, (8, 8), (0, 0), False)


def test_a_crop_beyond_the_sample_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"sample s is 20x12 px.*data\.crop=12"):
        to_example(make_sample(), (13, 13), (0, 0), mirrored=False)


def test_batches_hold_what_all_items_have() -> None:
    known = to_example(make_sample("a", prompt="hello"), (8, 8), (0, 0), mirrored=False)
    unknown = make_sample(
        "b", "deblur", disparity=None, strength=None, focus_disparity=None, extras={}
    )
    items = [
        {"draw": 5, **known},
        {"draw": 6, **to_example(unknown, (8, 8), (0, 0), mirrored=False)},
    ]
    batch = collate(items)
    assert set(batch) == {"draw", "key", "route", "prompt", "aif", "bokeh"}
    assert batch["aif"].shape == (2, 3, 8, 8)
    assert (batch["key"], batch["prompt"]) == (["a", "b"], ["hello", None])
    assert batch["draw"] == [5, 6]
    batch = collate(items[:1])
    for name, shape in {
        "defocus": (1, 1, 8, 8),
        "disparity": (1, 1, 8, 8),
        "pre_deblur": (1, 3, 8, 8),
        "k": (1,),
        "focus_disparity": (1,),
        "radius": (1,),
    }.items():
        assert batch[name].shape == shape
        assert batch[name].dtype == torch.float32


def test_captions_are_kept_at_their_rate_and_not_mirrored() -> None:
    samples = [make_sample(f"{n}", prompt=f"says {n}") for n in range(10)]
    sets = {"in_the_wild": samples}
    order = GlobalOrder({"in_the_wild": 10}, {"in_the_wild": 1.0}, 5)

    def draws(rate: float) -> list[dict]:
        one = TrainDraws(
            sets,  # type: ignore[arg-type]
            {"in_the_wild": range(10)},
            order,
            crops={"in_the_wild": [(HEIGHT, WIDTH)] * 10},
            label=KLabel(),
            mirror=True,
            caption_rate=rate,
        )
        return [one[n] for n in range(400)]

    half, every, none = draws(0.5), draws(1.0), draws(0.0)
    kept = [one["prompt"] is not None for one in half]
    assert sum(kept) == pytest.approx(200, abs=40)
    assert kept == [one["prompt"] is not None for one in draws(0.5)]
    assert all(one["prompt"] == f"says {one['key']}" for one in every)
    plain = to_float(samples[0].aif)
    mirrored = [
        [not torch.equal(one["aif"], plain) for one in some] for some in (half, every, none)
    ]
    assert not any(mirrored[1]) and sum(mirrored[2]) == pytest.approx(200, abs=40)
    assert mirrored[0] == [m and not k for m, k in zip(mirrored[2], kept, strict=True)]


def test_k_labels() -> None:
    photos = [make_sample(f"photo-{n}") for n in range(400)]
    rendered = make_sample("r", "synthetic")
    constant = KLabel("constant", constant=7.0)
    assert constant.apply(photos[0]).strength == BlurStrength(7.0, HEIGHT, WIDTH)
    noisy = KLabel("noisy", deviation=0.5, seed=1)
    assert constant.apply(rendered) is rendered
    assert noisy.apply(rendered) is rendered
    assert KLabel().apply(photos[0]) is photos[0]
    factors = np.log([noisy.apply(photo).strength.k / 30.0 for photo in photos])
    assert abs(factors.mean()) < 0.08
    assert factors.std() == pytest.approx(0.5, rel=0.1)
    again = KLabel("noisy", deviation=0.5, seed=1).apply(photos[3])
    assert again.strength == noisy.apply(photos[3]).strength


def test_reblurred_labels_lower_the_radii_of_photographs() -> None:
    reblurred = KLabel("reblurred", restored_radius=3.0)
    for route, expected in (
        ("in_the_wild", lambda r: 3 * r / (9 + r**2) ** 0.5),
        ("synthetic", None),
    ):
        stored, told = (
            to_example(make_sample("one", route), (8, 8), (0.3, 0.6), True, label)
            for label in (KLabel(), reblurred)
        )
        radius = stored["defocus"] * MAX_COC
        radius = radius if expected is None else expected(radius)
        torch.testing.assert_close(told["defocus"] * MAX_COC, radius)
        assert told["radius"] == pytest.approx(float(radius.mean()))


@pytest.mark.parametrize("fields", [("nosy",), ("noisy",), ("constant",), ("constant", 0.0, -1.0)])
def test_half_given_labels_are_refused(fields: tuple) -> None:
    with pytest.raises(ValueError, match="K label"):
        KLabel(*fields)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_partition_what_one_process_sees(world: int) -> None:
    whole = list(TrainBatches(start=10, count=5, behind=2, batch_size=2 * world, rank=0, world=1))
    ranks = [TrainBatches(10, 5, 2, 2, rank, world) for rank in range(world)]
    assert {len(one) for one in ranks} == {7}
    for g, parts in enumerate(zip(*ranks, strict=True)):
        assert [n for part in parts for n in part] == whole[g]
    assert [n for batch in whole for n in batch] == list(range(10, 10 + 5 * 2 * world))


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [(), (1,), (7,), (5, 0, 9), (4, 3, 12)])
def test_evaluation_sees_everything_once(world: int, sizes: tuple[int, ...]) -> None:
    ranks = [list(EvalBatches(sizes, 3, rank, world)) for rank in range(world)]
    seen = [n for batches in ranks for batch in batches for n in batch]
    assert sorted(seen) == list(range(sum(sizes)))
    counts = [sum(map(len, batches)) for batches in ranks]
    assert max(counts) - min(counts) <= 1
    ends = np.cumsum(sizes)
    for rank, batches in enumerate(ranks):
        assert len(EvalBatches(sizes, 3, rank, world)) == len(batches)
        assert all(len(set(np.searchsorted(ends, batch, side="right"))) == 1 for batch in batches)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 4])
@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_step_has_the_same_samples_on_any_number_of_ranks(
    batch_size: int | None, world: int
) -> None:
    batch, accumulate = micro_batches(32, batch_size, world)
    ranks = [list(TrainBatches(0, 2 * accumulate, 0, batch, r, world)) for r in range(world)]
    for step in (0, 1):
        own = slice(step * accumulate, (step + 1) * accumulate)
        seen = sorted(n for batches in ranks for batch in batches[own] for n in batch)
        assert seen == list(range(32 * step, 32 * (step + 1)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((32, 1, 3), "use 1, 2, 4, 8, 16, 32 of them .*, or global_batch=30, 33"),
        ((32, 1, 64), "or global_batch=64"),
        ((0, None, 1), "or global_batch=1"),
        ((32, 3, 2), "use 1, 2, 4, 8, 16, or null"),
        ((32, 0, 1), "batch_size=0 does not divide"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused_with_what_can(
    given: tuple[int, int | None, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        micro_batches(*given)
