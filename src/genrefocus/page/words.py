"""What the page says, in plain words."""

import functools
import math
import re
import tempfile
from collections.abc import Callable
from typing import Any

import gradio as gr

from genrefocus.page.controls import Controls
from genrefocus.page.rendering import Wish
from genrefocus.page.session import Session, Superseded
from genrefocus.pipeline import Report
from genrefocus.rejection import Rejected

_STAGES = {
    "deblur": "DeblurNet makes it sharp everywhere",
    "deblur, told": "DeblurNet, told the blur, makes it sharp everywhere",
    "bokeh": "BokehNet renders depth of field",
}
_INFINITY = 1e-3  # 1/m


def said(handle: Callable[..., Any]) -> Callable[..., Any]:
    """What is wrong with an input is shown on the page: the words of the error, without folders.

    What was overtaken by another wish changes nothing.
    """

    @functools.wraps(handle)
    def handled(*args: Any) -> Any:
        try:
            return handle(*args) or gr.skip()
        except Superseded:
            return gr.skip()
        except (ValueError, OSError) as error:
            text = error.detail if isinstance(error, Rejected) and error.detail else str(error)
            text = re.sub(rf"{re.escape(tempfile.gettempdir())}/\S*/", "", text)
            raise gr.Error(text, duration=None, print_exception=False) from None

    return handled


def reporting(
    session: Session, progress: gr.Progress, part: str = "", *, lasting: bool = False
) -> Report:
    """Progress of the networks on the page.

    It raises ``Superseded`` as soon as something else is asked for; what is ``lasting`` goes on as
    long as the photograph is open.
    """
    current = session.still_asked()

    def report(stage: str, done: int, total: int) -> None:
        if session.closed or not (lasting or current()):
            raise Superseded
        progress((done, total), desc=f"{_STAGES.get(stage, stage)}{part}", unit="steps")

    return report


def metres(disparity: float) -> str:
    """A distance in words."""
    return "infinity" if disparity < _INFINITY else f"{1 / disparity:.3g} m"


def told(session: Session, wish: Wish, controls: Controls, seconds: float) -> str:
    """What the preview shows."""
    f_number = ""
    if controls.lens is not None and math.isfinite(controls.f_number):
        f_number = f", as F/{controls.f_number:.2g} of the lens"
    radius, largest = session.radius(wish.k), session.service.pipeline.bokeh.largest_radius
    text = (
        f"Sharp at **{metres(wish.plane)}**. Blur **K {wish.k:.3g}**{f_number}: radius up to "
        f"{radius:.1f} px of the result. Layered renderer, {seconds * 1000:.0f} ms."
    )
    learned = session.learned_k()
    if learned is not None and wish.k > 1.01 * learned:  # K on the page is rounded
        text += (
            f"\n\n⚠ BokehNet has learned {largest:.0f} px: expect halos, patterns, or too little "
            f"blur. K up to {learned:.3g} stays within."
        )
    return text
