"""The configuration of ``train.py`` for commands that look at it before a run."""

import copy
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

# For the files in conf/.
OmegaConf.register_new_resolver("checkout", lambda: str(checkout()), replace=True)
OmegaConf.register_new_resolver("add", lambda *numbers: sum(numbers), replace=True)


def run_application(application: Callable[[], None], name: str) -> None:
    """Run a Hydra application; what is wrong with its overrides is one line and exit status 2."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on instead of printing
    try:
        application()
    except InstantiationException as error:
        if not isinstance(error.__cause__, (ValueError, OSError)):
            raise
        print(f"{name}: {error.__cause__}", file=sys.stderr)
        sys.exit(2)
    except (HydraException, OmegaConfBaseException) as error:
        command = f"python {name}" if name.endswith(".py") else f"{name} route=..."
        hint = "" if "resume=" in str(error) else f" ({command} --cfg job prints all there is)"
        print(f"{name}: {_in_a_line(error)}{hint}", file=sys.stderr)
        sys.exit(2)


def _in_a_line(error: Exception) -> str:
    """Without the advice to append a key, which is wrong for a misspelt one, and without paths."""
    text = re.split(r"Config search path|full_key:|Set the environment variable", str(error))[0]
    text = re.sub(
        r"To append to your config use \S+|\w+ raised while resolving interpolation: ", "", text
    )
    return " ".join(text.split())


def checkout() -> Path:
    """The folder of train.py and conf/.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    found = importlib.util.find_spec("train")
    root = Path(found.origin).parent if found and found.origin else Path.cwd()
    if not (root / "conf" / "train.yaml").is_file():
        raise FileNotFoundError(
            f"no conf/train.yaml in {root}; run this command in a checkout after `make setup`"
        )
    return root


def settle_missing(config: DictConfig) -> None:
    """Turn values that are missing into null where no stage of the curriculum asks for them.

    Raises:
        ValueError: a stage asks for some that are missing; the message names all of them.
    """
    missing = list(_missing(OmegaConf.to_container(config)))
    needed = [key for key in missing if _asked_for(config, key, missing)]
    if needed:
        given = " ".join(f"{key}=..." for key in needed)
        raise ValueError(f"{config.name} needs values that are not given: {given}")
    for key in missing:
        OmegaConf.update(config, key, None)


def _missing(node: Any, place: str = "") -> Iterator[str]:
    # OmegaConf.missing_keys follows interpolations, and stops at those that lead to such a value.
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{place}.{key}".lstrip("."))
    elif node == "???":
        yield place


def _asked_for(config: DictConfig, key: str, missing: Sequence[str]) -> bool:
    """Whether the stages of the curriculum resolve with all missing values but this one."""
    others = copy.deepcopy(config)
    for other in missing:
        if other != key:
            OmegaConf.update(others, other, "given")
    try:
        for name in others.curriculum:
            OmegaConf.to_container(others.stages[name], resolve=True, throw_on_missing=True)
    except (InterpolationToMissingValueError, MissingMandatoryValue):
        return True
    return False


def compose_training(overrides: Sequence[str]) -> DictConfig:
    """What ``python train.py OVERRIDES`` would run with, its run folder being ``<outputs>/<name>``.

    Raises:
        ValueError: the overrides do not fit the configuration.
    """
    root = checkout()
    run = "paths.run=${paths.outputs}/${name}/new"
    try:
        with initialize_config_dir(str(root / "conf"), version_base=None):
            return compose("train", overrides=[run, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the configuration does not compose: {reason}") from error
