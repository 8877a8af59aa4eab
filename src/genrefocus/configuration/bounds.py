"""Values of train.py that are out of bounds, or that Lightning's Trainer would not take.

What the Trainer takes is repeated here, for importing it would cost seconds; a test compares.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.listconfig import ListConfig

PRECISIONS = [
    "32-true",
    "16-mixed",
    "bf16-mixed",
    "16-true",
    "bf16-true",
    "64-true",
    "64",
    "32",
    "16",
    "bf16",
]
PRECISIONS += ["transformer-engine", "transformer-engine-float16"]
ACCELERATORS = ("cpu", "gpu", "auto", "cuda", "mps", "tpu")
_STRATEGIES = (
    r"auto|single_device|ddp(_spawn|_fork|_notebook)?(_find_unused_parameters_(true|false))?"
)


def stated_of_onnx(config: DictConfig) -> list[str]:
    """Values, as overrides, that ONNX files of a configuration need besides those without default.

    Whether a file says how it reads pixels is seen in it: that is named beside what else lacks.
    """
    found = []
    for place in ("depth", "mask", "mask.saliency"):
        node: Any = OmegaConf.select(config, place)
        if not isinstance(node, DictConfig) or "pixels" not in node:
            continue
        lacking = "range" in node and node.range is None and node.get("kind") != "metric"
        if lacking:
            found.append(
                f"{place}.range=[NEAR,FAR]{' (not if metric)' * OmegaConf.is_missing(node, 'kind')}"
            )
        if (lacking or OmegaConf.missing_keys(node)) and node.pixels is None:
            found.append(f"{place}.pixels=... (not if it reads bytes)")
    return found


def require_bounds(config: DictConfig) -> None:
    """
    Raises:
        ValueError: counts below one, weights or a rate below zero, a seed that no generator takes,
            a test set without a folder, which would end a run after minutes, or only when their
            stage comes; all are named.
    """
    counts = ["global_batch", "batch_size", "val_samples", "test_samples"]
    counts += ["data.crop", "data.long_edge", "trainer.num_nodes"]
    for name in config.curriculum:
        for key in ("global_batch", "fit.max_steps", "fit.val_check_interval", "module.rank"):
            counts.append(f"stages.{name}.{key}")
    bounds: dict[str, tuple[int, float]] = dict.fromkeys(counts, (1, math.inf))
    bounds |= {f"mix.{route}": (0, math.inf) for route in config.mix}
    bounds["caption_rate"] = (0, 1)
    bounds |= {"peak_flops": (1, math.inf), "learning_rate": (0, math.inf), "seed": (0, 2**32 - 1)}
    wrong = list(_of_trainer(config.trainer))
    for key, (low, high) in bounds.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, (int, float)) and not low <= value <= high:
            given = f"{low} or more" if high == math.inf else f"{low} to {high}"
            wrong.append(f"{key}={value}: give {given}")
    wrong += [*_of_backbone(config.backbone), *_of_half_control(config)]
    wrong += [*_of_buckets(config), *_of_latents(config)]
    sets: Any = OmegaConf.to_container(config.evaluation)  # as written: data may be missing
    for key in ("deblur", "bokeh", "control", "shapes", "validation"):
        if sets[key] is None:
            wrong.append(f"evaluation.{key}=null: name a folder of shards")
    if wrong:
        raise ValueError("; ".join(wrong))


def _of_backbone(backbone: DictConfig) -> Iterator[str]:
    value = backbone.get("checkpointing", "auto")
    if not re.fullmatch(r"auto|none|feed_forward|all|[1-9]\d*", str(value)):
        given = "auto, none, feed_forward, all, or n for every n-th block"
        yield f"backbone.checkpointing={value}: give {given}"
    how = backbone.get("quantise")
    if how not in (None, "int8", "fp8", "nf4"):
        yield f"backbone.quantise={how}: give null, int8, fp8 or nf4"


def _of_half_control(config: DictConfig) -> Iterator[str]:
    for name in config.curriculum:
        module, key = config.stages[name].get("module", {}), f"stages.{name}.module.half_control"
        if not module.get("half_control"):
            continue
        if not str(config.backbone._target_).endswith("load_flux_dev"):
            yield f"{key}=true: this backbone reads maps pixel by pixel; give backbone=flux_dev"
        if module.get("told") == 0:
            yield f"{key}=true: this DeblurNet takes no map; give stages.{name}.module.told=0.5"
        if config.data.crop % 32:
            low = max(config.data.crop // 32 * 32, 32)
            yield f"{key}=true: data.crop={config.data.crop} is no multiple of 32; give {low}"


def _of_buckets(config: DictConfig) -> Iterator[str]:
    buckets = config.data.get("buckets")
    half = any(one.get("module", {}).get("half_control") for one in config.stages.values())
    multiple = 32 if half else 16
    if buckets is not None and not (
        isinstance(buckets, ListConfig) and buckets and all(_is_size(b, multiple) for b in buckets)
    ):
        given = f"heights and widths, multiples of {multiple} px"
        yield f"data.buckets={buckets}: give {given}, such as [[512,512],[416,624],[624,416]]"


def _is_size(value: object, multiple: int) -> bool:
    edges = list(value) if isinstance(value, ListConfig) else []
    return len(edges) == 2 and all(type(e) is int and e > 0 and e % multiple == 0 for e in edges)


def _of_latents(config: DictConfig) -> Iterator[str]:
    if config.backbone.get("latents") is None:
        return
    key = f"backbone.latents={config.backbone.latents}"
    if not config.data.fixed_crops:
        yield f"{key}: random crops are never met again; give data.fixed_crops=true"
    for name in config.curriculum:
        if config.stages[name].get("module", {}).get("told", 0) > 0:
            told = f"stages.{name}.module.told"
            yield f"{key}: maps that DeblurNet is told change with every draw; give {told}=0"


def _of_trainer(trainer: DictConfig) -> Iterator[str]:
    for key, known in (("accelerator", ACCELERATORS), ("precision", PRECISIONS)):
        value = trainer.get(key)
        if isinstance(value, (str, int)) and str(value) not in known:
            yield f"trainer.{key}={value}: give one of {', '.join(known)}"
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and not re.fullmatch(_STRATEGIES, strategy):
        yield f"trainer.strategy={strategy}: give auto or ddp, or a strategy's _target_"
    if not _are_devices(devices := trainer.get("devices", 1), trainer.accelerator == "cpu"):
        given = "a number, 1 or more" + (
            "" if trainer.accelerator == "cpu" else ", -1 for all, or a list of indices"
        )
        yield f"trainer.devices={devices}: give {given}"


def _are_devices(value: object, cpu: bool) -> bool:
    if isinstance(value, ListConfig):
        return not cpu and bool(value) and all(re.fullmatch(r"\d+", str(one)) for one in value)
    pattern = r"auto|[1-9]\d*" if cpu else r"auto|-1|[1-9]\d*|(\d+,)+(\d+)?"
    return re.fullmatch(pattern, str(value).replace(" ", "")) is not None
