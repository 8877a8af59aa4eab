"""The frozen backbone: transformer, codec and prompt embeddings; FLUX.1-dev through diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genrefocus.backbone.branches import Branch, Checkpointing, KvCache, multi_condition_forward
from genrefocus.backbone.codec import Codec, VaeCodec, pack, unpack
from genrefocus.backbone.lora import Lora
from genrefocus.backbone.quantised import Quantise, is_nf4, quantise_blocks
from genrefocus.backbone.sharding import SharedForwards
from genrefocus.backbone.text import FluxTextEncoders, PromptCache, TextEmbedding, TextEncoder
from genrefocus.flow import Shift
from genrefocus.sampling import Tiling

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
#: The same of its autoencoder, as far as its shapes follow from it.
FLUX_DEV_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
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
        prompts: folder of embeddings, see :class:`PromptCache`.
        checkpointing, compiled: of training, and of every forward, see
            :func:`multi_condition_forward`.
    """

    #: whether a control map may have a coarser token grid than the image
    takes_half_control = True

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        codec: Codec,
        text: TextEncoder,
        *,
        shift: Shift,
        tiling: Tiling,
        control_gain: float = 1.0,
        prompts: str | Path | None = None,
        checkpointing: Checkpointing = "none",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.codec = codec
        self.prompts = PromptCache(text, prompts)
        self.shift = shift
        self.tiling = tiling
        self.control_gain = control_gain
        self.checkpointing, self.compiled = checkpointing, compiled
        self._computes_on: torch.device | None = None
        self._shared: SharedForwards | None = None

    def offload(self, device: str | torch.device) -> None:
        """Keep the transformer's weights in main memory: each layer has its own on ``device`` only
        while it computes.

        Raises:
            ValueError: its blocks are compiled, or its weights nf4, which cannot be fetched so.
        """
        if self.compiled:
            raise ValueError("compiled blocks cannot be offloaded; load them with compile=False")
        if is_nf4(self.transformer):
            raise ValueError("nf4 weights cannot be offloaded; take int8 or fp8, which can")
        from accelerate import cpu_offload

        self._computes_on = torch.device(device)
        self.to("cpu")
        cpu_offload(self.transformer, self._computes_on)
        if isinstance(self.codec, nn.Module):
            self.codec.to(device)

    def shard(self, device: torch.device) -> None:
        """Split the transformer over all ranks, see :class:`SharedForwards`."""
        self._shared = SharedForwards(self, device)

    def meet(self) -> None:
        """To be called by all ranks after forwards that may differ in number; see
        :class:`SharedForwards`. Does nothing where every rank has the transformer whole."""
        if self._shared is not None:
            self._shared.meet()

    def forward(
        self,
        text: TextEmbedding,
        image: Branch,
        conditions: Sequence[Branch],
        grid: tuple[int, int],
        *,
        lora: Lora | None = None,
        isolated: bool = False,
        cache: KvCache | None = None,
    ) -> Tensor:
        """Output (B, N, C) of the noisy image's tokens, see :func:`multi_condition_forward`.

        All images have the token grid (rows, columns) ``grid``.
        """
        return multi_condition_forward(
            self.transformer,
            text.tokens,
            text.pooled,
            image,
            conditions,
            lora=lora,
            isolated=isolated,
            checkpointing=self.checkpointing,
            cache=cache,
            compiled=self.compiled,
        )

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels behind one token: 16 for FLUX."""
        return 2 * self.codec.factor

    @property
    def device(self) -> torch.device:
        return self._computes_on or next(self.transformer.parameters()).device

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

    def encode_image(
        self, image: Tensor, generators: Sequence[torch.Generator] = (), *, keep: bool = False
    ) -> Tensor:
        """Tokens (B, N, C) of an image (B, 3, H, W) in [0, 1], which is rescaled to [-1, 1].

        ``keep``: see :class:`Codec`.
        """
        self.grid(*image.shape[-2:])
        return self._tokens(image.to(self.device) * 2 - 1, generators, keep)

    def encode_control(
        self, defocus: Tensor, generators: Sequence[torch.Generator] = (), *, keep: bool = False
    ) -> Tensor:
        """Tokens of a defocus map (B, 1, H, W) in [0, 1]: three equal channels, *not* rescaled."""
        self.grid(*defocus.shape[-2:])
        three = (defocus.to(self.device) * self.control_gain).expand(-1, 3, -1, -1)
        return self._tokens(three, generators, keep)

    def _tokens(self, image: Tensor, generators: Sequence[torch.Generator], keep: bool) -> Tensor:
        return pack(self.codec.encode(image, generators, keep=keep)).to(self.dtype)

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Image (B, 3, H, W) in [0, 1], fp32, of packed tokens on a grid (rows, columns)."""
        image = self.codec.decode(unpack(tokens, *grid))
        return (image.float() / 2 + 0.5).clamp(0, 1)

    def embed(self, prompts: Sequence[str]) -> TextEmbedding:
        """Prompt embeddings, one row a prompt."""
        return self.prompts(prompts, self.device, self.dtype)


def load_flux_dev(
    path: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    checkpointing: Checkpointing = "none",
    compile: bool = False,
    quantise: Quantise | None = None,
    max_text_length: int = 512,
    prompts: str | Path | None = None,
    latents: str | Path | None = None,
) -> Backbone:
    """FLUX.1-dev from a local folder or a hub id, frozen.

    The text encoders are in memory only while prompts are encoded, whose embeddings are kept in the
    folder ``prompts``, if there is one; posteriors of training images in ``latents``, see
    :class:`VaeCodec`. For ``checkpointing`` and ``compile`` see :func:`multi_condition_forward`,
    for ``quantise`` :func:`quantise_blocks`.

    Raises:
        OSError: neither a local folder nor reachable on the hub.
        ValueError: the noise schedule is not shifted by resolution, so it is not FLUX.1-dev; or
            there is no such checkpointing or quantisation, or its package is not installed.
    """
    every_nth = type(checkpointing) is int and checkpointing >= 1  # not a truth value
    if not every_nth and checkpointing not in ("none", "feed_forward", "all"):
        known = "none, feed_forward, all, or n for every n-th block"
        raise ValueError(f"checkpointing={checkpointing}: give {known}")
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    transformer = FluxTransformer2DModel.from_pretrained(
        path, subfolder="transformer", torch_dtype=dtype
    )
    vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=dtype)
    scheduler = FlowMatchEulerDiscreteScheduler.load_config(path, subfolder="scheduler")
    if not scheduler.get("use_dynamic_shifting"):
        raise ValueError(f"{path}: its scheduler has no dynamic shifting; give FLUX.1-dev's folder")
    if quantise is not None:
        quantise_blocks(transformer, quantise)
    return Backbone(
        transformer.requires_grad_(False).eval().to(device),
        VaeCodec(vae.to(device), latents),
        FluxTextEncoders(path, dtype=dtype, max_length=max_text_length),
        shift=Shift.of_scheduler(scheduler),
        tiling=Tiling(),
        prompts=prompts,
        checkpointing=checkpointing,
        compiled=compile,
    )
