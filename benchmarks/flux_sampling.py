"""Sampling with FLUX at full width and reduced depth: what isolated and cached conditions save.

Random weights. All ways make the same image in turn in one process: conditions that see the noisy
image, isolated ones, isolated ones with cached keys and values; last, with ``--reference``, the
released forward with peft. FLOPs are counted on shapes::

    python benchmarks/flux_sampling.py --pixels 256 --steps 4 --repeats 1
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from flux_case import (
    Case,
    clock,
    install_peft,
    load_released,
    random_lora,
    random_transformer,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from genrefocus.backbone import Backbone, Lora, TextEmbedding
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.spelling import HashedWords
from genrefocus.denoiser import ConditionTokens, Denoiser, Latents
from genrefocus.flow import Flow, Shift, schedule
from genrefocus.sampling import Tiling, denoise

Sample = Callable[[int, Callable[[], None]], Tensor]
WAYS: dict[str, dict[str, Any]] = {
    "not isolated": {},
    "isolated": {"isolate_conditions": True, "cache_gib": 0.0},
    "cached": {"isolate_conditions": True},
}
STEPS = 28


def ours(case: Case, lora: Lora, settings: Mapping[str, Any]) -> Sample:
    """Through the sampler of this project."""
    unused = PixelCodec(8), HashedWords(1, 1, 1)
    backbone = Backbone(case.transformer, *unused, shift=Shift(), tiling=Tiling(when="never"))
    denoiser = Denoiser(backbone, Flow(), lora, guidance=3.5, **settings)
    noise, *conditions = case.tokens
    given = [ConditionTokens(one) for one in conditions]
    text = TextEmbedding(case.text, case.pooled)
    latents = Latents(text, given, conditions[0], noise, None, case.grid)

    def sample(steps: int, ended: Callable[[], None]) -> Tensor:
        hook = backbone.register_forward_hook(lambda *_: ended())
        try:
            return denoiser.sample_tokens(latents, steps)
        finally:
            hook.remove()

    return sample


def theirs(case: Case, released: ModuleType) -> Sample:
    """Through the released forward, with the LoRA that peft has put into the transformer."""
    noise = case.tokens[0]

    @torch.no_grad()
    def sample(steps: int, ended: Callable[[], None]) -> Tensor:
        def velocity(x: Tensor, sigma: float) -> Tensor:
            case.tokens[0] = x
            case.sigma.fill_(sigma)
            out = case.theirs(released)
            ended()
            return out

        return denoise(velocity, noise, schedule(steps, Shift().mu(noise.shape[1])))

    return sample


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and one JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--doubles", type=int, default=1, help="double blocks, of 19 (1)")
    parser.add_argument("--singles", type=int, default=2, help="single blocks, of 38 (2)")
    parser.add_argument("--pixels", type=int, default=256, help="side of the image (256)")
    parser.add_argument("--text", type=int, default=128, help="tokens of the prompt (128)")
    parser.add_argument("--conditions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="of an image, 2 or more (4)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=Path, help="checkout of the released inference code")
    args = parser.parse_args(arguments)
    if args.pixels % 16:
        parser.error(f"--pixels {args.pixels} is no multiple of 16")
    if args.steps < 2:
        parser.error(f"--steps {args.steps}: the first step is not like the others; give 2 or more")
    depth = {"num_layers": args.doubles, "num_single_layers": args.singles}
    config, dtype = {**FLUX_DEV_CONFIG, **depth}, getattr(torch, args.dtype)
    released = load_released(args.reference) if args.reference else None
    transformer = random_transformer(config, args.device, dtype)
    shapes = random_transformer(config, "meta", dtype)
    lora = random_lora(transformer, args.rank)
    table = Table(title=f"{args.doubles} + {args.singles} blocks, {args.pixels} px, {args.dtype}")
    steps = "s first", "s other", f"s / {STEPS} steps", "ratio", "TFLOP first", "TFLOP other"
    for column in ("conditions", "way", *steps):
        table.add_column(column, justify="right", overflow="fold")
    for conditions in args.conditions:
        case = Case(transformer, args.pixels, conditions, args.text)
        ways = {name: ours(case, lora, settings) for name, settings in WAYS.items()}
        seconds, images = measure(ways, args)
        if released is not None:
            install_peft(transformer, lora)
            found, image = measure({"released": theirs(case, released)}, args)
            transformer.unload_lora()
            transformer.requires_grad_(False)
            seconds, images = seconds | found, images | image
        on_meta = Case(shapes, args.pixels, conditions, args.text)
        flops = count(on_meta, Lora.for_transformer(shapes, args.rank))
        print(json.dumps(row_of(conditions, seconds, images, flops)))
        add_rows(table, conditions, seconds, flops)
    Console().print(table)
    return 0


def measure(
    ways: Mapping[str, Sample], args: argparse.Namespace
) -> tuple[dict[str, tuple[float, float]], dict[str, Tensor]]:
    """Seconds of the first and of the other steps, medians over rounds in which all take turns,
    and the clean tokens."""
    first: dict[str, list[float]] = {name: [] for name in ways}
    others: dict[str, list[float]] = {name: [] for name in ways}
    images = {}
    warm = args.device.startswith("cuda")
    for round_ in range(args.repeats + warm):
        for name, sample in ways.items():
            times = [clock(args.device)]

            def ended(times: list[float] = times) -> None:
                times.append(clock(args.device))

            images[name] = sample(args.steps, ended)
            if round_ >= warm:
                first[name].append(times[1] - times[0])
                others[name] += [b - a for a, b in zip(times[1:-1], times[2:], strict=True)]
    medians = {
        name: (statistics.median(first[name]), statistics.median(others[name])) for name in ways
    }
    return medians, images


def count(case: Case, lora: Lora) -> dict[str, tuple[float, float]]:
    """TFLOP of the first and of the other steps, of a case on the meta device."""
    flops = {}
    for name, settings in WAYS.items():
        done = []
        for steps in (1, 2):
            with FlopCounterMode(display=False) as counter:
                ours(case, lora, settings)(steps, lambda: None)
            done.append(counter.get_total_flops() / 1e12)
        flops[name] = done[0], done[1] - done[0]
    return flops


def whole(first: float, other: float) -> float:
    """Seconds of an image, of however many steps it was measured with."""
    return first + (STEPS - 1) * other


def row_of(
    conditions: int,
    seconds: Mapping[str, tuple[float, float]],
    images: Mapping[str, Tensor],
    flops: Mapping[str, tuple[float, float]],
) -> dict[str, Any]:
    """What is measured, with the relative differences of images that should be equal."""

    def difference(one: str, other: str) -> float | None:
        if one not in images:
            return None
        a, b = images[one].float(), images[other].float()
        return float((a - b).norm() / b.norm())

    return {
        "conditions": conditions,
        "seconds": dict(seconds),
        "teraflops": dict(flops),
        "cached_against_isolated": difference("cached", "isolated"),
        "released_against_ours": difference("released", "not isolated"),
    }


def add_rows(
    table: Table,
    conditions: int,
    seconds: Mapping[str, tuple[float, float]],
    flops: Mapping[str, tuple[float, float]],
) -> None:
    """The ratio is that of whole images to the cached way."""
    least = whole(*seconds["cached"])
    for name, (first, other) in seconds.items():
        total = whole(first, other)
        figures = [f"{x:.3f}" for x in (first, other)] + [f"{total:.1f}", f"{total / least:.2f}"]
        counted = [f"{x:.3f}" for x in flops[name]] if name in flops else ["-", "-"]
        table.add_row(str(conditions), name, *figures, *counted)


if __name__ == "__main__":
    sys.exit(main())
