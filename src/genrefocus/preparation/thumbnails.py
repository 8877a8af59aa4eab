"""Samples as small pictures, for sheets and pages."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from genrefocus.data.sample import Sample, to_float, to_uint8
from genrefocus.optics import MAX_COC, defocus_map
from genrefocus.pictures import colour_map

COLUMNS = ("all in focus", "photograph", "defocus map", "in focus")

_QUALITY = 78


@dataclass(frozen=True)
class Thumbnail:
    """A picture for a page.

    Attributes:
        uri: the picture itself, as a ``data:`` URI of a JPEG.
        title: what it shows.
        caption: below it; for defocus maps the range of blur radii.
    """

    uri: str
    title: str
    caption: str = ""


def small(picture: Tensor, long_edge: int) -> Tensor:
    """(C, H, W) in [0, 1] scaled down to a long edge; smaller ones are kept."""
    height, width = picture.shape[-2:]
    scale = long_edge / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    shown = interpolate(picture[None].float(), size, mode="bilinear", antialias=True)[0]
    return shown.clamp(0, 1)


def sample_row(sample: Sample, long_edge: int) -> list[Tensor | None]:
    """What ``COLUMNS`` says, as ``pictures.contact_sheet`` takes it; None where it has none."""
    row: list[Tensor | None] = [
        small(to_float(sample.aif), long_edge),
        small(to_float(sample.bokeh), long_edge),
        None,
        None,
    ]
    if (defocus := _defocus(sample)) is not None:
        row[2] = small(defocus[None], long_edge)
    if sample.mask is not None:
        row[3] = small(sample.mask.float().expand(3, -1, -1), long_edge)
    return row


def sample_thumbnails(sample: Sample, long_edge: int) -> list[Thumbnail | None]:
    """What ``COLUMNS`` says, for a page; None where it has none."""
    cells: list[Thumbnail | None] = []
    for title, picture in zip(COLUMNS, sample_row(sample, long_edge), strict=True):
        if picture is None:
            cells.append(None)
        elif picture.shape[0] == 3:
            cells.append(Thumbnail(jpeg_uri(picture), title))
        else:
            defocus = _defocus(sample)
            assert defocus is not None
            low, high = (float(x) for x in defocus.aminmax())
            share = (picture[0] - low) / (high - low) if high > low else torch.zeros_like(picture)
            caption = f"{low * MAX_COC:.1f} to {high * MAX_COC:.1f} px"
            cells.append(Thumbnail(jpeg_uri(colour_map(share)), title, caption))
    return cells


def before_and_after(sample: Sample, long_edge: int) -> Thumbnail:
    """All-in-focus picture and photograph side by side in one picture."""
    halves = [small(to_float(one), long_edge) for one in (sample.aif, sample.bokeh)]
    return Thumbnail(jpeg_uri(torch.cat(halves, dim=-1)), f"{COLUMNS[0]} | {COLUMNS[1]}")


def jpeg_uri(picture: Tensor) -> str:
    """(3, H, W) in [0, 1] as a ``data:`` URI."""
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(to_uint8(picture).permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _defocus(sample: Sample) -> Tensor | None:
    if sample.strength is None:
        return None
    assert sample.disparity is not None and sample.focus_disparity is not None
    return defocus_map(sample.disparity, sample.focus_disparity, sample.strength)
