"""One image of a benchmark, and what answers it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, get_args

from torch import Tensor

from genrefocus.metrics.aperture_shape import Light
from genrefocus.optics import (
    BlurStrength,
    blur_radius,
    defocus_map,
    exceeded_radius,
    visible_blur,
)
from genrefocus.render.apertures import Aperture
from genrefocus.render.lettering import Lettering

BenchmarkTask = Literal["deblur", "bokeh", "refocus"]
TASKS: tuple[BenchmarkTask, ...] = get_args(BenchmarkTask)


@dataclass(frozen=True)
class Case:
    """An input, its target, and what is known about both; all images and maps of one size.

    Attributes:
        task: ``deblur`` (photograph to all-in-focus), ``bokeh`` (all-in-focus to photograph) or
            ``refocus`` (photograph to photograph with another focus).
        key: unique within the data set.
        image: input, (3, H, W) in [0, 1] sRGB.
        target: (3, H, W) in [0, 1] sRGB.
        aif: true all-in-focus image (3, H, W), where known; for ``bokeh`` it is ``image``.
        disparity: (H, W) in 1/m, where known.
        focus_disparity: of the target's plane of focus, 1/m, where known.
        strength: the requested K: that of the target, where known, or one of the search.
        target_strength: K of the target, where ``strength`` is another; see :meth:`with_k`.
        source_focus_disparity, source_strength: the same of ``image``, for ``refocus``.
        draft: (3, H, W), the photograph as another method has deblurred it, where there is one.
        prompt: of the sample, in place of the network's; None where it has none of its own.
        other_prompt: that of another sample, which is wrong here.
        lettering: a word that the target shows, where known.
        series: K as a share of the target's K -> the scene at that K, (3, H, W).
        held_out_lens: whether the photograph is of a lens that training has not seen.
        aperture: shape of the target's blur, where known.
        lights: point lights of the scene, where known.

    Raises:
        ValueError: sizes that differ, named with the key; nothing is resized.
    """

    task: BenchmarkTask
    key: str
    image: Tensor
    target: Tensor
    aif: Tensor | None = None
    disparity: Tensor | None = None
    focus_disparity: float | None = None
    strength: BlurStrength | None = None
    target_strength: BlurStrength | None = None
    source_focus_disparity: float | None = None
    source_strength: BlurStrength | None = None
    draft: Tensor | None = None
    prompt: str | None = None
    other_prompt: str | None = None
    lettering: Lettering | None = None
    series: Mapping[float, Tensor] = field(default_factory=dict)
    held_out_lens: bool = False
    aperture: Aperture | None = None
    lights: Sequence[Light] | None = None

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[-2:])
        for name in ("image", "target", "aif", "disparity", "draft"):
            image = getattr(self, name)
            if image is not None and tuple(image.shape[-2:]) != size:
                raise ValueError(
                    f"case {self.key}: {name} is {image.shape[-1]}x{image.shape[-2]} px but the "
                    f"input {size[1]}x{size[0]} px (WxH)"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def own_defocus(self) -> Tensor | None:
        """Defocus map (1, H, W) of the input as it was taken, where that is known."""
        focus, strength = self.focus_disparity, self.strength
        if self.task == "refocus":
            focus, strength = self.source_focus_disparity, self.source_strength
        if self.task == "bokeh" or self.disparity is None or focus is None or strength is None:
            return None
        return defocus_map(self.disparity, focus, strength)[None]

    @property
    def blur(self) -> float | None:
        """Blur radius in px that 1 % of the pixels exceed, where it is known.

        That of the photograph for ``deblur`` and ``bokeh``; for ``refocus`` by how much the radii
        of both photographs differ.
        """
        strength = self.target_strength or self.strength
        if self.disparity is None or self.focus_disparity is None or strength is None:
            return None
        if self.source_strength is None or self.source_focus_disparity is None:
            return visible_blur(self.disparity, self.focus_disparity, strength)
        radius = blur_radius(self.disparity, self.focus_disparity, strength)
        source = blur_radius(self.disparity, self.source_focus_disparity, self.source_strength)
        return exceeded_radius((radius - source).abs())

    def with_k(self, k: float) -> "Case":
        """The case with another K asked for; the target stays, and so does its own K."""
        own = self.target_strength or self.strength
        return replace(self, strength=BlurStrength(k, *self.size), target_strength=own)


class Method(Protocol):
    """Anything that answers cases."""

    @property
    def name(self) -> str:
        """In tables and files; letters, digits, ``_``, ``-``, ``.``."""

    @property
    def needs_k(self) -> bool:
        """Whether its answer depends on K, so that a K that is not known has to be searched for."""

    def __call__(self, case: Case) -> Tensor:
        """The answer (3, H, W) in [0, 1] sRGB.

        Raises:
            Rejected, ValueError: it cannot answer this case, which counts as a failure.
        """
