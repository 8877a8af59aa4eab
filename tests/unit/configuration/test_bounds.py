"""Options that do not fit one another are refused before a run begins."""

import pytest

from genrefocus.configuration.bounds import require_bounds
from genrefocus.configuration.composing import compose_training

HALF = "stages.{}.module.half_control=true"
FLUX = ("scale=paper", "experiment=deblur")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["experiment=bokeh_synthetic", HALF.format("bokehnet_synthetic")], "backbone=flux_dev"),
        ([*FLUX, HALF.format("deblurnet")], "takes no map; give .*told=0.5"),
        (
            [*FLUX, HALF.format("deblurnet"), "stages.deblurnet.module.told=0.5", "data.crop=528"],
            "data.crop=528 is no multiple of 32; give 512",
        ),
    ],
)
def test_a_half_control_map_needs_flux_a_map_and_a_crop_of_whole_tokens(
    given: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=r"module\.half_control=true: .*" + said):
        require_bounds(compose_training(given))


def test_a_half_control_map_where_it_fits() -> None:
    require_bounds(compose_training(["scale=paper", HALF.format("bokehnet_synthetic")]))


@pytest.mark.parametrize(
    ("buckets", "multiple", "more"),
    [
        ("512", 16, []),
        ("[]", 16, []),
        ("[512,512]", 16, []),
        ("[[512,512],[410,624]]", 16, []),
        ("[[512,512],[416,624]]", 32, [HALF.format("bokehnet_synthetic")]),
    ],
)
def test_buckets_are_heights_and_widths_of_whole_tokens(
    buckets: str, multiple: int, more: list[str]
) -> None:
    with pytest.raises(ValueError, match=rf"data\.buckets=.*multiples of {multiple} px"):
        require_bounds(compose_training(["scale=paper", f"data.buckets={buckets}", *more]))


def test_buckets_say_which_photographs_are_too_small() -> None:
    config = compose_training(["scale=paper", "data.buckets=[[512,512],[416,624]]"])
    require_bounds(config)
    assert config.stages.in_the_wild.route.least_edge == 416
    assert compose_training(["scale=paper"]).stages.in_the_wild.route.least_edge == 512


def test_latents_are_kept_of_what_comes_again() -> None:
    kept = ["scale=paper", "backbone.latents=/latents"]
    with pytest.raises(ValueError, match=r"backbone\.latents=/latents: .*data\.fixed_crops=true"):
        require_bounds(compose_training(kept))
    kept += ["data.fixed_crops=true"]
    require_bounds(compose_training(kept))
    with pytest.raises(ValueError, match=r"backbone\.latents=.*deblurnet\.module\.told=0$"):
        require_bounds(compose_training([*kept, "stages.deblurnet.module.told=0.5"]))
