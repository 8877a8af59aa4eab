"""Pairs for DeblurNet: a photograph with defocus and its sharp counterpart, measured."""

from dataclasses import asdict, dataclass

from torch import Tensor

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.preparation.pairs import PairMeasures, correct, measure_pair
from genrefocus.preparation.route import Prepared, Route, load_image, require_edge
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

    def load(self, candidate: Candidate) -> tuple[Tensor, Tensor, PairMeasures]:
        """Sharp image and photograph, and how well they belong together."""
        sharp = load_image(candidate, "sharp", long_edge=self.long_edge)
        photo = load_image(candidate, "photo", long_edge=self.long_edge)
        pair = measure_pair(sharp, photo)
        require_edge(sharp, self.least_edge)
        return sharp, photo, pair

    def sample(
        self, candidate: Candidate, estimated: tuple[Tensor, Tensor, PairMeasures]
    ) -> Prepared:
        sharp, photo, pair = estimated
        if self.correct:
            sharp = correct(sharp, pair.correction)
        sample = Sample(
            key=candidate.key,
            route=self.name,
            split=candidate.split,
            aif=to_uint8(sharp),
            bokeh=to_uint8(photo),
            provenance={"pair": asdict(pair), "facts": dict(candidate.item.facts)},
        )
        return Prepared(sample, pair.numbers())
