"""Statistics of procedural scenes beside those of real photographs.

Gradients, power spectra, colour, and how much images differ from each other; images of equal
size, photographs as square crops of several scales::

    python benchmarks/scene_statistics.py /path/to/photographs --figure docs/images/scenes.png
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from scipy.spatial.distance import cdist
from scipy.stats import kurtosis, wasserstein_distance
from skimage.color import rgb2lab

from genrefocus.render.scene import Scene, scene_aif
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear
from genrefocus.world.lights import add_lights, darkened, draw_night
from genrefocus.world.night import night_scene
from genrefocus.world.scenes import procedural_scene
from genrefocus.world.textures import HELDOUT_FAMILIES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]

FLOOR = 0.01
"""Added to linear luminance before the logarithm: what a camera's noise hides."""
STILL = 0.02
"""Steps of log luminance between neighbours that are too small to see."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
TITLES = {
    "brightness": "mean linear luminance",
    "contrast": "deviation of log luminance",
    "gradient": "deviation of gradients",
    "kurtosis": "excess kurtosis of gradients",
    "still": "share of gradients < 0.02",
    "slope": "slope of the power spectrum",
    "anisotropy": "anisotropy of the spectrum, log2",
    "saturation": "mean chroma, Lab",
    "colours": "deviation of a*, b*",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and one JSON line a set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path, help="folder of colour photographs")
    parser.add_argument("--size", type=int, default=128, help="side of the images in px (128)")
    parser.add_argument("--count", type=int, default=200, help="scenes of each set (200)")
    parser.add_argument("--crops", type=int, default=10, help="crops of each photograph (10)")
    parser.add_argument("--figure", type=Path, help="where to draw spectra and gradients")
    args = parser.parse_args(arguments)
    photographs = read_crops(args.photographs, args.size, args.crops)
    sets = {
        "photographs": [crop for crops in photographs for crop in crops],
        "scenes": draw(lambda seed: procedural_scene(seed, args.size, args.size), args.count),
        "held-out scenes": draw(
            lambda seed: procedural_scene(seed, args.size, args.size, families=HELDOUT_FAMILIES),
            args.count,
        ),
        "photographs with lights": [by_night(x) for crops in photographs for x in crops],
        "night scenes": draw(lambda seed: night_scene(seed, args.size, args.size), args.count),
    }
    halves = [[x for crops in photographs[first::2] for x in crops] for first in (0, 1)]
    report = {name: summary(images, sets["photographs"]) for name, images in sets.items()}
    # The photographs against themselves: what a difference between small samples comes to.
    report["photographs"] |= distances(*halves)
    groups = np.repeat(np.arange(len(photographs)), args.crops)
    for name, images in sets.items():
        own = groups if name.startswith("photographs") else np.arange(len(images))
        report[name]["nearest"] = nearest(images, own)
    show(report)
    for name, entry in report.items():
        print(json.dumps({"set": name, **entry}))
    if args.figure:
        plot(sets, args.figure)
    return 0


def read_crops(folder: Path, size: int, crops: int) -> list[list[Array]]:
    """Of each photograph, square crops (size, size, 3), sRGB in [0, 1].

    The side of a crop is log-uniform between 2 size px and the whole photograph: shrunk by two or
    more, since cameras and JPEG leave single pixels soft.

    Raises:
        SystemExit: fewer than two photographs, or one smaller than two crops.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if len(paths) < 2:
        sys.exit(f"{folder} has {len(paths)} photographs; give a folder with two or more")
    rng = np.random.default_rng(0)
    found: list[list[Array]] = []
    for path in paths:
        with Image.open(path) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        if min(photo.size) < 2 * size:
            sys.exit(f"{path} is {photo.width}x{photo.height} px, below twice --size {size}")
        found.append([])
        for _ in range(crops):
            side = int(np.exp(rng.uniform(np.log(2 * size), np.log(min(photo.size)))))
            left = int(rng.integers(photo.width - side + 1))
            top = int(rng.integers(photo.height - side + 1))
            crop = photo.crop((left, top, left + side, top + side))
            small = crop.resize((size, size), Image.Resampling.LANCZOS)
            found[-1].append(np.asarray(small) / 255.0)
    return found


def draw(scene: Callable[[int], Scene], count: int) -> list[Array]:
    """Scenes of consecutive seeds as 8 bit images (h, w, 3), sRGB in [0, 1]."""
    images = []
    for seed in range(count):
        srgb = linear_to_srgb(scene_aif(scene(seed)))
        images.append((srgb * 255).round().double().permute(1, 2, 0).numpy() / 255.0)
    return images


def by_night(image: Array) -> Array:
    """A crop at a night exposure with lights, all at one depth, as an image (h, w, 3)."""
    rng = np.random.default_rng((image * 255).round().astype(np.uint8).ravel()[:64])
    light = srgb_to_linear(torch.from_numpy(image).permute(2, 0, 1).float())
    lit, _ = add_lights(
        darkened(light, draw_night(rng)),
        torch.ones(light.shape[1:]),
        rng,
        count=int(rng.integers(10, 60)),
        energies=(5.0, 500.0),
    )
    return linear_to_srgb(lit).double().permute(1, 2, 0).numpy()


def log_luminance(image: Array) -> Array:
    linear = srgb_to_linear(torch.from_numpy(image)).numpy()
    return np.log(linear @ (0.2126, 0.7152, 0.0722) + FLOOR)


def gradients(image: Array) -> Array:
    """Differences of log luminance between neighbours, along rows and columns, in one list."""
    light = log_luminance(image)
    return np.concatenate([np.diff(light, axis=axis).ravel() for axis in (0, 1)])


def spectrum(image: Array) -> tuple[Array, Array, Array]:
    """Power of log luminance under a Hann window, and its frequencies y and x in cycles/px."""
    light = log_luminance(image)
    window = np.hanning(len(light))
    power = np.abs(np.fft.fft2((light - light.mean()) * window[:, None] * window)) ** 2
    frequency = np.fft.fftfreq(len(light))
    return power, frequency[:, None], frequency[None, :]


def radial(image: Array) -> tuple[Array, Array]:
    """Centres of octave thirds from 4 cycles an image to 0.4 cycles/px, and mean log10 power."""
    power, fy, fx = spectrum(image)
    radius = np.hypot(fy, fx)
    edges = np.exp(np.arange(np.log(4 / len(power)), np.log(0.4), np.log(2) / 3))
    at = np.digitize(radius, edges)
    means = [power[at == n].mean() for n in range(1, len(edges))]
    return np.sqrt(edges[1:] * edges[:-1]), np.log10(np.maximum(means, 1e-12))


def measures(image: Array) -> Array:
    """The statistics of one image, in the order of ``TITLES``."""
    light, steps = log_luminance(image), gradients(image)
    frequency, power = radial(image)
    slope = np.polyfit(np.log10(frequency), power, 1)[0]
    energy, fy, fx = spectrum(image)
    angle, radius = np.arctan2(np.abs(fy), np.abs(fx)), np.hypot(fy, fx)
    band = (radius > 4 / len(light)) & (radius < 0.4)
    wedge = np.digitize(angle, np.pi / 16 * np.array([1, 3, 5, 7]))
    wedges = [energy[band & (wedge == number)].mean() for number in range(5)]
    lab = rgb2lab(image)
    return np.array(
        [
            np.exp(light).mean() - FLOOR,
            light.std(),
            steps.std(),
            kurtosis(steps),
            (np.abs(steps) < STILL).mean(),
            slope,
            np.log2(max(wedges) / max(min(wedges), 1e-12)),
            np.hypot(lab[..., 1], lab[..., 2]).mean(),
            np.hypot(lab[..., 1].std(), lab[..., 2].std()),
        ]
    )


def summary(images: list[Array], photographs: list[Array]) -> dict[str, object]:
    """Quartiles of every statistic over the images, and distances to the photographs."""
    values = np.array([measures(image) for image in images])
    quartiles = np.percentile(values, [25, 50, 75], axis=0).T.round(4).tolist()
    entry: dict[str, object] = {
        "images": len(images),
        **dict(zip(TITLES, quartiles, strict=True)),
    }
    return entry | distances(images, photographs)


def distances(images: list[Array], photographs: list[Array]) -> dict[str, float]:
    """Between the gradients of two sets, pooled: Wasserstein-1 of log10, and KL divergence.

    Wasserstein-1 of log10(|step| + 0.001) is in decades. KL of the photographs from the set, in
    nats, by histograms of 81 bins over -2 to 2 with one count added to each.
    """
    ours, theirs = (np.concatenate([gradients(x) for x in side]) for side in (images, photographs))
    logs = [np.log10(np.abs(steps[::7]) + 1e-3) for steps in (ours, theirs)]
    bins = np.linspace(-2.0, 2.0, 82)
    q, p = (np.histogram(np.clip(steps, -2, 2), bins)[0] + 1.0 for steps in (ours, theirs))
    q, p = q / q.sum(), p / p.sum()
    return {
        "wasserstein": round(float(wasserstein_distance(*logs)), 4),
        "kl": round(float((p * np.log(p / q)).sum()), 4),
    }


def nearest(images: list[Array], groups: NDArray[np.int64]) -> float:
    """Median distance to the most alike image of another group, low where images repeat.

    Root mean square of 8 x 8 px in Lab; it falls with brightness and with the number of images.
    """
    small = []
    for image in images:
        side = len(image) // 8
        cut = rgb2lab(image)[: 8 * side, : 8 * side]
        small.append(cut.reshape(8, side, 8, side, 3).mean((1, 3)).ravel())
    apart = cdist(np.array(small), np.array(small)) / np.sqrt(64.0)
    apart[groups[:, None] == groups] = np.inf
    return round(float(np.median(apart.min(1))), 2)


def show(report: dict[str, dict[str, object]]) -> None:
    table = Table(title="median (quartiles)")
    table.add_column("")
    for name, entry in report.items():
        table.add_column(f"{name}, {entry['images']}", justify="right")
    for key, title in TITLES.items():
        cells = []
        for entry in report.values():
            low, middle, high = entry[key]
            cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
        table.add_row(title, *cells)
    for key, title in (
        ("wasserstein", "gradients: Wasserstein-1, decades"),
        ("kl", "gradients: KL, nats"),
        ("nearest", "distance to the nearest image, Lab"),
    ):
        table.add_row(title, *[f"{entry[key]:.3g}" for entry in report.values()])
    Console(width=170).print(table)


def plot(sets: dict[str, list[Array]], path: Path) -> None:
    """Median power spectra with quartiles, and densities of gradients."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), layout="constrained")
    bins = np.linspace(-2.0, 2.0, 82)
    for name, images in sets.items():
        curves = [radial(image) for image in images]
        low, middle, high = np.percentile([power for _, power in curves], [25, 50, 75], axis=0)
        frequency = curves[0][0]
        line = left.plot(frequency, middle, label=name)[0]
        left.fill_between(frequency, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
        steps = np.concatenate([gradients(image) for image in images])
        density = np.histogram(steps, bins, density=True)[0]
        right.plot(0.5 * (bins[1:] + bins[:-1]), np.maximum(density, 1e-5), label=name)
    left.set(xscale="log", xlabel="cycles/px", ylabel="log10 power of log luminance")
    right.set(yscale="log", xlabel="step of log luminance", ylabel="density")
    left.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    sys.exit(main())
