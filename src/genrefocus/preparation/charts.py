"""Charts of a preparation: how measures are distributed, and SSIM over K."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from genrefocus.pages.charts import COLOURS, style, svg

Values = NDArray[np.float64]
Curve = Sequence[tuple[float, float]]

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
    with style():
        figure = Figure(figsize=(4.8, 2.1), layout="constrained")
        axes = figure.add_subplot()
        colours = [COLOURS["accepted"], COLOURS["rejected"]]
        axes.hist(groups, bins=edges, stacked=True, color=colours)  # type: ignore[arg-type]
        if logarithmic:
            axes.set_xscale("log")
        for threshold in gate.values():
            far = (
                threshold <= 0 if logarithmic else not 2 * low - high <= threshold <= 2 * high - low
            )
            if not far:
                axes.axvline(threshold, color=COLOURS["gate"], linewidth=1.5, linestyle="--")
        axes.set_ylabel("samples")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(figure)


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
    with style():
        figure = Figure(figsize=(4.8 * columns, 2.6 * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for panel in panels[len(groups) :]:
            panel.set_visible(False)
        for panel, (title, colour, drawn) in zip(panels, groups, strict=False):
            _draw_curves(panel, drawn, COLOURS[colour])
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("K (px at 1/m)")
            panel.set_ylabel("SSIM")
        return svg(figure)


def _draw_curves(panel: Axes, drawn: Sequence[Curve], colour: str) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_tick_params(labelbottom=True)
    for curve in drawn:
        points = np.array(sorted(curve), dtype=np.float64)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            panel.plot(*points.T, color=colour, linewidth=0.8, alpha=0.6)
            panel.plot(*points[points[:, 1].argmax()], "o", color=colour, markersize=3)
