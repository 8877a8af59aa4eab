"""Blocks in shards, in a process of its own group: the same outputs, and no forward by halves."""

from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from genrefocus.backbone import Backbone, Branch
from genrefocus.backbone.sharding import held_elsewhere
from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import image_ids

CPU = torch.device("cpu")


@pytest.fixture
def backbone(tiny_settings: dict[str, Any], alone: None) -> Backbone:
    """Frozen, while there is a group of one process."""
    return build_tiny(**tiny_settings).requires_grad_(False)


def answer(backbone: Backbone, tokens: torch.Tensor) -> torch.Tensor:
    level, ids = torch.full((1,), 0.5), image_ids(2, 2)
    image, source = (Branch(tokens, ids, level, level, role) for role in ("image", "source"))
    return backbone(backbone.embed(["a photo"]), image, [source], (2, 2))


def test_outputs_and_gradients_are_those_of_the_whole(backbone: Backbone) -> None:
    """Also where validation, in inference mode, comes before training."""
    tokens = torch.randn(1, 4, 192, requires_grad=True)
    answer(backbone, tokens).square().sum().backward()
    expected, whole = tokens.grad, answer(backbone, tokens.detach())
    tokens.grad = None
    backbone.shard(CPU)
    with torch.inference_mode():
        assert torch.equal(answer(backbone, tokens), whole)
        backbone.meet()
    answer(backbone, tokens).square().sum().backward()
    assert expected is not None and tokens.grad is not None
    assert torch.equal(tokens.grad, expected)
    block = backbone.transformer.single_transformer_blocks[0]
    assert all(isinstance(one, DTensor) for one in block.parameters())


def test_a_forward_that_failed_is_followed_by_none(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a benchmark takes the error for that of a case, other ranks would wait for ever."""
    backbone.shard(CPU)
    tokens = torch.randn(1, 4, 192)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no memory"):

        def fail(*_: object) -> None:
            raise RuntimeError("no memory")

        patch.setattr("genrefocus.backbone.branches._BLOCKS", (fail, fail))
        answer(backbone, tokens)
    with pytest.raises(AssertionError, match="a forward failed"):
        answer(backbone, tokens)


def test_a_base_that_is_trained_is_not_split(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="experiment=tiny_base trains it"):
        backbone.requires_grad_(True).shard(CPU)


def test_what_other_ranks_hold_is_by_rows() -> None:
    linear = torch.nn.Linear(2, 5)  # 10 weights and 5 biases: the first of two ranks has three rows
    fake: Any = torch.nn.Module()
    fake.transformer_blocks, fake.single_transformer_blocks = [linear], []
    assert held_elsewhere(fake, 2) == (4 * (2 * 2 + 2), 2 * 4 * 15)
    assert held_elsewhere(fake, 1)[0] == 0
