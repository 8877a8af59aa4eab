"""Adapters: their targets on FLUX.1-dev, their file, and peft as an independent reader of it."""

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from genrefocus.backbone import Branch, Lora, branches, lora_modules, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.lora import load_lora, low_rank, read_lora


@pytest.fixture(scope="module")
def flux_dev():
    with torch.device("meta"):
        return FluxTransformer2DModel(**FLUX_DEV_CONFIG)


def test_flux_dev_has_343_targets_by_kind(flux_dev):
    names = list(lora_modules(flux_dev))
    assert len(names) == 343
    assert sum(name.startswith("transformer_blocks.") for name in names) == 19 * 6
    assert sum(name.startswith("single_transformer_blocks.") for name in names) == 38 * 6
    assert "x_embedder" in names
    # The final layer acts on the noisy image; text layers carry nothing.
    assert "proj_out" not in names and "norm_out.linear" not in names
    assert not any("add_" in name or "context" in name for name in names)


@pytest.mark.parametrize("rank", [64, 128])
def test_flux_dev_has_686_tensors(flux_dev, rank):
    lora = Lora.for_transformer(flux_dev, rank, generator=torch.Generator().manual_seed(0))
    state = lora.released_state()
    assert len(state) == 686
    assert all(tensor.device.type == "meta" for tensor in state.values())
    assert state["transformer.x_embedder.lora_A.weight"].shape == (rank, 64)
    assert state["transformer.single_transformer_blocks.37.proj_out.lora_B.weight"].shape == (
        3072,
        rank,
    )
    assert state["transformer.transformer_blocks.18.norm1.linear.lora_B.weight"].shape == (
        6 * 3072,
        rank,
    )


def test_a_new_lora_does_nothing_but_learns(tiny_flux):
    lora = Lora.for_transformer(tiny_flux(), 4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 3, 16)
    delta = low_rank(x, *lora.below("x_emb")["edder"])
    assert torch.equal(delta, torch.zeros(2, 3, 32))
    delta.sum().backward()
    assert lora.lora_b["x_embedder"].grad.abs().sum() > 0


def test_initialisation_comes_from_the_generator_alone(tiny_flux):
    transformer = tiny_flux()
    before = torch.get_rng_state()
    one, two, other = (
        Lora.for_transformer(transformer, 4, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    key = "transformer.x_embedder.lora_A.weight"
    assert torch.equal(one.released_state()[key], two.released_state()[key])
    assert not torch.equal(one.released_state()[key], other.released_state()[key])


def test_rank_must_be_positive():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        Lora({"x": (2, 2)}, 0)


# The file.


def test_round_trip(tiny_flux, random_lora, tmp_path):
    transformer = tiny_flux()
    lora, path = random_lora(transformer, 4), tmp_path / "bokehNet.safetensors"
    lora.save(path, metadata={"step": "7"})
    before = torch.get_rng_state()
    loaded = load_lora(path, transformer)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.rank == 4
    assert list(tmp_path.iterdir()) == [path]
    for key, tensor in lora.released_state().items():
        assert torch.equal(loaded.released_state()[key], tensor)


def test_half_precision_files_become_fp32_masters(tiny_flux, random_lora, tmp_path):
    transformer, path = tiny_flux(), tmp_path / "lora.safetensors"
    save_file({k: v.bfloat16() for k, v in random_lora(transformer).released_state().items()}, path)
    assert {p.dtype for p in load_lora(path, transformer.to(torch.bfloat16)).parameters()} == {
        torch.float32
    }


KEY = "transformer.transformer_blocks.1.attn.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (lambda s: s.pop(KEY), KEY),
        (
            lambda s: s.update({"transformer.proj_out.lora_A.weight": s[KEY].clone()}),
            "transformer.proj_out",
        ),
        (lambda s: s.update({KEY.replace("blocks.1", "blocks.9"): s[KEY].clone()}), "blocks.9"),
        (lambda s: s.update({KEY: torch.zeros(4, 17)}), KEY),
        (lambda s: s.update({KEY.replace("_A", "_B"): torch.zeros(32, 5)}), "lora_B"),
        (lambda s: s.update({KEY: torch.zeros(5, 32)}), "one rank"),
        (lambda s: s.update({KEY.replace("lora_A.weight", "alpha"): torch.ones(())}), "alpha"),
        (lambda s: s.update({"lora_unet_x": torch.ones(1)}), "lora_unet_x"),
        (lambda s: s.clear(), "none at all"),
    ],
    ids=[
        "missing",
        "top-level proj_out",
        "unknown block",
        "misshapen A",
        "misshapen B",
        "mixed ranks",
        "alpha tensor",
        "another format",
        "empty",
    ],
)
def test_wrong_keys_are_errors_that_name_them(spoil, names, tiny_flux, random_lora, tmp_path):
    transformer, path = tiny_flux(), tmp_path / "lora.safetensors"
    state = random_lora(transformer).released_state()
    spoil(state)
    save_file(state, path)
    with pytest.raises(ValueError, match="safetensors") as error:
        load_lora(path, transformer)
    assert names in str(error.value) and str(path) in str(error.value)


def test_lora_of_another_backbone_or_rank_is_refused(tiny_flux, random_lora, tmp_path):
    path = tmp_path / "lora.safetensors"
    random_lora(tiny_flux(num_layers=1), 4).save(path)
    with pytest.raises(ValueError, match="12 LoRA keys missing"):
        load_lora(path, tiny_flux(num_layers=2))
    with pytest.raises(ValueError, match="another rank or backbone"):
        random_lora(tiny_flux(num_layers=1), 8).load_released_state(read_lora(path))


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.safetensors"):
        read_lora(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is no tensor file")
    with pytest.raises(ValueError, match="no readable safetensors file"):
        read_lora(tmp_path / "text.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        {"rank": "4", "alpha": "8"},
        {"lora_adapter_metadata": '{"transformer.r": 4, "transformer.lora_alpha": 1}'},
    ],
    ids=["ours", "diffusers"],
)
def test_alpha_other_than_rank_is_never_ignored(metadata, tiny_flux, random_lora, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(random_lora(tiny_flux()).released_state(), path, metadata=metadata)
    with pytest.raises(ValueError, match="differs from rank 4"):
        read_lora(path)


# peft.


def image_inputs(text_tokens):
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(3.0), torch.arange(4.0))
    return draw(2, text_tokens, 12), draw(2, 10), draw(2, 12, 16), ids


@pytest.fixture
def ours_with_lora_everywhere(monkeypatch):
    """Our forward with the LoRA on the noisy image, where peft has it."""

    def whole(layout, module, x, name, lengths, last=False):
        [(_, _, pairs)] = layout.lora
        return module(x) + low_rank(x, *pairs[name])

    def forward(transformer, lora, text, pooled, tokens, ids):
        monkeypatch.setattr(branches, "_adapted", lambda *_: [(0, 0, lora)])
        monkeypatch.setattr(branches._Layout, "_with_lora", whole)
        branch = Branch(tokens, ids, torch.tensor([0.3, 0.8]), torch.tensor([3.5, 1.0]))
        return multi_condition_forward(transformer, text, pooled, branch, lora=lora)

    return forward


def theirs(transformer, text, pooled, tokens, ids):
    return transformer(
        hidden_states=tokens,
        encoder_hidden_states=text,
        pooled_projections=pooled,
        timestep=torch.tensor([0.3, 0.8]),
        guidance=torch.tensor([3.5, 1.0]),
        img_ids=ids,
        txt_ids=torch.zeros(text.shape[1], 3),
    ).sample


# In a single block peft's layers see the text too, ours only images: compare without either.
@pytest.mark.parametrize(("text_tokens", "single"), [(0, 2), (5, 0)])
@torch.no_grad()
def test_peft_reads_our_file_and_computes_the_same(
    text_tokens, single, tiny_flux, random_lora, ours_with_lora_everywhere, tmp_path
):
    transformer, path = tiny_flux(num_single_layers=single), tmp_path / "lora.safetensors"
    random_lora(transformer, 4).save(path)
    inputs = image_inputs(text_tokens)
    plain = theirs(transformer, *inputs)
    ours = ours_with_lora_everywhere(transformer, load_lora(path, transformer), *inputs)

    targets = list(lora_modules(transformer))
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
    keys = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
    result = set_peft_model_state_dict(transformer, keys)
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora" in key]
    expected = theirs(transformer, *inputs)
    assert (expected - plain).norm() / plain.norm() > 0.01  # the adapter does something
    assert (ours - expected).norm() / expected.norm() < 1e-5


@torch.no_grad()
def test_diffusers_loads_our_file(tiny_flux, random_lora, ours_with_lora_everywhere, tmp_path):
    """The two calls behind ``FluxPipeline.load_lora_weights``, which users will make."""
    transformer, path = tiny_flux(), tmp_path / "lora.safetensors"
    random_lora(transformer, 4).save(path)
    inputs = image_inputs(0)
    ours = ours_with_lora_everywhere(transformer, load_lora(path, transformer), *inputs)
    state = FluxPipeline.lora_state_dict(tmp_path, weight_name=path.name)
    transformer.load_lora_adapter(state, prefix="transformer", adapter_name="bokeh")
    expected = theirs(transformer, *inputs)
    assert (ours - expected).norm() / expected.norm() < 1e-5
