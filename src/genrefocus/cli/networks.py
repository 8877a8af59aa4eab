"""The networks that a command's options name, see ``cli.arguments``, loaded."""

import argparse
from collections.abc import Sequence

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


def cards_of(
    runs: Sequence[str], *, deblur: bool = True, option: str = "--run"
) -> dict[NetworkTask, NetworkCard]:
    """The networks of runs: those of a later one replace those of the ones before.

    Args:
        runs: folders, or ``latest``: the newest that has all networks.
        deblur: whether DeblurNet is one of them.
        option: gives the folder of a run, for messages.

    Raises:
        FileNotFoundError: there is no run, or one without a network.
    """
    wanted: tuple[NetworkTask, ...] = ("deblur", "bokeh") if deblur else ("bokeh",)
    cards = dict[NetworkTask, NetworkCard]()
    for run in runs:
        folder = latest_run("outputs", wanted, option=option) if run == "latest" else run
        if not (found := networks_of(folder)):
            raise FileNotFoundError(f"{folder} has no network: no network.json with its LoRA file")
        cards |= found
    return cards


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
        runs = args.run or ["latest"]
        origin, cards = " and ".join(runs), cards_of(runs, deblur=not args.no_deblur)
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
