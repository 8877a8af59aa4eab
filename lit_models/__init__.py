"""LightningModules of the networks and of the tiny base, and the callbacks of their training."""

from lit_models.bokehnet import BokehNet
from lit_models.deblurnet import DeblurNet

__all__ = ["BokehNet", "DeblurNet"]
