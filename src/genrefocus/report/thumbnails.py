"""Images and samples as small images, for sheets and pages."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from genrefocus.data.images import load_image
from genrefocus.data.sample import Sample, to_float, to_uint8
from genrefocus.optics import defocus_map
from genrefocus.report.contact_sheet import coloured

AIF, PHOTOGRAPH, DEFOCUS, MASK = "all in focus", "photograph", "defocus map", "in focus"

_QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class Thumbnail:
    """An image for a page.

    Attributes:
        uri: the image itself, as a ``data:`` URI of a JPEG.
        title: what it shows.
        caption: below it; for defocus maps the range of blur radii.
    """

    uri: str
    title: str
    caption: str = ""


def small(image: Tensor, long_edge: int) -> Tensor:
    """(C, H, W) in [0, 1] scaled down to a long edge; smaller ones are kept."""
    height, width = image.shape[-2:]
    scale = long_edge / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(height * scale)), max(1, round(width * scale))
    shown = interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return shown.clamp(0, 1)


def jpeg_uri(image: Tensor) -> str:
    """(3, H, W) in [0, 1] as a ``data:`` URI."""
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_uri(path: str | Path, long_edge: int) -> str:
    """An image file as a small ``data:`` URI."""
    return jpeg_uri(small(load_image(path), long_edge))


def sample_images(sample: Sample, long_edge: int) -> dict[str, Tensor]:
    """Title -> image, as ``images.contact_sheet`` takes it: what the sample has, in order."""
    shown = {AIF: to_float(sample.aif), PHOTOGRAPH: to_float(sample.bokeh)}
    if sample.strength is not None:
        assert sample.disparity is not None and sample.focus_disparity is not None
        blur = defocus_map(sample.disparity, sample.focus_disparity, sample.strength)
        shown[DEFOCUS] = blur[None]
    if sample.mask is not None:
        shown[MASK] = sample.mask.float().expand(3, -1, -1)
    shown |= {name.replace("_", " "): to_float(x) for name, x in sorted(sample.extras.items())}
    return {title: small(image, long_edge) for title, image in shown.items()}


def sample_thumbnails(sample: Sample, long_edge: int) -> dict[str, Thumbnail]:
    """Title -> thumbnail, for a page."""
    shown = {}
    for title, image in sample_images(sample, long_edge).items():
        colours, caption = coloured(image[0]) if len(image) == 1 else (image, "")
        shown[title] = Thumbnail(jpeg_uri(colours), title, caption)
    return shown


def columns_of(rows: Iterable[Iterable[str]]) -> list[str]:
    """Titles of a sheet whose rows have images of these titles, in the order of a sample's."""
    titles = dict.fromkeys(title for row in rows for title in row)
    known = [title for title in (AIF, PHOTOGRAPH, DEFOCUS, MASK) if title in titles]
    return [*known, *sorted(set(titles) - set(known))]


def before_and_after(sample: Sample, long_edge: int) -> Thumbnail:
    """All-in-focus image and photograph side by side in one image."""
    halves = [small(to_float(one), long_edge) for one in (sample.aif, sample.bokeh)]
    return Thumbnail(jpeg_uri(torch.cat(halves, dim=-1)), f"{AIF} | {PHOTOGRAPH}")
