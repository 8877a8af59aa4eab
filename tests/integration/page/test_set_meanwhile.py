"""What is set while something is computed for what was set before: the last value counts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genrefocus.estimators import Photo
from genrefocus.pipeline import RefocusPipeline

pytest.importorskip("gradio", reason="the page needs Gradio, the extra app")
from tests.visitor import WIDTH, Visitor, at_f1


class Estimator:
    """1 m left; right 4 m at first, then 2 m. ``meanwhile`` the visitor does something."""

    name, holds_network = "halves", False

    def __init__(self) -> None:
        self.far = 4.0
        self.meanwhile: Callable[[], object] = lambda: None

    def depth(self, photos: list[Photo]) -> list[torch.Tensor]:
        self.meanwhile()
        (photo,) = photos
        metres = torch.ones(photo.size)
        metres[:, WIDTH // 2 :], self.far = self.far, 2.0
        return [metres]


Wishes = list[tuple[float, float]]


@pytest.fixture
def wishes(monkeypatch: pytest.MonkeyPatch) -> Wishes:
    """Plane and K of all that BokehNet renders; pulls have three frames."""
    monkeypatch.setattr("genrefocus.page.handlers._FRAMES", 3)
    seen: Wishes = []
    render = RefocusPipeline.refocus

    def refocus(pipeline: Any, scene: Any, strength: Any, **more: Any) -> Any:
        seen.append((scene.focus_disparity, strength.k))
        return render(pipeline, scene, strength, **more)

    monkeypatch.setattr(RefocusPipeline, "refocus", refocus)
    return seen


@pytest.fixture
def estimator(visitor: Visitor, files: tuple[str, str]) -> Estimator:
    """Of a page where a photograph is open, and its F-number was set to 7."""
    page, estimator = visitor.page, Estimator()
    page.service = replace(page.service, estimator=estimator)
    visitor.opens(files[0], None)
    visitor["f_number"] = 7.0
    visitor.sets(page.by_f_number)
    assert visitor["distance"] == 4 and visitor["k"] == pytest.approx(at_f1(0.25) / 7, abs=0.05)
    return estimator


def sets_k(visitor: Visitor) -> tuple[float, float]:
    visitor["k"] = 0.5
    visitor.sets(visitor.page.by_k)
    return 0.5, 0.5


def sets_k_and_clicks(visitor: Visitor) -> tuple[float, float]:
    sets_k(visitor)
    visitor.clicks(1, 3)
    return 1.0, 0.5


def sets_the_f_number(visitor: Visitor) -> tuple[float, float]:
    sets_k(visitor)
    visitor["f_number"] = 1.4
    visitor.sets(visitor.page.by_f_number)
    return 0.5, at_f1(0.5) / 1.4


def enters_a_distance(visitor: Visitor) -> tuple[float, float]:
    visitor.does(visitor.page.at_distance, 1.6, visitor["session"], *visitor.controls())
    return 0.625, at_f1(0.625) / 7


def waits(visitor: Visitor) -> tuple[float, float]:
    return 0.5, at_f1(0.5) / 7


@pytest.mark.filterwarnings("ignore::genrefocus.pipeline.BeyondTraining")
@pytest.mark.parametrize(
    ("act", "pull"),
    [
        (sets_k, False),
        (sets_k_and_clicks, False),
        (sets_k_and_clicks, True),
        (sets_the_f_number, False),
        (enters_a_distance, False),
        (waits, False),
    ],
)
def test_what_is_set_while_deblurnet_runs_is_kept(
    visitor: Visitor, estimator: Estimator, wishes: Wishes, act: Any, pull: bool
) -> None:
    """What follows it, follows from the depth that was estimated anew."""
    page, expected = visitor.page, []
    estimator.meanwhile = lambda: expected.append(act(visitor))
    if pull:
        visitor.asks(page.pulled)
    changes = visitor.asks(page.sharpened)
    estimator.meanwhile = lambda: None
    ((plane, k),) = expected
    followed = act in (sets_k, sets_k_and_clicks)
    kept, moved = (page.k, page.f_number) if followed else (page.f_number, page.k)
    assert "value" not in changes[kept] and "value" in changes[moved]
    assert visitor["k"] == pytest.approx(k, abs=0.05)
    assert visitor["f_number"] == pytest.approx(at_f1(plane) / k, abs=0.05)
    assert visitor["distance"] == pytest.approx(1 / plane)
    assert f"K {k:.3g}" in visitor["note"] and "1 m to 2 m" in visitor["depth_note"]
    for _ in range(2):  # the second time it is there
        visitor.refocuses()
    assert wishes[-1] == pytest.approx((plane, k))
    assert len(wishes) == (4 if pull else 1) and wishes[2 if pull else 0] == wishes[-1]


def test_a_result_that_was_asked_for_before_is_of_what_is_set_now(
    visitor: Visitor, estimator: Estimator, wishes: Wishes
) -> None:
    """What BokehNet has begun ends when another K is set, and the next one is of that."""
    page = visitor.page
    visitor.asks(page.sharpened)
    asked = [visitor["session"], "a photo", "a photo", "networks", True]
    asked.append(lambda *_, **__: sets_k(visitor))
    assert visitor.does(page.refocused, *asked) == {} and len(wishes) == 1
    visitor.does(page.refocused, *asked)  # where K is set as it is
    assert wishes[-1] == (0.5, 0.5) and Path(visitor["download"]).name == "photo_k0.5.jpg"


def test_an_older_preview_does_not_replace_a_newer_one(
    visitor: Visitor, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, render = visitor["session"], visitor["session"].preview

    def preview(wish: Any) -> Any:
        monkeypatch.setattr(session, "preview", render)
        sets_k(visitor)
        return render(wish)

    monkeypatch.setattr(session, "preview", preview)
    visitor.clicks(1, 3)  # with the F-number 7; K is set before it is shown
    assert visitor["k"] == 0.5 and visitor["distance"] == 1 and "K 0.5" in visitor["note"]


def test_what_is_set_while_the_photograph_opens_at_another_size_is_kept(
    visitor: Visitor, estimator: Estimator, files: tuple[str, str]
) -> None:
    estimator.meanwhile = lambda: (visitor.clicks(1, 3), sets_k(visitor))
    visitor.opens(files[0], None, 48)
    assert visitor["session"].view.width == 48 and visitor["distance"] == 1
    assert visitor["k"] == 0.5 and "K 0.5" in visitor["note"]
    visitor.clicks(40, 3)
    assert visitor["k"] == 0.5


def test_a_start_that_is_noted_while_a_pull_is_made_is_that_of_the_next(
    visitor: Visitor, estimator: Estimator, wishes: Wishes
) -> None:
    """The pixel is noted, whose distance DeblurNet may change."""
    page = visitor.page
    visitor.does(page.pull_started, visitor["session"])
    visitor.clicks(1, 3)
    visitor.asks(page.sharpened)
    asked = [visitor["session"], "a photo", "a photo", "networks"]
    start = lambda *_, **__: visitor.does(page.pull_started, visitor["session"])  # noqa: E731
    visitor.does(page.pulled, *asked, start)
    assert [plane for plane, _ in wishes[::2]] == [0.5, 1]
    assert "From 1 m" in visitor["pull_note"]
