"""Pairs for DeblurNet that show a word out of focus, with a caption that says which.

A sign hangs in front of a procedural scene, and the camera focuses behind it: four letters of 8 to
12 px at a blur radius of 2 to 4 px (at 64 px; they scale with the size), which many letters do not
survive. Words are drawn letter by letter, so that some letters tell nothing of the others. Cameras,
lenses, noise, and what is held out of training are those of the embedded pairs. Every pair is a
pure function of seed, split and number.
"""

import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.random import Generator, SeedSequence
from torch.nn.functional import pad

from genrefocus import __version__
from genrefocus.data.sample import Sample
from genrefocus.optics import BlurStrength
from genrefocus.preparation.route import Prepared, Route
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.preparation.sources.numbered import NumberedScenes
from genrefocus.render.lens import strongest
from genrefocus.render.lettering import LETTERS, Lettering
from genrefocus.render.scene import Layer, Plane, Scene, scene_disparity
from genrefocus.world.camera import as_jpeg, draw_iso, photograph
from genrefocus.world.cameras import SHARP_F_NUMBER, draw_body, draw_lens
from genrefocus.world.scenes import draw_focus, procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES, TRAIN_FAMILIES
from genrefocus.writing import write_atomically

GENERATOR_VERSION = 1
"""Raised with every change that makes other images of the same seed."""

COUNTS: Mapping[str, int] = {"train": 1600, "val": 64, "test": 96}

_LETTERS = 4
# At 64 px; they scale with the size. The margin holds the shift of the greatest blur.
_HEIGHT_PX, _RADIUS_PX, _MARGIN_PX = (8.0, 12.0), (2.0, 4.0), 14
_F_NUMBER = 2.0  # wide open
_IN_FRONT = 0.4  # of everything else, 1/m
_RIM = 0.35  # of the board around the letters, in parts of their height
_LIGHT, _CONTRAST = (0.35, 0.9), 4.0  # of the lighter of board and ink, and over the darker


@dataclass(frozen=True)
class EmbeddedWords(Route):
    """The pairs as a route.

    Attributes:
        caption: of a sample, with ``{word}``.
        seed: of everything.
        size: edge of the images, px.
    """

    caption: str
    seed: int
    size: int
    generator_version: int = GENERATOR_VERSION
    batch_size: int = 1

    name = "deblur"

    def sample(self, candidate: Candidate, estimated: object) -> Prepared:
        return Prepared(make_word_pair(self, candidate.split, candidate.item.facts["number"]), {})


def make_word_pair(one: EmbeddedWords, split: str, number: int) -> Sample:
    """The ``number``-th pair of a split; its provenance says where the word stands."""
    entropy = (one.seed, zlib.crc32(f"words/{split}".encode()), number)
    scene_seed, own_seed = SeedSequence(entropy).generate_state(2).tolist()
    rng, px = np.random.default_rng(own_seed), one.size / 64
    behind = procedural_scene(
        scene_seed,
        *(one.size, one.size),
        families=TRAIN_FAMILIES if split == "train" else HELDOUT_FAMILIES,
        margin=max(8, round(_MARGIN_PX * px)),
    )
    focus, lettering = draw_focus(behind, rng), _draw_lettering(rng, one.size)
    sign = _sign(rng, behind, lettering)
    scene = replace(behind, layers=(*behind.layers, sign))
    body, lens, away = draw_body(rng), draw_lens(rng, split), sign.plane.offset - focus
    wanted = rng.uniform(*_RADIUS_PX) * px / away
    k = min(wanted, strongest(scene, focus, lens.character).k)
    strength, stop = BlurStrength(k, one.size, one.size), _F_NUMBER / SHARP_F_NUMBER
    shot = partial(photograph, scene, body=body, lens=lens, focus_disparity=focus)
    return Sample(
        key=f"{split}-{number:06d}",
        route=one.name,
        split=split,
        aif=shot(strength=replace(strength, k=stop * k), stop=stop, noise=None),
        bokeh=as_jpeg(shot(strength=strength, noise=(draw_iso(rng), rng))),
        disparity=scene_disparity(scene),
        strength=strength,
        focus_disparity=focus,
        prompt=one.caption.format(word=lettering.text),
        provenance={
            "source": "procedural scene with a sign, simulated",
            "lettering": asdict(lettering),
            "letters_radius": k * away,
            "camera": body.model,
            "lens": lens.name,
            "generator_version": GENERATOR_VERSION,
            "code_version": __version__,
        },
    )


def _draw_lettering(rng: Generator, size: int) -> Lettering:
    """A word that fits into the image with its board."""
    height = round(rng.uniform(*_HEIGHT_PX) * size / 64)
    text = "".join(LETTERS[n] for n in rng.integers(len(LETTERS), size=_LETTERS))
    rim, width = math.ceil(_RIM * height), Lettering(text, 0, 0, height).box[1].stop
    top, left = (int(rng.integers(rim, size - rim - n + 1)) for n in (height, width))
    return Lettering(text, top, left, height)


def _sign(rng: Generator, scene: Scene, lettering: Lettering) -> Layer:
    """A plain board with the word, dark on light or light on dark, in front of the scene."""
    light = rng.uniform(*_LIGHT, 3)
    dark = light.min() / _CONTRAST * rng.uniform(0.1, 1.0, 3)
    board, ink = (light, dark) if rng.random() < 0.5 else (dark, light)
    word = lettering.coverage(scene.height, scene.width)
    matte, rim = torch.zeros_like(word), math.ceil(_RIM * lettering.height)
    matte[*(slice(part.start - rim, part.stop + rim) for part in lettering.box)] = 1.0
    first, second = (torch.from_numpy(one).float()[:, None, None] for one in (board, ink))
    rgba = torch.cat([torch.lerp(first, second, word), matte[None]])
    nearest = float(scene.planes.max())
    return Layer(pad(rgba, (scene.margin,) * 4), Plane(0.0, 0.0, nearest + _IN_FRONT))


def build_words(
    root: str | Path,
    *,
    caption: str,
    seed: int,
    counts: Mapping[str, int] = COUNTS,
    size: int = 64,
    workers: int = 2,
    command: str = "",
    progress: bool = True,
    point_lights: bool = False,
) -> None:
    """Make the sets that are not there yet, and a card README.md about them.

    Args:
        root: folder of the sets, created where missing.
        caption: of a sample, with ``{word}``.
        seed: of everything.
        counts: split -> samples.
        size: edge of the images, px.
        workers: processes; 0 works in this one.
        command: for the card, what the user typed.
        progress: show bars with the time that is left on stderr.
        point_lights: these data have none.

    Raises:
        ValueError: the folder holds sets of other parameters, or point lights are asked for.
    """
    if point_lights:
        raise ValueError("signs have no point lights: train bokehnet_shape in a run of its own")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".make.lock"):  # runs that begin at the same time wait for one of them
        prepare(
            EmbeddedWords(caption, seed, size),
            NumberedScenes("embedded words", counts),
            root,
            seed=seed,
            items_per_shard=500,
            splits=dict.fromkeys(counts, 1 / len(counts)),
            workers=workers,
            progress=progress,
        )
        made = ", ".join(f"{count} to {split}" for split, count in counts.items())
        text = f"# Words out of focus, simulated\n\n{__doc__}\n{made}; made by `{command}`\n"
        write_atomically(root / "README.md", text.encode())
