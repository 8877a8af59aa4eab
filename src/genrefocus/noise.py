"""Noise that belongs to a sample, and its way to the device.

All noise is drawn on the CPU, one generator a sample: it is the same on every device, in every
batch and on every rank. On a GPU the host does not wait: the draw is copied to pinned memory,
and from there to the device while the host continues (:func:`to_device`).
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor


def seeded_generators(seed: int, numbers: Iterable[int]) -> list[Generator]:
    """One CPU generator for each number: the stream is a pure function of (seed, number)."""
    return [
        Generator().manual_seed(
            int(np.random.SeedSequence([seed, n]).generate_state(1, np.uint64)[0])
        )
        for n in numbers
    ]


def noise_like(tensor: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Standard normal noise shaped like tensor (B, ...), row by row from the generators.

    Drawn in fp32 on the CPU, returned in the tensor's dtype on its device.
    """
    rows = [torch.randn(tensor.shape[1:], generator=g) for g in generators]
    return to_device(torch.stack(rows).to(tensor.dtype), tensor.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on ``device``; for CUDA through pinned memory, without a wait."""
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
