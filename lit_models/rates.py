"""The learning-rate schedule, as a factor of the optimiser's rate."""

import math


def warmup_then_cosine(
    step: int, *, warmup_steps: int, decay_steps: int | None, floor: float
) -> float:
    """Linear rise, then half a cosine down.

    Args:
        step: optimiser steps taken; the first update already has 1 / warmup_steps.
        warmup_steps: steps until the factor is 1.
        decay_steps: the step at which the cosine ends; None keeps the rate.
        floor: where it ends, and stays.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    if decay_steps is None:
        return warm
    progress = (step - warmup_steps) / max(1, decay_steps - warmup_steps)
    turn = math.pi * min(max(progress, 0.0), 1.0)
    return warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(turn)))
