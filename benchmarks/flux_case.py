"""FLUX with random weights, one evaluation of it by this project and by the released code, and what
a process takes for it: for the benchmarks beside this file."""

import importlib.util
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from genrefocus.backbone import Branch, Checkpointing, Lora, multi_condition_forward
from genrefocus.backbone.lora import lora_modules
from genrefocus.denoiser import image_ids

ADAPTER = "deblurring"
PROCESS = Path("/proc/self")


class Case:
    """Inputs of one evaluation, and both ways to do it."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        side: int,
        conditions: int,
        text: int,
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

    def ours(
        self,
        lora: Lora,
        *,
        isolated: bool = False,
        checkpointing: Checkpointing = "none",
        compiled: bool = False,
    ) -> Tensor:
        one = torch.ones_like(self.sigma)
        noisy, *conditions = self.tokens
        return multi_condition_forward(
            self.transformer,
            self.text,
            self.pooled,
            Branch(noisy, self.ids, self.sigma, 3.5 * one),
            [Branch(tokens, self.ids, 0 * one, one) for tokens in conditions],
            lora=lora,
            isolated=isolated,
            checkpointing=checkpointing,
            compiled=compiled,
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


def clock(device: str) -> float:
    """Seconds: of a GPU that has done its work, else of processor time, which other programs
    disturb less."""
    if not device.startswith("cuda"):
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def begin_peak(device: str) -> None:
    """Let the peak of :func:`peak_bytes` begin anew."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    else:
        (PROCESS / "clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """What the allocator of a GPU gave out at the most, else resident memory (Linux)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM")


def resident(name: str) -> int:
    """Bytes of main memory that this process has (VmRSS) or had at the most (VmHWM)."""
    found = re.search(rf"{name}:\s+(\d+) kB", (PROCESS / "status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024
