"""Charts of a benchmark: curves of methods over K or blur radius."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from genrefocus.benchmark.results import Curve, CurveKind
from genrefocus.pages.charts import COLOURS, SERIES, style, svg


@dataclass(frozen=True)
class Kind:
    """What a page says of a kind of curves."""

    title: str
    explanation: str
    x: str
    y: str
    best: bool = False


KINDS: dict[CurveKind, Kind] = {
    "ssim_k": Kind(
        "Search of K",
        "SSIM with the target over K, a line for each picture; dots are the K that was taken. "
        "A sound curve has one peak within its ends.",
        "K (px at 1/m)",
        "SSIM",
        best=True,
    ),
    "lvcorr": Kind(
        "LVCorr",
        "Laplacian variance over K, focus fixed, a line for each picture. It should fall.",
        "K (px at 1/m)",
        "Laplacian variance",
    ),
    "radius_error": Kind(
        "Error by blur radius",
        "How far the blur radius of the answer is from what is asked for, by what is asked for. "
        "Mean over the pictures with such places.",
        "blur radius asked for (px)",
        "mean error (px)",
    ),
}


def chart(kind: CurveKind, curves: Sequence[Curve], methods: Sequence[str]) -> str:
    """The curves of a kind as SVG: a panel for each method, or one for all where no curve is of a
    single picture.

    Args:
        kind: of the curves.
        curves: one at least.
        methods: all of the table, in its order, so that a method has one colour in all charts.
    """
    shown = [method for method in methods if any(c.method == method for c in curves)]
    together = all(curve.key is None for curve in curves)
    panels = [shown] if together else [[method] for method in shown]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = Figure(figsize=(4.8 * columns, 2.8 * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
        for panel, names in zip(axes, panels, strict=False):
            for name in names:
                colour = COLOURS[SERIES[methods.index(name) % len(SERIES)]]
                own = [curve for curve in curves if curve.method == name]
                _draw(panel, own, colour, name, best=KINDS[kind].best)
            if together:
                panel.legend(frameon=False, fontsize=9)
            else:
                panel.set_title(names[0], fontsize=11, parse_math=False)
            panel.tick_params(labelbottom=True, labelleft=True)
            panel.set_xlabel(KINDS[kind].x)
            panel.set_ylabel(KINDS[kind].y)
        for panel in axes[len(panels) :]:
            panel.set_visible(False)
        _scale(axes[0], kind, curves)
        return svg(figure)


def _scale(panel: Axes, kind: CurveKind, curves: Iterable[Curve]) -> None:
    x = np.concatenate([curve.x for curve in curves])
    if kind in ("ssim_k", "lvcorr") and x.min() > 0 and x.max() > x.min():
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
    if kind == "lvcorr" and min(min(curve.y) for curve in curves) > 0:
        panel.set_yscale("log")


def _draw(panel: Axes, curves: Iterable[Curve], colour: str, name: str, *, best: bool) -> None:
    for number, curve in enumerate(curves):
        label = "_" if number or name.startswith("_") else name
        if curve.key is None:
            panel.plot(curve.x, curve.y, "o-", color=colour, linewidth=2, markersize=4, label=label)
        else:
            panel.plot(curve.x, curve.y, color=colour, linewidth=0.8, alpha=0.6, label=label)
        if best:
            top = int(np.argmax(curve.y))
            panel.plot(curve.x[top], curve.y[top], "o", color=colour, markersize=3)
