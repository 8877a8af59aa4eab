"""The card beside a trained LoRA: what sampling has to know about how the network was trained.

Training writes ``network.json`` next to every LoRA file; inference reads the two together and
nothing else of a run.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from genrefocus.flow import Flow
from genrefocus.runs import latest_of
from genrefocus.sampling import DraftIds
from genrefocus.writing import write_json

FILE_NAME = "network.json"
VERSION = 1

Task = Literal["deblur", "bokeh"]
BackboneKind = Literal["tiny", "flux_dev"]
Variant = Literal["standard", "pre_deblur", "direct"]


@dataclass(frozen=True)
class BackboneSource:
    """Where the frozen weights below a LoRA come from.

    Attributes:
        kind: ``tiny`` or ``flux_dev``.
        path: weight file of a tiny backbone; folder or hub id of FLUX.
        sha256: of a tiny backbone's weight file; :func:`write_network_card` fills it in.
    """

    kind: BackboneKind
    path: str
    sha256: str | None = None


@dataclass(frozen=True)
class NetworkCard:
    """One trained network.

    Attributes:
        task: ``deblur`` or ``bokeh``.
        backbone: what the LoRA was trained on.
        flow: path and parametrisation it was trained with.
        prompt: for photographs without their own.
        guidance: guidance value of the noisy image.
        steps: Euler steps.
        rank: of the LoRA.
        lora_file: name of the LoRA file in the card's folder.
        variant: ``pre_deblur`` has a deblurred draft as a further condition; ``direct`` is a
            BokehNet that takes the blurred photograph in place of the all-in-focus image.
        independent: conditions attend to themselves only.
        draft_ids: position ids of the draft where large images are cut, see ``sampling.Tiling``.
        trained_steps: optimizer steps that it was trained for; None where that was not noted.
        largest_radius: in the defocus maps of its training, px; None where that was not noted.
        trial: of a run with ``debug=...``, which shows that a set-up runs, and no quality.
        written: UTC time of writing, ISO 8601; :func:`write_network_card` fills it in.

    Raises:
        ValueError: an unknown task, backbone kind or variant.
    """

    task: Task
    backbone: BackboneSource
    flow: Flow
    prompt: str
    guidance: float
    steps: int
    rank: int
    lora_file: str
    variant: Variant = "standard"
    independent: bool = False
    draft_ids: DraftIds = "shifted"
    trained_steps: int | None = None
    largest_radius: float | None = None
    trial: bool = False
    written: str = ""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, Task),
            ("backbone kind", self.backbone.kind, BackboneKind),
            ("variant", self.variant, Variant),
            ("draft ids", self.draft_ids, DraftIds),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name} '{value}' unknown: use {' or '.join(get_args(known))}")


@dataclass(frozen=True)
class Network:
    """A card and the folder it was found in."""

    folder: Path
    card: NetworkCard

    @property
    def lora(self) -> Path:
        return self.folder / self.card.lora_file


def write_network_card(folder: str | Path, card: NetworkCard) -> Path:
    """Write ``network.json`` into the folder of the LoRA file, atomically.

    A tiny backbone is recorded with its checksum, and relative to the folder, so that a checkout
    can be moved; a local FLUX folder by its absolute path; a hub id as it is.

    Raises:
        FileNotFoundError: the tiny backbone's weight file does not exist.
    """
    folder = Path(folder).resolve()
    source = card.backbone
    path = Path(source.path).resolve()
    if source.kind == "tiny":
        relative = Path(os.path.relpath(path, folder)).as_posix()
        source = replace(source, path=relative, sha256=_sha256(path))
    elif path.is_dir():
        source = replace(source, path=str(path))
    card = replace(card, backbone=source, written=datetime.now(UTC).isoformat())
    target = folder / FILE_NAME
    write_json(target, {"version": VERSION, **asdict(card)})
    return target


def read_network_card(path: str | Path) -> NetworkCard:
    """The card in ``path``, a folder or the file itself; a tiny backbone's path comes out absolute.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a card, or fields that this version does not know.
    """
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; training writes it beside the LoRA")
    try:
        fields = json.loads(file.read_text())
        version = fields.pop("version", None)
        if version != VERSION:
            raise ValueError(f"version {version}, this code reads version {VERSION}")
        card = NetworkCard(
            **{
                **fields,
                "backbone": BackboneSource(**fields["backbone"]),
                "flow": Flow(**fields["flow"]),
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is no network card: {error}") from error
    if card.backbone.kind == "tiny":
        absolute = (file.resolve().parent / card.backbone.path).resolve()
        card = replace(card, backbone=replace(card.backbone, path=str(absolute)))
    return card


def require_backbone(network: Network) -> BackboneSource:
    """The network's backbone, after a check that a tiny one is there and the one it was trained on.

    Raises:
        FileNotFoundError: the weight file is missing.
        ValueError: it has changed since.
    """
    source = network.card.backbone
    if source.kind == "tiny":
        card = network.folder / FILE_NAME
        if not Path(source.path).is_file():
            raise FileNotFoundError(
                f"{card}: its base weights {source.path} do not exist; "
                "put them there or mend backbone.path in the card"
            )
        if _sha256(Path(source.path)) != source.sha256:
            raise ValueError(
                f"{card}: its LoRA was trained on other base weights than {source.path} now holds; "
                "restore these, or train again with: make train"
            )
    return source


def networks_of(run: str | Path) -> dict[Task, Network]:
    """The networks of a run, by task: of several with one task the one that was written last.

    A card counts when its LoRA file is there. ``run`` may also be the folder of one stage.
    """
    run = Path(run)
    return _newest(sorted([*run.glob(FILE_NAME), *run.glob(f"*/{FILE_NAME}")]))


def latest_run(outputs: str | Path, tasks: Iterable[Task] = ("deblur", "bokeh")) -> Path:
    """The run below ``outputs`` that was written to last, of those with networks for all ``tasks``.

    A BokehNet of variant ``direct`` needs no DeblurNet beside it. See :func:`runs.latest_of`.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    wanted = set(tasks)

    def complete(run: Path) -> bool:
        networks = networks_of(run)
        bokeh = networks.get("bokeh")
        direct = bokeh is not None and bokeh.card.variant == "direct"
        return (wanted - {"deblur"} if direct else wanted) <= set(networks)

    return latest_of(outputs, complete, f"networks for {' and '.join(sorted(wanted))}")


def described(networks: Mapping[Task, Network]) -> str:
    """What the networks of a run are, in a line: ``deblur 1200 steps, bokeh 300 steps``."""
    parts = [
        f"{task} {network.card.trained_steps or '?'} steps" for task, network in networks.items()
    ]
    return ", ".join(parts) + (", a trial (debug=...)" if _is_trial(networks) else "")


def _is_trial(networks: Mapping[Task, Network]) -> bool:
    return any(network.card.trial for network in networks.values())


def _newest(files: Iterable[Path]) -> dict[Task, Network]:
    found: dict[Task, Network] = {}
    for file in files:
        network = Network(file.parent, read_network_card(file))
        rival = found.get(network.card.task)
        if network.lora.is_file() and (not rival or rival.card.written < network.card.written):
            found[network.card.task] = network
    return found


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"backbone weights {path} do not exist")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
