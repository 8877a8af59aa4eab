"""Sets for the tasks bokeh and refocus, made of light fields: LF-Bokeh and LF-Refocus of one's own.

Every scene gives two photographs through synthetic apertures, each with its own focus and K. One is
a target of ``lf_bokeh``; from each to the other are two pairs of ``lf_refocus``.
"""

import functools
import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator, SeedSequence
from torch import Tensor

from genrefocus import __version__
from genrefocus.benchmark.lightfield.depth import estimate_disparity
from genrefocus.benchmark.lightfield.field import LightField
from genrefocus.benchmark.lightfield.reading import Order, is_light_field, open_light_field
from genrefocus.benchmark.lightfield.refocusing import refocus
from genrefocus.benchmark.lightfield.simulated import Simulated, simulate
from genrefocus.data.processes import ordered_map
from genrefocus.data.sample import Sample, encode
from genrefocus.data.shards import ShardWriter, is_finished, read_index
from genrefocus.optics import BlurStrength
from genrefocus.progress import Bars
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import Aperture, disk
from genrefocus.render.tone import to_bytes
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 1
"""Raised with every change that makes other pictures of the same light fields."""

FOLDERS: Mapping[str, str] = {"bokeh": "lf_bokeh/test", "refocus": "lf_refocus/test"}
"""Task -> folder of its set, below the root."""

REJECTIONS_NAME = "rejections.jsonl"

BLUR_PX = (0.5, 6.0)
"""Greatest blur radius in a picture of the simulated sets, px at 64 px; the draw is log-uniform."""

GRID = 9
_APART = 0.25  # share of the range of disparity between the two planes of focus
_NEIGHBOURS = 2
_SEARCHED_BEYOND = 1.25
_SCENES_PER_SHARD = 8
_LONGEST_NAME = 76

_SIMULATED = """**All of it is simulated.** No camera took these views: they are views of procedural
scenes by day, of texture families that no training data have. Disparity is in 1/m,
K in px at 1/m."""
_CAPTURED = """The views are photographs. Their true scale is not known: **disparity is in px
between neighbouring views**, counted from the farthest surface that was found, and K in px per that
unit. They are no 1/m."""

Encoded = list[tuple[str, str, dict[str, bytes]]]
"""Task, key and members of samples."""


@dataclass(frozen=True)
class Photograph:
    """A picture (3, H, W) in linear light, its focus and the radius of its aperture."""

    light: Tensor
    focus: float
    radius: float


def build_lightfields(
    root: str | Path,
    *,
    seed: int,
    count: int = 24,
    size: int = 64,
    grid: int = GRID,
    workers: int = 2,
    command: str = "",
    progress: bool = True,
) -> dict[str, Path]:
    """Make the sets of simulated light fields where they are not there yet, and a card about them.

    Args:
        root: folder of the sets, created where missing.
        seed: of everything.
        count: scenes; ``lf_bokeh`` gets as many samples, ``lf_refocus`` twice as many.
        size: edge of the pictures, px.
        grid: rows and columns of views, odd.
        workers: processes; 0 works in this one. The bytes do not depend on it.
        command: for the card, what the user typed.
        progress: show a bar with the time that is left on stderr.

    Returns:
        Task -> folder of its set.

    Raises:
        ValueError: a folder holds a set of other parameters.
    """
    parameters = {
        "kind": "simulated light fields",
        "count": count,
        "seed": seed,
        "size": size,
        "grid": grid,
        "blur_px": list(BLUR_PX),
        "generator_version": GENERATOR_VERSION,
    }
    names = [f"simulated-{number:04d}" for number in range(count)]
    make = functools.partial(_simulated, seed=seed, size=size, grid=grid)
    _build(Path(root), names, make, parameters, workers, command, progress)
    return {task: Path(root) / folder for task, folder in FOLDERS.items()}


def build_from_light_fields(
    root: str | Path,
    source: str | Path,
    *,
    seed: int,
    grid: int = GRID,
    order: Order = "camera",
    reach: float = 2.0,
    blur_px: tuple[float, float] = (1.0, math.inf),
    aperture: Aperture | None = None,
    workers: int = 2,
    command: str = "",
    progress: bool = True,
) -> list[tuple[str, Rejected]]:
    """Make the sets of a folder of real light fields: each sub-folder, array or picture is a scene.

    Disparity is in px between neighbouring views above the farthest that was found, and K in px per
    that unit, for files do not say the true scale; the provenance says so.

    Args:
        root: folder of the sets, created where missing.
        source: folder of light fields, see ``reading.open_light_field``.
        seed: of the draws of focus and K.
        grid: central rows and columns of views to use, odd.
        order: see ``reading.open_light_field``.
        reach: motion between neighbouring views that is searched, px, either way. The pictures
            lose a border as wide as the outermost view moves then.
        blur_px: range of the greatest blur radius in a picture, px; its upper end is what the
            views' own aperture allows, where that is less.
        aperture: shape; None for a disc.
        workers, command, progress: as in :func:`build_lightfields`.

    Returns:
        Scenes that cannot be used, with the reason; ``rejections.jsonl`` in ``root`` lists them.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no light fields in it, none that can be used, or a set of other parameters.
    """
    scenes = _scenes(Path(source))
    aperture = disk() if aperture is None else aperture
    parameters = {
        "kind": "light fields",
        "scenes": _listing(scenes),
        "seed": seed,
        "grid": grid,
        "order": order,
        "reach": reach,
        "blur_px": [blur_px[0], None if math.isinf(blur_px[1]) else blur_px[1]],
        "aperture": [aperture.name, aperture.second_moment],
        "generator_version": GENERATOR_VERSION,
    }
    make = functools.partial(
        _captured,
        scenes=scenes,
        seed=seed,
        grid=grid,
        order=order,
        reach=reach,
        blur_px=blur_px,
        aperture=aperture,
    )
    return _build(Path(root), list(scenes), make, parameters, workers, command, progress)


def draw_photographs(
    field: LightField,
    disparity: Tensor,
    rng: Generator,
    *,
    blur_px: tuple[float, float],
    aperture: Aperture,
) -> tuple[Photograph, Photograph]:
    """Two photographs, each with a surface of its own in focus and its own aperture radius.

    The planes of focus lie at least a quarter of the range of disparity apart. The greatest blur
    radius in a picture is log-uniform in ``blur_px``, up to what the aperture of the views allows.

    Raises:
        Rejected: ``gate_largest_radius`` where the views do not allow the least blur radius.
    """
    flat = disparity.flatten()
    low, high = (float(flat.quantile(q)) for q in (0.02, 0.98))
    first = _focus_at(disparity, rng, torch.ones_like(disparity, dtype=torch.bool))
    second = _focus_at(disparity, rng, (disparity - first).abs() >= _APART * (high - low))
    pictures = []
    for focus in (first, second):
        unit = field.baseline * float((disparity - focus).abs().max())
        if unit < blur_px[0]:
            raise Rejected(
                Reason.GATE_LARGEST_RADIUS,
                round(unit, 2),
                f"the views allow no blur radius of {blur_px[0]} px; ask for less",
            )
        ends = np.log([blur_px[0], min(blur_px[1], unit)])
        radius = min(1.0, float(np.exp(rng.uniform(*ends))) / unit)
        light = refocus(field, focus=focus, radius=radius, aperture=aperture, disparity=disparity)
        pictures.append(Photograph(light, focus, radius))
    return pictures[0], pictures[1]


def make_samples(
    name: str,
    field: LightField,
    disparity: Tensor,
    photographs: tuple[Photograph, Photograph],
    *,
    border: int,
    aperture: Aperture,
    provenance: Mapping[str, Any],
) -> list[tuple[str, Sample]]:
    """Task and sample: one of ``bokeh`` and two of ``refocus``, without ``border`` px all round."""
    height, width = (edge - 2 * border for edge in field.size)

    def inner(picture: Tensor) -> Tensor:
        return picture[..., border : border + height, border : border + width].contiguous()

    facts = {
        **provenance,
        "renderer": "views of a light field through a synthetic aperture",
        "aperture": aperture.name,
        "depth": "plane sweep over the views",
        "disparity_unit": "1/m" if field.unit == "1/m" else "px between neighbouring views",
        "views": list(field.views.shape[:2]),
        "baseline": field.baseline,
        "rest_disparity": field.rest_disparity,
        "generator_version": GENERATOR_VERSION,
        "code_version": __version__,
    }
    bytes_of = [inner(to_bytes(x.light)) for x in photographs]
    k = [x.radius * field.baseline for x in photographs]

    def sample(target: int, suffix: str, **fields: Any) -> Sample:
        return Sample(
            key=f"{name}{suffix}",
            route="synthetic",
            split="test",
            aif=inner(to_bytes(field.aif)),
            bokeh=bytes_of[target],
            disparity=inner(disparity),
            strength=BlurStrength(k[target], height, width),
            focus_disparity=photographs[target].focus,
            **fields,
        )

    samples = [("bokeh", sample(0, "", provenance=facts))]
    for target, source in ((1, 0), (0, 1)):
        origin = {"source_focus_disparity": photographs[source].focus, "source_k": k[source]}
        extras = {"blurry": bytes_of[source]}
        one = sample(target, f"-{target}", provenance={**facts, **origin}, extras=extras)
        samples.append(("refocus", one))
    return samples


def _focus_at(disparity: Tensor, rng: Generator, allowed: Tensor) -> float:
    """The median disparity about a pixel drawn among those allowed."""
    rows, columns = torch.nonzero(allowed, as_tuple=True)
    chosen = int(rng.integers(len(rows)))
    row, column, n = int(rows[chosen]), int(columns[chosen]), _NEIGHBOURS
    near = (slice(max(row - n, 0), row + n + 1), slice(max(column - n, 0), column + n + 1))
    # Of the same surface only: a median across an edge could lie on neither side of it.
    return float(disparity[near][allowed[near]].median())


def scene_seed(seed: int, number: int) -> int:
    """Of the ``number``-th scene of the simulated sets."""
    state = SeedSequence((seed, zlib.crc32(b"light fields"), number)).generate_state(2)
    return int(state[0]) << 31 | int(state[1]) >> 1


def drawn_photographs(
    made: Simulated, seed: int, number: int
) -> tuple[Tensor, tuple[Photograph, Photograph]]:
    """Disparity, and the two photographs, of the ``number``-th scene of the simulated sets."""
    field = made.field
    reach, rest = _SEARCHED_BEYOND * made.reach / field.baseline, field.rest_disparity
    # Nothing is farther than infinity; the search goes beyond, so as not to end at its bound.
    disparity = estimate_disparity(field, low=rest - reach, high=rest + reach).clamp_min(0.0)
    rng = np.random.default_rng((seed, zlib.crc32(b"light fields"), number, 1))
    blur = (BLUR_PX[0] * made.scale, BLUR_PX[1] * made.scale)
    return disparity, draw_photographs(field, disparity, rng, blur_px=blur, aperture=disk())


def _simulated(name: str, *, seed: int, size: int, grid: int) -> Encoded:
    number = int(name.rpartition("-")[2])
    made = simulate(scene_seed(seed, number), size=size, grid=grid)
    disparity, photographs = drawn_photographs(made, seed, number)
    samples = make_samples(
        name,
        made.field,
        disparity,
        photographs,
        border=made.border,
        aperture=disk(),
        provenance={
            "source": "procedural scene, simulated",
            "scene_seed": scene_seed(seed, number),
        },
    )
    return [(task, sample.key, encode(sample)) for task, sample in samples]


def _captured(
    name: str,
    *,
    scenes: Mapping[str, Path],
    seed: int,
    grid: int,
    order: Order,
    reach: float,
    blur_px: tuple[float, float],
    aperture: Aperture,
) -> Encoded:
    field = open_light_field(scenes[name], grid=grid, order=order)
    disparity = estimate_disparity(field, low=-reach, high=reach)
    farthest = float(disparity.min())
    disparity = disparity - farthest
    field = replace(field, rest_disparity=field.rest_disparity - farthest)
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    photographs = draw_photographs(field, disparity, rng, blur_px=blur_px, aperture=aperture)
    samples = make_samples(
        name,
        field,
        disparity,
        photographs,
        border=math.ceil(reach * field.radius_steps) + 1,
        aperture=aperture,
        provenance={"source": scenes[name].name},
    )
    return [(task, sample.key, encode(sample)) for task, sample in samples]


def _outcome(make: Callable[[str], Encoded], name: str) -> Encoded | Rejected:
    try:
        return make(name)
    except Rejected as rejected:
        return rejected


def _build(
    root: Path,
    names: Sequence[str],
    make: Callable[[str], Encoded],
    parameters: Mapping[str, Any],
    workers: int,
    command: str,
    progress: bool,
) -> list[tuple[str, Rejected]]:
    rejected: list[tuple[str, Rejected]] = []
    if not all(is_finished(root / folder, parameters) for folder in FOLDERS.values()):
        rejected = _write(root, names, make, parameters, workers, progress)
        _write_rejections(root, rejected)
    write_atomically(root / "README.md", _card(root, parameters, command).encode())
    return rejected


def _write(
    root: Path,
    names: Sequence[str],
    make: Callable[[str], Encoded],
    parameters: Mapping[str, Any],
    workers: int,
    progress: bool,
) -> list[tuple[str, Rejected]]:
    rejected = []
    with ordered_map(workers) as mapper, Bars(progress) as bar, ExitStack() as stack:
        writers, kept = {}, {}
        for (task, folder), each in zip(FOLDERS.items(), (1, 2), strict=True):
            if not is_finished(root / folder, parameters):
                writer = ShardWriter(
                    root / folder, parameters=parameters, samples_per_shard=each * _SCENES_PER_SHARD
                )
                writers[task], kept[task] = stack.enter_context(writer), set(writer.written)
        missing = [name for name in names if not _is_written(name, kept)]
        shown = bar.add_task(
            "making light fields", total=len(names), completed=len(names) - len(missing)
        )
        outcomes = mapper(functools.partial(_outcome, make), missing)
        for name, outcome in zip(missing, outcomes, strict=True):
            bar.advance(shown)
            if isinstance(outcome, Rejected):
                rejected.append((name, outcome))
                continue
            for task, key, members in outcome:
                if task in writers and key not in kept[task]:
                    writers[task].write_encoded(key, members)
        if len(rejected) == len(names):
            raise ValueError(f"none of {len(names)} light fields can be used; {rejected[0][1]}")
    return rejected


def _write_rejections(root: Path, rejected: Sequence[tuple[str, Rejected]]) -> None:
    lines = (
        json.dumps({"name": name, "reason": x.reason, "value": x.value, "detail": x.detail})
        for name, x in rejected
    )
    write_atomically(root / REJECTIONS_NAME, "".join(f"{line}\n" for line in lines).encode())


def _is_written(name: str, kept: Mapping[str, set[str]]) -> bool:
    """Whether all samples of a scene are in the sets that an interrupted run left behind."""
    keys = {"bokeh": name, "refocus": f"{name}-0"}  # shards end between scenes
    return all(keys[task] in written for task, written in kept.items())


def _key(path: Path) -> str:
    """A scene's name as sample keys may have it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:_LONGEST_NAME]


def _scenes(source: Path) -> dict[str, Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source} of light fields")
    paths = [x for x in sorted(source.iterdir()) if is_light_field(x)]
    if not paths:
        raise ValueError(f"{source} holds no light fields: sub-folders of views, arrays, pictures")
    scenes: dict[str, Path] = {}
    for path in paths:
        if scenes.setdefault(_key(path), path) != path:
            raise ValueError(f"{path} and {scenes[_key(path)]} have the same name; rename one")
    return scenes


def _listing(scenes: Mapping[str, Path]) -> str:
    """Hash of the names and sizes of all files."""
    digest = hashlib.sha256()
    for path in scenes.values():
        files = sorted(x for x in path.iterdir() if x.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(f"{path.name}/{file.name}:{file.stat().st_size}\n".encode())
    return digest.hexdigest()


def _card(root: Path, parameters: Mapping[str, Any], command: str) -> str:
    """README.md of the sets, in Markdown."""
    indices = {folder: read_index(root / folder) for folder in FOLDERS.values()}
    rows = [
        f"| {x} | {index['samples']} | {index['fingerprint'][:16]} |"
        for x, index in indices.items()
    ]
    template = resources.files("genrefocus.benchmark.lightfield").joinpath("card.md")
    origin = _SIMULATED if parameters["kind"].startswith("simulated") else _CAPTURED
    return template.read_text("utf-8").format(
        rows="\n".join(rows),
        command=command or "see genrefocus.benchmark.lightfield",
        parameters=json.dumps(parameters),
        code=__version__,
        origin=origin,
    )
