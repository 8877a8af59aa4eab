"""What was measured and how, as a file with a hash: figures of two hashes are never compared."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from genrefocus.benchmark.case import TASKS, Task
from genrefocus.writing import write_atomically

Better = Literal["higher", "lower"]
LEAST_EVALUATIONS, MOST_EVALUATIONS = 8, 12


@dataclass(frozen=True)
class Dataset:
    """A data set: the name in rows and files, and what identifies the pictures that were read.

    Attributes:
        name: without ``-``.
        fingerprint: None until a run fills it in.
    """

    name: str
    fingerprint: str | None = None


@dataclass(frozen=True)
class Metric:
    """A metric by its implementation, since two of one name are different networks.

    Attributes:
        implementation: network and version, such as "lpips 0.1, AlexNet".
        better: which direction is an improvement.
        weights: hash of the weights; None where there are none, and until a run fills it in.
    """

    implementation: str
    better: Better
    weights: str | None = None


@dataclass(frozen=True)
class SearchRange:
    """Where K is searched for, the same for every method.

    Attributes:
        least_radius, largest_radius: bounds of K, as the largest blur radius in parts of the long
            edge; see ``k_search.k_bounds``.
        budget: most renderings of a search, 8 to 12.
    """

    least_radius: float
    largest_radius: float
    budget: int


@dataclass(frozen=True)
class Protocol:
    """Everything that a figure depends on besides the method.

    Attributes:
        task: ``deblur``, ``bokeh`` or ``refocus``.
        version: raised with every change of the file.
        dataset: name and fingerprint.
        resolution: at which size pictures are compared.
        colour_space, bit_depth: of what metrics see.
        crop: height and width of a centre crop in px; None for whole pictures.
        prompts: stage -> text, for methods that take one.
        steps: of the sampler, for methods that have one; None where each method states its own.
        seed: of every draw.
        k_search: None where no K is searched for.
        metrics: name -> implementation.

    Raises:
        ValueError: a value outside its range.
    """

    task: Task
    version: int
    dataset: Dataset
    resolution: str
    colour_space: str
    bit_depth: int
    crop: tuple[int, int] | None
    prompts: Mapping[str, str]
    steps: int | None
    seed: int
    k_search: SearchRange | None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task is {self.task!r}; choose from {', '.join(TASKS)}")
        for name, metric in self.metrics.items():
            if metric.better not in get_args(Better):
                raise ValueError(f"metric {name} is better {metric.better!r}, not higher or lower")
        search = self.k_search
        if search is None:
            return
        if not 0 < search.least_radius < search.largest_radius < 1:
            raise ValueError(
                "k_search needs 0 < least_radius < largest_radius < 1, got "
                f"{search.least_radius} and {search.largest_radius}"
            )
        if not LEAST_EVALUATIONS <= search.budget <= MOST_EVALUATIONS:
            raise ValueError(
                f"k_search.budget is {search.budget}; give {LEAST_EVALUATIONS} to "
                f"{MOST_EVALUATIONS} evaluations"
            )

    @property
    def hash(self) -> str:
        """sha256 of the protocol as canonical JSON, hexadecimal."""
        text = json.dumps(
            _plain(self),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def higher_is_better(self, metric: str) -> bool:
        """Direction of a metric; ValueError where the protocol does not name it."""
        if metric not in self.metrics:
            raise ValueError(
                f"the protocol of {self.task} on {self.dataset.name} has no metric {metric}; "
                f"it has {', '.join(self.metrics)}"
            )
        return self.metrics[metric].better == "higher"

    def filled(
        self, *, name: str, fingerprint: str, found: Mapping[str, tuple[str, str | None]]
    ) -> "Protocol":
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
        for metric in found:
            self.higher_is_better(metric)
        metrics = dict(self.metrics)
        for metric, (implementation, weights) in found.items():
            metrics[metric] = replace(
                metrics[metric], implementation=implementation, weights=weights
            )
        return replace(self, dataset=Dataset(name, fingerprint), metrics=metrics)


def available_protocols() -> tuple[tuple[str, str], ...]:
    """(task, data set) of every protocol that comes with the package."""
    names = sorted(
        path.name.removesuffix(".yaml")
        for path in _folder().iterdir()
        if path.name.endswith(".yaml")
    )
    pairs = [name.split("-", 1) for name in names]
    return tuple((task, dataset) for task, dataset in pairs)


def load_protocol(task: str, dataset: str) -> Protocol:
    """A protocol that comes with the package.

    Raises:
        ValueError: there is none.
    """
    if (task, dataset) not in available_protocols():
        known = ", ".join("/".join(pair) for pair in available_protocols())
        raise ValueError(f"no protocol for {task}/{dataset}; there are {known}")
    name = f"{task}-{dataset}.yaml"
    return _parse((_folder() / name).read_text(encoding="utf-8"), name)


def read_protocol(path: str | Path) -> Protocol:
    """A protocol file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or lacks a field or has one too many.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no protocol in {path}")
    return _parse(Path(path).read_text(encoding="utf-8"), str(path))


def write_protocol(protocol: Protocol, path: str | Path) -> None:
    """Write a protocol so that :func:`read_protocol` gives an equal one, with the same hash."""
    text = yaml.safe_dump(_plain(protocol), sort_keys=False, allow_unicode=True, width=100)
    write_atomically(Path(path), text.encode())


def difference(a: Protocol, b: Protocol) -> list[str]:
    """What differs, a line for each field: ``metrics.lpips.weights: 0ab1 and 77fe``."""
    first, second = dict(_leaves(_plain(a))), dict(_leaves(_plain(b)))
    names = [*first, *(name for name in second if name not in first)]
    return [
        f"{name}: {_shown(first, name)} and {_shown(second, name)}"
        for name in names
        if _shown(first, name) != _shown(second, name)
    ]


def require_same(a: Protocol, b: Protocol) -> None:
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


def _folder() -> Any:
    return resources.files("genrefocus.benchmark") / "protocols"


def _plain(protocol: Protocol) -> dict[str, Any]:
    record = asdict(protocol)
    record["crop"] = None if protocol.crop is None else list(protocol.crop)
    record["prompts"] = dict(protocol.prompts)
    return record


def _leaves(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    return json.dumps(leaves[name], ensure_ascii=False) if name in leaves else "absent"


def _parse(text: str, name: str) -> Protocol:
    try:
        record = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is no YAML: {error}") from None
    try:
        return _protocol(record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def _protocol(record: object) -> Protocol:
    found = _fields(Protocol, record, "protocol")
    metrics = _mapping(found["metrics"], "metrics")
    search = found["k_search"]
    return Protocol(
        **{
            **found,
            "task": _is(found["task"], str, "task"),
            "version": _is(found["version"], int, "version"),
            "dataset": Dataset(**_fields(Dataset, found["dataset"], "dataset")),
            "crop": None if found["crop"] is None else _crop(found["crop"]),
            "prompts": _mapping(found["prompts"], "prompts"),
            "k_search": None if search is None else _search(search),
            "metrics": {
                key: Metric(**_fields(Metric, value, f"metrics.{key}"))
                for key, value in metrics.items()
            },
        }
    )


def _search(record: object) -> SearchRange:
    found = _fields(SearchRange, record, "k_search")
    return SearchRange(
        least_radius=float(_is(found["least_radius"], (int, float), "least_radius")),
        largest_radius=float(_is(found["largest_radius"], (int, float), "largest_radius")),
        budget=_is(found["budget"], int, "k_search.budget"),
    )


def _crop(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or [type(edge) for edge in value] != [int, int]:
        raise ValueError(f"crop is {value!r}; give [height, width] in px, or null")
    return value[0], value[1]


def _fields(cls: type, record: object, name: str) -> dict[str, Any]:
    """The fields of a record, none missing and none too many."""
    found = _mapping(record, name)
    wanted = {one.name for one in fields(cls)}
    for problem, names in (("lacks", wanted - set(found)), ("does not know", set(found) - wanted)):
        if names:
            raise ValueError(f"{name} {problem} {', '.join(sorted(map(str, names)))}")
    return found


def _mapping(value: object, name: str) -> dict[str, Any]:
    return _is(value, dict, name)


def _is(value: Any, kind: type | tuple[type, ...], name: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, which is no value for it")
    return value
