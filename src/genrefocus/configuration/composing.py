"""The configuration of ``train.py`` for commands that look at it before a run."""

import contextlib
import copy
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from genrefocus.configuration.bounds import require_bounds, stated_of_onnx
from genrefocus.configuration.spellings import MEANT, require_read, without_null_groups
from genrefocus.data.buckets import least_edge
from genrefocus.runs import CONFIG, ROOT, run_folder, sweep_folder
from genrefocus.terminal import any_terminal

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text, which needs two pairs of quotes where it looks like a number, '\"7\"'",
    ListConfig: "a list in brackets",
    DictConfig: "keys with values in braces",
}
_NUMBERS = {int, float}
_HYDRA_OPTIONS = (
    *("--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir"),
    *("--experimental-rerun", "--info"),
)
_ANY_KIND = ("hydra", *(f"trainer.{key}" for key in ("devices", "precision", "strategy")))
_ANY_KIND += ("trainer.fast_dev_run", "backbone.checkpointing")


def _run_folder(*arguments: Any) -> str:
    """``run_folder``, or a cell's own: Lightning asks for it when it starts ranks in a sweep."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return str(HydraConfig.get().runtime.output_dir)
    return run_folder(*arguments)


# For the files in conf/.
OmegaConf.register_new_resolver("checkout", lambda: str(checkout()), replace=True)
OmegaConf.register_new_resolver("add", lambda *numbers: sum(numbers), replace=True)
OmegaConf.register_new_resolver("holds", lambda some, one: one in some, replace=True)
OmegaConf.register_new_resolver("least_edge", least_edge, replace=True)
OmegaConf.register_new_resolver("run_folder", _run_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("sweep_folder", sweep_folder, use_cache=True, replace=True)


def option_names(group: str) -> list[str]:
    """Options of a group of conf/: files of its folder, or keys of its table in conf/groups/."""
    conf = checkout() / "conf"
    table = conf / "groups" / f"{group}.yaml"
    found = set(yaml.safe_load(table.read_text())) if table.is_file() else set()
    return sorted(found | {path.stem for path in (conf / group).glob("*.yaml")})


def _register_tables() -> None:
    """Tell Hydra about the groups whose options are short and stand in one file of conf/groups/."""
    for path in (checkout() / "conf" / "groups").glob("*.yaml"):
        for name, node in yaml.safe_load(path.read_text()).items():
            ConfigStore.instance().store(name, node, group=path.stem, provider=path.name)


def run_application(application: Callable[[], None], name: str, config: str, usage: str) -> None:
    """Run a Hydra application; what is wrong with its overrides is one line and exit status 2.

    Args:
        application: decorated with ``hydra.main``.
        name: as users call it.
        config: name of its configuration in conf/.
        usage: printed for ``--help``, in place of Hydra's, which takes seconds.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands its errors on instead of printing
    with any_terminal(), wrong_input_ends(name):
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(usage)
            return
        _require_no_dashes(sys.argv[1:])
        given = without_null_groups(sys.argv[1:])
        # Hydra's parser takes them for a mistake behind an override.
        sys.argv[1:] = sorted(given, key=lambda one: one not in ("-m", "--multirun"))
        try:
            application()
        except InstantiationException:
            raise
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(_refusal(error, name, config, sys.argv[1:])) from error


def _require_no_dashes(arguments: Sequence[str]) -> None:
    """
    Raises:
        ValueError: an option as other programs have them, which Hydra does not.
    """
    for one in arguments:
        option, _, value = one.partition("=")
        if option.startswith("--") and not any(own.startswith(option) for own in _HYDRA_OPTIONS):
            key = option.strip("-").replace("-", "_")
            shown = value or ("latest" if key == "resume" else "VALUE")
            raise ValueError(f"{one}: overrides have no dashes. Did you mean {key}={shown}?")


@contextmanager
def wrong_input_ends(name: str) -> Iterator[None]:
    """What is wrong with the input of a job is one line and exit status 2.

    That is also what a class refuses which the configuration names: options that it does not have,
    a package or a device that is not there.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except (ValueError, OSError, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if cause is None or isinstance(cause, ImportError) or _is_refusal(cause):
            cause = error  # names the key too
        elif not isinstance(cause, (ValueError, OSError)):
            raise
        key = re.search(r"full_key: (\S+)", str(error)) if cause is not error else None
        print(f"{name}: {f'{key[1]}: ' if key else ''}{_in_a_line(cause)}", file=sys.stderr)
        sys.exit(2)


def _is_refusal(error: BaseException) -> bool:
    """Whether a call does not fit a signature, or Lightning finds options that exclude others."""
    if isinstance(error, TypeError):
        unfit = r"unexpected keyword|required .*argument|multiple values|`devices`"
        return bool(re.search(unfit, str(error)))
    return type(error).__name__ == "MisconfigurationException"


def require_given(config: DictConfig) -> None:
    """
    Raises:
        ValueError: values that the configuration asks for were not given; all are named.
    """
    missing = [f"{key}=..." for key in _missing(OmegaConf.to_container(config))]
    if missing := [*missing, *stated_of_onnx(config)]:
        raise ValueError(f"values are not given: {' '.join(missing)}")


def require_kinds(config: DictConfig) -> None:
    """Compare what was given on the command line with what it replaces: text, number, list, ...

    Where there was nothing or null any kind is right, and for some options of Lightning's Trainer.

    Raises:
        ValueError: a value of another kind; the message names all of them.
    """
    _require_kinds(config, HydraConfig.get().job.config_name, HydraConfig.get().overrides.task)


def _require_kinds(config: DictConfig, name: str | None, overrides: Sequence[str]) -> None:
    hydra: Any = GlobalHydra.instance().hydra
    before = hydra.compose_config(
        name, _groups(overrides), RunMode.RUN, with_log_configuration=False
    )
    if "paths" in config:
        before.paths.run = config.paths.run  # Hydra's own, which is there in a run alone
    if wrong := list(_of_another_kind(before, config, "")):
        raise ValueError("; ".join(wrong))


def require_sense(config: DictConfig, overrides: Sequence[str]) -> None:
    """All that can be wrong with overrides of train.py, but for values that are missing.

    Raises:
        ValueError: keys that nothing reads, values of another kind than those they replace, or out
            of bounds.
    """
    require_read(config, yaml.safe_load((checkout() / "conf" / "train.yaml").read_text()))
    _require_kinds(config, "train", overrides)
    require_bounds(config)


def _of_another_kind(before: DictConfig, now: DictConfig, place: str) -> Iterator[str]:
    for key in map(str, before):
        name = f"{place}.{key}".lstrip(".")
        if name in _ANY_KIND or key not in now or OmegaConf.is_interpolation(now, key):
            continue
        values = [None if OmegaConf.is_missing(one, key) else one[key] for one in (before, now)]
        old: Any = values[0]
        new: Any = values[1]
        if isinstance(old, DictConfig) and isinstance(new, DictConfig):
            yield from _of_another_kind(old, new, name)
        elif old is not None and new is not None and _kind(old) != _kind(new):
            if {_kind(old), _kind(new)} == _NUMBERS and (_kind(new) is int or ".fit." in name):
                continue
            yield f"{name}={new}: give {_KINDS[_kind(old)]} (it was {old})"


def _kind(value: Any) -> type:
    return next((kind for kind in _KINDS if isinstance(value, kind)), type(value))


def _refusal(error: Exception, name: str, config: str, given: Sequence[str]) -> str:
    """What is wrong with the overrides, and what may have been meant."""
    absent = r"Could not find '(.+)/(.+?)'\s+Available options in .*?:\s+(.*)"
    if found := re.search(absent, str(error), re.DOTALL):
        group, option = found[1], found[2]
        options = found[3].partition("Config search path")[0].split()
        close = difflib.get_close_matches(option, options, n=1)
        meant = f". Did you mean {group}={close[0]}?" if close else ""
        return f"there is no {group}={option}, only {', '.join(options)}{meant}"
    text, hint = _in_a_line(error), _hint(error, name, config, given)
    return f"{text if hint.startswith(' Did') else text.removesuffix('.')}{hint}"


def _hint(error: Exception, name: str, config: str, given: Sequence[str]) -> str:
    """What may have been meant by a key that does not exist, or where all are listed."""
    if "resume=" in str(error) or _unquoted(error):
        return ""
    if found := re.search(r"Could not override '([\w.@/]+)'", str(error)):
        if config == "train" and found[1] in MEANT:
            return f": {MEANT[found[1]]}"
        keys, last = _keys(config, given), found[1].rpartition(".")[2]
        close = difflib.get_close_matches(found[1], keys, n=3, cutoff=0.75)
        if close := close or [key for key in keys if key.endswith(f".{last}")][:3]:
            return f" Did you mean {' or '.join(close)}?"
    command = f"python {name}" if name.endswith(".py") else name
    if config == "prepare":
        command += " route=..."
    return f" ({command} --cfg job prints all there is)"


def options(*groups: str) -> str:
    """A line for each group of conf/ with its options."""
    return "\n".join(f"  {group:12}{', '.join(option_names(group))}" for group in groups)


def _keys(config: str, given: Sequence[str]) -> list[str]:
    """Keys that a configuration has with the groups that are chosen in ``given``; groups too."""
    conf = checkout() / "conf"
    keys = [place.stem for place in (*conf.iterdir(), *(conf / "groups").iterdir())]
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf), version_base=None):
            composed = OmegaConf.to_container(compose(config, overrides=_groups(given)))
    except (HydraException, OmegaConfBaseException):  # some groups have no default
        return keys
    return list(dict.fromkeys([*keys, *_paths(composed)]))


def _groups(overrides: Sequence[str]) -> list[str]:
    """Those of some overrides that choose an option of a group; Hydra has to be initialised."""
    hydra: Any = GlobalHydra.instance().hydra
    plain = [one for one in overrides if "=" in one or one.startswith("~")]  # no --cfg job
    parsed = OverridesParser.create().parse_overrides(plain)
    repository = hydra.config_loader.repository
    return [str(one.input_line) for one in parsed if repository.group_exists(one.key_or_group)]


def _paths(node: Any, place: str = "") -> Iterator[str]:
    if place:
        yield place
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _paths(value, f"{place}.{key}".lstrip("."))


def _in_a_line(error: Exception) -> str:
    """Without the advice to append a key, which is wrong for a misspelt one, and without paths."""
    if unquoted := _unquoted(error):
        key, _, value = unquoted.partition("=")
        return (
            f"{unquoted}: the value cannot be read; one with any of ( ) , = [ ] {{ }} needs two "
            f"pairs of quotes, as in '{key}=\"{value}\"', and in a list each element its own"
        )
    text = re.split(r"Config search path|full_key:|Set the environment variable", str(error))[0]
    text = re.sub(
        r"To append to your config use \S+|\w+ raised while resolving interpolation: ", "", text
    )
    # Messages of this project may have a line for each thing that is missing.
    return "\n  ".join(" ".join(line.split()) for line in text.strip().split("\n  "))


def _unquoted(error: Exception) -> str | None:
    """The override that Hydra's grammar cannot read, or takes for a sweep without --multirun."""
    if isinstance(error, OverrideParseException):
        return str(error.override)
    found = re.search(r"Ambiguous value for argument '(.*?)'\n", str(error))
    return found[1] if found else None


def checkout() -> Path:
    """The folder of train.py and conf/.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    for root in (ROOT, Path.cwd()):
        if (root / "conf" / "train.yaml").is_file():
            return root
    raise FileNotFoundError(
        f"no conf/train.yaml in {Path.cwd()}; run this command in a checkout after `make setup`"
    )


def training_stages(config: DictConfig) -> dict[str, DictConfig]:
    """The stages of the curriculum that train a LoRA."""
    stages = {str(name): config.stages[name] for name in config.curriculum}
    return {name: one for name, one in stages.items() if "rank" in one.get("module", ())}


def require_settled(config: DictConfig) -> None:
    """
    Raises:
        ValueError: a stage asks for values that are missing; the message names all of them.
    """
    estimated = any("prepare" in config.stages[name] for name in config.curriculum)
    stated = stated_of_onnx(config) if estimated else []
    if needed := [*(f"{key}=..." for key in settle_missing(config)), *stated]:
        raise ValueError(f"{config.name} needs values that are not given: {' '.join(needed)}")


def settle_missing(config: DictConfig) -> list[str]:
    """Turn values that are missing into null; keys of those that a stage asks for are returned."""
    missing = list(_missing(OmegaConf.to_container(config)))
    needed = [key for key in missing if _asked_for(config, key, missing)]
    for key in missing:
        OmegaConf.update(config, key, None)
    return needed


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
            data = others.stages[name].get("datamodule", {})
            for route in data.get("train", ()):
                if not data.weights.get(route, 0) > 0:  # is not opened
                    data.train[route] = None
            OmegaConf.to_container(others.stages[name], resolve=True, throw_on_missing=True)
    except (InterpolationToMissingValueError, MissingMandatoryValue):
        return True
    return False


def write_settings(config: DictConfig, folder: Path) -> None:
    """The configuration of a run, resolved, and the overrides that it was begun with."""
    OmegaConf.save(config, folder / CONFIG, resolve=True)
    if not (given := folder / "overrides.yaml").is_file():
        OmegaConf.save(HydraConfig.get().overrides.task, given)


def compose_training(overrides: Sequence[str]) -> DictConfig:
    """What ``python train.py OVERRIDES`` would run with, its run folder being ``<outputs>/<name>``.

    Raises:
        ValueError: the overrides do not fit the configuration; see :func:`require_sense`.
    """
    given = ["paths.run=${paths.outputs}/${name}/new", *without_null_groups(overrides)]
    try:
        with initialize_config_dir(str(checkout() / "conf"), version_base=None):
            config = compose("train", overrides=given)
            require_sense(config, given)
    except (HydraException, OmegaConfBaseException) as error:
        reason = _refusal(error, "train.py", "train", given)
        raise ValueError(f"the configuration does not compose: {reason}") from error
    return config


with contextlib.suppress(FileNotFoundError):  # commands that need conf/ say so
    _register_tables()
