"""Stages of a curriculum. ``_target_`` in ``conf/stage`` names the class of a stage.

A stage is one file here and one in ``conf/stage``: a subclass of :class:`Stage` that takes what the
latter holds, and does its work in ``run``.
"""

from lit_models.stages.in_the_wild import PrepareInTheWild
from lit_models.stages.network import TrainNetwork
from lit_models.stages.stage import Stage, build_stages, learn_prompts
from lit_models.stages.tiny_base import TrainTinyBase

__all__ = [
    "PrepareInTheWild",
    "Stage",
    "TrainNetwork",
    "TrainTinyBase",
    "build_stages",
    "learn_prompts",
]
