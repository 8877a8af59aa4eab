"""The order of training samples does not depend on ranks, workers or interruptions.

Interruptions go through Lightning's own fit loop: a run that is cut off and resumed must consume
the draws, and end at the weights, of a run that was not.
"""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from genrefocus.data.shards import write_set
from genrefocus.optics import BlurStrength
from tests.fits import COUNTS, KillAfter, checkpoints_every_two_steps, data, fit
from tests.samples import noise_sample

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    for route, count in {**COUNTS, "deblur": 7}.items():
        samples = [
            noise_sample(
                number,
                10,
                12,
                key=f"{route}-{number}",
                route=route,
                strength=BlurStrength(3.0, 10, 12),
                provenance={"mask": "made up", "mask_agreement": number / 10} if number % 2 else {},
            )
            for number in range(count)
        ]
        write_set(root / route, samples, parameters={}, samples_per_shard=4)
    return {route: root / route for route in (*COUNTS, "deblur")}


def train_stream(
    folders: dict[str, Path], world: int, workers: int, draws: int
) -> list[tuple[int, str, float]]:
    """Draw, key and content of what ``world`` ranks see, in global order."""
    module = data(folders, batch_size=12 // world, num_workers=workers)
    module.setup("fit")
    loaders = [
        module.train_loader(start=0, count=draws // 12, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {len(loader) for loader in loaders} == {draws // 12}
    seen = []
    for batches in zip(*loaders, strict=True):
        for batch in batches:
            content = [float(x.double().sum()) for x in batch["bokeh"] + 2 * batch["defocus"]]
            seen += zip(batch["draw"], batch["key"], content, strict=True)
    return seen


def test_the_order_is_the_same_for_any_ranks_and_workers(folders: dict[str, Path]) -> None:
    reference = train_stream(folders, world=1, workers=0, draws=60)
    assert [draw for draw, _, _ in reference] == list(range(60))
    assert len({content for _, _, content in reference}) > 50  # crops and flips do vary
    for world in (1, 2, 3):
        for workers in (0, 1, 2):
            assert train_stream(folders, world, workers, draws=60) == reference


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_validation_sample_once(folders: dict[str, Path], world: int, workers: int) -> None:
    module = data(folders, num_workers=workers)
    module.setup("validate")
    loaders = [module.val_loader(rank=rank, world=world) for rank in range(world)]
    keys = [key for loader in loaders for batch in loader for key in batch["key"]]
    assert sorted(keys) == sorted(f"deblur-{n}" for n in range(7))


class SaveOnException(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.path)


class SaveOnValidationEnd(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, *_: object) -> None:
        if not trainer.sanity_checking and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("name", "killed_after", "resumed_at"),
    [
        ("step=4.ckpt", 9, 4),  # the usual: a checkpoint, some steps that are lost, the end
        ("validated.ckpt", 9, 3),  # saved in the middle of the epoch by a validation
        ("cut.ckpt", 9, 4),  # saved between two micro-batches of one step
        ("cut.ckpt", 10, 5),
    ],
)
def test_a_resumed_run_equals_one_that_was_not_cut_off(
    folders: dict[str, Path],
    tmp_path: Path,
    workers: int,
    name: str,
    killed_after: int,
    resumed_at: int,
) -> None:
    whole = fit(data(folders), tmp_path)
    assert whole.draws == [(g, [2 * g, 2 * g + 1]) for g in range(18)]
    cut = fit(
        data(folders, num_workers=workers),
        tmp_path,
        checkpoints_every_two_steps(tmp_path),
        SaveOnValidationEnd(tmp_path / "validated.ckpt"),
        KillAfter(killed_after, tmp_path / "cut.ckpt"),
    )
    assert len(cut.draws) == killed_after
    resumed = fit(data(folders, num_workers=workers), tmp_path, resume=tmp_path / name)
    assert resumed.draws == whole.draws[2 * resumed_at :]
    assert resumed.validations == [step for step in whole.validations if step > resumed_at]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("number", [7, 8, 12])
def test_a_batch_that_fails_is_drawn_again(
    folders: dict[str, Path], tmp_path: Path, number: int
) -> None:
    whole, path = fit(data(folders), tmp_path), tmp_path / "thrown.ckpt"
    cut = fit(data(folders), tmp_path, SaveOnException(path), thrown_in=number)
    assert len(cut.draws) == number
    resumed = fit(data(folders), tmp_path, resume=path)
    step = (number - 1) // 2
    assert resumed.draws == whole.draws[2 * step :]
    assert resumed.validations == [at for at in whole.validations if at > step]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["step=4.ckpt", "epoch.ckpt", "end.ckpt"])
def test_a_finished_run_can_be_extended(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    at_epoch_end = ModelCheckpoint(tmp_path, filename="epoch", save_on_train_epoch_end=True)
    short = fit(
        data(folders), tmp_path, checkpoints_every_two_steps(tmp_path), at_epoch_end, steps=4
    )
    short.trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed = fit(data(folders), tmp_path, resume=tmp_path / name)
    whole = fit(data(folders), tmp_path)
    assert [draws for _, draws in resumed.draws] == [draws for _, draws in whole.draws[8:]]
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_batch_size_goes_on_with_the_next_draw(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    fit(data(folders), tmp_path, checkpoints_every_two_steps(tmp_path), KillAfter(9))
    resumed = fit(
        data(folders, batch_size=4),
        tmp_path,
        resume=tmp_path / "step=4.ckpt",
        accumulate=1,
        steps=7,
    )
    assert [draws for _, draws in resumed.draws] == [[n, n + 1, n + 2, n + 3] for n in (16, 20, 24)]
    assert resumed.validations == [6]  # every 6 micro-batches, of which a step has one now


def test_a_checkpoint_of_other_data_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    fit(data(folders), tmp_path, checkpoints_every_two_steps(tmp_path), KillAfter(5))
    for change, complaint in (
        ({"seed": 6}, "trained with seed 5, now it is 6"),
        ({"weights": {"synthetic": 1.0}}, "trained with weights"),
        ({"limit": 3}, "trained with limit None, now it is 3"),
    ):
        with pytest.raises(ValueError, match=complaint):
            fit(data(folders, **change), tmp_path, resume=tmp_path / "step=2.ckpt")


def test_fixed_crops_show_a_sample_alike_in_every_epoch(folders: dict[str, Path]) -> None:
    module = data(folders, fixed_crops=True, batch_size=1)
    module.setup("fit")
    seen: dict[str, list[torch.Tensor]] = {}
    for batch in module.train_loader(start=0, count=80):
        seen.setdefault(batch["key"][0], []).append(batch["bokeh"][0])
    assert len(seen) == sum(COUNTS.values()) and min(map(len, seen.values())) > 1
    assert all(torch.equal(one, images[0]) for images in seen.values() for one in images)
    image = module.train_sets["synthetic"][3].bokeh  # 10 x 12 px
    assert torch.equal(seen["synthetic-3"][0], image[:, 1:9, 2:10] / 255)


def test_loading_leaves_the_global_generator_alone(folders: dict[str, Path]) -> None:
    module = data(folders, num_workers=1)
    module.setup("fit")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(iter(module.train_loader(start=0, count=1)))
    assert torch.equal(torch.rand(1), expected)


def test_filters_and_limits(folders: dict[str, Path]) -> None:
    module = data(folders, min_mask_agreement=0.5)
    module.setup("fit")
    assert module.draws is not None
    # Odd samples state n / 10, even ones have no estimated mask.
    assert list(module.draws.kept["synthetic"]) == [n for n in range(17) if n % 2 == 0 or n >= 5]
    module = data(folders, limit=2, weights={"in_the_wild": 1, "synthetic": 0})
    module.setup("fit")
    batches = list(module.train_loader(start=0, count=10))
    assert {key for batch in batches for key in batch["key"]} == {"in_the_wild-0", "in_the_wild-1"}


def test_reblurred_labels_take_what_was_measured(folders: dict[str, Path]) -> None:
    summary = folders["in_the_wild"].parent / "summary.json"
    alone = {"k_label": "reblurred", "weights": {"in_the_wild": 1, "synthetic": 0}}

    def label() -> float:
        module = data(folders, **alone)
        module.setup("fit")
        (batch,) = module.train_loader(start=0, count=1)
        return float(batch["radius"][0])

    with pytest.raises(FileNotFoundError, match="no summary.json"):
        label()
    summary.write_text('{"reblurred": {"photographs": 5, "rejected": "score_flat"}}')
    with pytest.raises(ValueError, match=r"summary.json .*score_flat.*k_label=exif"):
        label()
    summary.write_text('{"reblurred": {"photographs": 5, "restored_radius": 100.0}}')
    whole = label()
    summary.write_text('{"reblurred": {"photographs": 5, "restored_radius": 0.1}}')
    assert 0 < label() < 0.1 < whole
    summary.unlink()
    weights = {"in_the_wild": 0, "synthetic": 1}
    module = data(folders, k_label="reblurred", weights=weights, val=[])
    module.setup("fit")  # needs no measurement


def test_a_weight_for_a_missing_route_lists_what_was_found(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"aperture_series.*found: synthetic \(17 samples\)"):
        data(folders, weights={"synthetic": 1, "aperture_series": 1}).setup("fit")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data(folders, train={"synthetic": folders["synthetic"] / "no"}).setup("fit")


def test_budgets_of_evaluation_are_for_each_set(folders: dict[str, Path]) -> None:
    sets = [folders["deblur"], folders["synthetic"]]
    module = data(folders, val=sets, val_samples=2)
    module.setup()
    keys = [key for batch in module.val_loader() for key in batch["key"]]
    for name in ("deblur", "synthetic"):
        assert sum(key.startswith(name) for key in keys) == 2
