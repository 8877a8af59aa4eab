"""Depth and in-focus mask of a photograph, behind two small protocols.

An estimator gets photographs with their (pseudo) all-in-focus images and answers at the
photograph's size. There are files beside the photographs, Depth Pro (arXiv 2410.02073), BiRefNet
(arXiv 2401.03407), and detail retention, which compares the photograph with its sharp image.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad
from torchvision.transforms.v2.functional import normalize

from genrefocus.data.images import load_map, load_mask, not_in_metres
from genrefocus.geometry import fitted, resize_image


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
    """Estimates metric depth."""

    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        """(H, W) float32 in metres per photograph; 0 or below where there is no measurement."""


class MaskEstimator(Estimator, Protocol):
    """Estimates the region in focus."""

    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        """The region in focus of each photograph."""


class SidecarDepth:
    """Depth from ``<folder>/<name of the photograph>.npy``, metres, of the upright photograph.

    A map of another size but the same proportions is scaled to the photograph's by nearest
    neighbour. A warning names the first map with a median beyond 200 m: it may be in millimetres.

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
    """The region in focus is where the photograph keeps the detail of its sharp image.

    Retention is near 1 in the plane of focus and near 0 far from it, for any texture. Regions
    without texture are left out.

    Args:
        window: edge of the neighbourhood in px, odd.
        threshold: retention from which on a pixel is in focus.
        texture: smallest mean absolute Laplacian of the sharp image, in [0, 1] grey levels.
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
    """A saliency mask, compared with where the photograph is sharp.

    Saliency knows where objects end but not which one is in focus, and it declines some scenes;
    detail retention finds the sharp region but has holes without texture. So saliency is
    kept if retention agrees with it, else retention alone is taken. The origin says which it
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


class _Pretrained:
    """A network from a local folder, or from the hub at a commit.

    Args:
        model: local folder or hub id, such as ``apple/DepthPro-hf`` or ``ZhengPeng7/BiRefNet``.
        revision: commit of a hub id; needed for one.
        device: torch device.
        batch_size: images at a time.

    Raises:
        ValueError: a hub id without revision.
        FileNotFoundError: it cannot be loaded.
    """

    holds_network = True
    title: str
    what: str

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 1,
    ) -> None:
        if not (is_folder := Path(model).is_dir()) and not revision:
            raise ValueError(
                f"{self.what} model {model} is no local folder; to load it from the hub name the "
                "commit with its option revision=<commit>"
            )
        origin = f"from folder {Path(model).name}" if is_folder else f"{model}@{revision}"
        self.name = f"{self.title} {origin}"
        self.batch_size = batch_size
        try:
            self.model = self._load(str(model), {"revision": revision} if revision else {})
        except OSError as error:
            first = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"{self.what} model {model} cannot be loaded ({first}); give a local folder with "
                "its files (its option model), or files beside the photographs"
            ) from error
        self.model = self.model.to(device).eval()

    def _load(self, model: str, at: dict[str, str]) -> Any:
        raise NotImplementedError

    def _batches(self, photos: Sequence[Photo]) -> Iterator[Sequence[Photo]]:
        size = self.batch_size
        return (photos[first : first + size] for first in range(0, len(photos), size))


class DepthPro(_Pretrained):
    """Depth Pro: metric depth of the sharp image, with a focal length that it estimates itself.

    Raises:
        ValueError: also a model without a field-of-view head, whose depth is not metric.
    """

    title, what = "Depth Pro", "depth"

    def _load(self, model: str, at: dict[str, str]) -> Any:
        from transformers import DepthProForDepthEstimation, DepthProImageProcessor

        network = DepthProForDepthEstimation.from_pretrained(model, **at)
        self.processor: Any = DepthProImageProcessor.from_pretrained(model, **at)
        if not network.use_fov_model:
            raise ValueError(f"{model} has no field-of-view head, so its depth is not metric")
        return network

    @torch.inference_mode()
    def depth(self, photos: Sequence[Photo]) -> list[Tensor]:
        maps: list[Tensor] = []
        for batch in self._batches(photos):
            images = [photo.aif for photo in batch]
            inputs = self.processor(images, do_rescale=False, return_tensors="pt")
            outputs = self.model(**inputs.to(self.model.device, self.model.dtype))
            found = self.processor.post_process_depth_estimation(
                outputs, target_sizes=[photo.size for photo in batch]
            )
            maps += [one["predicted_depth"].float().cpu().clone() for one in found]
        return maps


class BiRefNet(_Pretrained):
    """BiRefNet: a mask of the salient object in the photograph, which need not be in focus.

    Its code comes with its weights from the hub and is run, so the revision is required.
    """

    title, what = "BiRefNet", "mask"
    size = 1024  # px that images are scaled to, as the network was trained

    def _load(self, model: str, at: dict[str, str]) -> Any:
        from transformers import AutoModelForImageSegmentation

        at = at | {"code_revision": at["revision"]} if at else {}
        return AutoModelForImageSegmentation.from_pretrained(
            model, trust_remote_code=True, dtype=torch.float32, **at
        )

    @torch.inference_mode()
    def mask(self, photos: Sequence[Photo]) -> list[InFocus]:
        masks: list[InFocus] = []
        for batch in self._batches(photos):
            square = [resize_image(photo.image, self.size, self.size) for photo in batch]
            # It answers with one map of logits per decoder stage, the finest last.
            images = normalize(torch.stack(square), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            logits = self.model(images.to(self.model.device))[-1]
            for photo, one in zip(batch, logits.float().sigmoid().cpu(), strict=True):
                found = interpolate(one[None], photo.size, mode="bilinear", align_corners=False)
                masks.append(InFocus(found[0, 0] >= 0.5, self.name))
        return masks


def detail_retention(photo: Photo, window: int) -> tuple[Tensor, Tensor]:
    """Local mean |Laplacian| of the photograph over that of its sharp image.

    Returns:
        The ratio (H, W), >= 0 (0 where the sharp image is plain), and the mean |Laplacian| of
        the sharp image (H, W) in grey levels of [0, 1].
    """
    seen, sharp = _detail(photo.image, window), _detail(photo.aif, window)
    return torch.where(sharp > 0, seen / sharp.clamp_min(1e-12), 0.0), sharp


def mask_agreement(mask: Tensor, photo: Photo, *, window: int = 9, texture: float = 0.01) -> float:
    """How well a mask agrees with where the photograph is sharp, 0 to 1.

    The probability that a textured pixel of the mask retains more detail than one outside (the
    area under the ROC curve): 1 for a mask of exactly the sharp region, 0.5 for chance and
    for masks without textured pixels on both sides, 0 for the opposite.
    """
    kept, detail = detail_retention(photo, window)
    inside, outside = kept[mask & (detail >= texture)], kept[~mask & (detail >= texture)]
    if not len(inside) or not len(outside):
        return 0.5
    from scipy.stats import rankdata  # a second, which only this waits for

    ranks = rankdata(torch.cat([inside, outside]).numpy())
    above = ranks[: len(inside)].sum() - len(inside) * (len(inside) + 1) / 2
    return float(above / (len(inside) * len(outside)))


def _detail(image: Tensor, window: int) -> Tensor:
    grey = pad(image.mean(0)[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    laplacian = (around - 4 * middle).abs()[None, None]
    half = window // 2
    return avg_pool2d(pad(laplacian, (half,) * 4, mode="replicate"), window, stride=1)[0, 0]


def _sidecar(folder: Path, photo: Photo, suffix: str, what: str) -> Path:
    path = (folder / photo.name).with_suffix(suffix)
    if not path.is_file():
        raise FileNotFoundError(
            f"photograph {photo.name} has no {what}: {path} does not exist; put it there, name "
            f"another folder of estimates (data.estimates), or take another estimator of {what}"
        )
    return path
