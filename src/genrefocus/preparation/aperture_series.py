"""Route c: a scene at several apertures. The narrowest frame is sharp, wider ones are targets.

K is not taken from EXIF but calibrated: it is the K at which the sharp frame, rendered with
estimated depth, looks most like the wider one (SSIM). A maximum at the bounds of the search, a flat
or a multimodal curve is no calibration; the curve is kept in either case.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.estimators import DepthEstimator, InFocus, MaskEstimator, Photo, mask_agreement
from genrefocus.k_search import KRange, KSearch, search_k
from genrefocus.metrics.ssim import ssim
from genrefocus.optics import BlurStrength, depth_to_disparity, focus_disparity
from genrefocus.preparation.engine import Made
from genrefocus.preparation.pairs import PairMeasures, correct, measure_pair
from genrefocus.preparation.plan import Candidate
from genrefocus.preparation.working import (
    agreement_measure,
    blur_measures,
    load_working,
    pair_measures,
    require_edge,
)
from genrefocus.rejection import Rejected
from genrefocus.render.apertures import Aperture
from genrefocus.render.layered import render_layered
from genrefocus.render.tone import linear_to_srgb, srgb_to_linear


@dataclass(frozen=True)
class ApertureSeries:
    """Pairs of a narrow and a wider aperture.

    Attributes:
        depth, mask: estimators; depth sees the sharp frame.
        aperture: of the lens.
        long_edge, least_edge: as for other routes, px.
        correct: whether the sharp frame is brought to the colours of the wider one first.
        k_range: where K is searched for.
        edge_width: px over which estimators smear depth edges, see ``render.layered``; 0 for exact.
        batch_size: pairs at a time, for the estimators.
    """

    depth: DepthEstimator
    mask: MaskEstimator
    aperture: Aperture
    long_edge: int
    least_edge: int
    correct: bool
    k_range: KRange
    edge_width: int = 2
    batch_size: int = 4

    name = "aperture_series"
    roles = frozenset({"photo", "sharp"})

    @property
    def in_process(self) -> bool:
        return self.depth.holds_network or self.mask.holds_network

    def parameters(self) -> dict[str, Any]:
        return {
            "depth": self.depth.name,
            "mask": self.mask.name,
            "aperture": self.aperture.name,
            "renderer": "layered",
            "long_edge": self.long_edge,
            "least_edge": self.least_edge,
            "correct": self.correct,
            "k_range": asdict(self.k_range),
            "edge_width": self.edge_width,
            "batch_size": self.batch_size,
        }

    def make(self, batch: Sequence[Candidate]) -> list[Made | Rejected]:
        found: dict[str, Made | Rejected] = {}
        pairs: list[tuple[Candidate, Photo, PairMeasures]] = []
        for candidate in batch:
            try:
                pairs.append((candidate, *self._load(candidate)))
            except Rejected as rejected:
                found[candidate.key] = rejected
        if pairs:
            photos = [photo for _, photo, _ in pairs]
            maps, masks = self.depth.depth(photos), self.mask.mask(photos)
            for (candidate, photo, pair), depth, mask in zip(pairs, maps, masks, strict=True):
                try:
                    found[candidate.key] = self._made(candidate, photo, pair, depth, mask)
                except Rejected as rejected:
                    found[candidate.key] = rejected
        return [found[candidate.key] for candidate in batch]

    def _load(self, candidate: Candidate) -> tuple[Photo, PairMeasures]:
        sharp = load_working(candidate, "sharp", self.long_edge)
        photo = load_working(candidate, "photo", self.long_edge)
        pair = measure_pair(sharp, photo)
        require_edge(sharp, self.least_edge)
        if self.correct:
            sharp = correct(sharp, pair.correction)
        return Photo(candidate.item.name, photo, sharp), pair

    def _made(
        self, candidate: Candidate, photo: Photo, pair: PairMeasures, depth: Tensor, mask: InFocus
    ) -> Made:
        disparity = depth_to_disparity(depth).float()
        focus = focus_disparity(disparity, mask.region)
        found = self.calibrate(photo, disparity, focus)
        strength = BlurStrength(found.k, *photo.size)
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
                "pair": asdict(pair),
                "facts": dict(candidate.item.facts),
                "calibration": {"ssim": found.score, "curve": [list(one) for one in found.curve]},
            },
        )
        measures = {
            **blur_measures(disparity, focus, strength),
            **pair_measures(pair),
            "ssim": found.score,
            "evaluations": float(len(found.curve)),
            **agreement_measure(self.mask, agreement),
        }
        return Made(sample, measures)

    def calibrate(self, photo: Photo, disparity: Tensor, focus: float) -> KSearch:
        """K of the photograph by rendering its sharp picture; Rejected where there is none."""
        low, high = self.k_range.bounds(disparity, focus)
        sharp = srgb_to_linear(photo.aif)

        def score(k: float) -> float:
            rendered = render_layered(
                sharp,
                disparity,
                focus_disparity=focus,
                strength=BlurStrength(k, *photo.size),
                aperture=self.aperture,
                edge_width=self.edge_width,
            )
            return float(ssim(linear_to_srgb(rendered)[None], photo.image[None])[0])

        with torch.inference_mode():
            return search_k(score, low=low, high=high, budget=self.k_range.budget)
