"""Aperture series of the simulated camera, made on first use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from genrefocus.data.aperture_roll import build_series
from genrefocus.preparation.sources.aperture_series import RealBokeh3mp
from genrefocus.preparation.sources.listing import Found


@dataclass(frozen=True)
class ApertureRoll(RealBokeh3mp):
    """RealBokeh_3MP of procedural scenes; estimated depth lies in ``depth`` beside ``root``.

    Args:
        root: folder ``pictures`` of the series.
        seed, counts, size, frames, workers: see :func:`genrefocus.data.aperture_roll.build_series`.
    """

    seed: int = field(kw_only=True)
    counts: Mapping[str, int] = field(kw_only=True)
    size: int = field(kw_only=True)
    frames: int = field(kw_only=True)
    workers: int = field(kw_only=True)

    name: ClassVar[str] = "aperture_roll"

    def _scan(self) -> Found:
        build_series(
            Path(self.root).parent,
            seed=self.seed,
            counts=self.counts,
            size=self.size,
            frames=self.frames,
            workers=self.workers,
        )
        return super()._scan()
