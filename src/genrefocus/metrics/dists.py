"""Deep image structure and texture similarity (Ding et al. 2020), as torchmetrics has it.

torchmetrics carries the fitted weights of the layers; the trunk is torchvision's VGG16, read from
TORCH_HOME and never downloaded here: see :mod:`genrefocus.metrics.trunks`.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from genrefocus.metrics.info import TARGET, MetricInfo, of_batches, version_of
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.trunks import require_trunk, trunk_hash

MIN_SIDE = 16


@in_float32
def dists(pred: Tensor, target: Tensor) -> Tensor:
    """DISTS of each image pair: 0 for equal images, larger is worse.

    Computed at the images' own size: the authors' code scales the short edge to 256 px first,
    torchmetrics and pyiqa do not.

    Args:
        pred: (B, 3, H, W) in [0, 1], at least 16 px a side.
        target: same shape, range and device.

    Returns:
        (B,) float32, without gradient; NaN where an image of the pair is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), an image is too small, or values lie
            outside [0, 1], or the trunk's file is damaged.
        NotAvailable: the VGG16 trunk is not in TORCH_HOME.
    """
    file = require_trunk("vgg", "DISTS")
    valid = check_pair(pred, target, min_side=MIN_SIDE)
    network = _network(file, file.stat().st_mtime_ns, pred.device)
    with torch.no_grad():
        values = network(pred, target)
    return nan_where_invalid(values.reshape(-1).clone(), valid)


@functools.lru_cache(maxsize=2)
def _network(file: Path, modified_ns: int, device: torch.device) -> nn.Module:
    """The frozen network; ``file`` and ``modified_ns`` tell states of TORCH_HOME apart."""
    from torchmetrics.functional.image.dists import DISTSNetwork

    trunk_hash("vgg")  # names a damaged file
    with torch.inference_mode(False):
        return DISTSNetwork().requires_grad_(False).eval().to(device)


METRICS = (
    MetricInfo(
        "dists",
        of_batches(dists),
        "lower",
        TARGET,
        implementation=version_of("torchmetrics"),
        require=functools.partial(require_trunk, "vgg", "DISTS"),
        hash_weights=functools.partial(trunk_hash, "vgg"),
    ),
)
