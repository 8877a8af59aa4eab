"""The checkpointing that a run takes where none is given, and what its training takes."""

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from genrefocus.backbone.quantised import all_weights
from genrefocus.configuration.composing import compose_training, settle_missing, training_stages
from genrefocus.preflight import memory
from genrefocus.preflight.memory import (
    CHECKPOINTINGS,
    settle_checkpointing,
    training_memory,
    training_table,
)
from genrefocus.preflight.tracking import TrackedStep, base_of, tracked_step
from tests.unit.conftest import NARROW

Resize = Callable[[dict[str, Any]], None]
GIB = 1024**3


def composed(*overrides: str) -> DictConfig:
    """The configuration of FLUX's BokehNet: two conditions, rank 64."""
    config = compose_training(["scale=paper", "experiment=bokeh_synthetic", *overrides])
    settle_missing(config)
    OmegaConf.resolve(config)
    return config


@pytest.fixture
def paper(resize_flux: Resize) -> DictConfig:
    """Of a narrow FLUX, at 256 px."""
    resize_flux(NARROW)
    return composed("data.crop=256")


def test_auto_takes_the_first_that_fits_with_a_tenth_left(
    paper: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stage,) = training_stages(paper).values()
    peaks = {how: tracked_step(paper, stage, how).peak for how in CHECKPOINTINGS}
    for expected, peak in peaks.items():
        fits = [how for how in CHECKPOINTINGS if peaks[how] <= peak]
        finding, chosen, steps = training_memory(paper, peak / 0.899)
        assert chosen == fits[0] and steps["bokehnet_synthetic"].peak <= peak
        assert f"for bokehnet_synthetic with checkpointing={chosen}; the GPU" in finding.detail
        assert finding.verdict == "ok", expected
    finding, chosen, _ = training_memory(paper, 1)
    assert chosen == "all" and finding.verdict == "warning"

    monkeypatch.setattr(memory, "_memory", lambda config: ("a card", peaks["all"] / 0.899))
    said = settle_checkpointing(paper)
    assert paper.backbone.checkpointing == "all"
    assert said is not None and "; a card has " in said.detail
    tiny = compose_training(["experiment=bokeh_synthetic"])
    assert settle_checkpointing(tiny) is None and "checkpointing" not in tiny.backbone


def test_what_is_given_is_kept(paper: DictConfig) -> None:
    (stage,) = training_stages(paper).values()
    enough = tracked_step(paper, stage, "all").peak / 0.9  # a tenth is left
    for given in (7, "none", "all"):
        paper.backbone.checkpointing = given
        finding, chosen, _ = training_memory(paper, enough)
        assert chosen == given and f"checkpointing={given};" in finding.detail
        assert finding.verdict == ("ok" if given == "all" else "warning")
        assert settle_checkpointing(paper) is None and paper.backbone.checkpointing == given


@pytest.mark.parametrize(
    ("how", "size"),
    # 11.8e9 weights of blocks with their scales, 83e6 others and the autoencoder in bf16
    [("int8", 11.82e9 * 1.0013), ("fp8", 11.82e9 * 1.0013), ("nf4", 11.82e9 * (1 / 2 + 1 / 64))],
)
def test_bytes_of_a_quantised_base(how: str, size: float) -> None:
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    base = base_of(composed(f"backbone.quantise={how}"))
    assert sum(one.nbytes for one in all_weights(base)) == pytest.approx(size + 0.33e9, rel=0.01)


def test_a_quantised_base_trains_in_24_gib() -> None:
    """FLUX.1-dev at full size: 512 px, rank 64, two conditions."""
    pytest.importorskip("torchao")
    config = composed("backbone.quantise=int8", "backbone.checkpointing=all")
    found, _, steps = training_memory(config, 24 * GIB)
    assert found.verdict == "ok" and steps["bokehnet_synthetic"].peak < 18 * GIB


def test_the_table_has_flops_of_all_ranks_and_hours_of_one() -> None:
    config = composed("trainer=ddp_cpu", "stages.bokehnet_synthetic.fit.max_steps=3600")
    step = TrackedStep({"base": 3 * GIB, "activations": 2 * GIB}, 5 * 10**12, 8)
    found = training_table(config, "all", {"bokehnet_synthetic": step}, 20e12)
    title, *lines = found.detail.splitlines()
    assert title.endswith(
        "checkpointing=all, TFLOP of all ranks; 2 hours without validation at 20 "
        "TFLOP/s on each of 2"
    )
    rows = [line.rsplit("  ", 1) for line in lines[1:]]
    cells = {name.strip(): cell.strip() for name, cell in rows}
    expected = {"base": "3.0 GiB", "activations": "2.0 GiB", "at the peak": "5.0 GiB"}
    expected |= {"TFLOP a step": "80", "steps": "3600", "hours": "2"}
    assert cells.items() >= expected.items() and cells.keys() - expected.keys() == {"validation"}
    unknown = training_table(config, "all", {"bokehnet_synthetic": step}, None)
    assert "tflops=" in unknown.detail
