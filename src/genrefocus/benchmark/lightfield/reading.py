"""Light fields from files: a folder of views, an ESLF image, an array."""

import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from genrefocus.benchmark.lightfield.field import LightField, relative_field
from genrefocus.data.images import is_image, load_array, load_image
from genrefocus.render.tone import srgb_to_linear

ESLF_VIEWS = 14
"""Views per row and column in a decoded Lytro image."""

Order = Literal["camera", "aperture"]

_NUMBER = re.compile(r"\d+")


def open_light_field(path: str | Path, *, grid: int | None, order: Order) -> LightField:
    """A light field from a folder of views, an ``.npy`` array, or else an ESLF image.

    The whole grid is held in memory: 12 bytes per pixel and view.

    Args:
        path: file or folder.
        grid: rows and columns of views to use, the central ones, odd; None for all.
        order: ``camera`` where columns count to the right and rows down as the camera moves, which
            is how arrays of cameras and decoded plenoptic images are numbered: what is near moves
            against the count. ``aperture`` where it moves with the count.

    Returns:
        Views in linear light, with disparity in px between neighbours: files do not say the
        true scale.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        Rejected: a file that is no image, see ``data.images.load_image``.
        ValueError: views are missing, differ in size, or are fewer than ``grid``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no light field at {path}")
    if path.is_dir():
        views = read_folder(path)
    elif path.suffix == ".npy":
        views = read_array(path)
    else:
        views = read_eslf(path)
    views = _central(views, grid, path)
    if order == "camera":
        views = views.flip(0, 1)
    return relative_field(srgb_to_linear(views))


def is_light_field(path: Path) -> bool:
    """Whether a path may hold a light field: a folder with images, an array or an image."""
    if path.is_dir():
        return any(is_image(x) for x in path.iterdir())
    return path.suffix == ".npy" or is_image(path)


def read_folder(folder: Path) -> Tensor:
    """Views (V, U, 3, H, W) sRGB in [0, 1] from images that are named by row and column.

    The first two numbers in a name are row and column, as in ``view_03_07.png``; where names have
    but one, it counts the views of a square grid row by row. Rows and columns are sorted.

    Raises:
        ValueError: as :func:`open_light_field`.
    """
    files = sorted(x for x in folder.iterdir() if is_image(x))
    if not files:
        raise ValueError(f"{folder} holds no images; give a folder of views")
    places = _places(folder, files)
    rows, columns = (sorted({place[axis] for place in places}) for axis in (0, 1))
    missing = [(v, u) for v in rows for u in columns if (v, u) not in places]
    if missing:
        raise ValueError(
            f"{folder} holds {len(files)} views; those at row and column "
            f"{', '.join(map(str, missing[:4]))} are missing"
        )
    first = load_image(places[rows[0], columns[0]])
    views = torch.empty(len(rows), len(columns), *first.shape)
    for i, v in enumerate(rows):
        for j, u in enumerate(columns):
            view = load_image(places[v, u])
            if view.shape != first.shape:
                raise ValueError(
                    f"{places[v, u]} is {view.shape[2]}x{view.shape[1]} px, other views are "
                    f"{first.shape[2]}x{first.shape[1]} px (WxH)"
                )
            views[i, j] = view
    return views


def read_eslf(path: Path, views: int = ESLF_VIEWS) -> Tensor:
    """Views (V, U, 3, H, W) sRGB in [0, 1] from an image that interleaves them.

    View (v, u) is made of the pixels (``views`` * y + v, ``views`` * x + u). The outer ones of a
    Lytro camera are dark, for the lens vignettes them: use the central 9 x 9.

    Raises:
        ValueError: a size that is no multiple of ``views``.
    """
    image = load_image(path)
    _, height, width = image.shape
    if height % views or width % views:
        raise ValueError(f"{path} is {width}x{height} px (WxH), no multiple of {views} views")
    parts = image.reshape(3, height // views, views, width // views, views)
    return parts.permute(2, 4, 0, 1, 3)


def read_array(path: Path) -> Tensor:
    """Views (V, U, 3, H, W) sRGB in [0, 1] from an array (V, U, H, W, 3), uint8 or float.

    Raises:
        ValueError: not such an array.
    """
    array = load_array(path)
    if array.ndim != 5 or array.shape[-1] != 3 or array.dtype.kind not in "uf":
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}; views are uint8 or float (V, U, H, W, 3)"
        )
    scale = np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1
    views = torch.from_numpy(array.astype(np.float32) / np.float32(scale))
    if not bool(((views >= 0) & (views <= 1)).all()):
        raise ValueError(f"{path} has values outside [0, 1]; views are sRGB in [0, 1] or uint8")
    return views.permute(0, 1, 4, 2, 3)


def _places(folder: Path, files: list[Path]) -> dict[tuple[int, int], Path]:
    numbers = [[int(x) for x in _NUMBER.findall(file.stem)] for file in files]
    if min(len(x) for x in numbers) >= 2:
        keys = [(x[0], x[1]) for x in numbers]
    else:
        side = round(len(files) ** 0.5)
        if side**2 != len(files) or any(len(x) != 1 for x in numbers):
            raise ValueError(
                f"the names of {folder} do not say row and column (as view_03_07.png does), nor "
                f"count a square grid: {len(files)} files, the first {files[0].name}"
            )
        order = np.argsort([x[0] for x in numbers], kind="stable")
        files = [files[i] for i in order]
        keys = [divmod(i, side) for i in range(len(files))]
    if len(set(keys)) < len(keys):
        raise ValueError(f"two images of {folder} have the same row and column in their names")
    return dict(zip(keys, files, strict=True))


def _central(views: Tensor, grid: int | None, path: Path) -> Tensor:
    if grid is None:
        return views
    rows, columns = views.shape[:2]
    if grid > min(rows, columns):
        raise ValueError(f"{path} has {rows} x {columns} views, fewer than a grid of {grid}")
    top, left = (rows - grid) // 2, (columns - grid) // 2
    return views[top : top + grid, left : left + grid]
