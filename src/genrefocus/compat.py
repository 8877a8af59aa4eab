"""Parity with the released inference forward, by golden tensors."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from genrefocus.backbone import Backbone, Branch, Lora, TextEmbedding, multi_condition_forward
from genrefocus.backbone.codec import PixelCodec
from genrefocus.backbone.lora import lora_from_state, read_tensors
from genrefocus.backbone.spelling import HashedWords
from genrefocus.denoiser import ConditionTokens, Denoiser, Latents
from genrefocus.flow import Flow, Shift
from genrefocus.sampling import Tiling

TOLERANCE = 1e-4
"""Relative error that parity allows on any processor; mistakes in the forward show from 3e-3.

The golden outputs hold the fp32 rounding of the machine that made them: the time embedding takes
sines of angles up to 1000, where neighbouring fp32 numbers are 6e-5 apart, and every processor and
library rounds sines, products and sums in its own way. Errors of 1e-7 to 1.4e-5 have been seen.
"""
_PIXELS_PER_TOKEN = 16


def relative_error(path: str | Path) -> float:
    """``|ours - expected| / |expected|`` (2-norms) of one golden file.

    The file holds ``base.*`` (a FluxTransformer2DModel state dict), LoRA tensors under the released
    names, inputs and ``expected``; its metadata holds the model config and, for a denoising loop,
    its settings.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a golden file; the message says what is
            wrong with it.
    """
    tensors, metadata = read_tensors(path, "golden file")
    if "expected" not in tensors or "config" not in metadata:
        raise ValueError(
            f"{path}: no golden file: it needs a tensor 'expected' and 'config' in its metadata"
        )
    try:
        transformer = _transformer(tensors, json.loads(metadata["config"]))
        lora = lora_from_state(
            {k: v for k, v in tensors.items() if k.startswith("transformer.")},
            transformer,
            source=str(path),
        )
        with torch.no_grad():
            if "steps" in metadata:
                ours = _sample(transformer, lora, tensors, metadata)
            else:
                ours = _forward(transformer, lora, tensors)
        expected = tensors["expected"]
        return float((ours - expected).norm() / expected.norm())
    except KeyError as error:
        raise ValueError(f"{path}: golden file lacks {error}") from error
    except (RuntimeError, TypeError, json.JSONDecodeError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{path}: its tensors and its metadata do not fit ({line})") from error


def _transformer(tensors: Mapping[str, Tensor], config: dict) -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(**config)
    transformer.load_state_dict(
        {
            key.removeprefix("base."): value
            for key, value in tensors.items()
            if key.startswith("base.")
        }
    )
    return transformer.eval()


def _condition_names(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(
        key for key in tensors if key.startswith("cond") and key.removeprefix("cond").isdigit()
    )


def _forward(transformer: FluxTransformer2DModel, lora: Lora, t: Mapping[str, Tensor]) -> Tensor:
    zero, one = torch.zeros_like(t["timestep"]), torch.ones_like(t["timestep"])
    image = Branch(t["hidden"], t["img_ids"], t["timestep"], t.get("guidance", one))
    conditions = [Branch(t[name], t[f"{name}_ids"], zero, one) for name in _condition_names(t)]
    return multi_condition_forward(
        transformer, t["text"], t["pooled"], image, conditions, lora=lora
    )


def _sample(
    transformer: FluxTransformer2DModel,
    lora: Lora,
    t: Mapping[str, Tensor],
    metadata: Mapping[str, str],
) -> Tensor:
    backbone = Backbone(
        transformer,
        PixelCodec(_PIXELS_PER_TOKEN // 2),  # not used: the files hold latents
        HashedWords(1, 1, 1),
        shift=Shift.of_scheduler(json.loads(metadata["scheduler"])),
        tiling=Tiling(when="shorter_edge" if metadata["tiled"] == "True" else "never"),
    )
    denoiser = Denoiser(
        backbone, Flow(), lora, guidance=float(metadata["guidance"]), draft_ids="released"
    )
    names = _condition_names(t)
    shifts = _shifts(names, t, metadata.get("adapter", ""))
    latents = Latents(
        TextEmbedding(t["text"], t["pooled"]),
        [ConditionTokens(t[name], shift) for name, shift in zip(names, shifts, strict=True)],
        source=t["latents"],  # not used by a flow from noise
        noise=t["latents"],
        target=None,
        grid=backbone.grid(int(metadata["height"]), int(metadata["width"])),
    )
    return denoiser.sample_tokens(latents, int(metadata["steps"]))


def _shifts(names: Sequence[str], t: Mapping[str, Tensor], adapter: str) -> list[tuple[int, int]]:
    """Shift of every condition's ids: as the file gives them, or else the released rule.

    The rule: of DeblurNet's two conditions the first is the pre-deblurred image.
    """
    shifts = [(0, 0) for _ in names]
    if adapter == "deblurring" and len(names) == 2:
        shifts[0] = (0, 32)
    for index, name in enumerate(names):
        if f"{name}_ids" in t:
            _, row, column = t[f"{name}_ids"][0].tolist()
            shifts[index] = (int(row), int(column))
    return shifts
