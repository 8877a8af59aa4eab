"""Contact sheets: pictures and defocus maps side by side, with labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genrefocus.optics import MAX_COC
from genrefocus.render.tone import linear_to_srgb

_GAP = 4  # px between cells
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class _Cell:
    image: Image.Image
    caption: str = ""


def contact_sheet(
    rows: Sequence[Sequence[Tensor | None]], titles: Sequence[str], scale: int
) -> Image.Image:
    """A sheet with a row for every sample and a titled column for every kind of picture.

    Args:
        rows: cells, as many in each row as there are titles. Pictures are (3, H, W) in [0, 1];
            defocus maps (1, H, W) or (H, W) in [0, 1], shown in colours over the map's own range,
            which stands below it as blur radius in px; None leaves the cell empty.
        titles: of the columns.
        scale: enlargement by nearest neighbour, 1 or more.

    Raises:
        ValueError: no rows, a row of another length, or a tensor of another shape.
    """
    if not rows or scale < 1:
        raise ValueError(f"a contact sheet needs rows and a scale of 1 or more, got {scale}")
    for cells_of_row in rows:
        if len(cells_of_row) != len(titles):
            raise ValueError(
                f"a row of the sheet has {len(cells_of_row)} cells for {len(titles)} titles"
            )
    font = ImageFont.load_default()
    line = math.ceil(font.getbbox("Ag")[3]) + _GAP
    cells = [[None if values is None else _cell(values, scale) for values in row] for row in rows]

    def breadth(cell: _Cell | None) -> int:
        return max(cell.image.width, math.ceil(font.getlength(cell.caption))) if cell else 0

    widths = [
        max(math.ceil(font.getlength(title)), *(breadth(row[column]) for row in cells))
        for column, title in enumerate(titles)
    ]
    heights = [
        max((c.image.height + (line if c.caption else 0) for c in row if c), default=0)
        for row in cells
    ]
    size = sum(widths) + _GAP * (len(widths) + 1), line + sum(heights) + _GAP * (len(rows) + 1)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = _GAP + sum(widths[:column]) + _GAP * column
        draw.text((left, _GAP), title, fill=_INK, font=font)
        for number, row in enumerate(cells):
            top = line + _GAP + sum(heights[:number]) + _GAP * number
            if (cell := row[column]) is not None:
                sheet.paste(cell.image, (left, top))
                below = (left, top + cell.image.height)
                draw.text(below, cell.caption, fill=_INK, font=font)
    return sheet


COMPARED = ("input", "output", "target")
"""Pictures of a test sample that runs are compared by."""


def save_pictures(panel: Mapping[str, Tensor | None], folder: Path) -> None:
    """Write those of COMPARED in a panel, (3, H, W) in [0, 1], to ``<folder>/<title>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    for title in COMPARED:
        if (picture := panel.get(title)) is not None:
            _enlarged(picture.detach().float().cpu(), 1).save(folder / f"{title}.png")


def colour_map(values: Tensor) -> Tensor:
    """Colours (3, H, W) in [0, 1] of values (H, W) in [0, 1], from dark violet to light yellow.

    Lightness is linear in the value, and equal steps look about equal: the map is a path in Oklab
    (B. Ottosson, 2020).
    """
    share = values.clamp(0, 1).double()
    lightness, hue = 0.25 + 0.7 * share, torch.deg2rad(290 + 175 * share)
    chroma = 0.04 + 0.42 * share * (1 - share) + 0.06 * share
    a, b = chroma * hue.cos(), chroma * hue.sin()
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return linear_to_srgb(torch.stack([red, green, blue]).float())


def coloured(defocus: Tensor) -> tuple[Tensor, str]:
    """A defocus map (H, W) in colours (3, H, W) over its own range, and that range in px."""
    low, high = float(defocus.min()), float(defocus.max())
    share = (defocus - low) / (high - low) if high > low else torch.zeros_like(defocus)
    return colour_map(share), f"{low * MAX_COC:.1f} to {high * MAX_COC:.1f} px"


def _cell(values: Tensor, scale: int) -> _Cell:
    values = values.detach().float().cpu()
    if values.ndim == 3 and values.shape[0] == 3:
        return _Cell(_enlarged(values, scale))
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(
            f"a cell of the sheet has shape {tuple(values.shape)}, not that of a picture"
        )
    colours, caption = coloured(values)
    return _Cell(_enlarged(colours, scale), caption)


def _enlarged(picture: Tensor, scale: int) -> Image.Image:
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    large = pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Image.fromarray(np.ascontiguousarray(large.numpy()))
