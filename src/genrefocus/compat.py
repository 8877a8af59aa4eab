"""Parity with the released inference forward, by golden tensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genrefocus.backbone import Branch, Lora, TextEmbedding, multi_condition_forward
from genrefocus.backbone.lora import lora_from_state
from genrefocus.denoiser import Condition, Denoiser
from genrefocus.flow import Flow, Shift
from genrefocus.sampling import Tiling

TOLERANCE = 1e-5
_PIXELS_PER_TOKEN = 16


def relative_error(path: str | Path) -> float:
    """``|ours - expected| / |expected|`` (2-norms) of one golden file.

    The file holds ``base.*`` (a FluxTransformer2DModel state dict), LoRA tensors under the released names,
    inputs and ``expected``; its metadata holds the model config and, for a denoising loop, its settings.

    Raises:
        FileNotFoundError, ValueError: no such file, or not a golden file; the message names what is missing.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    if "expected" not in tensors or "config" not in metadata:
        raise ValueError(f"{path}: no golden file: it needs a tensor 'expected' and 'config' in its metadata")
    try:
        transformer = _transformer(tensors, json.loads(metadata["config"]))
        lora = lora_from_state(
            {k: v for k, v in tensors.items() if k.startswith("transformer.")}, transformer, source=str(path)
        )
        run = _sample if "steps" in metadata else _forward
        with torch.no_grad():
            ours = run(transformer, lora, tensors, metadata)
    except KeyError as error:
        raise ValueError(f"{path}: golden file lacks {error}") from error
    expected = tensors["expected"]
    return float((ours - expected).norm() / expected.norm())


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"golden file {path} does not exist")
    try:
        with safe_open(str(path), framework="pt") as handle:
            return {key: handle.get_tensor(key) for key in handle.keys()}, handle.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file ({error})") from error


def _transformer(tensors: Mapping[str, Tensor], config: dict) -> FluxTransformer2DModel:
    transformer = FluxTransformer2DModel(**config)
    transformer.load_state_dict(
        {key.removeprefix("base."): value for key, value in tensors.items() if key.startswith("base.")}
    )
    return transformer.eval()


def _condition_names(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(key for key in tensors if key.startswith("cond") and key.removeprefix("cond").isdigit())


def _forward(
    transformer: FluxTransformer2DModel, lora: Lora, t: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Tensor:
    image = Branch(t["hidden"], t["img_ids"], t["timestep"], t["guidance"])
    zero, one = torch.zeros_like(t["timestep"]), torch.ones_like(t["timestep"])
    conditions = [Branch(t[name], t[f"{name}_ids"], zero, one, loras=(lora,)) for name in _condition_names(t)]
    return multi_condition_forward(transformer, t["text"], t["pooled"], image, conditions)


def _sample(
    transformer: FluxTransformer2DModel, lora: Lora, t: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Tensor:
    scheduler = json.loads(metadata["scheduler"])
    denoiser = Denoiser(
        transformer,
        Flow(),
        Shift(
            scheduler["base_image_seq_len"],
            scheduler["max_image_seq_len"],
            scheduler["base_shift"],
            scheduler["max_shift"],
        ),
        loras=(lora,),
        guidance=float(metadata["guidance"]),
        tiling=Tiling(when="shorter_edge" if metadata["tiled"] == "True" else "never"),
    )
    grid = (int(metadata["height"]) // _PIXELS_PER_TOKEN, int(metadata["width"]) // _PIXELS_PER_TOKEN)
    conditions = [Condition(t[name], _delta(t, name, grid)) for name in _condition_names(t)]
    return denoiser.sample(
        TextEmbedding(t["text"], t["pooled"]),
        t["latents"],
        conditions,
        conditions[0].tokens,
        grid,
        int(metadata["steps"]),
    )


def _delta(t: Mapping[str, Tensor], name: str, grid: tuple[int, int]) -> tuple[int, int]:
    """Shift of a condition's ids against the target's grid, where the file gives its ids."""
    if f"{name}_ids" not in t:
        return (0, 0)
    first = t[f"{name}_ids"][0]
    return int(first[1]), int(first[2])
