"""Preparations of a camera roll, and what they leave."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from genrefocus.data.images import load_image
from genrefocus.estimators import SidecarDepth, SidecarMask
from genrefocus.preparation import runner
from genrefocus.preparation.in_the_wild import Deblur, InTheWild
from genrefocus.preparation.sources import Photographs

COUNT = 14
ONE_SPLIT = {"train": 1.0}


def landscape(photos: Path) -> Path:
    return next(p for p in sorted(photos.glob("IMG*")) if load_image(p).shape[1:] == (32, 48))


def halved(images: Tensor, numbers: Sequence[int]) -> Tensor:
    """Stands for a deblurring network; its answer can be recognised."""
    return images / 2


def prepare(roll: Path, out: Path, deblur: Deblur = halved, **changes) -> dict:
    route = {"long_edge": 1024, "least_edge": 1, "batch_size": 4}
    options, source = [*route, "told", "reblurred"], changes.pop("source", None)
    route |= {name: changes.pop(name) for name in options if name in changes}
    return runner.prepare(
        InTheWild(
            depth=SidecarDepth(roll / "depth"),
            mask=SidecarMask(roll / "mask"),
            deblur=deblur,
            deblur_name="halved",
            **route,
        ),
        source or Photographs(roll / "photos", option="data.photos"),
        out,
        **{"seed": 0, "items_per_shard": 5, "splits": ONE_SPLIT, "progress": False, **changes},
    )


def ledger(folder: Path) -> dict[str, dict]:
    lines = (folder / "rejections.jsonl").read_text().splitlines()
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
