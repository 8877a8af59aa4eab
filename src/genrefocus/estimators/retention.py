"""Where a photograph keeps the detail of its sharp image, which is in focus."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from genrefocus.estimators.protocols import InFocus, MaskEstimator, Photo


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
        self, saliency: MaskEstimator, retention: DetailRetention, *, min_agreement: float
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
