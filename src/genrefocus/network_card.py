"""The card beside a trained LoRA: the facts of its training that sampling needs.

Training writes ``network.json`` next to every LoRA file; inference reads the two together and
nothing else of a run.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from genrefocus.flow import Flow
from genrefocus.runs import latest_of
from genrefocus.sampling import DraftIds
from genrefocus.terminal import counted
from genrefocus.writing import write_json

FILE_NAME = "network.json"
VERSION = 2

# Prompts and settings of the released networks (released inference code).
DEBLUR_PROMPT = "a sharp photo with everything in focus"
DEBLUR_GUIDANCE = 3.5
BOKEH_PROMPT = "an excellent photo with a large aperture"
BOKEH_GUIDANCE = 1.0
STEPS = 28

#: fields of a card whose value "true" is in the metadata of the LoRA file too
TRAINED_OPTIONS = ("isolate_conditions", "half_control")

NetworkTask = Literal["deblur", "bokeh"]
BackboneKind = Literal["tiny", "flux_dev"]
NetworkVariant = Literal["standard", "pre_deblur", "told", "direct"]


@dataclass(frozen=True)
class BackboneSource:
    """Where the frozen weights below a LoRA come from.

    Attributes:
        kind: ``tiny`` or ``flux_dev``.
        path: weight file of a tiny backbone; folder or hub id of FLUX.
        sha256: of a tiny backbone's weight file; :func:`write_network_card` fills it in.
        quantise: how they were quantised when the LoRA was trained, see ``quantise_blocks``; None:
            not at all.
    """

    kind: BackboneKind
    path: str
    sha256: str | None = None
    quantise: str | None = None


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
        rank: of the LoRA; None takes that of the file.
        lora: path of the LoRA file; on disk its name, as it lies beside the card.
        shape_lora: the same of the second LoRA of a BokehNet that can be told the shape of the
            aperture; None: it cannot.
        variant: ``pre_deblur`` has a deblurred draft as a further condition; ``told`` takes the
            defocus map of the photograph as one, and does without; ``direct`` is a BokehNet that
            takes the blurred photograph in place of the all-in-focus image.
        isolate_conditions, draft_ids, half_control: see :class:`genrefocus.denoiser.Denoiser`.
        trained_steps: optimizer steps that it was trained for; None where that was not noted.
        largest_radius: in the defocus maps of its training, px; None where that was not noted.
        restored_radius: px of blur that the all-in-focus images of the photographs lacked, see
            :func:`genrefocus.optics.lacking_radius`, which a BokehNet was trained on
            (``k_label=reblurred``); None: they were taken for sharp.
        depth: estimators of the depth in its training, by name; of relative depth with the range of
            metres that was assumed. None: its depth was exact or simulated, or that was not noted.
        trial: of a run with ``debug=...``, which shows that a set-up runs, and no quality.
        written: UTC time of writing, ISO 8601; :func:`write_network_card` fills it in.

    Raises:
        ValueError: an unknown task, backbone kind or variant.
    """

    task: NetworkTask
    backbone: BackboneSource
    flow: Flow
    prompt: str
    guidance: float
    steps: int
    rank: int | None
    lora: str
    variant: NetworkVariant = "standard"
    isolate_conditions: bool = False
    draft_ids: DraftIds = "shifted"
    half_control: bool = False
    trained_steps: int | None = None
    largest_radius: float | None = None
    restored_radius: float | None = None
    depth: str | None = None
    trial: bool = False
    written: str = ""
    shape_lora: str | None = None

    @property
    def loras(self) -> list[str]:
        """Paths of its LoRA files."""
        return [one for one in (self.lora, self.shape_lora) if one is not None]

    def __post_init__(self) -> None:
        for name, value, known in (
            ("task", self.task, NetworkTask),
            ("backbone kind", self.backbone.kind, BackboneKind),
            ("variant", self.variant, NetworkVariant),
            ("draft ids", self.draft_ids, DraftIds),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name} '{value}' unknown: use {' or '.join(get_args(known))}")


def released_card(
    task: NetworkTask,
    flux: str,
    lora: str | Path,
    *,
    steps: int = STEPS,
    variant: NetworkVariant = "standard",
    shape_lora: str | Path | None = None,
) -> NetworkCard:
    """The card of a LoRA file on FLUX.1-dev in the released format, with the release's settings.

    Args:
        task: what the file was trained for.
        flux: folder or hub id of FLUX.1-dev.
        lora: the file.
        steps: Euler steps.
        variant, shape_lora: see :class:`NetworkCard`.
    """
    deblur = task == "deblur"
    return NetworkCard(
        task=task,
        backbone=BackboneSource("flux_dev", flux),
        flow=Flow(),
        prompt=DEBLUR_PROMPT if deblur else BOKEH_PROMPT,
        guidance=DEBLUR_GUIDANCE if deblur else BOKEH_GUIDANCE,
        steps=steps,
        rank=None,
        lora=str(lora),
        variant=variant,
        draft_ids="released",
        shape_lora=None if shape_lora is None else str(shape_lora),
    )


def released_name(task: NetworkTask, variant: NetworkVariant = "standard") -> str:
    """File name of a LoRA in the release."""
    return f"{task}Net{'_with_pre_deblur' if variant == 'pre_deblur' else ''}.safetensors"


def write_network_card(folder: str | Path, card: NetworkCard, name: str = FILE_NAME) -> Path:
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
    written = datetime.now(UTC).isoformat()
    card = replace(_placed(card, lambda path: Path(path).name), backbone=source, written=written)
    target = folder / name
    write_json(target, {"version": VERSION, **asdict(card)})
    return target


def read_network_card(path: str | Path) -> NetworkCard:
    """The card in ``path``, a folder or the file itself, with absolute paths.

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
    folder = file.resolve().parent
    card = _placed(card, lambda name: str(folder / name))
    if card.backbone.kind == "tiny":
        absolute = str((folder / card.backbone.path).resolve())
        card = replace(card, backbone=replace(card.backbone, path=absolute))
    return card


def require_backbone(card: NetworkCard) -> BackboneSource:
    """The card's backbone, after a check that a tiny one is there and the one it was trained on.

    Raises:
        FileNotFoundError: the weight file is missing.
        ValueError: it has changed since.
    """
    source = card.backbone
    if source.kind == "tiny":
        file = Path(card.lora).parent / FILE_NAME
        if not Path(source.path).is_file():
            raise FileNotFoundError(
                f"{file}: its base weights {source.path} do not exist; "
                "put them there or mend backbone.path in the card"
            )
        if _sha256(Path(source.path)) != source.sha256:
            raise ValueError(
                f"{file}: its LoRA was trained on other base weights than {source.path} now holds; "
                "restore these, or train again with: make train"
            )
    return source


def networks_of(run: str | Path) -> dict[NetworkTask, NetworkCard]:
    """The networks of a run, by task: of several with one task the one that was written last.

    A card counts when its LoRA file is there. ``run`` may also be the folder of one stage, or one
    that was exported (``genrefocus.hub``), whose cards have the names of their LoRA files.
    """
    run, found = Path(run), dict[NetworkTask, NetworkCard]()
    patterns = (FILE_NAME, f"*/{FILE_NAME}", "*Net*.json")
    for file in sorted(file for pattern in patterns for file in run.glob(pattern)):
        card = read_network_card(file)
        rival = found.get(card.task)
        there = all(Path(one).is_file() for one in card.loras)
        if there and (not rival or rival.written < card.written):
            found[card.task] = card
    return found


def require_deblurnet(cards: Mapping[NetworkTask, NetworkCard], run: str | Path) -> NetworkCard:
    """The DeblurNet of a run.

    Raises:
        FileNotFoundError: there is none.
    """
    if "deblur" not in cards:
        raise FileNotFoundError(
            f"{run} has no DeblurNet: no network.json of one with its LoRA file; train it, name a "
            "run that has one as well, or leave deblurring out"
        )
    return cards["deblur"]


def require_shape(card: NetworkCard) -> None:
    """
    Raises:
        ValueError: the network is not one that can be told the shape of the aperture.
    """
    if card.shape_lora is None:
        raise ValueError(
            f"{card.lora} has no second LoRA beside it that knows shapes of apertures; name the "
            "run of experiment=aperture_shape as well (--run latest --run FOLDER), or train one "
            f"with: python train.py experiment=aperture_shape inputs.frozen_bokeh_lora={card.lora}"
        )


def latest_run(
    outputs: str | Path, tasks: Iterable[NetworkTask] = ("deblur", "bokeh"), *, option: str = "run="
) -> Path:
    """The run below ``outputs`` that was written to last, of those with networks for all ``tasks``.

    A BokehNet of variant ``direct`` needs no DeblurNet beside it. ``option`` gives another run's
    folder, see :func:`runs.latest_of`.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    wanted = set(tasks)

    def complete(run: Path) -> bool:
        networks = networks_of(run)
        bokeh = networks.get("bokeh")
        direct = bokeh is not None and bokeh.variant == "direct"
        return (wanted - {"deblur"} if direct else wanted) <= set(networks)

    wish = f"networks for {' and '.join(sorted(wanted))}"
    return latest_of(outputs, complete, wish, option)


def described(cards: Mapping[NetworkTask, NetworkCard]) -> str:
    """What the networks of a run are, in a line: ``deblur 1200 steps, bokeh 300 steps``."""
    parts = [
        f"{task} {counted(card.trained_steps, 'step') if card.trained_steps else '? steps'}"
        for task, card in cards.items()
    ]
    trial = any(card.trial for card in cards.values())
    return ", ".join(parts) + (", a trial (debug=...)" if trial else "")


def _placed(card: NetworkCard, place: Callable[[str], str]) -> NetworkCard:
    """A card with the paths of its LoRA files in another form."""
    shape = card.shape_lora
    return replace(card, lora=place(card.lora), shape_lora=shape if shape is None else place(shape))


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"backbone weights {path} do not exist")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
