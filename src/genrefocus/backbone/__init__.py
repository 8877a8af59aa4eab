"""FLUX transformers with LoRA branches: models, codec, text and the multi-condition forward.

Diffusers takes seconds to import, so only what builds a network imports it: missing files are found
before.
"""

from genrefocus.backbone.branches import (
    Branch,
    Checkpointing,
    KvCache,
    Role,
    multi_condition_forward,
)
from genrefocus.backbone.flux import Backbone, load_flux_dev
from genrefocus.backbone.lora import Lora, lora_modules
from genrefocus.backbone.quantised import Quantise
from genrefocus.backbone.text import TextEmbedding
from genrefocus.backbone.tiny import load_tiny

__all__ = [
    "Backbone",
    "Branch",
    "Checkpointing",
    "KvCache",
    "Lora",
    "Quantise",
    "Role",
    "TextEmbedding",
    "load_flux_dev",
    "load_tiny",
    "lora_modules",
    "multi_condition_forward",
]
