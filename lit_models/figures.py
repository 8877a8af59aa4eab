"""Figures of a run: of each stage, of the chain of both networks, as a table and as one result."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from genrefocus.backbone import Backbone
from genrefocus.backbone.lora import read_lora
from genrefocus.metrics.lpips import lpips_available
from genrefocus.pictures import contact_sheet, save_pictures
from genrefocus.runs import FINISHED, git_commit
from genrefocus.writing import write_json
from lit_models.fidelity import Fidelity

CONSOLE = Console()


#: groups of a summary's figures, and what the table calls them
METHODS = {
    "metrics": "trained",
    "identity": "doing nothing",
    "floor": "classical",
    "target": "ground truth",
}


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


def test_pairs(data: Any, limit: int = 64) -> tuple[Tensor, Tensor]:
    """Blurred and sharp images of the test set, for choosing the best unsharp mask."""
    data.setup("test")
    batches = []
    for batch in data.eval_loader("test"):
        batches.append((batch["bokeh"], batch["aif"]))
        if sum(len(blurry) for blurry, _ in batches) >= limit:
            break
    return torch.cat([b for b, _ in batches])[:limit], torch.cat([s for _, s in batches])[:limit]


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
    device = device_of(config)
    networks = []
    for name in ("deblurnet", bokeh):
        network = instantiate(config.stages[name].module)(backbone, failure_dir=folder)
        weights = read_lora(folder / name / network.lora_file)
        network.lora.load_released_state(weights, source=str(folder / name))
        networks.append(network.ready_on(device))
    deblurnet, bokehnet = networks
    data = instantiate(config.stages[bokeh].datamodule)
    data.setup("test")
    if deblurnet.network.takes_draft:
        CONSOLE.print("the chain was not measured: DeblurNet reads a draft of each photograph")
        return {"stage": "chain", "samples": 0}
    fidelity = Fidelity("test", ("model", "identity")).to(device)
    rows: list[list[Tensor]] = []
    titles: list[str] = []
    compared = 0
    for batch in data.eval_loader("test"):
        if "blurry" not in batch or bokehnet.is_swept(batch):
            continue  # sweeps are about control
        aif = deblurnet.network(batch["blurry"])
        batch = bokehnet.transfer_batch_to_device({**batch, "aif": aif}, bokehnet.device, 0)
        output = bokehnet.generate(batch)
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
        "pictures": str(sheet.relative_to(folder)),
        "test_data": data.test_fingerprints,
    }


def last_bokeh(stages: Iterable[str]) -> str | None:
    """The last of the stages that trains BokehNet, if DeblurNet is among them too."""
    names = list(stages)
    bokeh = [name for name in names if name.startswith("bokehnet")]
    return bokeh[-1] if bokeh and "deblurnet" in names else None


def measure_missing_chain(config: DictConfig, folder: Path, backbone: Backbone) -> None:
    """Measure the chain of both networks of a run, if it has both and was not measured."""
    record = folder / "chain" / FINISHED
    if (bokeh := last_bokeh(config.curriculum)) is not None and not record.is_file():
        chain = measure_chain(config, folder, backbone, bokeh, record.with_name("test.png"))
        record.parent.mkdir(exist_ok=True)
        write_json(record, chain)


def report(config: DictConfig, folder: Path, seconds: float) -> dict[str, Any]:
    """The table of all stages and of the chain, and where to look; returns their summaries."""
    records = {name: folder / name / FINISHED for name in (*config.curriculum, "chain")}
    summaries = {
        name: json.loads(record.read_text()) for name, record in records.items() if record.is_file()
    }
    CONSOLE.print(summary_table(f"{config.name}: {seconds / 60:.1f} min", summaries))
    for metric, remedy in unavailable_metrics().items():
        CONSOLE.print(f"{metric} is not available: {remedy}")
    for name, summary in summaries.items():
        if "pictures" in summary:
            sheet = folder / summary["pictures"]
            CONSOLE.print(f"contact sheet  {name}: {sheet}", soft_wrap=True, markup=False)
    CONSOLE.print(f"output folder  {folder}", soft_wrap=True, markup=False)
    return summaries


def result_of(config: DictConfig, summaries: Mapping[str, Any]) -> dict[str, Any]:
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
        "cell": config.cell,
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
    table = Table(title=escape(title))
    table.add_column("stage, method", no_wrap=True)
    for column in ("PSNR dB", "SSIM", "LPIPS", "LVCorr"):
        table.add_column(column, justify="right", no_wrap=True)
    measured = {n: one for n, one in summaries.items() if any(one.get(m) for m in METHODS)}
    for name, summary in measured.items():
        table.add_row(escape(name), style="bold")
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


def device_of(config: DictConfig) -> torch.device:
    use_gpu = config.trainer.accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")
