"""What users of Lightning and its templates type, and what does it here."""

from collections.abc import Collection, Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

_STEPS = "training is counted in optimiser steps: stages.<stage>.fit.max_steps=..."
_VALIDATION = "it counts optimiser steps, by stage: stages.<stage>.fit.val_check_interval=..."
_BATCH = (
    "global_batch=... is the number of samples of a step over all processes, accumulation follows "
    "from it and from batch_size=..., what a process takes at once"
)
_RESUME = (
    "resume=<folder of a run> goes on with a run, stages.<stage>.module.init_lora=<file> starts "
    "from a LoRA file"
)
MEANT = {
    "trainer.max_steps": "it is set stage by stage: stages.<stage>.fit.max_steps=...",
    "trainer.min_steps": _STEPS,
    "trainer.max_epochs": _STEPS,
    "trainer.min_epochs": _STEPS,
    "trainer.limit_train_batches": _STEPS,
    "trainer.overfit_batches": "debug=overfit",
    "trainer.accumulate_grad_batches": _BATCH,
    "trainer.val_check_interval": _VALIDATION,
    "trainer.check_val_every_n_epoch": _VALIDATION,
    "trainer.callbacks": "callbacks.<name>.<option>=..., ~callbacks.<name> leaves one out",
    "trainer.logger": "logger=csv, tensorboard, wandb or none",
    "trainer.default_root_dir": "paths.outputs=<folder>, or hydra.run.dir=<folder> for one run",
    "trainer.enable_checkpointing": "callbacks.checkpoint.every_n_train_steps=...",
    "trainer.gpus": "trainer=gpu trainer.devices=...",
    "trainer.strategy": "trainer=ddp or fsdp, ddp_cpu or fsdp_cpu without a GPU",
    "trainer.resume_from_checkpoint": _RESUME,
    "ckpt_path": _RESUME,
    "tags": "logger=wandb '+logger.wandb.tags=[...]'",
    "task_name": "name=...",
    "optimized_metric": "result.metric=...",
    "train": "curriculum=[...] says which stages run",
    "test": "eval.py run=<folder> tests the networks of a run",
    "model": "stages.<stage>.module.<option>=..., backbone=... for the frozen network",
    "datamodule": "stages.<stage>.datamodule.<option>=..., data=... for the sets",
    "lr": "learning_rate=...",
    "data.batch_size": _BATCH,
}
"""Key -> what does it."""


_GROUPS = ("backbone", "objective", "optimizer", "data", "trainer", "callbacks", "logger")


def without_null_groups(overrides: Sequence[str]) -> list[str]:
    """``group=null`` as Hydra has it, ``~group``."""
    return [f"~{one[:-5]}" if one in {f"{g}=null" for g in _GROUPS} else one for one in overrides]


def require_read(config: DictConfig, known: Collection[str]) -> None:
    """Refuse added keys (``+key=value``) that nothing reads, and groups that are left out.

    Args:
        config: of train.py.
        known: keys of conf/train.yaml.

    Raises:
        ValueError: there are some; the message has what does it, where that is known.
    """
    found = [*_unread(config, {*known, *_GROUPS, "paths", "stages"}), *_without_effect(config)]
    for group in _GROUPS[:-1]:  # there may be no logger
        parts = config.get(group)
        if not parts or (group == "callbacks" and any("_target_" not in parts[n] for n in parts)):
            found.append(f"{group}=null: a run needs this group")
    if found:
        raise ValueError("; ".join(found))


def _unread(config: DictConfig, known: Collection[str]) -> Iterator[str]:
    text = OmegaConf.to_yaml(config)
    for key in map(str, config):
        if key not in known and f"${{{key}" not in text:
            yield f"nothing reads {key}: {MEANT.get(key, '--cfg job prints all keys')}"


def _without_effect(config: DictConfig) -> Iterator[str]:
    for key in config.get("trainer") or ():
        if f"trainer.{key}" in MEANT and key != "strategy":
            yield f"trainer.{key} does nothing: {MEANT[f'trainer.{key}']}"
    for name, stage in config.stages.items():
        for key in stage.get("fit", ()):
            if key in ("accumulate_grad_batches", "limit_train_batches", "max_epochs"):
                yield f"stages.{name}.fit.{key} does nothing: {MEANT[f'trainer.{key}']}"
    strategy = str(OmegaConf.select(config, "trainer.strategy"))
    if strategy.startswith(("fsdp", "deepspeed")):
        yield f"trainer.strategy={strategy}: trainer=fsdp splits the frozen base"
