"""A visitor of the page without a browser: handlers are called as Gradio calls them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr

from genrefocus.page.handlers import Page

HEIGHT, WIDTH = 40, 64


def at_f1(plane: float) -> float:
    """K by Eq. 3 of a 50 mm lens on full frame at F-number 1."""
    return 0.05**2 / 2 / (1 - 0.05 * plane) * WIDTH / 0.036


class Visitor:
    """What one tab holds: the values of components, which handlers take and change."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.values: dict[Any, Any] = {
            one: getattr(one, "value", None)
            for one in vars(page).values()
            if isinstance(one, gr.blocks.Block)
        }

    def __getitem__(self, name: str) -> Any:
        return self.values[getattr(self.page, name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[getattr(self.page, name)] = value

    def controls(self) -> list[Any]:
        return [self.values[one] for one in self.page.controls]

    def does(self, handler: Callable[..., Any], *given: Any) -> dict[Any, Any]:
        changes = handler(*given)
        if changes == gr.skip():
            return {}
        for part, value in changes.items():
            updated = isinstance(value, dict)
            if not updated or "value" in value:
                self.values[part] = value["value"] if updated else value
        return changes

    def opens(self, photo: str | None, depth: str | None, size: int = 0) -> None:
        self.does(self.page.opened, self["session"], photo, depth, size)
        self.sets(self.page.changed)

    def sets(self, handler: Callable[..., Any]) -> dict[Any, Any]:
        return self.does(handler, self["session"], *self.controls())

    def clicks(self, x: int, y: int) -> None:
        event = SimpleNamespace(index=(x, y))
        self.does(self.page.clicked, self["session"], event, *self.controls())

    def asks(self, handler: Callable[..., Any], maker: str = "networks") -> Any:
        wanted = [] if handler == self.page.pulled else [True]
        asked = [self["session"], "a photo", "a photo", maker, *wanted]
        return self.does(handler, *asked, lambda *_, **__: None)

    def refocuses(self, maker: str = "networks") -> None:
        self.asks(self.page.sharpened, maker=maker)
        self.asks(self.page.refocused, maker=maker)
