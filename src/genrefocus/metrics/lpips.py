"""Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1.

The linear heads ship with the ``lpips`` package. The trunks are torchvision's AlexNet and VGG16,
which are read from TORCH_HOME and never downloaded here: see :mod:`genrefocus.metrics.trunks`.
"""

import functools
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from genrefocus.metrics.info import TARGET, MetricInfo, of_batches, version_of
from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.trunks import NETS, Net, require_trunk, trunk_file, trunk_hash

# Below these the last pooling layer has nothing left to pool.
MIN_SIDE: dict[Net, int] = {"alex": 31, "vgg": 16}


def lpips_available(net: Net = "alex") -> bool:
    """Whether the trunk of ``net`` is in place, so that LPIPS can be computed offline."""
    return trunk_file(net).is_file()


@in_float32
def lpips(pred: Tensor, target: Tensor, *, net: Net = "alex") -> Tensor:
    """LPIPS of each image pair: 0 for equal images, larger is worse.

    The linear heads were fitted on patches of 64 x 64 px, so LPIPS is best founded at that size.

    Args:
        pred: (B, 3, H, W) in [0, 1], at least 31 px a side for alex and 16 px for vgg.
        target: same shape, range and device.
        net: the trunk, "alex" (the usual choice for evaluation) or "vgg".

    Returns:
        (B,) float32; NaN where an image of the pair is not finite.

    Raises:
        ValueError: shapes differ or are not (B, 3, H, W), an image is too small, values lie
            outside [0, 1], or the trunk's file is damaged.
        NotAvailable: the trunk is not in TORCH_HOME.
    """
    valid, values = _measure(pred, target, net, spatial=False)
    return nan_where_invalid(values.reshape(-1), valid)


@in_float32
def lpips_map(pred: Tensor, target: Tensor, *, net: Net = "alex") -> Tensor:
    """LPIPS as a map (B, H, W): the layers' distances before averaging, brought to full size.

    Arguments and errors as for :func:`lpips`; NaN all over an image of a pair that is not finite.
    """
    valid, values = _measure(pred, target, net, spatial=True)
    return values[:, 0].masked_fill(~valid[:, None, None], torch.nan)


def _measure(pred: Tensor, target: Tensor, net: Net, *, spatial: bool) -> tuple[Tensor, Tensor]:
    file = require_trunk(net)
    valid = check_pair(pred, target, min_side=MIN_SIDE[net])
    network = _network(net, file, file.stat().st_mtime_ns, pred.device, spatial)
    return valid, network(pred, target, normalize=True)


@functools.lru_cache(maxsize=4)
def _network(
    net: Net, file: Path, modified_ns: int, device: torch.device, spatial: bool
) -> nn.Module:
    """The frozen network; ``file`` and ``modified_ns`` tell states of TORCH_HOME apart."""
    from lpips import LPIPS  # slow to import, and not needed to look for a file

    trunk_hash(net)  # names a damaged file
    # The first caller may be inside inference mode; the next one may want a gradient.
    with warnings.catch_warnings(), torch.inference_mode(False):
        # lpips asks torchvision for its trunk in a way that torchvision has deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = LPIPS(net=net, spatial=spatial, verbose=False)
    network.requires_grad_(False)
    return network.eval().to(device)


METRICS = tuple(
    MetricInfo(
        "lpips" if net == "alex" else f"lpips_{net}",
        of_batches(lpips, net=net),
        "lower",
        TARGET,
        implementation=f"{version_of('lpips')}, v0.1, {net}",
        require=functools.partial(require_trunk, net),
        hash_weights=functools.partial(trunk_hash, net),
    )
    for net in NETS
)
