"""Train all weights of the tiny backbone, which stands in for FLUX on two CPU cores."""

import json
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console

from genrefocus.backbone import Backbone
from lit_models.ranks import Ranks
from lit_models.stages.fitting import TrainingResult, fitted
from lit_models.stages.network import TrainNetwork
from lit_models.tiny_base import TinyBase

CONSOLE = Console()


class TrainTinyBase(TrainNetwork):
    """Train the backbone itself, and write its file with its card.

    Args:
        examples: images whose statistics the embedding starts with.
        training: see :class:`TrainNetwork`.
    """

    def __init__(self, *, examples: int, **training: Any) -> None:
        super().__init__(**training)
        self.examples = examples

    def prompts(self) -> set[str]:
        return set()  # its own encoder knows no language

    def run(self, backbone: Backbone, ranks: Ranks) -> None:
        data = instantiate(self.datamodule)
        examples = data.examples(self.examples)
        module: TinyBase = instantiate(self.module)(backbone, examples, failure_dir=self.folder)
        with fitted(self, module, data, fit=self.fit, global_batch=self.global_batch) as training:
            measured = training.trainer.validate(module, datamodule=data, verbose=False)[0]
            if training.trainer.is_global_zero:
                metrics = {
                    name.removeprefix("val/"): round(value, 5) for name, value in measured.items()
                }
                self._write(module, training, metrics=metrics, dataset=data.fingerprints)

    def _write(
        self,
        module: TinyBase,
        training: TrainingResult,
        *,
        metrics: dict[str, float],
        dataset: dict[str, str],
    ) -> None:
        architecture: Any = OmegaConf.to_container(self.config.backbone, resolve=True)
        path = self.folder / "tiny_base.safetensors"
        module.save(
            path,
            settings={name: value for name, value in architecture.items() if name[0] != "_"},
            card={
                "command": "python " + " ".join(["train.py", *HydraConfig.get().overrides.task]),
                "seed": str(self.config.seed),
                "steps": str(training.summary["steps"]),
                "figures": json.dumps(metrics),
                "git_commit": training.summary["git_commit"],
            },
        )
        for logger in training.loggers:
            logger.log_file(path, "backbone")
        gains = ", ".join(
            f"{name.removesuffix('_gain')} {value:+.2f} dB"
            for name, value in metrics.items()
            if name.endswith("_gain")
        )
        CONSOLE.print(f"held-out scenes, PSNR above the input: {gains}")
        self.record.write_summary(
            **training.summary,
            metrics=metrics,
            dataset=dataset,
            weights=f"{self.name}/{path.name}",
        )
