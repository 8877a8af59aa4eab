"""The camera that a user calls: deblur, depth, focus, defocus map, bokeh.

A photograph of any size goes in and the same photograph with another depth of field comes out.
Networks take sizes that are whole tokens, so the image is resized for them (Lanczos) and the result
is resized back; the backbone cuts larger images than those of its training into tiles.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from genrefocus.estimators import DepthEstimator, Photo
from genrefocus.geometry import (
    View,
    require_inside,
    resize_disparity,
    resize_image,
    resize_long_edge_and_crop,
)
from genrefocus.network import Device, Network, load_networks
from genrefocus.network_card import NetworkCard, Task, require_deblurnet
from genrefocus.noise import seeded_generators
from genrefocus.optics import (
    MAX_COC,
    BlurStrength,
    defocus_map,
    depth_to_disparity,
    focus_disparity,
    require_spread,
)

Focus = tuple[int, int] | Tensor | float
"""What shall be sharp: a pixel (x, y), a mask (H, W) that is True there, or a disparity in 1/m."""

Report = Callable[[str, int, int], None]
"""Called with (stage, evaluations done, evaluations in all): one for each tile and step."""


@dataclass(frozen=True)
class PreparedPhoto:
    """A photograph that is ready to be refocused, as often as wanted.

    Attributes:
        aif: (3, H, W) in [0, 1], all in focus, of the size that results have.
        whole_tokens: the same image at the size that the backbone takes.
        disparity: (H, W) in 1/m.
        focus_disparity: of the plane of focus, 1/m.
        photo_size: (H, W) of the photograph, which K is stated for.
        unit: K of 1 in the photograph, restated for ``aif``.
    """

    aif: Tensor
    whole_tokens: Tensor
    disparity: Tensor
    focus_disparity: float
    photo_size: tuple[int, int]
    unit: BlurStrength


@dataclass(frozen=True)
class Refocused:
    """An image with another depth of field.

    Attributes:
        image: (3, H, W) in [0, 1].
        defocus: (H, W) in [0, 1], the defocus map.
        strength: K restated for ``image``.
    """

    image: Tensor
    defocus: Tensor
    strength: BlurStrength


class BeyondTraining(UserWarning):
    """The requested blur is larger than any in the training of the network."""


class RefocusPipeline:
    """Two networks and the optics between them.

    Args:
        deblur: DeblurNet; None takes every photograph for all in focus.
        bokeh: BokehNet.
    """

    def __init__(self, deblur: Network | None, bokeh: Network) -> None:
        self.deblur, self.bokeh = deblur, bokeh
        self._warned = False

    def prepare(
        self,
        photo: Tensor,
        *,
        focus: Focus,
        disparity: Tensor | None = None,
        estimator: DepthEstimator | None = None,
        long_edge: int | None = None,
        seed: int = 0,
        report: Report | None = None,
        draft: Tensor | None = None,
    ) -> PreparedPhoto:
        """All that does not depend on K: all-in-focus image, disparity, plane of focus.

        Args:
            photo: (3, H, W) in [0, 1], upright.
            focus: in the photograph.
            disparity: (H, W) in 1/m, of the photograph.
            estimator: of depth in the all-in-focus image, in place of ``disparity``.
            long_edge: None keeps the photograph's size; otherwise the image is scaled to this
                long edge in px and cropped about its centre to whole tokens (released size rule).
            seed: of the noise.
            report: called with the progress.
            draft: (3, H, W) in [0, 1], the photograph as another method has deblurred it; for a
                DeblurNet that takes one.

        Raises:
            ValueError: sizes disagree, the focus lies outside, not exactly one of ``disparity``
                and ``estimator``, or a draft that is missing or that no network reads.
            Rejected: depth or mask are degenerate, see :mod:`genrefocus.optics`.
        """
        size = (photo.shape[-2], photo.shape[-1])
        mask = focus if isinstance(focus, Tensor) else None
        # K is linear: one unit of it goes through the geometry, and any K can follow.
        view = View(photo.float(), disparity, mask, BlurStrength(1.0, *size))
        self._require_draft(draft, size)
        if isinstance(focus, tuple):
            require_inside(focus, *size)
        if disparity is not None:
            require_spread(disparity)
            focus = _plane_of_focus(disparity, focus)
        if long_edge is not None:
            view = resize_long_edge_and_crop(view, long_edge, self._token)
            focus = _carry(focus, size, view, long_edge)
            if draft is not None:
                draft = resize_long_edge_and_crop(View(draft), long_edge, self._token).image
        return self._prepare(view, focus, estimator, size, seed, report, draft)

    def refocus(
        self,
        photo: PreparedPhoto,
        strength: BlurStrength,
        *,
        seed: int = 0,
        number: int = 1,
        report: Report | None = None,
    ) -> Refocused:
        """The photograph with the depth of field of ``strength``.

        Args:
            photo: from :meth:`prepare`.
            strength: K, stated for the photograph. K = 0 gives an image that is all in focus.
            seed, number: of the noise; not of K, so that the images of a sweep differ in blur
                alone.
            report: called with the progress.

        Raises:
            ValueError: K is stated for another size.
        """
        if (strength.height, strength.width) != photo.photo_size:
            raise ValueError(
                f"K is stated for {strength.height}x{strength.width} px but the photograph is "
                f"{photo.photo_size[0]}x{photo.photo_size[1]} px (HxW)"
            )
        strength = replace(photo.unit, k=strength.k * photo.unit.k)
        size = _size(photo.whole_tokens)
        disparity = photo.disparity
        if size != _size(disparity):
            disparity = resize_disparity(disparity, *size)
        control = defocus_map(disparity, photo.focus_disparity, strength.resized(*size))
        self._warn_beyond_training(control)
        image = self.bokeh.generate(
            photo.whole_tokens[None],
            seeded_generators(seed, [number]),
            control=control[None, None],
            report=report and partial(report, "bokeh"),
        )
        return Refocused(
            resize_image(image[0], *_size(photo.aif)),
            defocus_map(photo.disparity, photo.focus_disparity, strength),
            strength,
        )

    def _warn_beyond_training(self, control: Tensor) -> None:
        radius, largest = float(control.max()) * MAX_COC, self.bokeh.largest_radius
        if largest is None or self._warned or radius <= largest * 1.01:
            return
        self._warned = True
        warnings.warn(
            f"a blur radius of {radius:.1f} px is requested, and BokehNet was trained up to "
            f"{largest:.1f} px: the image may be blurred too little or wrongly",
            BeyondTraining,
            stacklevel=3,
        )

    @property
    def _token(self) -> int:
        return self.bokeh.denoiser.backbone.pixels_per_token

    def _require_draft(self, draft: Tensor | None, size: tuple[int, int]) -> None:
        wanted = self.deblur is not None and self.deblur.takes_draft
        if draft is None and wanted:
            raise ValueError(
                "this DeblurNet reads a deblurred draft beside the photograph: give one "
                "(--draft FILE), or leave deblurring out"
            )
        if draft is not None and not wanted:
            raise ValueError("no DeblurNet takes part that reads a draft; leave the draft out")
        if draft is not None and _size(draft) != size:
            raise ValueError(
                f"the draft is {_size(draft)[0]}x{_size(draft)[1]} px but the photograph is "
                f"{size[0]}x{size[1]} px (HxW)"
            )

    def _prepare(
        self,
        view: View,
        focus: Focus,
        estimator: DepthEstimator | None,
        photo_size: tuple[int, int],
        seed: int,
        report: Report | None,
        draft: Tensor | None,
    ) -> PreparedPhoto:
        """The photograph as a view of its final size; ``focus`` is in this view."""
        if (view.disparity is None) == (estimator is None):
            raise ValueError("depth comes from a disparity map or from an estimator: give one")
        source = self.bokeh.to_whole_tokens(view.image)
        if self.deblur is not None:
            source = self.deblur.generate(
                source[None],
                seeded_generators(seed, [0]),
                draft=None if draft is None else self.bokeh.to_whole_tokens(draft)[None],
                report=report and partial(report, "deblur"),
            )[0]
        aif = resize_image(source, view.height, view.width)
        disparity = view.disparity
        if disparity is None:
            assert estimator is not None
            (depth,) = estimator.depth([Photo("photograph", view.image, aif)])
            disparity = depth_to_disparity(depth)
            focus = _plane_of_focus(disparity, focus if view.mask is None else view.mask)
        assert isinstance(focus, float) and view.strength is not None
        return PreparedPhoto(aif, source, disparity, focus, photo_size, view.strength)


def load_pipeline(
    cards: Mapping[Task, NetworkCard],
    origin: str | Path,
    *,
    deblur: bool = True,
    deblur_prompt: str | None = None,
    steps: int | None = None,
    device: Device = "cpu",
    vae_tiling: bool = False,
) -> RefocusPipeline:
    """The pipeline of the networks of a run, or of LoRA files.

    Args:
        cards: see :func:`load_networks`.
        origin: where the cards come from, for messages.
        deblur: False leaves DeblurNet out.
        deblur_prompt, steps: in place of the cards'.
        device, vae_tiling: see :func:`load_networks`, also for further errors.

    Raises:
        FileNotFoundError: there is no BokehNet, or no DeblurNet where one is needed.
        ValueError: there is a ``deblur_prompt`` but no DeblurNet.
    """
    if "bokeh" not in cards:
        raise FileNotFoundError(
            f"{origin} has no BokehNet: no network.json of one with its LoRA file"
        )
    chosen: dict[Task, NetworkCard] = {"bokeh": cards["bokeh"]}
    if deblur and cards["bokeh"].variant != "direct":
        card = require_deblurnet(cards, origin)
        prompt = card.prompt if deblur_prompt is None else deblur_prompt
        chosen["deblur"] = replace(card, prompt=prompt)
    elif deblur_prompt is not None:
        raise ValueError(f"no DeblurNet takes part that could take the prompt '{deblur_prompt}'")
    if steps is not None:
        chosen = {task: replace(card, steps=steps) for task, card in chosen.items()}
    networks = load_networks(chosen, device=device, vae_tiling=vae_tiling)
    return RefocusPipeline(networks.get("deblur"), networks["bokeh"])


def _plane_of_focus(disparity: Tensor, focus: Focus) -> float:
    if isinstance(focus, Tensor):
        return focus_disparity(disparity, focus)
    if isinstance(focus, tuple):
        x, y = focus
        return float(disparity[y, x])
    return float(focus)


def _carry(focus: Focus, size: tuple[int, int], view: View, long_edge: int) -> Focus:
    """A pixel of the photograph in the view that is its scaled and cropped centre."""
    if not isinstance(focus, tuple):
        return focus
    scale = long_edge / max(size)
    place = []
    for value, before, after in zip(focus, size[::-1], (view.width, view.height), strict=True):
        moved = math.floor((value + 0.5 - before / 2) * scale + after / 2)
        if not -1 <= moved <= after:  # one px for the rounding of the scaled size
            raise ValueError(
                f"focus {focus[0]},{focus[1]} is cropped away at long edge {long_edge} px; "
                "choose another long edge or keep the photograph's size"
            )
        place.append(min(max(moved, 0), after - 1))
    return place[0], place[1]


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
