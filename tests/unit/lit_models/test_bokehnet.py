"""BokehNet that is told the shape of the aperture: the second LoRA, beside a frozen one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genrefocus.backbone import Backbone, Lora
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.lora import load_lora, read_lora, read_metadata
from genrefocus.backbone.spelling import HashedWords
from genrefocus.backbone.tiny import build_tiny
from genrefocus.flow import Shift
from genrefocus.network import network_of
from genrefocus.network_card import (
    BackboneSource,
    NetworkCard,
    read_network_card,
    require_shape,
    write_network_card,
)
from genrefocus.noise import seeded_generators
from genrefocus.optics import BlurStrength
from genrefocus.pipeline import RefocusPipeline
from genrefocus.render.apertures import disk, heart
from genrefocus.sampling import Tiling
from lit_models import ApertureShape

SIZE = 32


@pytest.fixture(params=["tiny", "flux_dev"])
def backbone(
    request: pytest.FixtureRequest,
    tiny_settings: dict[str, Any],
    tiny_flux: Callable[..., Any],
    tiny_vae: Callable[..., Any],
) -> Backbone:
    if request.param == "tiny":
        return build_tiny(**tiny_settings).requires_grad_(False)
    return Backbone(
        tiny_flux(),
        VaeCodec(tiny_vae()),
        HashedWords(4, 12, 10),
        shift=Shift(),
        tiling=Tiling(4, 3, when="longer_edge"),
    )


@pytest.fixture
def frozen(backbone: Backbone, random_lora: Callable[..., Lora], tmp_path: Path) -> Path:
    folder = tmp_path / "bokehnet"
    folder.mkdir()
    random_lora(backbone.transformer).save(folder / "bokehNet.safetensors")
    return folder / "bokehNet.safetensors"


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    aif = torch.rand(2, 3, SIZE, SIZE, generator=generator)
    return {
        "draw": [0, 1],
        "key": ["a", "b"],
        "route": ["point_lights", "synthetic"],
        "prompt": [None, None],
        "aif": aif,
        "bokeh": aif.flip(-1),
        "defocus": torch.full((2, 1, SIZE, SIZE), 0.03),
        "shape": torch.stack([heart(0.3).image(SIZE), disk().image(SIZE)]),
    }


def trained(backbone: Backbone, frozen: Path, settings: dict[str, Any]) -> ApertureShape:
    """Two steps, with what the trainer would do."""
    module = ApertureShape(backbone, frozen_lora=frozen, **settings)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.AdamW(module.trainable_parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        module.training_step(batch(), 0).backward()
        optimizer.step()
    return module


def test_the_second_lora_learns_and_the_first_stays_bit_for_bit(
    backbone: Backbone, frozen: Path, network_settings: dict[str, Any], tmp_path: Path
) -> None:
    before = [one.clone() for one in backbone.parameters()]
    module = trained(backbone, frozen, network_settings)
    names = [name for name, _ in module.named_parameters()]
    assert names and all(name.startswith("lora.") for name in names)
    moved = [name for name, b in module.lora.lora_b.items() if b.any()]
    assert len(moved) > len(module.lora.names) / 2
    assert all(map(torch.equal, backbone.parameters(), before))
    out = tmp_path / "bokehnet_shape"
    out.mkdir()
    facts = module.export(out)
    assert facts["lora"] == "bokehNet.safetensors"
    assert (out / facts["lora"]).read_bytes() == frozen.read_bytes()
    assert read_metadata(out / facts["shape_lora"])["adapter"] == "aperture_shape"
    assert read_lora(out / facts["shape_lora"]).keys() >= read_lora(frozen).keys()
    again = load_lora(out / facts["shape_lora"], backbone.transformer)
    assert all(map(torch.equal, again.parameters(), module.lora.parameters()))


def test_a_network_draws_the_shape_that_it_is_asked_for_and_without_one_is_as_before(
    backbone: Backbone, frozen: Path, network_settings: dict[str, Any], tmp_path: Path
) -> None:
    """In an image of two tiles, by the card that is written beside the files."""
    card = NetworkCard(
        task="bokeh",
        backbone=BackboneSource("flux_dev", "somewhere"),
        flow=network_settings["flow"],
        prompt="blur it",
        guidance=1.0,
        steps=2,
        rank=4,
        lora=frozen.name,
        restored_radius=2.5,
    )
    write_network_card(frozen.parent, card)
    facts = trained(backbone, frozen, network_settings).export(tmp_path)
    assert facts["restored_radius"] == 2.5
    write_network_card(tmp_path, replace(card, **facts))
    told = network_of(read_network_card(tmp_path), backbone)
    alone = network_of(read_network_card(frozen.parent), backbone)
    assert told.takes_shape and not alone.takes_shape
    assert told.weights.startswith(f"{alone.weights}, apertureShape.safetensors ")
    image = torch.rand(1, 3, SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(1))
    control = torch.full((1, 1, SIZE, 2 * SIZE), 0.03)

    def asked(network: Any, aperture: Any = None) -> torch.Tensor:
        noise = seeded_generators(0, [0])
        return network.generate(image, noise, control=control, aperture=aperture)

    assert torch.equal(asked(told), asked(alone))
    assert not torch.equal(asked(told, heart(0.3)), asked(told, heart(1.3)))
    pipeline = RefocusPipeline(None, told)
    disparity = torch.linspace(0.1, 1, 2 * SIZE).expand(SIZE, -1)
    scene = pipeline.prepare(image[0], focus=(0, 0), disparity=disparity)
    strength = BlurStrength(3.0, SIZE, 2 * SIZE)
    shapes = [pipeline.refocus(scene, strength, aperture=one).image for one in (disk(), heart())]
    assert not torch.equal(*shapes)
    with pytest.raises(ValueError, match="knows no shapes of apertures"):
        asked(alone, disk())
    require_shape(read_network_card(tmp_path))
    with pytest.raises(ValueError, match=r"no second LoRA.*frozen_bokeh_lora=.*bokehNet"):
        require_shape(read_network_card(frozen.parent))
