"""The multi-condition forward of a FLUX transformer.

One packed token sequence: text, noisy image, then one branch for each condition image. Every branch
brings its own timestep and guidance, hence its own modulation; LoRA acts on the tokens of the
conditions alone (released inference forward of Generative Refocusing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import partial
from itertools import accumulate, count, groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from genrefocus.backbone.lora import Lora, Pairs, low_rank

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from diffusers.models.transformers.transformer_flux import (
        FluxAttention,
        FluxSingleTransformerBlock,
        FluxTransformerBlock,
    )

T = TypeVar("T")

Role = Literal["image", "source", "control", "draft", "shape"]
ROLES: tuple[Role, ...] = get_args(Role)

#: what backward computes again in place of keeping it: nothing, the feed-forward of every block,
#: every n-th block, or all blocks
Checkpointing = Literal["none", "feed_forward", "all"] | int

#: keys, rotated, and values of isolated conditions, each (B, M, H, D), by the name of a block
KvCache = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Branch:
    """Tokens of one image and how the transformer modulates them.

    Attributes:
        tokens: (B, N, C) packed latents.
        ids: (N, 3) position ids.
        timestep: (B,) sigma in [0, 1].
        guidance: (B,) guidance value.
        role: what the image is. FLUX does not read it; the tiny backbone does.
        lora: adapter of this condition, in place of the one that all conditions have.
    """

    tokens: Tensor
    ids: Tensor
    timestep: Tensor
    guidance: Tensor
    role: Role = "source"
    lora: Lora | None = None


#: neighbouring conditions with one adapter: number of the first, and of the one behind the last
Adapted = tuple[int, int, T]


@dataclass(frozen=True)
class _Layout:
    """The packed sequence: tokens of the text and of each branch, and what is of one block.

    The host reads no value of it back from the device. A compiled block is the same program for all
    blocks of its kind, and so must find neither its name nor its number here.

    Attributes:
        lora: of the conditions in the block, by the names of its layers, each for some of them.
        cache: keys and values of the cached conditions in the block; still empty at the first step.
    """

    text: int
    lengths: tuple[int, ...]
    rotary: tuple[Tensor, Tensor]
    isolated: bool
    recomputes_feed_forward: bool
    lora: tuple[Adapted[Pairs], ...] = ()
    cache: list[Tensor] | None = None

    def of_blocks(
        self,
        kind: str,
        blocks: Iterable[nn.Module],
        lora: Sequence[Adapted[Lora]],
        cache: KvCache | None,
    ) -> Iterator[tuple[nn.Module, _Layout]]:
        """The blocks of a kind, each with its own layout."""
        for index, block in enumerate(blocks):
            name = f"{kind}.{index}"
            pairs = _below(lora, f"{name}.")
            kept = None if cache is None else cache.setdefault(name, [])
            yield block, replace(self, lora=pairs, cache=kept)

    def visibility(self) -> list[tuple[int, list[slice]]]:
        """Who sees whom: counts of queries, in order, and the parts of the keys that they see."""
        segments = (self.text + self.lengths[0], *self.lengths[1:])
        ends = list(accumulate(segments))
        image, *conditions = (slice(start, end) for start, end in pairwise([0, *ends]))
        everything = [slice(None)]
        if self.isolated:
            seen = [[own] for own in conditions]
        elif len(conditions) < 2:
            return [(ends[-1], everything)]
        else:
            # The first condition lies beside what it sees: one part, which needs no copy.
            seen = [[slice(0, ends[1])], *([image, own] for own in conditions[1:])]
        return list(zip(segments, [everything, *seen], strict=True))

    def with_cached(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the block and, behind them, those of the cached conditions.

        An empty cache takes those of the conditions that are here.
        """
        if self.cache is None:
            return k, v
        if self.cache:
            return torch.cat([k, self.cache[0]], dim=1), torch.cat([v, self.cache[1]], dim=1)
        start = self.text + self.lengths[0]
        self.cache.extend(x[:, start:].clone() for x in (k, v))  # a view would keep the rest
        return k, v

    def linear(
        self, module: nn.Module, name: str, x: Tensor, *, offset: int = 0, last: bool = False
    ) -> Tensor:
        """``module(x)`` plus the LoRA of the conditions; ``offset`` tokens precede the images.

        ``last`` says that what is computed again may end here: the LoRA then goes before the frozen
        layer, whose output backward does not need, and the recomputation stops between them.
        """
        lengths = (offset + self.lengths[0], *self.lengths[1:])
        return self._with_lora(module, x, name, lengths, last)

    def modulation(
        self, module: nn.Module, name: str, temb: Tensor, chunks: int
    ) -> tuple[Tensor, ...]:
        """Modulation of each branch from its own embedding: ``chunks`` tensors (B, branches, D)."""
        y = self._with_lora(module, F.silu(temb), name, [1] * len(self.lengths))
        return y.chunk(chunks, dim=-1)

    def feed_forward(self, run: Callable[..., Tensor], *args: Tensor) -> Tensor:
        """``run(*args)``, which backward computes again where it does so for feed-forwards."""
        return _recomputed(run, *args) if self.recomputes_feed_forward else run(*args)

    def _with_lora(
        self, module: nn.Module, x: Tensor, name: str, lengths: Sequence[int], last: bool = False
    ) -> Tensor:
        """Each LoRA acts on its conditions; ``lengths`` are those of what is before and of each."""
        if not self.lora:
            return module(x)
        ends = list(accumulate(lengths))
        spans = [(slice(ends[first], ends[end]), pairs[name]) for first, end, pairs in self.lora]
        y = None if last else module(x)
        deltas = [low_rank(x[:, span], *pair) for span, pair in spans]
        y = module(x) if y is None else y
        parts: list[Tensor] = []
        begin = 0
        for (span, _), delta in zip(spans, deltas, strict=True):
            parts += [y[:, begin : span.start], y[:, span] + delta]
            begin = span.stop
        return torch.cat([*parts, y[:, begin:]], dim=1)


def multi_condition_forward(
    transformer: FluxTransformer2DModel,
    text: Tensor,
    pooled: Tensor,
    image: Branch,
    conditions: Sequence[Branch] = (),
    *,
    lora: Lora | None = None,
    isolated: bool = False,
    checkpointing: Checkpointing = "none",
    cache: KvCache | None = None,
    compiled: bool = False,
) -> Tensor:
    """Output of the noisy image's tokens, (B, N, C).

    Text and noisy image attend to everything; a condition attends to text, noisy image and itself.
    If it is isolated, its keys and values are the same at every step of sampling: with a ``cache``
    the first step computes them, and the others run text and noisy image alone.

    Args:
        transformer: diffusers' FLUX transformer.
        text: (B, T, joint_attention_dim) text embeddings; their position ids are zeros.
        pooled: (B, pooled_projection_dim).
        image: the noisy image; carries the step's sigma and the guidance value.
        conditions: condition branches in order, as published with timestep 0 and guidance 1.
        lora: adapter of the condition branches that have none of their own.
        isolated: a condition attends to itself alone (an option of OminiControl2).
        checkpointing: what backward computes again; without gradients nothing is kept anyway.
        cache: of these isolated conditions, in sampling: empty at the first step, which fills it.
        compiled: every block runs as one program of ``torch.compile``, compiled once for each of
            the two kinds of blocks and each shape of the tokens.
    """
    assert cache is None or isolated, "other conditions change with the noisy image"
    branches = (image,) if cache else (image, *conditions)
    lengths = tuple(branch.tokens.shape[1] for branch in branches)
    ids = torch.cat([image.ids.new_zeros(text.shape[1], 3), *(branch.ids for branch in branches)])
    rotary = transformer.pos_embed(ids)
    again = checkpointing if torch.is_grad_enabled() else "none"
    adapted = list(_adapted(branches[1:], lora))
    pairs = _below(adapted, "")
    layout = _Layout(text.shape[1], lengths, rotary, isolated, again == "feed_forward", pairs)
    temb = torch.stack([_time_text(transformer, branch, pooled) for branch in branches], dim=1)
    context = transformer.context_embedder(text)
    x = layout.linear(
        transformer.x_embedder, "x_embedder", torch.cat([b.tokens for b in branches], dim=1)
    )

    if compiled and x.requires_grad:  # the first block is then the same program as the others
        context.requires_grad_()
    double, single = map(_compiled, _BLOCKS) if compiled else _BLOCKS
    doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks
    every = again if isinstance(again, int) else int(again == "all")  # 0: no block
    repeats = (every > 0 and number % every == 0 for number in count())
    for block, own in layout.of_blocks("transformer_blocks", doubles, adapted, cache):
        context, x = _run(double, block, own, next(repeats), context, x, temb)
    x = torch.cat([context, x], dim=1)
    for block, own in layout.of_blocks("single_transformer_blocks", singles, adapted, cache):
        x = _run(single, block, own, next(repeats), x, temb)

    x = x[:, layout.text : layout.text + layout.lengths[0]]
    return transformer.proj_out(transformer.norm_out(x, temb[:, 0]))


def _adapted(conditions: Sequence[Branch], lora: Lora | None) -> Iterator[Adapted[Lora]]:
    """The adapters of conditions, ``lora`` for those that have none of their own."""
    first = 0
    for one, some in groupby([own.lora or lora for own in conditions]):
        behind = first + len(list(some))
        if one is not None:
            yield first, behind, one
        first = behind


def _below(lora: Sequence[Adapted[Lora]], prefix: str) -> tuple[Adapted[Pairs], ...]:
    return tuple((first, behind, one.below(prefix)) for first, behind, one in lora)


@once
def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    # One program for each shape of training, validation and tests, and each rank of the LoRA; DDP
    # would cut it where one of its buckets ends.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.optimize_ddp = False
    return torch.compile(forward, fullgraph=True, dynamic=False)


def _run(
    forward: Callable[..., T], block: nn.Module, layout: _Layout, again: bool, *args: Any
) -> T:
    from torch.distributed.fsdp import FSDPModule

    run: Callable[..., T] = partial(forward, block, layout)
    if isinstance(block, FSDPModule):  # its weights are there during a call of the module itself
        block.forward = run
        run = block
    return _recomputed(run, *args) if again else run(*args)


def _recomputed(run: Callable[..., T], *args: Any) -> T:
    # Blocks draw no random numbers, so their state need not be kept for the second pass.
    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


def _double_block(
    block: FluxTransformerBlock, layout: _Layout, context: Tensor, x: Tensor, temb: Tensor
) -> tuple[Tensor, Tensor]:
    lengths = layout.lengths
    shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = layout.modulation(
        block.norm1.linear, "norm1.linear", temb, 6
    )
    normed_context, c_gate, c_shift_mlp, c_scale_mlp, c_gate_mlp = block.norm1_context(
        context, emb=temb[:, 0]
    )
    normed = _modulate(block.norm1.norm(x), scale, shift, lengths)

    attn = block.attn
    q, k, v = (
        _heads(
            torch.cat([added(normed_context), layout.linear(own, f"attn.{key}", normed)], 1),
            attn,
        )
        for key, own, added in (
            ("to_q", attn.to_q, attn.add_q_proj),
            ("to_k", attn.to_k, attn.add_k_proj),
            ("to_v", attn.to_v, attn.add_v_proj),
        )
    )
    q = torch.cat([attn.norm_added_q(q[:, : layout.text]), attn.norm_q(q[:, layout.text :])], 1)
    k = torch.cat([attn.norm_added_k(k[:, : layout.text]), attn.norm_k(k[:, layout.text :])], 1)
    mixed = _attention(q, k, v, layout)
    out = layout.linear(attn.to_out[0], "attn.to_out.0", mixed[:, layout.text :])

    def feed_forward(x: Tensor) -> Tensor:
        normed = _modulate(block.norm2(x), scale_mlp, shift_mlp, lengths)
        inner = block.ff.net[0](normed)
        return layout.linear(block.ff.net[2], "ff.net.2", inner, last=True)

    def feed_context(x: Tensor) -> Tensor:
        normed = block.norm2_context(x) * (1 + c_scale_mlp[:, None]) + c_shift_mlp[:, None]
        return block.ff_context(normed)

    x = x + _scale(out, gate, lengths)
    x = x + _scale(layout.feed_forward(feed_forward, x), gate_mlp, lengths)
    context = context + c_gate[:, None] * attn.to_add_out(mixed[:, : layout.text])
    return context + c_gate_mlp[:, None] * layout.feed_forward(feed_context, context), x


def _single_block(
    block: FluxSingleTransformerBlock, layout: _Layout, x: Tensor, temb: Tensor
) -> Tensor:
    # Text is modulated by the noisy image's embedding, so the two count as one segment here.
    lengths = (layout.text + layout.lengths[0], *layout.lengths[1:])
    shift, scale, gate = layout.modulation(block.norm.linear, "norm.linear", temb, 3)
    normed = _modulate(block.norm.norm(x), scale, shift, lengths)

    def linear(module: nn.Module, key: str, value: Tensor, *, last: bool = False) -> Tensor:
        return layout.linear(module, key, value, offset=layout.text, last=last)

    attn = block.attn
    q = attn.norm_q(_heads(linear(attn.to_q, "attn.to_q", normed), attn))
    k = attn.norm_k(_heads(linear(attn.to_k, "attn.to_k", normed), attn))
    v = _heads(linear(attn.to_v, "attn.to_v", normed), attn)

    def feed_forward(normed: Tensor, mixed: Tensor) -> Tensor:
        inner = block.act_mlp(linear(block.proj_mlp, "proj_mlp", normed))
        return linear(block.proj_out, "proj_out", torch.cat([mixed, inner], dim=-1), last=True)

    mixed = _attention(q, k, v, layout)
    return x + _scale(layout.feed_forward(feed_forward, normed, mixed), gate, lengths)


_BLOCKS = _double_block, _single_block


def _attention(q: Tensor, k: Tensor, v: Tensor, layout: _Layout) -> Tensor:
    """(B, L, H, D) each -> (B, L, H * D), through torch's fused attention.

    Queries that see the same keys are one call. None has a mask, which flash kernels do not take.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    q = apply_rotary_emb(q, layout.rotary, sequence_dim=1)
    k = apply_rotary_emb(k, layout.rotary, sequence_dim=1)
    k, v = layout.with_cached(k, v)
    counts, seen = zip(*layout.visibility(), strict=True)
    parts = [
        F.scaled_dot_product_attention(
            queries.transpose(1, 2),
            _joined([k[:, one] for one in keys]).transpose(1, 2),
            _joined([v[:, one] for one in keys]).transpose(1, 2),
        )
        for queries, keys in zip(q.split(counts, dim=1), seen, strict=True)
    ]
    return _joined([part.transpose(1, 2).flatten(2) for part in parts])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """All tokens of some parts (B, N, ...); one part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _heads(x: Tensor, attn: FluxAttention) -> Tensor:
    return x.unflatten(-1, (attn.heads, -1))


def _modulate(x: Tensor, scale: Tensor, shift: Tensor, lengths: Sequence[int]) -> Tensor:
    parts = x.split(list(lengths), dim=1)
    return torch.cat(
        [p * (1 + scale[:, i : i + 1]) + shift[:, i : i + 1] for i, p in enumerate(parts)], dim=1
    )


def _scale(x: Tensor, gate: Tensor, lengths: Sequence[int]) -> Tensor:
    parts = x.split(list(lengths), dim=1)
    return torch.cat([p * gate[:, i : i + 1] for i, p in enumerate(parts)], dim=1)


def _time_text(transformer: FluxTransformer2DModel, branch: Branch, pooled: Tensor) -> Tensor:
    # Scaled before it is rounded: in bf16 the released pipeline rounds the timestep, not sigma.
    timestep = (branch.timestep * 1000).to(branch.tokens.dtype)
    if not transformer.config.guidance_embeds:
        return transformer.time_text_embed(timestep, pooled)
    guidance = (branch.guidance * 1000).to(branch.tokens.dtype)
    return transformer.time_text_embed(timestep, guidance, pooled)
