"""LightningModules of the networks and of the tiny base, and the callbacks of their training."""

from lit_models.bokehnet import ApertureShape, BokehNet
from lit_models.deblurnet import DeblurNet
from lit_models.tiny_base import TinyBase

__all__ = ["ApertureShape", "BokehNet", "DeblurNet", "TinyBase"]
