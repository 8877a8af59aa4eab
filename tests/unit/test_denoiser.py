"""What the denoiser hands to the forward, and the flow around it."""

import copy

import pytest
import torch

from genrefocus import denoiser as module
from genrefocus.backbone import TextEmbedding
from genrefocus.denoiser import Condition, Denoiser, image_ids
from genrefocus.flow import Flow, Shift, interpolate, schedule
from genrefocus.sampling import Tiling


@pytest.fixture
def calls(monkeypatch):
    """Replace the network by one that answers with x, and keep what it was given."""
    seen = []

    def forward(transformer, text, pooled, image, conditions):
        seen.append((image, conditions))
        return image.tokens * 0.5

    monkeypatch.setattr(module, "multi_condition_forward", forward)
    return seen


TEXT = TextEmbedding(torch.zeros(2, 3, 12), torch.zeros(2, 10))


def tokens(grid, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, grid[0] * grid[1], 4, generator=generator).to(dtype)


def sample(grid, *, steps=2, flow=None, **settings):
    denoiser = Denoiser(None, flow or Flow(), Shift(), **settings)
    draft, source = tokens(grid, 1), tokens(grid, 2)
    conditions = [Condition(draft, (0, 32)), Condition(source)]
    return denoiser.sample(TEXT, tokens(grid), conditions, source, grid, steps)


def test_image_ids_are_those_of_diffusers():
    from diffusers import FluxPipeline

    expected = FluxPipeline._prepare_latent_image_ids(1, 5, 7, "cpu", torch.float32)
    assert torch.equal(image_ids(5, 7), expected)
    shifted = image_ids(5, 7, delta=(2, 32))
    assert torch.equal(shifted - expected, torch.tensor([0.0, 2.0, 32.0]).expand(35, 3))


def test_published_branch_rules(calls):
    lora = object()
    sample((4, 6), steps=3, loras=(lora,), guidance=3.5)
    sigmas = schedule(3, Shift().mu(24))
    assert len(calls) == 3
    for sigma, (image, conditions) in zip(sigmas, calls, strict=False):
        assert image.timestep.tolist() == [pytest.approx(sigma)] * 2
        assert image.guidance.tolist() == [3.5] * 2 and image.loras == ()
        assert torch.equal(image.ids, image_ids(4, 6))
        draft, source = conditions
        assert torch.equal(draft.ids, image_ids(4, 6, delta=(0, 32)))
        assert torch.equal(source.ids, image_ids(4, 6))
        for branch in conditions:
            assert branch.timestep.tolist() == [0.0] * 2
            assert branch.guidance.tolist() == [1.0] * 2
            assert branch.loras == (lora,)


@pytest.mark.parametrize(
    ("ids", "grid", "column"),
    [
        ("released", (40, 49), 0),
        ("shifted", (40, 49), 32),
        ("released", (32, 32), 0),  # exactly one tile: tiled, so the shift is dropped
        ("released", (31, 49), 32),  # shorter edge below a tile: not tiled
    ],
)
def test_tiles_have_the_ids_of_one_tile(ids, grid, column, calls):
    sample(grid, steps=1, tiling=Tiling(ids=ids))
    cut = Tiling().applies(grid)
    for image, (draft, _) in calls:
        rows, columns = (32, 32) if cut else grid
        assert torch.equal(image.ids, image_ids(rows, columns))
        assert torch.equal(draft.ids, image_ids(rows, columns, delta=(0, column)))
        assert image.tokens.shape[1] == rows * columns == draft.tokens.shape[1]


def test_mu_is_that_of_the_whole_image(calls):
    sample((40, 49), steps=4)
    seen = [float(image.timestep[0]) for image, _ in calls[::4]]
    assert seen == schedule(4, Shift().mu(40 * 49))[:-1]


def test_sigma_stays_fp32_with_bf16_tokens(calls):
    """Rounded to bf16 it would be off by up to 0.2 %; the forward rounds the timestep instead."""
    grid, sigma = (2, 3), torch.tensor([0.8148118, 0.3])
    clean, noise = tokens(grid, 0, torch.bfloat16), tokens(grid, 1, torch.bfloat16)
    loss = Denoiser(None, Flow(), Shift()).loss(
        TEXT, clean, noise, [Condition(clean)], clean, grid, sigma
    )
    image, _ = calls[0]
    assert torch.equal(image.timestep, sigma)
    assert image.tokens.dtype == torch.bfloat16
    expected = interpolate(clean.float(), noise.float(), sigma).bfloat16()
    assert torch.equal(image.tokens, expected)
    assert loss.dtype == torch.float32 and loss.shape == (2,)


@pytest.mark.parametrize("prediction", ["velocity", "residual"])
def test_a_perfect_network_recovers_the_target_through_tiles(prediction, monkeypatch):
    """Sampling from a condition start with the exact answer, cut into tiles."""
    grid = (10, 13)
    clean, noise, source = tokens(grid, 3), tokens(grid, 4), tokens(grid, 5)
    flow = Flow("condition", prediction)
    answer = flow.endpoint(noise, source) - clean if prediction == "velocity" else clean - source
    # The answer travels as a condition, so that it is cut like everything else.
    monkeypatch.setattr(module, "multi_condition_forward", lambda *args: args[4][1].tokens)
    denoiser = Denoiser(None, flow, Shift(), tiling=Tiling(6, 4, when="longer_edge"))
    conditions = [Condition(source), Condition(answer)]
    out = denoiser.sample(TEXT, noise, conditions, source, grid, 5)
    torch.testing.assert_close(out, clean, rtol=1e-4, atol=1e-5)


def test_a_copy_shares_the_frozen_network_and_owns_its_adapters(tiny_flux, random_lora):
    transformer = tiny_flux()
    lora = random_lora(transformer)
    denoiser = Denoiser(transformer, Flow(), Shift(), loras=(lora,))
    copied_lora, copied = copy.deepcopy((lora, denoiser))
    assert copied.transformer is transformer
    assert copied.loras == (copied_lora,) and copied_lora is not lora


def test_with_loras_changes_nothing_else(tiny_flux, random_lora):
    transformer = tiny_flux()
    denoiser = Denoiser(transformer, Flow(), Shift(), guidance=2.0)
    lora = random_lora(transformer)
    other = denoiser.with_loras(lora)
    assert other.loras == (lora,) and other.guidance == 2.0 and denoiser.loras == ()


@pytest.mark.parametrize("grid", [(32, 32), (31, 49), (40, 49)])
def test_a_draft_lies_beside_the_image_in_training_and_in_sampling(grid, calls):
    """One rule, whole and in tiles: what was trained at 512 px is sampled alike at 512 px."""
    draft, source = Condition(tokens(grid, 1), (0, 32)), Condition(tokens(grid, 2))
    denoiser = Denoiser(None, Flow(), Shift())
    denoiser.loss(
        TEXT, source.tokens, tokens(grid), [draft, source], source.tokens, grid, torch.ones(2)
    )
    denoiser.sample(TEXT, tokens(grid), [draft, source], source.tokens, grid, 1)
    assert len(calls) > 1
    for image, (beside, edited) in calls:
        assert torch.equal(edited.ids, image.ids)
        assert torch.equal(
            beside.ids - image.ids, torch.tensor([0, 0, 32]).expand(len(image.ids), 3)
        )
