"""Route b: a photograph and its EXIF. What is sharp is made up; the blur is real.

The photograph is the target; its sharp picture comes from a deblurring function, depth and in-focus
mask from estimators, focus from both, and K from the EXIF by Eq. 3.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.decoding import opened
from genrefocus.estimators import DepthEstimator, InFocus, MaskEstimator, Photo, mask_agreement
from genrefocus.exif import ExposureFacts, exposure_from_tags, exposure_of
from genrefocus.optics import blur_strength_from_exif, depth_to_disparity, focus_disparity
from genrefocus.preparation.engine import Made, prepare
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.leakage import DISTANCE
from genrefocus.preparation.plan import Candidate, LeakageCheck
from genrefocus.preparation.sources import Photographs
from genrefocus.preparation.working import (
    agreement_measure,
    blur_measures,
    by_size,
    load_working,
    require_edge,
)
from genrefocus.rejection import Rejected

Deblur = Callable[[Tensor, Sequence[int]], Tensor]
"""(B, 3, H, W) in [0, 1], and the number of each picture's noise -> sharp ones, same shape."""

DEFAULT_SPLITS: Mapping[str, float] = {"train": 0.9, "val": 0.05, "test": 0.05}


@dataclass(frozen=True)
class InTheWild:
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
    """

    depth: DepthEstimator
    mask: MaskEstimator
    deblur: Deblur
    deblur_name: str
    long_edge: int
    least_edge: int
    batch_size: int

    name = "in_the_wild"
    roles = frozenset({"photo"})
    in_process = True

    def parameters(self) -> dict[str, Any]:
        return {
            "depth": self.depth.name,
            "mask": self.mask.name,
            "deblur": self.deblur_name,
            "long_edge": self.long_edge,
            "least_edge": self.least_edge,
            "batch_size": self.batch_size,
        }

    def make(self, batch: Sequence[Candidate]) -> list[Made | Rejected]:
        found: dict[str, Made | Rejected] = {}
        loaded: list[tuple[Candidate, ExposureFacts, Tensor]] = []
        for candidate in batch:
            try:
                facts = _exposure(candidate)
                image = load_working(candidate, "photo", self.long_edge)
                require_edge(image, self.least_edge)
                loaded.append((candidate, facts, image))
            except Rejected as rejected:
                found[candidate.key] = rejected
        if loaded:
            photos = self._sharpen([(one, image) for one, _, image in loaded])
            maps, masks = self.depth.depth(photos), self.mask.mask(photos)
            for (candidate, facts, _), photo, depth, mask in zip(
                loaded, photos, maps, masks, strict=True
            ):
                try:
                    found[candidate.key] = self._sample(candidate, facts, photo, depth, mask)
                except Rejected as rejected:
                    found[candidate.key] = rejected
        return [found[candidate.key] for candidate in batch]

    def _sharpen(self, pictures: Sequence[tuple[Candidate, Tensor]]) -> list[Photo]:
        """The photographs with their sharp pictures, deblurred together where sizes agree."""
        sharp: dict[int, Tensor] = {}
        for size, numbers in sorted(by_size([image for _, image in pictures]).items()):
            together = torch.stack([pictures[number][1] for number in numbers])
            seeds = [pictures[number][0].seed for number in numbers]
            answer = self.deblur(together, seeds).detach().float().cpu()
            assert answer.shape[1:] == size, f"deblur turned {size} into {tuple(answer.shape)}"
            sharp |= dict(zip(numbers, answer, strict=True))
        named = ((one.item.name, image) for one, image in pictures)
        return [Photo(name, image, sharp[n]) for n, (name, image) in enumerate(named)]

    def _sample(
        self, candidate: Candidate, facts: ExposureFacts, photo: Photo, depth: Tensor, mask: InFocus
    ) -> Made:
        """The sample, with K stated for the photograph's working size; or Rejected."""
        disparity = depth_to_disparity(depth).float()
        focus = focus_disparity(disparity, mask.region)
        strength = blur_strength_from_exif(facts, focus, *photo.size).require_positive()
        agreement = mask_agreement(mask.region, photo)
        sample = Sample(
            key=candidate.key,
            route=self.name,
            split=candidate.split,
            aif=to_uint8(photo.aif),
            bokeh=to_uint8(photo.image),
            disparity=disparity,
            strength=strength,
            focus_disparity=focus,
            mask=mask.region,
            provenance={
                "mask": mask.origin,
                "mask_agreement": agreement,
                "exif": asdict(facts),
            },
        )
        measures = {
            **blur_measures(disparity, focus, strength),
            "pixel_ratio": facts.pixel_ratio,
            "focal_length_mm": facts.focal_length_mm,
            "f_number": facts.f_number,
            **agreement_measure(self.mask, agreement),
            "mask_share": float(mask.region.float().mean()),
        }
        return Made(sample, measures)


def _exposure(candidate: Candidate) -> ExposureFacts:
    """From the columns that the source knows, else from the picture's EXIF."""
    item = candidate.item
    data = item.pictures["photo"].read()
    columns = item.facts.get("exif")
    if columns is None:
        return exposure_of(data, item.name)
    with opened(data, item.name) as image:
        width, height = image.size
    return exposure_from_tags(columns, width=width, height=height)


def prepare_photos(
    photos: str | Path,
    out: str | Path,
    *,
    depth: DepthEstimator,
    mask: MaskEstimator,
    deblur: Deblur,
    deblur_name: str,
    long_edge: int,
    least_edge: int,
    batch_size: int,
    splits: Mapping[str, float] = DEFAULT_SPLITS,
    samples_per_shard: int = 64,
    job: int = 0,
    jobs: int = 1,
    limit: int | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Sets of shards from all photographs below a folder, as a stage of training makes them.

    Args:
        photos: folder, searched with its sub-folders.
        out: folder of the sets, see ``engine``.
        depth, mask, deblur, deblur_name, long_edge, least_edge, batch_size: see
            :class:`InTheWild`.
        splits: split -> share of the photographs, by a hash of their content.
        samples_per_shard: photographs that make one shard; jobs differ by so many.
        job, jobs: this is job number ``job`` of ``jobs``, which divide the shards among them.
        limit: of the photographs, for a trial; None takes all.
        progress: show a bar with the time that is left on stderr.

    Returns:
        The summary of ``engine.prepare``, or None where shards of other jobs are still missing.

    Raises:
        FileNotFoundError: no folder, or a sidecar is missing.
        ValueError: no photograph at all, or none that can be used.
    """
    route = InTheWild(
        depth=depth,
        mask=mask,
        deblur=deblur,
        deblur_name=deblur_name,
        long_edge=long_edge,
        least_edge=least_edge,
        batch_size=batch_size,
    )
    return prepare(
        route,
        Photographs(photos, option="data.photos"),
        out,
        splits=splits,
        gates=Gates({}),
        leakage=LeakageCheck(against=(), distance=DISTANCE, allow=()),
        seed=0,
        items_per_shard=samples_per_shard,
        job=job,
        jobs=jobs,
        limit=limit,
        progress=progress,
    )
