"""The tiny backbone: a FLUX transformer for two CPU cores, on pixels in place of latents.

FLUX works on the latents of a convolutional autoencoder. Here convolutions on pixels make the
image, and the transformer, which sees all branches and the prompt as FLUX does, steers them:
attention alone learns slowly what a convolution does at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from scipy.fft import next_fast_len
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from genrefocus.backbone.branches import ROLES, Branch, KvCache, Role
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import Backbone
from genrefocus.backbone.lora import Lora, read_tensors, save_tensors
from genrefocus.backbone.quantised import Quantise, quantise_blocks
from genrefocus.backbone.spelling import HashedWords as HashedWords
from genrefocus.backbone.spelling import write_words
from genrefocus.backbone.text import TextEmbedding
from genrefocus.flow import Shift
from genrefocus.render.apertures import disk
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear
from genrefocus.sampling import Tiling
from genrefocus.writing import whole

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

Grid = tuple[int, int]

_TOKEN = "(c i s j t p q)"  # channels of a token: codec and packing, see `_halved`
_HALVED = "b (c s t) (h p i) (w q j)"
_NOISE_TO_SIGNAL = 0.1  # power of noise over that of the image, for inverse filters
_INVERSE_RIM = 10  # px
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
        maps = {b.role: _halved(b.tokens, grid, patch) for b in (image, *conditions)}
        steering = rearrange(steering, "b (h w) c -> b c h w", h=grid[0])
        drafted = self._drafted(maps, text.pooled[:, read:])
        weights = {} if lora is None else lora.merged("pixel_path", path)
        return _packed(functional_call(path, weights, (maps, steering, drafted)), patch)

    def _drafted(self, maps: dict[Role, Tensor], letters: Tensor) -> Tensor | None:
        """Write the words of each image, by the numbers of their letters, into its draft: which
        have one then, (B, 1, 1, 1); None where all or none have."""
        if not letters.any():
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
        backbone.transformer.load_state_dict(state, strict=True)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no tiny base weights ({reason}); {remedy}") from error
    backbone.compiled = compile
    if quantise is not None:
        quantise_blocks(backbone.transformer, quantise)
    return backbone.requires_grad_(False).eval().to(device)


class PixelPath(nn.Module):
    """A U-Net at half the image's resolution and below, steered by the transformer.

    It sees every branch at pixel precision: each role has its own convolution into the U-Net, and
    an absent branch adds nothing, its bias included. Beside an image it returns for every pixel the
    weights of a fixed basis: the source through disks, in linear light, and through the regularised
    inverses of disks, each less the source. So a pixel has a kernel of its own that blurs or
    sharpens (kernel prediction with a basis, as Mildenhall et al., CVPR 2018, and Xia et al., CVPR
    2020, do for denoising).

    Args:
        widths: channels of the levels, each at half the resolution of the one before; the lowest
            has one place a token.
        blocks: residual blocks of a level, on the way down and on the way up.
        radii: of the disks, px.
        inverse_radii: of the disks that the source may be deconvolved by, px.
        steering: channels that the transformer hands to every place of the lowest level.
    """

    disks: Tensor
    inverses: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        radii: Sequence[float],
        inverse_radii: Sequence[float],
        steering: int,
    ) -> None:
        super().__init__()
        self.enter = nn.ModuleDict({role: nn.Conv2d(12, widths[0], 3, padding=1) for role in ROLES})
        self.narrow, self.widen = nn.ModuleList(), nn.ModuleList()
        self.down: Any = nn.ModuleList()
        self.up: Any = nn.ModuleList()
        for width, below, count in zip(widths[:-1], widths[1:], blocks[:-1], strict=True):
            for side in (self.down, self.up):
                side.append(nn.ModuleList(_Steered(width, steering) for _ in range(count)))
            self.narrow.append(nn.Conv2d(width, below, 2, stride=2))
            self.widen.append(nn.Conv2d(below, 4 * width, 1))
        self.middle = nn.ModuleList(_Steered(widths[-1], steering) for _ in range(blocks[-1]))
        self.last = nn.Conv2d(widths[0], 12, 3, padding=1)
        self.mix = nn.Conv2d(widths[0], 4 * (len(radii) + len(inverse_radii)), 3, padding=1)
        self.register_buffer("disks", _stacked(map(_disk, radii)), persistent=False)
        self.register_buffer("inverses", _stacked(map(_inverse, inverse_radii)), persistent=False)

    def forward(
        self, maps: Mapping[Role, Tensor], steering: Tensor, drafted: Tensor | None = None
    ) -> Tensor:
        """Maps (B, 12, H / 2, W / 2) of the branches in [-1, 1], the source among them, steering
        (B, S, rows, columns) of the tokens -> (B, 12, H / 2, W / 2). Where only some images have a
        draft, ``drafted`` (B, 1, 1, 1) is 1 for these and 0 for the others."""
        entered = {role: self.enter[role](part) for role, part in maps.items()}
        if drafted is not None:
            entered["draft"] = entered["draft"] * drafted
        x: Any = sum(entered.values())
        for role in set(ROLES) - maps.keys():  # a weight without a gradient would stop DDP
            x = x + 0.0 * sum(weight.sum() for weight in self.enter[role].parameters())
        x = x.contiguous(memory_format=torch.channels_last)
        skipped = []
        for blocks, narrow in zip(self.down, self.narrow, strict=True):
            for block in blocks:
                x = block(x, steering)
            skipped.append(x)
            x = narrow(x)
        for block in self.middle:
            x = block(x, steering)
        for blocks, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            x = F.pixel_shuffle(widen(x), 2) + skipped.pop()
            for block in blocks:
                x = block(x, steering)
        x = F.leaky_relu(x)
        weights = F.pixel_shuffle(self.mix(x), 2)[:, None]
        mixed = (weights * self._basis(F.pixel_shuffle(maps["source"], 2))).sum(2)
        return self.last(x) + F.pixel_unshuffle(mixed, 2)

    def _basis(self, source: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 3, kernels, H, W): through each kernel, less itself.

        Blur adds light. Deconvolution takes display values, in which noise is about even.
        """
        values = (source / 2 + 0.5).clamp(0, 1).flatten(0, 1)[:, None]
        blurred = linear_to_srgb(_filtered(srgb_to_linear(values), self.disks))
        sharpened = _filtered(values, self.inverses).clamp(0, 1)
        seen = torch.cat([blurred, sharpened], 1).unflatten(0, source.shape[:2])
        return seen * 2 - 1 - source[:, :, None]


def _filtered(values: Tensor, kernels: Tensor) -> Tensor:
    """(N, 1, H, W) by symmetric kernels (M, 1, k, k) -> (N, M, H, W); conv2d is half as fast."""
    rim = kernels.shape[-1] // 2
    padded = F.pad(values, (rim,) * 4, mode="replicate")
    height, width = padded.shape[-2:]
    size = next_fast_len(height, real=True), next_fast_len(width, real=True)
    spectra = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels[:, 0], s=size)
    filtered = torch.fft.irfft2(spectra, s=size)
    return filtered[..., 2 * rim : height, 2 * rim : width]


def _stacked(kernels: Iterable[Tensor]) -> Tensor:
    """Odd square kernels, in the middle of the largest one's square: (M, 1, k, k)."""
    made = list(kernels)
    size = max((len(kernel) for kernel in made), default=1)
    padded = [F.pad(kernel, ((size - len(kernel)) // 2,) * 4) for kernel in made]
    return torch.stack(padded)[:, None] if padded else torch.zeros(0, 1, size, size)


def _disk(radius: float) -> Tensor:
    return torch.from_numpy(disk().kernel(radius)).float()


def _inverse(radius: float) -> Tensor:
    """Wiener's inverse filter of a disk, of sum 1, cut where little of it is left."""
    kernel = _disk(radius)
    rim = len(kernel) // 2
    size = 64
    spectrum = torch.fft.fft2(F.pad(kernel, (0, size - len(kernel)) * 2).roll((-rim, -rim), (0, 1)))
    inverse = torch.fft.ifft2(spectrum.conj() / (spectrum.abs() ** 2 + _NOISE_TO_SIGNAL)).real
    cut = inverse.roll((_INVERSE_RIM, _INVERSE_RIM), (0, 1))[: 2 * _INVERSE_RIM + 1]
    cut = cut[:, : 2 * _INVERSE_RIM + 1]
    return cut / cut.sum()


class _Steered(nn.Module):
    """A residual block whose inner channels the transformer turns up and down place by place."""

    def __init__(self, width: int, steering: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.steer = nn.Conv2d(steering, 2 * width, 1)
        nn.init.zeros_(self.second.weight)  # an identity at first: there is no normalisation
        nn.init.zeros_(self.steer.weight)  # the transformer knows nothing yet

    def forward(self, x: Tensor, steering: Tensor) -> Tensor:
        gain, offset = F.interpolate(self.steer(steering), x.shape[-2:]).chunk(2, 1)
        inner = torch.addcmul(offset, self.first(F.leaky_relu(x)), 1 + gain)
        return x + self.second(F.leaky_relu(inner))


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
