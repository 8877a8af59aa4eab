"""HTML pages that hold all of their images and charts, and load nothing.

``page.html.j2`` is the frame that templates of other packages extend: styles, light and dark.
``charts`` draws SVG in the colours of the frame, ``thumbnails`` makes small images of samples.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from genrefocus.writing import write_atomically


def write_page(path: str | Path, package: str, template: str, **contents: Any) -> Path:
    """Write a page from a template of a package; every value is escaped. Returns the path.

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
    write_atomically(Path(path), environment.get_template(template).render(**contents).encode())
    return Path(path)


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spread, first and last among them."""
    return sorted({int(n) for n in np.linspace(0, count - 1, min(count, most)).round()})


def ends(values: pd.Series, most: int, *, ascending: bool = True) -> tuple[pd.Series, pd.Series]:
    """At most ``most`` finite values from either end of their order, no value in both."""
    ordered = values[np.isfinite(values)].sort_values(ascending=ascending, kind="stable")
    cut = min(most, len(ordered) // 2)
    return ordered[:cut], ordered[len(ordered) - cut :]


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
