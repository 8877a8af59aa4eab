"""Methods without a network: the unmodified input, classical methods, and images from elsewhere."""

import hashlib
import math
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from skimage.restoration import richardson_lucy
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from genrefocus.benchmark.case import Case, Method
from genrefocus.data.images import IMAGE_SUFFIXES, load_image
from genrefocus.metrics.psnr import psnr
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import disk
from genrefocus.render.layered import render_layered
from genrefocus.render.scatter import render_scatter
from genrefocus.render.tone import in_linear_light, linear_to_srgb, srgb_to_linear

NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")


@dataclass(frozen=True)
class Identity:
    """The input as the answer."""

    name = "identity"
    needs_k = False

    def __call__(self, case: Case) -> Tensor:
        return case.image


@dataclass(frozen=True)
class GroundTruth:
    """The true images of a scene at the K of LVCorr: what control accuracy the truth itself has."""

    name = "ground_truth"
    needs_k = True

    def __call__(self, case: Case) -> Tensor:
        if case.strength is None:
            raise ValueError(f"case {case.key} has no K")
        share = case.strength.k / (case.target_strength or case.strength).k
        for one, image in {**case.series, 1.0: case.target}.items():
            if abs(share - one) < 1e-6:
                return image
        raise ValueError(f"case {case.key} has no true image at {share:.3g} of its K")


@dataclass(frozen=True)
class Unsharp:
    """Sharpening of sRGB values: image + amount * (image - Gaussian blur), clipped.

    Attributes:
        sigma: standard deviation of the Gaussian in px, cut off at 4 sigma; > 0.
        amount: strength, >= 0; 0 leaves the input unmodified.

    Raises (when it answers):
        ValueError: the image is too small for sigma.
    """

    sigma: float
    amount: float

    name = "unsharp"
    needs_k = False

    @classmethod
    def fitted(
        cls,
        cases: Sequence[Case],
        *,
        sigmas: Sequence[float] = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0),
        amounts: Sequence[float] = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    ) -> "Unsharp":
        """The best mean PSNR on validation cases of one size, by exhaustive search."""
        images, targets = (
            torch.stack([getattr(case, name) for case in cases]) for name in ("image", "target")
        )
        scores = {}
        for sigma in sigmas:
            low = _blurred(images, sigma)
            for amount in amounts:
                sharp = _sharpened(images, low, amount)
                scores[cls(sigma, amount)] = psnr(sharp, targets).mean().item()
        return max(scores, key=scores.__getitem__)

    def __call__(self, case: Case) -> Tensor:
        return _sharpened(case.image, _blurred(case.image, self.sigma), self.amount)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach, size = math.ceil(4.0 * sigma), tuple(image.shape[-2:])
    if min(size) <= reach:
        raise ValueError(f"sigma {sigma} px needs an image of more than {reach} px a side: {size}")
    return gaussian_blur(image, [2 * reach + 1] * 2, [sigma] * 2)


def _sharpened(image: Tensor, low: Tensor, amount: float) -> Tensor:
    return (image + amount * (image - low)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class RichardsonLucy:
    """Richardson-Lucy deconvolution (scikit-image) of linear light by one disc everywhere.

    Attributes:
        radius: of the disc, px.
        iterations: > 0; few, as the method amplifies noise and knows nothing of depth.
    """

    radius: float
    iterations: int

    name = "richardson_lucy"
    needs_k = False

    @classmethod
    def fitted(
        cls,
        cases: Sequence[Case],
        *,
        radii: Sequence[float] = (0.3, 0.5, 0.7, 1.0, 1.5, 2.5),
        iterations: Sequence[int] = (2, 3, 5, 10),
    ) -> "RichardsonLucy":
        """The best mean PSNR on validation cases, by exhaustive search."""
        candidates = [cls(radius, count) for radius in radii for count in iterations]
        return max(candidates, key=lambda one: _mean_psnr(one, cases))

    def __call__(self, case: Case) -> Tensor:
        kernel = disk().kernel(self.radius)
        reach = kernel.shape[0]
        light = srgb_to_linear(case.image).double().numpy()
        padded = np.pad(light, ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
        sharp = [richardson_lucy(one, kernel, num_iter=self.iterations) for one in padded]
        inner = np.stack(sharp)[:, reach:-reach, reach:-reach]
        return linear_to_srgb(torch.from_numpy(inner.copy()).float())


def _mean_psnr(method: RichardsonLucy, cases: Sequence[Case]) -> float:
    scores = [float(psnr(method(case)[None], case.target[None])[0]) for case in cases]
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class Classical:
    """A renderer with the case's depth and shape, for ``refocus`` from the blurred input.

    Attributes:
        renderer: ``layered`` or ``scatter``.
        sharpened: what sharpens the blurred input before, or None: the classical chain.
    """

    renderer: Literal["layered", "scatter"] = "scatter"
    sharpened: Unsharp | RichardsonLucy | None = None

    needs_k = True

    @property
    def name(self) -> str:
        return f"{self.sharpened.name if self.sharpened else 'classical'}_{self.renderer}"

    def __call__(self, case: Case) -> Tensor:
        if case.disparity is None or case.focus_disparity is None or case.strength is None:
            raise ValueError(f"case {case.key} has no depth, focus or K to render with")
        render = render_layered if self.renderer == "layered" else render_scatter
        lens = partial(
            render,
            disparity=case.disparity,
            focus_disparity=case.focus_disparity,
            strength=case.strength,
            aperture=case.aperture or disk(),
        )
        return in_linear_light(lens, self.sharpened(case) if self.sharpened else case.image)


@dataclass(frozen=True)
class Predictions:
    """Answers of anybody's method, as images ``<folder>/<key>.png`` (or another suffix).

    Attributes:
        name: in tables.
        folder: of the images.
    """

    name: str
    folder: Path

    needs_k = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"method {self.name!r}: use up to 60 letters, digits, _, - and .")

    @property
    def fingerprint(self) -> str:
        """Of the images, so that others in their place are scored anew."""
        digest = hashlib.sha256()
        for path in self._images():
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _images(self) -> list[Path]:
        return sorted(p for p in Path(self.folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)

    def __call__(self, case: Case) -> Tensor:
        found = [path for path in self._images() if path.stem == case.key]
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ValueError(f"{self.folder} needs one image {case.key}.png, it has {names}")
        answer = load_image(found[0])
        if answer.shape != case.target.shape:
            raise ValueError(
                f"{found[0]} is {answer.shape[-1]}x{answer.shape[-2]} px but the target is "
                f"{case.target.shape[-1]}x{case.target.shape[-2]} px (WxH); nothing is resized"
            )
        return answer


@dataclass(frozen=True)
class UserMethod:
    """A method of the user's, under the name that the configuration gives it.

    Raises (when it answers):
        ValueError: it cannot answer; a failure of this case.
        UserMethodError: anything else that it raises, which ends the benchmark.
    """

    name: str
    method: Method

    @property
    def needs_k(self) -> bool:
        return bool(getattr(self.method, "needs_k", False))

    @property
    def fingerprint(self) -> str:
        return str(getattr(self.method, "fingerprint", repr(self.method)))

    def __call__(self, case: Case) -> Tensor:
        try:
            return self.method(case)
        except (Rejected, ValueError):
            raise
        except Exception as error:
            *_, frame = traceback.extract_tb(error.__traceback__)
            raise UserMethodError(
                f"{self.name} failed on {case.key}: {type(error).__name__}: {error} "
                f"({frame.filename}, line {frame.lineno})"
            ) from error


class UserMethodError(Exception):
    """Code of the user's does not work."""
