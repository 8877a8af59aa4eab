"""The frozen transformer in shards over ranks, for GPUs that cannot hold it whole (torch FSDP2).

Only the blocks are split, which hold all but a few per cent of the weights. They are frozen, so
nothing is reduced; LoRA stays whole on every rank and is left to DDP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from genrefocus.backbone.flux import Backbone

_EVER = timedelta(days=365)


class SharedForwards:
    """Forwards of a backbone whose blocks are split over all ranks, for good.

    A rank has a block whole while the block computes, and all ranks gather it together. So ranks
    train in step; where they differ in the forwards that they do, without gradients, all
    :meth:`meet` when they have done theirs.

    Args:
        backbone: frozen, on any device; its blocks go to ``device``, one after the other.
        device: of this rank.

    Raises:
        ValueError: the backbone is not frozen.
    """

    def __init__(self, backbone: Backbone, device: torch.device) -> None:
        if any(one.requires_grad for one in backbone.transformer.parameters()):
            raise ValueError("trainer=fsdp splits a frozen base; experiment=tiny_base trains it")
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        self._blocks = [
            fully_shard(one, mesh=mesh, reshard_after_forward=True)
            for one in blocks(backbone.transformer)
        ]
        # Through main memory, where waiting long for a rank that does other work is no error.
        self._group: Any = distributed.new_group(backend="gloo", timeout=_EVER)
        self._computes = False
        backbone.register_forward_pre_hook(self._begin)
        backbone.register_forward_hook(self._end)
        self._gather_each()  # memory that is first used in inference mode serves there alone

    def meet(self) -> None:
        """Take part in the forwards of other ranks until all ranks are here."""
        while self._is_any_computing(False):
            self._gather_each()

    def _gather_each(self) -> None:
        for block in self._blocks:
            block.unshard()
            block.reshard()

    def _begin(self, *_: Any) -> None:
        assert not self._computes, "a forward failed, in which the other ranks still take part"
        self._computes = True
        self._is_any_computing(True)

    def _end(self, *_: Any) -> None:
        self._computes = False

    def _is_any_computing(self, own: bool) -> bool:
        """Whether a rank begins a forward; all ranks ask together."""
        flag = torch.tensor(int(own))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)


def blocks(transformer: FluxTransformer2DModel) -> Iterator[nn.Module]:
    """The modules that are split, in the order of a forward."""
    yield from transformer.transformer_blocks
    yield from transformer.single_transformer_blocks


def held_elsewhere(transformer: FluxTransformer2DModel, world: int) -> tuple[int, int]:
    """Bytes of a whole transformer that a rank of ``world`` lacks, and that it gathers at a time.

    Weights are split by rows. A block is gathered in one piece and laid out as weights from there.
    """

    def elsewhere(weight: nn.Parameter) -> int:
        return weight[math.ceil(len(weight) / world) :].nbytes

    split = [list(one.parameters()) for one in blocks(transformer)]
    largest = max(sum(one.nbytes for one in own) for own in split)
    return sum(elsewhere(one) for own in split for one in own), 2 * largest
