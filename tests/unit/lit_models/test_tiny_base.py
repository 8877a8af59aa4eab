"""The stage that trains the tiny base: learning, order, precision, files, exact resume."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

from datamodules import SceneDataModule
from genrefocus.backbone import load_tiny
from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.flow import Flow
from genrefocus.noise import seeded_generators
from lit_models import TinyBase
from lit_models.rates import warmup_then_cosine

FLOW = Flow("residual")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*Trainer already configured"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


def scenes(**changes: Any) -> SceneDataModule:
    given = {"scenes": 6, "val_scenes": 3, "size": 24, "crop": 16, "num_workers": 0, "seed": 3}
    return SceneDataModule(**{**given, "batch_size": 4, "eval_batch_size": 2, **changes})


@pytest.fixture
def build(tiny_settings: dict[str, Any]) -> functools.partial:
    def make(**changes: Any) -> TinyBase:
        given = {
            "flow": FLOW,
            "full_noise_share": 0.3,
            "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
            "warmup_steps": 2,
            "decay_steps": 10,
            "rate_floor": 0.02,
            "fp32_from_step": 1000,
            "attention": "math",
            "seed": 7,
        }
        module = TinyBase(build_tiny(**tiny_settings), scenes().examples(6), **{**given, **changes})
        module.log = lambda *_, **__: None
        return module

    return make


@pytest.fixture(scope="module")
def batches() -> list[dict[str, Any]]:
    data = scenes()
    data.setup("fit")
    return list(data.train_loader(start=0, count=6))


def trainer(folder: Path, steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=[EMAWeightAveraging(decay=0.5, use_buffers=False), *callbacks],
        default_root_dir=folder,
        use_distributed_sampler=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )


def test_the_loss_falls_on_a_fixed_batch(build, batches) -> None:
    module = build()
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(40):
        loss = module.training_step(batches[0], 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    frozen = {name for name, p in module.named_parameters() if p.grad is None}
    assert frozen and all("pixel_path.glow" in name for name in frozen)


def test_ranks_see_together_what_one_process_would(build, batches, monkeypatch) -> None:
    module = build()
    for batch in batches:
        whole = float(module.training_step(batch, 0))
        parts = []
        for rank in range(2):
            monkeypatch.setattr(TinyBase, "global_rank", rank)
            half = {name: value[2 * rank : 2 * rank + 2] for name, value in batch.items()}
            parts.append(float(module.training_step(half, 0)))
        monkeypatch.undo()
        assert sum(parts) / 2 == pytest.approx(whole, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_autocast_ends_where_it_is_told_to_and_spares_the_task(build, batches) -> None:
    def loss(std: float, autocast: bool, **changes: Any) -> float:
        module = build(**changes)
        torch.nn.init.normal_(
            module.weights.pixel_path.last.weight,
            std=std,
            generator=torch.Generator().manual_seed(0),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return module.training_step(batches[0], 0).item()

    assert loss(0.1, autocast=True, fp32_from_step=0) == loss(0.1, autocast=False)
    assert loss(0.1, autocast=True) != loss(0.1, autocast=False)
    # Where the network adds nothing, the loss is the power of the edit: a task made in bf16 shows.
    assert loss(0.0, autocast=True) == pytest.approx(loss(0.0, autocast=False), rel=1e-5)


def test_file_holds_the_weights_in_half_precision(build, tiny_settings, tmp_path) -> None:
    module = build()
    torch.nn.init.normal_(module.weights.pixel_path.last.weight, std=0.1)
    path = tmp_path / "tiny_base.safetensors"
    module.save(path, settings=tiny_settings, card={"seed": "7"})
    loaded = load_tiny(path)
    for name, value in loaded.transformer.state_dict().items():
        assert torch.equal(value, module.weights.state_dict()[name].half().float())
    image = torch.rand(1, 3, 16, 16)
    before, after = (
        denoiser.sample(denoiser.encode(Conditions(["a"], image), seeded_generators(0, [0])), 1)
        for denoiser in (module.denoiser, Denoiser(loaded, FLOW))
    )
    assert (before - image).abs().mean() > 0.01
    torch.testing.assert_close(before, after, atol=5e-3, rtol=0)


def test_resumed_training_equals_uninterrupted_training(build, tmp_path) -> None:
    whole, cut, resumed = build(), build(), build()
    trainer(tmp_path, 4).fit(whole, datamodule=scenes())
    checkpoint = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2)
    trainer(tmp_path, 3, checkpoint).fit(cut, datamodule=scenes())
    given = {"ckpt_path": tmp_path / "step=2.ckpt", "weights_only": True}
    trainer(tmp_path, 4).fit(resumed, datamodule=scenes(), **given)
    pairs = list(zip(whole.parameters(), resumed.parameters(), cut.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, b) for a, _, b in pairs)


def test_an_untrained_base_gains_nothing(tiny_settings, build, tmp_path) -> None:
    module = build()
    del module.log
    run = trainer(tmp_path, 1)
    (measured,) = run.validate(module, datamodule=scenes(), verbose=False)
    assert measured["val/restore_gain"] == pytest.approx(0, abs=1e-3)
    assert measured["val/restore_by_map_gain"] == pytest.approx(0, abs=1e-3)
    assert measured["val/loss"] > 0


def test_rate(build) -> None:
    rate = functools.partial(warmup_then_cosine, warmup_steps=4, decay_steps=12, floor=0.1)
    assert [rate(step) for step in (0, 3, 4)] == [0.25, 1.0, 1.0]
    assert rate(8) == pytest.approx(0.55)
    assert rate(12) == rate(50) == pytest.approx(0.1)


def test_unknown_attention_names_the_known(build) -> None:
    with pytest.raises(ValueError, match="attention 'mth' unknown: .* math"):
        build(attention="mth")
