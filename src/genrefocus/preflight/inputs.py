"""What a run of train.py needs: machine, files, parts. Looked at from the quickest on.

What is imported in functions takes seconds: a wrong path must not wait for it.
"""

import copy
import difflib
import inspect
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from ctypes import CDLL
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil
from hydra.errors import HydraException
from hydra.utils import get_class, get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import training_stages
from genrefocus.data.batches import micro_batches
from genrefocus.data.buckets import least_edge
from genrefocus.preflight.files import (
    Finding,
    check_captions,
    check_flux,
    check_shards,
    check_sidecars,
    check_sizes,
    estimates_remedy,
    states_blur,
)
from genrefocus.terminal import counted

#: packages of an extra, and how they are installed
_EXTRAS = dict.fromkeys(("bitsandbytes", "torchao"), "pip install -e '.[quantise]'")


def require_inputs(config: DictConfig) -> None:
    """Look for what all stages need before the first one starts.

    Raises:
        ValueError: inputs are missing, there is no GPU, or a class does not take what the
            configuration gives it; one line for each, with what mends it.
    """
    base = [(find_base,)]  # the hub may be asked for FLUX, after what this machine tells
    inputs = [(find_driver, find_inputs), (find_device, find_data)]
    ordered = [*inputs, *base] if is_flux(config) else [*base, *inputs]
    for checks in [*ordered, (find_parts,), (find_test_sets,)]:
        found = [one for check in checks for one in check(config) if one.verdict == "error"]
        if found:
            lines = [f"{one.subject}: {one.detail}; {one.remedy}" for one in found]
            raise ValueError("\n  ".join(["inputs are missing or wrong", *lines]))


def is_flux(config: DictConfig) -> bool:
    """Whether the frozen base is FLUX.1-dev; by the name of its loader, which is slow to import."""
    return str(config.backbone._target_).endswith("load_flux_dev")


def task_of(module: DictConfig) -> Literal["deblur", "bokeh"]:
    """The task of a network, which its class states. Importing the class takes seconds."""
    task: Literal["deblur", "bokeh"] = get_class(module._target_).task  # type: ignore[attr-defined]
    return task


def condition_count(module: DictConfig) -> int:
    """Images and maps that a network is given at most."""
    second = task_of(module) == "bokeh" or module.get("told") or module.get("pre_deblur")
    return 3 if "frozen_lora" in module else 2 if second else 1


def find_base(config: DictConfig) -> Iterator[Finding]:
    """Whether the weights of the frozen base are there."""
    path = str(config.backbone.get("path", "untrained"))
    if is_flux(config):
        yield check_flux(path)
    elif "path" in config.backbone and not Path(path).is_file():
        remedy = "backbone.path=<weights of the tiny base>"
        yield Finding("tiny base", "error", f"{path} does not exist", remedy)
    else:
        yield Finding("tiny base", "ok", path)


def find_parts(config: DictConfig) -> Iterator[Finding]:
    """Whether every class exists, and callbacks, parts of stages and ONNX files can be built."""
    groups = ("backbone", "trainer", "callbacks", "logger", "data")
    parts = {name: config.get(name) for name in groups}
    parts |= {f"stages.{name}": config.stages[name] for name in config.curriculum}
    found = [one for place, target in _targets(parts) for one in _unfit(config, place, target)]
    found += _needs_of_base(config)
    built = [f"callbacks.{name}" for name in config.callbacks]
    for name in config.curriculum:
        kinds = ("module", "network", "datamodule")
        built += [f"stages.{name}.{kind}" for kind in kinds if kind in config.stages[name]]
    estimated = any("prepare" in config.stages[name] for name in config.curriculum)
    built += [one for one in ("depth", "mask") if estimated and "pixels" in (config.get(one) or ())]
    config = copy.deepcopy(config)
    config.stage_folder = config.paths.run  # a stage sets its own folder when it runs
    for place in () if found else built:
        try:
            instantiate(OmegaConf.select(config, place))
        except (HydraException, ValueError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            found.append(Finding(place, "error", reason, f"{place}.<option>=<value>"))
    yield from found
    if not found:
        yield Finding("configuration", "ok", f"{config.name}: {', '.join(config.curriculum)}")


def _needs_of_base(config: DictConfig) -> Iterator[Finding]:
    """What the way that the base is run needs, and is not there."""
    compilers = (os.environ.get("CXX", ""), os.environ.get("CC", ""), "g++", "gcc", "clang")
    if config.backbone.get("compile") and not any(map(shutil.which, compilers)):
        detail = "torch.compile needs a C++ compiler, and there is none"
        remedy = "backbone.compile=false, or install g++"
        yield Finding("backbone.compile", "error", detail, remedy)
    if how := config.backbone.get("quantise"):
        package = "bitsandbytes" if how == "nf4" else "torchao"
        if find_spec(package) is None:
            detail = f"{package} is not installed"
            yield Finding(f"backbone.quantise={how}", "error", detail, _EXTRAS[package])


def _unfit(config: DictConfig, place: str, target: str) -> Iterator[Finding]:
    """What is wrong with the name of a class, or with those of its options."""
    package = target.partition(".")[0]
    if package in _EXTRAS and find_spec(package) is None:
        yield Finding(place, "error", f"{package} is not installed", _EXTRAS[package])
        return
    try:
        known = _known_options(get_object(target))
    except (HydraException, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield Finding(place, "error", f"{target}: {reason}", f"{place}._target_=<class>")
        return
    given = [str(key) for key in OmegaConf.select(config, place) if str(key)[0] != "_"]
    for key in given:
        if known is not None and key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            detail = f"{target} has no such option"
            remedy = f"{place}.{close[0]}=..." if close else f"leave {place}.{key} out"
            yield Finding(f"{place}.{key}", "error", detail, remedy)


def _known_options(target: Any) -> set[str] | None:
    """Keywords that a class, with those it inherits from, or a function takes; None: any."""
    known: set[str] = set()
    for one in inspect.getmro(target) if inspect.isclass(target) else (target,):
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        found = inspect.signature(one.__init__ if inspect.isclass(one) else one).parameters
        known |= set(found)
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in found.values()):
            return known
    return None


def find_driver(config: DictConfig) -> Iterator[Finding]:
    """Whether this machine has a driver of GPUs, where the trainer asks for one."""
    if config.trainer.accelerator not in ("gpu", "cuda") or Path("/dev/kfd").exists():  # of ROCm
        return
    try:
        CDLL("libcuda.so.1")  # which torch loads too, but after seconds
    except OSError:
        yield Finding("trainer", "error", "there is no CUDA driver", "trainer=cpu")


def find_device(config: DictConfig) -> Iterator[Finding]:
    """Whether this machine has the GPUs that the trainer asks for."""
    if config.trainer.accelerator not in ("gpu", "cuda"):
        return
    import torch

    there, wanted = torch.cuda.device_count(), _devices(config)
    if not there:
        yield Finding("trainer", "error", "torch finds no CUDA device", "trainer=cpu")
    elif wanted > there:
        detail = f"{wanted} devices are asked for, torch finds {there}"
        yield Finding("trainer", "error", detail, f"trainer.devices={there}")


def find_crowd() -> Iterator[Finding]:
    """Whether other programs use processors that the threads of this process are meant for.

    Threads wait for the one that gets none, at every operation: training is many times as slow.
    Looking takes half a second.
    """
    import torch

    cores = psutil.cpu_count() or 1
    used = cores * psutil.cpu_percent(interval=0.5) / 100
    free = max(1, round(cores - used))
    if free < torch.get_num_threads():
        detail = f"other programs use {used:.1f} of {cores}, which makes threads many times slower"
        remedy = f"put OMP_NUM_THREADS={free} before the command"
        yield Finding("processors", "warning", detail, remedy)


def _targets(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, (dict, DictConfig)):
        if isinstance(node.get("_target_"), str):
            yield place, node["_target_"]
        for key in node:
            yield from _targets(node[key], f"{place}.{key!s}".lstrip("."))


def find_inputs(config: DictConfig) -> Iterator[Finding]:
    """LoRA files and photographs that stages start from: there, or made by an earlier stage."""
    run, done = Path(config.paths.run), set()
    for name in config.curriculum:
        stage = config.stages[name]
        given = stage.get("module", stage.get("network", {}))
        for key in ("init_lora", "frozen_lora"):
            lora = given.get(key)
            if lora is None or run / Path(lora).parent.name in done:
                continue
            if Path(lora).is_file():
                yield Finding(f"{name}: LoRA", "ok", lora)
            else:
                kind = "module" if "module" in stage else "network"
                option = _option(config, Path(lora)) or f"stages.{name}.{kind}.{key}"
                missing = f"{lora} does not exist"
                yield Finding(f"{name}: LoRA", "error", missing, f"{option}=<file>")
        if "prepare" in stage:
            if given.get("pre_deblur"):
                detail = "DeblurNet with pre_deblur=true reads a draft, which photographs lack"
                remedy = "stages.deblurnet.module.pre_deblur=false"
                yield Finding(f"{name}: draft", "error", detail, remedy)
            yield from _photographs(config, name)
        done.add(run / name)


def _photographs(config: DictConfig, stage: str) -> Iterator[Finding]:
    """The folders of photographs and of what belongs to them, unless the run makes them."""
    route, photos = config.stages[stage].route, Path(config.stages[stage].source.root)
    given = {"data.photos": photos}
    estimates: tuple[Literal["depth"], Literal["mask"]] = ("depth", "mask")
    given |= {f"{w}.folder": Path(route[w].folder) for w in estimates if "folder" in route[w]}
    own = {key: folder for key, folder in given.items() if _maker(config, folder) is None}
    absent = {key: folder for key, folder in own.items() if not folder.is_dir()}
    remedies = {f"{what}.folder": estimates_remedy(what) for what in estimates}
    for what in estimates:
        for key in ("file", "model"):
            network = route[what].get(key)
            if network and not route[what].get("revision") and not Path(network).exists():
                remedy = f"{what}.{key}=<{key}>" + ", or its commit as revision" * (key == "model")
                yield Finding(f"{stage}: {what}", "error", f"{network} does not exist", remedy)
    for key, folder in absent.items():
        remedy = remedies.get(key, f"{key}=<folder>")
        yield Finding(f"{stage}: {key}", "error", f"{folder} does not exist", remedy)
    if "data.photos" in own and not absent:
        from genrefocus.data.images import images_below

        for what in estimates:
            if f"{what}.folder" in given:
                yield from check_sidecars(
                    {path.relative_to(photos).as_posix(): path for path in images_below(photos)},
                    given[f"{what}.folder"],
                    what,
                    by_exif=True,
                )
        if captions := config.stages[stage].captions:
            names = [path.relative_to(photos).as_posix() for path in images_below(photos)]
            yield from check_captions(instantiate(captions), names)
        yield from check_sizes(photos, long_edge=route.long_edge, least_edge=route.least_edge)


def find_data(config: DictConfig) -> Iterator[Finding]:
    """Shards of every stage that trains, and its samples against ranks, batches and workers."""
    ranks, seen = ranks_of(config), set()
    for name, stage in training_stages(config).items():
        data, routes = stage.datamodule, {}
        folders = {f"train.{route}": folder for route, folder in data.train.items()}
        folders |= {f"val.{n}": folder for n, folder in enumerate(data.val)}
        for key, folder in folders.items():
            split, _, route = key.partition(".")
            if split == "train" and not data.weights.get(route, 0) > 0:
                continue
            inner = f"stages.{name}.datamodule.{key if split == 'train' else split}"
            reads = _reads(stage.module)
            edge = least_edge(data.crop, data.get("buckets"))
            finding, count = _check_set(config, folder, option=inner, crop=edge, reads=reads)
            if (folder, finding.verdict) not in seen:
                seen.add((folder, finding.verdict))
                yield finding
            if split == "train" and count is not None:
                routes[route] = count
        if (
            stage.module.get("told")
            and routes
            and not any(states_blur(Path(data.train[route])) for route in routes)
        ):
            detail = "told > 0, and no training set states depth and K, from which maps are made"
            yield Finding(f"{name}: told", "error", detail, f"stages.{name}.module.told=0")
        try:
            batch, accumulate = micro_batches(stage.global_batch, data.batch_size, ranks)
        except ValueError as error:
            yield Finding(f"{name}: batch", "error", str(error), f"stages.{name}.global_batch=...")
            continue
        layout = (ranks, batch, accumulate)
        found = [*_few_samples(name, routes, layout), *_many_workers(name, ranks, data.num_workers)]
        total = ", ".join(f"{route} {count}" for route, count in routes.items())
        detail = f"{total or 'made in the run'}; {counted(math.prod(layout), 'sample')} a step"
        yield from found or [Finding(f"{name}: samples", "ok", detail)]


def find_test_sets(config: DictConfig) -> Iterator[Finding]:
    """The sets that the networks of the stages are measured on, those of their tasks alone."""
    keys = {"deblur": ("deblur", "validation"), "bokeh": ("bokeh", "control")}
    crops: dict[str, int] = {}
    for one in training_stages(config).values():
        # the settings of the classical chain are those of its first part
        more = ["validation"] * bool(one.module.get("direct"))
        more += ["shapes"] * ("frozen_lora" in one.module)
        crops |= dict.fromkeys((*keys[task_of(one.module)], *more), one.datamodule.crop)
    for key, crop in crops.items():
        option, folder = f"evaluation.{key}", config.evaluation[key]
        yield _check_set(config, folder, option=option, crop=crop)[0]


def _check_set(
    config: DictConfig, folder: str, *, option: str, crop: int, reads: str | None = None
) -> tuple[Finding, int | None]:
    """See :func:`check_shards`; ``option`` is the one that names this folder alone."""
    path = Path(folder)
    option = _option(config, path.parent) or option
    return check_shards(path, crop=crop, made_by=_maker(config, path), option=option, reads=reads)


def _reads(module: DictConfig) -> str | None:
    """The further image of a sample that a network is trained on, if there is one."""
    if module.get("direct"):
        return "blurry"
    return "pre_deblur" if module.get("pre_deblur") else None


def _few_samples(
    stage: str, routes: Mapping[str, int], layout: tuple[int, int, int]
) -> Iterator[Finding]:
    """Routes with fewer samples than an optimiser step has."""
    step = math.prod(layout)
    ranks, batch_size, accumulate = layout
    for route, count in routes.items():
        if count < step:
            yield Finding(
                f"{stage}: route {route}",
                "warning",
                f"{counted(count, 'sample')}, fewer than the {step} of one optimiser step "
                f"({ranks} ranks x batch {batch_size} x {accumulate}): a step repeats samples",
                f"stages.{stage}.global_batch={ranks}",
            )


def _many_workers(stage: str, ranks: int, workers: int) -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    if workers and ranks * (workers + 1) > cores:
        detail = f"{ranks} ranks with {workers} workers each on {cores} cores"
        remedy = f"data.num_workers={max(0, cores // ranks - 1)}"
        yield Finding(f"{stage}: workers", "warning", detail, remedy)


def _option(config: DictConfig, path: Path) -> str | None:
    """The option of ``data`` or ``inputs`` that names a file or folder, if one does."""
    for group in ("data", "inputs"):
        for key, value in config[group].items():
            if isinstance(value, str) and Path(value) == path:
                return f"{group}.{key}"
    return None


def _maker(config: DictConfig, folder: Path) -> str | None:
    """What makes a set during the run: the embedded data's build, or an earlier stage."""
    if config.data.build is not None and folder.is_relative_to(config.data.root):
        return "the first run"
    for name in config.curriculum:
        stage = config.stages[name]
        if "prepare" in stage and folder.is_relative_to(stage.out):
            return f"stage {name}"
    return None


def ranks_of(config: DictConfig) -> int:
    """Processes that the trainer would start."""
    return _devices(config) * int(config.trainer.get("num_nodes", 1))


def _devices(config: DictConfig) -> int:
    """Processes on this machine; -1 devices are all that it has."""
    devices = config.trainer.get("devices", 1)
    if devices in (-1, "auto", "-1"):
        import torch

        return max(1, torch.cuda.device_count())
    if isinstance(devices, str) and "," in devices:
        return len([one for one in devices.split(",") if one])
    return int(devices) if isinstance(devices, (int, str)) else len(devices)
