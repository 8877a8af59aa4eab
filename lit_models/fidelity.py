"""PSNR, SSIM, LPIPS and LVCorr of a network on validation samples."""

from typing import Any

from torch import Tensor, nn

from genrefocus.metrics.lpips import lpips, lpips_available
from genrefocus.metrics.lvcorr import lvcorr_of_images
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.metrics.tally import Tally


class Fidelity(nn.Module):
    """Metrics of images; every image counts once over all ranks.

    LPIPS takes part where its weights are in place (``genrefocus weights``), otherwise it is
    absent.

    Args:
        suffix: of the names.
    """

    def __init__(self, suffix: str = "") -> None:
        super().__init__()
        self.suffix = suffix
        of_pairs = {"psnr": psnr, "ssim": ssim} | ({"lpips": lpips} if lpips_available() else {})
        self.pairs: Any = nn.ModuleDict({name: Tally(one) for name, one in of_pairs.items()})
        self.control = Tally(lvcorr_of_images)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add a batch (B, 3, H, W) in [0, 1]."""
        for metric in self.pairs.values():
            metric.update(output, target)

    def update_control(self, images: Tensor) -> None:
        """Add scenes rendered at the protocol's K: (B, 4, 3, H, W) in [0, 1]."""
        self.control.update(images)

    def compute_and_reset(self) -> dict[str, float]:
        """Means by name, ``val/<metric><suffix>``; what has seen no image is left out."""
        values: dict[str, float] = {}
        for name, metric in {**self.pairs, "lvcorr": self.control}.items():
            summary = metric.compute()
            metric.reset()
            if int(summary.valid):
                values[f"val/{name}{self.suffix}"] = float(summary.mean)
            if int(summary.failed):
                values[f"val/{name}{self.suffix}_failed"] = float(summary.failed)
        return values
