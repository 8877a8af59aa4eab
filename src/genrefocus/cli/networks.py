"""The networks that a command's options name, see ``cli.arguments``, loaded."""

import argparse

import torch

from genrefocus.network import MemoryUse
from genrefocus.network_card import (
    NetworkCard,
    NetworkTask,
    NetworkVariant,
    latest_run,
    networks_of,
    released_card,
    require_shape,
)
from genrefocus.pipeline import RefocusPipeline, load_pipeline


def device_of(args: argparse.Namespace) -> str:
    """What ``--device`` says, else a GPU where there is one.

    Raises:
        ValueError: a GPU that is not there.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device; use --device cpu")
    return str(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def pipeline_of(
    args: argparse.Namespace, device: str, *, variant: NetworkVariant = "standard"
) -> RefocusPipeline:
    """The networks of ``--run``, or of LoRA files on ``--flux``; ``variant`` is their DeblurNet's.

    Raises:
        FileNotFoundError, ValueError: see :func:`genrefocus.pipeline.load_pipeline`.
    """
    origin, cards = args.flux, dict[NetworkTask, NetworkCard]()
    if args.flux is not None:
        bokeh = released_card("bokeh", args.flux, args.bokeh_lora, shape_lora=args.shape_lora)
        cards["bokeh"] = bokeh
        if args.deblur_lora is not None:
            cards["deblur"] = released_card("deblur", args.flux, args.deblur_lora, variant=variant)
    else:
        origin = args.run
        if origin == "latest":
            wanted: tuple[NetworkTask, ...] = ("bokeh",) if args.no_deblur else ("deblur", "bokeh")
            origin = latest_run("outputs", wanted, option="--run")
        cards = networks_of(origin)
    if getattr(args, "aperture", None) is not None and "bokeh" in cards:
        require_shape(cards["bokeh"])
    return load_pipeline(
        cards,
        origin,
        deblur=not args.no_deblur,
        deblur_prompt=args.deblur_prompt,
        bokeh_prompt=args.bokeh_prompt,
        steps=args.steps,
        device=device,
        memory=MemoryUse(
            vae_tiling=args.vae_tiling,
            quantise=args.quantise,
            offload=args.offload,
            tile_batch=args.tile_batch,
            cache_gib=args.cache_gib,
        ),
    )
