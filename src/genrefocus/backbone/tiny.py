"""The tiny backbone: a FLUX transformer for two CPU cores, on pixels in place of latents.

FLUX works on the latents of a convolutional autoencoder. Here convolutions on pixels make the
image, and the transformer, which sees all branches and the prompt as FLUX does, steers them:
attention alone learns slowly what a convolution does at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from genrefocus.backbone.branches import Branch, KvCache, Role
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import Backbone
from genrefocus.backbone.lora import Lora, read_tensors, save_tensors
from genrefocus.backbone.pixel_path import PixelPath
from genrefocus.backbone.quantised import Quantise, quantise_blocks
from genrefocus.backbone.spelling import HashedWords, write_words
from genrefocus.backbone.text import TextEmbedding
from genrefocus.flow import Shift
from genrefocus.sampling import Tiling
from genrefocus.writing import whole

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Grid = tuple[int, int]

_TOKEN = "(c i s j t p q)"  # channels of a token: codec and packing, see `_halved`
_HALVED = "b (c s t) (h p i) (w q j)"
_SHARPNESS = 6.0  # product of the query and key norm weights: how local attention is at the start


class TinyBackbone(Backbone):
    """A backbone whose transformer steers a :class:`PixelPath`, a child of the transformer.

    Words that a prompt quotes are drawn into a draft, see ``spelling``, which the path sees alone.
    """

    takes_half_control = False  # the path adds the maps of all branches pixel by pixel

    def forward(
        self,
        text: TextEmbedding,
        image: Branch,
        conditions: Sequence[Branch],
        grid: Grid,
        *,
        lora: Lora | None = None,
        isolated: bool = False,
        cache: KvCache | None = None,
    ) -> Tensor:
        """See :meth:`Backbone.forward`."""
        read = self.transformer.config.pooled_projection_dim
        plain = TextEmbedding(text.tokens, text.pooled[:, :read])
        steering = super().forward(
            plain, image, conditions, grid, lora=lora, isolated=isolated, cache=cache
        )
        path, patch = self.transformer.pixel_path, self.pixels_per_token
        branches, shape = {b.role: b.tokens for b in (image, *conditions)}, None
        if (tokens := branches.pop("shape", None)) is not None:
            side = isqrt(tokens.shape[1])
            shape = F.pixel_shuffle(_halved(tokens, (side, side), patch), 2)[:, :1] / 2 + 0.5
        maps = {role: _halved(tokens, grid, patch) for role, tokens in branches.items()}
        steering = rearrange(steering, "b (h w) c -> b c h w", h=grid[0])
        drafted = self._drafted(maps, text.pooled[:, read:])
        weights: dict[str, Tensor] = {}
        for one in dict.fromkeys(b.lora or lora for b in conditions):
            weights = weights if one is None else one.merged("pixel_path", path, weights)
        return _packed(functional_call(path, weights, (maps, steering, shape, drafted)), patch)

    def _drafted(self, maps: dict[Role, Tensor], letters: Tensor) -> Tensor | None:
        """Write the words of each image, by the numbers of their letters, into its draft: which
        have one then, (B, 1, 1, 1); None where all or none have."""
        if letters.is_meta or not letters.any():
            return None
        had = "draft" in maps
        roles: tuple[Role, Role] = ("source", "draft" if had else "source")
        source, onto = (F.pixel_shuffle(maps[role], 2) / 2 + 0.5 for role in roles)
        drafts, wrote = write_words(source.clamp(0, 1), letters, onto)
        maps["draft"] = F.pixel_unshuffle(drafts * 2 - 1, 2)
        return None if had else wrote.to(drafts)[:, None, None, None]


def build_tiny(
    *,
    transformer: dict,
    widths: Sequence[int],
    blocks: Sequence[int],
    radii: Sequence[float],
    inverse_radii: Sequence[float],
    steering: int,
    text_tokens: int,
    control_gain: float,
    tile: int,
    tile_stride: int,
    seed: int = 0,
) -> TinyBackbone:
    """A FLUX transformer small enough for a CPU that steers a U-Net on pixels.

    Args:
        transformer: settings of diffusers' transformer but for its channels.
        widths, blocks, radii, inverse_radii: of the :class:`PixelPath`; a token is
            ``2 ** len(widths)`` px wide.
        steering: channels that the transformer hands to every place of the U-Net.
        text_tokens: words of a prompt that are read.
        control_gain: see :class:`Backbone`.
        tile, tile_stride: of large images, in tokens.
        seed: of the weights.
    """
    from diffusers import FluxTransformer2DModel

    patch = 2 ** len(widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FluxTransformer2DModel(
            in_channels=3 * patch**2, out_channels=steering, **transformer
        )
        path = PixelPath(widths, blocks, radii, inverse_radii, steering)
        model.pixel_path = path.to(memory_format=torch.channels_last)
    return TinyBackbone(
        model,
        PixelCodec(patch // 2),
        HashedWords(
            text_tokens,
            transformer["joint_attention_dim"],
            transformer["pooled_projection_dim"],
            spelt=True,
        ),
        shift=Shift(),
        tiling=Tiling(tile, tile_stride, when="longer_edge"),
        control_gain=control_gain,
    )


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
        for k, v in backbone.transformer.state_dict().items()
    }
    with whole(path) as partial:
        save_tensors(state, partial, {"settings": json.dumps(settings), **card})


def load_tiny(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    compile: bool = False,
    quantise: Quantise | None = None,
) -> TinyBackbone:
    """The tiny backbone from a weight file, in fp32; see :func:`load_flux_dev` for the options.

    Raises:
        FileNotFoundError, ValueError: no such file, or no file that :func:`save_tiny` has written;
            or see :func:`quantise_blocks`.
    """
    remedy = "train them with: python train.py experiment=tiny_base"
    if not Path(path).is_file():
        raise FileNotFoundError(f"tiny base weights {path} do not exist; {remedy}")
    try:
        state, metadata = read_tensors(path, "tiny base weights")
        backbone = build_tiny(**json.loads(metadata["settings"]))
        own = backbone.transformer.state_dict()
        new = {key: zeros for key, zeros in own.items() if key.startswith("pixel_path.glow.")}
        backbone.transformer.load_state_dict(new | state, strict=True)  # files may be older
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no tiny base weights ({reason}); {remedy}") from error
    backbone.compiled = compile
    if quantise is not None:
        quantise_blocks(backbone.transformer, quantise)
    return backbone.requires_grad_(False).eval().to(device)


def _halved(tokens: Tensor, grid: Grid, patch: int) -> Tensor:
    """Tokens of packed pixels (B, N, 3 patch^2) -> (B, 12, H / 2, W / 2)."""
    h, i = grid[0], patch // 4
    return rearrange(tokens, f"b (h w) {_TOKEN} -> {_HALVED}", h=h, i=i, j=i, s=2, t=2, p=2, q=2)


def _packed(halved: Tensor, patch: int) -> Tensor:
    """Inverse of :func:`_halved`."""
    i = patch // 4
    return rearrange(halved, f"{_HALVED} -> b (h w) {_TOKEN}", i=i, j=i, s=2, t=2, p=2, q=2)


@torch.no_grad()
def start_local(transformer: FluxTransformer2DModel) -> None:
    """Let every token attend to its own place in all branches at first, and let every block act.

    Equal constant biases make query and key agree where the rotary phases do, at equal positions.
    Gates start at one and modulation at the identity: the blocks begin as plain pre-norm ones.
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


@torch.no_grad()
def start_whitened(backbone: TinyBackbone, images: Tensor) -> None:
    """Let the embedding start with whitened patches, and the output at zero, without the noise.

    Noise that enters the U-Net as strongly as the source drowns it for hundreds of steps. And the
    blur of an image lives in principal components whose variance is a few per cent of its mean
    level's, which training would have to find first.

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
    path = backbone.transformer.pixel_path
    for silent in (path.enter["image"], path.last, path.mix):
        nn.init.zeros_(silent.weight)
        nn.init.zeros_(silent.bias)


def _open_gates(linear: nn.Linear, *, chunks: int, gates: tuple[int, ...]) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    for gate in gates:
        linear.bias.chunk(chunks)[gate].fill_(1.0)
