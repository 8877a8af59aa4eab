"""A step that is tracked on shapes takes what a real one takes of the allocator."""

from collections.abc import Callable
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from genrefocus.backbone import Checkpointing
from genrefocus.backbone.quantised import quantise_blocks
from genrefocus.configuration.composing import compose_training, settle_missing, training_stages
from genrefocus.preflight.memory import CHECKPOINTINGS
from genrefocus.preflight.tracking import base_of, take_step, tracked_step
from tests.allocator import peak_bytes
from tests.unit.conftest import NARROW, SHORT

CROP = 256
Resize = Callable[[dict[str, Any]], None]


def composed(*overrides: str) -> tuple[DictConfig, DictConfig]:
    """A configuration, and its stage that trains."""
    config = compose_training(overrides)
    settle_missing(config)
    (stage,) = training_stages(config).values()
    return config, stage


@pytest.mark.parametrize(
    ("checkpointing", "overrides"),
    [
        ("none", ["experiment=deblur"]),
        (3, ["experiment=deblur", "stages.deblurnet.module.told=1"]),
        ("feed_forward", ["experiment=bokeh_synthetic"]),
        ("all", ["experiment=bokeh_synthetic", "batch_size=2"]),
        (
            "none",
            ["experiment=bokeh_synthetic", "stages.bokehnet_synthetic.module.half_control=true"],
        ),
        ("none", ["experiment=bokeh_synthetic", "backbone.quantise=int8"]),
        ("all", ["experiment=bokeh_synthetic", "backbone.quantise=nf4"]),
    ],
)
def test_a_real_step_takes_as_much(
    checkpointing: Checkpointing, overrides: list[str], resize_flux: Resize
) -> None:
    """In fp32: some kernels of the CPU convert bf16 as they go."""
    resize_flux(NARROW)
    given = [f"data.crop={CROP}", "backbone.max_text_length=16", "backbone.dtype.path=torch.float"]
    config, stage = composed("scale=paper", *given, *overrides)
    if how := config.backbone.quantise:
        pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    image = (stage.datamodule.batch_size, 3, CROP, CROP)

    def step() -> None:
        base = base_of(config, as_loaded=True).to_empty(device="cpu")
        for one in (*base.parameters(), *base.buffers()):
            one.zero_()
        if how:
            quantise_blocks(base.transformer, how)
        base.checkpointing = checkpointing
        take_step(instantiate(stage.module), base, image, buckets=False, ema=True)

    tracked = tracked_step(config, stage, checkpointing)
    assert tracked.peak == pytest.approx(peak_bytes(step), rel=0.01)


def test_auto_goes_from_the_fewest_flops_to_the_fewest_bytes(resize_flux: Resize) -> None:
    resize_flux(SHORT)
    config, stage = composed("scale=paper", "experiment=bokeh_synthetic")
    steps = [tracked_step(config, stage, how) for how in CHECKPOINTINGS]
    flops, peaks = [one.flops for one in steps], [one.peak for one in steps]
    assert flops == sorted(set(flops)) and peaks == sorted(set(peaks), reverse=True)
    # Forward again is nearly half as much once more; a feed-forward stops before its last layer.
    whole, fed, again = (flops[CHECKPOINTINGS.index(x)] for x in ("none", "feed_forward", "all"))
    assert again / whole == pytest.approx(1.47, abs=0.02)
    assert fed / whole == pytest.approx(1.14, abs=0.02)


@pytest.mark.parametrize(("optimizer", "numbers"), [("adamw", 2), ("prodigy", 4), ("muon", 1)])
def test_parts_beside_the_weights(optimizer: str, numbers: int) -> None:
    """Of two processes: what an optimiser keeps of each weight, the average, and DDP's buckets."""
    given = ["experiment=deblur", "trainer=ddp_cpu", f"optimizer={optimizer}"]
    parts = tracked_step(*composed(*given), "none").parts
    for part in ("gradient", "gradient buckets", "EMA"):
        assert parts[part] == pytest.approx(parts["LoRA"], rel=0.01)
    assert parts["optimiser"] == pytest.approx(numbers * parts["LoRA"], rel=0.01)


def test_a_rank_of_fsdp_holds_its_part_of_the_blocks_and_one_more() -> None:
    whole, split = (
        tracked_step(*composed("experiment=deblur", f"trainer={trainer}"), "none").parts
        for trainer in ("ddp_cpu", "fsdp_cpu")
    )
    transformer = base_of(compose_training(["experiment=deblur"])).transformer
    kinds = transformer.transformer_blocks, transformer.single_transformer_blocks
    double, single = ([w.nbytes for w in one.parameters()] for one in kinds)
    assert whole["base"] - split["base"] == (sum(double) + sum(single)) / 2
    assert split.pop("gathered block") == 2 * sum(double)  # the only one of its kind
    assert whole | {"base": split["base"]} == split


def test_parts_that_a_run_does_without() -> None:
    parts = tracked_step(*composed("experiment=deblur", "~callbacks.ema"), "none").parts
    assert not {"gradient buckets", "EMA"} & parts.keys()
