"""A training step of a stage on shapes alone: the bytes of its parts, and its FLOPs.

The stage's own module takes the step on torch's meta device, where tensors have no values and take
no memory: FLUX.1-dev at full depth takes seconds. Attention is fused, as it is on GPUs.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from genrefocus.backbone import Backbone, Checkpointing
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.flops import FlopCount
from genrefocus.backbone.flux import FLUX_DEV_CONFIG, FLUX_DEV_VAE
from genrefocus.backbone.quantised import all_weights, quantise_blocks
from genrefocus.backbone.sharding import held_elsewhere
from genrefocus.backbone.spelling import HashedWords
from genrefocus.data.batches import micro_batches
from genrefocus.flow import Shift
from genrefocus.preflight.inputs import is_flux, ranks_of
from genrefocus.sampling import Tiling

_ITEM = torch.ops.aten._local_scalar_dense.default
_ATTENTION = "scaled_dot_product_attention"
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class TrackedStep:
    """A micro-batch of a stage on one rank, with the optimiser step after it.

    Attributes:
        parts: bytes by what they are of. All last through the training, but for ``activations``:
            what there is beside the others when most is there; and, where the base is split over
            ranks, for the largest block that a rank gathers.
        flops: of encoding, forward and backward, with what checkpointing computes again.
        micro_batches: of an optimiser step, on each rank.
    """

    parts: Mapping[str, int]
    flops: int
    micro_batches: int

    @property
    def peak(self) -> int:
        """Bytes when most is there."""
        return sum(self.parts.values())


class Tracker(FlopCount):
    """Counts FLOPs, and the bytes of tensors on the meta device for as long as they are there.

    Attributes:
        now, peak: bytes at present, and at the most.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._see(there)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _ITEM:
            return 1  # shapes have no value
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self._see(x for x in tree_leaves(out) if isinstance(x, Tensor))
        return out

    def _see(self, tensors: Iterable[Tensor]) -> None:
        for x in tensors:
            storage = x.untyped_storage()
            key = storage._cdata
            if x.is_meta and key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """As by fused kernels; the meta device has the plain one alone."""
    out: Tensor = _FUSED(q, k, v)[0]
    return out


class _KeptPosteriors:
    """Latents of posteriors that lie on disk: the autoencoder is away in training."""

    factor, channels = 8, 16

    def encode(self, image: Tensor, generators: Sequence[torch.Generator], **_: Any) -> Tensor:
        rows, columns = (side // self.factor for side in image.shape[-2:])
        return image.new_empty(len(image), self.channels, rows, columns)


def base_of(config: DictConfig, *, as_loaded: bool = False) -> Backbone:
    """The frozen base of a run on the meta device; FLUX.1-dev without its text encoders.

    Args:
        config: of train.py.
        as_loaded: before it is quantised, and with FLUX.1-dev's autoencoder in any case.
    """
    given, how = config.backbone, config.backbone.get("quantise")
    if is_flux(config):
        base = _flux_dev(given, with_codec=as_loaded or given.latents is None)
    else:
        plain = {} if how is None else {"quantise": None}
        base = instantiate(given, **plain).to("meta")
    if how is not None and not as_loaded:
        quantise_blocks(base.transformer, how)
    return base


def _flux_dev(given: DictConfig, *, with_codec: bool) -> Backbone:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**FLUX_DEV_CONFIG).requires_grad_(False)
        vae = AutoencoderKL(**FLUX_DEV_VAE)
    for one in (transformer, vae):
        torch.nn.Module.to(one, instantiate(given.dtype))  # diffusers' own warns of loaded weights
    codec: Any = VaeCodec(vae) if with_codec else _KeptPosteriors()
    shape = transformer.config
    words = HashedWords(
        given.max_text_length, shape.joint_attention_dim, shape.pooled_projection_dim
    )
    return Backbone(transformer, codec, words, shift=Shift(), tiling=Tiling())


def tracked_step(
    config: DictConfig, stage: DictConfig, checkpointing: Checkpointing
) -> TrackedStep:
    """The training step of a stage, where samples have all that its network can be given.

    Args:
        config: of train.py.
        stage: of its curriculum, one that trains a network.
        checkpointing: what backward computes again, see :func:`multi_condition_forward`.
    """
    world, data = ranks_of(config), stage.datamodule
    batch, count = micro_batches(stage.global_batch, data.batch_size, world)
    sizes = data.get("buckets") or [(data.crop, data.crop)]
    module: Any = OmegaConf.to_container(stage.module, resolve=True)
    module["init_lora"] = None
    if module.get("told"):
        module["told"] = 1.0
    settings = {
        "backbone": OmegaConf.to_container(config.backbone, resolve=True),
        "module": module,
        "image": [batch, 3, *max(sizes, key=lambda one: one[0] * one[1])],
        "buckets": world > 1,
        "shards": world if config.sharded_base else 1,
        "ema": "ema" in config.callbacks,
    }
    parts, flops = _tracked(OmegaConf.to_yaml(OmegaConf.create(settings)), checkpointing)
    return TrackedStep(parts, flops, count)


@cache
def _tracked(settings: str, checkpointing: Checkpointing) -> tuple[dict[str, int], int]:
    """Parts and FLOPs; a step of later stages is often that of an earlier one."""
    given: Any = OmegaConf.create(settings)
    base, build = base_of(given), instantiate(given.module)
    base.checkpointing = checkpointing
    tracker = Tracker(all_weights(base))
    parts: dict[str, int] = {}

    def held(part: str) -> None:
        parts[part] = tracker.now - sum(parts.values())
        tracker.peak, tracker.total = tracker.now, 0

    with patch.object(F, _ATTENTION, _fused_attention), tracker:
        held("base")
        take_step(build, base, given.image, buckets=given.buckets, ema=given.ema, held=held)
    parts["activations"] = tracker.peak - sum(parts.values())
    if given.shards > 1:
        elsewhere, parts["gathered block"] = held_elsewhere(base.transformer, given.shards)
        parts["base"] -= elsewhere
    return {name: size for name, size in parts.items() if size}, tracker.total


def take_step(
    build: Callable[[Backbone], Any],
    base: Backbone,
    image: Sequence[int],
    *,
    buckets: bool,
    ema: bool,
    held: Callable[[str], object] = lambda part: None,
) -> None:
    """Train a stage's module for one micro-batch and an optimiser step.

    Args:
        build: makes the module.
        base: that it is built on.
        image: shape (B, 3, H, W) of the images of a micro-batch.
        buckets: DDP reduces the gradient over ranks.
        ema: the weights are averaged.
        held: is told after each part of what lasts through the training, and before the step.
    """
    module = build(base)
    held("LoRA")
    trained = list(module.trainable_parameters())
    for one in trained:
        one.grad = torch.zeros_like(one)
    held("gradient")
    beside = [torch.zeros_like(one) for one in trained if buckets]
    held("gradient buckets")  # as large as what is reduced
    beside += [one.detach().clone() for one in trained if ema]
    held("EMA")
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        if "foreach" in group:
            group["foreach"] = True  # as on GPUs, where all weights are changed together
    optimizer.step()
    held("optimiser")
    count, _, *size = image
    batch: dict[str, Any] = {"key": ["sample"] * count, "prompt": [None] * count}
    with base.device:
        batch |= {name: torch.zeros(*image) for name in ("aif", "bokeh", "blurry", "pre_deblur")}
        batch |= {"defocus": torch.zeros(count, 1, *size), "draw": list(range(count))}
    module.training_step(batch, 0).backward()
    optimizer.step()
