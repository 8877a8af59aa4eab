"""The global order: a pure function of (seed, n), exact in proportion, complete in every epoch."""

import pickle
from collections import Counter
from dataclasses import astuple

import numpy as np
import pytest

from genrefocus.data.order import MIX_BLOCK, GlobalOrder

SIZES = {"synthetic": 137, "in_the_wild": 41, "aperture_series": 9}
WEIGHTS = {"synthetic": 0.5, "in_the_wild": 0.3, "aperture_series": 0.2}
FROZEN = [
    ("in_the_wild", 39, 6252797085247196109),
    ("aperture_series", 5, 6408854984653479099),
    ("in_the_wild", 16, 3489899069719773320),
    ("synthetic", 130, 6187417510868905952),
]


def test_draws_do_not_depend_on_what_was_asked_before() -> None:
    in_order = [GlobalOrder(SIZES, WEIGHTS, 3).draw(n) for n in range(4000)]
    other = pickle.loads(pickle.dumps(GlobalOrder(dict(reversed(SIZES.items())), WEIGHTS, 3)))
    for n in np.random.default_rng(0).permutation(4000)[:500]:
        assert other.draw(int(n)) == in_order[n]


def test_every_sample_once_per_epoch_of_its_route() -> None:
    order = GlobalOrder(SIZES, WEIGHTS, 3)
    seen: dict[str, list[int]] = {name: [] for name in SIZES}
    for n in range(3 * MIX_BLOCK):
        draw = order.draw(n)
        seen[draw.route].append(draw.index)
    for name, indices in seen.items():
        epochs = len(indices) // SIZES[name]
        assert epochs >= 2
        parts = np.array(indices[: epochs * SIZES[name]]).reshape(epochs, -1)
        assert (np.sort(parts, axis=1) == np.arange(SIZES[name])).all()
        assert len({tuple(part) for part in parts}) == epochs  # shuffled anew


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (WEIGHTS, [200, 300, 500]),
        ({"synthetic": 1, "in_the_wild": 1, "aperture_series": 1}, [333, 333, 334]),
        ({"synthetic": 1e6, "in_the_wild": 1, "aperture_series": 0}, [1, 999]),
        ({"synthetic": 2, "in_the_wild": 0}, [1000]),
    ],
)
def test_every_block_holds_the_routes_in_proportion(
    weights: dict[str, float], expected: list[int]
) -> None:
    order = GlobalOrder(SIZES, weights, 11)
    for block in (0, 5):
        draws = (order.draw(block * MIX_BLOCK + k) for k in range(MIX_BLOCK))
        assert sorted(Counter(draw.route for draw in draws).values()) == expected


def test_mixing_is_shuffled_not_periodic() -> None:
    order = GlobalOrder(SIZES, {"synthetic": 1, "in_the_wild": 1}, 0)
    routes = [[order.draw(b * MIX_BLOCK + k).route for k in range(MIX_BLOCK)] for b in (0, 1)]
    assert routes[0] != routes[1]
    repeats = sum(a == b for a, b in zip(routes[0], routes[0][1:], strict=False))
    assert 440 < repeats < 560  # independent draws would repeat half the time


def test_seeds_differ_by_run_and_by_draw() -> None:
    order, other = GlobalOrder(SIZES, WEIGHTS, 3), GlobalOrder(SIZES, WEIGHTS, 4)
    draws = [order.draw(n) for n in range(500)]
    assert len({draw.sample_seed for draw in draws}) == 500
    assert all(0 <= draw.sample_seed < 2**63 for draw in draws)
    same = sum(astuple(draw)[:2] == astuple(other.draw(n))[:2] for n, draw in enumerate(draws))
    assert same < 25


def test_the_order_is_frozen() -> None:
    """A change here changes every run that is resumed: the streams are NumPy's frozen ones."""
    order = GlobalOrder(SIZES, WEIGHTS, 3)
    assert [astuple(order.draw(n)) for n in (0, 1, 2, 123456)] == FROZEN


def test_a_weight_without_samples_names_what_was_found() -> None:
    with pytest.raises(ValueError, match=r"route synthetc has weight 1.*synthetic \(137 samples\)"):
        GlobalOrder(SIZES, {"synthetc": 1}, 0)
    with pytest.raises(ValueError, match="no samples"):
        GlobalOrder({"synthetic": 0}, {"synthetic": 1}, 0)
    with pytest.raises(ValueError, match="no route has a weight above 0"):
        GlobalOrder(SIZES, {"synthetic": 0}, 0)
    with pytest.raises(ValueError, match="give a finite number >= 0"):
        GlobalOrder(SIZES, {"synthetic": -1}, 0)
