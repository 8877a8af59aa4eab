"""What a benchmark measures, from its configuration: data sets, protocols, metrics, methods."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from genrefocus.benchmark.case import Case, Method, Score
from genrefocus.benchmark.cases import CaseSet, CroppedCases, cropped
from genrefocus.benchmark.methods import Classical, Identity, Predictions, RichardsonLucy, Unsharp
from genrefocus.benchmark.protocol import Protocol, load_protocol, read_protocol
from genrefocus.benchmark.runner import Plan, fingerprint_of
from genrefocus.metrics.blur_radius import RADIUS_EDGES, bin_names
from genrefocus.metrics.registry import METRICS
from genrefocus.rejection import Rejected
from genrefocus.wording import counted

_REGISTERED = {
    "lpips": "lpips_alex",
    "clip_iqa": "clipiqa-rn50",
    "maniqa": "maniqa-koniq",
    "musiq": "musiq-koniq",
}
"""Metric of a protocol -> name in the registry, where the two differ."""

_FITTED_EDGE = 256
"""Settings of classical methods are chosen on centres of validation pictures so large, px."""


@dataclass(frozen=True)
class Entry:
    """A data set, its protocol, and who answers it."""

    cases: CaseSet
    protocol: Protocol
    plan: Plan
    methods: list[Method]
    notes: list[str]


@dataclass(frozen=True)
class Own:
    """A method of the user's, under the name that the configuration gives it.

    Raises (when it answers):
        ValueError: it cannot answer; a failure of this case.
        OwnError: anything else that it raises, which ends the benchmark.
    """

    name: str
    method: Method

    @property
    def needs_k(self) -> bool:
        return bool(getattr(self.method, "needs_k", False))

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.method)

    def __call__(self, case: Case) -> Tensor:
        try:
            return self.method(case)
        except (Rejected, ValueError):
            raise
        except Exception as error:
            *_, frame = traceback.extract_tb(error.__traceback__)
            raise OwnError(
                f"{self.name} failed on {case.key}: {type(error).__name__}: {error} "
                f"({frame.filename}, line {frame.lineno})"
            ) from error


class OwnError(Exception):
    """Code of the user's does not work."""


def shown_path(path: str | Path) -> str:
    """Relative to the working directory where it lies in it."""
    absolute = Path(path).absolute()
    inside = absolute.is_relative_to(Path.cwd())
    return absolute.relative_to(Path.cwd()).as_posix() if inside else str(path)


def entry_of(
    one: DictConfig,
    config: DictConfig,
    methods: Sequence[Method],
    origins: Sequence[str],
    console: Console,
) -> Entry:
    """The entry of a data set of the configuration.

    Args:
        one: of ``benchmark.sets``.
        config: all of it.
        methods: for its task, beside the shipped ones and predictions.
        origins: where they come from.
        console: is told what is left out.

    Raises:
        FileNotFoundError, ValueError: the data set, the protocol or predictions cannot be used, or
            a method is not asked as the protocol says.
    """
    cases: CaseSet = instantiate(one.cases)
    protocol = _protocol(one, config)
    if protocol.task != cases.task:
        raise ValueError(f"the protocol of {cases.name} is of {protocol.task}, not {cases.task}")
    if protocol.crop is not None:
        cases = CroppedCases(cases, protocol.crop)
    for method in methods:
        _require_asked_alike(method, protocol)
    plan, protocol = _plan(protocol, cases)
    classical = _classical(one, cases, console)
    everyone = [Identity(), *classical, *methods, *_predictions(config, cases, console)]
    notes = [] if config.limit is None else [f"limit={config.limit}: the first pictures alone"]
    notes += [repr(method) for method in classical if one.cases.task == "deblur"]
    names = {method.name for method in methods}
    notes += [origin for origin in origins if origin.partition(":")[0] in names]
    return Entry(cases, protocol, plan, everyone, notes)


def _predictions(config: DictConfig, cases: CaseSet, console: Console) -> list[Method]:
    """Of those that have a folder for this data set."""
    found: list[Method] = []
    for name, root in config.predictions.items():
        folder = Path(root) / cases.task / cases.name
        if not Path(root).is_dir():
            raise FileNotFoundError(f"predictions of {name}: {root} does not exist")
        if folder.is_dir():
            found.append(Predictions(str(name), folder))
        else:
            console.print(
                f"{name} has no answers for {cases.task}: no {folder}", soft_wrap=True, markup=False
            )
    return found


def _protocol(one: DictConfig, config: DictConfig) -> Protocol:
    if (file := config.protocols.get(one.cases.task)) is not None:
        return read_protocol(file)
    return load_protocol(*str(one.protocol).split("/", 1))


def _require_asked_alike(method: Method, protocol: Protocol) -> None:
    """
    Raises:
        ValueError: prompt or steps of a network differ from the protocol's.
    """
    for stage, (prompt, steps) in getattr(method, "asked", {}).items():
        differing = []
        if protocol.prompts.get(stage, prompt) != prompt:
            differing.append(f"the prompt {prompt!r}, the protocol {protocol.prompts[stage]!r}")
        if protocol.steps not in (None, steps):
            differing.append(f"{counted(steps, 'sampling step')}, the protocol {protocol.steps}")
        if differing:
            raise ValueError(
                f"{method.name} ({stage}) has {' and '.join(differing)}: figures would not be of "
                f"{protocol.task} on {protocol.dataset.name}; to measure it all the same, copy the "
                f"protocol file, change it, and name it: +protocols.{protocol.task}=FILE"
            )


def _plan(protocol: Protocol, cases: CaseSet) -> tuple[Plan, Protocol]:
    """What is measured, and the protocol with what was found on this machine."""
    scored: dict[str, Score] = {}
    unavailable: dict[str, str] = {}
    found: dict[str, tuple[str, str | None]] = {}
    for name in protocol.metrics:
        if name == "lvcorr":  # of a series over K, which the runner makes
            continue
        info = METRICS[_REGISTERED.get(name, name)]
        if (why := info.available()) is None:
            scored[name], found[name] = _Scored(info.name), (info.implementation, info.weights())
        else:
            unavailable[name] = why
    protocol = protocol.filled(name=cases.name, fingerprint=cases.fingerprint, found=found)
    by_radius: dict[float, Score] = {}
    if "blur_radius_error" in scored:
        by_radius = {
            middle: _Scored(f"blur_radius_error_{name}")
            for middle, name in zip(_middles(), bin_names(RADIUS_EDGES), strict=True)
        }
    control = "lvcorr" in protocol.metrics
    return Plan(scored, unavailable, protocol.k_search, control, protocol.hash, by_radius), protocol


def _middles() -> list[float]:
    """Of the bins of asked radius; the last has no end and is taken as wide as it begins."""
    edges = [0.0, *RADIUS_EDGES, 2 * RADIUS_EDGES[-1]]
    return [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True)
class _Scored:
    """A metric of the registry on an answer.

    Regions of the target are those of its own K, whatever K the answer was asked with, so that all
    methods are measured on the same pixels; obedience is to the K that was asked for.
    """

    name: str

    def __call__(self, answer: Tensor, case: Case) -> float:
        metric = METRICS[self.name]
        of_target = "target" in metric.needs and case.target_strength is not None
        return metric(
            answer,
            target=case.target,
            aif=case.aif,
            disparity=case.disparity,
            focus_disparity=case.focus_disparity,
            strength=case.target_strength if of_target else case.strength,
        )


def _classical(one: DictConfig, cases: CaseSet, console: Console) -> list[Method]:
    if cases.task != "deblur":
        return [Classical("scatter"), Classical("layered")]
    if (
        one.validation is None
        or OmegaConf.select(one, "validation.source.root", default="") is None
    ):
        console.print(
            f"{cases.name} has no validation pictures to choose settings of classical methods on: "
            "no rows for unsharp and richardson_lucy",
            soft_wrap=True,
            markup=False,
        )
        return []
    validation: CaseSet = instantiate(one.validation)
    pictures = [validation[key] for key in validation.keys]
    edges = [min(*(case.size[axis] for case in pictures), _FITTED_EDGE) for axis in (0, 1)]
    fitted = [cropped(case, (edges[0], edges[1])) for case in pictures]
    return [Unsharp.fitted(fitted), RichardsonLucy.fitted(fitted)]
