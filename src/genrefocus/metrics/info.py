"""What describes a metric of one image: its name, unit, direction, needs, code and weights."""

import hashlib
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

VERSION = 1
"""Version of this project's own metrics, raised with every change of their values."""

OWN = f"genrefocus, metrics version {VERSION}"

Direction = Literal["higher", "lower", "zero", "none"]
Need = Literal[
    "target",
    "aif",
    "disparity",
    "focus_disparity",
    "strength",
    "lettering",
    "aperture",
    "lights",
]

TARGET: frozenset[Need] = frozenset({"target"})
AIF: frozenset[Need] = frozenset({"aif"})
CONTROL: frozenset[Need] = frozenset({"disparity", "focus_disparity", "strength"})


class NotAvailable(FileNotFoundError):
    """A metric cannot be computed on this machine; the message says what to do."""


@dataclass(frozen=True)
class MetricInfo:
    """One metric of one image.

    Attributes:
        name: key in tables and files.
        measure: (pred, **needed facts) to a number; call the MetricInfo itself instead, which
            checks that the facts are given.
        direction: ``higher`` or ``lower`` is better, ``zero`` is best of a signed value, ``none``
            if the value only says how much was measured.
        needs: facts about the case that the metric takes.
        unit: "dB", "px", "1/m" or "" for a pure number.
        implementation: whose code, in which version, and which network.
        require: raises NotAvailable where the metric cannot be computed.
        hash_weights: returns the SHA-256 of its network, in hex; None for a metric without one.
    """

    name: str
    measure: Callable[..., float] = field(repr=False)
    direction: Direction
    needs: frozenset[Need] = frozenset()
    unit: str = ""
    implementation: str = OWN
    require: Callable[[], object] = field(default=lambda: None, repr=False)
    hash_weights: Callable[[], str] | None = field(default=None, repr=False)

    def available(self) -> str | None:
        """None where the metric can be computed, else why not and what to do."""
        try:
            self.require()
        except NotAvailable as missing:
            return str(missing)
        return None

    def weights(self) -> str | None:
        """SHA-256 of its weights, in hex; None for a metric without weights.

        Raises:
            NotAvailable: they are not on this machine.
        """
        if self.hash_weights is None:
            return None
        self.require()
        return self.hash_weights()

    def __call__(self, pred: Tensor, **facts: Any) -> float:
        """The value of one output.

        Args:
            pred: (3, H, W) sRGB in [0, 1], the output.
            **facts: what is known, None where it is not; those that the metric needs are read:
                ``target`` and ``aif`` (all in focus), shape and range as ``pred``; ``disparity``
                (H, W) in 1/m; ``focus_disparity`` in 1/m and ``strength`` (K, stated for H x W) as
                requested; ``lettering``, a word that the target shows;
                ``aperture`` and ``lights``, see ``metrics.aperture_shape``.

        Returns:
            NaN, to be counted as failed, where this image does not determine a value or the output
            is not finite.

        Raises:
            ValueError: a fact that the metric needs is not given, or shapes or ranges are wrong.
            NotAvailable: weights or a package are missing; see :meth:`available`.
        """
        missing = sorted(need for need in self.needs if facts.get(need) is None)
        if missing:
            raise ValueError(f"metric {self.name} needs {', '.join(missing)}, not known here")
        self.require()
        if not bool(pred.isfinite().all()):
            return math.nan
        return self.measure(pred, **{need: facts[need] for need in self.needs})


def of_batches(function: Callable[..., Tensor], **settings: Any) -> Callable[..., float]:
    """A ``measure`` of single images from a function of batches, (B, 3, H, W) each, to (B,)."""

    def measure(pred: Tensor, **images: Tensor) -> float:
        with torch.no_grad():
            batches = {name: image[None] for name, image in images.items()}
            return float(function(pred[None], **batches, **settings))

    return measure


def version_of(package: str) -> str:
    """Name and version of an installed package, for ``implementation``."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package}, not installed"


def file_hash(*files: Path) -> str:
    """SHA-256 over the contents of files, one after the other, in hex."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
