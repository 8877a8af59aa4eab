"""Samples as small pictures, for sheets and pages."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from genrefocus.data.sample import Sample, to_float
from genrefocus.optics import MAX_COC, defocus_map
from genrefocus.pages import jpeg_uri, small
from genrefocus.pictures import colour_map

AIF, PHOTOGRAPH, DEFOCUS, MASK = "all in focus", "photograph", "defocus map", "in focus"


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


def sample_pictures(sample: Sample, long_edge: int) -> dict[str, Tensor]:
    """Title -> picture, as ``pictures.contact_sheet`` takes it: what the sample has, in order."""
    shown = {AIF: to_float(sample.aif), PHOTOGRAPH: to_float(sample.bokeh)}
    if (defocus := _defocus(sample)) is not None:
        shown[DEFOCUS] = defocus[None]
    if sample.mask is not None:
        shown[MASK] = sample.mask.float().expand(3, -1, -1)
    shown |= {name.replace("_", " "): to_float(x) for name, x in sorted(sample.extras.items())}
    return {title: small(picture, long_edge) for title, picture in shown.items()}


def sample_thumbnails(sample: Sample, long_edge: int) -> dict[str, Thumbnail]:
    """Title -> thumbnail, for a page."""
    thumbnails = {}
    for title, picture in sample_pictures(sample, long_edge).items():
        caption = ""
        if title == DEFOCUS:
            defocus = _defocus(sample)
            assert defocus is not None
            low, high = (float(x) for x in defocus.aminmax())
            share = (picture[0] - low) / (high - low) if high > low else torch.zeros_like(picture)
            picture, caption = colour_map(share), f"{low * MAX_COC:.1f} to {high * MAX_COC:.1f} px"
        thumbnails[title] = Thumbnail(jpeg_uri(picture), title, caption)
    return thumbnails


def columns_of(rows: Iterable[Iterable[str]]) -> list[str]:
    """Titles of a sheet whose rows have pictures of these titles, in the order of a sample's."""
    titles = dict.fromkeys(title for row in rows for title in row)
    known = [title for title in (AIF, PHOTOGRAPH, DEFOCUS, MASK) if title in titles]
    return [*known, *sorted(set(titles) - set(known))]


def before_and_after(sample: Sample, long_edge: int) -> Thumbnail:
    """All-in-focus picture and photograph side by side in one picture."""
    halves = [small(to_float(one), long_edge) for one in (sample.aif, sample.bokeh)]
    return Thumbnail(jpeg_uri(torch.cat(halves, dim=-1)), f"{AIF} | {PHOTOGRAPH}")


def _defocus(sample: Sample) -> Tensor | None:
    if sample.strength is None:
        return None
    assert sample.disparity is not None and sample.focus_disparity is not None
    return defocus_map(sample.disparity, sample.focus_disparity, sample.strength)
