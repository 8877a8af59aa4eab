"""Distances of perceptual hashes: copies of an image against different images.

Photographs that come with scikit-image, their quarters (other images) and procedural scenes::

    python benchmarks/hash_distances.py
"""

import io
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from genrefocus.preparation.leakage import DISTANCE, fingerprint_of
from genrefocus.render.scene import scene_aif
from genrefocus.render.tone import to_bytes
from genrefocus.world.scenes import procedural_scene

PHOTOGRAPHS = [
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
]
SCENES = 60
Change = Callable[[Image.Image], Image.Image]


def cropped(part: float) -> Change:
    """Loses this part of both edges, about the centre."""

    def crop(x: Image.Image) -> Image.Image:
        across, down = int(x.width * part / 2), int(x.height * part / 2)
        return x.crop((across, down, x.width - across, x.height - down))

    return crop


def brighter(factor: float) -> Change:
    """sRGB values times a factor, clipped."""
    return lambda x: ImageEnhance.Brightness(x).enhance(factor)


def scaled(factor: float) -> Change:
    """Resized by a factor."""
    return lambda x: x.resize(
        (int(x.width * factor), int(x.height * factor)), Image.Resampling.LANCZOS
    )


COPIES: dict[str, tuple[Change, int]] = {
    "JPEG quality 30": (lambda x: x, 30),
    "half size": (scaled(0.5), 95),
    "brightness x 1.3": (brighter(1.3), 95),
    "brightness x 0.6": (brighter(0.6), 95),
    "2 % cropped": (cropped(0.02), 95),
    "5 % cropped": (cropped(0.05), 95),
    "10 % cropped": (cropped(0.10), 95),
}


def images() -> list[Image.Image]:
    """The set: photographs, their quarters, scenes."""
    folder = Path(skimage.__file__).parent / "data"
    found = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    for photo in list(found):
        x, y = photo.width // 2, photo.height // 2
        for left, top in ((0, 0), (x, 0), (0, y), (x, y)):
            found.append(photo.crop((left, top, left + x, top + y)))
    for seed in range(SCENES):
        pixels = to_bytes(scene_aif(procedural_scene(seed, 96, 128)))
        found.append(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return found


def phash(image: Image.Image, quality: int) -> int:
    """The hash after JPEG compression, as a number."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    found = fingerprint_of(buffer.getvalue(), "").phash
    assert found is not None, "an image of the set has no structure"
    return int(found, 16)


def main() -> None:
    """Print the distances."""
    originals = images()
    hashes = [phash(x, 95) for x in originals]
    table = Table("images", "pairs", "least", "median", "99 %", "greatest", f"within {DISTANCE}")
    different = [(a ^ b).bit_count() for a, b in combinations(hashes, 2)]
    table.add_row("different", *row(different))
    for name, (change, quality) in COPIES.items():
        copies = [phash(change(x), quality) for x in originals]
        distances = [(a ^ b).bit_count() for a, b in zip(hashes, copies, strict=True)]
        table.add_row(name, *row(distances))
    Console().print(table)


def row(distances: Sequence[int]) -> list[str]:
    """Cells of the table."""
    values = np.array(distances)
    figures = (
        len(values),
        values.min(),
        np.median(values),
        np.quantile(values, 0.99),
        values.max(),
    )
    return [*(f"{x:.0f}" for x in figures), f"{(values <= DISTANCE).mean():.1%}"]


if __name__ == "__main__":
    main()
