"""A quantised base: near the plain one, with gradients for the LoRA, and as small as is said."""

import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from genrefocus.backbone import Lora, lora_modules
from genrefocus.backbone.lora import load_lora
from genrefocus.backbone.quantised import all_weights, quantise_blocks
from genrefocus.backbone.sharding import blocks
from tests.unit.backbone.forwards import Forwards

#: largest error of the output, and of the direction of the gradient, both relative
ERRORS = {"int8": (0.003, 0.01), "fp8": (0.02, 0.05), "nf4": (0.06, 0.2)}
#: bytes of a weight without its scale
SIZES = {"int8": 1.0, "fp8": 1.0, "nf4": 0.5}

ways = pytest.mark.parametrize("how", ERRORS)


def package(how: str) -> None:
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")


def bytes_of(transformer: nn.Module) -> int:
    return sum(one.nbytes for one in all_weights(transformer))


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in gradients])


def kept(forwards: Forwards) -> int:
    """Bytes that a forward keeps for backward, weights left out."""
    own = [*forwards.transformer.parameters(), *forwards.lora.parameters()]
    weights, saved = {one.untyped_storage().data_ptr() for one in own}, dict[int, Tensor]()

    def pack(x: Tensor) -> Tensor:
        return saved.setdefault(x.untyped_storage().data_ptr(), x)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = forwards()
    del output
    return sum(x.untyped_storage().nbytes() for key, x in saved.items() if key not in weights)


@ways
def test_it_is_near_the_plain_one_and_the_lora_alone_learns(
    how: Any, tiny_flux: Any, random_lora: Any
) -> None:
    package(how)
    plain = tiny_flux()
    lora, base = random_lora(plain), copy.deepcopy(plain)
    expected = Forwards(plain, lora).gradients()
    quantise_blocks(base, how)
    forwards = Forwards(base, lora)
    with torch.no_grad():
        forwards()  # as in a validation before the first step
    found = forwards.gradients()
    of_output, of_gradient = ERRORS[how]
    difference = (found[0] - expected[0]).norm() / expected[0].norm()
    assert 0 < difference < of_output
    towards = F.cosine_similarity(flat(found[1:]), flat(expected[1:]), dim=0)
    assert 1 - of_gradient < towards < 1
    assert [bool(one.any()) for one in found] == [bool(one.any()) for one in expected]
    assert all(one.grad is None and not one.requires_grad for one in base.parameters())
    assert kept(forwards) == kept(Forwards(plain, lora))
    for checkpointing in ("feed_forward", 2, "all"):
        again = forwards.gradients(checkpointing=checkpointing)
        assert all(map(torch.equal, again, found)), checkpointing


@ways
def test_a_layer_computes_with_the_weights_that_it_stands_for(how: Any, tiny_flux: Any) -> None:
    """Product and gradient, beside those of a plain layer of the dequantised weights."""
    package(how)
    transformer = tiny_flux()
    before = transformer.single_transformer_blocks[0].proj_mlp.weight.clone()
    quantise_blocks(transformer, how)
    layer = transformer.single_transformer_blocks[0].proj_mlp
    if how == "nf4":
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(layer.weight, layer.weight.quant_state)
    else:
        weight = layer.weight.float() * layer.scale[:, None]
    # parts of the largest weight of a row, or of all: half a step of int8, of e4m3 below 448, and
    # one of nf4's widest, for bitsandbytes does not always take the nearest code
    part = {"int8": 0.51 / 127, "fp8": 0.51 * 32 / 448, "nf4": 0.31}[how]
    largest = before.abs().amax(None if how == "nf4" else 1, keepdim=True)
    assert ((weight - before).abs() <= part * largest).all()
    x, other = (torch.randn(2, 3, layer.in_features, requires_grad=True) for _ in "ab")
    other.data.copy_(x.data)
    y, expected = layer(x), F.linear(other, weight, layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for one in (y, expected):
        one.square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-5, atol=1e-5)
    half = layer(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, rtol=0.05, atol=0.05)


@ways
def test_it_takes_as_many_bytes_as_are_counted_without_storage(
    how: Any, tiny_flux: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(how)
    shape = {"attention_head_dim": 64, "axes_dims_rope": (16, 24, 24)}
    real = tiny_flux(**shape)
    with torch.device("meta"):
        counted = tiny_flux(**shape)
    linear = [m.weight for one in blocks(real) for m in one.modules() if type(m) is nn.Linear]
    before = bytes_of(real)
    if how == "nf4":
        monkeypatch.setattr("bitsandbytes.functional.name2qmap", {})  # as in a new process
    for one in (counted, real):
        quantise_blocks(one, how)
    assert bytes_of(real) == bytes_of(counted)
    saved, numbers = before - bytes_of(real), sum(one.numel() for one in linear)
    rows = sum(len(one) for one in linear)
    if how != "nf4":
        assert saved == (4 - SIZES[how]) * numbers - 4 * rows
        return
    scales = sum(math.ceil(one.numel() / 64) for one in linear)
    nested = sum(math.ceil(math.ceil(one.numel() / 64) / 256) for one in linear)
    tables = len(linear) * 4 * (16 + 256 + 1)  # of codes, of scales, and their mean
    assert saved == (4 - SIZES[how]) * numbers - scales - 4 * nested - tables


@ways
def test_its_lora_is_that_of_the_plain_one(
    how: Any, tiny_flux: Any, random_lora: Any, tmp_path: Path
) -> None:
    package(how)
    base = tiny_flux()
    lora = random_lora(base)
    quantise_blocks(base, how)
    assert list(lora_modules(base)) == list(lora.names)
    lora.save(tmp_path / "lora.safetensors")
    loaded = load_lora(tmp_path / "lora.safetensors", base)
    assert all(map(torch.equal, loaded.parameters(), lora.parameters()))
    fresh = Lora.for_transformer(base, 3)
    assert {one.dtype for one in fresh.parameters()} == {torch.float32}


@ways
def test_its_blocks_may_be_split(how: Any, alone: None, tiny_flux: Any, random_lora: Any) -> None:
    package(how)
    base = tiny_flux()
    forwards = Forwards(base, random_lora(base))
    quantise_blocks(base, how)
    plain = forwards.gradients()
    for block in blocks(base):
        fully_shard(block, mesh=init_device_mesh("cpu", (1,)))
    assert all(map(torch.equal, forwards.gradients(), plain))


@ways
def test_a_package_that_is_not_installed_is_named(
    how: Any, tiny_flux: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "bitsandbytes" if how == "nf4" else "torchao"
    for module in {one for one in sys.modules if one.partition(".")[0] == name} | {name}:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"quantise={how}: {name} .* pip install -e"):
        quantise_blocks(tiny_flux(), how)


def test_an_unknown_way_names_the_known(tiny_flux: Any) -> None:
    with pytest.raises(ValueError, match="quantise=int4: give null, int8, fp8, nf4"):
        quantise_blocks(tiny_flux(), "int4")  # type: ignore[arg-type]
