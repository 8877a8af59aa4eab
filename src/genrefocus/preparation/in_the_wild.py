"""In the wild: a photograph and its EXIF. Its all-in-focus image is made up; its blur is real.

The photograph is the target; its sharp image comes from a deblurring function, depth and in-focus
mask from estimators, focus from both, and K from the EXIF by Eq. 3. A network that can be told the
blur deblurs twice: blind, which is what depth and mask are estimated with, and told these labels.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.data.sample import to_uint8
from genrefocus.data.shards import INDEX_NAME, ShardDataset
from genrefocus.estimators import DepthEstimator, InFocus, MaskEstimator, Photo
from genrefocus.optics import blur_strength_from_exif, defocus_map
from genrefocus.photograph.exif import ExposureFacts, read_photograph
from genrefocus.preparation.reblurring import reblurred
from genrefocus.preparation.route import (
    EstimatedPhoto,
    Prepared,
    Route,
    add_estimates,
    scaled_down,
)
from genrefocus.preparation.shard_plan import Candidate

Deblur = Callable[..., Tensor]
"""(B, 3, H, W) in [0, 1], and the number of each image's noise -> sharp ones, same shape.

One whose attribute ``takes_map`` is true is told the blur by ``maps`` (B, 1, H, W). Where images
have captions, ``prompts`` has one for each, None where it has none.
"""


@dataclass(frozen=True)
class InTheWild(Route):
    """Photographs with EXIF.

    Attributes:
        depth, mask: estimators; see their protocols.
        deblur: see ``Deblur``; any H and W that photographs at ``long_edge`` have.
        deblur_name: for provenance: network and weights.
        long_edge: photographs that are larger are scaled to it, px; smaller ones are kept.
        least_edge: photographs whose short edge is then below are turned away before they are
            deblurred, px.
        batch_size: photographs at a time, for deblurring those of equal size and for estimators;
            what an interruption costs.
        told: tell ``deblur`` the blur of each photograph, if it takes a map.
        reblurred: photographs of the training split, spread over it, whose all-in-focus images are
            rendered to see how much of K they lack, see :func:`reblurred`; 0 measures nothing.
    """

    depth: DepthEstimator
    mask: MaskEstimator
    deblur: Deblur
    deblur_name: str
    long_edge: int
    least_edge: int
    batch_size: int
    told: bool = True
    reblurred: int = 64

    name = "in_the_wild"
    roles = frozenset({"photo"})
    by_exif = True
    in_process = True

    def _fields(self) -> dict[str, Any]:
        own = super()._fields()  # a network is named, not written down
        return {**own, "deblur": own.pop("deblur_name")}

    @property
    def tells(self) -> bool:
        """Whether the photographs are deblurred told."""
        return self.told and getattr(self.deblur, "takes_map", False)

    def load(self, candidate: Candidate) -> tuple[Tensor, ExposureFacts]:
        """The photograph at its working size, and its exposure."""
        item = candidate.item
        # Columns that the source knows stand in for the file's EXIF.
        pixels, facts = read_photograph(
            item.images["photo"].read(), item.name, item.facts.get("exif")
        )
        image = torch.from_numpy(pixels.colour).permute(2, 0, 1)
        return scaled_down(image, self.long_edge, self.least_edge), facts

    def estimate(
        self, candidates: Sequence[Candidate], loaded: Sequence[tuple[Tensor, ExposureFacts]]
    ) -> list[tuple[ExposureFacts, Photo, Tensor, InFocus]]:
        """Sharp image, depth and mask of each; those of one size are deblurred together."""
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (image, _) in enumerate(loaded):
            by_size[tuple(image.shape)].append(number)
        sharp: dict[int, Tensor] = {}
        for size, numbers in sorted(by_size.items()):
            together = torch.stack([loaded[number][0] for number in numbers])
            own = [candidates[number] for number in numbers]
            answer = self.deblur(together, [one.seed for one in own], **_prompts(own))
            assert answer.shape[1:] == size, f"deblur turned {size} into {tuple(answer.shape)}"
            sharp |= dict(zip(numbers, answer.detach().float().cpu(), strict=True))
        photos = [
            Photo(candidate.item.name, image, sharp[number])
            for number, (candidate, (image, _)) in enumerate(zip(candidates, loaded, strict=True))
        ]
        return add_estimates([facts for _, facts in loaded], photos, self.depth, self.mask)

    def sample(
        self, candidate: Candidate, estimated: tuple[ExposureFacts, Photo, Tensor, InFocus]
    ) -> Prepared:
        """The sample, with K stated for the photograph's working size."""
        facts, photo, depth, mask = estimated
        estimates = EstimatedPhoto.of(photo, depth, mask)
        strength = blur_strength_from_exif(facts, estimates.focus, *photo.size).require_positive()
        provenance = {"exif": asdict(facts), "deblur": "told" if self.tells else "blind"}
        # What is measured of the mask is measured beside the image that was made without it.
        sample, measures = estimates.sample(self.name, candidate, strength, self.mask, provenance)
        if self.tells:
            maps = defocus_map(estimates.disparity, estimates.focus, strength)[None, None]
            prompts = _prompts([candidate])
            answer = self.deblur(photo.image[None], [candidate.seed], maps=maps, **prompts)
            sample = replace(sample, aif=to_uint8(answer[0].detach().float().cpu()))
        measures |= {
            "pixel_ratio": facts.pixel_ratio,
            "focal_length_mm": facts.focal_length_mm,
            "f_number": facts.f_number,
            "mask_share": float(mask.region.float().mean()),
        }
        return Prepared(sample, measures)

    def summary(self, out: Path, advance: Callable[[int, int], None]) -> dict[str, Any]:
        """See :func:`reblurred`."""
        if not (self.reblurred and (out / "train" / INDEX_NAME).is_file()):
            return {}
        made = ShardDataset(out / "train")
        return {"reblurred": reblurred(made, self.reblurred, advance)} if len(made) else {}


def _prompts(candidates: Sequence[Candidate]) -> dict[str, Any]:
    captions = [one.item.caption for one in candidates]
    return {"prompts": captions} if any(captions) else {}
