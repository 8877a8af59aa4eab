"""A LoRA training step of FLUX, wide but not deep, beside the released forward with peft.

Random weights. All ways run in turn in one process, on the same inputs and LoRA: the released
forward with peft and gradient checkpointing, as public trainers run it; attention in one call with
a mask or without one; then what backward computes again, and with --compile the latter once more
with compiled blocks. With --quantise the ways of this project have a base in 8 or 4 bit. The
variable makes glibc give freed memory back, so that a peak is that of one way::

    MALLOC_MMAP_THRESHOLD_=1048576 python benchmarks/flux_step.py --pixels 256 --reference CHECKOUT
"""

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest.mock import patch

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.embeddings import apply_rotary_emb
from flux_case import (
    Case,
    begin_peak,
    clock,
    install_peft,
    load_released,
    peak_bytes,
    random_lora,
    random_transformer,
    resident,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from genrefocus.backbone import Checkpointing, Lora, branches
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.quantised import Quantise, quantise_blocks

CHECKPOINTINGS: tuple[Checkpointing, ...] = ("none", 2, "feed_forward", "all")
RELEASED = "released forward with peft, all"


class Way(NamedTuple):
    """A forward, and the tensors that backward must reach."""

    forward: Callable[[], Tensor]
    trained: list[Tensor]

    def step(self) -> None:
        self.forward().float().square().mean().backward()
        assert all(one.grad is not None for one in self.trained), "a LoRA tensor got no gradient"
        for one in self.trained:
            one.grad = None


def ways_of_ours(case: Case, lora: Lora, args: argparse.Namespace) -> dict[str, Way]:
    """Attention with a mask, then each checkpointing without one."""
    see, trained = {"isolated": args.isolated}, list(lora.parameters())
    image, text = case.tokens[0].shape[1], case.text.shape[1]
    owner = [0] * text + [i for i in range(len(case.tokens)) for _ in range(image)]
    query = torch.tensor(owner, device=case.text.device)[:, None]
    seen = (query == 0) | (query == query.T)
    mask = seen if args.isolated else seen | (query.T == 0)

    def masked(q: Tensor, k: Tensor, v: Tensor, layout: branches._Layout) -> Tensor:
        q = apply_rotary_emb(q, layout.rotary, sequence_dim=1)
        k = apply_rotary_emb(k, layout.rotary, sequence_dim=1)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    def one_call() -> Tensor:
        with patch.object(branches, "_attention", masked):
            return case.ours(lora, **see)

    ways = {"one call with a mask, none": one_call}
    for one in CHECKPOINTINGS:
        forward = partial(case.ours, lora, checkpointing=one, **see)
        ways[f"without a mask, {one}"] = forward
        if args.compile:
            ways[f"compiled, {one}"] = partial(forward, compiled=True)
    return {name: Way(forward, trained) for name, forward in ways.items()}


def released_transformer(transformer: FluxTransformer2DModel, lora: Lora) -> FluxTransformer2DModel:
    """The same weights, not copied, with the LoRA of peft and gradient checkpointing."""
    shared = {id(one): one for one in transformer.parameters()}
    theirs = copy.deepcopy(transformer, shared)
    install_peft(theirs, lora)
    for name, one in theirs.named_parameters():
        one.requires_grad_("lora_" in name)
    theirs.enable_gradient_checkpointing()
    return theirs.train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line for each number of conditions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--doubles", type=int, default=1, help="double blocks, of 19 (1)")
    parser.add_argument("--singles", type=int, default=2, help="single blocks, of 38 (2)")
    parser.add_argument("--pixels", type=int, default=256, help="side of the image (256)")
    parser.add_argument("--text", type=int, default=128, help="tokens of the prompt (128)")
    parser.add_argument("--conditions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--isolated", action="store_true", help="conditions see themselves alone")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compiled blocks too")
    parser.add_argument("--quantise", choices=get_args(Quantise), help="weights of the blocks")
    parser.add_argument("--reference", type=Path, help="checkout of the released inference code")
    args = parser.parse_args(arguments)
    if args.pixels % 16:
        parser.error(f"--pixels {args.pixels} is no multiple of 16")
    if args.reference and (args.quantise or args.isolated):
        parser.error("--reference: the released forward has neither --quantise nor --isolated")
    before = 0 if args.device.startswith("cuda") else resident("VmRSS")
    depth = {"num_layers": args.doubles, "num_single_layers": args.singles}
    config, dtype = {**FLUX_DEV_CONFIG, **depth}, getattr(torch, args.dtype)
    transformer = random_transformer(config, args.device, dtype)
    lora = random_lora(transformer, args.rank)
    released = load_released(args.reference) if args.reference else None
    theirs = released_transformer(transformer, lora) if released else None
    if args.quantise:
        quantise_blocks(transformer, args.quantise)
    for conditions in args.conditions:
        case = Case(transformer, args.pixels, conditions, args.text)
        ways = ways_of_ours(case, lora, args)
        if released is not None and theirs is not None:
            trained = [one for one in theirs.parameters() if one.requires_grad]
            peer = Case(theirs, args.pixels, conditions, args.text)
            ways[RELEASED] = Way(partial(peer.theirs, released), trained)
        warm = args.compile or args.device.startswith("cuda")
        rows = measure(ways, args.device, args.repeats, warm, before)
        row: dict[str, Any] = {"conditions": conditions, "ways": rows}
        if RELEASED in ways:
            row["relative_difference"] = difference(ways[RELEASED], ways["without a mask, none"])
        weights = args.quantise or args.dtype
        title = f"{args.doubles} + {args.singles} blocks, {weights}, {args.pixels} px"
        show(rows, f"{title}, conditions: {conditions}")
        print(json.dumps(row), flush=True)
    return 0


def measure(
    ways: Mapping[str, Way], device: str, repeats: int, warm: bool, before: int
) -> dict[str, dict[str, float]]:
    """Median seconds and greatest peak in GiB of each way, over rounds in which all take turns;
    a round more to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, list[int]] = {name: [] for name in ways}
    for _ in range(repeats + warm):
        for name, way in ways.items():
            begin_peak(device)
            started = clock(device)
            way.step()
            times[name].append(clock(device) - started)
            peaks[name].append(peak_bytes(device) - before)
    return {
        name: {
            "seconds": round(statistics.median(times[name][warm:]), 4),
            "gib": round(max(peaks[name][warm:]) / 2**30, 3),
        }
        for name in ways
    }


def difference(one: Way, other: Way) -> float:
    """Of their outputs, relative."""
    with torch.no_grad():
        a, b = one.forward().float(), other.forward().float()
    return float((a - b).norm() / b.norm())


def show(rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """Print a table; ratios are to the released forward, or to the first way."""
    table = Table(title=title)
    for column in ("attention, checkpointing", "s/step", "times as fast", "peak GiB", "of it"):
        table.add_column(column, justify="right")
    first = rows.get(RELEASED) or next(iter(rows.values()))
    for name, one in rows.items():
        times, part = first["seconds"] / one["seconds"], one["gib"] / first["gib"]
        figures = f"{one['seconds']:.3f}", f"{times:.2f}", f"{one['gib']:.2f}", f"{part:.2f}"
        table.add_row(name, *figures)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
