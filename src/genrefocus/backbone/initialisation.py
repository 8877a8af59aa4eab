"""Starting point of a tiny FLUX transformer that is trained from scratch in an hour or two."""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from genrefocus.backbone.flux import Backbone

_SHARPNESS = 6.0  # product of the query and key norm weights: how local attention is at the start


@torch.no_grad()
def start_local(transformer: FluxTransformer2DModel) -> None:
    """Let every token attend to its own place in all branches at first, and let every block act.

    Equal constant biases make query and key agree where the rotary phases do, that is at equal
    positions; what a condition says about a place is then read from the first step on. Gates start
    at one and modulation at the identity, so that the blocks begin as plain pre-norm ones. The
    output starts at zero.
    """
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks]:
        attn = block.attn
        for linear in (attn.to_q, attn.to_k):
            nn.init.ones_(linear.bias)
        for norm in (attn.norm_q, attn.norm_k):
            nn.init.constant_(norm.weight, _SHARPNESS**0.5)
    for block in transformer.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            _open_gates(norm.linear, chunks=6, gates=(2, 5))
    for block in transformer.single_transformer_blocks:
        _open_gates(block.norm.linear, chunks=3, gates=(2,))
    nn.init.zeros_(transformer.norm_out.linear.weight)
    nn.init.zeros_(transformer.norm_out.linear.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)


@torch.no_grad()
def start_whitened(backbone: Backbone, images: Tensor) -> None:
    """Let the embedding start with whitened patches, the stem with edges, and the head at zero.

    The blur of a picture lives in principal components whose variance is a few per cent of its mean
    level's; unless they are brought to one scale, training spends its first hour on finding them.

    Args:
        backbone: a tiny backbone.
        images: (B, 3, H, W) in [0, 1], some hundreds of typical pictures.
    """
    assert backbone.local is not None
    tokens = backbone.encode_image(images).flatten(0, 1)
    centred = tokens - tokens.mean(0)
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    embedder = backbone.transformer.x_embedder
    kept = min(embedder.out_features, tokens.shape[1])
    scale = (variance.flip(0)[:kept] + 1e-3 * variance[-1]).rsqrt()
    whitening = (directions.flip(1)[:, :kept] * scale).T
    embedder.weight[:kept, : tokens.shape[1]] = whitening
    embedder.bias[:kept] = -whitening @ tokens.mean(0)
    first, last = backbone.local.stem[0], backbone.local.last
    assert isinstance(first, nn.Conv2d) and last.bias is not None
    first.weight -= first.weight.mean((1, 2, 3), keepdim=True)
    first.weight *= 5
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _open_gates(linear: nn.Linear, *, chunks: int, gates: tuple[int, ...]) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    for gate in gates:
        linear.bias.chunk(chunks)[gate].fill_(1.0)
