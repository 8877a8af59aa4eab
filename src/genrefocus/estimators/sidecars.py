"""Depth and masks from files beside the photographs."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from genrefocus.data.images import load_map, load_mask, not_in_metres
from genrefocus.estimators.protocols import InFocus, Photo
from genrefocus.geometry import fitted


class SidecarDepth:
    """Depth from ``<folder>/<name of the photograph>.npy``, metres, of the upright photograph.

    A map of another size but the same proportions is scaled to the photograph's by nearest
    neighbour. A warning names the first map with a median beyond 200 m: it may be in millimetres.

    Raises (``depth``):
        FileNotFoundError: no file for a photograph.
        ValueError: not a 2-D floating point array, or other proportions.
    """

    holds_network = False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = "sidecar depth"
        self._warned = False

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        return [self._read(photo) for photo in photos]

    def _read(self, photo: Photo) -> Tensor:
        path = _sidecar(self.folder, photo, ".npy", "depth")
        depth = load_map(path, "depth")
        if not self._warned and (notice := not_in_metres(depth)):
            self._warned = True
            warnings.warn(f"{path}: {notice}", stacklevel=2)
        # Nearest neighbour picks values, so that it does not matter whether it picks depth.
        return fitted(depth, *photo.size, str(path))


class SidecarMask:
    """In-focus mask from ``<folder>/<name of the photograph>.png``: white in focus.

    Sizes and errors as for :class:`SidecarDepth`.
    """

    holds_network = False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = "sidecar mask"

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks = []
        for photo in photos:
            path = _sidecar(self.folder, photo, ".png", "mask")
            region = fitted(load_mask(path), *photo.size, str(path))
            masks.append(InFocus(region, self.name))
        return masks


def _sidecar(folder: Path, photo: Photo, suffix: str, what: str) -> Path:
    path = (folder / photo.name).with_suffix(suffix)
    if not path.is_file():
        raise FileNotFoundError(
            f"photograph {photo.name} has no {what}: {path} does not exist; put it there, name "
            f"another folder of estimates (data.estimates), or take a network ({what}=onnx, ...)"
        )
    return path
