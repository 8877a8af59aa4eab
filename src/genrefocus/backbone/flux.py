"""A FLUX backbone: transformer, codec and text; one class for FLUX.1-dev and the tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from genrefocus.backbone.codec import Codec, PixelCodec, VaeCodec, pack, unpack
from genrefocus.backbone.local_path import LocalPath
from genrefocus.backbone.lora import save_tensors
from genrefocus.backbone.text import (
    FluxTextEncoders,
    HashedWords,
    PromptCache,
    TextEmbedding,
    TextEncoder,
)
from genrefocus.flow import Shift
from genrefocus.sampling import Tiling
from genrefocus.writing import whole

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

#: Transformer configuration of FLUX.1-dev (its published config.json).
FLUX_DEV_CONFIG = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}


class Backbone(nn.Module):
    """Frozen transformer with codec and prompt embeddings.

    Args:
        transformer: diffusers' FLUX transformer.
        codec: between images and latents.
        text: prompt encoder, asked once for each distinct prompt.
        shift: resolution-dependent time shift of its noise schedule.
        tiling: how images larger than those it was trained on are cut for sampling.
        control_gain: factor on the defocus map before it is encoded. 1 as released; a backbone for
            images of some 64 px, where blur radii are a few per cent of MAX_COC, may need more to
            read it.
        local: convolutions around the transformer, in place of an autoencoder; FLUX has none.
        prompts: folder of embeddings, see :class:`PromptCache`.
    """

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        codec: Codec,
        text: TextEncoder,
        *,
        shift: Shift,
        tiling: Tiling,
        control_gain: float = 1.0,
        local: LocalPath | None = None,
        prompts: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.codec = codec
        self.prompts = PromptCache(text, prompts)
        self.shift = shift
        self.tiling = tiling
        self.control_gain = control_gain
        self.local = local
        channels = 4 * codec.channels + (local.features if local else 0)
        assert transformer.config.in_channels == channels, "codec and transformer do not fit"

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        # Frozen, so averaged copies of what is trained on top can share its gigabytes.
        return self

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels behind one token: 16 for FLUX."""
        return 2 * self.codec.factor

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token grid (rows, columns) of an image.

        Raises:
            ValueError: a side is not a multiple of :attr:`pixels_per_token`.
        """
        side = self.pixels_per_token
        if height % side or width % side:
            raise ValueError(
                f"image is {width}x{height} px: both sides must be multiples of {side}"
            )
        return height // side, width // side

    def encode_image(self, image: Tensor, generators: Sequence[torch.Generator] = ()) -> Tensor:
        """Tokens (B, N, C) of an image (B, 3, H, W) in [0, 1], which is rescaled to [-1, 1]."""
        self.grid(*image.shape[-2:])
        return pack(self.codec.encode(image * 2 - 1, generators)).to(self.dtype)

    def encode_control(self, defocus: Tensor, generators: Sequence[torch.Generator] = ()) -> Tensor:
        """Tokens of a defocus map (B, 1, H, W) in [0, 1]: three equal channels, *not* rescaled."""
        self.grid(*defocus.shape[-2:])
        three = (defocus * self.control_gain).expand(-1, 3, -1, -1)
        return pack(self.codec.encode(three, generators)).to(self.dtype)

    def decode(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Image (B, 3, H, W) in [0, 1], fp32, of packed tokens."""
        image = self.codec.decode(unpack(tokens, *self.grid(height, width)))
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Prompt embeddings, one row a prompt."""
        return self.prompts(prompts, self.device, self.dtype)


def load_flux_dev(
    path: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    gradient_checkpointing: bool = True,
    max_text_length: int = 512,
    prompts: str | Path | None = None,
) -> Backbone:
    """FLUX.1-dev from a local folder or a hub id, frozen.

    The text encoders are in memory only while prompts are encoded, whose embeddings are kept in the
    folder ``prompts``, if there is one.

    Raises:
        OSError: neither a local folder nor reachable on the hub.
        ValueError: the noise schedule is not shifted by resolution, so it is not FLUX.1-dev.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel.from_pretrained(
        path, subfolder="transformer", torch_dtype=dtype
    )
    vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=dtype)
    scheduler = FlowMatchEulerDiscreteScheduler.load_config(path, subfolder="scheduler")
    if not scheduler.get("use_dynamic_shifting"):
        raise ValueError(f"{path}: its scheduler has no dynamic shifting; give FLUX.1-dev's folder")
    if gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    return Backbone(
        transformer.requires_grad_(False).eval().to(device),
        VaeCodec(vae.to(device)),
        FluxTextEncoders(path, dtype=dtype, max_length=max_text_length),
        shift=Shift.of_scheduler(scheduler),
        tiling=Tiling(),
        prompts=prompts,
    )


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
) -> Backbone:
    """A FLUX transformer small enough for a CPU, on packed pixels, with convolutions around it."""
    from diffusers import FluxTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        path = LocalPath(2 * pixel_factor, **local)
        model = FluxTransformer2DModel(
            in_channels=path.in_channels,
            out_channels=path.out_channels,
            **transformer,
        )
    return Backbone(
        model,
        PixelCodec(pixel_factor),
        HashedWords(
            text_tokens, transformer["joint_attention_dim"], transformer["pooled_projection_dim"]
        ),
        shift=Shift(),
        tiling=Tiling(tile, tile_stride, when="longer_edge"),
        control_gain=control_gain,
        local=path,
    )


def tiny_modules(backbone: Backbone) -> nn.ModuleDict:
    """The trainable parts of a tiny backbone, under the names of its weight file."""
    assert backbone.local is not None, "a tiny backbone has a local path"
    return nn.ModuleDict({"transformer": backbone.transformer, "local": backbone.local})


def save_tiny(
    backbone: Backbone, path: str | Path, *, settings: dict, card: dict[str, str]
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


def load_tiny(path: str | Path, *, device: str | torch.device = "cpu") -> Backbone:
    """The tiny backbone from a weight file; computed in fp32.

    Raises:
        FileNotFoundError, ValueError: no such file, or no file that :func:`save_tiny` has written.
    """
    remedy = "train them with: python train.py experiment=tiny_base"
    if not Path(path).is_file():
        raise FileNotFoundError(f"tiny base weights {path} do not exist; {remedy}")
    try:
        with safe_open(str(path), framework="pt") as handle:
            settings = json.loads((handle.metadata() or {})["settings"])
            state = {key: handle.get_tensor(key).float() for key in handle.keys()}  # noqa: SIM118
        backbone = build_tiny(**settings)
        tiny_modules(backbone).load_state_dict(state, strict=True)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds no tiny base weights ({reason}); {remedy}") from error
    return backbone.requires_grad_(False).eval().to(device)
