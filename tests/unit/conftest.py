"""Tiny FLUX transformers and adapters, and folders as a preparation leaves them."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from genrefocus.backbone import Lora
from genrefocus.data.sample import SPLITS, Sample
from genrefocus.data.shards import ShardWriter
from genrefocus.optics import BlurStrength

TINY_FLUX = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 10,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture
def tiny_flux() -> Callable[..., FluxTransformer2DModel]:
    """Factory of frozen random transformers: (**settings) -> FluxTransformer2DModel."""

    def build(**settings) -> FluxTransformer2DModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FluxTransformer2DModel(**{**TINY_FLUX, **settings})
        return model.requires_grad_(False).eval()

    return build


@pytest.fixture
def random_lora() -> Callable[..., Lora]:
    """Factory of adapters that do something: (transformer, rank, seed) -> Lora with B != 0."""

    def build(transformer: nn.Module, rank: int = 4, seed: int = 0) -> Lora:
        generator = torch.Generator().manual_seed(seed)
        lora = Lora.for_transformer(transformer, rank, generator=generator)
        for b in lora.lora_b.values():
            nn.init.normal_(b, std=0.1, generator=generator)
        return lora

    return build


@pytest.fixture(scope="session")
def write_preparation() -> Callable[..., Path]:
    """Writer of finished preparations: (out, samples, rejections, gates, measured_only) -> out.

    Names and measures of samples are those in their provenance, as ``source`` and ``measures``.
    """

    def write(
        out: Path,
        samples: Sequence[Sample],
        rejections: Sequence[Mapping] = (),
        gates: Mapping = {},
        measured_only: Sequence[str] = (),
    ) -> Path:
        parameters = {
            "route": samples[0].route,
            "source": "a folder",
            "settings": {"long_edge": 1024, "aperture": "disk"},
            "gates": dict(gates),
            "seed": 7,
            "listing": "0123",
            "code_version": "0.1.0",
        }
        written = {split: [x for x in samples if x.split == split] for split in SPLITS}
        for split, some in written.items():
            own = {**parameters, "split": split}
            with ShardWriter(out / split, parameters=own, samples_per_shard=4) as writer:
                for sample in some:
                    writer.write(sample)
        listed = [
            {
                "key": x.key,
                "name": x.provenance["source"],
                "split": x.split,
                "measures": x.provenance["measures"],
            }
            for some in written.values()
            for x in some
        ]
        for name, entries in (("samples", listed), ("rejections", rejections)):
            lines = "".join(json.dumps(entry) + "\n" for entry in entries)
            (out / f"{name}.jsonl").write_text(lines)
        summary = {
            "found": len(samples) + len(rejections),
            "written": {split: len(some) for split, some in written.items()},
            "rejected": Counter(entry["reason"] for entry in rejections),
            "measured_only": list(measured_only),
            "set": {"schema_version": 1, "samples_per_shard": 4, "parameters": parameters},
        }
        (out / "summary.json").write_text(json.dumps(summary))
        return out

    return write


@pytest.fixture(scope="session")
def make_labelled() -> Callable[..., Sample]:
    """Factory of small samples: (number, split, measures, **provenance) -> Sample, K = number."""

    def make(number: int, split: str = "train", measures: Mapping = {}, **provenance) -> Sample:
        generator = torch.Generator().manual_seed(number)
        aif = torch.randint(0, 256, (3, 12, 16), generator=generator, dtype=torch.uint8)
        return Sample(
            key=f"made-{number:03d}",
            route="aperture_series",
            split=split,
            aif=aif,
            bokeh=aif // 2,
            disparity=torch.linspace(0, 1, 192).reshape(12, 16),
            strength=BlurStrength(float(number), 12, 16),
            focus_disparity=0.25,
            mask=torch.arange(192).reshape(12, 16) % 2 == 0,
            provenance={
                "source": f"scene/{number}.jpg",
                "measures": dict(measures),
                "code_version": "0.1.0",
                **provenance,
            },
        )

    return make
