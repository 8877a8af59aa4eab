"""The multi-condition forward: properties, and diffusers' own forward where the two must agree."""

import pytest
import torch
from diffusers import FluxTransformer2DModel

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.denoiser import image_ids

ROWS, COLUMNS, TEXT = 3, 4, 5
N = ROWS * COLUMNS
# Two ways to one sum differ by a few units of fp32's last place, on some processors by more.
ROUNDING = 1e-5


@pytest.fixture
def inputs():
    """Text, pooled, and tokens of the noisy image and of two conditions, for a batch of 2."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return draw(2, TEXT, 12), draw(2, 10), draw(2, N, 16), draw(2, N, 16), draw(2, N, 16)


SIGMA, GUIDANCE = torch.tensor([0.3, 0.8]), torch.tensor([3.5, 1.0])


def forward(transformer, text, pooled, image, *conditions, rows=slice(0, 2), **options):
    """The forward with published branch rules on some rows of the batch."""
    ids = image_ids(ROWS, COLUMNS, device=image.device)
    sigma, guidance = (value[rows].to(image.device) for value in (SIGMA, GUIDANCE))
    return multi_condition_forward(
        transformer,
        text[rows],
        pooled[rows],
        Branch(image[rows], ids, sigma, guidance),
        [Branch(c[rows], ids, torch.zeros_like(sigma), torch.ones_like(sigma)) for c in conditions],
        **options,
    )


def relative(ours, expected):
    return float((ours - expected).norm() / expected.norm())


@pytest.mark.parametrize("guidance_embeds", [True, False])
@torch.no_grad()
def test_without_conditions_it_is_diffusers_forward(guidance_embeds, tiny_flux, inputs):
    transformer = tiny_flux(guidance_embeds=guidance_embeds)
    text, pooled, image, *_ = inputs
    expected = transformer(
        hidden_states=image,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=SIGMA,
        guidance=GUIDANCE if guidance_embeds else None,
        img_ids=image_ids(ROWS, COLUMNS),
        txt_ids=torch.zeros(TEXT, 3),
    ).sample
    assert relative(forward(transformer, text, pooled, image), expected) < ROUNDING


@pytest.mark.parametrize("isolated", [False, True])
@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one(isolated, tiny_flux, random_lora, inputs):
    transformer = tiny_flux()
    options = {"lora": random_lora(transformer), "isolated": isolated}
    both = forward(transformer, *inputs, **options)
    for row in (0, 1):
        alone = forward(transformer, *inputs, rows=slice(row, row + 1), **options)
        assert relative(alone[0], both[row]) < ROUNDING
    assert relative(both[0], both[1]) > 0.1


def influence(transformer, inputs, source, **options):
    """Whether the last block's keys depend on ``source`` (an index of inputs).

    One answer each for the keys of text, noisy image and the two conditions.
    """
    seen = {}
    hook = transformer.single_transformer_blocks[-1].attn.to_k.register_forward_hook(
        lambda module, args, output: seen.update(keys=output)
    )
    leaves = [value.clone().requires_grad_() for value in inputs]
    forward(transformer, *leaves, **options)
    hook.remove()
    parts = seen["keys"].split([TEXT, N, N, N], dim=1)
    gradients = [
        torch.autograd.grad(part.square().sum(), leaves[source], retain_graph=True)[0]
        for part in parts
    ]
    return [bool(gradient.abs().sum() > 0) for gradient in gradients]


def test_who_hears_whom(tiny_flux, inputs):
    transformer = tiny_flux()
    text, noisy, first, second = 0, 2, 3, 4
    # Columns: text, noisy image, first and second condition.
    assert influence(transformer, inputs, text) == [True] * 4
    assert influence(transformer, inputs, noisy) == [True] * 4
    assert influence(transformer, inputs, first)[:3] == [True] * 3
    assert influence(transformer, inputs, second)[1:] == [True, True, True]


def test_conditions_hear_each_other_only_through_the_image(tiny_flux, inputs):
    """In a single block nothing travels further than one step of attention."""
    transformer = tiny_flux(num_layers=0, num_single_layers=2)
    assert influence(transformer, inputs, 3) == [True, True, True, False]
    assert influence(transformer, inputs, 4) == [True, True, False, True]


def test_isolated_conditions_hear_nobody(tiny_flux, inputs):
    transformer = tiny_flux()
    assert influence(transformer, inputs, 0, isolated=True) == [True, True, False, False]
    assert influence(transformer, inputs, 2, isolated=True) == [True, True, False, False]
    assert influence(transformer, inputs, 3, isolated=True) == [True, True, True, False]
    assert influence(transformer, inputs, 4, isolated=True) == [True, True, False, True]


@pytest.mark.parametrize("conditions", [0, 1, 2])
@torch.no_grad()
def test_isolated_conditions_run_at_the_first_step_alone(
    conditions, tiny_flux, random_lora, inputs, monkeypatch
):
    """With their keys and values cached, later steps are those of the plain isolated forward."""
    transformer = tiny_flux()
    given = *inputs[: 3 + conditions], {"lora": random_lora(transformer), "isolated": True}
    *tensors, options = given
    text, pooled, image, *branches = tensors
    cache, seen = {}, []
    transformer.single_transformer_blocks[-1].attn.to_k.register_forward_hook(
        lambda module, args, output: seen.append(output.shape[1])
    )
    for step, sigma in enumerate((SIGMA, SIGMA / 2, SIGMA / 3)):
        monkeypatch.setitem(globals(), "SIGMA", sigma)
        noisy = image / (1 + step)
        plain = forward(transformer, text, pooled, noisy, *branches, **options)
        ours = forward(transformer, text, pooled, noisy, *branches, **options, cache=cache)
        assert torch.equal(ours, plain) if step == 0 else relative(ours, plain) < ROUNDING
    everything = TEXT + N * (1 + conditions)
    assert seen == [everything, everything, everything, TEXT + N, everything, TEXT + N]
    kept = [x for pair in cache.values() for x in pair]
    assert len(kept) == 2 * (2 + 2)
    assert all(x.untyped_storage().nbytes() == 4 * 2 * N * conditions * 32 for x in kept)


# LoRA acts on the conditions.


@torch.no_grad()
def test_lora_acts_on_the_conditions_alone(tiny_flux, random_lora, inputs):
    """Where it reaches, a zero adapter changes nothing, and without a condition none does."""
    transformer = tiny_flux()
    lora, plain = random_lora(transformer), forward(transformer, *inputs)
    adapted = forward(transformer, *inputs, lora=lora)
    assert relative(adapted, plain) > 1e-3
    nothing = Lora.for_transformer(transformer, 2, generator=torch.Generator().manual_seed(0))
    assert relative(forward(transformer, *inputs, lora=nothing), plain) < ROUNDING
    alone = inputs[:3]
    assert torch.equal(forward(transformer, *alone, lora=lora), forward(transformer, *alone))


@torch.no_grad()
def test_a_condition_may_carry_its_own_adapter(tiny_flux, random_lora, inputs):
    """Conditions of one place may change their order, each with its adapter; no other way."""
    transformer = tiny_flux()
    one, other = random_lora(transformer), random_lora(transformer, seed=1)
    text, pooled, image, first, second = inputs

    def adapted(*conditions, **options):
        ids, zero, guidance = image_ids(ROWS, COLUMNS), torch.zeros(2), torch.ones(2)
        branches = [Branch(x, ids, zero, guidance, lora=own) for x, own in conditions]
        noisy = Branch(image, ids, SIGMA, GUIDANCE)
        return multi_condition_forward(transformer, text, pooled, noisy, branches, **options)

    mixed = adapted((first, one), (second, other))
    assert relative(adapted((second, other), (first, one)), mixed) < ROUNDING
    assert relative(adapted((first, other), (second, one)), mixed) > 1e-3
    assert torch.equal(adapted((first, None), (second, other), lora=one), mixed)
    alike = forward(transformer, *inputs, lora=one)
    assert torch.equal(adapted((first, one), (second, one)), alike)
    assert relative(alike, mixed) > 1e-3
    isolated = adapted((first, one), (second, other), isolated=True)
    cache = {}
    for _ in range(2):
        kept = adapted((first, one), (second, other), isolated=True, cache=cache)
        assert relative(kept, isolated) < ROUNDING


# Training.


def gradients(transformer, lora, inputs, **options):
    lora.zero_grad()
    loss = forward(transformer, *inputs, lora=lora, **options).float().square().mean()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in lora.named_parameters()}


@pytest.mark.parametrize(
    ("checkpointing", "norms", "attentions"),
    [
        # Runs of norm2 and of to_q in each of two double and two single blocks.
        ("none", [1, 1], [1, 1, 1, 1]),
        ("feed_forward", [2, 2], [1, 1, 1, 1]),
        (3, [2, 1], [2, 1, 1, 2]),
        (2, [2, 1], [2, 1, 2, 1]),
        ("all", [2, 2], [2, 2, 2, 2]),
    ],
)
def test_checkpointing_changes_nothing_but_what_runs_twice(
    checkpointing, norms, attentions, tiny_flux, random_lora, inputs
):
    transformer = tiny_flux()
    lora = random_lora(transformer)
    loss, plain = gradients(transformer, lora, inputs)
    doubles = list(transformer.transformer_blocks)
    blocks = [*doubles, *transformer.single_transformer_blocks]
    watched = [*(one.norm2 for one in doubles), *(one.attn.to_q for one in blocks)]
    calls = dict.fromkeys(watched, 0)
    for module in watched:
        module.register_forward_hook(lambda own, *_: calls.update({own: calls[own] + 1}))
    again, recomputed = gradients(transformer, lora, inputs, checkpointing=checkpointing)
    assert list(calls.values()) == [*norms, *attentions]
    assert loss == again
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name]), name
    calls.update(dict.fromkeys(watched, 0))
    with torch.no_grad():
        forward(transformer, *inputs, lora=lora, checkpointing=checkpointing)
    assert set(calls.values()) == {1}


def test_every_adapter_gets_a_gradient(tiny_flux, random_lora, inputs):
    transformer = tiny_flux()
    _, found = gradients(transformer, random_lora(transformer), inputs)
    # What the last block computes for the conditions after attention reaches no output.
    last = "single_transformer_blocks/1/"
    idle = {f"{last}attn/to_q", f"{last}proj_mlp", f"{last}proj_out"}
    silent = {name.split(".", 1)[1] for name, gradient in found.items() if not gradient.any()}
    assert silent == idle
    assert all(p.grad is None for p in transformer.parameters())


def test_bf16_backbone_with_fp32_masters(tiny_flux, random_lora, inputs):
    transformer = tiny_flux()
    lora = random_lora(transformer)
    _, exact = gradients(transformer, lora, inputs)
    half = [value.bfloat16() for value in inputs]
    output = forward(transformer.to(torch.bfloat16), *half, lora=lora)
    assert output.dtype == torch.bfloat16
    _, found = gradients(transformer, lora, half)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    flat, expected = (torch.cat([g.flatten() for g in group.values()]) for group in (found, exact))
    assert torch.nn.functional.cosine_similarity(flat, expected, dim=0) > 0.97


# Full size, without numbers.


def test_no_value_is_read_back_at_full_size():
    """On the meta device there are no values: any .item() or data-dependent branch would raise."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV_CONFIG).requires_grad_(False)
        lora = Lora.for_transformer(transformer, 4)
        text, pooled = torch.empty(1, 8, 4096), torch.empty(1, 768)
        tokens = [torch.empty(1, N, 64) for _ in range(3)]
    output = forward(transformer, text, pooled, *tokens, lora=lora, rows=slice(0, 1))
    assert output.shape == (1, N, 64)
    output.sum().backward()
    assert lora.lora_a["x_embedder"].grad.shape == (4, 64)
