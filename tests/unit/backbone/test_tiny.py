"""The tiny backbone: its U-Net, what steers it, its images and its weight file."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from skimage.restoration import wiener

from genrefocus.backbone import Lora
from genrefocus.backbone.lora import read_tensors, save_tensors
from genrefocus.backbone.pixel_path import _shaped
from genrefocus.backbone.tiny import build_tiny, load_tiny, save_tiny
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.flow import Flow
from genrefocus.noise import seeded_generators
from genrefocus.render.apertures import disk, heart, star
from genrefocus.render.lettering import Lettering
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def edits(tiny_settings, images) -> Denoiser:
    """Of a base as if it were trained: its blocks act, and the transformer steers them."""
    backbone, generator = build_tiny(**tiny_settings), torch.Generator().manual_seed(0)
    for name, weight in backbone.transformer.pixel_path.named_parameters():
        if name.endswith(("second.weight", "steer.weight")):
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return Denoiser(backbone.requires_grad_(False), Flow("residual"))


def edited(edits: Denoiser, source: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    conditions = Conditions(["a photo"] * len(source), source, **given)
    return edits.sample(edits.encode(conditions, seeded_generators(0, range(len(source)))), 1)


def silenced(edits: Denoiser) -> torch.nn.Module:
    path = edits.backbone.transformer.pixel_path
    for layer in (path.last, path.mix):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    return path


def test_last_layers_at_zero_leave_the_source_as_it_is(edits, images) -> None:
    silenced(edits)
    torch.testing.assert_close(edited(edits, images), images, rtol=0, atol=1e-5)


def test_a_pixel_may_choose_the_source_through_a_disk_in_linear_light(edits, images) -> None:
    """Against scipy, for the second of two disks."""
    path = silenced(edits)
    torch.nn.init.ones_(path.mix.bias[4:8])  # channels of a disk: the pixels of a 2 x 2 block
    one_tile = images[..., :32]
    light = srgb_to_linear(one_tile).numpy()
    kernel = disk().kernel(3.0)[None, None]
    blurred = linear_to_srgb(torch.from_numpy(convolve(light, kernel, mode="nearest")))
    torch.testing.assert_close(edited(edits, one_tile), blurred, rtol=0, atol=1e-4)


def test_a_pixel_may_choose_the_source_deconvolved(edits) -> None:
    """Against scikit-image's Wiener filter, far from borders."""
    path = silenced(edits)
    torch.nn.init.ones_(path.mix.bias[8:])
    blocks = 0.3 + 0.4 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scene = blocks.repeat_interleave(8, -1).repeat_interleave(8, -2)
    kernel = disk().kernel(1.5)
    blurred = torch.from_numpy(convolve(scene.numpy(), kernel[None, None], mode="mirror"))
    impulse = np.zeros((3, 3))
    impulse[1, 1] = 1.0
    expected = wiener(blurred[0, 0].numpy(), kernel, 0.1, reg=impulse, clip=False)
    found = edited(edits, blurred)
    inner = slice(10, -10), slice(10, -10)
    gain = 1.1  # of a sum of 1 in place of 1 / 1.1
    torch.testing.assert_close(
        found[0, 0][inner], gain * torch.from_numpy(expected)[inner].float(), rtol=0, atol=2e-2
    )
    assert (found - scene)[..., 8:-8, 8:-8].square().mean() < 0.8 * (blurred - scene)[
        ..., 8:-8, 8:-8
    ].square().mean()


def test_every_branch_is_seen_pixel_by_pixel(edits, images) -> None:
    """One pixel of a condition changes the image at and around this pixel at once."""
    control = torch.zeros(2, 1, 32, 48)
    before = edited(edits, images, control=control, draft=images)
    for name, changed in (
        ("control", control.clone()),
        ("draft", images.clone()),
    ):
        changed[..., 10, 20] += 0.5
        given = {"control": control, "draft": images, name: changed}
        difference = (edited(edits, images, **given) - before).abs().amax((0, 1))
        assert difference.argmax() // 48 in range(6, 15), name
        assert difference.argmax() % 48 in range(16, 25), name


def test_an_absent_branch_is_another_thing_than_a_black_one(edits, images) -> None:
    black = torch.zeros(2, 1, 32, 48)
    assert not torch.allclose(edited(edits, images), edited(edits, images, control=black))


@pytest.mark.parametrize("radius", [3.0, 6.5, 12.0])
def test_kernels_are_the_shape_at_their_radii(radius) -> None:
    """Against those of the renderer, behind the plane of focus; a disc gives the disks."""
    disks = torch.from_numpy(disk().kernel(radius)).float()[None, None]
    for shape in (disk(), heart(0.4), star(5, 0.5, 1.0)):
        (made,) = _shaped(shape.image(64)[None], [radius], disks)[0].double().numpy()
        expected = shape.kernel(-radius)
        rim = (len(disks[0, 0]) - len(expected)) // 2
        expected = np.pad(expected, rim) if rim >= 0 else expected[-rim:rim, -rim:rim]
        assert np.abs(made - expected).sum() < (0.1 if radius < 5 else 0.04)
    assert torch.equal(_shaped(disk().image(32)[None], [1.0], disks), disks)


def test_a_shape_takes_the_place_of_the_disks_and_its_lora_brings_light(edits, images) -> None:
    """A pixel that mixes the larger disk: a white one becomes the shape, as bright as LoRA says."""
    path = silenced(edits)
    torch.nn.init.ones_(path.mix.bias[4:8])
    dark = torch.zeros(1, 3, 32, 32)
    dark[..., 16, 16] = 1.0
    shape = heart(0.3)
    own = Lora.for_transformer(edits.backbone.transformer, 2, shaped=True)
    torch.nn.init.zeros_(path.glow.bias)
    told = replace(edits, shape_lora=own)
    for bias, light in ((0.0, 1.0), (0.25, math.exp(8.0 * 0.25))):
        torch.nn.init.constant_(path.glow.bias, bias)
        found = srgb_to_linear(edited(told, dark, shape=shape.image(32)[None]))[0, 0]
        kernel = torch.from_numpy(shape.kernel(-3.0)).float() * light
        half = len(kernel) // 2
        part = found[16 - half : 17 + half, 16 - half : 17 + half]
        torch.testing.assert_close(part, kernel, rtol=0, atol=0.02 * light)
    without = edited(told, dark)
    assert torch.equal(without, edited(edits, dark)), "who is told no shape is as before"
    conditions = Conditions(["a photo"], dark, dark[:, :1], shape=shape.image(32)[None])
    latents = told.encode(conditions, seeded_generators(0, [0]), dark.flip(-1))
    told.loss(latents, torch.tensor([0.5])).sum().backward()
    assert own.lora_b["pixel_path/glow"].grad.abs().sum() > 0


def test_a_base_from_before_there_were_shapes_is_read(edits, tiny_settings, tmp_path) -> None:
    path = tmp_path / "old.safetensors"
    save_tiny(edits.backbone, path, settings=tiny_settings, card={})
    tensors, metadata = read_tensors(path, "base")
    old = {name: x for name, x in tensors.items() if "glow" not in name}
    assert len(old) == len(tensors) - 2
    save_tensors(old, path, metadata)
    assert not load_tiny(path).transformer.pixel_path.glow.weight.any()


def test_the_prompt_reaches_the_pixels(edits, images) -> None:
    one, other = (
        edits.sample(edits.encode(Conditions([p] * 2, images), seeded_generators(0, [0, 1])), 1)
        for p in ("blur it", "restore it")
    )
    assert (one - other).abs().max() > 1e-3


def test_a_word_that_a_prompt_quotes_enters_as_a_draft_of_its_own_image(edits) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) / 4
    ink = Lettering("HI", 9, 6, 10).coverage(32, 32)
    kernel = torch.from_numpy(disk().kernel(2.0)).float()[None, None]
    images[0] += 0.7 * torch.nn.functional.conv2d(ink[None, None], kernel, padding="same")[0, 0]

    def answers(*prompts: str, **more: torch.Tensor) -> torch.Tensor:
        given = Conditions(prompts, images, **more)
        return edits.sample(edits.encode(given, seeded_generators(0, [0, 1])), 1)

    quiet = answers("a photo", "a photo")
    told, other = answers('a photo "Hi"', 'a photo "Hi"')
    assert (told - quiet[0]).abs().max() > 1e-3
    torch.testing.assert_close(other, quiet[1])  # it does not show the word
    torch.testing.assert_close(answers('a photo "No"', "a photo"), quiet)
    mixed = answers('a photo "Hi"', "a photo")
    torch.testing.assert_close(mixed, torch.stack([told, quiet[1]]))
    drafts = images.flip(-1)
    drafted = answers("a photo", "a photo", draft=drafts)
    written = answers('a photo "Hi"', 'a photo "Hi"', draft=drafts)
    assert (written[0] - drafted[0]).abs().max() > 1e-3
    torch.testing.assert_close(written[1], drafted[1])


def test_lora_of_a_convolution_is_the_sum_of_two_convolutions(tiny_settings) -> None:
    """``W + B A`` in one convolution against A, then B, beside W."""
    path = build_tiny(**tiny_settings).transformer.pixel_path
    lora = Lora({"pixel_path.last": path.last.weight.shape}, 3)
    torch.nn.init.normal_(lora.lora_b["pixel_path/last"])
    x = torch.rand(1, 8, 9, 11)
    inner = torch.nn.functional.conv2d(x, lora.lora_a["pixel_path/last"], padding=1)
    expected = path.last(x) + torch.nn.functional.conv2d(inner, lora.lora_b["pixel_path/last"])
    merged = lora.merged("pixel_path", path)
    found = torch.nn.functional.conv2d(x, merged["last.weight"], path.last.bias, padding=1)
    torch.testing.assert_close(found, expected)


def test_a_new_lora_changes_nothing_and_all_of_it_learns(edits, images) -> None:
    generator = torch.Generator().manual_seed(0)
    lora = Lora.for_transformer(edits.backbone.transformer, 2, generator=generator)
    adapted = replace(edits, lora=lora)
    torch.testing.assert_close(edited(adapted, images), edited(edits, images))
    conditions = Conditions(["a photo"] * 2, images, images[:, :1], images)
    latents = adapted.encode(conditions, seeded_generators(0, [0, 1]), images.flip(-1))
    adapted.loss(latents, torch.tensor([0.5, 1.0])).sum().backward()
    still = {name for name, b in lora.lora_b.items() if not b.grad.abs().sum() > 0}
    # Of the conditions, the last block's keys and values alone reach the noisy image.
    last = "single_transformer_blocks/0"
    assert still == {f"{last}/attn/to_q", f"{last}/proj_mlp", f"{last}/proj_out"}


# Images and weights.


@pytest.fixture(scope="module")
def settings(tiny_settings):
    return {
        **tiny_settings,
        "widths": [8, 8],
        "blocks": [1, 1],
        "control_gain": 4.0,
        "tile": 8,
        "tile_stride": 6,
    }


@pytest.fixture(scope="module")
def backbone(settings):
    return build_tiny(**settings).requires_grad_(False).eval()


def test_control_is_not_rescaled_but_amplified_as_the_backbone_says(backbone):
    control = torch.full((1, 1, 16, 24), 0.125)
    assert torch.equal(backbone.encode_control(control), torch.full((1, 24, 48), 0.5))
    image = torch.full((1, 3, 16, 24), 0.75)
    assert torch.equal(backbone.encode_image(image), torch.full((1, 24, 48), 0.5))


def test_tiny_images_survive_the_way_there_and_back(backbone):
    image = torch.rand(1, 3, 16, 24)
    decoded = backbone.decode(backbone.encode_image(image), (4, 6))
    torch.testing.assert_close(decoded, image, rtol=0, atol=1e-5)


def test_sizes_that_do_not_fit_are_named(backbone):
    with pytest.raises(ValueError, match="22x16 px: both sides must be multiples of 4"):
        backbone.encode_image(torch.zeros(1, 3, 16, 22))


def test_tiny_weights_round_trip_in_half_precision(backbone, settings, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_tiny(backbone, path, settings=settings, card={"steps": "7"})
    before = torch.get_rng_state()
    loaded = load_tiny(path)
    assert torch.equal(torch.get_rng_state(), before)
    expected = backbone.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name].half().float(), rtol=0, atol=0)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert (loaded.tiling.size, loaded.control_gain) == (8, 4.0)


@pytest.mark.parametrize(
    ("written", "error"),
    [
        (None, FileNotFoundError),
        (lambda settings: {}, ValueError),
        (lambda settings: {**settings, "widths": [7, 8]}, ValueError),
        (lambda settings: {**settings, "speed": 1}, ValueError),
    ],
    ids=["missing", "no settings", "other shapes", "unknown setting"],
)
def test_wrong_tiny_weights_are_one_line_with_a_remedy(
    written, error, backbone, settings, tmp_path
):
    path = tmp_path / "tiny.safetensors"
    if written is not None:
        save_tiny(backbone, path, settings=written(settings), card={})
    with pytest.raises(error, match="experiment=tiny_base") as raised:
        load_tiny(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
