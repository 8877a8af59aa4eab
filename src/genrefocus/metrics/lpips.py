"""Learned perceptual image patch similarity (Zhang et al. 2018), version 0.1.

The linear heads ship with the ``lpips`` package. The trunks are torchvision's AlexNet and VGG16,
which are read from TORCH_HOME and never downloaded here: see :mod:`genrefocus.metrics.weights`.
"""

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from genrefocus.metrics.pairs import check_pair, nan_where_invalid
from genrefocus.metrics.precision import in_float32
from genrefocus.metrics.tally import Tally

Net = Literal["alex", "vgg"]
NETS: tuple[Net, ...] = get_args(Net)

TRUNK_FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
# Below these the last pooling layer has nothing left to pool.
MIN_SIDE: dict[Net, int] = {"alex": 31, "vgg": 16}

REMEDY = "run `genrefocus weights`"


class NotAvailable(FileNotFoundError):
    """A metric cannot be computed on this machine; the message says what to run."""


def trunk_file(net: Net) -> Path:
    """Where torchvision looks for the trunk of ``net``: TORCH_HOME/hub/checkpoints."""
    if net not in NETS:
        raise ValueError(f"unknown LPIPS trunk {net!r}; choose one of {', '.join(NETS)}")
    return Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILES[net]


def lpips_available(net: Net = "alex") -> bool:
    """Whether the trunk of ``net`` is in place, so that LPIPS can be computed offline."""
    return trunk_file(net).is_file()


@in_float32
def lpips(pred: Tensor, target: Tensor, *, net: Net = "alex") -> Tensor:
    """LPIPS of each image pair: 0 for equal images, larger is worse.

    The linear heads were fitted on patches of 64 x 64 px, so images of that size are its home
    ground.

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


class LPIPS(Tally):
    """Mean of :func:`lpips` over all images seen; see :class:`Summary`.

    The network is shared and not part of the module, so that it enters no checkpoint.

    Raises:
        NotAvailable: at construction, when the trunk is not in TORCH_HOME.
    """

    higher_is_better = False

    def __init__(self, net: Net = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_trunk(net)
        self.net = net

    @torch.no_grad()
    def update(self, pred: Tensor, target: Tensor) -> None:
        """Add a batch: both (B, 3, H, W) in [0, 1], at least 31 (alex) or 16 px (vgg) a side."""
        self.record(lpips(pred, target, net=self.net))


def require_trunk(net: Net, metric: str = "LPIPS") -> Path:
    """The trunk of ``net``.

    Raises:
        NotAvailable: it is not in TORCH_HOME; the message names ``metric``.
    """
    file = trunk_file(net)
    if not file.is_file():
        raise NotAvailable(f"{metric} ({net}) is not available: {file} is missing; {REMEDY}")
    return file


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
    from lpips import LPIPS as Network  # slow to import, and not needed to look for a file

    # The first caller may be inside inference mode; the next one may want a gradient.
    with warnings.catch_warnings(), torch.inference_mode(False):
        # lpips asks torchvision for its trunk in a way that torchvision has deprecated.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        try:
            network = Network(net=net, spatial=spatial, verbose=False)
        except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"the LPIPS trunk {file} is damaged ({type(error).__name__}); {REMEDY}"
            ) from error
    network.requires_grad_(False)
    return network.eval().to(device)
