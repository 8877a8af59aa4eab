"""Trained networks as one folder, in the form that the Hugging Face Hub and its users expect.

::

    README.md              model card: what it is, data, figures with the hash of their protocol
    config.json            the library that reads the folder
    deblurNet.safetensors  LoRA files under their released names, as the authors' code loads them
    deblurNet.json         the card of each, see ``network_card``
    apertureShape.safetensors  BokehNet's second LoRA, if it has one
    tiny_base.safetensors  frozen weights, where the base is not FLUX.1-dev
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from genrefocus.network import DEFAULT_MEMORY, Device, MemoryUse, Network, load_networks
from genrefocus.network_card import (
    NetworkCard,
    NetworkTask,
    networks_of,
    released_card,
    released_name,
    require_backbone,
    write_network_card,
)
from genrefocus.runs import BENCHMARK, FINISHED
from genrefocus.writing import whole, write_json

FLUX = "black-forest-labs/FLUX.1-dev"
README = "README.md"
CONFIG = {"library_name": "genrefocus"}
NOT_MERGED = (
    "the LoRA acts on the tokens of condition images alone; text and noisy image pass through the "
    "same layers without it, so no merged weight does the same: keep it beside the base"
)
_LICENCE: dict[str, Any] = {
    "license": "other",
    "license_name": "flux-1-dev-non-commercial-license",
    "license_link": f"https://huggingface.co/{FLUX}/blob/main/LICENSE.md",
}


class Pretrained(ModelHubMixin):
    """Saving, loading and pushing a pipeline of ``deblur`` (or None) and ``bokeh``.

    ``save_pretrained(folder)`` and ``push_to_hub(id)`` write the folder above, see
    :class:`huggingface_hub.ModelHubMixin`; ``from_pretrained`` also takes ``flux``, ``device`` and
    ``memory``.
    """

    deblur: Network | None
    bokeh: Network

    _hub_mixin_config = CONFIG  # else the mixin makes one of the arguments, the networks

    def fuse_lora(self, *args: Any, **kwargs: Any) -> NoReturn:
        """
        Raises:
            ValueError: always; a LoRA of conditions cannot be merged.
        """
        raise ValueError(NOT_MERGED)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """See :func:`model_card`."""
        return model_card(self._cards(), *args, **kwargs)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_networks(self._cards(), save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        flux: str | None = None,
        device: Device = "cpu",
        memory: MemoryUse = DEFAULT_MEMORY,
        **download: Any,
    ) -> Self:
        """The networks of a folder or of a repository of the Hub; released files need no cards.

        Args:
            model_id: folder or id.
            flux: folder or hub id of FLUX.1-dev, in place of the cards'.
            device, memory: see :func:`genrefocus.network.load_networks`, also for errors.
            download: revision, token and the like.

        Raises:
            FileNotFoundError: there is no BokehNet.
        """
        folder = Path(model_id)
        if not folder.is_dir():
            files = ["*.safetensors", "*.json", README]
            folder = Path(snapshot_download(model_id, allow_patterns=files, **download))
        cards = networks_of(folder) or _released(folder)
        if "bokeh" not in cards:
            raise FileNotFoundError(f"{model_id} has no {released_name('bokeh')}")
        if flux is not None:
            cards = {task: _on_flux(card, flux) for task, card in cards.items()}
        networks = load_networks(cards, device=device, memory=memory)
        return cls(networks.get("deblur"), networks["bokeh"])

    def _cards(self) -> dict[NetworkTask, NetworkCard]:
        """Of both networks, with the prompt and the steps that they have now."""
        found: dict[NetworkTask, NetworkCard] = {}
        for network in (self.deblur, self.bokeh):
            if network is not None and network.card is None:
                raise ValueError("a network that was not loaded from files cannot be saved")
            if network is not None and network.card is not None:
                card = replace(network.card, prompt=network.prompt, steps=network.steps)
                found[card.task] = card
        return found


def write_networks(cards: Mapping[NetworkTask, NetworkCard], folder: Path) -> None:
    """Write LoRA files under their released names, their cards, and a base that is not FLUX.

    The model card of a folder that was written so goes along.

    Raises:
        FileNotFoundError, ValueError: a file is missing, or the base has changed since training.
    """
    for card in cards.values():
        name, source = released_name(card.task, card.variant), require_backbone(card)
        _copy(Path(card.lora), folder / name)
        if card.shape_lora is not None:
            _copy(Path(card.shape_lora), folder / Path(card.shape_lora).name)
        if source.kind == "tiny":
            path = folder / Path(source.path).name
            _copy(Path(source.path), path)
            moved = replace(card, backbone=replace(source, path=str(path)))
        else:
            moved = _on_flux(card, FLUX)
        write_network_card(folder, replace(moved, lora=name), f"{Path(name).stem}.json")
    write_json(folder / "config.json", CONFIG)
    readmes = {Path(card.lora).with_name(README) for card in cards.values()}
    if len(readmes) == 1 and (readme := readmes.pop()).is_file():
        _copy(readme, folder / README)


def model_card(
    cards: Mapping[NetworkTask, NetworkCard], results: str | Path | None = None
) -> ModelCard:
    """The model card: networks, data by name and fingerprint, figures with their protocols.

    Args:
        cards: of networks that lie in the folder of their run, or elsewhere; then nothing is known
            of data and figures.
        results: folder of a benchmark; None takes that of the run, where all are of one.

    Raises:
        FileNotFoundError: ``results`` has no results.
    """
    cards = dict(sorted(cards.items(), reverse=True))  # DeblurNet comes first
    stages = {task: Path(card.lora).parent for task, card in cards.items()}
    summaries = {
        task: json.loads((stage / FINISHED).read_text())
        for task, stage in stages.items()
        if (stage / FINISHED).is_file()
    }
    runs = {stage.parent for stage in stages.values()}
    # Networks of several runs have not been measured together.
    own = runs.pop() / BENCHMARK if len(runs) == 1 and summaries else None
    folder = own if results is None else Path(results)
    records, tables = [], ""
    if folder is not None and (results is not None or (folder / "results.json").is_file()):
        if not (folder / "results.json").is_file():
            raise FileNotFoundError(f"{folder} has no results.json of a benchmark")
        names = {"chain", "trained", *(stage.name for stage in stages.values())}
        records = json.loads((folder / "results.json").read_text())
        records = [one for one in records if one["method"] in names and one["part"] is None]
        tables = (folder / "tables.md").read_text(encoding="utf-8")
    on_flux = any(card.backbone.kind == "flux_dev" for card in cards.values())
    data = ModelCardData(
        **({**_LICENCE, "base_model": FLUX} if on_flux else {"license": "apache-2.0"}),
        library_name="genrefocus",
        pipeline_tag="image-to-image",
        tags=["refocusing", "bokeh", "deblurring", "depth-of-field", "lora"],
        model_name="genrefocus",
        eval_results=[_eval_result(one) for one in records if one["mean"] is not None] or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("model_card.md.j2")),
        cards=cards,
        objections=[why for card in cards.values() for why in _objections(card)],
        on_flux=on_flux,
        summaries=summaries,
        tables=tables.strip(),
        not_merged=NOT_MERGED,
        names={task: released_name(task, card.variant) for task, card in cards.items()},
    )


def _eval_result(record: Mapping[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="image-to-image",
        dataset_type=record["dataset"],
        dataset_config=record["task"],
        dataset_name=f"{record['task']} on {record['dataset']}",
        dataset_args={"protocol": record["protocol"], "n": record["n"]},
        metric_type=record["metric"],
        metric_name=f"{record['metric']}, {record['method']}",
        metric_value=round(record["mean"], 4),
        metric_args={"low": record["low"], "high": record["high"]},
    )


def _objections(card: NetworkCard) -> list[str]:
    """Why the authors' code cannot ask a network as it was trained."""
    differs = {
        "is not on FLUX.1-dev": card.backbone.kind != "flux_dev",
        "predicts a residual": card.flow.prediction != "velocity",
        "takes the blurred photograph": card.variant == "direct",
        "isolates its conditions": card.isolate_conditions,
        "takes the defocus map at half its resolution": card.half_control,
    }
    return [f"{card.task.capitalize()}Net {what}" for what, true in differs.items() if true]


def _released(folder: Path) -> dict[NetworkTask, NetworkCard]:
    """Cards of the released files in a folder, on FLUX.1-dev of the Hub."""
    tasks: tuple[NetworkTask, ...] = ("deblur", "bokeh")
    files = {task: folder / released_name(task) for task in tasks}
    return {t: released_card(t, FLUX, file) for t, file in files.items() if file.is_file()}


def _on_flux(card: NetworkCard, flux: str) -> NetworkCard:
    """The card with another place of FLUX.1-dev, if it is on that."""
    if card.backbone.kind != "flux_dev":
        return card
    return replace(card, backbone=replace(card.backbone, path=flux))


def _copy(source: Path, target: Path) -> None:
    with whole(target) as partial:
        shutil.copyfile(source, partial)
