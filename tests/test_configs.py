"""The real configurations compose, resolve and build what they say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import train  # noqa: F401  registers the resolvers that the configurations use
from genrefocus.backbone import Backbone
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.text import HashedWords
from genrefocus.flow import Shift
from genrefocus.pipeline import BOKEH_GUIDANCE, BOKEH_PROMPT, DEBLUR_GUIDANCE, DEBLUR_PROMPT, STEPS
from genrefocus.sampling import Tiling

CONF = Path(__file__).resolve().parents[1] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.fixture
def conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base=None):
        yield


def composed(*overrides: str) -> DictConfig:
    config = compose("train", overrides=["paths.run=/run", *overrides])
    OmegaConf.resolve(config)
    return config


@pytest.mark.parametrize("scale", ["embedded", "paper"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_at_both_scales(conf: None, experiment: str, scale: str) -> None:
    given = ["inputs.deblur_lora=/d", "inputs.bokeh_lora=/b"]
    config = composed(f"experiment={experiment}", f"scale={scale}", *given)
    assert config.name == experiment
    assert all(stage in config.stages for stage in config.curriculum)


@pytest.mark.parametrize("group", ["trainer", "logger", "optimizer", "objective", "backbone"])
def test_every_option_of_a_group_composes(conf: None, group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        assert composed(f"{group}={path.stem}")[group] is not None


def test_the_paper_scale_is_the_published_recipe(conf: None) -> None:
    config = composed("scale=paper")
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV_CONFIG)
    codec = PixelCodec(1)
    codec.channels = 16  # FLUX.1's autoencoder; nothing is encoded here
    backbone = Backbone(
        transformer, codec, HashedWords(4, 4096, 768), shift=Shift(), tiling=Tiling()
    )
    published = {
        "deblurnet": (60_000, 128, DEBLUR_PROMPT, DEBLUR_GUIDANCE),
        "bokehnet_synthetic": (40_000, 64, BOKEH_PROMPT, BOKEH_GUIDANCE),
        "bokehnet_semi_supervised": (60_000, 64, BOKEH_PROMPT, BOKEH_GUIDANCE),
    }
    for name, (steps, rank, prompt, guidance) in published.items():
        stage = config.stages[name]
        stage.module.init_lora = None
        module = instantiate(stage.module)(backbone)
        assert stage.fit.max_steps == steps
        assert stage.fit.accumulate_grad_batches * stage.datamodule.batch_size == 8
        assert (module.lora.rank, len(module.lora.names)) == (rank, 343)
        assert (module.prompt, module.editor.denoiser.guidance) == (prompt, guidance)
        assert module.steps == STEPS
        assert module.editor.denoiser.flow.start == "noise"
        assert module.editor.denoiser.flow.prediction == "velocity"
