"""What an upload, a click or a drag does on the page."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from genrefocus.data.images import save_animation
from genrefocus.data.sample import to_uint8
from genrefocus.geometry import resize_image, size_within
from genrefocus.page.controls import F_NUMBERS, NETWORKS, RENDERER, Controls
from genrefocus.page.layout import PULL, Layout
from genrefocus.page.rendering import Wish, pixels
from genrefocus.page.session import NO_DEPTH, PREVIEW_EDGE, Service, Session
from genrefocus.page.words import metres, reporting, said, told
from genrefocus.pipeline import Report

Changes = dict[Any, Any]
"""Components with their new values."""

_FRAMES, _FPS = 16, 12
_PROGRESS = gr.Progress()


class Page(Layout):
    """The page that works: handlers take what their components hold and say what changes."""

    def __init__(
        self, service: Service, examples: Sequence[tuple[Path, Path]] = (), about: str = ""
    ) -> None:
        super().__init__(service, examples, about)
        self._threads = torch.get_num_threads()
        with self.blocks:
            self._connect()

    def _connect(self) -> None:
        asked = [self.session, *self.controls]
        views = [self.preview, self.depth_image, self.note, self.distance, self.f_number, self.k]
        live: dict[str, Any] = {
            "outputs": views,
            "show_progress": "hidden",
            "concurrency_id": "preview",
            "concurrency_limit": 2,
            "trigger_mode": "multiple",
            "api_visibility": "private",
        }
        files = [self.session, self.photo, self.depth, self.size]
        opened: dict[str, Any] = {
            "outputs": [self.session, self.photo, self.depth, self.focal, self.sensor]
            + [self.lens_note, self.depth_note, self.result, self.result_note, self.download]
            + [self.preview, self.note, self.f_number, self.k, self.pull_note],
            "show_progress_on": self.preview,
            "api_visibility": "private",
        }
        openings = [
            self.photo.upload(self.photo_opened, files, **opened),
            self.depth.upload(self.opened, files, **opened),
            self.depth.clear(self.opened, files, **opened),
            self.size.input(self.opened, files, **opened),
            self.gallery.select(self.example_opened, [self.session, self.size], **opened),
        ]
        following = [
            *(opening.success(self.changed, asked, **live) for opening in openings),
            self.preview.select(self.clicked, asked, **live),
            self.distance.submit(self.at_distance, [self.distance, *asked], **live),
            self.on_subject.click(self.at_subject, asked, **live),
            self.f_number.release(self.by_f_number, asked, **live),
            self.k.release(self.by_k, asked, **live),
            self.focal.submit(self.changed, asked, **live),
            self.sensor.submit(self.changed, asked, **live),
            self.shape.input(self.changed, asked, **live),
            self.own_shape.upload(self.changed, asked, **live),
            self.own_shape.clear(self.changed, asked, **live),
        ]
        dragged = live | {"trigger_mode": "always_last"}
        self.f_number.input(self.by_f_number, asked, **dragged)
        self.k.input(self.by_k, asked, **dragged)
        self._connect_networks(following, [*views, self.depth_note])

    def _connect_networks(self, following: Sequence[Any], views: Sequence[Any]) -> None:
        """The networks follow in a queue, one after the other for all who use the page.

        What the controls say they take from the session when their turn comes.
        """
        queued: dict[str, Any] = {
            "concurrency_id": "networks",
            "concurrency_limit": 1,
            "trigger_mode": "multiple",
            "api_visibility": "private",
        }
        shown = queued | {"show_progress_on": self.result}
        wanted = [self.session, self.deblur_prompt, self.bokeh_prompt, self.maker]
        asked, always = [*wanted, self.follows], [*wanted, gr.State(True)]
        made = [self.result, self.result_note, self.download]
        for event in following:
            sharp = event.success(self.sharpened, asked, views, **shown)
            sharp.success(self.refocused, asked, made, **shown)
        for trigger in (self.now.click, self.deblur_prompt.submit, self.bokeh_prompt.submit):
            sharp = trigger(self.sharpened, always, views, **shown)
            sharp.success(self.refocused, always, made, **shown)
        self.maker.input(self.refocused, asked, made, **shown)
        start = {"outputs": self.pull_note, "api_visibility": "private"}
        self.start.click(self.pull_started, self.session, **start)
        pull = [self.pull, self.pull_file, self.pull_note]
        shown = queued | {"show_progress_on": self.pull}
        self.make_pull.click(self.pulled, wanted, pull, **shown)

    # A photograph

    @said
    def photo_opened(
        self, old: Session | None, photo: str | None, depth: str | None, size: int
    ) -> Changes:
        """A photograph was uploaded; depth of the one before it is none of this one."""
        return self._opened(old, photo, None, size) | {self.depth: None}

    @said
    def opened(
        self, old: Session | None, photo: str | None, depth: str | None, size: int
    ) -> Changes:
        """Its depth came or went, or another size of results was chosen."""
        return self._opened(old, photo, depth, size)

    @said
    def example_opened(self, old: Session | None, event: gr.SelectData, size: int) -> Changes:
        """An example was clicked."""
        photo, depth = map(str, self.examples[event.index])
        changes = self._opened(old, photo, depth, size)
        return changes | {self.photo: photo, self.depth: depth}

    def _opened(
        self, old: Session | None, photo: str | None, depth: str | None, size: int
    ) -> Changes:
        """All but the views, which follow by :meth:`changed`."""
        if old is not None:
            old.closed = True
        gone: Changes = {self.result: None, self.result_note: "", self.session: None}
        gone |= {self.download: gr.update(value=None, interactive=False), self.pull_note: PULL}
        if photo is None:
            return gone
        path = Path(photo)
        if depth is None and self.service.estimator is None:
            plain = self.service.load(path)
            small = resize_image(plain.image, *size_within(*plain.size, PREVIEW_EDGE))
            return gone | {self.preview: pixels(small), self.note: f"**{NO_DEPTH}**"}
        session = Session(self.service, path, None if depth is None else Path(depth), size or None)
        for notice in session.notices:
            gr.Info(notice)
        facts = session.facts
        gone |= {
            self.session: session,
            self.lens_note: f"The EXIF has no lens: {session.no_facts}; state it here."
            if facts is None
            else f"{facts.make} {facts.model}, by its EXIF.",
            self.depth_note: self._depth_note(session),
        }
        if old is not None and old.path == path:
            session.focus_like(old)
            session.asked = old.asked
            return gone
        asked = session.asked
        return (
            gone
            | self._sliders(session, session.coupled(asked))
            | {self.focal: asked.focal_mm, self.sensor: asked.sensor_mm}
        )

    def _depth_note(self, session: Session) -> str:
        assert session.view.disparity is not None
        low, high = (float(end) for end in session.view.disparity.aminmax())
        estimator = self.service.estimator
        origin = "the file" if session.depth or estimator is None else estimator.name
        return f"{metres(high)} to {metres(low)}, by {origin}."

    # Focus and blur: the renderer answers at once

    @said
    def clicked(self, session: Session | None, event: gr.SelectData, *controls: Any) -> Changes:
        """What was clicked shall be sharp."""
        if session is None:
            raise ValueError(NO_DEPTH)
        session.focus_on(*event.index)
        return self._set(session, controls)

    @said
    def at_distance(self, distance: float, session: Session | None, *controls: Any) -> Changes:
        """A distance in metres was entered."""
        if session is None or not distance:
            return {}
        session.focus = 1 / distance
        return self._set(session, controls)

    @said
    def at_subject(self, session: Session | None, *controls: Any) -> Changes:
        """The subject shall be sharp."""
        if session is None:
            return {}
        if session.subject is None:
            raise ValueError(
                "No subject was found in this photograph; click on what shall be sharp."
            )
        session.focus = session.subject
        return self._set(session, controls)

    @said
    def by_f_number(self, session: Session | None, *controls: Any) -> Changes:
        """The F-number was set."""
        return self._set(session, controls, by_f=True)

    @said
    def by_k(self, session: Session | None, *controls: Any) -> Changes:
        """K was set."""
        return self._set(session, controls, by_f=False)

    @said
    def changed(self, session: Session | None, *controls: Any) -> Changes:
        """The lens or the shape of the aperture was set, or a photograph has been opened."""
        return self._set(session, controls)

    def _set(
        self, session: Session | None, controls: Sequence[Any], by_f: bool | None = None
    ) -> Changes:
        """From now on this is asked for; F-number or K is kept, whichever was set last."""
        if session is None:
            return {}
        by_f = session.asked.by_f if by_f is None else by_f
        asked = Controls(*controls)._replace(by_f=by_f)
        _ = asked.aperture  # an image that shows none is refused before anything follows it
        if session.coupled(asked) != session.coupled(session.asked):  # a drag ends twice
            session.asked = asked
        return self._views(session)

    def _views(self, session: Session) -> Changes:
        """All that shows focus and blur; nothing where something else is shown by now.

        What the user has set stays as it is, for it may be on the move.
        """
        current, now = session.still_asked(), session.coupled(session.asked)
        scene = session.previewed = session.scene
        wish = Wish(session.plane, now.k, now.aperture)
        # Of this worker alone: with more, small steps would wait for cores that networks keep.
        torch.set_num_threads(1)
        start = time.perf_counter()
        image = session.preview(wish)
        note = told(session, wish, now, time.perf_counter() - start)
        sliders = self._sliders(session, now)
        del sliders[self.f_number if now.by_f else self.k]["value"]
        changes = sliders | {
            self.preview: pixels(image),
            self.note: note,
            self.distance: round(1 / wish.plane, 3) if wish.plane else None,
            self.depth_image: session.depth_picture(),
        }
        return changes if current() and session.previewed is scene else {}

    def _sliders(self, session: Session, now: Controls) -> Changes:
        most = max(session.k_range()[1], now.k)
        digits = 2 - math.floor(math.log10(most))
        low, high = F_NUMBERS
        return {
            self.f_number: gr.update(
                value=round(min(max(now.f_number, low), high), 1),
                interactive=now.lens is not None,
            ),
            self.k: gr.update(
                value=round(now.k, digits),
                maximum=round(1.005 * most, digits),
                step=10.0**-digits,
            ),
        }

    # Results: the networks follow

    @said
    def sharpened(
        self,
        session: Session | None,
        deblur_prompt: str,
        bokeh_prompt: str,
        maker: str,
        wanted: bool,
        progress: gr.Progress = _PROGRESS,
    ) -> Changes:
        """DeblurNet runs once for a photograph; previews are of its answer from then on."""
        if session is None or not wanted:
            return {}
        torch.set_num_threads(self._threads)
        prompts = deblur_prompt, bokeh_prompt
        session.sharpen(prompts, reporting(session, progress, lasting=True))
        changes = {} if session.previewed is session.scene else self._views(session)
        return changes | {self.depth_note: self._depth_note(session)}

    @said
    def refocused(
        self,
        session: Session | None,
        deblur_prompt: str,
        bokeh_prompt: str,
        maker: str,
        wanted: bool,
        progress: gr.Progress = _PROGRESS,
    ) -> Changes:
        """The result, as soon as everything that was asked for before is done or overtaken."""
        if session is None or session.scene is None or not wanted:
            return {}
        prompts, report = (deblur_prompt, bokeh_prompt), reporting(session, progress)
        controls = session.coupled(session.asked)
        wish = Wish(session.plane, controls.k, controls.aperture)
        made = (session.scene, wish, maker, prompts)
        if made == session.made:
            return {}
        start = time.perf_counter()
        image = self._frame(session, wish, prompts, maker, report)
        seconds = time.perf_counter() - start
        name = f"f{controls.f_number:.2g}" if controls.by_f else f"k{controls.k:.3g}"
        file = session.save(image, name)
        session.made = made
        height, width = image.shape[-2:]
        note = f"By the {maker}: {width}x{height} px in {seconds:.1f} s."
        takes_shape = self.service.pipeline.bokeh.takes_shape
        if maker == NETWORKS and not controls.is_round and not takes_shape:
            note += f" The networks draw a round opening; the {RENDERER} draws the shape."
        before = session.save(session.photograph.image, "before")
        return {
            self.result: (before, file),
            self.result_note: note,
            self.download: gr.update(value=file, interactive=True),
        }

    def _frame(
        self, session: Session, wish: Wish, prompts: tuple[str, str], maker: str, report: Report
    ) -> Tensor:
        torch.set_num_threads(self._threads)
        if maker == NETWORKS:
            return session.refocused(wish, prompts, report)
        return session.rendered(wish)

    @said
    def pull_started(self, session: Session | None) -> Changes:
        """A pull of focus starts where the focus is."""
        if session is None:
            return {}
        session.pull_from = session.focus
        return {self.pull_note: self._next_pull(session)}

    def _next_pull(self, session: Session) -> str:
        if session.pull_from is None:
            return PULL
        start = metres(session.plane_of(session.pull_from))
        return f"From {start} to where the focus is when you make the pull."

    @said
    def pulled(
        self,
        session: Session | None,
        deblur_prompt: str,
        bokeh_prompt: str,
        maker: str,
        progress: gr.Progress = _PROGRESS,
    ) -> Changes:
        """A pull from the focus that was noted, or else from everything sharp."""
        if session is None:
            return {}
        prompts = deblur_prompt, bokeh_prompt
        pulled_from, session.pull_from = session.pull_from, None
        session.sharpen(prompts, reporting(session, progress, lasting=True))
        start, plane = time.perf_counter(), session.plane
        controls = session.coupled(session.asked)
        first = None if pulled_from is None else session.plane_of(pulled_from)
        planes = np.linspace(plane if first is None else first, plane, _FRAMES).tolist()
        strengths = np.linspace(0 if first is None else controls.k, controls.k, _FRAMES).tolist()
        frames = []
        for number, (at, k) in enumerate(zip(planes, strengths, strict=True), 1):
            part = f", frame {number} of {_FRAMES}"
            report = reporting(session, progress, part, lasting=True)
            image = self._frame(session, Wish(at, k, controls.aperture), prompts, maker, report)
            frames.append(to_uint8(image).permute(1, 2, 0).numpy())
        path = Path(session.folder.name) / f"{session.path.stem}_pull.gif"
        save_animation(frames, path, _FPS)
        seconds = time.perf_counter() - start
        return {
            self.pull: str(path),
            self.pull_file: gr.update(value=str(path), interactive=True),
            self.pull_note: f"{_FRAMES} frames by the {maker} in {seconds:.0f} s. "
            + self._next_pull(session),
        }
