"""Stages of a curriculum: train a network, make pseudo all-in-focus images, train a tiny base."""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from genrefocus.backbone import Backbone
from genrefocus.network import weights_name
from genrefocus.network_card import BackboneSource, NetworkCard, write_network_card
from genrefocus.preparation.outcome import read_summary
from genrefocus.runs import FINISHED, git_commit
from genrefocus.wording import counted
from genrefocus.writing import write_json
from lit_models.callbacks import BlurRange, Interruption, Timer
from lit_models.checkpoints import read_checkpoint
from lit_models.deblurnet import DeblurNet
from lit_models.figures import by_method, test_pairs, unavailable_metrics
from lit_models.flow_matching import FlowMatching
from lit_models.ranks import Ranks
from lit_models.tiny_base import TinyBase
from lit_models.trackers import Resilient

CONSOLE = Console()


#: settings that cost time or memory and change nothing that is learnt: a run may be resumed with
#: others. Patterns of keys of a stage's record; the number of samples a step, `global_batch`, stays
COST = (
    "fit.val_check_interval",
    "fit.limit_val_batches",
    "datamodule.batch_size",
    "datamodule.eval_batch_size",
    "datamodule.num_workers",
    "datamodule.val_samples",
    "prepare.*.device",
    "prepare.*.batch_size",
    "trainer.accelerator",
    "trainer.benchmark",
    "trainer.devices",
    "trainer.enable_*",
    "trainer.limit_val_batches",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.profiler*",
    "trainer.strategy",
    "callbacks.checkpoint.*",
    "callbacks.learning_rate.*",
    "callbacks.pictures.*",
    "callbacks.progress.*",
    "callbacks.shard.*",
    "callbacks.snapshots.*",
)


class Stage:
    """One stage of the curriculum: its settings and its folder."""

    def __init__(self, name: str, config: DictConfig, folder: Path) -> None:
        self.name, self.config, self.folder = name, config, folder
        self.settings: DictConfig = config.stages[name]

    def finished(self) -> bool:
        """Whether the stage has written its summary, which it does last."""
        return (self.folder / FINISHED).is_file()

    def record(self) -> dict[str, Any]:
        """All that the stage depends on, resolved, so that it can be compared after a move."""
        config = copy.deepcopy(self.config)
        config.stage_folder = str(self.folder)
        own = config.stages[self.name]
        parts = ("backbone", "trainer", "callbacks") if "fit" in own else ("backbone",)
        content: Any = OmegaConf.to_container(own, resolve=True)
        content |= {part: OmegaConf.to_container(config[part], resolve=True) for part in parts}
        places = {str(self.folder.parent): "<run>", config.paths.root: "<checkout>"}
        return _relative(content, places)

    def require_same_settings(self) -> None:
        """Compare the settings with those that the stage was begun with, if it was; see ``COST``.

        Raises:
            ValueError: others would change what it learns.
        """
        if not (record := self.folder / "stage.yaml").is_file():
            return
        before, now = _flat(yaml.safe_load(record.read_text())), _flat(self.record())
        changes = [
            f"{key} was {before.get(key)}, is {now.get(key)}"
            for key in {**before, **now}
            if before.get(key) != now.get(key) and not any(fnmatch(key, one) for one in COST)
        ]
        if changes:
            raise ValueError(
                f"{self.name} in {self.folder.parent} was begun with other settings: "
                f"{', '.join(changes)}; restore them, or start a new run"
            )

    def begin(self) -> None:
        """Make the folder, and write the settings there that a later run is compared with."""
        self.config.stage_folder = str(self.folder)
        record = yaml.safe_dump(self.record(), sort_keys=False)
        if first_rank():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "stage.yaml").write_text(record)

    def write_summary(self, **entries: Any) -> None:
        """Write summary.json, which marks the stage as finished."""
        write_json(self.folder / FINISHED, {"stage": self.name, **entries})


def learn_prompts(stages: Sequence[Stage], backbone: Backbone, ranks: Ranks, name: str) -> None:
    """Compute the embeddings of all prompts of stages and of their sets, on the first rank.

    No text encoder is in memory afterwards. Sets that an earlier stage has yet to make are left
    out, as are those of finished stages. A backbone without a folder of embeddings encodes as it
    goes, which costs nothing.
    """
    if backbone.prompts.folder is None:
        return
    with ranks.together(name):
        if ranks.rank == 0:
            found: set[str] = set()
            for stage in stages:
                settings = stage.settings
                found.add((settings.get("module") or settings.network).prompt)
                if "datamodule" in settings and not stage.finished():
                    found |= instantiate(settings.datamodule).prompts()
            if count := backbone.prompts.learn(found, ranks.device):
                place = escape(str(backbone.prompts.folder))
                CONSOLE.print(f"encoded {counted(count, 'prompt')}, see {place}", soft_wrap=True)


def train_stage(stage: Stage, backbone: Backbone, _: Ranks) -> None:
    """Train one network, export its LoRA, and measure it beside identity and floor."""
    settings, folder = stage.settings, stage.folder
    module: FlowMatching = instantiate(settings.module)(backbone, failure_dir=folder)
    data = instantiate(settings.datamodule)
    trainer, timer, loggers = _fit(stage, module, data)
    lora = folder / module.lora_file
    (blur,) = (one for one in trainer.callbacks if isinstance(one, BlurRange))  # type: ignore[attr-defined]
    radius = blur.radius(trainer)
    if trainer.is_global_zero:
        module.lora.save(lora, metadata={"adapter": module.adapter})
        write_network_card(folder, _network_card(stage, module, trainer.global_step, radius))
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
            lora=f"{stage.name}/{lora.name}",
            logs=f"{stage.name}/logs",
            pictures=f"{stage.name}/pictures/test.png",
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
            BlurRange(),
            Interruption(folder),
        ],
        logger=loggers,
        default_root_dir=str(folder),
        check_val_every_n_epoch=None,
        **settings.fit,
    )
    world = trainer.num_devices * trainer.num_nodes
    accumulate = data.deal_out(settings.global_batch, world=world)
    if not stage.config.trainer.fast_dev_run:  # which trains on one micro-batch
        trainer.accumulate_grad_batches = accumulate
        if isinstance(trainer.val_check_interval, int):  # steps here, micro-batches in Lightning
            trainer.val_check_interval *= accumulate
    for logger in loggers:
        logger.log_hyperparams(_record(stage.config, data))
    checkpoint = folder / "last.ckpt"
    if not _restore_finished(trainer, module, checkpoint):
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
            weights_only=True,
        )
        trainer.save_checkpoint(checkpoint, weights_only=False)
    return trainer, timer, loggers


def train_tiny_base(stage: Stage, backbone: Backbone, _: Ranks) -> None:
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
            weights=f"{stage.name}/{path.name}",
            logs=f"{stage.name}/logs",
            dataset=data.fingerprints,
            git_commit=card["git_commit"],
        )
    _close(trainer, loggers)


def _close(trainer: Trainer, loggers: list[Resilient]) -> None:
    if trainer.is_global_zero:
        for logger in loggers:
            logger.close()
    trainer.strategy.barrier()


def make_pseudo_aif(stage: Stage, backbone: Backbone, ranks: Ranks) -> None:
    """Deblur the photographs and write them, with depth, focus and K, to shards.

    The ranks divide the shards among them; which of them makes one does not show.
    """
    settings, out = stage.settings, Path(stage.settings.out)
    started = time.monotonic()
    with ranks.together(stage.name):
        module: FlowMatching = instantiate(settings.network)(backbone).ready_on(ranks.device)
        instantiate(settings.prepare)(
            deblur=module.network,
            deblur_name=weights_name(settings.network.init_lora),
            job=ranks.rank,
            jobs=ranks.world,
            progress=ranks.rank == 0,
        )
    if ranks.rank == 0:
        made = read_summary(out)
        stage.write_summary(
            seconds=round(time.monotonic() - started, 1),
            shards=str(out).removeprefix(f"{stage.folder.parent}/"),
            photographs={name: made[name] for name in ("found", "written", "rejected")},
        )
    ranks.barrier()


RUNNERS: dict[str, Callable[[Stage, Backbone, Ranks], None]] = {
    "train": train_stage,
    "pseudo_aif": make_pseudo_aif,
    "tiny_base": train_tiny_base,
}


def _network_card(
    stage: Stage, module: FlowMatching, steps: int, radius: float | None
) -> NetworkCard:
    """What sampling has to know about the network, beside its LoRA."""
    tiny = stage.config.backbone._target_.endswith("load_tiny")
    return NetworkCard(
        task=module.task,
        backbone=BackboneSource("tiny" if tiny else "flux_dev", stage.config.backbone.path),
        flow=module.flow,
        prompt=module.prompt,
        guidance=module.guidance,
        steps=module.steps,
        rank=module.lora.rank,
        lora=module.lora_file,
        variant=module.variant,
        isolate_conditions=module.isolate_conditions,
        trained_steps=steps,
        largest_radius=radius,
        trial=stage.config.get("trial", False),
    )


def _restore_finished(trainer: Trainer, module: LightningModule, checkpoint: Path) -> bool:
    """Load averaged weights from a checkpoint that has all its steps, if there is one."""
    if not checkpoint.is_file():
        return False
    state = read_checkpoint(checkpoint)
    if state["global_step"] < trainer.max_steps:
        return False
    module.load_state_dict(state["state_dict"])
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, (BlurRange, Timer)) and callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    return True


def _loggers(config: DictConfig) -> list[Resilient]:
    return [Resilient(instantiate(logger)) for logger in (config.get("logger") or {}).values()]


def _record(config: DictConfig, data: Any) -> dict[str, Any]:
    data.setup("fit")
    return {
        "config": OmegaConf.to_container(config, resolve=True, throw_on_missing=False),
        "data": data.fingerprints,
        "git_commit": git_commit(),
    }


def first_rank() -> bool:
    """Whether this process is the first of all, also before a trainer exists."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _relative(node: Any, places: Mapping[str, str]) -> Any:
    """Paths below one of the places, which may be moved, by the name of the place."""
    if isinstance(node, dict):
        return {str(key): _relative(value, places) for key, value in node.items()}
    if isinstance(node, list):
        return [_relative(value, places) for value in node]
    for place, name in places.items():
        if isinstance(node, str) and node.startswith(f"{place}/"):
            return name + node.removeprefix(place)
    return node


def _flat(node: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value}
    return found
