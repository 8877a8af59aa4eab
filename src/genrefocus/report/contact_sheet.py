"""Contact sheets: images and defocus maps side by side, with labels."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from genrefocus.data.images import load_image
from genrefocus.optics import MAX_COC
from genrefocus.render.tone import linear_to_srgb

_GAP = 8  # px between cells
_TEXT = 12  # px
_FILE_EDGE = 192  # px, that smaller files are enlarged to
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def contact_sheet(
    rows: Sequence[Sequence[Tensor | None]],
    titles: Sequence[str],
    scale: int,
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """A sheet with a row for every sample and a titled column for every kind of image.

    Args:
        rows: cells, as many in each row as there are titles. Images are (3, H, W) in [0, 1];
            defocus maps (1, H, W) or (H, W) in [0, 1], shown in colours over the map's own range,
            which stands below it as blur radius in px; None leaves the cell empty.
        titles: of the columns.
        scale: enlargement by nearest neighbour, 1 or more.
        captions: text below each cell, in the shape of ``rows``; the range of a map stays.

    Raises:
        ValueError: no rows, a row of another length, or a tensor of another shape.
    """
    if not rows or scale < 1:
        raise ValueError(f"a contact sheet needs rows and a scale of 1 or more, got {scale}")
    captions = captions or [[""] * len(row) for row in rows]
    for cells_of_row in (*rows, *captions):
        if len(cells_of_row) != len(titles):
            raise ValueError(
                f"a row of the sheet has {len(cells_of_row)} cells for {len(titles)} titles"
            )
    cells = [[_captioned(None, title) for title in titles]]
    cells += [
        [_cell(values, scale, text) for values, text in zip(row, texts, strict=True)]
        for row, texts in zip(rows, captions, strict=True)
    ]
    widths = [max(cell.width for cell in column) for column in zip(*cells, strict=True)]
    heights = [max(cell.height for cell in row) for row in cells]
    size = sum(widths) + _GAP * (len(widths) + 1), sum(heights) + _GAP * (len(heights) + 1)
    sheet, top = Image.new("RGB", size, _PAPER), _GAP
    for row, height in zip(cells, heights, strict=True):
        left = _GAP
        for cell, width in zip(row, widths, strict=True):
            sheet.paste(cell, (left, top))
            left += width + _GAP
        top += height + _GAP
    return sheet


def sheet_of_files(
    rows: Sequence[Sequence[Path]],
    titles: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image | None:
    """A contact sheet of image files, small ones enlarged; cells of absent files stay empty.

    Returns:
        None where there is no file at all.
    """
    images = [[load_image(one) if one.is_file() else None for one in row] for row in rows]
    height = max((one.shape[-2] for row in images for one in row if one is not None), default=0)
    if not height:
        return None
    return contact_sheet(images, titles, max(1, _FILE_EDGE // height), captions)


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


def _cell(values: Tensor | None, scale: int, text: str) -> Image.Image:
    if values is None:
        return _captioned(None, text)
    values = values.detach().float().cpu()
    if values.ndim == 3 and values.shape[0] == 3:
        return _captioned(_enlarged(values, scale), text)
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(
            f"a cell of the sheet has shape {tuple(values.shape)}, not that of an image"
        )
    colours, extent = coloured(values)
    return _captioned(_enlarged(colours, scale), f"{extent} {text}".strip())


def _captioned(image: Image.Image | None, caption: str) -> Image.Image:
    """An image with a line of text below it; the text alone where there is no image."""
    font = ImageFont.load_default(_TEXT)
    width, height = image.size if image else (1, 0)
    line = math.ceil(font.getbbox("Ag")[3]) if caption or not image else 0
    size = max(width, math.ceil(font.getlength(caption))), height + line
    cell = Image.new("RGB", size, _PAPER)
    if image:
        cell.paste(image)
    if caption:
        ImageDraw.Draw(cell).text((0, height), caption, fill=_INK, font=font)
    return cell


def _enlarged(image: Tensor, scale: int) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    large = pixels.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Image.fromarray(np.ascontiguousarray(large.numpy()))
