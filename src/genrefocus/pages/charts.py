"""Charts as SVG that takes its colours from the page it stands in, equal for equal data."""

import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

SERIES = tuple(f"series-{number}" for number in range(1, 9))
"""Colours that tell series apart, in the order of their use."""

# Colours that stand for variables of the page, which knows whether it is light or dark.
COLOURS = {
    name: f"#0101{number:02x}"
    for number, name in enumerate(("ink", "accepted", "rejected", "gate", *SERIES), 1)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genrefocus",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{
        name: COLOURS["ink"]
        for name in (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
        )
    },
}


def style() -> AbstractContextManager[None]:
    """Settings of matplotlib that a chart is drawn and written under."""
    return mpl.rc_context(_STYLE)


def svg(figure: Figure) -> str:
    """The figure as SVG for a page; its ids are gone, its ``COLOURS`` are variables of the page."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Matplotlib numbers its groups in every figure, and a page must not have one id twice.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text
