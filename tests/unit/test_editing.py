"""Edits: what is random belongs to the sample, not to its batch; copies share what is frozen."""

import copy
from types import SimpleNamespace

import pytest
import torch

from genrefocus.backbone import Backbone
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import build_tiny, load_tiny, save_tiny
from genrefocus.backbone.text import HashedWords
from genrefocus.editing import Edit, Editor, edit_pictures
from genrefocus.flow import Flow, Shift
from genrefocus.geometry import resize_image
from genrefocus.noise import noise_like, seeded_generators
from genrefocus.sampling import Tiling

SETTINGS = {
    "transformer": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 10,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 6, 6),
    },
    "pixel_factor": 2,
    "text_tokens": 4,
    "control_gain": 4.0,
    "tile": 8,
    "tile_stride": 6,
    "local": {"width": 6, "features": 4, "steering": 2, "head_width": 6, "head_blocks": 1},
}


@pytest.fixture(scope="module")
def backbone():
    return build_tiny(**SETTINGS).requires_grad_(False).eval()


@pytest.fixture
def lora(backbone, random_lora):
    return random_lora(backbone.transformer)


def edit(rows=slice(0, 3)):
    generator = torch.Generator().manual_seed(0)
    source, draft, target = torch.rand(3, 3, 3, 16, 24, generator=generator)
    control = torch.rand(3, 1, 16, 24, generator=generator)
    prompts = ["one", "two", "one"][rows]
    return Edit(prompts, source[rows], control[rows], draft[rows]), target[rows]


# Randomness.


def test_streams_are_a_function_of_seed_and_number():
    def draw(seed, numbers):
        return [torch.rand((), generator=g).item() for g in seeded_generators(seed, numbers)]

    first = draw(0, [5, 6, 7])
    assert draw(0, [7, 5, 6]) == [first[2], first[0], first[1]]
    assert len({*first, *draw(1, [5, 6, 7]), *draw(5, [0]), *draw(6, [0])}) == 8
    assert draw(0, [2**31 + 1]) != draw(0, [1])  # numbers of any size


def test_noise_belongs_to_the_row():
    tokens = torch.zeros(3, 4, 5, dtype=torch.bfloat16)
    all_rows = noise_like(tokens, seeded_generators(0, [1, 2, 3]))
    assert all_rows.dtype == torch.bfloat16
    assert torch.equal(noise_like(tokens[:1], seeded_generators(0, [3]))[0], all_rows[2])


@pytest.mark.parametrize("flow", [Flow(), Flow("condition", "residual")], ids=["noise", "image"])
def test_loss_and_picture_of_a_sample_do_not_depend_on_its_batch(flow, backbone, lora):
    editor = Editor(backbone, flow, loras=(lora,), guidance=3.5)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    whole, target = edit()
    losses = editor.loss(whole, target, sigma, seeded_generators(3, [10, 11, 12]))
    pictures = editor.generate(whole, 2, seeded_generators(3, [10, 11, 12]))
    for row in range(3):
        part, target = edit(slice(row, row + 1))
        generators = seeded_generators(3, [10 + row])
        alone = editor.loss(part, target, sigma[row : row + 1], generators)
        torch.testing.assert_close(alone[0], losses[row], rtol=1e-4, atol=1e-5)
        picture = editor.generate(part, 2, seeded_generators(3, [10 + row]))
        torch.testing.assert_close(picture[0], pictures[row], rtol=1e-4, atol=1e-5)


def test_the_global_generator_is_left_alone(backbone, lora):
    before = torch.get_rng_state()
    whole, target = edit()
    editor = Editor(backbone, Flow(), loras=(lora,))
    editor.loss(whole, target, torch.full((3,), 0.5), seeded_generators(0, [0, 1, 2]))
    editor.generate(whole, 1, seeded_generators(0, [0, 1, 2]))
    assert torch.equal(torch.get_rng_state(), before)


# Conditions.


def test_every_condition_matters(backbone, lora):
    """Each image changes the picture; a large image is cut into tiles on the way."""
    editor = Editor(backbone, Flow(), loras=(lora,))
    whole, _ = edit()
    large = Edit(
        whole.prompts, *(x.repeat(1, 1, 3, 2) for x in (whole.source, whole.control, whole.draft))
    )
    assert backbone.tiling.applies(backbone.grid(*large.source.shape[-2:]))
    for given in (whole, large):
        pictures = [
            editor.generate(changed, 1, seeded_generators(0, [0, 1, 2]))
            for changed in (
                given,
                Edit(given.prompts, given.source.flip(-1), given.control, given.draft),
                Edit(given.prompts, given.source, given.control.flip(-1), given.draft),
                Edit(given.prompts, given.source, given.control, given.draft.flip(-1)),
                Edit(given.prompts, given.source, given.control),
                Edit(["other"] * 3, given.source, given.control, given.draft),
            )
        ]
        assert all(picture.shape == given.source.shape for picture in pictures)
        assert not any(torch.equal(pictures[0], picture) for picture in pictures[1:])


def test_control_is_not_rescaled_but_amplified_as_the_backbone_says(backbone):
    control = torch.full((1, 1, 16, 24), 0.125)
    assert torch.equal(backbone.encode_control(control), torch.full((1, 24, 48), 0.5))
    image = torch.full((1, 3, 16, 24), 0.75)
    assert torch.equal(backbone.encode_image(image), torch.full((1, 24, 48), 0.5))


def test_tiny_images_survive_the_way_there_and_back(backbone):
    image = edit()[0].source
    decoded = backbone.decode(backbone.encode_image(image), 16, 24)
    torch.testing.assert_close(decoded, image, rtol=0, atol=1e-5)


def test_sizes_that_do_not_fit_are_named(backbone):
    with pytest.raises(ValueError, match="22x16 px: both sides must be multiples of 4"):
        backbone.encode_image(torch.zeros(1, 3, 16, 22))


def test_shift_comes_from_the_token_count(backbone):
    assert Editor(backbone, Flow()).mu(16, 24) == Shift().mu(24)


def test_pictures_of_any_size_go_to_whole_tokens_and_back_by_lanczos(backbone):
    """As in the pipeline, so that one photograph has one all-in-focus picture."""
    seen = []

    def generate(given, steps, generators):
        seen.append(given.source)
        return given.source

    editor = SimpleNamespace(backbone=backbone, generate=generate)
    pictures = torch.rand(2, 3, 14, 19)
    edited = edit_pictures(editor, pictures, prompt="sharp", steps=1, seed=0)
    whole = torch.stack([resize_image(one, 16, 20) for one in pictures])
    assert torch.equal(seen[0], whole)
    assert torch.equal(edited, torch.stack([resize_image(one, 14, 19) for one in whole]))


def test_images_move_together():
    whole, _ = edit()
    moved = Edit(whole.prompts, whole.source, whole.control).to(torch.device("meta"))
    assert moved.source.device.type == moved.control.device.type == "meta"
    assert moved.draft is None and moved.prompts == whole.prompts


# What is frozen is shared, what is trained is copied.


def test_a_copied_editor_shares_the_backbone_and_owns_its_adapters(backbone, lora):
    module = torch.nn.Module()
    module.lora, module.editor = lora, Editor(backbone, Flow(), loras=(lora,))
    copied = copy.deepcopy(module)
    assert copied.editor.backbone is backbone
    assert copied.editor.denoiser.transformer is backbone.transformer
    assert copied.editor.denoiser.local is backbone.local
    assert copied.lora is not lora
    assert copied.editor.denoiser.loras == (copied.lora,)


# The tiny weight file.


def test_tiny_weights_round_trip_in_half_precision(backbone, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_tiny(backbone, path, settings=SETTINGS, card={"steps": "7"})
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
    ("settings", "error"),
    [
        (None, FileNotFoundError),
        ({}, ValueError),
        ({**SETTINGS, "local": {**SETTINGS["local"], "width": 7}}, ValueError),
        ({**SETTINGS, "speed": 1}, ValueError),
    ],
    ids=["missing", "no settings", "other shapes", "unknown setting"],
)
def test_wrong_tiny_weights_are_one_line_with_a_remedy(settings, error, backbone, tmp_path):
    path = tmp_path / "tiny.safetensors"
    if settings is not None:
        save_tiny(backbone, path, settings=settings, card={})
    with pytest.raises(error, match="experiment=tiny_base") as raised:
        load_tiny(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_codec_and_transformer_must_fit(tiny_flux):
    with pytest.raises(AssertionError, match="do not fit"):
        Backbone(tiny_flux(), PixelCodec(3), HashedWords(4, 12, 10), shift=Shift(), tiling=Tiling())
