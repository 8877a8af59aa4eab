"""PSNR, SSIM, LPIPS and LVCorr of a network beside doing nothing and beside a classical floor."""

from typing import Any

from torch import Tensor, nn

from genrefocus.metrics.lpips import lpips, lpips_available
from genrefocus.metrics.lvcorr import lvcorr_of_images
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.tally import Tally


class Fidelity(nn.Module):
    """Metrics of several methods on the same images; every image counts once over all ranks.

    LPIPS takes part where its weights are in place (``genrefocus weights``), otherwise it is
    absent.

    Args:
        prefix: of the logged names.
        methods: e.g. ``("model", "identity", "floor")``; the first is logged without its name.
    """

    def __init__(self, prefix: str, methods: tuple[str, ...]) -> None:
        super().__init__()
        self.prefix, self.methods = prefix, methods
        of_pairs = {"psnr": psnr, "ssim": ssim} | ({"lpips": lpips} if lpips_available() else {})
        self.pairs: Any = nn.ModuleDict(
            {
                method: nn.ModuleDict({k: Tally(m) for k, m in of_pairs.items()})
                for method in methods
            }
        )
        self.sweeps: Any = nn.ModuleDict(
            {method: Tally(lvcorr_of_images) for method in (*methods, "target")}
        )

    def update(self, outputs: dict[str, Tensor], target: Tensor) -> None:
        """Add a batch: method -> (B, 3, H, W) in [0, 1], and the target."""
        for method, output in outputs.items():
            for metric in self.pairs[method].values():
                metric.update(output, target)

    def update_sweep(self, method: str, images: Tensor) -> None:
        """Add scenes rendered at the protocol's K: (B, 4, 3, H, W) in [0, 1]."""
        self.sweeps[method].update(images)

    def compute_and_reset(self) -> dict[str, float]:
        """Means by name, ``<prefix>/[<method>_]<metric>``; what has seen no image is left out."""
        values: dict[str, float] = {}
        cells = [(m, k, v) for m, group in self.pairs.items() for k, v in group.items()]
        cells += [(m, "lvcorr", v) for m, v in self.sweeps.items()]
        for method, name, metric in cells:
            summary = metric.compute()
            metric.reset()
            label = name if method == self.methods[0] else f"{method}_{name}"
            if int(summary.valid):
                values[f"{self.prefix}/{label}"] = float(summary.mean)
            if int(summary.failed):
                values[f"{self.prefix}/{label}_failed"] = float(summary.failed)
        return values
