"""Crops of several shapes: each micro-batch is of one, and the order stays exactly resumable."""

from pathlib import Path

import pytest
import torch

from datamodules import RefocusDataModule
from genrefocus.data.buckets import SmallerThanBuckets
from genrefocus.data.shards import write_set
from tests.fits import KillAfter, checkpoints_every_two_steps, data, fit
from tests.samples import noise_sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

BUCKETS = [[8, 8], [6, 10], [10, 6]]
SHAPES = {(9, 9): (8, 8), (12, 20): (6, 10), (20, 11): (10, 6), (8, 11): (6, 10), (11, 7): (10, 6)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Sets with samples of several sizes in turn, and one that holds no bucket."""
    root = tmp_path_factory.mktemp("shapes")
    for route, count in {"synthetic": 23, "in_the_wild": 12, "deblur": 14}.items():
        sizes = [(7, 7), *list(SHAPES) * 5][:count]
        samples = [
            noise_sample(n, *size, key=f"{route}-{n}", route=route) for n, size in enumerate(sizes)
        ]
        write_set(root / route, samples, parameters={}, samples_per_shard=4)
    return {route: root / route for route in ("synthetic", "in_the_wild", "deblur")}


def in_buckets(shapes: dict[str, Path], **changes) -> RefocusDataModule:
    return data(shapes, buckets=BUCKETS, crop=99, **changes)


leaves_out = pytest.mark.filterwarnings("ignore:.*hold none of data.buckets")


@leaves_out
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_micro_batch_has_one_shape_on_any_ranks_and_workers(
    shapes: dict[str, Path], batch_size: int
) -> None:
    seen: dict[tuple[int, int], list] = {}
    for world, workers in ((1, 0), (2, 1), (3, 0)):
        module = in_buckets(shapes, batch_size=batch_size, num_workers=workers)
        module.setup("fit")
        own = seen.setdefault((world, workers), [])
        loaders = [
            module.train_loader(start=24, count=24 // world, rank=rank, world=world)
            for rank in range(world)
        ]
        for batches in zip(*loaders, strict=True):
            for batch in batches:
                assert len(batch["draw"]) == batch_size
                shape = tuple(batch["aif"].shape[-2:])
                for key in batch["key"]:
                    route, _, number = key.partition("-")
                    size = module.train_sets[route].size(int(number))
                    assert SHAPES[size] == shape
                own += zip(batch["draw"], batch["key"], batch["aif"].sum((1, 2, 3)), strict=True)
    first = seen[1, 0]
    assert [draw for draw, *_ in first] == list(range(24, 24 + 24 * batch_size))
    assert all(own == first for own in seen.values())
    assert len({key for _, key, _ in first}) > 10


@leaves_out
@pytest.mark.parametrize("world", [1, 2])
def test_validation_sees_every_sample_that_holds_a_bucket_in_its_shape(
    shapes: dict[str, Path], world: int
) -> None:
    module = in_buckets(shapes, eval_batch_size=3)
    module.setup("validate")
    loaders = [module.val_loader(rank=rank, world=world) for rank in range(world)]
    keys = [key for loader in loaders for batch in loader for key in batch["key"]]
    assert sorted(keys) == sorted(f"deblur-{n}" for n in range(1, 14))
    assert module.validated is not None
    assert module.validated.sizes == (3, 5, 5)
    assert all(name.endswith(" px") for name in module.validated.names)


@leaves_out
def test_a_resumed_run_in_buckets_equals_one_that_was_not_cut_off(
    shapes: dict[str, Path], tmp_path: Path
) -> None:
    whole = fit(in_buckets(shapes), tmp_path)
    cut = fit(in_buckets(shapes), tmp_path, checkpoints_every_two_steps(tmp_path), KillAfter(9))
    assert len(cut.draws) == 9
    resumed = fit(in_buckets(shapes), tmp_path, resume=tmp_path / "step=4.ckpt")
    assert resumed.draws == whole.draws[8:]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
    for change, said in (
        ({"batch_size": 4}, "trained with batch_size 2, now it is 4"),
        ({"buckets": BUCKETS[:2]}, "trained with buckets"),
        ({"buckets": None, "crop": 5}, "trained with buckets .*, now it is None"),
    ):
        given = {"buckets": BUCKETS, "crop": 99, **change}
        with pytest.raises(ValueError, match=said):
            fit(data(shapes, **given), tmp_path, resume=tmp_path / "step=4.ckpt")


def test_samples_that_hold_no_bucket_are_counted(shapes: dict[str, Path]) -> None:
    with pytest.warns(SmallerThanBuckets, match=r"deblur: 1 of 14 samples hold none"):
        in_buckets(shapes).setup("validate")
