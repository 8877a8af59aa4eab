"""What ends a run of several processes: shared memory, time-outs, locks that others do not see."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig

from genrefocus.configuration.composing import training_stages
from genrefocus.preflight.disk import existing
from genrefocus.preflight.files import Finding, shown_size
from genrefocus.preflight.inputs import is_flux, ranks_of
from genrefocus.preflight.validation import sample_cost, validation_sets

SHARED_MEMORY, _MOUNTS = Path("/dev/shm"), Path("/proc/self/mounts")
#: batches that a loader process keeps ready (torch's prefetch_factor)
_AHEAD = 2
#: that NVIDIA's documentation of NCCL asks containers to have
_NCCL_BYTES = 1024**3
#: of one image or map of three channels in fp32; disparity and defocus map are together no larger
_PIXEL_BYTES, _IMAGES = 12, 4
#: seconds that a slow GPU (30 TFLOP/s) may take for a pass of FLUX.1-dev at 512 px
_SLOW_PASS, _SLOW_PASS_EDGE = 2.0, 512
_LONGER = (
    "trainer.strategy={_target_: lightning.pytorch.strategies.DDPStrategy, "
    "timeout: {_target_: datetime.timedelta, hours: 4}}"
)
#: file systems of one machine
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay"}


class Mount(NamedTuple):
    """A line of /proc/self/mounts."""

    place: str
    kind: str
    options: set[str]


def find_cluster(config: DictConfig) -> Iterator[Finding]:
    """What a run of these processes needs of this machine, which may not be the one it runs on."""
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        yield from check_shared_memory(shared_bytes(config), free)
    if ranks_of(config) == 1:
        return
    yield check_timeout(config)
    if _MOUNTS.is_file():
        place = existing(Path(config.paths.outputs))
        mount = mount_of(place, _MOUNTS.read_text())
        yield check_locks(place, mount, int(config.trainer.num_nodes))


def shared_bytes(config: DictConfig) -> dict[str, int]:
    """What takes shared memory on one machine -> bytes, about."""
    here = ranks_of(config) // int(config.trainer.num_nodes)
    loaders = 0
    for stage in training_stages(config).values():
        data = stage.datamodule
        batch = data.batch_size or stage.global_batch // ranks_of(config)
        ahead = here * data.num_workers * _AHEAD * (batch + data.eval_batch_size)
        loaders = max(loaders, ahead * _IMAGES * _PIXEL_BYTES * data.crop**2)
    nccl = _NCCL_BYTES if here > 1 and config.trainer.accelerator in ("gpu", "cuda") else 0
    return {"loader processes": loaders, "NCCL": nccl}


def check_shared_memory(needed: Mapping[str, int], free: int) -> Iterator[Finding]:
    """Bytes against those that are free; processes that lack them end with a bus error."""
    parts = {name: size for name, size in needed.items() if size}
    if not parts:
        return
    listed = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.items())
    detail = (
        f"{SHARED_MEMORY} has {shown_size(free)} free, about {shown_size(sum(parts.values()))} "
        f"needed ({listed})"
    )
    if sum(parts.values()) <= free:
        yield Finding("shared memory", "ok", detail)
    else:
        remedy = "docker run --ipc=host, or data.num_workers=<fewer>"
        yield Finding("shared memory", "warning", detail, remedy)


def check_timeout(config: DictConfig) -> Finding:
    """The longest that ranks wait for one another against the time-out of their connection.

    They meet after each optimiser step and each batch of validation. One batch may be of
    photographs, which have a loss alone, and another of scenes, each with four images.
    """
    passes = [
        stage.datamodule.eval_batch_size * float(sample_cost(stage, kind)[0])
        for stage in training_stages(config).values()
        for kind, _ in validation_sets(config, stage)
    ]
    most, seconds = max(passes, default=1.0), _timeout(config).total_seconds()
    detail = (
        f"ranks wait for one another for a batch of validation at most, {most:.0f} passes of the "
        f"network; the time-out of {seconds / 60:.0f} min allows {seconds / most:.3g} s for each"
    )
    if is_flux(config) and seconds / most < _SLOW_PASS * (config.data.crop / _SLOW_PASS_EDGE) ** 2:
        return Finding("time-out", "warning", detail, f"data.eval_batch_size=1, or '{_LONGER}'")
    return Finding("time-out", "ok", detail)


def _timeout(config: DictConfig) -> timedelta:
    """Of collective calls, as the trainer's strategy sets it."""
    from torch.distributed.constants import default_pg_timeout

    strategy = config.trainer.get("strategy")
    if isinstance(strategy, DictConfig) and "timeout" in strategy:
        given: timedelta = instantiate(strategy.timeout)
        return given
    return default_pg_timeout


def check_locks(place: Path, mount: Mount, nodes: int) -> Finding:
    """Whether ranks see each other's locks in the folder of their run.

    Args:
        place: folder of outputs.
        mount: that it is on.
        nodes: machines of the run.
    """
    subject, remedy = "locks", "paths.outputs=<folder that all nodes share, with flock>"
    where = f"{place} is on {mount.place} ({mount.kind})"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lacking = f"{where}, which has no locks: {os.strerror(error.errno or 0)}"
        return Finding(subject, "error", lacking, remedy)
    if nodes == 1:
        return Finding(subject, "ok", where)
    own = {"nolock", "localflock", "local_lock=all", "local_lock=flock"} & mount.options
    if own:
        detail = f"{where} with {', '.join(own)}: locks hold on one machine alone, and ranks of "
        return Finding(subject, "error", f"{detail}others would be taken for dead", remedy)
    if mount.kind in _LOCAL:
        detail = f"{where}, a disk of this machine, which {nodes} nodes have to share"
        return Finding(subject, "warning", detail, remedy)
    return Finding(subject, "ok", f"{where}, with locks")


def mount_of(place: Path, table: str) -> Mount:
    """The mount of a folder in the text of /proc/self/mounts: the last of the longest."""
    found = Mount("/", "unknown", set())
    for line in table.splitlines():
        _, where, kind, options, *_ = line.split()
        where = where.encode().decode("unicode_escape")  # a space is \040
        if place.is_relative_to(where) and len(where) >= len(found.place):
            found = Mount(where, kind, set(options.split(",")))
    return found
