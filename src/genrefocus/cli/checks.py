"""What is wrong with arguments together, before a single heavy library is imported."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from genrefocus.rejection import Rejected
from genrefocus.runs import has_network, latest_of

ANIMATIONS = (".gif", ".webp", ".mp4")
MOVING = (".gif", ".mp4")  # hold nothing else
_BLADED = ("hexagon", "polygon")


def control(args: argparse.Namespace) -> None:
    _focus_inside(args.focus, args.image)


def render(args: argparse.Namespace) -> None:
    _focus_inside(args.focus, args.image)
    for option, value in (("--cats-eye", args.cats_eye), ("--edge-width", args.edge_width)):
        if args.renderer == "scatter" and value is not None:
            raise ValueError(f"{option} needs --renderer layered; scatter knows nothing of it")
    if args.curvature is not None and not args.aperture.startswith(_BLADED):
        raise ValueError(f"--curvature is for polygons; --aperture {args.aperture} has no blades")
    _rotation(args)


def refocus(args: argparse.Namespace) -> None:
    if args.depth is None and args.depth_model is None:
        raise ValueError(
            "no depth: give --depth D.npy, metres of the upright photograph, or --depth-model with "
            "an ONNX file, or with a depth network of transformers as FOLDER or ID@COMMIT"
        )
    if args.subject and args.subject_model is None:
        raise ValueError("--subject needs --subject-model, an ONNX file or a folder of BiRefNet")
    _estimators(args, subject=args.subject)
    _pull(args)
    if args.no_deblur and args.draft is not None:
        raise ValueError("--draft is for DeblurNet, which --no-deblur leaves out")
    if args.no_deblur and (args.source_k is not None or args.source_focus is not None):
        raise ValueError("--source-k, --source-focus: for DeblurNet, which --no-deblur leaves out")
    _networks(args)
    _rotation(args)
    if args.flux is not None and args.aperture is not None and args.shape_lora is None:
        raise ValueError("--aperture with --flux needs --shape-lora FILE")
    _focus_inside(args.focus, args.photo)


def serve(args: argparse.Namespace) -> None:
    _estimators(args, subject=args.subject_model is not None)
    _networks(args)
    if find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install -e '.[app]'")


def _networks(args: argparse.Namespace) -> None:
    loras = args.deblur_lora is not None or args.bokeh_lora is not None
    if args.no_deblur and args.deblur_prompt is not None:
        raise ValueError("--deblur-prompt asks DeblurNet, which --no-deblur leaves out")
    if args.flux is None and loras:
        raise ValueError("--deblur-lora and --bokeh-lora belong to --flux PATH; a run has its own")
    if args.flux is None and args.shape_lora is not None:
        raise ValueError("--shape-lora belongs to --flux PATH; a run has its own")
    if args.flux is not None and args.bokeh_lora is None:
        raise ValueError("--flux needs --bokeh-lora FILE")
    if args.flux is not None and (args.deblur_lora is None) != args.no_deblur:
        raise ValueError("--flux needs either --deblur-lora FILE or --no-deblur")
    if args.flux is None:
        _runs_exist(args.run or ["latest"])


def _estimators(args: argparse.Namespace, *, subject: bool) -> None:
    """Options of networks have their network; ``subject`` says whether that one is used."""
    for what, used in (("depth", args.depth_model), ("subject", subject)):
        model = getattr(args, f"{what}_model")
        is_file = model is not None and model.endswith(".onnx")
        for more in ("kind", "range", "pixels", "model"):
            if getattr(args, f"{what}_{more}", None) and not used:
                needed = "--depth-model" if what == "depth" else "--subject"
                raise ValueError(f"--{what}-{more} does nothing without {needed}")
        if model and getattr(args, f"{what}_pixels") and not is_file:
            raise ValueError(f"--{what}-pixels is for ONNX files; {model} says it itself")
        if model and not is_file and not Path(model).is_dir() and "@" not in model:
            raise ValueError(
                f"--{what}-model {model} is no local folder; for a hub id name the commit too: "
                f"{model}@COMMIT"
            )
        if is_file and not Path(model).is_file():
            raise FileNotFoundError(f"--{what}-model {model} does not exist; give an ONNX file")
        if is_file and what == "depth":
            _require_stated(args)
        if is_file and find_spec("onnxruntime") is None:
            raise ValueError(f"--{what}-model {model} needs onnxruntime: pip install -e '.[onnx]'")


def _require_stated(args: argparse.Namespace) -> None:
    """What no ONNX file of depth says; whether it says how it reads pixels is seen in the file."""
    kind, lacking = args.depth_kind, []
    if kind is None:
        lacking.append("--depth-kind metric, relative_disparity or relative_depth")
    if kind != "metric" and args.depth_range is None:
        lacking.append("--depth-range NEAR,FAR in metres" + " (not if metric)" * (kind is None))
    if lacking and args.depth_pixels is None:
        lacking.append("--depth-pixels RANGE (see --help; not if it reads bytes)")
    if lacking:
        raise ValueError(f"{args.depth_model} does not say how it is used: {'; '.join(lacking)}")


def _rotation(args: argparse.Namespace) -> None:
    turned = args.aperture is not None and args.aperture.startswith((*_BLADED, "star", "heart"))
    if args.rotation is not None and not turned:
        raise ValueError(
            f"--rotation is for polygons, stars and hearts, not for --aperture {args.aperture}"
        )


def _pull(args: argparse.Namespace) -> None:
    """Frames, what changes over them, and a file that can hold them go together."""
    blur = args.k if args.f_number is None else args.f_number
    pulled = isinstance(blur, tuple)
    moving, animated = (
        args.output.suffix.lower() in MOVING,
        args.output.suffix.lower() in ANIMATIONS,
    )
    if args.frames is None:
        if pulled or args.focus_to is not None:
            raise ValueError("a pull of focus or aperture needs --frames N and -o OUT.gif")
        if moving:
            raise ValueError(f"{args.output} is for a pull: give --frames N and what changes")
        return
    if not pulled and args.focus_to is None:
        raise ValueError("--frames needs what changes: --focus-to X,Y, --k 0:15 or --f-number 16:2")
    if not pulled and len(blur) > 1:
        raise ValueError("--frames takes one --k or --f-number, or the ends of a pull as 0:15")
    if not animated:
        raise ValueError(f"--frames: {args.output} cannot hold frames; give {' '.join(ANIMATIONS)}")
    if args.output.suffix.lower() == ".mp4" and find_spec("av") is None:
        raise ValueError(
            "MP4 needs PyAV (`pip install av`, the extra `video`); or give OUT.gif or OUT.webp"
        )
    if args.save_map is not None:
        raise ValueError("--save-map is for single images; leave it or --frames out")
    _focus_inside(args.focus_to, args.photo)


def export(args: argparse.Namespace) -> None:
    if args.folder.is_dir() and any(args.folder.iterdir()):
        raise ValueError(f"{args.folder} is not empty; name a new folder")
    _runs_exist(args.runs, "genrefocus export")


def lightfield(args: argparse.Namespace) -> None:
    low, high = args.blur
    if not 0 < low <= high:
        raise ValueError(f"--blur {low} {high}: give two radii in px, 0 < LOW <= HIGH")


def calibrate(args: argparse.Namespace) -> None:
    if args.reviewed is not None and not args.reviewed.is_file():
        raise FileNotFoundError(
            f"reviewed list {args.reviewed} does not exist; --template {args.reviewed} makes one"
        )


def compare(args: argparse.Namespace) -> None:
    if len(args.folders) < 2:
        raise ValueError("give two results folders or more; report.html in a folder shows one")


def verify_resume(args: argparse.Namespace) -> None:
    if args.kill_at is not None and args.kill_at >= args.steps:
        raise ValueError(f"--kill-at {args.kill_at} of --steps {args.steps}: give 0 < M < N")


def _runs_exist(runs: Sequence[str], option: str = "--run") -> None:
    for run in runs:
        if run == "latest":
            latest_of("outputs", has_network, "a network", option)
        elif not Path(run).is_dir():
            raise FileNotFoundError(f"{option} {run} does not exist; give the folder of a run")


def _focus_inside(focus: tuple[int, int] | None, image: Path) -> None:
    """The pixel lies in the image as it is stored, or turned: upright it is checked when read."""
    from genrefocus.photograph.decoding import image_size

    try:
        height, width = image_size(image)
    except Rejected:  # reading it says why
        return
    if focus is None:
        return
    inside = min(focus) >= 0 and max(focus) < max(height, width)
    if not inside or min(focus) >= min(height, width):
        x, y = focus
        raise ValueError(f"focus {x},{y} lies outside the {width}x{height} px image (WxH)")
