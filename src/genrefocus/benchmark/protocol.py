"""What was measured and how, as a file with a hash: figures of two hashes are not compared."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from genrefocus.benchmark.case import BenchmarkTask
from genrefocus.k_search import KRange
from genrefocus.writing import write_atomically

MOST_RENDERINGS = 12
"""Of a search of K, so that every method is asked as often."""

_STRICT = ConfigDict(extra="forbid", strict=True)
_FOLDER = resources.files("genrefocus.benchmark") / "protocols"


@dataclass(frozen=True, config=_STRICT)
class ProtocolDataset:
    """A data set: the name in rows and files, and what identifies the images that were read.

    Attributes:
        name: without ``-``.
        fingerprint: None until a run fills it in.
    """

    name: str
    fingerprint: str | None = None


@dataclass(frozen=True, config=_STRICT)
class ProtocolMetric:
    """A metric by its implementation, since two of one name are different networks.

    Attributes:
        implementation: network and version, such as "lpips 0.1, AlexNet".
        better: which direction is an improvement.
        weights: hash of the weights; None where there are none, and until a run fills it in.
    """

    implementation: str
    better: Literal["higher", "lower"]
    weights: str | None = None


@dataclass(frozen=True, config=_STRICT)
class BenchmarkProtocol:
    """Everything that a figure depends on besides the method.

    Attributes:
        task: ``deblur``, ``bokeh`` or ``refocus``.
        version: raised with every change of the file.
        dataset: name and fingerprint.
        resolution: at which size images are compared.
        colour_space, bit_depth: of what metrics see.
        crop: height and width of a centre crop in px; None for whole images.
        prompts: stage -> text, for methods that take one.
        steps: of the sampler, for methods that have one; None where each method states its own.
        seed: of every draw.
        k_search: where K is searched for, the same for every method; None where it is not.
        metrics: name -> implementation.

    Raises:
        ValueError: a value of another type or outside its range.
    """

    task: BenchmarkTask
    version: int
    dataset: ProtocolDataset
    resolution: str
    colour_space: str
    bit_depth: int
    crop: tuple[int, int] | None
    prompts: Mapping[str, str]
    steps: int | None
    seed: int
    k_search: KRange | None
    metrics: Mapping[str, ProtocolMetric]

    def __post_init__(self) -> None:
        if self.k_search is not None and self.k_search.budget > MOST_RENDERINGS:
            raise ValueError(
                f"k_search.budget is {self.k_search.budget}; give at most {MOST_RENDERINGS}"
            )

    @property
    def hash(self) -> str:
        """sha256 of the protocol as canonical JSON, hexadecimal."""
        text = json.dumps(
            asdict(self),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def higher_is_better(self, metric: str) -> bool:
        """Direction of a metric; ValueError where the protocol does not name it."""
        self.require_metric(metric)
        return self.metrics[metric].better == "higher"

    def require_metric(self, metric: str) -> None:
        """ValueError where the protocol does not name a metric."""
        if metric not in self.metrics:
            raise ValueError(
                f"the protocol of {self.task} on {self.dataset.name} has no metric {metric}; "
                f"it has {', '.join(self.metrics)}"
            )

    def filled(
        self, *, name: str, fingerprint: str, found: Mapping[str, tuple[str, str | None]]
    ) -> "BenchmarkProtocol":
        """The protocol of a run: data set, implementations and weights are those that were used.

        Args:
            name: of the data set, which may be another than the protocol was written for.
            fingerprint: of the data set.
            found: metric -> its implementation and the hash of its weights, None where it has
                none; metrics that are not named stay as they are.

        Raises:
            ValueError: a metric that the protocol does not have, or ``-`` in the name.
        """
        if "-" in name:
            raise ValueError(
                f"data set {name}: use _ in place of -, which separates parts of names"
            )
        metrics = dict(self.metrics)
        for metric, (implementation, weights) in found.items():
            self.require_metric(metric)
            metrics[metric] = replace(
                metrics[metric], implementation=implementation, weights=weights
            )
        return replace(self, dataset=ProtocolDataset(name, fingerprint), metrics=metrics)


def available_protocols() -> list[tuple[str, str]]:
    """(task, data set) of every protocol that comes with the package."""
    names = sorted(file.name for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))
    pairs = (name.removesuffix(".yaml").split("-", 1) for name in names)
    return [(task, dataset) for task, dataset in pairs]


def load_protocol(task: str, dataset: str) -> BenchmarkProtocol:
    """A protocol that comes with the package.

    Raises:
        ValueError: there is none.
    """
    if (task, dataset) not in available_protocols():
        known = ", ".join("/".join(pair) for pair in available_protocols())
        raise ValueError(f"no protocol for {task}/{dataset}; there are {known}")
    name = f"{task}-{dataset}.yaml"
    return _parse((_FOLDER / name).read_text(encoding="utf-8"), name)


def protocol_at_given_k(
    task: BenchmarkTask, dataset: str, metrics: Iterable[str], *, crop: int | None, seed: int
) -> BenchmarkProtocol:
    """The protocol of a set whose K is known; each network states its own prompt and steps.

    Args:
        task, dataset: what is measured.
        metrics: names.
        crop: edge of a centre crop in px; None for whole images.
        seed: of the noise.
    """
    from genrefocus.metrics.registry import METRICS  # it imports what commands wait for

    # Only LVCorr, of a series over K, is not in the registry.
    better: dict[str, Any] = {
        n: METRICS[n].direction if n in METRICS else "higher" for n in metrics
    }
    return BenchmarkProtocol(
        task,
        version=1,
        dataset=ProtocolDataset(dataset),
        resolution="the size of the samples",
        colour_space="sRGB",
        bit_depth=8,
        crop=None if crop is None else (crop, crop),
        prompts={},
        steps=None,
        seed=seed,
        k_search=None,
        metrics={name: ProtocolMetric(f"genrefocus {name}", best) for name, best in better.items()},
    )


def read_protocol(path: str | Path) -> BenchmarkProtocol:
    """A protocol file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or lacks a field or has one too many.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no protocol in {path}")
    return _parse(Path(path).read_text(encoding="utf-8"), str(path))


def write_protocol(protocol: BenchmarkProtocol, path: str | Path) -> None:
    """Write a protocol so that :func:`read_protocol` gives an equal one, with the same hash."""
    plain = json.loads(json.dumps(asdict(protocol)))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    write_atomically(Path(path), text.encode())


def difference(a: BenchmarkProtocol, b: BenchmarkProtocol) -> list[str]:
    """What differs, a line for each field: ``metrics.lpips.weights: "0ab1" and "77fe"``."""
    first, second = dict(_leaves(asdict(a))), dict(_leaves(asdict(b)))
    return [
        f"{name}: {first.get(name, 'absent')} and {second.get(name, 'absent')}"
        for name in {**first, **second}
        if first.get(name) != second.get(name)
    ]


def require_same(a: BenchmarkProtocol, b: BenchmarkProtocol) -> None:
    """Refuse protocols that differ.

    Raises:
        ValueError: they do; the message says in what.
    """
    if a.hash != b.hash:
        lines = "; ".join(difference(a, b))
        raise ValueError(
            f"the protocols of {a.task} on {a.dataset.name} differ in {lines}; measure both under "
            "one protocol to compare them"
        )


def _leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and value as JSON of everything that is no mapping, or an empty one."""
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, json.dumps(value, ensure_ascii=False)


def _parse(text: str, name: str) -> BenchmarkProtocol:
    try:
        record = yaml.safe_load(text)
        return TypeAdapter(BenchmarkProtocol).validate_json(json.dumps(record))
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from None
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, one['loc']))} is {one['input']!r}: {one['msg']}"
            for one in error.errors()
        ]
        raise ValueError(f"{name}: {'; '.join(wrong)}") from None
