"""Pairs for DeblurNet: a photograph with defocus and its sharp counterpart, measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genrefocus.data.sample import Sample, to_uint8
from genrefocus.preparation.engine import Made
from genrefocus.preparation.pairs import correct, measure_pair
from genrefocus.preparation.plan import Candidate
from genrefocus.preparation.working import load_working, pair_measures, require_edge
from genrefocus.rejection import Rejected


@dataclass(frozen=True)
class DeblurPairs:
    """Real pairs.

    Attributes:
        long_edge: pictures that are larger are scaled to it, px.
        least_edge: pairs whose short edge is below are turned away, px.
        correct: whether the sharp picture is brought to the colours of the photograph; the
            correction is recorded in any case.
    """

    long_edge: int
    least_edge: int
    correct: bool

    name = "deblur"
    roles = frozenset({"photo", "sharp"})
    batch_size = 1
    in_process = False

    def parameters(self) -> dict[str, Any]:
        return {
            "long_edge": self.long_edge,
            "least_edge": self.least_edge,
            "correct": self.correct,
        }

    def make(self, batch: Sequence[Candidate]) -> list[Made | Rejected]:
        return [self._made(candidate) for candidate in batch]

    def _made(self, candidate: Candidate) -> Made | Rejected:
        try:
            sharp = load_working(candidate, "sharp", self.long_edge)
            photo = load_working(candidate, "photo", self.long_edge)
            pair = measure_pair(sharp, photo)
            require_edge(sharp, self.least_edge)
        except Rejected as rejected:
            return rejected
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
        return Made(sample, pair_measures(pair))
