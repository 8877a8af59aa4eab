"""Images a second of every metric at hand, beside plain loops and pyiqa, in one process::

    python benchmarks/metric_throughput.py --sizes 256 512

`loop` is the usual script: one image at a time through scikit-image, the `lpips` package or a new
torchmetrics function call. pyiqa is timed where it can be imported, with the same weights. The last
column says how far figures of loop and pyiqa are from ours. On a CPU the seconds are those of
computing, all threads together, so that other work on the machine does not count; on a GPU they are
seconds of the clock.
"""

import argparse
import functools
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lpips as lpips_package
import numpy as np
import torch
import torchmetrics
from rich.console import Console
from rich.table import Table
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torchmetrics.functional.image import deep_image_structure_and_texture_similarity

from genrefocus.metrics.dists import dists
from genrefocus.metrics.lpips import lpips, lpips_available
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.registry import METRICS
from genrefocus.metrics.ssim import ssim
from genrefocus.optics import BlurStrength
from genrefocus.render.scene import scene_aif, scene_disparity
from genrefocus.render.tone import linear_to_srgb
from genrefocus.world.scenes import procedural_scene

Timed = Mapping[str, Callable[[Tensor, Tensor], object]]

OURS: Timed = {"psnr": psnr, "ssim": ssim}
WITH_TRUNKS: Timed = {
    "lpips alex": lpips,
    "lpips vgg": lambda p, t: lpips(p, t, net="vgg"),
    "dists": dists,
}
OF_CONTROL = ("blur_radius_error", "focus_plane_error", "in_focus_ssim", "bleeding_near")


def loops(device: str) -> Timed:
    """One image at a time."""

    def each(function: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], object]:
        return lambda pred, target: [function(a, b) for a, b in zip(pred, target, strict=True)]

    def array(image: Tensor) -> np.ndarray:
        return image.cpu().numpy()

    nets = {}
    if lpips_available("alex") and lpips_available("vgg"):
        for net in ("alex", "vgg"):
            network = lpips_package.LPIPS(net=net, verbose=False).to(device)
            nets[f"lpips {net}"] = each(
                lambda a, b, network=network: network(a[None], b[None], normalize=True)
            )
        nets["dists"] = each(
            lambda a, b: deep_image_structure_and_texture_similarity(a[None], b[None])
        )
    return {
        "psnr": each(lambda a, b: peak_signal_noise_ratio(array(b), array(a), data_range=1.0)),
        "ssim": each(
            lambda a, b: structural_similarity(
                array(a),
                array(b),
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                use_sample_covariance=False,
            )
        ),
        **nets,
    }


def of_pyiqa(device: str) -> Timed:
    """pyiqa on whole batches, weights from the packages that carry them."""
    if importlib.util.find_spec("pyiqa") is None:
        return {}
    import pyiqa

    heads = Path(lpips_package.__file__).parent / "weights/v0.1"
    layers = Path(torchmetrics.__file__).parent / "functional/image/dists_models/weights.pt"
    made = {"psnr": pyiqa.create_metric("psnr", device=device)}
    made["ssim"] = pyiqa.create_metric("ssimc", device=device)
    if lpips_available("alex") and lpips_available("vgg"):
        for net in ("alex", "vgg"):
            file = str(heads / f"{net}.pth")
            made[f"lpips {net}"] = pyiqa.create_metric(
                "lpips", net=net, pretrained_model_path=file, device=device
            )
        made["dists"] = pyiqa.create_metric(
            "dists", pretrained_model_path=str(layers), device=device
        )
    return made


def rate(
    function: Callable[..., object], batches: Sequence[tuple], images: int, device: str
) -> float:
    """Median images a second; the first batch, which loads networks, does not count."""
    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time
    taken = []
    for batch in batches:
        start = clock()
        function(*batch)
        if on_gpu:
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return images / statistics.median(taken[1:])


def values(function: Callable[..., object], pred: Tensor, target: Tensor) -> Tensor:
    """Figures per image, whatever form they come in."""
    found = function(pred, target)
    return torch.tensor([float(x) for x in found])  # type: ignore[attr-defined]


def of_control(size: int, repeats: int, device: str) -> dict[str, float]:
    """Metrics that hold an output against the control map, one image of this size."""
    scene = procedural_scene(5, size, size, lights=0.0, margin=8)
    aif = linear_to_srgb(scene_aif(scene)).to(device)
    facts = {
        "target": aif,
        "aif": aif,
        "disparity": scene_disparity(scene).to(device),
        "focus_disparity": float(scene_disparity(scene).median()),
        "strength": BlurStrength(size / 50, size, size),
    }
    noise = 0.01 * torch.rand(repeats + 1, 3, size, size, device=device)
    found = {}
    for name in OF_CONTROL:
        info = METRICS[name]
        needs = {need: facts[need] for need in info.needs}
        # A new image every time, since patches of the last one are remembered.
        outputs = [((aif + extra).clamp(0, 1),) for extra in noise]
        found[name] = rate(functools.partial(info, **needs), outputs, 1, device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    ours = OURS | (WITH_TRUNKS if lpips_available("alex") and lpips_available("vgg") else {})
    columns = {"genrefocus": ours, "loop": loops(args.device), "pyiqa": of_pyiqa(args.device)}
    table = Table("metric", "pixels", *columns, "largest difference", title="images/s")
    with torch.no_grad():
        for size in args.sizes:
            generator = torch.Generator().manual_seed(0)
            target = torch.rand(args.batch, 3, size, size, generator=generator).to(args.device)
            pred = (0.9 * target + 0.05).contiguous()
            batches = [(pred, target)] * (args.repeats + 1)
            for name in ours:
                rates = [
                    rate(column[name], batches, args.batch, args.device) if name in column else None
                    for column in columns.values()
                ]
                mine = values(ours[name], pred, target)
                apart = [
                    f"{(mine - values(column[name], pred, target)).abs().max():.1e}"
                    for column in list(columns.values())[1:]
                    if name in column
                ]
                cells = ["-" if x is None else f"{x:.3g}" for x in rates]
                table.add_row(name, str(size), *cells, ", ".join(apart))
            for name, figure in of_control(size, args.repeats, args.device).items():
                table.add_row(name, str(size), f"{figure:.3g}", "-", "-", "")
    Console().print(table)


if __name__ == "__main__":
    main()
