"""Compiled blocks: the values of the plain ones, and one program for all blocks of a kind."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from genrefocus.backbone import branches
from genrefocus.backbone.quantised import quantise_blocks
from genrefocus.backbone.sharding import blocks
from tests.unit.backbone.forwards import Forwards

KINDS = 2  # double blocks and single ones


@pytest.fixture
def forwards(tiny_flux: Any, random_lora: Any) -> Forwards:
    """With three double and two single blocks."""
    transformer = tiny_flux(num_layers=3)
    return Forwards(transformer, random_lora(transformer))


def assert_equal(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


@pytest.mark.parametrize("isolated", [False, True])
def test_all_blocks_of_a_kind_are_one_program_whatever_is_computed_again(
    isolated: bool, forwards: Forwards, programs: Callable[[], int]
) -> None:
    plain = forwards.gradients(isolated=isolated)
    for checkpointing, made in {"none": KINDS, 2: 0, "all": 0, "feed_forward": KINDS}.items():
        for again in (made, 0):  # the second step finds the programs of the first
            given = {"isolated": isolated, "checkpointing": checkpointing}
            assert_equal(forwards.gradients(**given, compiled=True), plain)
            assert programs() == again, checkpointing


@torch.no_grad()
def test_a_shape_has_its_own_program_and_finds_it_again(
    tiny_flux: Any, random_lora: Any, programs: Callable[[], int]
) -> None:
    transformer = tiny_flux(num_layers=0, num_single_layers=1)
    forwards = Forwards(transformer, random_lora(transformer))
    shapes = [(n, rows) for n in (0, 1, 2) for rows in (1, 2, 3)]
    for made in (1, 0):  # of 9 shapes, more than torch keeps unless it is told to
        for conditions, rows in shapes:
            ours = forwards(conditions, rows, compiled=True)
            assert torch.equal(ours, forwards(conditions, rows)) and programs() == made


@pytest.mark.parametrize("how", ["int8", "fp8", "nf4"])
def test_quantised_blocks_are_one_program_too(
    how: Any, forwards: Forwards, programs: Callable[[], int]
) -> None:
    pytest.importorskip("bitsandbytes" if how == "nf4" else "torchao")
    quantise_blocks(forwards.transformer, how)  # type: ignore[arg-type]
    plain = forwards.gradients()
    for checkpointing, made in {"none": KINDS, "all": 0}.items():
        assert_equal(forwards.gradients(checkpointing=checkpointing, compiled=True), plain)
        assert programs() == made
        forwards.transformer.to("cpu")  # as every stage does, when programs have seen the weights


@torch.no_grad()
def test_the_steps_that_take_cached_conditions_are_one_program(
    forwards: Forwards, programs: Callable[[], int]
) -> None:
    plain: branches.KvCache = {}
    cache: branches.KvCache = {}
    for made in (KINDS, KINDS, 0, 0):  # of the first step, and of those that read what it left
        given = {"isolated": True, "compiled": True}
        ours = forwards(**given, cache=cache)
        assert torch.equal(ours, forwards(isolated=True, cache=plain)) and programs() == made
    assert cache.keys() == plain.keys()
    assert_equal([x for one in cache.values() for x in one], [x for y in plain.values() for x in y])


def test_blocks_in_shards(alone: None, forwards: Forwards, programs: Callable[[], int]) -> None:
    plain = forwards.gradients()
    for block in blocks(forwards.transformer):
        fully_shard(block, mesh=init_device_mesh("cpu", (1,)))
    for checkpointing, made in {"none": KINDS, "all": 0}.items():
        assert_equal(forwards.gradients(checkpointing=checkpointing, compiled=True), plain)
        assert programs() == made
    with torch.no_grad():
        assert torch.equal(forwards(compiled=True), plain[0]) and programs() == KINDS
    assert_equal(forwards.gradients(compiled=True), plain)
    assert programs() == 0


@pytest.mark.parametrize("checkpointing", ["none", "feed_forward"])
def test_buckets_of_ddp_do_not_cut_a_program(
    checkpointing: str,
    alone: None,
    forwards: Forwards,
    programs: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora = forwards.lora

        def forward(self) -> Tensor:
            output = forwards(checkpointing=checkpointing, compiled=True)
            return output.square().mean()

    plain = forwards.gradients()[1:]
    monkeypatch.setattr(dist, "_DEFAULT_FIRST_BUCKET_BYTES", 1000)
    loss = nn.parallel.DistributedDataParallel(Loss(), bucket_cap_mb=0.001)
    forwards.lora.zero_grad()
    loss().backward()
    assert_equal([one.grad for one in forwards.lora.parameters()], plain)  # type: ignore[misc]
    assert programs() == KINDS
