"""Train the LoRA of one network, and write it with its card."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from genrefocus.backbone import Backbone
from genrefocus.backbone.tiny import TinyBackbone
from genrefocus.network_card import BackboneKind, BackboneSource, NetworkCard, write_network_card
from lit_models.flow_matching import FlowMatching
from lit_models.ranks import Ranks
from lit_models.stages.fitting import TrainingResult, fitted
from lit_models.stages.stage import Stage


class TrainNetwork(Stage):
    """Train DeblurNet or BokehNet.

    Args:
        module: the Lightning module, which is called with the backbone.
        datamodule: its sets.
        fit: further arguments of the trainer, such as ``max_steps``.
        global_batch: samples of a step over all processes.
        place: see :class:`Stage`.
    """

    def __init__(
        self,
        *,
        module: DictConfig,
        datamodule: DictConfig,
        fit: Mapping[str, Any],
        global_batch: int,
        **place: Any,
    ) -> None:
        super().__init__(**place)
        self.module, self.datamodule = module, datamodule
        self.fit, self.global_batch = fit, global_batch

    def prompts(self) -> set[str]:
        """Of the module, and of its sets unless the stage is finished."""
        own = {self.module.prompt}
        return own if self.record.finished() else own | instantiate(self.datamodule).prompts()

    def run(self, backbone: Backbone, ranks: Ranks) -> None:
        """Train, and export the LoRA."""
        module: FlowMatching = instantiate(self.module)(backbone, failure_dir=self.folder)
        data = instantiate(self.datamodule)
        with fitted(self, module, data, fit=self.fit, global_batch=self.global_batch) as training:
            trainer, lora = training.trainer, self.folder / module.lora_file
            if trainer.is_global_zero:
                exported = module.export(self.folder)
                card = self._card(module, training, data, exported)
                write_network_card(self.folder, card)
                for logger in training.loggers:
                    logger.log_file(lora, "lora")
                self.record.write_summary(
                    **training.summary,
                    lora=f"{self.name}/{lora.name}",
                    dataset=data.fingerprints,
                )

    def _card(
        self,
        module: FlowMatching,
        training: TrainingResult,
        data: Any,
        exported: Mapping[str, Any],
    ) -> NetworkCard:
        """What sampling has to know about the network, beside its LoRA."""
        base = self.config.backbone
        kind: BackboneKind = "tiny" if isinstance(module.backbone, TinyBackbone) else "flux_dev"
        return NetworkCard(
            task=module.task,
            backbone=BackboneSource(kind, base.path, quantise=base.get("quantise")),
            flow=module.flow,
            prompt=module.prompt,
            guidance=module.guidance,
            steps=module.steps,
            variant=module.variant,
            isolate_conditions=module.isolate_conditions,
            half_control=module.half_control,
            trained_steps=training.summary["steps"],
            largest_radius=training.largest_radius,
            depth=data.depth,
            trial=self.config.trial,
            **{"restored_radius": data.label.restored_radius, **exported},
        )
