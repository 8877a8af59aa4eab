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
from genrefocus.focus import Focus, SourceBlur, carried, plane_of_focus
from genrefocus.geometry import (
    View,
    require_inside,
    resize_defocus,
    resize_image,
    resize_long_edge_and_crop,
    round_up_to_multiple,
)
from genrefocus.hub import Pretrained
from genrefocus.network import DEFAULT_MEMORY, Device, MemoryUse, Network, load_networks
from genrefocus.network_card import NetworkCard, NetworkTask, require_deblurnet
from genrefocus.noise import seeded_generators
from genrefocus.optics import (
    MAX_COC,
    BlurStrength,
    blur_radius,
    defocus_map,
    defocus_of_radius,
    depth_to_disparity,
    lacking_radius,
    require_spread,
)
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture

_BEYOND: dict[NetworkTask, tuple[str, str]] = {
    "bokeh": ("BokehNet is asked for a blur radius", "expect halos, patterns, or too little blur"),
    "deblur": ("DeblurNet is told a blur radius", "the image may be wrong, or not sharp"),
}
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
        told: K of the photograph as it was taken, stated for it, and disparity of its plane of
            focus, that DeblurNet was told; None: it deblurred blind.
    """

    aif: Tensor
    whole_tokens: Tensor
    disparity: Tensor
    focus_disparity: float
    photo_size: tuple[int, int]
    unit: BlurStrength
    told: tuple[BlurStrength, float] | None = None

    def restated(self, strength: BlurStrength) -> BlurStrength:
        """K of the photograph, for ``aif``.

        Raises:
            ValueError: it is stated for another size.
        """
        if (strength.height, strength.width) != self.photo_size:
            raise ValueError(
                f"K is stated for {strength.width}x{strength.height} px but the photograph is "
                f"{self.photo_size[1]}x{self.photo_size[0]} px (WxH)"
            )
        return replace(self.unit, k=strength.k * self.unit.k)


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
    """The blur that a network is asked for or told of is larger than any in its training."""


class RefocusPipeline(Pretrained):
    """Two networks and the optics between them.

    Args:
        deblur: DeblurNet; None takes every photograph for all in focus.
        bokeh: BokehNet.
    """

    def __init__(self, deblur: Network | None, bokeh: Network) -> None:
        self.deblur, self.bokeh = deblur, bokeh
        self._warned: dict[NetworkTask, float] = {}

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
        source: SourceBlur | None = None,
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
            source: blur of the photograph, for a DeblurNet that takes a map; it deblurs twice then,
                first blind. None leaves it at that.

        Raises:
            ValueError: sizes disagree, a focus lies outside, not exactly one of ``disparity``
                and ``estimator``, a draft that is missing, or a draft or a source that no network
                reads.
            Rejected: depth or mask are degenerate, see :mod:`genrefocus.optics`; or the blur of
                the photograph cannot be found.
        """
        size = (photo.shape[-2], photo.shape[-1])
        mask = focus if isinstance(focus, Tensor) else None
        # K is linear: one unit of it goes through the geometry, and any K can follow.
        view = View(photo.float(), disparity, mask, BlurStrength(1.0, *size))
        self._require_draft(draft, size)
        own = None if source is None else self._require_told(source).focus
        for pixel in (focus, own):
            if isinstance(pixel, tuple):
                require_inside(pixel, *size)
        if disparity is not None:
            require_spread(disparity)
            focus = plane_of_focus(disparity, focus)
            own = None if own is None else plane_of_focus(disparity, own)
        if long_edge is not None:
            view = resize_long_edge_and_crop(view, long_edge, self.pixel_multiple)
            focus = carried(focus, size, view, long_edge)
            own = carried(own, size, view, long_edge)
            if draft is not None:
                draft = resize_long_edge_and_crop(View(draft), long_edge, self.pixel_multiple).image
        blind = self._prepare(view, focus, estimator, size, seed, report, draft)
        if source is None:
            return blind
        return self._told(blind, view.image, replace(source, focus=own), seed, report)

    def refocus(
        self,
        photo: PreparedPhoto,
        strength: BlurStrength,
        *,
        seed: int = 0,
        number: int = 1,
        aperture: Aperture | None = None,
        report: Report | None = None,
    ) -> Refocused:
        """The photograph with the depth of field of ``strength``.

        Args:
            photo: from :meth:`prepare`.
            strength: K, stated for the photograph. K = 0 gives an image that is all in focus.
            seed, number: of the noise; not of K, so that the images of a sweep differ in blur
                alone.
            aperture: shape of the blur, for a BokehNet that can be told it; it is drawn as lights
                behind the plane of focus show it.
            report: called with the progress.

        Raises:
            ValueError: K is stated for another size, or BokehNet knows no shapes.
        """
        asked, strength = strength.k, photo.restated(strength)
        defocus = defocus_map(photo.disparity, photo.focus_disparity, strength)
        missing = defocus_of_radius(self._missing(photo, strength))
        control = resize_defocus(missing, *_size(photo.whole_tokens))
        self._warn_beyond_training("bokeh", self.bokeh, control, asked)
        image = self.bokeh.generate(
            photo.whole_tokens[None],
            seeded_generators(seed, [number]),
            control=control[None, None],
            aperture=aperture,
            report=report and partial(report, "bokeh"),
        )
        return Refocused(resize_image(image[0], *_size(photo.aif)), defocus, strength)

    def _missing(self, photo: PreparedPhoto, strength: BlurStrength) -> Tensor:
        """Radii (H, W) in px of the blur that the all-in-focus image lacks.

        Second moments of blur add. What DeblurNet has left is known where it was told the blur.
        """
        asked = blur_radius(photo.disparity, photo.focus_disparity, strength)
        restored = self.bokeh.restored_radius
        if photo.told is None or restored is None:
            return asked
        own, plane = photo.told
        had = blur_radius(photo.disparity, plane, photo.restated(own))
        left = had.square() - lacking_radius(had, restored).square()
        return (asked.square() - left).clamp_min(0).sqrt()

    def _warn_beyond_training(
        self, task: NetworkTask, network: Network, control: Tensor, k: float | None = None
    ) -> None:
        """Once, and again for radii that are a quarter larger; ``k`` is what was asked for."""
        radius, largest = float(control.max()) * MAX_COC, network.largest_radius
        if largest is None or radius <= max(1.01 * largest, 1.25 * self._warned.get(task, 0.0)):
            return
        self._warned[task] = radius
        beginning, result = _BEYOND[task]
        asked = "" if k is None else f" for K {k:g}"
        within = "" if k is None else f"; K up to {0.99 * k * largest / radius:.3g} stays within"
        warnings.warn(
            f"{beginning} of {radius:.1f} px{asked}, and was trained up to {largest:.1f} px: "
            f"{result}{within}",
            BeyondTraining,
            stacklevel=3,
        )

    @property
    def pixel_multiple(self) -> int:
        """Of which the sides of an image are multiples for both networks, px."""
        networks = [one for one in (self.deblur, self.bokeh) if one is not None]
        return math.lcm(*(one.denoiser.pixel_multiple for one in networks))

    def _to_whole_tokens(self, image: Tensor) -> Tensor:
        return round_up_to_multiple(View(image), self.pixel_multiple).image

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
                f"the draft is {_size(draft)[1]}x{_size(draft)[0]} px but the photograph is "
                f"{size[1]}x{size[0]} px (WxH)"
            )

    def _require_told(self, source: SourceBlur) -> SourceBlur:
        if self.deblur is None or not self.deblur.takes_map:
            raise ValueError(
                "no DeblurNet takes part that can be told the blur of the photograph: leave "
                "--source-k and --source-focus out, or train one with stages.deblurnet.module.told"
            )
        return source

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
        source = self._deblurred(view.image, "deblur", seed, report, draft=draft)
        aif = resize_image(source, view.height, view.width)
        disparity = view.disparity
        if disparity is None:
            assert estimator is not None
            (depth,) = estimator.depth([Photo("photograph", view.image, aif)])
            disparity = depth_to_disparity(depth)
            focus = plane_of_focus(disparity, focus if view.mask is None else view.mask)
        assert isinstance(focus, float) and view.strength is not None
        return PreparedPhoto(aif, source, disparity, focus, photo_size, view.strength)

    def _told(
        self,
        photo: PreparedPhoto,
        image: Tensor,
        source: SourceBlur,
        seed: int,
        report: Report | None,
    ) -> PreparedPhoto:
        """A photograph (3, H, W) that was deblurred blind, deblurred by its own blur."""
        assert self.deblur is not None
        try:
            strength, plane = source.found(
                image, photo.aif, photo.disparity, unit=photo.unit, size=photo.photo_size
            )
        except Rejected as error:
            remedy = "give --source-k K and --source-focus X,Y, or --source-k none to deblur blind"
            raise Rejected(error.reason, error.value, f"{error.detail}; {remedy}") from None
        control = defocus_map(photo.disparity, plane, photo.restated(strength))
        self._warn_beyond_training("deblur", self.deblur, control)
        sharp = self._deblurred(image, "deblur, told", seed, report, control=control)
        aif = resize_image(sharp, *_size(image))
        return replace(photo, aif=aif, whole_tokens=sharp, told=(strength, plane))

    def _deblurred(
        self,
        image: Tensor,
        stage: str,
        seed: int,
        report: Report | None,
        *,
        draft: Tensor | None = None,
        control: Tensor | None = None,
    ) -> Tensor:
        """An image at the size of whole tokens, deblurred where there is a DeblurNet."""
        whole = self._to_whole_tokens(image)
        if self.deblur is None:
            return whole
        if control is not None:
            control = resize_defocus(control, *_size(whole))[None, None]
        return self.deblur.generate(
            whole[None],
            seeded_generators(seed, [0]),
            control=control,
            draft=None if draft is None else self._to_whole_tokens(draft)[None],
            report=report and partial(report, stage),
        )[0]


def load_pipeline(
    cards: Mapping[NetworkTask, NetworkCard],
    origin: str | Path,
    *,
    deblur: bool = True,
    deblur_prompt: str | None = None,
    bokeh_prompt: str | None = None,
    steps: int | None = None,
    device: Device = "cpu",
    memory: MemoryUse = DEFAULT_MEMORY,
) -> RefocusPipeline:
    """The pipeline of the networks of a run, or of LoRA files.

    Args:
        cards: see :func:`load_networks`.
        origin: where the cards come from, for messages.
        deblur: False leaves DeblurNet out.
        deblur_prompt, bokeh_prompt, steps: in place of the cards'.
        device, memory: see :func:`load_networks`, also for further errors.

    Raises:
        FileNotFoundError: there is no BokehNet, or no DeblurNet where one is needed.
        ValueError: there is a ``deblur_prompt`` but no DeblurNet.
    """
    if "bokeh" not in cards:
        raise FileNotFoundError(
            f"{origin} has no BokehNet: no network.json of one with its LoRA file; name a run that "
            "has one as well"
        )
    chosen: dict[NetworkTask, NetworkCard] = {"bokeh": cards["bokeh"]}
    if deblur and cards["bokeh"].variant != "direct":
        card = require_deblurnet(cards, origin)
        prompt = card.prompt if deblur_prompt is None else deblur_prompt
        chosen["deblur"] = replace(card, prompt=prompt)
    elif deblur_prompt is not None:
        raise ValueError(f"no DeblurNet takes part that could take the prompt '{deblur_prompt}'")
    if bokeh_prompt is not None:
        chosen["bokeh"] = replace(chosen["bokeh"], prompt=bokeh_prompt)
    if steps is not None:
        chosen = {task: replace(card, steps=steps) for task, card in chosen.items()}
    networks = load_networks(chosen, device=device, memory=memory)
    return RefocusPipeline(networks.get("deblur"), networks["bokeh"])


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
