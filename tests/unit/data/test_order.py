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


@pytest.mark.parametrize("run", [2, 3, 8])
def test_runs_are_of_one_route_and_kind_and_leave_out_no_sample(run: int) -> None:
    rng = np.random.default_rng(run)
    kinds = {name: bytes(rng.integers(0, 5, size).tolist()) for name, size in SIZES.items()}
    order = GlobalOrder(SIZES, WEIGHTS, 3, run=run, kinds=kinds)
    draws = [order.draw(n) for n in range(2 * MIX_BLOCK * run)]
    seen: dict[str, list[int]] = {name: [] for name in SIZES}
    for first in range(0, len(draws), run):
        together = {(x.route, kinds[x.route][x.index]) for x in draws[first : first + run]}
        assert len(together) == 1
        for draw in draws[first : first + run]:
            seen[draw.route].append(draw.index)
    shares = [len(seen[name]) for name in ("aperture_series", "in_the_wild", "synthetic")]
    assert shares == [400 * run, 600 * run, 1000 * run]
    for name, indices in seen.items():
        counts = Counter(kinds[name])
        epoch = sum(-(-count // run) * run for count in counts.values())
        for first in range(0, len(indices) - epoch + 1, epoch):
            times = Counter(indices[first : first + epoch])
            assert set(times) == set(range(SIZES[name]))
            for kind, count in counts.items():  # what fills the last run is spread evenly
                own = [times[i] for i in range(SIZES[name]) if kinds[name][i] == kind]
                assert max(own) - min(own) <= 1 and sum(own) - count < run
    again = pickle.loads(pickle.dumps(order))
    for n in rng.permutation(len(draws))[:300]:
        assert again.draw(int(n)) == draws[n]


def test_kinds_mean_nothing_to_runs_of_one() -> None:
    kinds = {name: bytes(n % 3 for n in range(size)) for name, size in SIZES.items()}
    order = GlobalOrder(SIZES, WEIGHTS, 3, kinds=kinds)
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
