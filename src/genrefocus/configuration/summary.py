"""What a run of ``train.py`` is about to do, in some lines."""

from collections.abc import Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from genrefocus.runs import CONFIG
from genrefocus.terminal import counted

_GROUPS = ("experiment", "scale", "data", "backbone", "trainer", "logger", "sweep", "debug")


def summary(config: DictConfig) -> str:
    """Groups, other overrides, stages with their steps, data, backbone, device, the run's folder.

    Args:
        config: of train.py, composed by Hydra's application.
    """
    return "\n".join(f"{title:11}{text}" for title, text in _lines(config))


def _lines(config: DictConfig) -> Iterator[tuple[str, str]]:
    chosen: Any = HydraConfig.get().runtime.choices
    groups = (f"{group}={chosen[group]}" for group in _GROUPS if chosen.get(group))
    yield "run", " ".join(groups)
    given = [one for one in HydraConfig.get().overrides.task if one.split("=")[0] not in _GROUPS]
    if given:
        yield "with", " ".join(given)
    yield "stages", ", ".join(_stage(name, config.stages[name]) for name in config.curriculum)
    data = config.data
    made = "made where it is missing" if data.build is not None else None
    yield "data", f"{data.root} ({made})" if made else f"{data.deblur}, {data.synthetic}"
    if any("source" in config.stages[name] for name in config.curriculum):
        yield "photos", str(data.photos)
    yield "backbone", str(config.backbone.get("path", chosen.backbone))
    trainer = config.trainer
    yield "device", f"{trainer.accelerator}, devices={trainer.devices}, {trainer.precision}"
    yield "folder", f"{config.paths.run}{' (goes on)' * (config.resume is not None)}"
    yield "settings", f"{config.paths.run}/{CONFIG} (print_config=true shows them)"


def _stage(name: str, stage: DictConfig) -> str:
    steps = stage.get("fit", {}).get("max_steps")
    return f"{name} ({counted(steps, 'step')})" if steps else name
