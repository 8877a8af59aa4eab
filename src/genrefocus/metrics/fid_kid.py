"""FID and KID: how far apart the distributions of two large sets of images are.

FID (Heusel et al. 2017) compares mean and covariance of features, KID (Binkowski et al. 2018) is
the unbiased squared MMD of features under a cubic kernel. Both say nothing about single images, and
FID is biased for small sets: below some 10,000 images compare it only between sets of one size.

Both take the features of all images (:func:`features`), and put them into one order before they sum
anything, so that the same features give the same value, bit for bit, in whatever order and on
whatever rank they were made (torchmetrics' CatMetric gathers them over ranks). A network's features
of an image may depend on its batch in the last bits.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genrefocus.metrics.info import NotAvailable
from genrefocus.metrics.pairs import check_pair
from genrefocus.metrics.precision import in_float32

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


def require_inception() -> Path:
    """The weights of the FID Inception network.

    Raises:
        NotAvailable: torch-fidelity is not installed, or its weights are not in TORCH_HOME.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
    steps = []
    if importlib.util.find_spec("torch_fidelity") is None:
        steps.append("`pip install torch-fidelity`, in the extra `iqa`")
    if not file.is_file():
        steps.append(f"copy {INCEPTION_FILE} of torch-fidelity's release v0.2.0 to {file}")
    if steps:
        raise NotAvailable(f"FID and KID are not available: {'; '.join(steps)}")
    return file


def load_inception() -> nn.Module:
    """The Inception network of FID: (B, 3, H, W) in [0, 1], rounded to 8 bits, to (B, 2048).

    Raises:
        NotAvailable: as for :func:`require_inception`.
    """
    file = require_inception()
    from torchmetrics.image.fid import NoTrainInceptionV3

    return _Bytes(
        NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=["2048"],
            feature_extractor_weights_path=str(file),
        ).requires_grad_(False)
    )


@torch.no_grad()
@in_float32
def features(images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
    """Features (B, D) float64 of images (B, 3, H, W) in [0, 1], for :func:`fid` and :func:`kid`.

    Args:
        images: of one of the two sets.
        network: (B, 3, H, W) to (B, D), e.g. from :func:`load_inception`.

    Raises:
        ValueError: an image is not finite: a set without it is another set.
    """
    if not bool(check_pair(images, images).all()):
        raise ValueError("an image is not finite; FID and KID need every image of a set")
    return network(images).double()


class _Bytes(nn.Module):
    """A network that takes 8-bit images, given images in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network((images * 255.0).round().clamp(0, 255).byte())
        return features


def fid(pred: Tensor, target: Tensor) -> Tensor:
    """Frechet distance of two sets of features, each taken as Gaussian; 0-d float64, 0 best.

    Args:
        pred: (N, D) features, N >= 2.
        target: (M, D) features, M >= 2.

    Returns:
        |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), covariances with N - 1.

    Raises:
        ValueError: shapes do not fit, or a set has fewer than two images.
    """
    first, second = _prepared(pred, target)
    means = first.mean(0), second.mean(0)
    covariances = first.T.cov(), second.T.cov()
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return (means[0] - means[1]).square().sum() + traces - 2.0 * roots


def kid(pred: Tensor, target: Tensor) -> Tensor:
    """Unbiased squared MMD of two sets of features, kernel (x . y / D + 1)^3; 0-d float64.

    Over all images at once, where most implementations average over random subsets: the same
    expectation, without the randomness. May be below 0 for sets that are alike.

    Args and errors as for :func:`fid`.
    """
    first, second = _prepared(pred, target)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def within(a: Tensor) -> Tensor:
        similar = kernel(a, a)
        return (similar.sum() - similar.trace()) / (len(a) * (len(a) - 1))

    return within(first) + within(second) - 2.0 * kernel(first, second).mean()


def _ordered(features: Tensor) -> Tensor:
    """Rows in an order that depends on nothing but their values."""
    rows = np.ascontiguousarray(features.cpu().numpy())
    keys = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
    return features[torch.from_numpy(keys.argsort(kind="stable")).to(features.device)]


def _prepared(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if pred.ndim != 2 or target.ndim != 2 or pred.shape[1] != target.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), not {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if min(len(pred), len(target)) < 2:
        raise ValueError("a set needs two images at least, many more for a figure worth reading")
    return _ordered(pred.double()), _ordered(target.double())
