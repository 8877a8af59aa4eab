"""``genrefocus doctor [OVERRIDES...]``: what would stop a run of train.py, found without a GPU."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.markup import escape

from genrefocus.configuration.composing import compose_training, settle_missing
from genrefocus.preflight.files import Finding, check_metrics
from genrefocus.preflight.inputs import find_data, find_inputs, find_parts, find_test_sets

#: what is said of the GPUs that the run is for, in GiB and TFLOP/s: bytes and FLOP/s of one, and
#: an example
_STATED = {"gpu_memory": (1024**3, 80), "tflops": (1e12, 400)}
_STYLE = {"ok": "green", "warning": "yellow", "error": "red"}


def run(args: argparse.Namespace) -> int:
    """Print every finding, as soon as it is found, with what mends it; 1 when there is an error."""
    stated = {one: _stated(one) for one in args.overrides if one.partition("=")[0] in _STATED}
    try:
        config = compose_training([one for one in args.overrides if one not in stated])
        missing = settle_missing(config)
        OmegaConf.resolve(config)
    except (ValueError, OmegaConfBaseException) as error:
        remedy = "python train.py --cfg job prints what there is"
        found = iter([Finding("configuration", "error", " ".join(str(error).split()), remedy)])
    else:
        given = {one.partition("=")[0]: value for one, value in stated.items()}
        found = _look(config, missing, given)
    console, shown = Console(), set[Finding]()
    with console.status("a training step of every stage is taken on shapes: seconds to minutes"):
        for one in found:
            if one not in shown:
                _show(one, console)
            shown.add(one)
    return int(any(one.verdict == "error" for one in shown))


def _show(finding: Finding, console: Console) -> None:
    """In whole lines, so that paths can be copied."""
    found = escape(f"{finding.subject}: {finding.detail}")
    verdict = f"[{_STYLE[finding.verdict]}]{finding.verdict:8}[/]"
    console.print(f"{verdict} {found}", soft_wrap=True, highlight=False)
    if finding.remedy:
        console.print(f"  {finding.remedy}", soft_wrap=True, markup=False, highlight=False)


def _look(
    config: DictConfig, missing: Sequence[str], stated: Mapping[str, float]
) -> Iterator[Finding]:
    """All findings; of values that are missing, that they are, and what does not depend on them."""
    from genrefocus.preflight.cluster import find_cluster
    from genrefocus.preflight.memory import check_training
    from genrefocus.preflight.validation import check_validation

    for key in missing:
        yield Finding(key, "error", f"{config.name} needs it, and it is not given", f"{key}=...")
    yield from _found("configuration", lambda: find_parts(config))
    if not missing:
        yield from _found("inputs", lambda: find_inputs(config))
        yield from _found("data", lambda: find_data(config))
        yield from _found("test sets", lambda: find_test_sets(config))
    yield from _found("validation", lambda: [check_validation(config)])
    gpu, speed = stated.get("gpu_memory"), stated.get("tflops")
    yield from _found("model", lambda: check_training(config, gpu, speed))
    yield from _found("processes", lambda: find_cluster(config))
    yield check_metrics()


def _found(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; one that cannot go on is an error in the table, not its end."""
    try:
        return list(check())
    except (ValueError, OSError, ImportError, HydraException, OmegaConfBaseException) as error:
        remedy = "python train.py --cfg job prints what there is"
        return [Finding(subject, "error", " ".join(str(error).split()), remedy)]


def _stated(given: str) -> float:
    name, _, value = given.partition("=")
    unit, example = _STATED[name]
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"{given}: give a number above 0, such as {name}={example}")
    return number * unit
