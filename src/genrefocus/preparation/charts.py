"""Charts as SVG that takes its colours from the page it stands in, equal for equal data."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Values = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]

# Colours that stand for variables of the page, which knows whether it is light or dark.
_COLOURS = {"ink": "#010101", "accepted": "#010102", "rejected": "#010103", "gate": "#010104"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "genrefocus",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{
        name: _COLOURS["ink"]
        for name in (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
        )
    },
}
_LOG_FROM = 20.0  # 95th over 5th percentile of positive values
_BINS = 40


def histogram(accepted: Values, rejected: Values, gate: Mapping[str, float]) -> str:
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
        for threshold in gate.values():
            far = (
                threshold <= 0 if logarithmic else not 2 * low - high <= threshold <= 2 * high - low
            )
            if not far:
                axes.axvline(threshold, color=_COLOURS["gate"], linewidth=1.5, linestyle="--")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return _svg(figure)


def curves(accepted: Sequence[Curve], rejected: Mapping[str, Sequence[Curve]]) -> str:
    """SSIM over K, a panel for each group, with a dot at the best K of every curve.

    Args:
        accepted: curves of (K, SSIM) with K > 0; without any there is no panel.
        rejected: reason -> curves.
    """
    groups = [("accepted", "accepted", accepted)] if accepted else []
    groups += [(reason, "rejected", some) for reason, some in rejected.items()]
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8 * columns, 2.6 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for panel in panels[len(groups) :]:
            panel.set_visible(False)
        for panel, (title, colour, drawn) in zip(panels, groups, strict=False):
            _draw_curves(panel, drawn, _COLOURS[colour])
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("K (px at 1/m)")
            panel.set_ylabel("SSIM")
        return _svg(figure)


def _draw_curves(panel: Axes, drawn: Sequence[Curve], colour: str) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_tick_params(labelbottom=True)
    for curve in drawn:
        points = np.array(sorted(curve), dtype=np.float64)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            panel.plot(*points.T, color=colour, linewidth=0.8, alpha=0.6)
            panel.plot(*points[points[:, 1].argmax()], "o", color=colour, markersize=3)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Matplotlib numbers its groups in every figure, and a page must not have one id twice.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for name, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text
