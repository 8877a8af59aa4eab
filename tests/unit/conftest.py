"""Tiny FLUX parts, adapters and CLIPs; folders that preparations and benchmarks leave."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL import Image
from torch import nn

from genrefocus.backbone import Lora
from genrefocus.backbone.flux import FLUX_DEV_CONFIG, FLUX_DEV_VAE
from genrefocus.benchmark.protocol import BenchmarkProtocol, load_protocol, write_protocol
from genrefocus.data.sample import SPLITS, Sample
from genrefocus.data.shards import write_set
from genrefocus.flow import Flow, SigmaDistribution
from genrefocus.network_card import BackboneSource, NetworkCard
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
#: sizes of FLUX.1-dev for what is tracked of a step: some blocks at full width, or narrow ones
SHORT = {"num_layers": 2, "num_single_layers": 6}
NARROW = {"num_layers": 3, "num_single_layers": 4, "attention_head_dim": 16}
NARROW |= {"num_attention_heads": 4, "axes_dims_rope": (4, 6, 6)}
NARROW |= {"joint_attention_dim": 24, "pooled_projection_dim": 24}
_NARROW_VAE = {"block_out_channels": (4,) * 4, "norm_num_groups": 2, "layers_per_block": 1}


@pytest.fixture(scope="session")
def tiny_flux() -> Callable[..., FluxTransformer2DModel]:
    """Factory of frozen random transformers: (**settings) -> FluxTransformer2DModel."""

    def build(**settings) -> FluxTransformer2DModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = FluxTransformer2DModel(**{**TINY_FLUX, **settings})
        return model.requires_grad_(False).eval()

    return build


@pytest.fixture(scope="session")
def tiny_vae() -> Callable[..., AutoencoderKL]:
    """Factory of frozen random autoencoders of FLUX's kind, 4 channels, 2 px a latent."""

    def build(**settings) -> AutoencoderKL:
        given = {
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "latent_channels": 4,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "shift_factor": 0.1159,
            "scaling_factor": 0.3611,
            **settings,
        }
        levels = len(given["block_out_channels"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                **given,
            )
        return model.requires_grad_(False).eval()

    return build


@pytest.fixture
def resize_flux(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Changes FLUX.1-dev for what is tracked, with an autoencoder that takes less than a block."""
    from genrefocus.preflight import tracking

    def resize(changes: dict[str, Any]) -> None:
        monkeypatch.setattr(tracking, "FLUX_DEV_CONFIG", FLUX_DEV_CONFIG | changes)
        monkeypatch.setattr(tracking, "FLUX_DEV_VAE", FLUX_DEV_VAE | _NARROW_VAE)
        tracking._tracked.cache_clear()  # of one size is not that of another

    yield resize
    tracking._tracked.cache_clear()


@pytest.fixture(scope="session")
def network_settings() -> dict[str, Any]:
    """What DeblurNet and BokehNet take beside their backbone: rank 2, one sampling step."""
    return {
        "flow": Flow("residual"),
        "sigma": SigmaDistribution("uniform"),
        "rank": 2,
        "prompt": "a photo",
        "guidance": 1.0,
        "steps": 1,
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
        "warmup_steps": 1,
        "decay_steps": None,
        "seed": 0,
    }


@pytest.fixture(scope="session")
def tiny_card() -> Callable[..., NetworkCard]:
    """Factory of cards of networks on the tiny base: (task, base, **changes) -> NetworkCard."""

    def card(task: str, base: Path, **changes) -> NetworkCard:
        settings = {
            "flow": Flow("residual"),
            "prompt": f"{task} please",
            "guidance": 1.0,
            "steps": 3,
            "rank": 2,
            "lora": "lora.safetensors",
            **changes,
        }
        return NetworkCard(task=task, backbone=BackboneSource("tiny", str(base)), **settings)

    return card


@pytest.fixture(scope="session")
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
            write_set(out / split, some, parameters=own, samples_per_shard=4)
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


@pytest.fixture(scope="session")
def write_results() -> Callable[..., BenchmarkProtocol]:
    """Writer of results: (folder, task, dataset, figures, curves, images, protocol) -> protocol.

    ``figures`` is method -> metric -> values of p00, p01, ...; a text is a failure, None no row. A
    folder can be written to once for every data set. Images are 24 x 16 px of one grey, 0.1 for
    ``input``, 0.9 for ``target`` and between them for the methods, in their order.
    """

    from genrefocus.benchmark.figures import figure_table, read_figures, write_figures

    def write(
        folder: Path,
        task: str,
        dataset: str,
        figures: Mapping[str, Mapping[str, Sequence]],
        curves: Sequence[Mapping] = (),
        images: bool = False,
        protocol: BenchmarkProtocol | None = None,
    ) -> BenchmarkProtocol:
        (folder / "protocols").mkdir(parents=True, exist_ok=True)
        protocol = protocol or load_protocol(task, dataset).filled(
            name=dataset, fingerprint="f0" * 32, found={}
        )
        write_protocol(protocol, folder / f"protocols/{task}-{dataset}.yaml")
        file = folder / "rows.parquet"
        before = read_figures(file).to_numpy().tolist() if file.exists() else []
        rows = [
            (
                task,
                dataset,
                method,
                f"p{number:02d}",
                metric,
                None if isinstance(value, str) else value,
                value if isinstance(value, str) else None,
                protocol.hash,
            )
            for method, metrics in figures.items()
            for metric, values in metrics.items()
            for number, value in enumerate(values)
            if value is not None
        ]
        write_figures(figure_table([*before, *rows]), file)
        with (folder / "curves.jsonl").open("a") as file:
            for curve in curves:
                file.write(json.dumps({"task": task, "dataset": dataset, **curve}) + "\n")
        names = ("input", *figures, "target") if images else ()
        for number, name in enumerate(names):
            place = folder / "images" / task / dataset / name
            place.mkdir(parents=True)
            grey = round(255 * (0.1 + 0.8 * number / (len(names) - 1)))
            for key in {row[3] for row in rows}:
                Image.new("RGB", (24, 16), (grey,) * 3).save(place / f"{key}.png")
        return protocol

    return write


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP in the files of the hub, with a tokenizer of single characters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    folder = tmp_path_factory.mktemp("tiny_clip")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        small |= {"num_attention_heads": 2}
        characters = "abcdefghijklmnopqrstuvwxyz."
        words = [*characters, *(c + "</w>" for c in characters)]
        words += ["<|startoftext|>", "<|endoftext|>"]
        text = {"vocab_size": len(words), "eos_token_id": len(words) - 1}
        text |= {"bos_token_id": len(words) - 2, "max_position_embeddings": 77}
        model = CLIPModel(
            CLIPConfig(
                text_config=small | text,
                vision_config=small | {"image_size": 32, "patch_size": 8},
                projection_dim=16,
                logit_scale_init_value=math.log(100.0),
            )
        )
    model.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    quoted = ", ".join(f'"{word}": {number}' for number, word in enumerate(words))
    (folder / "vocab.json").write_text("{" + quoted + "}")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder
