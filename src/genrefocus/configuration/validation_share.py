"""How much of a run of train.py its validations would be."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from genrefocus.configuration.composing import trained
from genrefocus.cost import Cost, Evaluated, share, training_sample, validation_sample
from genrefocus.data.shards import ShardDataset
from genrefocus.metrics.held_out_loss import SIGMAS
from genrefocus.preflight import Finding

MOST = 0.1
"""Share of the training's passes above which there is a warning."""


def check_validation(config: DictConfig) -> Finding:
    """The passes of all validations against those of the training, over the whole curriculum.

    Args:
        config: of train.py, resolved.
    """
    costs = {name: stage_costs(stage) for name, stage in trained(config).items()}
    if not costs:
        return Finding("validation", "ok", "no stage trains a network")
    shares = ", ".join(f"{name} {share(part, whole):.1%}" for name, (whole, part) in costs.items())
    training, validation = np.sum(list(costs.values()), axis=0)
    total = share(validation, training)
    detail = (
        f"{total:.1%} of the training's passes ({shares}): "
        f"{validation[0]:,.0f} forwards and {validation[1]:,.0f} codings of images "
        f"beside {training[0]:,.0f} and {training[1]:,.0f}"
    )
    if total > MOST:
        fewer = int(MOST / total * (config.val_samples or 32))
        return Finding("validation", "warning", detail, f"val_samples={max(1, fewer)}")
    return Finding("validation", "ok", detail)


def print_validation_share(config: DictConfig) -> None:
    """A line about what validation costs, for the start of a run.

    None for a trial, whose few steps say nothing about it.
    """
    if config.trial:
        return
    found = check_validation(config)
    Console().print(f"validation: {found.detail}", soft_wrap=True, markup=False, highlight=False)


def stage_costs(stage: DictConfig) -> tuple[Cost, Cost]:
    """Passes of a stage's training, and of all its validations."""
    fit, data, module = stage.fit, stage.datamodule, stage.module
    bokeh = "bokeh" in module._target_.lower()
    conditions = 1 + int(bokeh or module.get("pre_deblur", False))
    training = training_sample(conditions) * (fit.max_steps * stage.global_batch)
    once = np.zeros(2)
    for folder in data.val:
        kind, count = _evaluated(Path(folder), data.val_samples)
        once += count * validation_sample(
            kind if bokeh or kind == "photographs" else "pairs",
            conditions=conditions,
            sigmas=len(module.get("validation_sigmas", SIGMAS)),
            steps=module.steps,
        )
    return training, once * (fit.max_steps // fit.val_check_interval)


def _evaluated(folder: Path, most: int | None) -> tuple[Evaluated, int]:
    """What a set is validated by, and how many of its samples; a set still to be made is full."""
    if not (folder / "index.json").is_file():
        return "pairs", most or 0
    samples = ShardDataset(folder)
    count = len(samples) if most is None else min(len(samples), most)
    if not len(samples):
        return "pairs", 0
    first = samples[0]
    if first.route == "in_the_wild":
        return "photographs", count
    return "sweep" if "sweep_1" in first.extras else "pairs", count
