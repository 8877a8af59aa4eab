"""Train: ``python train.py experiment=semi_supervised``.

Runs the stages of the curriculum one after the other, each in its own folder below the run's. A
stage that has written its summary is finished: it is not repeated when the run is resumed
(``resume=latest``). ``python train.py -m sweep=...`` runs the cells of an ablation.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.tree import Tree
from torch import Tensor

from datamodules import RefocusDataModule, SceneDataModule
from datamodules.ordered import OrderedDataModule
from genrefocus.backbone import Backbone
from genrefocus.backbone.lora import read_lora
from genrefocus.benchmark.ablation import RESULT_NAME
from genrefocus.cli.cells import is_cell, run_cell
from genrefocus.cli.configuration import run_application, settle_missing
from genrefocus.cli.doctor import require_inputs
from genrefocus.metrics.lpips import lpips_available
from genrefocus.network_card import BackboneSource, NetworkCard, Variant, write_network_card
from genrefocus.pictures import contact_sheet, save_pictures
from lit_models import DeblurNet, TinyBase
from lit_models.callbacks import Interruption, Timer
from lit_models.fidelity import Fidelity
from lit_models.flow_matching import FlowMatching
from lit_models.trackers import Resilient

ROOT = Path(__file__).resolve().parent
CONSOLE = Console()
FINISHED = "summary.json"
#: groups of a summary's figures, and what the table calls them
METHODS = {
    "metrics": "trained",
    "identity": "doing nothing",
    "floor": "classical",
    "target": "ground truth",
}

# What others' code says to itself, and what is meant to be: a rank may have no sample of a set.
for said in (
    ".*isinstance.treespec, LeafSpec.*",
    ".*does not have many workers.*",
    ".*was called before the ``update`` method.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Mismatch dtype between input and weight.*",
    ".*recommended to use .self.log.*sync_dist=True.*",
):
    warnings.filterwarnings("ignore", said)
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


class Interrupted(BaseException):
    """A signal stopped the run after a checkpoint; no failure, which a sweep would go on after."""

    def __init__(self, number: int, folder: Path) -> None:
        again = "the same command goes on" if is_cell() else f"go on with resume={folder}"
        super().__init__(f"stopped by {signal.Signals(number).name}; {again}")
        self.number = number


def run_folder(outputs: str, name: str, resume: str | None) -> str:
    """Folder of this run: a new one, the newest, or the one named.

    Jobs whose processes are started from outside (SLURM, torchrun) share a name that all of them
    know, so that there is one folder, not one for each rank; a requeued job finds its folder again.

    Raises:
        ValueError: there is nothing to resume.
    """
    base = Path(outputs) / name
    if resume == "latest":
        runs = sorted(path for path in base.glob("*") if (path / ".hydra").is_dir())
        if not runs:
            raise ValueError(f"resume=latest: no run in {base}; start one without resume")
        return str(runs[-1])
    if resume:
        if not Path(resume).is_dir():
            raise ValueError(f"resume={resume}: no such folder")
        return str(Path(resume).resolve())
    for variable in ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        if os.environ.get(variable, "none") != "none":
            return str(base / f"{variable.split('_')[0].lower()}_{os.environ[variable]}")
    return str(base / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


@hydra.main(version_base=None, config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """See :func:`guarded`. Launchers send this function to other processes, without its module."""
    import train

    return train.guarded(config)


def guarded(config: DictConfig) -> float | None:
    """Run the curriculum; exit status 2 for wrong input, 128 + signal when interrupted.

    Returns the figure that ``result`` names, for sweepers; a cell that fails has none.
    """
    try:
        if is_cell():
            return run_cell(Path(config.paths.run), lambda: run_unless_finished(config))
        return run(config)
    except Interrupted as stopped:
        CONSOLE.print(f"[yellow]{stopped}[/]", soft_wrap=True)
        sys.exit(128 + stopped.number)
    except (ValueError, OSError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)


def run_unless_finished(config: DictConfig) -> float | None:
    """As :func:`run`, for a cell; where there is a result only the settings are compared.

    Raises:
        ValueError: the result is of other settings.
    """
    folder = Path(config.paths.run)
    if not (folder / RESULT_NAME).is_file():
        return run(config)
    settle_missing(config)
    for name in config.curriculum:
        Stage(name, config, folder / name).require_same_settings()
    CONSOLE.print(f"[green]{folder}[/] is finished", soft_wrap=True)
    value = json.loads((folder / RESULT_NAME).read_bytes())["value"]
    return None if value is None else float(value)


def run(config: DictConfig) -> float | None:
    """All stages of the curriculum, then the table and the pictures.

    Returns:
        The figure that ``result`` names; None on ranks other than the first.
    """
    folder = Path(config.paths.run)
    seed_everything(config.seed, workers=True, verbose=False)
    settle_missing(config)
    _announce(config, folder)
    require_inputs(config)
    if first_rank():
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
    if config.data.build is not None:
        _on_first_rank(lambda: instantiate(config.data.build), done=Path(config.data.ready))
    started = time.monotonic()
    backbone = instantiate(config.backbone)
    for name in config.curriculum:
        stage = Stage(name, config, folder / name)
        if stage.finished():
            CONSOLE.print(f"[green]{name}[/] is finished, see {stage.folder / FINISHED}")
            continue
        stage.require_same_settings()
        config.stage_folder = str(stage.folder)
        CONSOLE.rule(f"{name}: {stage.settings.kind}")
        RUNNERS[stage.settings.kind](stage, backbone)
    if not first_rank():
        return None
    summaries = _conclude(config, folder, backbone, time.monotonic() - started)
    result = _result(config, summaries)
    write_json(folder / RESULT_NAME, result)
    return None if result["value"] is None else float(result["value"])


def first_rank() -> bool:
    """Whether this process is the first of all, also before a trainer exists."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


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
    data: RefocusDataModule = instantiate(settings.datamodule)
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
    stage: Stage, module: LightningModule, data: OrderedDataModule
) -> tuple[Trainer, Timer, list[Resilient]]:
    """Train to the last step, from the last checkpoint if there is one; the module has averages."""
    settings, folder = stage.settings, stage.folder
    interruption, timer = Interruption(folder), Timer()
    loggers = _loggers(stage.config)
    trainer: Trainer = instantiate(
        stage.config.trainer,
        callbacks=[
            *(instantiate(callback) for callback in stage.config.callbacks.values()),
            interruption,
            timer,
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
        if interruption.received is not None:
            _close(trainer, loggers)
            raise Interrupted(interruption.received, folder.parent)
        trainer.save_checkpoint(checkpoint)
    return trainer, timer, loggers


def train_tiny_base(stage: Stage, backbone: Backbone) -> None:
    """Train all weights of the tiny backbone, and write their file with its card."""
    settings, folder = stage.settings, stage.folder
    data: SceneDataModule = instantiate(settings.datamodule)
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
    _on_first_rank(
        lambda: _write_pseudo_aif(stage, instantiate(settings.network)(backbone)),
        done=stage.folder / FINISHED,
    )


def _write_pseudo_aif(stage: Stage, network: FlowMatching) -> None:
    started = time.monotonic()
    network.to(_device(stage.config)).eval()
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


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def by_method(measured: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """``test/identity_psnr`` and the like, as {"metrics": ..., "identity": ..., "floor": ...}."""
    groups: dict[str, dict[str, float]] = {"metrics": {}}
    for name, value in measured.items():
        label = name.removeprefix("test/")
        method, _, metric = label.partition("_")
        if method in ("identity", "floor", "target"):
            groups.setdefault(method, {})[metric] = round(value, 4)
        else:
            groups["metrics"][label] = round(value, 4)
    return groups


def unavailable_metrics() -> dict[str, str]:
    """Metrics that cannot be computed here, and what makes them available."""
    return {} if lpips_available() else {"LPIPS": "run `genrefocus weights`"}


def git_commit() -> str:
    """Commit of the checkout, ``-dirty`` where files differ from it; ``unknown`` without git."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


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


def measure_chain(
    config: DictConfig, folder: Path, backbone: Backbone, bokeh: str, sheet: Path
) -> dict[str, Any]:
    """Blurred photographs to another focus by both networks of a run, beside doing nothing.

    Args:
        config: of the run.
        folder: of the run.
        backbone: that both networks were trained on.
        bokeh: stage of BokehNet.
        sheet: where the contact sheet is written.

    Returns:
        Figures by method, as in a stage's summary.
    """
    device = _device(config)
    networks = []
    for name in ("deblurnet", bokeh):
        network = instantiate(config.stages[name].module)(backbone, failure_dir=folder)
        weights = read_lora(folder / name / network.lora_file)
        network.lora.load_released_state(weights, source=str(folder / name))
        networks.append(network.to(device).eval())
    deblurnet, bokehnet = networks
    backbone.to(device)
    data: RefocusDataModule = instantiate(config.stages[bokeh].datamodule)
    data.setup("test")
    fidelity = Fidelity("test", ("model", "identity")).to(device)
    rows: list[list[Tensor]] = []
    titles: list[str] = []
    compared = 0
    for batch in data.eval_loader("test"):
        if "blurry" not in batch or bokehnet.sweep(batch, "target") is not None:
            continue  # sweeps are about control
        aif = deblurnet.deblur(batch["blurry"])
        output = bokehnet.generate({**batch, "aif": aif}).cpu()
        fidelity.update({"model": output, "identity": batch["blurry"]}, batch["bokeh"])
        panel = {
            "input": batch["blurry"],
            "all in focus": aif,
            "defocus": batch["defocus"],
            "output": output,
            "target": batch["bokeh"],
        }
        titles = list(panel)
        for n in range(min(len(aif), 6 - len(rows))):
            row = {title: picture[n] for title, picture in panel.items()}
            rows.append(list(row.values()))
            save_pictures(row, sheet.with_suffix("") / batch["key"][n])
        compared += len(aif)
    if not compared:
        CONSOLE.print("the chain was not measured: no test sample has a blurred photograph")
        return {"stage": "chain", "samples": 0}
    sheet.parent.mkdir(exist_ok=True)
    contact_sheet(rows, titles, scale=3).save(sheet)
    figures = by_method(fidelity.compute_and_reset())
    return {
        "stage": "chain",
        "samples": compared,
        **figures,
        "pictures": str(sheet),
        "test_data": data.test_fingerprints,
    }


def last_bokeh(stages: Iterable[str]) -> str | None:
    """The last of the stages that trains BokehNet, if DeblurNet is among them too."""
    names = list(stages)
    bokeh = [name for name in names if name.startswith("bokehnet")]
    return bokeh[-1] if bokeh and "deblurnet" in names else None


def _restore_finished(module: LightningModule, checkpoint: Path, max_steps: int) -> bool:
    """Load averaged weights from a checkpoint that has all its steps, if there is one."""
    if not checkpoint.is_file():
        return False
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["global_step"] < max_steps:
        return False
    module.load_state_dict(state["state_dict"])
    return True


def _loggers(config: DictConfig) -> list[Resilient]:
    return [Resilient(instantiate(logger)) for logger in config.logger.values()]


def _record(config: DictConfig, data: OrderedDataModule) -> dict[str, Any]:
    data.setup("fit")
    return {
        "config": OmegaConf.to_container(config, resolve=True, throw_on_missing=False),
        "data": data.fingerprints,
        "git_commit": git_commit(),
    }


def test_pairs(data: RefocusDataModule, limit: int = 64) -> tuple[Tensor, Tensor]:
    """Blurred and sharp images of the test set, for choosing the best unsharp mask."""
    data.setup("test")
    batches = []
    for batch in data.eval_loader("test"):
        batches.append((batch["bokeh"], batch["aif"]))
        if sum(len(blurry) for blurry, _ in batches) >= limit:
            break
    return torch.cat([b for b, _ in batches])[:limit], torch.cat([s for _, s in batches])[:limit]


def _on_first_rank(work: Callable[[], Any], *, done: Path) -> None:
    """Do ``work`` on the first rank; the others wait for the file that it leaves."""
    if first_rank():
        work()
        return
    while not done.exists():  # no collective: its timeout is shorter than such work can be
        time.sleep(1)


def _device(config: DictConfig) -> torch.device:
    use_gpu = config.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def _difference(before: Any, now: Any, path: str = "") -> str:
    if isinstance(before, DictConfig) and isinstance(now, DictConfig):
        changes = [
            _difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            for key in [*before, *(key for key in now if key not in before)]
        ]
        return ", ".join(change for change in changes if change)
    return "" if before == now else f"{path} was {before}, is {now}"


def _announce(config: DictConfig, folder: Path) -> None:
    if not first_rank():
        return
    tree = Tree(f"[bold]{config.name}[/] in {folder}")
    for key in config:
        value = OmegaConf.to_yaml(OmegaConf.create({key: config._get_node(key)}))
        tree.add(value.rstrip())
    if config.print_config:
        CONSOLE.print(tree)


def _conclude(
    config: DictConfig, folder: Path, backbone: Backbone, seconds: float
) -> dict[str, Any]:
    """The table of all stages and of the chain, and where to look; returns their summaries."""
    summaries = {
        name: json.loads((folder / name / FINISHED).read_text()) for name in config.curriculum
    }
    if (bokeh := last_bokeh(summaries)) is not None:
        record = folder / "chain" / FINISHED
        if not record.is_file():
            chain = measure_chain(config, folder, backbone, bokeh, record.with_name("test.png"))
            record.parent.mkdir(exist_ok=True)
            write_json(record, chain)
        summaries["chain"] = json.loads(record.read_text())
    CONSOLE.print(summary_table(f"{config.name}: {seconds / 60:.1f} min", summaries))
    for metric, remedy in unavailable_metrics().items():
        CONSOLE.print(f"{metric} is not available: {remedy}")
    for name, summary in summaries.items():
        if "pictures" in summary:
            CONSOLE.print(f"contact sheet  {name}: {summary['pictures']}", soft_wrap=True)
    CONSOLE.print(f"output folder  {folder}", soft_wrap=True)
    return summaries


def _result(config: DictConfig, summaries: Mapping[str, Any]) -> dict[str, Any]:
    """What sweeps compare: the figures of one stage, for ``genrefocus.benchmark.ablation``.

    Raises:
        ValueError: ``result`` names a stage or, in a named sweep, a metric that was not measured.
    """
    measured = [name for name in summaries if summaries[name].get("metrics")]
    trained = [name for name in measured if name != "chain"]
    stage = config.result.stage or (trained[-1] if trained else None)
    if stage not in (*measured, None):
        raise ValueError(f"result.stage={stage} was not measured; there are {', '.join(measured)}")
    summary = summaries[stage] if stage else {}
    figures, metric = summary.get("metrics", {}), config.result.metric
    if metric not in figures and config.sweep_name is not None:
        raise ValueError(f"result.metric={metric} was not measured; there are {', '.join(figures)}")
    pictures = f"{stage}/test" if stage == "chain" else f"{stage}/pictures/test"
    return {
        "cell": config.cell_name,
        "seed": config.seed,
        "stage": stage,
        "metric": metric,
        "value": figures.get(metric),
        "figures": figures,
        "references": {name: summary[name] for name in ("identity", "floor") if name in summary},
        "steps": sum(one.get("steps", 0) for one in summaries.values()),
        "test_data": summary.get("test_data", {}),
        "pictures": pictures if (Path(config.paths.run) / pictures).is_dir() else None,
        "git_commit": git_commit(),
    }


def summary_table(title: str, summaries: dict[str, Any]) -> Table:
    """A section for every stage: the network, and what it is compared with."""
    table = Table(title=title)
    table.add_column("stage, method", no_wrap=True)
    for column in ("PSNR dB", "SSIM", "LPIPS", "LVCorr"):
        table.add_column(column, justify="right", no_wrap=True)
    measured = {n: one for n, one in summaries.items() if any(one.get(m) for m in METHODS)}
    for name, summary in measured.items():
        table.add_row(name, style="bold")
        for method, label in METHODS.items():
            values = summary.get(method)
            if not values:
                continue
            if method == "metrics" and summary.get("steps"):
                speed = f"{summary['samples_per_second']:.1f} samples/s"
                label = f"{label}, {summary['steps']} steps, {speed}"
            cells = [_cell(values, key) for key in ("psnr", "ssim", "lpips", "lvcorr")]
            table.add_row(f"  {label}", *cells)
        table.add_section()
    return table


def _cell(values: dict[str, float], key: str) -> str:
    return f"{values[key]:.3f}" if key in values else "-"


if __name__ == "__main__":
    run_application(main, "train.py", "train")
