"""Pairs for DeblurNet: a photograph with defocus and its sharp counterpart, measured."""

from dataclasses import asdict, dataclass

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.estimators import Photo
from genrefocus.preparation.pairs import PairMeasures, correct
from genrefocus.preparation.route import Prepared, Route, load_pair
from genrefocus.preparation.shard_plan import Candidate


@dataclass(frozen=True)
class DeblurPairs(Route):
    """Real pairs.

    Attributes:
        long_edge: images that are larger are scaled to it, px.
        least_edge: pairs whose short edge is below are turned away, px.
        correct: whether the sharp image is brought to the colours of the photograph; the
            correction is recorded in any case.
    """

    long_edge: int
    least_edge: int
    correct: bool
    batch_size: int = 1

    name = "deblur"
    roles = frozenset({"photo", "sharp"})

    def load(self, candidate: Candidate) -> tuple[Photo, PairMeasures]:
        """The photograph with its sharp image, and how well they belong together."""
        return load_pair(candidate, long_edge=self.long_edge, least_edge=self.least_edge)

    def sample(self, candidate: Candidate, estimated: tuple[Photo, PairMeasures]) -> Prepared:
        photo, pair = estimated
        sharp = correct(photo.aif, pair.correction) if self.correct else photo.aif
        sample = Sample(
            key=candidate.key,
            route=self.name,
            split=candidate.split,
            aif=to_uint8(sharp),
            bokeh=to_uint8(photo.image),
            provenance={"pair": asdict(pair), "facts": dict(candidate.item.facts)},
        )
        return Prepared(sample, pair.numbers())
