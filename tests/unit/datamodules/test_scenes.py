"""Scenes by number: pure functions of the seed, cut and mirrored together with their layers."""

import itertools

import pytest
import torch

from datamodules import SceneDataModule
from datamodules.scenes import SceneDraws


def scenes(**changes) -> SceneDataModule:
    given = {"scenes": 7, "val_scenes": 3, "size": 24, "crop": 16, "num_workers": 0, "seed": 3}
    return SceneDataModule(**{**given, "batch_size": 2, "eval_batch_size": 2, **changes})


@pytest.mark.filterwarnings("ignore:.*DataLoader will create")
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (2, 0), (3, 2)])
def test_order_is_the_same_for_any_ranks_and_workers(world: int, workers: int) -> None:
    def stream(world: int, workers: int) -> list[tuple[int, str, float]]:
        data = scenes(batch_size=6 // world, num_workers=workers)
        data.setup("fit")
        loaders = [data.train_loader(start=0, count=2, rank=r, world=world) for r in range(world)]
        seen = []
        for batch in itertools.chain(*zip(*loaders, strict=True)):
            content = [float(x.double().std()) for x in batch["image"]]
            seen += zip(batch["draw"], batch["key"], content, strict=True)
        return seen

    reference = stream(1, 0)
    assert [draw for draw, _, _ in reference] == list(range(12))
    assert len({key for _, key, _ in reference[:7]}) == 7  # each scene once an epoch
    assert stream(world, workers) == reference


def test_a_draw_is_a_part_of_its_scene() -> None:
    data = scenes()
    draws = SceneDraws(data.training, 16, seed=3)
    mirrored, permuted = set(), set()
    for n in range(12):
        item = draws[n]
        whole, layers = data.training.image(int(item["key"].removeprefix("train-")))
        assert whole.min() >= 0 and whole.max() <= 1
        found = [
            (mirror, order)
            for mirror, top, left, order in itertools.product(
                (False, True), range(9), range(9), itertools.permutations(range(3))
            )
            if torch.equal(
                item["image"],
                _turned(whole[list(order), top : top + 16, left : left + 16], mirror),
            )
            and torch.equal(
                item["layers"], _turned(layers[top : top + 16, left : left + 16], mirror)
            )
        ]
        assert found
        mirrored.add(found[0][0])
        permuted.add(found[0][1])
    assert mirrored == {False, True}
    assert len(permuted) > 2


def _turned(image: torch.Tensor, mirror: bool) -> torch.Tensor:
    return image.flip(-1) if mirror else image


def test_validation_scenes_are_others_and_come_once() -> None:
    data = scenes()
    data.setup("validate")
    batches = list(data.val_loader())
    assert [key for batch in batches for key in batch["key"]] == [f"val-{n:06d}" for n in range(3)]
    assert not set(data.training.families) & set(data.validation.families)
    assert not torch.equal(data.training.image(0)[0], data.validation.image(0)[0])
    assert torch.equal(data.examples(2)[1], data.training.image(1)[0][:, :16, :16])


def test_settings_decide_the_fingerprint() -> None:
    assert scenes().fingerprints == scenes(batch_size=3).fingerprints
    assert scenes().fingerprints["train"] != scenes(size=32).fingerprints["train"]
    with pytest.raises(ValueError, match="crop of 25 px in scenes of 24 px"):
        scenes(crop=25)
