"""``genrefocus prepare route=... source=...``: images to shards, a Hydra application."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from genrefocus.preflight.files import check_sidecars
from genrefocus.preparation.item import Source
from genrefocus.runs import has_network, latest_of
from genrefocus.terminal import counted

_PARTS = ("deblur", "depth", "mask", "blur", "shapes")


def run_job(config: DictConfig) -> None:
    """One job of a preparation; the last of them writes the indices and the report."""
    console = Console(stderr=True)
    if missing := sorted(OmegaConf.missing_keys(config.source)):
        raise ValueError(f"{missing[0]} is not given: {missing[0]}=...")
    _require_run(config)
    source: Source = instantiate(config.source, _convert_="all")
    if config.captions:
        source = _captioned(source, config)
    _require_sidecars(config, source)
    parts = _parts(config, source)
    # These take seconds to import: source and parts say first what is missing.
    from genrefocus.preparation.gates import Gates
    from genrefocus.preparation.ledger import SUMMARY_NAME
    from genrefocus.preparation.report import write_report
    from genrefocus.preparation.runner import prepare
    from genrefocus.preparation.shard_plan import LeakageCheck

    # Parts are handed over as they are: as arguments of instantiate they would become configs.
    route = instantiate(config.route, _partial_=True, _convert_="all")(**parts)
    out = Path(config.out)
    leakage = LeakageCheck(
        against=tuple(Path(one) for one in config.leakage.against),
        distance=config.leakage.distance,
        allow=tuple(config.leakage.allow),
    )
    summary = prepare(
        route,
        source,
        out,
        splits=_plain(config.splits),
        gates=Gates(_plain(config.gates)),
        leakage=leakage,
        seed=config.seed,
        items_per_shard=config.items_per_shard,
        image_format=config.image_format,
        limit=config.limit,
        job=config.job,
        jobs=config.jobs,
        workers=config.workers,
        progress=config.progress,
    )
    if summary is None:
        console.print(f"job {config.job} of {config.jobs} is done; others are not yet")
        return
    root = config.source.get("root")
    report = write_report(out, root=None if root is None else Path(root))
    _print_summary(console, summary, source, list(config.splits))
    console.print(
        f"shards and {SUMMARY_NAME} in {out}\nreport {report}", soft_wrap=True, markup=False
    )


def _print_summary(
    console: Console, summary: dict[str, Any], source: Source, splits: Sequence[str]
) -> None:
    console.print(summary_table(summary))
    if summary["measured_only"]:
        console.print(
            "[bold yellow]measured only[/], no gate is set for: "
            f"{', '.join(summary['measured_only'])}\n"
            "  every value passes; `genrefocus calibrate` proposes gates from a reviewed list"
        )
    own = {item.split for item in source.items()}
    wanted = [split for split in splits if split != "train" or own & {"train", None}]
    if empty := [split for split in wanted if not summary["written"].get(split)]:
        remedy = "set other splits, such as 'splits={train: 0.6, val: 0.2, test: 0.2}'"
        console.print(
            f"[bold yellow]empty[/]: {', '.join(empty)}; train.py evaluates on val and test of "
            f"sets that it is given: {remedy if None in own else 'take them from another source'}"
        )


def _captioned(source: Source, config: DictConfig) -> Source:
    from genrefocus.preparation.sources import CaptionedSource

    captioned = CaptionedSource(source, instantiate(config.captions))
    captioned.items()  # says at once what is missing
    return captioned


def _require_run(config: DictConfig) -> None:
    """Whether there is any trained network to deblur with, said before torch is imported.

    Raises:
        FileNotFoundError: no run has one.
    """
    deblur: Any = config.get("deblur") or {}
    if deblur.get("run") == "latest":
        runs = deblur.outputs
        latest_of(runs, has_network, "networks for deblur", "deblur.run=")


def _plain(node: DictConfig) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _parts(config: DictConfig, source: Source) -> dict[str, Any]:
    """What the route takes from other groups; scenes know their depth and need no estimator."""
    known = {"depth": None} if "scene" in source.roles else {}
    captions = sorted({item.caption for item in source.items() if item.caption})
    asked: dict[str, Any] = {"deblur": {"prompts": captions}} if captions else {}
    parts: dict[str, Any] = {
        name: known[name]
        if name in known
        else instantiate(config[name], _convert_="all", **asked.get(name, {}))
        for name in _PARTS
        if name in config
    }
    if "deblur" in parts:
        parts["deblur_name"] = parts["deblur"].weights
        steps = counted(parts["deblur"].steps, "sampling step")
        Console(stderr=True).print(
            f"DeblurNet: {parts['deblur'].origin}, {steps}",
            soft_wrap=True,
            markup=False,
        )
    return parts


def _require_sidecars(config: DictConfig, source: Source) -> None:
    """
    Raises:
        ValueError: images have no file of depth or of their mask; says what else there is.
    """
    role = "photo" if "photo" in source.roles else "sharp"
    items = (item for item in source.items() if role in item.images)
    images = {item.name: item.images[role].path for item in items}
    kinds: tuple[Literal["depth"], Literal["mask"]] = ("depth", "mask")
    for what in kinds:
        folder = (config.get(what) or {}).get("folder")
        if folder is not None:
            by_exif = get_class(config.route._target_).by_exif  # type: ignore[attr-defined]
            for one in check_sidecars(images, Path(folder), what, by_exif=by_exif):
                raise ValueError(f"{one.subject}: {one.detail}; give {one.remedy}")


def summary_table(summary: dict[str, Any]) -> Table:
    """What came of the candidates."""
    table = Table(title=f"{summary['set']['parameters']['route']}: {summary['found']} found")
    table.add_column("outcome")
    table.add_column("samples", justify="right")
    for split, count in summary["written"].items():
        table.add_row(f"written to {escape(split)}", str(count), style="green" if count else "dim")
    for reason, count in summary["rejected"].items():
        table.add_row(f"rejected: {reason}", str(count), style="yellow")
    return table
