"""The tiny backbone: a FLUX transformer for two CPU cores, on pixels in place of latents.

FLUX reads and writes the latents of a convolutional autoencoder, whose channels know their
neighbourhood. Packed pixels do not, and attention learns slowly what a convolution does at once;
so the tiny transformer has convolutions before and after it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, pixel_shuffle, pixel_unshuffle

from genrefocus.backbone.branches import Branch
from genrefocus.backbone.flux import Backbone
from genrefocus.backbone.lora import Lora, read_tensors, save_tensors
from genrefocus.backbone.text import Encode, TextEmbedding
from genrefocus.flow import Shift
from genrefocus.sampling import Tiling
from genrefocus.writing import whole

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Grid = tuple[int, int]

_SHARPNESS = 6.0  # product of the query and key norm weights: how local attention is at the start


class TinyBackbone(Backbone):
    """A backbone with a :class:`PixelPath` around its transformer."""

    def __init__(self, *parts: Any, pixel_path: PixelPath, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.pixel_path = pixel_path

    def forward(
        self,
        text: TextEmbedding,
        image: Branch,
        conditions: Sequence[Branch],
        grid: Grid,
        *,
        lora: Lora | None = None,
        isolated: bool = False,
    ) -> Tensor:
        """See :meth:`Backbone.forward`."""
        tokens = torch.cat([image.tokens, *(c.tokens for c in conditions)])
        entered, maps = self.pixel_path.enter(tokens, grid)
        image, *conditions = [
            replace(branch, tokens=part)
            for branch, part in zip(
                (image, *conditions), entered.chunk(1 + len(conditions)), strict=True
            )
        ]
        output = super().forward(text, image, conditions, grid, lora=lora, isolated=isolated)
        return self.pixel_path.leave(output, maps[: len(output)], grid)


def build_tiny(
    *,
    transformer: dict,
    pixel_factor: int,
    text_tokens: int,
    control_gain: float,
    tile: int,
    tile_stride: int,
    local: dict,
    seed: int = 0,
) -> TinyBackbone:
    """A FLUX transformer small enough for a CPU, on packed pixels, with convolutions around it."""
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        path = PixelPath(2 * pixel_factor, **local)
        model = FluxTransformer2DModel(
            in_channels=path.in_channels,
            out_channels=path.out_channels,
            **transformer,
        )
    return TinyBackbone(
        model,
        PixelCodec(pixel_factor),
        HashedWords(
            text_tokens, transformer["joint_attention_dim"], transformer["pooled_projection_dim"]
        ),
        shift=Shift(),
        tiling=Tiling(tile, tile_stride, when="longer_edge"),
        control_gain=control_gain,
        pixel_path=path,
    )


def tiny_modules(backbone: TinyBackbone) -> nn.ModuleDict:
    """The trainable parts of a tiny backbone, under the names of its weight file."""
    return nn.ModuleDict({"transformer": backbone.transformer, "local": backbone.pixel_path})


def save_tiny(
    backbone: TinyBackbone, path: str | Path, *, settings: dict, card: dict[str, str]
) -> None:
    """Write the weights in half precision, with all that :func:`load_tiny` needs.

    Args:
        backbone: a tiny backbone.
        path: the file.
        settings: keyword arguments of :func:`build_tiny`.
        card: further metadata.
    """
    state = {
        k: v.detach().to(torch.float16).contiguous()
        for k, v in tiny_modules(backbone).state_dict().items()
    }
    with whole(path) as partial:
        save_tensors(state, partial, {"settings": json.dumps(settings), **card})


def load_tiny(path: str | Path, *, device: str | torch.device = "cpu") -> TinyBackbone:
    """The tiny backbone from a weight file; computed in fp32.

    Raises:
        FileNotFoundError, ValueError: no such file, or no file that :func:`save_tiny` has written.
    """
    remedy = "train them with: python train.py experiment=tiny_base"
    if not Path(path).is_file():
        raise FileNotFoundError(f"tiny base weights {path} do not exist; {remedy}")
    try:
        state, metadata = read_tensors(path, "tiny base weights")
        backbone = build_tiny(**json.loads(metadata["settings"]))
        tiny_modules(backbone).load_state_dict(state, strict=True)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no tiny base weights ({reason}); {remedy}") from error
    return backbone.requires_grad_(False).eval().to(device)


class PixelCodec:
    """Lossless rearrangement of pixels into latents, in place of an autoencoder."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.channels = 3 * factor * factor

    def encode(self, image: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return pixel_unshuffle(image, self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        return pixel_shuffle(latents, self.factor)


class HashedWords:
    """A fixed random vector for every word: the text encoder of the tiny backbone.

    It is no language model. It gives prompts distinct, reproducible embeddings, which are
    enough for a model that is trained with a handful of prompts.
    """

    def __init__(self, tokens: int, token_dim: int, pooled_dim: int) -> None:
        self.tokens, self.token_dim, self.pooled_dim = tokens, token_dim, pooled_dim
        self.identity = f"words-{tokens}-{token_dim}-{pooled_dim}"

    def loaded(self, device: torch.device) -> AbstractContextManager[Encode]:
        return nullcontext(self)

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        tokens = torch.zeros(len(prompts), self.tokens, self.token_dim)
        pooled = torch.zeros(len(prompts), self.pooled_dim)
        for row, prompt in enumerate(prompts):
            words = prompt.lower().split()
            for column, word in enumerate(words[: self.tokens]):
                tokens[row, column] = _word_vector(word, self.token_dim)
            for word in words:
                pooled[row] += _word_vector(word, self.pooled_dim) / len(words) ** 0.5
        return TextEmbedding(tokens, pooled)


def _word_vector(word: str, dim: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{dim}:{word}".encode()).digest()[:7], "big")
    return torch.randn(dim, generator=torch.Generator().manual_seed(seed))


class PixelPath(nn.Module):
    """Stem of every branch, and head of the noisy image, at half the image's resolution.

    The transformer's output is an image and, beside it, channels that steer the head; the head
    refines the image from the stem's maps of the noisy image. Condition images reach it through the
    transformer alone, as they do in FLUX.

    Args:
        patch: side of a token in pixels.
        width: channels of the stem.
        features: channels that the stem appends to every token.
        steering: channels that the transformer hands to every place of the head.
        head_width, head_blocks: channels and residual blocks of the head.
    """

    def __init__(
        self,
        patch: int,
        *,
        width: int,
        features: int,
        steering: int,
        head_width: int,
        head_blocks: int,
    ) -> None:
        super().__init__()
        self.patch, self.features = patch, features
        self.in_channels = 3 * patch**2 + features
        self.out_channels = (12 + steering) * (patch // 2) ** 2
        self.stem = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
        )
        self.gather = nn.Conv2d(width, features, patch // 2, stride=patch // 2)
        self.first = nn.Conv2d(width + 12 + steering, head_width, 3, padding=1)
        self.blocks = nn.ModuleList(_Steered(head_width, steering) for _ in range(head_blocks))
        self.last = nn.Conv2d(head_width, 12, 3, padding=1)

    def enter(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, 3 patch^2) -> (B, N, in_channels), and maps (B, width, H / 2, W / 2)."""
        maps = self.stem(self._halved(tokens, grid))
        local = rearrange(self.gather(maps), "b f h w -> b (h w) f")
        return torch.cat([tokens, local], dim=-1), maps

    def leave(self, output: Tensor, maps: Tensor, grid: Grid) -> Tensor:
        """Output (B, N, out_channels), maps of the noisy image -> tokens (B, N, 3 patch^2)."""
        side = self.patch // 2
        pixels = 3 * self.patch**2
        tokens, steering = output[..., :pixels], output[..., pixels:]
        steering = rearrange(
            steering, "b (h w) (c y x) -> b c (h y) (w x)", h=grid[0], y=side, x=side
        )
        coarse = self._halved(tokens, grid)
        x = self.first(torch.cat([maps, coarse, steering], dim=1))
        for block in self.blocks:
            x = block(x, steering)
        fine = pixel_shuffle(coarse + self.last(gelu(x)), 2)
        return rearrange(
            fine, "b c (h p i) (w q j) -> b (h w) (c i j p q)", h=grid[0], w=grid[1], p=2, q=2
        )

    def _halved(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Tokens of packed pixels -> (B, 12, H / 2, W / 2)."""
        side = self.patch // 2
        image = rearrange(
            tokens,
            "b (h w) (c i j p q) -> b c (h p i) (w q j)",
            h=grid[0],
            c=3,
            i=side,
            j=side,
            p=2,
            q=2,
        )
        return pixel_unshuffle(image, 2)


class _Steered(nn.Module):
    """A residual block whose inner channels the transformer turns up and down place by place."""

    def __init__(self, width: int, steering: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.gain, self.offset = (nn.Conv2d(steering, width, 1) for _ in range(2))

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        inner = self.first(gelu(x)) * (1 + self.gain(steering)) + self.offset(steering)
        return x + self.second(gelu(inner))


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
def start_whitened(backbone: TinyBackbone, images: Tensor) -> None:
    """Let the embedding start with whitened patches, the stem with edges, and the head at zero.

    The blur of an image lives in principal components whose variance is a few per cent of its mean
    level's; unless they are brought to one scale, training spends its first hour on finding them.

    Args:
        backbone: a tiny backbone.
        images: (B, 3, H, W) in [0, 1], some hundreds of typical images.
    """
    tokens = backbone.encode_image(images).flatten(0, 1)
    centred = tokens - tokens.mean(0)
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    embedder = backbone.transformer.x_embedder
    kept = min(embedder.out_features, tokens.shape[1])
    scale = (variance.flip(0)[:kept] + 1e-3 * variance[-1]).rsqrt()
    whitening = (directions.flip(1)[:, :kept] * scale).T
    embedder.weight[:kept, : tokens.shape[1]] = whitening
    embedder.bias[:kept] = -whitening @ tokens.mean(0)
    first, last = backbone.pixel_path.stem[0], backbone.pixel_path.last
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
