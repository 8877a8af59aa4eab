"""DeblurNet that is told the blur: how often, how wrong, the same on all ranks and when resumed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import Denoiser
from lit_models import DeblurNet
from lit_models.deblurnet import MapErrors

SIZE = 32
Build = Callable[..., DeblurNet]


@pytest.fixture
def build(tiny_settings: dict[str, Any], network_settings: dict[str, Any]) -> Build:
    def make(**changes: Any) -> DeblurNet:
        module = DeblurNet(build_tiny(**tiny_settings), **{**network_settings, **changes})
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        return module

    return make


def batch(first: int = 0, rows: int = 2) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(first)
    aif = torch.rand(rows, 3, SIZE, SIZE, generator=rng)
    return {
        "draw": list(range(first, first + rows)),
        "key": [str(n) for n in range(first, first + rows)],
        "route": ["deblur"] * rows,
        "prompt": [None] * rows,
        "aif": aif,
        "bokeh": aif / 2,
        "defocus": torch.full((rows, 1, SIZE, SIZE), 0.03),
    }


def test_a_share_of_the_micro_batches_is_told_and_every_rank_agrees(build: Build) -> None:
    module = build(told=0.3)
    told = ["defocus" in module.as_estimated(batch(n, 4)) for n in range(0, 2000, 4)]
    assert np.mean(told) == pytest.approx(0.3, abs=0.06)
    module.trainer = SimpleNamespace(global_rank=1)  # type: ignore[assignment]
    ranks = ["defocus" in module.as_estimated(batch(n + 2, 2)) for n in range(0, 2000, 4)]
    module.trainer = SimpleNamespace(global_rank=0)  # type: ignore[assignment]
    assert ranks == ["defocus" in module.as_estimated(batch(n, 2)) for n in range(0, 2000, 4)]
    assert all("defocus" in build(told=1.0).as_estimated(batch(n)) for n in range(9))


def test_a_map_is_as_wrong_as_its_draw_says_whatever_the_batch(build: Build) -> None:
    module = build(told=1.0, map_errors=MapErrors(k=0.2, local=0.1, smear=1.0))
    together = module.as_estimated(batch(4, 4))["defocus"]
    alone = [module.as_estimated(batch(n, 1))["defocus"][0] for n in range(4, 8)]
    assert torch.equal(together, torch.stack(alone))
    another = build(told=1.0, map_errors=module.map_errors, seed=1)
    assert not torch.equal(together, another.as_estimated(batch(4, 4))["defocus"])


def test_errors_are_of_the_stated_size() -> None:
    flat = torch.full((1, 64, 64), 0.05)
    rng = np.random.default_rng(0)
    k = [float((MapErrors(0.3, 0.0, 0.0).on(flat, rng) / flat).log()[0, 0, 0]) for _ in range(900)]
    assert np.std(k) == pytest.approx(0.3, rel=0.1) and abs(np.mean(k)) < 0.05
    local = (MapErrors(0.0, 0.2, 0.0).on(flat, rng) / flat).log()
    assert float(local.std()) == pytest.approx(0.2, rel=0.01) and abs(float(local.mean())) < 1e-3
    assert float((local[..., 1:] - local[..., :-1]).abs().max()) < 0.1  # it varies slowly
    step = torch.zeros(1, 64, 64)
    step[..., 32:] = 0.05
    smeared = [MapErrors(0.0, 0.0, 3.0).on(step, rng) for _ in range(20)]
    widths = [int(((x > 0.001) & (x < 0.049)).sum()) / 64 for x in smeared]
    assert max(widths) <= 14 and max(widths) > 3 * min(widths)
    assert all(float(x.mean()) == pytest.approx(0.025, abs=1e-4) for x in smeared)
    assert torch.equal(MapErrors(0.0, 0.0, 0.0).on(flat, rng), flat)


def test_the_network_trains_on_what_it_is_told_and_is_judged_told_and_blind(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without errors of the maps, so that what arrives can be recognised."""
    seen: list[Tensor | None] = []
    encode = Denoiser.encode

    def spied(self: Denoiser, conditions: Any, *given: Any) -> Any:
        seen.append(conditions.control)
        return encode(self, conditions, *given)

    monkeypatch.setattr(Denoiser, "encode", spied)
    figures: dict[str, float] = {}
    for told, expected in ((0.0, [None]), (1.0, [0.03])):
        module = build(told=told)
        module.log_dict = lambda found, **_: figures.update(found)  # type: ignore[method-assign]
        assert module.network.variant == ("told" if told else "standard")
        module.training_step(batch(), 0)
        assert [None if one is None else one.unique().item() for one in seen] == pytest.approx(
            expected
        )
        seen.clear()
        module.validation_step(batch(), 0)
        assert [one is not None for one in seen] == ([True, False] if told else [False])
        figures.clear()
        seen.clear()
        module.on_validation_epoch_end()
        assert {"val/psnr", "val/loss"} <= set(figures)
        assert ("val/psnr_blind" in figures) == bool(told)
    unknown = {name: value for name, value in batch().items() if name != "defocus"}
    assert torch.isfinite(module.training_step(unknown, 0)) and seen == [None]


def test_what_cannot_be_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match="told=2"):
        build(told=2.0)
    with pytest.raises(ValueError, match="pre_deblur=false or told=0"):
        build(told=0.5, pre_deblur=True)
