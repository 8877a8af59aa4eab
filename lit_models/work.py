"""What training steps compute: samples, tokens and floating-point operations."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch

from genrefocus.backbone.flops import FlopCount
from genrefocus.denoiser import Latents


class Work:
    """Work of the micro-batches of this process.

    FLOPs are counted by torch on the first micro-batch of each shape, and taken from there for the
    others. Those of gradient checkpointing's second forward do not count.

    Attributes:
        samples, tokens: so far; tokens are all that the transformer sees: text, image, conditions.
        flops: so far, of encoding, forward and backward pass, if ``counts_flops``.
    """

    def __init__(self) -> None:
        self.samples, self.tokens, self.flops = 0, 0, 0
        self.counts_flops = False
        self._known: dict[Hashable, int] = {}
        self._shape: Hashable = None

    def see(self, latents: Latents) -> None:
        """Add the samples and tokens of a micro-batch."""
        rows = len(latents.noise)
        self.samples += rows
        self.tokens += rows * latents.tokens

    @contextmanager
    def forward(self, shape: Hashable) -> Iterator[None]:
        """The block encodes a micro-batch and computes its loss.

        Args:
            shape: micro-batches of equal shape have equal FLOPs.
        """
        self._shape = shape
        with self._counted(("forward", shape)):
            yield

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The block is the backward pass of the last :meth:`forward`."""
        with self._counted(("backward", self._shape)):
            yield

    @contextmanager
    def _counted(self, part: tuple[str, Hashable]) -> Iterator[None]:
        if not self.counts_flops:
            yield
            return
        if part in self._known:
            yield
        else:
            # It sees no compiled program.
            with torch.compiler.set_stance("force_eager"), FlopCount() as counter:
                yield
            again = counter.again if part[0] == "backward" else 0
            self._known[part] = counter.total - again
        self.flops += self._known[part]
