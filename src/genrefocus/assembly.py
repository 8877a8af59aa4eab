"""A refocusing pipeline from files: a training run, or FLUX.1-dev with released LoRA weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from genrefocus.backbone import Backbone, load_flux_dev, load_tiny
from genrefocus.backbone.codec import VaeCodec
from genrefocus.backbone.lora import load_lora
from genrefocus.editing import Editor, edit_pictures
from genrefocus.flow import Flow
from genrefocus.network_card import (
    BackboneSource,
    Network,
    latest_run,
    networks_of,
    require_backbone,
)
from genrefocus.pipeline import (
    BOKEH_GUIDANCE,
    DEBLUR_GUIDANCE,
    DEBLUR_PROMPT,
    STEPS,
    RefocusPipeline,
)
from genrefocus.sampling import DraftIds

Device = str | torch.device
T = TypeVar("T")


def pipeline_from_run(
    run: str | Path,
    *,
    deblur: bool = True,
    deblur_prompt: str | None = None,
    steps: int | None = None,
    device: Device = "cpu",
    vae_tiling: bool = False,
) -> RefocusPipeline:
    """The camera that a training run made, as its network cards describe it.

    Args:
        run: folder of a run, or of one of its stages.
        deblur: False leaves DeblurNet out.
        deblur_prompt, steps: in place of the cards'.
        device: where the networks run.
        vae_tiling: see :func:`pipeline_from_flux`.

    Raises:
        FileNotFoundError: a network or its backbone is missing.
        ValueError: files do not fit their card, or there is a ``deblur_prompt`` but no DeblurNet.
    """
    networks = networks_of(run)
    if "bokeh" not in networks:
        raise FileNotFoundError(f"{run} has no BokehNet: no network.json of one with its LoRA file")
    bokeh = networks["bokeh"]
    blurry = _deblurnet(run, networks.get("deblur")) if deblur and not _direct(bokeh) else None
    if blurry is None and deblur_prompt is not None:
        raise ValueError(f"no DeblurNet takes part that could be asked for '{deblur_prompt}'")
    backbones: dict[BackboneSource, Backbone] = {}

    def editor(network: Network) -> Editor:
        source = require_backbone(network)
        if source not in backbones:
            backbones[source] = _load(source, device, vae_tiling)
        return _editor(network, backbones[source])

    pipeline = RefocusPipeline(
        editor(blurry) if blurry else None,
        editor(bokeh),
        deblur_prompt=_first(deblur_prompt, blurry.card.prompt if blurry else DEBLUR_PROMPT),
        bokeh_prompt=bokeh.card.prompt,
        deblur_steps=_first(steps, blurry.card.steps if blurry else STEPS),
        bokeh_steps=_first(steps, bokeh.card.steps),
        largest_radius=bokeh.card.largest_radius,
        deblur_takes_draft=blurry is not None and blurry.card.variant == "pre_deblur",
    )
    return _with_prompts_embedded(pipeline)


def pipeline_from_flux(
    flux: str,
    *,
    deblur_lora: str | Path | None,
    bokeh_lora: str | Path,
    deblur_prompt: str = DEBLUR_PROMPT,
    steps: int = STEPS,
    device: Device = "cpu",
    vae_tiling: bool = False,
    deblur_takes_draft: bool = False,
    draft_ids: DraftIds = "released",
) -> RefocusPipeline:
    """The camera of the released weights, or of others in their format, on FLUX.1-dev in bf16.

    Args:
        flux: folder or hub id of FLUX.1-dev.
        deblur_lora, bokeh_lora: LoRA files; None leaves DeblurNet out.
        deblur_prompt, steps: see :class:`RefocusPipeline`.
        device: where the networks run.
        vae_tiling: encode and decode large pictures in tiles, which bounds the memory of the
            autoencoder and changes the result a little.
        deblur_takes_draft: the DeblurNet is the pre-deblur variant.
        draft_ids: position ids of its draft in tiles, see :class:`genrefocus.sampling.Tiling`.

    Raises:
        FileNotFoundError, ValueError: a LoRA file is missing or does not fit.
        OSError: FLUX is neither a local folder nor reachable on the hub.
    """
    for file in (deblur_lora, bokeh_lora):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"LoRA file {file} does not exist")
    backbone = _load(BackboneSource("flux_dev", flux), device, vae_tiling)

    def editor(file: str | Path, guidance: float) -> Editor:
        lora = load_lora(file, backbone.transformer).requires_grad_(False)
        return Editor(backbone, Flow(), loras=(lora,), guidance=guidance, draft_ids=draft_ids)

    pipeline = RefocusPipeline(
        None if deblur_lora is None else editor(deblur_lora, DEBLUR_GUIDANCE),
        editor(bokeh_lora, BOKEH_GUIDANCE),
        deblur_prompt=deblur_prompt,
        deblur_steps=steps,
        bokeh_steps=steps,
        deblur_takes_draft=deblur_takes_draft,
    )
    return _with_prompts_embedded(pipeline)


@dataclass(frozen=True)
class Deblurrer:
    """DeblurNet by itself: photographs to all-in-focus pictures.

    Attributes:
        editor: the network.
        prompt, steps, seed: how it is asked.
        name: of the weights, with a digest, for provenance.
        origin: where they lie, for messages.
    """

    editor: Editor
    prompt: str
    steps: int
    seed: int
    name: str
    origin: str = ""

    def __call__(self, photographs: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] of any size to the same shape, with the noise of the numbers."""
        return edit_pictures(
            self.editor,
            photographs,
            prompt=self.prompt,
            steps=self.steps,
            seed=self.seed,
            numbers=numbers,
        )


def deblurrer_from_run(
    run: str | Path,
    *,
    outputs: str | Path,
    steps: int | None = None,
    seed: int = 0,
    device: Device = "cpu",
) -> Deblurrer:
    """The DeblurNet of a training run.

    Args:
        run: folder of a run, or of its stage; ``latest`` is the newest below ``outputs``.
        outputs: where ``latest`` looks.
        steps: in place of the card's.
        seed: of the noise.
        device: where it runs.

    Raises:
        FileNotFoundError: no run, no network in it, or its backbone is missing.
        ValueError: files do not fit their card, or it wants a deblurred draft.
    """
    folder = latest_run(outputs, ("deblur",)) if run == "latest" else Path(run)
    network = _deblurnet(folder, networks_of(folder).get("deblur"))
    if network.card.variant == "pre_deblur":
        raise ValueError(
            f"{network.lora} reads a deblurred draft beside the photograph, and here there is "
            "none; use a DeblurNet without one"
        )
    editor = _editor(network, _load(require_backbone(network), device, vae_tiling=False))
    card = network.card
    lora = network.lora
    return Deblurrer(editor, card.prompt, _first(steps, card.steps), seed, _named(lora), str(lora))


def deblurrer_from_lora(
    flux: str,
    *,
    lora: str | Path,
    prompt: str = DEBLUR_PROMPT,
    steps: int = STEPS,
    seed: int = 0,
    device: Device = "cpu",
) -> Deblurrer:
    """A DeblurNet as a LoRA file on FLUX.1-dev: the released weights, or others in their format.

    Arguments and errors as for :func:`pipeline_from_flux`.
    """
    if not Path(lora).is_file():
        raise FileNotFoundError(f"LoRA file {lora} does not exist")
    backbone = _load(BackboneSource("flux_dev", flux), device, vae_tiling=False)
    adapter = load_lora(lora, backbone.transformer).requires_grad_(False)
    editor = Editor(backbone, Flow(), loras=(adapter,), guidance=DEBLUR_GUIDANCE)
    return Deblurrer(editor, prompt, steps, seed, _named(Path(lora)), str(lora))


def deblurrer_of(pipeline: RefocusPipeline, *, lora: str | Path, seed: int = 0) -> Deblurrer:
    """The DeblurNet of a pipeline by itself; nothing is loaded again.

    Args:
        pipeline: with a DeblurNet.
        lora: its file, for provenance.
        seed: of the noise.
    """
    assert pipeline.deblur is not None
    prompt, steps = pipeline.deblur_prompt, pipeline.deblur_steps
    return Deblurrer(pipeline.deblur, prompt, steps, seed, _named(Path(lora)), str(lora))


def without_deblur(pipeline: RefocusPipeline) -> RefocusPipeline:
    """The same pipeline for pictures that are all in focus; nothing is loaded again."""
    return RefocusPipeline(
        None,
        pipeline.bokeh,
        bokeh_prompt=pipeline.bokeh_prompt,
        bokeh_steps=pipeline.bokeh_steps,
        depth_resize=pipeline.depth_resize,
        largest_radius=pipeline.largest_radius,
    )


def _named(lora: Path) -> str:
    return f"{lora.name} {hashlib.sha256(lora.read_bytes()).hexdigest()[:16]}"


def _first(chosen: T | None, default: T) -> T:
    return default if chosen is None else chosen


def _direct(bokeh: Network) -> bool:
    return bokeh.card.variant == "direct"


def _deblurnet(run: str | Path, network: Network | None) -> Network:
    if network is None:
        raise FileNotFoundError(
            f"{run} has no DeblurNet: no network.json of one with its LoRA file; train it, or "
            "leave deblurring out"
        )
    return network


def _editor(network: Network, backbone: Backbone) -> Editor:
    card = network.card
    lora = load_lora(network.lora, backbone.transformer).requires_grad_(False)
    if lora.rank != card.rank:
        raise ValueError(f"{network.lora} has rank {lora.rank} but its card says {card.rank}")
    return Editor(
        backbone,
        card.flow,
        loras=(lora,),
        guidance=card.guidance,
        independent=card.independent,
        draft_ids=card.draft_ids,
    )


def _load(source: BackboneSource, device: Device, vae_tiling: bool) -> Backbone:
    if source.kind == "tiny":
        return load_tiny(source.path, device=device)
    backbone = load_flux_dev(source.path, device=device, gradient_checkpointing=False)
    if vae_tiling:
        assert isinstance(backbone.codec, VaeCodec)
        backbone.codec.vae.enable_tiling()
    return backbone


def _with_prompts_embedded(pipeline: RefocusPipeline) -> RefocusPipeline:
    """The pipeline with its prompts encoded in one go, for which FLUX loads its encoders once."""
    prompts = [pipeline.bokeh_prompt]
    if pipeline.deblur is not None and pipeline.deblur.backbone is pipeline.bokeh.backbone:
        prompts.append(pipeline.deblur_prompt)
    pipeline.bokeh.backbone.embed(prompts)
    return pipeline
