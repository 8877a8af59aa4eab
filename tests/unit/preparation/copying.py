"""A preparation that copies images: the least that a runner needs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrefocus.data.sample import Sample
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import ImageFile, Item
from genrefocus.preparation.route import Prepared, Route, load_image
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.shard_plan import Candidate, LeakageCheck
from genrefocus.rejection import Reason, Rejected

NO_LEAKAGE = LeakageCheck(against=(), distance=0, allow=())
SPLITS = {"train": 0.6, "val": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Images:
    """A folder of PNG files; scenes by the part of the name before a dash, if there is one."""

    root: Path
    name = "images"
    roles = frozenset({"photo"})

    def items(self) -> list[Item]:
        return [
            Item(
                path.name,
                path.stem.split("-")[0] if "-" in path.stem else None,
                {"photo": ImageFile(path)},
            )
            for path in sorted(self.root.glob("*.png"))
        ]

    def problems(self) -> list[tuple[str, Rejected]]:
        return [
            (path.name, Rejected(Reason.FORMAT_UNSUPPORTED, path.suffix))
            for path in sorted(self.root.glob("*.raw"))
        ]


@dataclass(frozen=True)
class Copied(Route):
    """A sample whose sharp image is noise of its seed; brightness 0 is turned away."""

    batch_size: int = 2
    pause: float = 0.0
    name = "deblur"
    roles = frozenset({"photo"})

    def parameters(self) -> dict[str, Any]:
        return {"copied": True}

    def load(self, candidate: Candidate) -> torch.Tensor:
        return load_image(candidate, "photo", long_edge=64, least_edge=1)

    def estimate(self, candidates: Sequence[Candidate], loaded: Sequence[Any]) -> Sequence[Any]:
        time.sleep(self.pause)
        return loaded

    def sample(self, candidate: Candidate, estimated: torch.Tensor) -> Prepared:
        brightness = float(estimated.mean())
        if brightness == 0:
            raise Rejected(Reason.IMAGE_TOO_SMALL, brightness, "black")
        noise = candidate.generator().integers(0, 255, (3, *estimated.shape[1:]), np.uint8)
        bokeh = (estimated * 255).round().to(torch.uint8)
        sample = Sample(candidate.key, self.name, candidate.split, torch.from_numpy(noise), bokeh)
        return Prepared(sample, {"k": brightness, "ssim": float("nan")})


def run(images: Path, out: Path, **changes: Any) -> dict[str, Any] | None:
    arguments: dict[str, Any] = {
        "route": Copied(),
        "source": Images(images),
        "splits": SPLITS,
        "gates": Gates({}),
        "leakage": NO_LEAKAGE,
        "seed": 5,
        "items_per_shard": 4,
        "progress": False,
    }
    arguments |= changes
    return prepare(arguments.pop("route"), arguments.pop("source"), out, **arguments)
