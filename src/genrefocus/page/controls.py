"""What the controls of the page say, and what the page says back, in plain words."""

import functools
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from genrefocus.optics import Lens
from genrefocus.page.rendering import Wish
from genrefocus.page.session import Session, Superseded
from genrefocus.pipeline import Report
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture, disk, heart, polygon, raster, ring, star

# Upright behind the focus, where most lights are: there a shape is turned by 180 degrees.
SHAPES: Mapping[str, Aperture] = {
    "round": disk(),
    "5 blades": polygon(5, math.pi / 2),
    "6 blades": polygon(6),
    "7 blades": polygon(7, math.pi / 2),
    "9 blades": polygon(9, math.pi / 2),
    "ring, of a mirror lens": ring(0.45),
    "star": star(5, 0.4, math.pi / 2),
    "heart": heart(math.pi),
}
NETWORKS, RENDERER = "networks", "layered renderer"
F_NUMBERS = (1.0, 22.0)

_STAGES = {
    "deblur": "DeblurNet makes it sharp everywhere",
    "deblur, told": "DeblurNet, told the blur, makes it sharp everywhere",
    "bokeh": "BokehNet renders depth of field",
}
_INFINITY = 1e-3  # 1/m


class Controls(NamedTuple):
    """What the controls say; ``by_f``: the F-number was set last, and K follows it."""

    by_f: bool
    f_number: float
    k: float
    focal_mm: float | None
    sensor_mm: float | None
    shape: str
    own_shape: str | None

    @property
    def aperture(self) -> Aperture:
        """An image of the opening goes before the shapes that have names."""
        return SHAPES[self.shape] if self.own_shape is None else _drawn(self.own_shape)

    @property
    def is_round(self) -> bool:
        """Whether the aperture is the disc that networks have learned."""
        return self.aperture is SHAPES["round"]

    @property
    def lens(self) -> Lens | None:
        """None where it is not known."""
        return Lens(self.focal_mm, self.sensor_mm) if self.focal_mm and self.sensor_mm else None

    def coupled(self, session: Session) -> "Controls":
        """F-number and K by Eq. 3 of each other, where the lens is known and can focus there."""
        if self.lens is None:
            return self._replace(by_f=False)
        try:
            at_f1 = session.k_at_f1(self.lens)
        except Rejected:
            return self._replace(by_f=False)
        if self.by_f:
            return self._replace(k=at_f1 / self.f_number)
        return self._replace(f_number=at_f1 / self.k if self.k else math.inf)


@functools.lru_cache(maxsize=16)
def _drawn(path: str) -> Aperture:
    return raster(Path(path))


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
    wish = session.wishes

    def report(stage: str, done: int, total: int) -> None:
        if session.closed or not lasting and session.wishes != wish:
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
