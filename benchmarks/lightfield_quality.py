"""Photographs made of light fields, against the lens-sampled truth of the simulated scenes.

The scenes are those of the embedded sets ``lf_bokeh`` and ``lf_refocus``, through an ideal lens::

    python benchmarks/lightfield_quality.py --image docs/images/lightfields.jpg
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from genrefocus.benchmark.lightfield.pairs import drawn_photographs, scene_seed
from genrefocus.benchmark.lightfield.refocusing import BETWEEN, refocus
from genrefocus.benchmark.lightfield.simulated import SimulatedLightField, simulate
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.render.apertures import disk
from genrefocus.render.tone import linear_to_srgb

TRUTH_POSITIONS = 512
BANDS = ((0.0, 1.5), (1.5, 3.0), (3.0, 6.1))
"""Greatest blur radius in an image, px at 64 px."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--grid", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path, help="where to save a figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scale = arguments.size / 64
    errors: list[list[float]] = []
    scores: dict[str, list[list[float]]] = {}
    rows: list[tuple[float, Tensor]] = []
    for number in track(range(arguments.scenes), console=Console(stderr=True)):
        made = simulate(
            scene_seed(arguments.seed, number), size=arguments.size, grid=arguments.grid
        )
        disparity, photographs = drawn_photographs(made, arguments.seed, number, disk())
        errors.append(disparity_error(made, disparity))
        for photograph in photographs:
            settings = {
                "focus": photograph.focus,
                "radius": photograph.radius,
                "aperture": disk(),
            }
            truth = shown(made, made.photograph(**settings, count=TRUTH_POSITIONS))
            blur = photograph.radius * float(
                (made.field.shift(made.disparity) - made.field.shift(photograph.focus)).abs().max()
            )
            answers = {
                name: shown(made, refocus(made.field, **settings, disparity=known, between=between))
                for name, between, known in (
                    *((f"{x}, estimated disparity", x, disparity) for x in BETWEEN),
                    ("warped, exact disparity", "warped", made.disparity),
                )
            }
            answers["no blur: the central view"] = shown(made, made.field.aif)
            for name, answer in answers.items():
                figures = [float(f(answer[None], truth[None])) for f in (psnr, ssim)]
                scores.setdefault(name, []).append([blur / scale, *figures])
            rows.append((blur, row(made, answers, truth)))
    report(errors, scores)
    if arguments.image is not None:
        rows.sort(key=lambda x: -x[0])
        chosen = [rows[i][1] for i in range(0, 12, 3)]
        image = (torch.cat(chosen, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        size = (image.shape[1] * 2, image.shape[0] * 2)
        Image.fromarray(image).resize(size, Image.Resampling.NEAREST).save(
            arguments.image, quality=88
        )


def disparity_error(made: SimulatedLightField, disparity: Tensor) -> list[float]:
    """Mean, median and share above 0.25 of the error in px between neighbouring views."""
    shift = made.field.shift(disparity) - made.field.shift(made.disparity)
    error = inner(made, shift.abs() / made.field.radius_steps)
    return [float(error.mean()), float(error.median()), float((error > 0.25).float().mean())]


def inner(made: SimulatedLightField, image: Tensor) -> Tensor:
    return image[..., made.border : -made.border, made.border : -made.border]


def shown(made: SimulatedLightField, light: Tensor) -> Tensor:
    return inner(made, linear_to_srgb(light))


def row(made: SimulatedLightField, answers: dict[str, Tensor], truth: Tensor) -> Tensor:
    """All in focus, truth, warped, nearest; then eight times the errors of the last two."""
    pair = [answers[f"{x}, estimated disparity"] for x in ("warped", "nearest")]
    wrong = [(0.5 + 8.0 * (x - truth)).clamp(0.0, 1.0) for x in pair]
    return torch.cat([shown(made, made.field.aif), truth, *pair, *wrong], 2)


def report(errors: list[list[float]], scores: dict[str, list[list[float]]]) -> None:
    console = Console(width=110)
    mean, median, far = np.array(errors).T
    console.print(
        f"{len(errors)} scenes; disparity error in px between neighbouring views: "
        f"mean {mean.mean():.3f}, median {np.median(median):.3f}, above 0.25 in "
        f"{100 * far.mean():.1f} % of the pixels "
        f"(worst scene {100 * far.max():.1f} %)"
    )
    table = Table(title="PSNR in dB and SSIM against the lens")
    for column in ("views between", "PSNR", "median", "least", "SSIM"):
        table.add_column(column, justify="left" if column == "views between" else "right")
    for low, high in BANDS:
        table.add_column(f"{low:g} to {high:.0f} px", justify="right")
    for name, found in scores.items():
        blur, db, similarity = np.array(found).T
        bands = [f"{db[(blur >= low) & (blur < high)].mean():.2f}" for low, high in BANDS]
        values = (db.mean(), np.median(db), db.min())
        table.add_row(name, *(f"{x:.2f}" for x in values), f"{similarity.mean():.4f}", *bands)
    console.print(table)


if __name__ == "__main__":
    main()
