"""``genrefocus refocus``: another depth of field for a photograph, by the trained networks."""

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genrefocus.cli.inputs import (
    aperture_named,
    depth_estimator,
    load_disparity,
    load_focus_mask,
    read_photograph,
    subject_of,
)
from genrefocus.cli.networks import device_of, pipeline_of
from genrefocus.data.images import Photograph, load_image, save_animation, save_map
from genrefocus.data.sample import to_uint8
from genrefocus.focus import Focus, SourceBlur, carried, plane_of_focus
from genrefocus.geometry import View, long_edge_sizes, require_inside
from genrefocus.network_card import NetworkVariant
from genrefocus.optics import BlurStrength, Lens, blur_strength_from_exif, visible_blur
from genrefocus.photograph.exif import read_exposure
from genrefocus.pipeline import BeyondTraining, PreparedPhoto, RefocusPipeline, Report
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture
from genrefocus.terminal import Bars

_MANY_TILES = 64


def run(args: argparse.Namespace) -> int:
    """Check all input first, for the networks take their time."""
    start = time.perf_counter()
    device = device_of(args)
    photo = read_photograph(args.photo)
    size = photo.size
    scale = 1.0 if args.long_edge is None else args.long_edge / max(size)
    lens = _lens(args)
    estimator = None if args.depth_model is None else depth_estimator(args, device)
    focus = subject_of(photo.image, args, device) if args.subject else _focus(args, size)
    if args.focus_to is not None:
        require_inside(args.focus_to, *size)
    disparity = None
    if args.depth is not None:
        disparity = load_disparity(args.depth, *size, args.resize_depth)
    draft = None if args.draft is None else load_image(args.draft)
    aperture = None if args.aperture is None else aperture_named(args.aperture, args.rotation)
    told = args.source_k not in (None, "none") or args.source_focus is not None
    variant: NetworkVariant = "pre_deblur" if args.draft else "told" if told else "standard"
    pipeline = pipeline_of(args, device, variant=variant)
    if args.long_edge is None:
        _notice_of_tiles(args.photo, size, pipeline)
    else:
        _notice_of_crop(args.photo, size, args.long_edge, pipeline.pixel_multiple)
    takes_map = pipeline.deblur is not None and pipeline.deblur.takes_map
    source, origin = _source(args, size, takes_map)
    with _progress() as report:
        scene = pipeline.prepare(
            photo.image,
            focus=focus,
            disparity=disparity,
            estimator=estimator,
            long_edge=args.long_edge,
            seed=args.seed,
            report=report,
            draft=draft,
            source=source,
        )
    _warn_of_own_blur(scene, pipeline.bokeh.restored_radius)
    if args.save_aif is not None:
        photo.save(scene.aif, args.save_aif, scale=scale)
    names = {
        **({"aperture": aperture.name} if aperture else {}),
        "network": pipeline.bokeh.origin,
        **({} if estimator is None else {"depth": estimator.name}),
        **({"source": _told(scene, origin)} if takes_map else {}),
    }
    shots = _shots(args, scene, lens, size)
    for written in _images(args, photo, pipeline, scene, shots, aperture, scale):
        seconds = round(time.perf_counter() - start, 3)
        print(json.dumps(written | names | {"seconds": seconds}, allow_nan=False), flush=True)
        start = time.perf_counter()
    return 0


def _notice_of_tiles(path: Path, size: tuple[int, int], pipeline: RefocusPipeline) -> None:
    """Say on stderr how many tiles a photograph of ``size`` (H, W) px is, where they are many."""
    multiple, tiles = pipeline.pixel_multiple, 0
    height, width = (math.ceil(side / multiple) * multiple for side in size)
    for network in filter(None, (pipeline.deblur, pipeline.bokeh)):
        backbone = network.denoiser.backbone
        tiling = replace(backbone.tiling, batch=1)
        tiles = max(tiles, tiling.forwards(backbone.grid(height, width)))
    if tiles > _MANY_TILES:
        print(
            f"notice: {path}: the networks work at its own size, {size[1]}x{size[0]} px (WxH), in "
            f"{tiles} tiles each; --long-edge N scales it to N px, which takes less time",
            file=sys.stderr,
        )


def _notice_of_crop(path: Path, size: tuple[int, int], long_edge: int, multiple: int) -> None:
    """Say on stderr what the crop to whole tokens takes of a photograph, where it is over 1 %."""

    def much(edge: int) -> bool:
        ends = zip(*long_edge_sizes(size, edge, multiple), strict=True)
        return any(left < 0.99 * scaled for scaled, left in ends)

    scaled, left = long_edge_sizes(size, long_edge, multiple)
    if all(left) and much(long_edge):  # of nothing left the pipeline tells
        other = min(
            range(long_edge // 2, 2 * long_edge), key=lambda n: (much(n), abs(n - long_edge))
        )
        better = "" if other == long_edge else f"; --long-edge {other} keeps all, or nearly"
        print(
            f"notice: {path}: of {scaled[1]}x{scaled[0]} px at --long-edge {long_edge} the middle, "
            f"{left[1]}x{left[0]} px (WxH), is kept, for sides are multiples of {multiple} px"
            f"{better}",
            file=sys.stderr,
        )


def _warn_of_own_blur(scene: PreparedPhoto, restored: float | None) -> None:
    """The blur of the photograph, where it is known, beside what DeblurNet takes away of any.

    From twice ``restored`` (px, see ``optics.lacking_radius``) nine tenths of a radius are left.
    """
    if scene.told is None or restored is None:
        return
    strength, plane = scene.told
    radius = visible_blur(scene.disparity, plane, scene.restated(strength))
    if radius > 2 * restored:
        warnings.warn(
            f"the photograph's own blur has a radius of {radius:.1f} px (K {strength.k:.3g}), and "
            f"DeblurNet takes no more than {restored:.1f} px away: what is out of focus in the "
            "photograph will not get sharp; a smaller --long-edge makes its blur smaller",
            BeyondTraining,
            stacklevel=2,
        )


def _images(
    args: argparse.Namespace,
    photo: Photograph,
    pipeline: RefocusPipeline,
    scene: PreparedPhoto,
    shots: "list[_Shot]",
    aperture: Aperture | None,
    scale: float,
) -> Iterator[dict[str, Any]]:
    """Write an image of each shot, or one animation of all, and describe each file."""
    height, width = photo.size
    frames = []
    for number, shot in enumerate(shots, 1):
        path, strength = _named(args.output, shot.label), BlurStrength(shot.k, height, width)
        planned = replace(scene, focus_disparity=shot.focus_disparity)
        with _progress() as report:
            result = pipeline.refocus(
                planned, strength, seed=args.seed, aperture=aperture, report=report
            )
        if args.frames is None:
            photo.save(result.image, path, scale=scale)
        else:
            frames.append(to_uint8(result.image).permute(1, 2, 0).numpy())
            if number < len(shots):
                continue
            save_animation(frames, path, args.fps)
        if args.save_map is not None:
            save_map(result.defocus, _named(args.save_map, shot.label))
        yield {
            "output": str(path),
            **({"frames": len(frames)} if frames else {}),
            **shot.described(),
            "size": [result.strength.width, result.strength.height],
        }


def _focus(args: argparse.Namespace, size: tuple[int, int]) -> Focus:
    if args.mask:
        return load_focus_mask(args.mask, *size)
    if args.focus_distance:
        return 1 / float(args.focus_distance)
    pixel: tuple[int, int] = args.focus
    require_inside(pixel, *size)
    return pixel


def _lens(args: argparse.Namespace) -> Lens | None:
    """The lens of the photograph, as it is stated or by EXIF; None where K does without it."""
    focal, sensor = args.focal_length, args.sensor_width
    needed = args.f_number is not None or focal is not None or sensor is not None
    if focal is None or sensor is None:
        try:
            facts = read_exposure(args.photo)
        except Rejected as error:
            if not needed:
                return None
            remedy = "state the lens with --focal-length MM and --sensor-width MM"
            raise Rejected(error.reason, error.value, f"{error.detail}; {remedy}") from None
        focal, sensor = focal or facts.focal_length_mm, sensor or facts.sensor_width_mm
    return Lens(focal, sensor)


class _Shot(NamedTuple):
    """An image: what its name gets, plane of focus in 1/m, K, and the F-number of K if known."""

    label: str
    focus_disparity: float
    k: float
    f_number: float | None

    def described(self) -> dict[str, float]:
        numbers = {"focus_disparity": self.focus_disparity, "k": self.k}
        return numbers | ({"f_number": round(self.f_number, 4)} if self.f_number else {})


def _shots(
    args: argparse.Namespace, scene: PreparedPhoto, lens: Lens | None, size: tuple[int, int]
) -> list[_Shot]:
    """The images that are asked for, or the frames of a pull: even in disparity and in K."""
    by_k = args.f_number is None
    values = args.k if by_k else [1 / f for f in args.f_number]  # K is proportional to 1 / F
    planes = [scene.focus_disparity] * len(values)
    labels = [
        f"_{'k' if by_k else 'f'}{repr(v).removesuffix('.0')}" for v in args.k or args.f_number
    ]
    if args.frames is not None:
        last = scene.focus_disparity
        if args.focus_to is not None:
            pixel = args.focus_to
            if args.long_edge is not None:
                pixel = carried(pixel, size, View(scene.aif), args.long_edge)
            last = plane_of_focus(scene.disparity, pixel)
        planes = np.linspace(scene.focus_disparity, last, args.frames).tolist()
        values = np.linspace(values[0], values[-1], args.frames).tolist()
    if len(labels) == 1 or args.frames is not None:
        labels = [""] * len(values)
    shots = []
    for label, plane, value in zip(labels, planes, values, strict=True):
        try:
            # Of F-number 1.
            widest = None if lens is None else blur_strength_from_exif(lens, plane, *size).k
        except Rejected:
            if not by_k:
                raise
            widest = None  # K needs no lens
        k = value
        if not by_k:
            assert widest is not None
            k = value * widest
        shots.append(_Shot(label, plane, k, widest / k if widest and k else None))
    return shots


def _named(path: Path, label: str) -> Path:
    return path.with_stem(path.stem + label)


def _source(
    args: argparse.Namespace, size: tuple[int, int], takes_map: bool
) -> tuple[SourceBlur | None, str]:
    """What DeblurNet is told of the photograph's own blur, and where that, or nothing, is from."""
    asked, focus = args.source_k, args.source_focus
    if asked in (None, "exif") and (takes_map or asked or focus):
        try:
            return SourceBlur(read_exposure(args.photo), focus), "exif"
        except Rejected as error:
            if asked or focus:
                remedy = "give its K with --source-k K, or --source-k auto"
                raise Rejected(error.reason, error.value, f"{error.detail}; {remedy}") from None
            return None, error.reason.value
    if asked in (None, "none"):
        return None, "not told"
    if asked == "auto":
        return SourceBlur(None, focus), "found by re-blurring"
    return SourceBlur(BlurStrength(asked, *size), focus), "given"


def _told(scene: PreparedPhoto, origin: str) -> dict[str, Any]:
    if scene.told is None:
        return {"blind": origin}
    strength, focus = scene.told
    return {"k": round(strength.k, 4), "focus_disparity": focus, "from": origin}


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar on stderr with the time that remains; it ends before anything else is printed."""
    bars = Bars()

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
