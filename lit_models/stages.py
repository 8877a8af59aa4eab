"""Stages of a curriculum: train a network, make pseudo all-in-focus images, train a tiny base."""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from genrefocus.backbone import Backbone
from genrefocus.network_card import BackboneSource, NetworkCard, Variant, write_network_card
from genrefocus.runs import FINISHED, git_commit
from genrefocus.writing import write_json
from lit_models.callbacks import Interruption, Timer
from lit_models.checkpoints import read_checkpoint
from lit_models.deblurnet import DeblurNet
from lit_models.figures import by_method, device_of, test_pairs, unavailable_metrics
from lit_models.flow_matching import FlowMatching
from lit_models.tiny_base import TinyBase
from lit_models.trackers import Resilient

CONSOLE = Console()


class Stage:
    """One stage of the curriculum: its settings and its folder."""

    def __init__(self, name: str, config: DictConfig, folder: Path) -> None:
        self.name, self.config, self.folder = name, config, folder
        self.settings: DictConfig = config.stages[name]

    def finished(self) -> bool:
        """Whether the stage has written its summary, which it does last."""
        return (self.folder / FINISHED).is_file()

    def require_same_settings(self) -> None:
        """Record the resolved settings, or compare them with those recorded before.

        Raises:
            ValueError: the stage was begun with other settings.
        """
        now = OmegaConf.to_yaml(self.settings, resolve=True)
        record = self.folder / "stage.yaml"
        if record.is_file() and record.read_text() != now:
            before = OmegaConf.create(record.read_text())
            raise ValueError(
                f"{self.name} in {self.folder.parent} was begun with other settings: "
                f"{_difference(before, OmegaConf.create(now))}; restore them, or start a new run"
            )
        if first_rank():
            self.folder.mkdir(parents=True, exist_ok=True)
            record.write_text(now)

    def write_summary(self, **entries: Any) -> None:
        """Write summary.json, which marks the stage as finished."""
        write_json(self.folder / FINISHED, {"stage": self.name, **entries})


def train_stage(stage: Stage, backbone: Backbone) -> None:
    """Train one network, export its LoRA, and measure it beside identity and floor."""
    settings, folder = stage.settings, stage.folder
    module: FlowMatching = instantiate(settings.module)(backbone, failure_dir=folder)
    data = instantiate(settings.datamodule)
    trainer, timer, loggers = _fit(stage, module, data)
    lora = folder / module.lora_file
    if trainer.is_global_zero:
        module.lora.save(lora, metadata={"adapter": module.adapter})
        write_network_card(folder, _network_card(stage, module, trainer.global_step))
    if isinstance(module, DeblurNet):
        module.fit_floor(*test_pairs(data))
    measured = trainer.test(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        for logger in loggers:
            logger.log_file(lora, "lora")
        stage.write_summary(
            steps=trainer.global_step,
            seconds=round(timer.seconds, 3),
            samples_per_second=round(timer.samples / max(timer.seconds, 1e-9), 2),
            **by_method(measured),
            lora=str(lora),
            logs=str(folder / "logs"),
            pictures=str(folder / "pictures" / "test.png"),
            not_available=unavailable_metrics(),
            dataset=data.fingerprints,
            test_data=data.test_fingerprints,
            git_commit=git_commit(),
        )
    _close(trainer, loggers)


def _fit(
    stage: Stage, module: LightningModule, data: Any
) -> tuple[Trainer, Timer, list[Resilient]]:
    """Train to the last step, from the last checkpoint if there is one; the module has averages."""
    settings, folder = stage.settings, stage.folder
    timer = Timer()
    loggers = _loggers(stage.config)
    trainer: Trainer = instantiate(
        stage.config.trainer,
        callbacks=[
            *(instantiate(callback) for callback in stage.config.callbacks.values()),
            timer,
            Interruption(folder),
        ],
        logger=loggers,
        default_root_dir=str(folder),
        check_val_every_n_epoch=None,
        **settings.fit,
    )
    for logger in loggers:
        logger.log_hyperparams(_record(stage.config, data))
    checkpoint = folder / "last.ckpt"
    if not _restore_finished(module, checkpoint, trainer.max_steps):
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
            weights_only=True,
        )
        trainer.save_checkpoint(checkpoint)
    return trainer, timer, loggers


def train_tiny_base(stage: Stage, backbone: Backbone) -> None:
    """Train all weights of the tiny backbone, and write their file with its card."""
    settings, folder = stage.settings, stage.folder
    data = instantiate(settings.datamodule)
    examples = data.examples(settings.examples)
    module: TinyBase = instantiate(settings.module)(backbone, examples, failure_dir=folder)
    trainer, timer, loggers = _fit(stage, module, data)
    measured = trainer.validate(module, datamodule=data, verbose=False)[0]
    if trainer.is_global_zero:
        metrics = {name.removeprefix("val/"): round(value, 5) for name, value in measured.items()}
        architecture: Any = OmegaConf.to_container(stage.config.backbone, resolve=True)
        card = {
            "command": "python " + " ".join(["train.py", *HydraConfig.get().overrides.task]),
            "seed": str(stage.config.seed),
            "steps": str(trainer.max_steps),
            "figures": json.dumps(metrics),
            "git_commit": git_commit(),
        }
        path = folder / "tiny_base.safetensors"
        module.save(
            path,
            settings={name: value for name, value in architecture.items() if name[0] != "_"},
            card=card,
        )
        for logger in loggers:
            logger.log_file(path, "backbone")
        restored, blurred = (metrics[f"{name}_gain"] for name in ("restore", "blur"))
        CONSOLE.print(f"held-out scenes: restore {restored:+.2f} dB, blur by map {blurred:+.2f} dB")
        stage.write_summary(
            steps=trainer.max_steps,
            seconds=round(timer.seconds, 3),
            samples_per_second=round(timer.samples / max(timer.seconds, 1e-9), 2),
            metrics=metrics,
            weights=str(path),
            logs=str(folder / "logs"),
            dataset=data.fingerprints,
            git_commit=card["git_commit"],
        )
    _close(trainer, loggers)


def _close(trainer: Trainer, loggers: list[Resilient]) -> None:
    if trainer.is_global_zero:
        for logger in loggers:
            logger.close()
    trainer.strategy.barrier()


def make_pseudo_aif(stage: Stage, backbone: Backbone) -> None:
    """Deblur the photographs and write them, with depth, focus and K, to shards."""
    settings = stage.settings
    on_first_rank(
        lambda: _write_pseudo_aif(stage, instantiate(settings.network)(backbone)),
        done=stage.folder / FINISHED,
    )


def _write_pseudo_aif(stage: Stage, network: FlowMatching) -> None:
    started = time.monotonic()
    network.to(device_of(stage.config)).eval()
    weights = Path(stage.settings.network.init_lora)
    counts = instantiate(stage.settings.prepare)(
        deblur=network.deblur,
        deblur_name=f"{weights.name} {sha256(weights.read_bytes()).hexdigest()[:16]}",
    )
    stage.write_summary(
        seconds=round(time.monotonic() - started, 1), shards=stage.settings.out, photographs=counts
    )


RUNNERS: dict[str, Callable[[Stage, Backbone], None]] = {
    "train": train_stage,
    "pseudo_aif": make_pseudo_aif,
    "tiny_base": train_tiny_base,
}


def _network_card(stage: Stage, module: FlowMatching, steps: int) -> NetworkCard:
    """What sampling has to know about the network, beside its LoRA."""
    tiny = stage.config.backbone._target_.endswith("load_tiny")
    variants: tuple[Variant, ...] = ("pre_deblur", "direct")
    return NetworkCard(
        task=module.task,
        backbone=BackboneSource("tiny" if tiny else "flux_dev", stage.config.backbone.path),
        flow=module.editor.denoiser.flow,
        prompt=module.prompt,
        guidance=module.editor.denoiser.guidance,
        steps=module.steps,
        rank=module.lora.rank,
        lora_file=module.lora_file,
        variant=next((name for name in variants if getattr(module, name, False)), "standard"),
        independent=module.editor.denoiser.independent,
        trained_steps=steps,
        trial=stage.config.get("trial", False),
    )


def _restore_finished(module: LightningModule, checkpoint: Path, max_steps: int) -> bool:
    """Load averaged weights from a checkpoint that has all its steps, if there is one."""
    if not checkpoint.is_file():
        return False
    state = read_checkpoint(checkpoint)
    if state["global_step"] < max_steps:
        return False
    module.load_state_dict(state["state_dict"])
    return True


def _loggers(config: DictConfig) -> list[Resilient]:
    return [Resilient(instantiate(logger)) for logger in config.logger.values()]


def _record(config: DictConfig, data: Any) -> dict[str, Any]:
    data.setup("fit")
    return {
        "config": OmegaConf.to_container(config, resolve=True, throw_on_missing=False),
        "data": data.fingerprints,
        "git_commit": git_commit(),
    }


def on_first_rank(work: Callable[[], Any], *, done: Path) -> None:
    """Do ``work`` on the first rank; the others wait for the file that it leaves."""
    if first_rank():
        work()
        return
    while not done.exists():  # no collective: its timeout is shorter than such work can be
        time.sleep(1)


def first_rank() -> bool:
    """Whether this process is the first of all, also before a trainer exists."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _difference(before: Any, now: Any, path: str = "") -> str:
    if isinstance(before, DictConfig) and isinstance(now, DictConfig):
        changes = [
            _difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            for key in [*before, *(key for key in now if key not in before)]
        ]
        return ", ".join(change for change in changes if change)
    return "" if before == now else f"{path} was {before}, is {now}"
