"""Aperture series: a scene at several apertures. The narrowest frame is sharp, wider ones targets.

K is not taken from EXIF but calibrated: it is the K at which the sharp frame, rendered with
estimated depth, looks most like the wider one (SSIM). A maximum at the bounds of the search, a flat
or a multimodal curve is no calibration; the curve is kept in either case.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from genrefocus.estimators import DepthEstimator, InFocus, MaskEstimator, Photo
from genrefocus.k_search import KRange, search_k_of_photograph
from genrefocus.optics import BlurStrength
from genrefocus.preparation.pairs import PairMeasures, correct
from genrefocus.preparation.route import EstimatedPhoto, Prepared, Route, add_estimates, load_pair
from genrefocus.preparation.shard_plan import Candidate
from genrefocus.render.apertures import Aperture


@dataclass(frozen=True)
class ApertureSeries(Route):
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

    def load(self, candidate: Candidate) -> tuple[Photo, PairMeasures]:
        """The wider frame with its sharp one, and how well they belong together."""
        photo, pair = load_pair(candidate, long_edge=self.long_edge, least_edge=self.least_edge)
        if self.correct:
            photo = replace(photo, aif=correct(photo.aif, pair.correction))
        return photo, pair

    def estimate(
        self, candidates: Sequence[Candidate], loaded: Sequence[tuple[Photo, PairMeasures]]
    ) -> list[tuple[PairMeasures, Photo, Tensor, InFocus]]:
        photos, pairs = zip(*loaded, strict=True)
        return add_estimates(pairs, photos, self.depth, self.mask)

    def sample(
        self, candidate: Candidate, estimated: tuple[PairMeasures, Photo, Tensor, InFocus]
    ) -> Prepared:
        pair, photo, depth, mask = estimated
        estimates = EstimatedPhoto.of(photo, depth, mask)
        found = search_k_of_photograph(
            photo.image,
            photo.aif,
            estimates.disparity,
            estimates.focus,
            aperture=self.aperture,
            k_range=self.k_range,
            edge_width=self.edge_width,
        )
        provenance = {
            "renderer": "layered",
            "pair": asdict(pair),
            "facts": dict(candidate.item.facts),
            "calibration": {"ssim": found.score, "curve": [list(one) for one in found.curve]},
        }
        strength = BlurStrength(found.k, *photo.size)
        sample, measures = estimates.sample(self.name, candidate, strength, self.mask, provenance)
        measures |= {
            **pair.numbers(),
            "ssim": found.score,
            "evaluations": float(len(found.curve)),
        }
        return Prepared(sample, measures)
