"""Denoiser: what the forward is given, the flow around it, noise that belongs to a sample."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from genrefocus.backbone import TextEmbedding
from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import Conditions, ConditionTokens, Denoiser, Latents, image_ids
from genrefocus.flow import Flow, Shift, interpolate, schedule
from genrefocus.noise import noise_like, seeded_generators
from genrefocus.sampling import Tiling, tiles
from lit_models import DeblurNet


class Recording(nn.Module):
    """A backbone that answers with half of x, and keeps what it was given."""

    takes_half_control = True

    def __init__(self, tiling=None, answer=lambda image, conditions: image.tokens * 0.5):
        super().__init__()
        self.shift, self.tiling = Shift(), tiling or Tiling()
        self.answer, self.calls = answer, []

    def forward(self, text, image, conditions, grid, *, lora, isolated, cache):
        self.calls.append(SimpleNamespace(image=image, conditions=conditions, lora=lora))
        return self.answer(image, conditions)


TEXT = TextEmbedding(torch.zeros(2, 3, 12), torch.zeros(2, 10))


def tokens(grid, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, grid[0] * grid[1], 4, generator=generator).to(dtype)


def latents(grid, conditions, source, noise, target=None):
    return Latents(TEXT, conditions, source, noise, target, grid)


def sample(grid, *, steps=2, **settings):
    """Calls of the backbone while a source with a draft is sampled."""
    draft, source = tokens(grid, 1), tokens(grid, 2)
    conditions = [ConditionTokens(draft, (0, 32)), ConditionTokens(source)]
    denoiser = Denoiser(Recording(), Flow(), **settings)
    denoiser.sample_tokens(latents(grid, conditions, source, tokens(grid)), steps)
    return denoiser.backbone.calls


def test_image_ids_are_those_of_diffusers():
    from diffusers import FluxPipeline

    expected = FluxPipeline._prepare_latent_image_ids(1, 5, 7, "cpu", torch.float32)
    assert torch.equal(image_ids(5, 7), expected)
    shifted = image_ids(5, 7, shift=(2, 32))
    assert torch.equal(shifted - expected, torch.tensor([0.0, 2.0, 32.0]).expand(35, 3))


def test_published_branch_rules():
    lora = object()
    calls = sample((4, 6), steps=3, lora=lora, guidance=3.5)
    assert len(calls) == 3
    for sigma, call in zip(schedule(3, Shift().mu(24)), calls, strict=False):
        assert call.image.timestep.tolist() == [pytest.approx(sigma)] * 2
        assert call.image.guidance.tolist() == [3.5] * 2 and call.lora is lora
        draft, source = call.conditions
        assert torch.equal(draft.ids, image_ids(4, 6, shift=(0, 32)))
        assert torch.equal(source.ids, image_ids(4, 6)) and torch.equal(call.image.ids, source.ids)
        for branch in call.conditions:
            assert branch.timestep.tolist() == [0.0] * 2
            assert branch.guidance.tolist() == [1.0] * 2


@pytest.mark.parametrize(
    ("ids", "grid", "column"),
    [
        ("released", (40, 49), 0),
        ("shifted", (40, 49), 32),
        ("released", (32, 32), 0),  # exactly one tile: tiled, so the shift is dropped
        ("released", (31, 49), 32),  # shorter edge below a tile: not tiled
    ],
)
def test_tiles_have_the_ids_of_one_tile(ids, grid, column):
    cut = Tiling().applies(grid)
    for call in sample(grid, steps=1, draft_ids=ids):
        draft, _ = call.conditions
        rows, columns = (32, 32) if cut else grid
        assert torch.equal(call.image.ids, image_ids(rows, columns))
        assert torch.equal(draft.ids, image_ids(rows, columns, shift=(0, column)))
        assert call.image.tokens.shape[1] == rows * columns == draft.tokens.shape[1]


def test_mu_is_that_of_the_whole_image():
    seen = [float(call.image.timestep[0]) for call in sample((40, 49), steps=4)[::4]]
    assert seen == schedule(4, Shift().mu(40 * 49))[:-1]


def test_sigma_stays_fp32_with_bf16_tokens():
    """Rounded to bf16 it would be off by up to 0.2 %; the forward rounds the timestep instead."""
    grid, sigma = (2, 3), torch.tensor([0.8148118, 0.3])
    clean, noise = tokens(grid, 0, torch.bfloat16), tokens(grid, 1, torch.bfloat16)
    denoiser = Denoiser(Recording(), Flow())
    loss = denoiser.loss(latents(grid, [ConditionTokens(clean)], clean, noise, clean), sigma)
    image = denoiser.backbone.calls[0].image
    assert torch.equal(image.timestep, sigma)
    assert image.tokens.dtype == torch.bfloat16
    expected = interpolate(clean.float(), noise.float(), sigma).bfloat16()
    assert torch.equal(image.tokens, expected)
    assert loss.dtype == torch.float32 and loss.shape == (2,)


@pytest.mark.parametrize("prediction", ["velocity", "residual"])
def test_a_perfect_network_recovers_the_target_through_tiles(prediction):
    """Sampling with the exact answer, cut into tiles."""
    grid = (10, 13)
    clean, noise, source = tokens(grid, 3), tokens(grid, 4), tokens(grid, 5)
    flow = Flow(prediction)
    answer = noise - clean if prediction == "velocity" else clean - source
    # The answer travels as a condition, so that it is cut like everything else.
    backbone = Recording(Tiling(6, 4, when="longer_edge"), lambda _, given: given[1].tokens)
    conditions = [ConditionTokens(source), ConditionTokens(answer)]
    out = Denoiser(backbone, flow).sample_tokens(latents(grid, conditions, source, noise), 5)
    torch.testing.assert_close(out, clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(32, 32), (31, 49), (40, 49)])
def test_a_draft_lies_beside_the_image_in_training_and_in_sampling(grid):
    """One rule, whole and in tiles: what was trained at 512 px is sampled alike at 512 px."""
    draft, source = ConditionTokens(tokens(grid, 1), (0, 32)), ConditionTokens(tokens(grid, 2))
    denoiser = Denoiser(Recording(), Flow())
    given = latents(grid, [draft, source], source.tokens, tokens(grid), source.tokens)
    denoiser.loss(given, torch.ones(2))
    denoiser.sample_tokens(given, 1)
    assert len(denoiser.backbone.calls) > 1
    for call in denoiser.backbone.calls:
        beside, edited = call.conditions
        assert torch.equal(edited.ids, call.image.ids)
        shift = torch.tensor([0, 0, 32]).expand(len(edited.ids), 3)
        assert torch.equal(beside.ids - edited.ids, shift)


# Control maps at half resolution.


def places(grid):
    """Tokens whose channels are their own position in the grid."""
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in grid)
    at = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return torch.cat([at, at], dim=-1).reshape(1, -1, 4).repeat(2, 1, 1)


def middles(tokens, rows, columns):
    """Means of 2 x 2 tokens (..., rows * columns, C)."""
    blocks = tokens.unflatten(-2, (rows // 2, 2, columns // 2, 2))
    return blocks.mean((-4, -2)).flatten(-3, -2)


@pytest.mark.parametrize("grid", [(32, 32), (30, 48), (40, 50), (64, 34)])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_half_control_map_lies_where_the_image_does_in_training_and_in_tiles(grid, batch):
    """Its tokens have the ids, and the content, of the middles of two by two of the image's."""
    image = places(grid)
    control = ConditionTokens(middles(image, *grid), role="control", pitch=2)
    conditions = [ConditionTokens(image), control]
    tiling = Tiling(batch=batch)
    denoiser = Denoiser(Recording(tiling), Flow(), half_control=True)
    given = latents(grid, conditions, image, torch.zeros_like(image), image)
    denoiser.loss(given, torch.ones(2))
    denoiser.sample_tokens(given, 1)
    trained, *sampled = denoiser.backbone.calls
    assert len(sampled) == tiling.forwards(grid)
    for call, cut in [(trained, False), *((one, tiling.applies(grid)) for one in sampled)]:
        rows, columns = (32, 32) if cut else grid
        source, coarse = call.conditions
        assert torch.equal(source.ids, image_ids(rows, columns))
        assert torch.equal(coarse.ids, middles(source.ids, rows, columns))
        assert torch.equal(coarse.tokens, middles(source.tokens, rows, columns))


class Pixels(Recording):
    """Tokens are the means of 4 x 4 px."""

    pixels_per_token = 4

    def grid(self, height, width):
        return height // 4, width // 4

    def embed(self, prompts):
        return TEXT

    def encode_image(self, image, generators, *, keep=False):
        return nn.functional.avg_pool2d(image, 4).flatten(2).mT

    encode_control = encode_image


def test_a_control_map_is_halved_with_whole_tokens_left():
    generator = torch.Generator().manual_seed(0)
    source, control = (torch.rand(2, n, 16, 24, generator=generator) for n in (3, 1))
    noise, found = seeded_generators(0, [1, 2]), {}
    for half in (False, True):
        denoiser = Denoiser(Pixels(), Flow(), half_control=half)
        encoded = denoiser.encode(Conditions(["a", "b"], source, control), noise)
        found[half] = encoded.conditions[-1]
        changed = denoiser.with_control(encoded, control.flip(-1), noise).conditions[-1]
        assert changed.pitch == found[half].pitch == 1 + half
        assert not torch.equal(changed.tokens, found[half].tokens)
    torch.testing.assert_close(found[True].tokens, middles(found[False].tokens, 4, 6))
    with pytest.raises(ValueError, match="image is 20x16 px: with half_control .* multiples of 8"):
        denoiser.encode(Conditions(["a", "b"], source[..., :20], control[..., :20]), noise)


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


@pytest.fixture(scope="module")
def backbone(tiny_settings):
    return (
        build_tiny(
            **{**tiny_settings, "widths": [8, 8], "blocks": [1, 1], "tile": 8, "tile_stride": 6}
        )
        .requires_grad_(False)
        .eval()
    )


@pytest.fixture
def lora(backbone, random_lora):
    return random_lora(backbone.transformer)


def given(rows=slice(0, 3)):
    generator = torch.Generator().manual_seed(0)
    source, draft, target = torch.rand(3, 3, 3, 16, 24, generator=generator)
    control = torch.rand(3, 1, 16, 24, generator=generator)
    prompts = ["one", "two", "one"][rows]
    return Conditions(prompts, source[rows], control[rows], draft[rows]), target[rows]


@pytest.mark.parametrize("flow", [Flow(), Flow("residual")], ids=["velocity", "residual"])
def test_loss_and_image_of_a_sample_do_not_depend_on_its_batch(flow, backbone, lora):
    denoiser = Denoiser(backbone, flow, lora, guidance=3.5)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    whole, target = given()
    encoded = denoiser.encode(whole, seeded_generators(3, [10, 11, 12]), target)
    losses, images = denoiser.loss(encoded, sigma), denoiser.sample(encoded, 2)
    for row in range(3):
        part, target = given(slice(row, row + 1))
        encoded = denoiser.encode(part, seeded_generators(3, [10 + row]), target)
        alone, image = denoiser.loss(encoded, sigma[row : row + 1]), denoiser.sample(encoded, 2)
        torch.testing.assert_close(alone[0], losses[row], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(image[0], images[row], rtol=1e-4, atol=1e-5)


def test_the_global_generator_is_left_alone(backbone, lora):
    before = torch.get_rng_state()
    whole, target = given()
    denoiser = Denoiser(backbone, Flow(), lora)
    encoded = denoiser.encode(whole, seeded_generators(0, [0, 1, 2]), target)
    denoiser.loss(encoded, torch.full((3,), 0.5))
    denoiser.sample(encoded, 1)
    assert torch.equal(torch.get_rng_state(), before)


# Conditions.


def test_every_condition_matters(backbone, lora):
    """Each image changes the image; a large image is cut into tiles on the way."""
    denoiser = Denoiser(backbone, Flow(), lora)
    whole, _ = given()
    large = Conditions(
        whole.prompts, *(x.repeat(1, 1, 3, 2) for x in (whole.source, whole.control, whole.draft))
    )
    assert backbone.tiling.applies(backbone.grid(*large.source.shape[-2:]))
    for some in (whole, large):
        images = [
            denoiser.sample(denoiser.encode(changed, seeded_generators(0, [0, 1, 2])), 1)
            for changed in (
                some,
                Conditions(some.prompts, some.source.flip(-1), some.control, some.draft),
                Conditions(some.prompts, some.source, some.control.flip(-1), some.draft),
                Conditions(some.prompts, some.source, some.control, some.draft.flip(-1)),
                Conditions(some.prompts, some.source, some.control),
                Conditions(["other"] * 3, some.source, some.control, some.draft),
            )
        ]
        assert all(image.shape == some.source.shape for image in images)
        assert not any(torch.equal(images[0], image) for image in images[1:])


@pytest.mark.parametrize("shape", [(16, 24), (48, 48)], ids=["whole", "tiles"])
@pytest.mark.parametrize("conditions", [1, 2])
def test_isolated_conditions_are_computed_once_for_each_tile(conditions, shape, backbone, lora):
    repeats = 1, 1, shape[0] // 16, shape[1] // 24
    whole, _ = given()
    control = whole.control.repeat(repeats) if conditions == 2 else None
    edit = Conditions(whole.prompts, whole.source.repeat(repeats), control)
    images, seen = {}, {}
    for gib in (0.0, 1e-9, 1.0):  # no tile is cached, the first alone, all
        settings = {"guidance": 3.5, "isolate_conditions": True, "cache_gib": gib}
        denoiser, found = Denoiser(backbone, Flow(), lora, **settings), seen.setdefault(gib, [])
        encoded = denoiser.encode(edit, seeded_generators(0, [0, 1, 2]))
        hook = backbone.transformer.single_transformer_blocks[0].attn.to_k.register_forward_hook(
            lambda module, args, output, found=found: found.append(output.shape[1])
        )
        images[gib] = denoiser.sample(encoded, 3)
        hook.remove()
    for gib in (1e-9, 1.0):
        torch.testing.assert_close(images[gib], images[0.0], rtol=1e-4, atol=1e-5)
    grid = backbone.grid(*shape)
    size = backbone.tiling.size
    parts = tiles(grid, size, backbone.tiling.stride) if backbone.tiling.applies(grid) else [None]
    image = size**2 if parts[0] else grid[0] * grid[1]
    own, every = 8 + image, 8 + (1 + conditions) * image
    assert len(parts) == (4 if shape == (48, 48) else 1)
    assert seen[0.0] == [every] * 3 * len(parts)
    assert seen[1e-9] == [every] * len(parts) + 2 * [own, *[every] * (len(parts) - 1)]
    assert seen[1.0] == [every] * len(parts) + [own] * 2 * len(parts)


@pytest.mark.parametrize(("height", "width", "side"), [(16, 24, 4), (48, 40, 8)])
def test_every_tile_sees_the_whole_shape(height, width, side, backbone, lora, random_lora):
    """At the size of the shorter edge, or of a tile; with an adapter and ids of its own."""
    own, seen = random_lora(backbone.transformer, seed=1), []

    def record(text, image, conditions, grid, **options):
        seen.append((grid, conditions, options["lora"]))
        return image.tokens

    generator = torch.Generator().manual_seed(0)
    source = torch.rand(2, 3, height, width, generator=generator)
    shape = torch.rand(2, 1, 4 * side, 4 * side, generator=generator)
    edit = Conditions(["a", "b"], source, source[:, :1], shape=shape)
    denoiser = Denoiser(backbone, Flow(), lora, shape_lora=own)
    latents = denoiser.encode(edit, seeded_generators(0, [0, 1]))
    with mock.patch.object(type(backbone), "forward", side_effect=record):
        denoiser.sample_tokens(latents, 1)
    assert len(seen) == (1 if side == 4 else 4)
    expected = backbone.encode_image(shape.expand(-1, 3, -1, -1))
    for grid, (image, control, last), common in seen:
        assert last.role == "shape" and last.lora is own
        assert torch.equal(last.tokens, expected)
        assert torch.equal(last.ids, image_ids(side, side, shift=(0, backbone.tiling.size)))
        assert common is lora and image.lora is control.lora is None
        assert len(image.ids) == grid[0] * grid[1]
    # Drawn at another size it is brought to this one.
    coarse = torch.ones(2, 1, 6, 6)
    latents = denoiser.encode(replace(edit, shape=coarse), seeded_generators(0, [0, 1]))
    assert latents.conditions[-1].tokens.shape == expected.shape
    # Another control map leaves it where it is.
    swapped = denoiser.with_control(latents, source[:, 1:2], seeded_generators(0, [0, 1]))
    assert [c.role for c in swapped.conditions] == ["source", "control", "shape"]
    assert swapped.conditions[-1] is latents.conditions[-1]


@pytest.mark.parametrize("isolated", [False, True])
def test_tiles_in_one_forward_are_tiles_one_by_one(isolated, backbone, lora, monkeypatch):
    whole, _ = given(slice(0, 2))
    images = (x.repeat(1, 1, 3, 2) for x in (whole.source, whole.control, whole.draft))
    edit = Conditions(whole.prompts, *images)
    found = {}
    for batch in (1, 3, 4):
        monkeypatch.setattr(backbone, "tiling", replace(backbone.tiling, batch=batch))
        denoiser = Denoiser(backbone, Flow(), lora, guidance=3.5, isolate_conditions=isolated)
        found[batch] = denoiser.sample(denoiser.encode(edit, seeded_generators(0, [0, 1])), 2)
    assert backbone.tiling.forwards(backbone.grid(48, 48)) == 1
    torch.testing.assert_close(found[3], found[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[4], found[1], rtol=1e-4, atol=1e-5)


def test_the_tiny_backbone_takes_no_half_control(backbone, lora, network_settings):
    for build in (
        lambda: Denoiser(backbone, Flow(), lora, half_control=True),
        lambda: DeblurNet(backbone, half_control=True, **network_settings),
    ):
        with pytest.raises(ValueError, match="reads the control map pixel by pixel"):
            build()


# What is frozen is shared, what is trained is copied.


def test_an_averaged_copy_shares_the_backbone_and_owns_its_lora(backbone, network_settings):
    module = DeblurNet(backbone, **network_settings)
    copied = copy.deepcopy(module)
    assert copied.backbone is backbone and copied.denoiser.backbone is backbone
    assert copied.denoiser.lora is copied.lora and copied.lora is not module.lora
