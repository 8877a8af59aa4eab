"""A LoRA training step of the multi-condition forward, beside the released forward with peft.

Random weights; both run in turn in one process, on the same transformer, inputs and LoRA::

    python benchmarks/flux_forward.py --size full --device cuda --reference /path/to/Genfocus
"""

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genrefocus.backbone import Branch, Lora, multi_condition_forward
from genrefocus.backbone.flux import FLUX_DEV_CONFIG
from genrefocus.backbone.lora import lora_modules
from genrefocus.denoiser import image_ids

TINY_CONFIG = {
    **FLUX_DEV_CONFIG,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 64,
    "axes_dims_rope": (8, 12, 12),
}
TEXT_TOKENS = 512
ADAPTER = "deblurring"


class Case:
    """Inputs of one evaluation, and both ways to do it."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        side: int,
        conditions: int,
        text: int = TEXT_TOKENS,
    ) -> None:
        config, one = transformer.config, next(transformer.parameters())
        generator = torch.Generator().manual_seed(conditions)
        self.grid = (side // 16, side // 16)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(one)

        self.transformer, self.text_ids = transformer, torch.zeros(text, 3, device=one.device)
        self.text = draw(1, text, config.joint_attention_dim)
        self.pooled = draw(1, config.pooled_projection_dim)
        self.tokens = [
            draw(1, self.grid[0] * self.grid[1], config.in_channels) for _ in range(1 + conditions)
        ]
        self.ids = image_ids(*self.grid, device=one.device)
        self.sigma = torch.full((1,), 0.7, device=one.device)

    def ours(self, lora: Lora) -> Tensor:
        one = torch.ones_like(self.sigma)
        noisy, *conditions = self.tokens
        return multi_condition_forward(
            self.transformer,
            self.text,
            self.pooled,
            Branch(noisy, self.ids, self.sigma, 3.5 * one),
            [Branch(tokens, self.ids, 0 * one, one) for tokens in conditions],
            lora=lora,
            checkpointing="all",
        )

    def theirs(self, released: ModuleType) -> Tensor:
        """With the LoRA that peft has put into the transformer."""
        count = len(self.tokens) - 1
        one, branches = torch.ones_like(self.sigma), 2 + count
        see = torch.ones(branches, branches, dtype=torch.bool, device=self.sigma.device)
        for row in range(2, branches):
            see[row, 2:] = False
            see[row, row] = True
        return released.transformer_forward(
            self.transformer,
            image_features=self.tokens,
            text_features=[self.text],
            img_ids=[self.ids] * (1 + count),
            txt_ids=[self.text_ids],
            pooled_projections=[self.pooled] * branches,
            timesteps=[self.sigma, self.sigma, *[0 * one] * count],
            guidances=[3.5 * one, 3.5 * one, *[one] * count],
            adapters=[None, None, *[ADAPTER] * count],
            group_mask=see,
        )[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and one JSON line a case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=None)
    parser.add_argument("--pixels", type=int, default=512, help="side of the image (512)")
    parser.add_argument("--conditions", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--reference", type=Path, help="checkout of the released inference code")
    args = parser.parse_args(arguments)
    if args.pixels % 16:
        parser.error(f"--pixels {args.pixels} is no multiple of 16")
    dtype = getattr(torch, args.dtype or ("bfloat16" if args.size == "full" else "float32"))
    released = load_released(args.reference) if args.reference else None

    config = FLUX_DEV_CONFIG if args.size == "full" else TINY_CONFIG
    transformer = random_transformer(config, args.device, dtype)
    transformer.enable_gradient_checkpointing()
    lora = random_lora(transformer.train(), args.rank)
    table = Table(title=f"FLUX {args.size}, {args.pixels} px, rank {args.rank}, {dtype}")
    for column in ("conditions", "forward", "s/step", "peak GiB", "ratio", "relative difference"):
        table.add_column(column, justify="right")
    for conditions in args.conditions:
        case = Case(transformer, args.pixels, conditions)
        rows, difference = compare(case, lora, released, args)
        for name, (seconds, peak) in rows.items():
            ours = name == "genrefocus"
            table.add_row(
                str(conditions) if ours else "",
                name,
                f"{seconds:.3f}",
                "-" if peak is None else f"{peak:.1f}",
                f"{seconds / rows['genrefocus'][0]:.2f}",
                f"{difference:.1e}" if ours and difference is not None else "",
            )
        print(json.dumps({"conditions": conditions, **rows, "relative_difference": difference}))
    Console().print(table)
    return 0


def random_transformer(
    config: Mapping[str, Any], device: str, dtype: torch.dtype
) -> FluxTransformer2DModel:
    """Frozen; made where it stays, since it fills a GPU."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        made = FluxTransformer2DModel(**config)
    torch.set_default_dtype(default)
    return made.requires_grad_(False).eval()


def random_lora(transformer: FluxTransformer2DModel, rank: int) -> Lora:
    """One that changes the output."""
    lora = Lora.for_transformer(transformer, rank)
    for value in lora.lora_b.values():
        torch.nn.init.normal_(value, std=0.01)
    return lora


def compare(
    case: Case, lora: Lora, released: ModuleType | None, args: argparse.Namespace
) -> tuple[dict[str, tuple[float, float | None]], float | None]:
    """Seconds and peak memory by name, and the relative difference of the outputs."""
    rows = {"genrefocus": measure(partial(case.ours, lora), list(lora.parameters()), args)}
    if released is None:
        return rows, None
    with torch.no_grad():
        output = case.ours(lora).float()
    install_peft(case.transformer, lora)
    trained = [p for name, p in case.transformer.named_parameters() if "lora_" in name]
    rows["released"] = measure(partial(case.theirs, released), trained, args)
    with torch.no_grad():
        reference = case.theirs(released).float()
    case.transformer.unload_lora()
    case.transformer.requires_grad_(False)
    return rows, float((output - reference).norm() / reference.norm())


def measure(
    forward: Callable[[], Tensor], trained: Sequence[Tensor], args: argparse.Namespace
) -> tuple[float, float | None]:
    """Median seconds of forward and backward, and the peak memory in GiB on a GPU."""
    cuda = args.device.startswith("cuda")
    times = []
    for repeat in range(args.repeats + 1):
        if cuda:
            torch.cuda.synchronize()
            if repeat == 0:
                torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        forward().float().square().mean().backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        assert all(p.grad is not None for p in trained), "a LoRA tensor got no gradient"
        for parameter in trained:
            parameter.grad = None
    peak = torch.cuda.max_memory_allocated() / 1024**3 if cuda else None
    return statistics.median(times[1:]), peak


def install_peft(transformer: FluxTransformer2DModel, lora: Lora) -> None:
    """Put the same LoRA into the transformer by peft, as the released code expects it."""
    names = "|".join(name.replace(".", r"\.") for name in lora_modules(transformer))
    config = LoraConfig(r=lora.rank, lora_alpha=lora.rank, target_modules=f"^({names})$")
    transformer.add_adapter(config, adapter_name=ADAPTER)
    state = lora.released_state()
    for name, module in transformer.named_modules():
        if isinstance(module, BaseTunerLayer):
            for side, layers in (("A", module.lora_A), ("B", module.lora_B)):
                weight = layers[ADAPTER].weight
                weight.data = state[f"transformer.{name}.lora_{side}.weight"].to(weight)


def load_released(checkout: Path) -> ModuleType:
    """The module of the released forward.

    Raises:
        SystemExit: it is not there.
    """
    path = checkout / "Genfocus" / "pipeline" / "flux.py"
    if not path.is_file():
        sys.exit(f"{path} does not exist; give a checkout of the authors' inference code")
    spec = importlib.util.spec_from_file_location("released_flux", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
