"""One photograph that is open on the page: its depth and focus, previews, results, pulls."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from genrefocus.data.images import (
    Photograph,
    image_size,
    load_map,
    load_photograph,
    not_in_metres,
)
from genrefocus.estimators import DepthEstimator, Photo
from genrefocus.focus import Focus, SourceBlur, plane_of_focus
from genrefocus.geometry import (
    DepthResize,
    View,
    fitted,
    require_inside,
    resize,
    resize_disparity,
    resize_long_edge_and_crop,
    size_within,
)
from genrefocus.optics import (
    BlurStrength,
    Lens,
    blur_radius,
    blur_strength_from_exif,
    depth_to_disparity,
    visible_blur,
)
from genrefocus.page.controls import F_NUMBERS, Controls
from genrefocus.page.rendering import Pixels, Wish, in_coarse_slices, outline, render_view
from genrefocus.photograph.exif import ExposureFacts, read_exposure
from genrefocus.pipeline import PreparedPhoto, RefocusPipeline, Report
from genrefocus.rejection import Reason, Rejected

PREVIEW_EDGE = 512
"""Long edge of previews, px: ``benchmarks/preview_speed.py`` measures what they take."""

NO_DEPTH = (
    "No depth yet, and blur follows depth. Add the depth of this photograph under 'Depth': a .npy "
    "file of metres, for the upright photograph; or start the page with --depth-model MODEL, which "
    "estimates it."
)

_FIRST_BLUR, _MOST_BLUR = 0.015, 0.08  # radii in parts of the long edge


@dataclass(frozen=True)
class Service:
    """What all photographs on the page share.

    Attributes:
        pipeline: the networks.
        resize_depth: how depth of another size is brought to the photograph's.
        estimator: of depth where none is uploaded; None: there is none.
        subject: photograph (3, H, W) -> mask (H, W) bool of its subject, or ``empty_mask``; None:
            there is no network for it.
        long_edge: of results at first, px; None: the photograph's own size.
        most_pixels: of a photograph.
        seed: of the networks' noise.

    Raises:
        ValueError: DeblurNet reads a draft, which the page has no place for.
    """

    pipeline: RefocusPipeline
    resize_depth: DepthResize = "nearest"
    estimator: DepthEstimator | None = None
    subject: Callable[[Tensor], Tensor] | None = None
    long_edge: int | None = PREVIEW_EDGE
    most_pixels: float = math.inf
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pipeline.deblur is not None:
            self.pipeline.deblur.require_no_draft()

    @property
    def prompts(self) -> tuple[str, str]:
        """Of DeblurNet and BokehNet, as they were loaded; "" where there is no DeblurNet."""
        deblur = self.pipeline.deblur
        return "" if deblur is None else deblur.prompt, self.pipeline.bokeh.prompt

    def told(self, prompts: tuple[str, str]) -> RefocusPipeline:
        """The same networks with other prompts."""
        deblur, bokeh = self.pipeline.deblur, self.pipeline.bokeh
        return RefocusPipeline(
            None if deblur is None else replace(deblur, prompt=prompts[0]),
            replace(bokeh, prompt=prompts[1]),
        )

    def load(self, path: Path) -> Photograph:
        """A photograph.

        Raises:
            Rejected: it has too many pixels, or is no image that can be read.
        """
        height, width = image_size(path)  # before anything is decoded
        if height * width > self.most_pixels:
            detail = f"this page takes {self.most_pixels / 1e6:g} megapixels; scale it down"
            raise Rejected(Reason.IMAGE_TOO_LARGE, f"{width}x{height} px", detail)
        return load_photograph(path)


class Superseded(Exception):
    """Something else was asked for while this was computed."""


class Session:
    """A photograph with depth, scaled and cropped as its results will be.

    Args:
        service: what it is refocused with.
        path: file of the photograph.
        depth: file of its depth, or None.
        long_edge: of results, px; where the photograph is no larger, it keeps its size.

    Attributes:
        photograph: as it was taken, scaled and cropped.
        size: (H, W) of the file's upright photograph, which K is stated for.
        view: the image that depth of field is rendered into, with disparity and, as its strength,
            K of 1 of the photograph; all in focus as soon as DeblurNet has run.
        focus: what shall be sharp in ``view``.
        subject: mask (H, W) bool of what that network found, or None.
        facts: of the exposure; None: ``no_facts`` says why.
        notices: what was done to the photograph, or looks wrong about its depth, in words.
        asked: the controls as they were set last, which everything that is made starts from.
        closed: another photograph was opened in its place.
        scene: what the networks start from, as soon as DeblurNet has run.
        previewed: the scene that the last preview showed.
        made: what the last result was made of.
        pull_from: where the next pull of focus starts; None: it is one of the aperture.
        folder: of files for the browser; it goes with the session.

    Raises:
        ValueError: no depth, or a file that cannot be used.
        Rejected: the same, by name, and depth that is flat.
    """

    def __init__(
        self, service: Service, path: Path, depth: Path | None, long_edge: int | None
    ) -> None:
        self.service, self.path, self.depth = service, path, depth
        photo = service.load(path)
        self.size, self.notices = photo.size, photo.notices
        self.long_edge = None if long_edge is None or long_edge >= max(self.size) else long_edge
        if depth is None and service.estimator is None:
            raise ValueError(NO_DEPTH)
        unit = BlurStrength(1.0, *self.size)
        view = View(photo.image, self._uploaded_disparity(), None, unit)
        if self.long_edge is not None:
            multiple = service.pipeline.pixel_multiple
            view = resize_long_edge_and_crop(view, self.long_edge, multiple)
        if view.disparity is None:
            assert service.estimator is not None
            (metres,) = service.estimator.depth([Photo("photograph", view.image, view.image)])
            view = replace(view, disparity=depth_to_disparity(metres))
        self.photograph = replace(photo, image=view.image)
        self._show(view)
        self.scene: PreparedPhoto | None = None
        self._deblur_prompt = ""
        self.subject = self._found_subject()
        middle = (view.width // 2, view.height // 2)
        self.focus: Focus = middle if self.subject is None else self.subject
        self.facts: ExposureFacts | None = None
        self.no_facts = ""
        try:
            self.facts = read_exposure(path)
        except Rejected as error:
            self.no_facts = error.detail
        self.asked, self.closed = self._as_taken(), False
        self.previewed: PreparedPhoto | None = None
        self.made: object = None
        self.pull_from: Focus | None = None
        self.folder = TemporaryDirectory(prefix="genrefocus-")

    def _found_subject(self) -> Tensor | None:
        if self.service.subject is None:
            return None
        try:
            return self.service.subject(self.view.image)
        except Rejected as error:
            if error.reason is not Reason.EMPTY_MASK:
                raise
            self.notices.append("no subject is found in this photograph")
            return None

    def _as_taken(self) -> Controls:
        """The F-number and lens of the EXIF; K, which counts without them, shows some blur."""
        k, facts = self.k_range()[0], self.facts
        if facts is None:
            return Controls(2.8, k, None, None)
        f_number = round(min(max(facts.f_number, F_NUMBERS[0]), F_NUMBERS[1]), 1)
        return Controls(f_number, k, facts.focal_length_mm, round(facts.sensor_width_mm, 3))

    def _show(self, view: View) -> None:
        self.view = view
        self.small = resize(view, *size_within(view.height, view.width, PREVIEW_EDGE))

    def _uploaded_disparity(self) -> Tensor | None:
        if self.depth is None:
            return None
        metres = load_map(self.depth, "depth in metres")
        if (notice := not_in_metres(metres)) and notice not in self.notices:
            self.notices.append(notice)
        mode = self.service.resize_depth
        return fitted(depth_to_disparity(metres), *self.size, self.depth.name, mode=mode)

    # What shall be sharp

    def focus_like(self, other: "Session") -> None:
        """Focus where another session of the photograph does."""
        if isinstance(other.focus, tuple):
            self._focus_at(other.focus, other.view)
        elif isinstance(other.focus, float):
            self.focus = other.focus

    def _focus_at(self, pixel: tuple[int, int], seen: View) -> None:
        """Focus on the pixel of the view under the centre of one of the same view, scaled."""
        across, down = (pixel[0] + 0.5) / seen.width, (pixel[1] + 0.5) / seen.height
        self.focus = (int(across * self.view.width), int(down * self.view.height))

    @property
    def plane(self) -> float:
        """Disparity in 1/m of the plane of focus."""
        return self.plane_of(self.focus)

    def plane_of(self, focus: Focus) -> float:
        """The same, were that the focus."""
        assert self.view.disparity is not None
        return plane_of_focus(self.view.disparity, focus)

    def focus_on(self, x: int, y: int) -> None:
        """Focus on a pixel of the preview.

        Raises:
            ValueError: it lies outside.
        """
        require_inside((x, y), self.small.height, self.small.width)
        self._focus_at((x, y), self.small)

    # K

    @property
    def unit(self) -> BlurStrength:
        """K of 1 of the photograph, for the view."""
        assert self.view.strength is not None
        return self.view.strength

    def radius(self, k: float) -> float:
        """Greatest blur radius in the view, px."""
        assert self.view.disparity is not None
        strength = replace(self.unit, k=k * self.unit.k)
        return float(blur_radius(self.view.disparity, self.plane, strength).max())

    def k_range(self) -> tuple[float, float]:
        """K to begin with, within what BokehNet has learned, and the largest that makes sense."""
        assert self.view.disparity is not None
        low, high = self.view.disparity.aminmax()
        edge = max(self.size)
        most = _MOST_BLUR * edge / float(high - low)
        visible = visible_blur(
            self.view.disparity, self.plane, BlurStrength(1.0, self.view.height, self.view.width)
        )
        first = _FIRST_BLUR * edge / visible if visible > 0 else most
        return min(first, self.learned_k() or math.inf, most), most

    def learned_k(self) -> float | None:
        """K up to which no blur is larger than any in BokehNet's training; None: not known."""
        largest, at_1 = self.service.pipeline.bokeh.largest_radius, self.radius(1.0)
        return None if largest is None or at_1 == 0 else 0.99 * largest / at_1

    def k_at_f1(self, lens: Lens) -> float:
        """K at F-number 1 by Eq. 3; K at others is inverse to them.

        Raises:
            Rejected: the lens cannot focus there.
        """
        return blur_strength_from_exif(replace(lens, f_number=1.0), self.plane, *self.size).k

    def still_asked(self) -> Callable[[], bool]:
        """Whether nothing has been set since; what was started before need not be finished."""
        asked, focus = self.asked, self.focus
        return lambda: self.asked is asked and self.focus is focus

    def coupled(self, asked: Controls) -> Controls:
        """F-number and K by Eq. 3 of each other, where the lens is known and can focus there."""
        if asked.lens is None:
            return asked._replace(by_f=False)
        try:
            at_f1 = self.k_at_f1(asked.lens)
        except Rejected:
            return asked._replace(by_f=False)
        if asked.by_f:
            return asked._replace(k=at_f1 / asked.f_number)
        return asked._replace(f_number=at_f1 / asked.k if asked.k else math.inf)

    # Images

    def preview(self, wish: Wish) -> Tensor:
        """The view as the layered renderer blurs it, (3, h, w) in [0, 1], at most 512 px long."""
        return render_view(in_coarse_slices(self.small, wish), wish)

    def rendered(self, wish: Wish) -> Tensor:
        """The same at the size of results."""
        return render_view(self.view, wish)

    def sharpen(self, prompts: tuple[str, str], report: Report) -> None:
        """Deblur the photograph, where that is still to be done; previews are of it from then on.

        Depth that is estimated is estimated anew, in the image that is sharp. Raises what
        ``report`` raises.
        """
        if self.scene is not None and self._deblur_prompt == prompts[0]:
            return
        pipeline = self.service.told(prompts)
        told = pipeline.deblur is not None and pipeline.deblur.takes_map and self.facts is not None
        disparity = self._uploaded_disparity()
        scene = pipeline.prepare(
            self.service.load(self.path).image,
            focus=self.plane,
            disparity=disparity,
            estimator=None if disparity is not None else self.service.estimator,
            long_edge=self.long_edge,
            seed=self.service.seed,
            report=report,
            source=SourceBlur(self.facts) if told else None,
        )
        self._show(View(scene.aif, scene.disparity, None, scene.unit))
        self.scene, self._deblur_prompt = scene, prompts[0]

    def save(self, image: Tensor, name: str) -> str:
        """A file for the browser: PNG where the photograph is one, else JPEG; with its EXIF."""
        suffix = ".png" if self.path.suffix.lower() == ".png" else ".jpg"
        path = Path(self.folder.name) / f"{self.path.stem}_{name}{suffix}"
        scale = 1.0 if self.long_edge is None else self.long_edge / max(self.size)
        self.photograph.save(image, path, scale=scale)
        return str(path)

    def refocused(self, wish: Wish, prompts: tuple[str, str], report: Report) -> Tensor:
        """The photograph, sharpened before, as BokehNet refocuses it: (3, H, W) in [0, 1].

        A BokehNet that cannot be told the shape of the aperture draws the disc.
        """
        assert self.scene is not None
        pipeline = self.service.told(prompts)
        shaped = pipeline.bokeh.takes_shape and wish.aperture.name != "disk"
        return pipeline.refocus(
            replace(self.scene, focus_disparity=wish.plane),
            BlurStrength(wish.k, *self.size),
            seed=self.service.seed,
            aperture=wish.aperture if shaped else None,
            report=report,
        ).image

    def depth_picture(self) -> Pixels:
        """Disparity by colour, near is bright, with the outline of the subject and the focus."""
        disparity = self.small.disparity
        assert disparity is not None
        low, high = disparity.aminmax()
        colours = matplotlib.colormaps["magma"](((disparity - low) / (high - low)).numpy())
        picture = (colours[..., :3] * 255).astype(np.uint8)
        if self.subject is not None:
            picture[outline(resize_disparity(self.subject.float(), *disparity.shape))] = 255
        if not isinstance(self.focus, tuple):
            return picture
        image = Image.fromarray(picture)
        x, y = (at * self.small.width / self.view.width for at in self.focus)
        for radius, colour in ((8, "black"), (7, "white"), (6, "black")):
            box = (x - radius, y - radius, x + radius, y + radius)
            ImageDraw.Draw(image).ellipse(box, outline=colour)
        return np.asarray(image)
