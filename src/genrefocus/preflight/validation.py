"""The cost of validation beside that of training, in passes through the frozen networks.

A cost is [forwards of the transformer, images or maps that the autoencoder encodes or decodes].
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from genrefocus.configuration.composing import training_stages
from genrefocus.data.shards import ShardDataset
from genrefocus.metrics.held_out_loss import SIGMAS
from genrefocus.metrics.lvcorr import PROTOCOL_K
from genrefocus.preflight.files import Finding
from genrefocus.preflight.inputs import condition_count, task_of
from genrefocus.terminal import counted

Cost = NDArray[np.float64]
ValidationKind = Literal["photographs", "pairs", "sweep"]

MAX_SHARE = 0.1
"""Share of the training's passes above which there is a warning."""


def check_validation(config: DictConfig) -> Finding:
    """The passes of all validations against those of the training, over the whole curriculum.

    Args:
        config: of train.py, resolved.
    """
    stages = training_stages(config)
    if not stages:
        return Finding("validation", "ok", "no stage trains a network")
    sets = {name: validation_sets(config, stage) for name, stage in stages.items()}
    costs = [stage_costs(stage, sets[name]) for name, stage in stages.items()]
    training, validation = np.sum(costs, axis=0)
    total = share(validation, training)
    parts = ", ".join(f"{name} {_described(stage, sets[name])}" for name, stage in stages.items())
    detail = (
        f"takes about {total:.0%} as many network passes as training "
        f"(limit {MAX_SHARE:.0%}): {parts}"
    )
    if total > MAX_SHARE:
        fewer = int(MAX_SHARE / total * (config.val_samples or 32))
        return Finding("validation", "warning", detail, f"val_samples={max(1, fewer)}")
    return Finding("validation", "ok", detail)


def stage_costs(stage: DictConfig, sets: Sequence[tuple[ValidationKind, int]]) -> tuple[Cost, Cost]:
    """Cost of a stage's training, and of all its validations.

    Through a frozen network backward costs as much as forward; what gradient checkpointing computes
    again is left out.
    """
    fit, images = stage.fit, condition_count(stage.module) + 1
    training = np.array([2.0, images]) * (fit.max_steps * stage.global_batch)
    once = sum((count * sample_cost(stage, kind) for kind, count in sets), np.zeros(2))
    return training, once * (fit.max_steps // fit.val_check_interval)


def sample_cost(stage: DictConfig, kind: ValidationKind) -> Cost:
    """Cost of a sample of a set at a validation of a stage."""
    module = stage.module
    bokeh = task_of(module) == "bokeh" or kind == "photographs"
    return validation_sample(
        kind if bokeh else "pairs",
        conditions=condition_count(module),
        sigmas=len(module.get("validation_sigmas", SIGMAS)),
        steps=module.steps,
        told=module.get("told", 0) > 0,
    )


def _described(stage: DictConfig, sets: Sequence[tuple[ValidationKind, int]]) -> str:
    """``16 images every 400 steps``."""
    images = counted(sum(count for _, count in sets), "image")
    return f"{images} every {counted(stage.fit.val_check_interval, 'step')}"


def validation_sets(config: DictConfig, stage: DictConfig) -> list[tuple[ValidationKind, int]]:
    """Kind of each validation set of a stage, and how many of its samples are taken."""
    kinds: dict[str, ValidationKind] = {
        config.data.sweep: "sweep",
        config.inputs.in_the_wild: "photographs",
    }
    data = stage.datamodule
    return [
        _kind(Path(one), data.val_samples, kinds.get(str(Path(one).parent), "pairs"))
        for one in data.val
    ]


def validation_sample(
    kind: ValidationKind, *, conditions: int, sigmas: int, steps: int, told: bool = False
) -> Cost:
    """Cost of a sample at a validation; see ``validation_step`` of both networks.

    Args:
        kind: photographs, whose truth is estimated, have a loss alone; pairs an image too; the
            scenes of a sweep an image at each of the protocol's K.
        conditions: images and maps that the network is given.
        sigmas: of the held-out loss.
        steps: of a generated image.
        told: there is one without the map too.
    """
    loss = np.array([float(sigmas), conditions + 1])
    if kind == "photographs":
        return loss
    others = len(PROTOCOL_K) - 1 if kind == "sweep" else 0  # each with a map of its own
    return loss + [steps * (1 + others + told), 1 + 2 * (others + told)]


def share(part: Cost, whole: Cost) -> float:
    """The larger of the shares of both counts."""
    return float((part / whole).max())


def _kind(folder: Path, limit: int | None, expected: ValidationKind) -> tuple[ValidationKind, int]:
    """Kind of a validation set, and its samples.

    A set that is not there yet counts as full, and as what is expected of it.
    """
    if not (folder / "index.json").is_file():
        return expected, limit or 0
    samples = ShardDataset(folder)
    count = len(samples) if limit is None else min(len(samples), limit)
    if not len(samples):
        return "pairs", 0
    first = samples[0]
    if first.route == "in_the_wild":
        return "photographs", count
    return "sweep" if "sweep_1" in first.extras else "pairs", count
