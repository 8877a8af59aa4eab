"""HTML pages that hold all of their pictures and charts, and load nothing.

``page.html.j2`` is the frame that templates of other packages extend: styles, light and dark.
``charts`` draws SVG in the colours of the frame.
"""

import base64
import io
import json
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from genrefocus.data.sample import to_uint8

_QUALITY = 78


def render_page(package: str, template: str, **contents: Any) -> str:
    """A page of a template of a package; every value is escaped.

    Filters: ``number`` for four significant digits, ``plain`` for JSON data in a line.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader(__name__, "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "number": number}
    return environment.get_template(template).render(**contents)


def small(picture: Tensor, long_edge: int) -> Tensor:
    """(C, H, W) in [0, 1] scaled down to a long edge; smaller ones are kept."""
    height, width = picture.shape[-2:]
    scale = long_edge / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    shown = interpolate(picture[None].float(), size, mode="bilinear", antialias=True)[0]
    return shown.clamp(0, 1)


def jpeg_uri(picture: Tensor) -> str:
    """(3, H, W) in [0, 1] as a ``data:`` URI."""
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(to_uint8(picture).permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def number(value: object) -> str:
    """Floating point in four significant digits, anything else as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: object, most: int = 300) -> str:
    """A value of JSON data in a line, long ones cut; curves are drawn elsewhere."""
    if isinstance(value, dict) and "curve" in value:
        return ", ".join(f"{name} {number(one)}" for name, one in value.items() if name != "curve")
    plain = isinstance(value, (str, float))
    text = number(value) if plain else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= most else f"{text[:most]} ..."
