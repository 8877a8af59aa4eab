"""Depth and in-focus mask of a photograph, behind two small protocols.

An estimator gets photographs with their (pseudo) all-in-focus pictures and answers at the
photograph's size. Those at hand: files beside the photographs, Depth Pro (arXiv 2410.02073),
BiRefNet (arXiv 2401.03407), and detail retention, which compares the photograph with its sharp
picture.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from genrefocus.data.images import load_map, load_mask, not_in_metres
from genrefocus.geometry import View, fitted, resize


@dataclass(frozen=True)
class Photo:
    """A photograph to be measured.

    Attributes:
        name: path within the folder of photographs, with forward slashes.
        image: (3, H, W) float in [0, 1], upright.
        aif: the same scene in focus everywhere, (3, H, W) float in [0, 1].
    """

    name: str
    image: Tensor
    aif: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.image.shape[-2], self.image.shape[-1]


class InFocus(NamedTuple):
    """The region in focus, (H, W) bool, which may be empty, and what said so, for provenance."""

    region: Tensor
    origin: str


class Estimator(Protocol):
    """What all estimators have."""

    @property
    def name(self) -> str:
        """For provenance: what estimated, in which revision."""

    @property
    def holds_network(self) -> bool:
        """Whether it holds a network, which should not be copied to other processes."""


class DepthEstimator(Estimator, Protocol):
    """Metric depth."""

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        """(H, W) float32 in metres per photograph; 0 or below where there is no measurement."""


class MaskEstimator(Estimator, Protocol):
    """The region in focus."""

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        """The region in focus of each photograph."""


class SidecarDepth:
    """Depth from ``<folder>/<name of the photograph>.npy``, metres, of the upright photograph.

    A map of another size but the same proportions is brought to the photograph's with nearest
    neighbour. The first whose median is beyond 200 m is warned of, as millimetres may be.

    Raises (``depth``):
        FileNotFoundError: no file for a photograph.
        ValueError: not a 2-D floating point array, or other proportions.
    """

    holds_network = False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = "sidecar depth"
        self._warned = False

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        return [self._read(photo) for photo in photos]

    def _read(self, photo: Photo) -> Tensor:
        path = _sidecar(self.folder, photo, ".npy", "depth")
        depth = load_map(path, "depth")
        if not self._warned and (notice := not_in_metres(depth)):
            self._warned = True
            warnings.warn(f"{path}: {notice}", stacklevel=2)
        # Nearest neighbour picks values, so that it does not matter whether it picks depth.
        return fitted(depth, *photo.size, str(path))


class SidecarMask:
    """In-focus mask from ``<folder>/<name of the photograph>.png``: white in focus.

    Sizes and errors as for :class:`SidecarDepth`.
    """

    holds_network = False

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = "sidecar mask"

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks = []
        for photo in photos:
            path = _sidecar(self.folder, photo, ".png", "mask")
            region = fitted(load_mask(path), *photo.size, str(path))
            masks.append(InFocus(region, self.name))
        return masks


class DetailRetention:
    """In focus is where the photograph keeps the detail of its sharp picture.

    Near 1 in the plane of focus and near 0 far from it, whatever the texture; regions without
    texture are left out.

    Args:
        window: edge of the neighbourhood in px, odd.
        threshold: retention from which on a pixel is in focus.
        texture: least mean absolute Laplacian of the sharp picture, in [0, 1] grey levels.
    """

    holds_network = False

    def __init__(self, *, window: int = 9, threshold: float = 0.8, texture: float = 0.01) -> None:
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window of detail retention is {window} px; give an odd number")
        self.window, self.threshold, self.texture = window, threshold, texture
        self.name = f"detail retention (window {window}, threshold {threshold})"

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks = []
        for photo in photos:
            kept, detail = detail_retention(photo, self.window)
            region = (kept >= self.threshold) & (detail >= self.texture)
            masks.append(InFocus(region, self.name))
        return masks


class RefinedMask:
    """A saliency mask, held against where the photograph is sharp.

    Saliency knows where objects end but not which one is in focus, and it declines some scenes;
    detail retention knows what is sharp but has holes where there is no texture. So saliency is
    kept where retention agrees with it, else retention alone is taken. The origin says which it
    was, with the agreement measured.

    Args:
        saliency: such as BiRefNet, or masks from files.
        retention: of detail.
        min_agreement: with :func:`mask_agreement`, from which on the saliency mask is kept.
    """

    def __init__(
        self, saliency: "MaskEstimator", retention: DetailRetention, *, min_agreement: float
    ) -> None:
        if not 0.5 <= min_agreement <= 1:
            raise ValueError(
                f"min_agreement is {min_agreement}; give 0.5 (chance) to 1 (the same region)"
            )
        self.saliency, self.retention = saliency, retention
        self.holds_network = saliency.holds_network
        self.min_agreement = min_agreement
        self.name = f"{saliency.name}, else {retention.name}, agreement {min_agreement}"

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        salient, sharp = self.saliency.mask(photos), self.retention.mask(photos)
        return [self._choose(*one) for one in zip(photos, salient, sharp, strict=True)]

    def _choose(self, photo: Photo, salient: InFocus, sharp: InFocus) -> InFocus:
        if not bool(salient.region.any()):
            return InFocus(sharp.region, f"{sharp.origin}; saliency declined")
        agreement = mask_agreement(salient.region, photo)
        if agreement >= self.min_agreement:
            return InFocus(salient.region, f"{salient.origin}; agreement {agreement:.3f}")
        return InFocus(sharp.region, f"{sharp.origin}; saliency agreement {agreement:.3f}")


class DepthPro:
    """Depth Pro: metric depth, its focal length estimated from the picture; sees the sharp picture.

    Args:
        model: local folder or hub id, such as ``apple/DepthPro-hf``.
        revision: commit of a hub id; needed for one.
        device: torch device.
        batch_size: pictures at a time.

    Raises:
        ValueError: a hub id without revision, or a model that does not estimate the field of view,
            without which depth is not metric.
        FileNotFoundError: it cannot be loaded.
    """

    holds_network = True

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 1,
    ) -> None:
        self.name = f"Depth Pro {_pinned(model, revision, 'depth')}"
        from transformers import DepthProForDepthEstimation, DepthProImageProcessor

        self.batch_size = batch_size
        arguments: dict[str, Any] = {"revision": revision} if revision else {}
        self.model = _load(DepthProForDepthEstimation, model, "depth", **arguments).to(device)
        self.processor = _load(DepthProImageProcessor, model, "depth", **arguments)
        if not self.model.use_fov_model:
            raise ValueError(f"{model} has no field-of-view head, so its depth is not metric")

    @torch.inference_mode()
    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        maps: list[Tensor] = []
        for batch in _batches(photos, self.batch_size):
            pictures = [photo.aif for photo in batch]
            inputs = self.processor(pictures, do_rescale=False, return_tensors="pt")
            outputs = self.model(**inputs.to(self.model.device, self.model.dtype))
            found = self.processor.post_process_depth_estimation(
                outputs, target_sizes=[photo.size for photo in batch]
            )
            maps += [one["predicted_depth"].float().cpu().clone() for one in found]
        return maps


class BiRefNet:
    """BiRefNet: a mask of the salient object in the photograph, which need not be in focus.

    It comes as code beside its weights on the hub, which is why the revision is needed: that
    code is run.

    Args:
        model: local folder or hub id, such as ``ZhengPeng7/BiRefNet``.
        revision, device, batch_size: as for :class:`DepthPro`.
        size: edge in px that pictures are scaled to, a multiple of 32.
        threshold: probability from which on a pixel belongs to the mask.

    Raises:
        ValueError, FileNotFoundError: as for :class:`DepthPro`.
    """

    holds_network = True

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 1,
        size: int = 1024,
        threshold: float = 0.5,
    ) -> None:
        self.name = f"BiRefNet {_pinned(model, revision, 'mask')}"
        from transformers import AutoModelForImageSegmentation

        self.batch_size, self.size, self.threshold = batch_size, size, threshold
        arguments = {"revision": revision, "code_revision": revision} if revision else {}
        loaded = _load(
            AutoModelForImageSegmentation,
            model,
            "mask",
            trust_remote_code=True,
            dtype=torch.float32,
            **arguments,
        )
        self.model = loaded.to(device).eval()
        self.device = torch.device(device)

    @torch.inference_mode()
    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks: list[InFocus] = []
        for batch in _batches(photos, self.batch_size):
            square = [resize(View(photo.image), self.size, self.size).image for photo in batch]
            # It answers with one map of logits per decoder stage, the finest last.
            logits = self.model(_imagenet(torch.stack(square)).to(self.device))[-1]
            for photo, one in zip(batch, logits.float().sigmoid().cpu(), strict=True):
                found = interpolate(one[None], photo.size, mode="bilinear", align_corners=False)
                masks.append(InFocus(found[0, 0] >= self.threshold, self.name))
        return masks


def detail_retention(photo: Photo, window: int) -> tuple[Tensor, Tensor]:
    """Local mean |Laplacian| of the photograph over that of its sharp picture.

    Returns:
        The ratio (H, W), >= 0 (0 where the sharp picture is plain), and the mean |Laplacian| of
        the sharp picture (H, W) in grey levels of [0, 1].
    """
    seen, sharp = _detail(photo.image, window), _detail(photo.aif, window)
    return torch.where(sharp > 0, seen / sharp.clamp_min(1e-12), 0.0), sharp


def mask_agreement(mask: Tensor, photo: Photo, *, window: int = 9, texture: float = 0.01) -> float:
    """How well a mask agrees with where the photograph is sharp, 0 to 1.

    The probability that a textured pixel of the mask retains more detail than one outside (the
    area under the ROC curve): 1 for a mask of exactly what is sharp, 0.5 for one that tells
    nothing, as it also is without textured pixels on both sides, 0 for the opposite.
    """
    kept, detail = detail_retention(photo, window)
    inside, outside = kept[mask & (detail >= texture)], kept[~mask & (detail >= texture)]
    if not len(inside) or not len(outside):
        return 0.5
    from scipy.stats import rankdata  # a second, which only this waits for

    ranks = rankdata(torch.cat([inside, outside]).numpy())
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def _detail(picture: Tensor, window: int) -> Tensor:
    grey = pad(picture.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = (around - 4 * middle).abs()[None, None]
    half = window // 2
    return avg_pool2d(pad(laplacian, (half,) * 4, mode="replicate"), window, stride=1)[0, 0]


def _imagenet(pictures: Tensor) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (pictures - mean) / deviation


def _batches(photos: Sequence[Photo], size: int) -> Iterator[Sequence[Photo]]:
    return (photos[first : first + size] for first in range(0, len(photos), size))


def _sidecar(folder: Path, photo: Photo, suffix: str, what: str) -> Path:
    path = (folder / photo.name).with_suffix(suffix)
    if not path.is_file():
        raise FileNotFoundError(
            f"photograph {photo.name} has no {what}: {path} does not exist; put it there, name "
            f"another folder of estimates (data.estimates), or take another estimator of {what}"
        )
    return path


def _pinned(model: str | Path, revision: str | None, what: str) -> str:
    if Path(model).is_dir():
        return f"from folder {Path(model).name}"
    if not revision:
        raise ValueError(
            f"{what} model {model} is no local folder; to load it from the hub name the commit "
            "with its option revision=<commit>"
        )
    return f"{model}@{revision}"


def _load(kind: Any, model: str | Path, what: str, **arguments: Any) -> Any:
    try:
        return kind.from_pretrained(str(model), **arguments)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{what} model {model} cannot be loaded ({first}); give a local folder with its files "
            f"(its option model), or files beside the photographs"
        ) from error
