"""Sets for the tasks bokeh and refocus, made of light fields: LF-Bokeh and LF-Refocus of one's own.

Every scene gives two photographs through synthetic apertures, each with its own focus and K. From
each to the other are two pairs of ``lf_refocus``; one of the targets is that of ``lf_bokeh``.
"""

import functools
import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from genrefocus import __version__
from genrefocus.benchmark.lightfield.depth import estimate_disparity
from genrefocus.benchmark.lightfield.pairs import (
    BLUR_PX,
    draw_photographs,
    drawn_photographs,
    make_samples,
    scene_seed,
)
from genrefocus.benchmark.lightfield.reading import Order, is_light_field, open_light_field
from genrefocus.benchmark.lightfield.simulated import simulate
from genrefocus.data.shards import (
    INDEX_NAME,
    Encoded,
    ShardDataset,
    read_index,
    require_same,
    write_set,
)
from genrefocus.preparation.item import Item, Source
from genrefocus.preparation.route import Prepared, Route
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.sources.numbered import NumberedScenes
from genrefocus.render.apertures import Aperture, disk
from genrefocus.world.camera import as_jpeg, developed, draw_iso
from genrefocus.world.cameras import HELDOUT_LENS, draw_body, draw_lens
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 2
"""Raised with every change that makes other images of the same light fields."""

FOLDERS: Mapping[str, str] = {"bokeh": "lf_bokeh/test", "refocus": "lf_refocus/test"}
"""Task -> folder of its set, below the root."""

REFOCUS = "lf_refocus"
"""Folder of the preparation, with its ledger."""

GRID = 9
_SCENES_PER_SHARD = 8
_LONGEST_NAME = 76

_SIMULATED = """**All of it is simulated.** No camera took these views: they are views of procedural
scenes by day, of texture families that no training data have. Disparity is in 1/m,
K in px at 1/m."""
_CAPTURED = """The views are photographs. Their true scale is not known: **disparity is in px
between neighbouring views**, counted from the farthest surface that was found, and K in px per that
unit. They are no 1/m."""


@dataclass(frozen=True)
class SimulatedPairs(Route):
    """Light fields of procedural scenes; disparity is in 1/m."""

    seed: int
    size: int
    grid: int
    blur_px: tuple[float, float] = BLUR_PX
    generator_version: int = GENERATOR_VERSION
    batch_size: int = 1

    name = "synthetic"
    origin: ClassVar[str] = _SIMULATED

    def sample(self, candidate: Candidate, estimated: object) -> Prepared:
        number = candidate.item.facts["number"]
        seed = scene_seed(self.seed, number)
        rng = np.random.default_rng((seed, 1))
        lens, body = draw_lens(rng, "test"), draw_body(rng)
        # The views are ideal: with colours and rings that move on their own, they would not agree
        # about a disparity. The opening, the tone curve, noise and JPEG are those of the camera.
        made = simulate(seed, size=self.size, grid=self.grid)
        disparity, photographs = drawn_photographs(made, self.seed, number, lens.aperture)
        return make_samples(
            f"simulated-{number:04d}",
            made.field,
            disparity,
            photographs,
            border=made.border,
            aperture=lens.aperture,
            provenance={
                "source": "procedural scene, simulated",
                "scene_seed": seed,
                "camera": body.model,
                "lens": lens.name,
                "held_out_lens": lens == HELDOUT_LENS,
            },
            sharp=lambda light: developed(light, body, None),
            developed=lambda light: as_jpeg(developed(light, body, (draw_iso(rng), rng))),
        )


@dataclass(frozen=True)
class CapturedPairs(Route):
    """Light fields from files.

    Disparity is in px between neighbouring views above the farthest that was found, and K in px per
    that unit, for files do not say the true scale; the provenance says so.

    Attributes:
        seed: of the draws of focus and K.
        grid: central rows and columns of views to use, odd.
        order: see ``reading.open_light_field``.
        reach: motion between neighbouring views that is searched, px, either way. The images
            lose a border as wide as the outermost view moves then.
        blur_px: range of the greatest blur radius in an image, px; its upper end is what the
            views' own aperture allows, where that is less.
        aperture: shape.
    """

    seed: int
    grid: int = GRID
    order: Order = "camera"
    reach: float = 2.0
    blur_px: tuple[float, float] = (1.0, math.inf)
    aperture: Aperture = disk()
    generator_version: int = GENERATOR_VERSION
    batch_size: int = 1

    name = "synthetic"
    origin: ClassVar[str] = _CAPTURED

    def parameters(self) -> dict[str, Any]:
        ends = [None if math.isinf(end) else end for end in self.blur_px]
        shape = [self.aperture.name, self.aperture.second_moment]
        return {**super().parameters(), "blur_px": ends, "aperture": shape}

    def sample(self, candidate: Candidate, estimated: object) -> Prepared:
        path = Path(candidate.item.facts["path"])
        field = open_light_field(path, grid=self.grid, order=self.order)
        disparity = estimate_disparity(field, low=-self.reach, high=self.reach)
        farthest = float(disparity.min())
        disparity = disparity - farthest
        field = replace(field, rest_disparity=field.rest_disparity - farthest)
        rng = np.random.default_rng((self.seed, zlib.crc32(candidate.key.encode())))
        photographs = draw_photographs(
            field, disparity, rng, blur_px=self.blur_px, aperture=self.aperture
        )
        return make_samples(
            candidate.key,
            field,
            disparity,
            photographs,
            border=math.ceil(self.reach * field.radius_steps) + 1,
            aperture=self.aperture,
            provenance={"source": path.name},
            shape=None if self.aperture.name == "disk" else self.aperture.facts,
        )


@dataclass(frozen=True)
class LightFields(Source):
    """A folder of light fields: each sub-folder, array or image is a scene."""

    folder: Path

    roles = frozenset({"views"})

    @functools.cached_property
    def name(self) -> str:
        """With a hash of the names and sizes of all files."""
        digest = hashlib.sha256()
        for path in _scenes(self.folder).values():
            files = sorted(x for x in path.iterdir() if x.is_file()) if path.is_dir() else [path]
            for file in files:
                digest.update(f"{path.name}/{file.name}:{file.stat().st_size}\n".encode())
        return f"light fields {digest.hexdigest()[:16]}"

    def items(self) -> list[Item]:
        """All scenes; the fact ``path`` says where one is."""
        return [
            Item(key, key, {}, {"path": str(path)}, split="test", key=key)
            for key, path in _scenes(self.folder).items()
        ]


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
) -> None:
    """Make the sets of simulated light fields where they are not there yet, and a card about them.

    Args:
        root: folder of the sets, created where missing.
        seed: of everything.
        count: scenes; ``lf_bokeh`` gets as many samples, ``lf_refocus`` twice as many.
        size: edge of the images, px.
        grid: rows and columns of views, odd.
        workers: processes; 0 works in this one. The bytes do not depend on it.
        command: for the card, what the user typed.
        progress: show a bar with the time that is left on stderr.

    Raises:
        ValueError: a folder holds a set of other parameters.
    """
    source = NumberedScenes("simulated light fields", {"test": count})
    route = SimulatedPairs(seed, size, grid)
    build_sets(Path(root), route, source, workers=workers, command=command, progress=progress)


def build_sets(
    root: Path,
    route: SimulatedPairs | CapturedPairs,
    source: Source,
    *,
    workers: int,
    command: str,
    progress: bool = True,
) -> None:
    """Make both sets where they are not there yet, and a card about them.

    Args:
        root: folder of the sets, created where missing.
        route, source: how they are made, and of what.
        workers, command, progress: as for :func:`build_lightfields`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no light fields, none that can be used, or a set of other parameters.
    """
    prepare(
        route,
        source,
        root / REFOCUS,
        seed=route.seed,
        items_per_shard=_SCENES_PER_SHARD,
        splits={"test": 1.0},
        workers=workers,
        progress=progress,
    )
    _write_bokeh(ShardDataset(root / FOLDERS["refocus"]), root / FOLDERS["bokeh"])
    write_atomically(root / "README.md", _card(root, command, route.origin).encode())


def _write_bokeh(pairs: ShardDataset, folder: Path) -> None:
    """One sample a scene: the first target, without the photograph that it is refocused from."""
    parameters = {"of": pairs.fingerprint}
    if (folder / INDEX_NAME).is_file():
        require_same(folder, read_index(folder), {"parameters": parameters})
        return
    samples = _first_targets(pairs)
    write_set(folder, samples, parameters=parameters, samples_per_shard=_SCENES_PER_SHARD)


def _first_targets(pairs: ShardDataset) -> Iterator[Encoded]:
    for number, key in enumerate(pairs.keys):
        name, _, target = key.rpartition("-")
        if target == "0":
            members = pairs.members(number)
            meta = json.loads(members.pop("json")) | {"key": name, "extras": []}
            for of_source in ("source_focus_disparity", "source_k"):
                del meta["provenance"][of_source]
            del members["blurry.png"]
            text = json.dumps(meta, sort_keys=True, ensure_ascii=False).encode()
            yield name, {"json": text, **members}


def _key(path: Path) -> str:
    """A scene's name as sample keys may have it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", path.stem)[:_LONGEST_NAME]


def _scenes(source: Path) -> dict[str, Path]:
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source} of light fields")
    paths = [x for x in sorted(source.iterdir()) if is_light_field(x)]
    if not paths:
        raise ValueError(f"{source} holds no light fields: sub-folders of views, arrays, images")
    scenes: dict[str, Path] = {}
    for path in paths:
        if scenes.setdefault(_key(path), path) != path:
            raise ValueError(f"{path} and {scenes[_key(path)]} have the same name; rename one")
    return scenes


def _card(root: Path, command: str, origin: str) -> str:
    """README.md of the sets, in Markdown."""
    indices = {folder: read_index(root / folder) for folder in FOLDERS.values()}
    rows = [
        f"| {folder} | {index['samples']} | {index['fingerprint'][:16]} |"
        for folder, index in indices.items()
    ]
    template = resources.files("genrefocus.benchmark.lightfield").joinpath("card.md")
    return template.read_text("utf-8").format(
        rows="\n".join(rows),
        command=command or "see genrefocus.benchmark.lightfield",
        parameters=json.dumps(indices[FOLDERS["refocus"]]["parameters"]),
        code=__version__,
        origin=origin,
    )
