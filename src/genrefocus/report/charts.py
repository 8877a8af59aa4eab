"""Charts as SVG that takes its colours from the page it stands in, equal for equal data."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

SERIES = tuple(f"series-{number}" for number in range(1, 9))
"""Colours that tell series apart, in the order of their use."""

# Colours that stand for variables of the page, which knows whether it is light or dark.
_COLOURS = {
    name: f"#0101{number:02x}"
    for number, name in enumerate(("ink", "accepted", "rejected", "gate", *SERIES), 1)
}
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genrefocus",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(_INKED, _COLOURS["ink"]),
}
_LOG_FROM = 20.0  # 95th over 5th percentile of positive values
_BINS = 40


@dataclass(frozen=True)
class Series:
    """A curve of a chart.

    Attributes:
        x, y: equally many finite values, in the order of x.
        colour: such as ``accepted`` or one of ``SERIES``.
        label: in the legend of its panel; without one it is thin, as one of many.
    """

    x: Sequence[float] | NDArray[np.float64]
    y: Sequence[float] | NDArray[np.float64]
    colour: str
    label: str | None = None


def histogram(
    accepted: NDArray[np.float64], rejected: NDArray[np.float64], gate: Mapping[str, float]
) -> Markup:
    """How often values occur: accepted ones, rejected ones on top, and the gate's thresholds.

    Args:
        accepted, rejected: values, two different ones at least; those that are not finite are left
            out.
        gate: ``min``, ``max`` or both; a threshold far from the values is not drawn.
    """
    groups = [values[np.isfinite(values)] for values in (accepted, rejected)]
    together = np.concatenate(groups)
    low, high = float(together.min()), float(together.max())
    inner = np.quantile(together, [0.05, 0.95])
    logarithmic = low > 0 and inner[1] / inner[0] >= _LOG_FROM
    if logarithmic:
        edges = np.geomspace(low, high, _BINS + 1)
        edges[[0, -1]] = low, high  # which rounding would leave out
    else:
        edges = np.linspace(low, high, _BINS + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 2.1), layout="constrained")
        axes = figure.add_subplot()
        colours = [_COLOURS["accepted"], _COLOURS["rejected"]]
        axes.hist(groups, bins=edges, stacked=True, color=colours)  # type: ignore[arg-type]
        if logarithmic:
            axes.set_xscale("log")
        near = (0, np.inf) if logarithmic else (2 * low - high, 2 * high - low)
        for threshold in gate.values():
            if near[0] < threshold <= near[1]:
                axes.axvline(threshold, color=_COLOURS["gate"], linewidth=1.5, linestyle="--")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def curves(
    panels: Mapping[str, Sequence[Series]],
    *,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
    best: bool = False,
) -> Markup:
    """Curves in panels side by side, which share their axes.

    Args:
        panels: title -> its curves, one at least.
        x, y: names of the axes.
        log_x, log_y: whether an axis is logarithmic where its values allow it.
        best: whether a dot marks the highest point of every curve.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    drawn = [one for some in panels.values() for one in some]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8 * columns, 2.8 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for panel, (title, some) in zip(axes, panels.items(), strict=False):
            for one in some:
                _draw(panel, one, best)
            if any(one.label for one in some):
                panel.legend(frameon=False, fontsize=9)
            panel.set_title(title, fontsize=11, parse_math=False)
            panel.tick_params(labelbottom=True, labelleft=True)
            panel.set_xlabel(x)
            panel.set_ylabel(y)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        places = np.concatenate([one.x for one in drawn])
        if log_x and 0 < places.min() < places.max():
            axes[0].set_xscale("log")
            axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes[0].xaxis.set_major_formatter("{x:g}")
            axes[0].xaxis.set_minor_locator(NullLocator())
        if log_y and min(np.min(one.y) for one in drawn) > 0:
            axes[0].set_yscale("log")
        return _svg(figure)


def _draw(panel: Axes, one: Series, best: bool) -> None:
    colour = _COLOURS[one.colour]
    if one.label is None:
        panel.plot(one.x, one.y, color=colour, linewidth=0.8, alpha=0.6)
    else:
        label = one.label.lstrip("_")  # a leading _ would hide it from the legend
        panel.plot(one.x, one.y, "o-", color=colour, linewidth=2, markersize=4, label=label)
    if best:
        top = int(np.argmax(one.y))
        panel.plot(one.x[top], one.y[top], "o", color=colour, markersize=3)


def _svg(figure: Figure) -> Markup:
    """The figure as SVG for a page; its colours are variables of the page, and its ids are gone."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Matplotlib numbers its groups in every figure, and a page must not have one id twice.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text)
