"""The checkpointing that a run takes where none is given."""

import pytest
from diffusers import FluxTransformer2DModel
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import compose_training, settle_missing
from genrefocus.preflight import memory
from genrefocus.preflight.memory import (
    base_bytes,
    flux_dev_on_meta,
    settle_checkpointing,
    training_memory,
)

GIB = 1024**3


def paper(*overrides: str) -> DictConfig:
    """The configuration of FLUX.1-dev's BokehNet: two conditions, rank 64, 512 px."""
    config = compose_training(["scale=paper", "experiment=bokeh_synthetic", *overrides])
    settle_missing(config)
    OmegaConf.resolve(config)
    return config


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    return flux_dev_on_meta()


def test_auto_takes_the_first_that_fits_with_a_tenth_left(
    transformer: FluxTransformer2DModel,
) -> None:
    config = paper()
    for gib, expected in {
        80: "none",
        56: 4,
        50: "feed_forward",
        46: 2,
        32: "all",
        1: "all",
    }.items():
        finding, chosen = training_memory(config, transformer, gib * GIB)
        assert chosen == expected, gib
        assert f"in training with checkpointing={expected} (base" in finding.detail
        assert finding.verdict == ("warning" if gib == 1 else "ok")


def test_a_larger_micro_batch_is_computed_again_sooner(transformer: FluxTransformer2DModel) -> None:
    expected = {1: "none", 2: 4, 4: "all"}
    for samples, chosen in expected.items():
        assert training_memory(paper(f"batch_size={samples}"), transformer, 80 * GIB)[1] == chosen


def test_the_largest_bucket_counts(transformer: FluxTransformer2DModel) -> None:
    def activations(*given: str) -> float:
        detail = training_memory(paper("backbone.checkpointing=none", *given), transformer, GIB)[0]
        return float(detail.detail.partition("activations ")[2].split()[0])

    crop, larger = activations(), activations("data.buckets=[[512,512],[640,512],[480,544]]")
    tokens = 512 + 3 * 40 * 32, 512 + 3 * 32 * 32
    assert larger / crop == pytest.approx(tokens[0] / tokens[1], rel=0.01)


def test_what_is_given_is_kept(transformer: FluxTransformer2DModel) -> None:
    config = paper("backbone.checkpointing=7")
    for given in (7, "none", "all"):
        config.backbone.checkpointing = given
        finding, chosen = training_memory(config, transformer, 30 * GIB)
        assert chosen == given and f"checkpointing={given} (" in finding.detail
        assert finding.verdict == ("ok" if given == "all" else "warning")
        assert settle_checkpointing(config) is None and config.backbone.checkpointing == given


@pytest.mark.parametrize(
    ("how", "size"),
    # 11.8e9 weights of blocks with their scales, 83e6 others and the autoencoder in bf16
    [("int8", 11.82e9 * 1.0013), ("fp8", 11.82e9 * 1.0013), ("nf4", 11.82e9 * (1 / 2 + 1 / 64))],
)
def test_a_quantised_base_trains_in_24_gib(
    how: str, size: float, transformer: FluxTransformer2DModel
) -> None:
    """At 512 px with rank 64 and two conditions; a plain one does not, and says what would."""
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    config = paper(f"backbone.quantise={how}")
    found, chosen = training_memory(config, transformer, 24 * GIB)
    assert (found.verdict, chosen) == ("ok", "all")
    assert base_bytes(config, transformer) == pytest.approx(size + 0.33e9, rel=0.01)
    plain, _ = training_memory(paper(), transformer, 24 * GIB)
    assert (plain.verdict, plain.remedy) == ("warning", "backbone.quantise=int8")


def test_a_run_settles_for_what_its_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_memory", lambda config: ("a card", 50 * GIB))
    config = paper()
    said = settle_checkpointing(config)
    assert config.backbone.checkpointing == "feed_forward"
    assert said is not None and said.detail.endswith("; a card has 50.0 GiB")
    tiny = compose_training(["experiment=bokeh_synthetic"])
    assert settle_checkpointing(tiny) is None and "checkpointing" not in tiny.backbone
