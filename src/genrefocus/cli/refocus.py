"""``genrefocus refocus``: another depth of field for a photograph, by the trained networks."""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from genrefocus.assembly import pipeline_from_flux, pipeline_from_run
from genrefocus.cli.inputs import (
    add_resize_depth_argument,
    load_disparity,
    load_mask,
    open_upright,
    parse_pixel,
)
from genrefocus.data.images import load_image
from genrefocus.estimators import DepthEstimator, DepthPro
from genrefocus.network_card import latest_run
from genrefocus.optics import BlurStrength
from genrefocus.pipeline import DEBLUR_PROMPT, STEPS, Focus, RefocusPipeline, Report

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument("--focus", metavar="X,Y", help="pixel that shall be sharp")
    focus.add_argument("--mask", type=Path, metavar="M.png", help="sharp where not black")
    parser.add_argument(
        "--k",
        required=True,
        metavar="K[,K...]",
        help="blur in px at 1/m for PHOTO's size; several make a sweep, OUT_k5.png and so on",
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT")

    networks = parser.add_argument_group("networks")
    source = networks.add_mutually_exclusive_group()
    source.add_argument(
        "--run",
        default="latest",
        metavar="FOLDER",
        help="training run, or latest: the newest below ./outputs (default: latest)",
    )
    source.add_argument("--flux", metavar="PATH", help="FLUX.1-dev: folder or hub id")
    networks.add_argument("--deblur-lora", type=Path, metavar="FILE", help="for --flux")
    networks.add_argument("--bokeh-lora", type=Path, metavar="FILE", help="for --flux")
    networks.add_argument(
        "--vae-tiling", action="store_true", help="encode large pictures in tiles (FLUX's memory)"
    )
    networks.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: cuda where there is one"
    )

    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--depth", type=Path, metavar="D.npy", help="metres, (H, W)")
    depth.add_argument(
        "--depth-model", metavar="MODEL", help="Depth Pro: folder, or hub id as ID@COMMIT"
    )
    add_resize_depth_argument(parser)

    parser.add_argument("--no-deblur", action="store_true", help="PHOTO is sharp everywhere")
    parser.add_argument("--prompt-deblur", metavar="TEXT", help="what DeblurNet is asked for")
    parser.add_argument("--steps", type=int, metavar="N", help="Euler steps of both networks")
    parser.add_argument("--long-edge", type=int, metavar="N", help="scale to N px, crop to tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--save-aif", type=Path, metavar="FILE", help="the all-in-focus picture")
    parser.add_argument(
        "--save-map", type=Path, metavar="FILE.png", help="the defocus map, 16 bit, 65535 for 1"
    )


def run(args: argparse.Namespace) -> int:
    """Check all input first, for the networks take their time."""
    start = time.perf_counter()
    outputs = _outputs(args)
    _require_consistent(args)
    photo = load_image(args.photo)
    size = (photo.shape[-2], photo.shape[-1])
    strengths = {path: BlurStrength(k, *size) for path, k in outputs.items()}
    focus: Focus = load_mask(args.mask, *size) if args.mask else parse_pixel(args.focus, *size)
    disparity = None
    if args.depth is not None:
        disparity = load_disparity(args.depth, *size, args.resize_depth)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = _pipeline(args, device)
    estimator = _estimator(args, device)
    profile = _colour_profile(args.photo)
    with _progress() as report:
        scene = pipeline.prepare(
            photo,
            focus=focus,
            disparity=disparity,
            estimator=estimator,
            long_edge=args.long_edge,
            seed=args.seed,
            report=report,
        )
    if args.save_aif is not None:
        _save(scene.aif, args.save_aif, profile)
    for path, strength in strengths.items():
        with _progress() as report:
            result = pipeline.refocus(scene, strength, seed=args.seed, report=report)
        _save(result.image, path, profile)
        if args.save_map is not None:
            _save_map(result.defocus, _numbered(args.save_map, strength.k, len(strengths)))
        line = {
            "output": str(path),
            "focus_disparity": scene.focus_disparity,
            "k": strength.k,
            "size": [result.strength.width, result.strength.height],
            "seconds": round(time.perf_counter() - start, 3),
        }
        print(json.dumps(line, allow_nan=False), flush=True)
        start = time.perf_counter()
    return 0


def _outputs(args: argparse.Namespace) -> dict[Path, float]:
    """File -> K; every file can be written as far as its name tells."""
    try:
        values = list(dict.fromkeys(float(part) for part in args.k.split(",")))
    except ValueError:
        raise ValueError(f"--k '{args.k}': give a number, or several as 0,5,10,15") from None
    _require_writable("-o", args.output, PICTURES)
    if args.save_aif is not None:
        _require_writable("--save-aif", args.save_aif, PICTURES)
    if args.save_map is not None:
        _require_writable("--save-map", args.save_map, (".png",))
    return {_numbered(args.output, k, len(values)): k for k in values}


def _numbered(path: Path, k: float, count: int) -> Path:
    return path if count == 1 else path.with_stem(f"{path.stem}_k{k:g}")


def _require_writable(option: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{option} {path}: give a name that ends in {' '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{option} {path}: there is no folder {path.parent}")


def _require_consistent(args: argparse.Namespace) -> None:
    if args.depth is None and args.depth_model is None:
        raise ValueError(
            "no depth: give --depth D.npy, metres of the upright photograph, or --depth-model with "
            "a folder of Depth Pro"
        )
    loras = args.deblur_lora is not None or args.bokeh_lora is not None
    if args.no_deblur and args.prompt_deblur is not None:
        raise ValueError("--prompt-deblur asks DeblurNet, which --no-deblur leaves out")
    if args.flux is None and loras:
        raise ValueError("--deblur-lora and --bokeh-lora belong to --flux PATH; a run has its own")
    if args.flux is not None and args.bokeh_lora is None:
        raise ValueError("--flux needs --bokeh-lora FILE")
    if args.flux is not None and (args.deblur_lora is None) != args.no_deblur:
        raise ValueError("--flux needs either --deblur-lora FILE or --no-deblur")
    for name in ("steps", "long_edge"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: give 1 or more")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed}: give 0 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device; use --device cpu")


def _pipeline(args: argparse.Namespace, device: str) -> RefocusPipeline:
    if args.flux is not None:
        return pipeline_from_flux(
            args.flux,
            deblur_lora=args.deblur_lora,
            bokeh_lora=args.bokeh_lora,
            deblur_prompt=DEBLUR_PROMPT if args.prompt_deblur is None else args.prompt_deblur,
            steps=args.steps or STEPS,
            device=device,
            vae_tiling=args.vae_tiling,
        )
    run: str | Path = args.run
    if run == "latest":
        run = latest_run("outputs", ("bokeh",) if args.no_deblur else ("deblur", "bokeh"))
    return pipeline_from_run(
        run,
        deblur=not args.no_deblur,
        deblur_prompt=args.prompt_deblur,
        steps=args.steps,
        device=device,
        vae_tiling=args.vae_tiling,
    )


def _estimator(args: argparse.Namespace, device: str) -> DepthEstimator | None:
    if args.depth_model is None:
        return None
    if Path(args.depth_model).is_dir():
        return DepthPro(args.depth_model, device=device)
    model, _, revision = args.depth_model.partition("@")
    if not revision:
        raise ValueError(
            f"--depth-model {model} is no local folder; for a hub id name the commit too: "
            f"{model}@COMMIT"
        )
    return DepthPro(model, revision=revision, device=device)


def _colour_profile(photo: Path) -> bytes | None:
    """The ICC profile that the photograph's numbers mean, if it is one of RGB."""
    with open_upright(photo, "photograph") as image:
        return image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None


def _save(image: Tensor, path: Path, profile: bytes | None) -> None:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, quality=95, icc_profile=profile)


def _save_map(defocus: Tensor, path: Path) -> None:
    Image.fromarray(np.round(defocus.numpy() * 65535).astype(np.uint16)).save(path)


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on stderr with the time that remains; it ends before anything else is printed."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=Console(stderr=True))

    def report(stage: str, done: int, total: int) -> None:
        if done == 0:
            bars.start()
            bars.add_task(stage, total=total)
        bars.update(bars.task_ids[-1], completed=done)

    try:
        yield report
    finally:
        if bars.task_ids:  # an unused bar would print an empty line
            bars.stop()
