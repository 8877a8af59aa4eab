"""The frozen transformer in shards over ranks, for GPUs that cannot hold it whole (torch FSDP2).

Only the blocks are split, which hold all but a few per cent of the weights. They are frozen, so
nothing is reduced; LoRA stays whole on every rank and is left to DDP.
"""

from collections.abc import Iterator

import torch
from diffusers import FluxTransformer2DModel
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import Module


def shard_blocks(transformer: FluxTransformer2DModel, mesh: DeviceMesh) -> None:
    """Split every block over the ranks of a one-dimensional mesh; a split transformer stays so.

    From now on the forward and the backward of a block are collective: all ranks have to take
    part, until :func:`gather_blocks`.
    """
    for block in _blocks(transformer):
        if not isinstance(block, FSDPModule):
            assert not any(p.requires_grad for p in block.parameters()), "the base is not frozen"
            fully_shard(block, mesh=mesh)


def gather_blocks(transformer: FluxTransformer2DModel) -> None:
    """Hold all weights on every rank, so that ranks may differ in the forwards they do."""
    for block in _blocks(transformer):
        if isinstance(block, FSDPModule):
            block.set_reshard_after_forward(False)
            with torch.inference_mode(False):  # the gathered weights may serve a backward pass
                block.unshard()


def scatter_blocks(transformer: FluxTransformer2DModel) -> None:
    """Take back :func:`gather_blocks`."""
    for block in _blocks(transformer):
        if isinstance(block, FSDPModule):
            block.set_reshard_after_forward(True)
            block.reshard()


def _blocks(transformer: FluxTransformer2DModel) -> Iterator[Module]:
    yield from transformer.transformer_blocks
    yield from transformer.single_transformer_blocks
