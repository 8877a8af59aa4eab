"""A LoRA training step of FLUX at full width and reduced depth: attention and checkpointing.

Random weights. All ways run in turn in one process, on the same inputs and LoRA: attention in one
call with a mask or without one, then what backward computes again, and with --compile the latter
once more with compiled blocks. With --quantise all of them have a base in 8 or 4 bit::

    python benchmarks/flux_step.py --pixels 256 --repeats 3
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args
from unittest.mock import patch

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from flux_forward import random_transformer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from genrefocus.backbone import Branch, Checkpointing, Lora, branches, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.quantised import Quantise, quantise_blocks
from genrefocus.denoiser import image_ids

CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", 2, "feed_forward", "all")


class Step:
    """Forward and backward of one sample, and the tokens of its sequence."""

    def __init__(self, transformer: FluxTransformer2DModel, args: argparse.Namespace) -> None:
        one, side = next(transformer.parameters()), args.pixels // 16
        generator = torch.Generator(one.device).manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=one.device, dtype=one.dtype)

        ids, level = image_ids(side, side, device=one.device), torch.ones(1, device=one.device)
        self.transformer, self.isolated = transformer, args.isolated
        self.lora = Lora.for_transformer(transformer, args.rank, generator=generator)
        self.inputs = draw(1, args.text, 4096), draw(1, 768)
        tokens = [draw(1, side * side, 64) for _ in range(1 + args.conditions)]
        self.image = Branch(tokens[0], ids, 0.7 * level, 3.5 * level)
        self.conditions = [Branch(one, ids, 0 * level, level) for one in tokens[1:]]
        owner = [0] * args.text + [i for i, x in enumerate(tokens) for _ in range(x.shape[1])]
        query = torch.tensor(owner, device=one.device)[:, None]
        seen = (query == 0) | (query == query.T)
        self.mask = seen if args.isolated else seen | (query.T == 0)

    def run(self, checkpointing: Checkpointing, *, compiled: bool = False) -> None:
        """With attention without a mask."""
        out = multi_condition_forward(
            self.transformer,
            *self.inputs,
            self.image,
            self.conditions,
            lora=self.lora,
            isolated=self.isolated,
            checkpointing=checkpointing,
            compiled=compiled,
        )
        out.float().square().mean().backward()
        self.lora.zero_grad()

    def run_masked(self) -> None:
        """With attention as one call with a mask, and nothing computed again."""

        def masked(q: Tensor, k: Tensor, v: Tensor, layout: branches._Layout) -> Tensor:
            q = apply_rotary_emb(q, layout.rotary, sequence_dim=1)
            k = apply_rotary_emb(k, layout.rotary, sequence_dim=1)
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
            return out.transpose(1, 2).flatten(2)

        with patch.object(branches, "_attention", masked):
            self.run("none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--doubles", type=int, default=1, help="double blocks, of 19 (1)")
    parser.add_argument("--singles", type=int, default=2, help="single blocks, of 38 (2)")
    parser.add_argument("--pixels", type=int, default=256, help="side of the image (256)")
    parser.add_argument("--text", type=int, default=128, help="tokens of the prompt (128)")
    parser.add_argument("--conditions", type=int, default=2)
    parser.add_argument("--isolated", action="store_true", help="conditions see themselves alone")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compiled blocks too")
    parser.add_argument("--quantise", choices=get_args(Quantise), help="weights of the blocks")
    args = parser.parse_args(arguments)
    if args.pixels % 16:
        parser.error(f"--pixels {args.pixels} is no multiple of 16")
    depth = {"num_layers": args.doubles, "num_single_layers": args.singles}
    config, dtype = {**FLUX_DEV_CONFIG, **depth}, getattr(torch, args.dtype)
    transformer = random_transformer(config, args.device, dtype)
    if args.quantise:
        quantise_blocks(transformer, args.quantise)
    step = Step(transformer, args)
    ways: dict[str, Callable[[], None]] = {"one call with a mask, none": step.run_masked}
    for one in CHECKPOINTINGS:
        ways[f"without a mask, {one}"] = partial(step.run, one)
        if args.compile:
            ways[f"compiled, {one}"] = partial(step.run, one, compiled=True)
    seconds = measure(ways, args)
    weights = args.quantise or args.dtype
    show(seconds, f"{args.doubles} + {args.singles} blocks, {weights}, {len(step.mask)} tokens")
    print(json.dumps(seconds))
    return 0


def show(seconds: dict[str, float], title: str) -> None:
    """Print a table."""
    table = Table(title=title)
    for column in ("attention, checkpointing", "s/step", "ratio"):
        table.add_column(column, justify="right")
    least = seconds["without a mask, none"]
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{value / least:.2f}")
    Console().print(table)


def measure(ways: dict[str, Callable[[], None]], args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each way, over rounds in which all take their turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


if __name__ == "__main__":
    sys.exit(main())
