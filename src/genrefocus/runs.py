"""Runs of ``train.py``: their folders, records of their stages, and which of them is the newest."""

import contextlib
import difflib
import fcntl
import glob
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from genrefocus.writing import write_json

FINISHED = "summary.json"
CONFIG = "config.yaml"
#: of a run, or of a cell of a sweep that failed; of a sweep
RESULT_NAME, FAILURE_NAME, PLAN_NAME = "result.json", "failed.json", "sweep.json"
#: folder of a run with the results of its networks
BENCHMARK = "benchmark"
ROOT = Path(__file__).resolve().parents[2]
_SWEEP = "GENREFOCUS_SWEEP_FOLDER"  # from a sweep to the ranks that it starts
#: settings that cost time or memory and change nothing that is learnt: a run may be resumed with
#: others. Patterns of keys of a stage's record; the number of samples a step, `global_batch`, stays
COST = (
    "fit.val_check_interval",
    "fit.limit_val_batches",
    "datamodule.batch_size",
    "datamodule.eval_batch_size",
    "datamodule.num_workers",
    "datamodule.val_samples",
    "backbone.checkpointing",
    "backbone.latents",
    "backbone.compile",
    "prepare.*.device",
    "prepare.*.batch_size",
    "trainer.accelerator",
    "trainer.benchmark",
    "trainer.devices",
    "trainer.enable_*",
    "trainer.limit_val_batches",
    "trainer.log_every_n_steps",
    "trainer.num_nodes",
    "trainer.profiler*",
    "trainer.strategy",
    "callbacks.checkpoint.*",
    "callbacks.learning_rate.*",
    "callbacks.images.*",
    "callbacks.progress.*",
    "callbacks.shard.*",
    "callbacks.snapshots.*",
)


@dataclass(frozen=True)
class StageRecord:
    """What is on disk about a stage: the settings that it was begun with, and its summary.

    Attributes:
        folder: of the stage, in that of its run.
        settings: all that the stage depends on.
        checkout: folder of the code, which may be moved, as the run may.
    """

    folder: Path
    settings: Mapping[str, Any]
    checkout: str

    def finished(self) -> bool:
        """Whether the stage has written its summary, which it does last."""
        return (self.folder / FINISHED).is_file()

    def require_same_settings(self) -> None:
        """Compare the settings with those that the stage was begun with, if it was; see ``COST``.

        Raises:
            ValueError: others would change what it learns.
        """
        if not (record := self.folder / "stage.yaml").is_file():
            return
        before, now = _flat(yaml.safe_load(record.read_text())), _flat(self._relative())
        changes = [
            f"{key} was {before.get(key)}, is {now.get(key)}"
            for key in {**before, **now}
            if before.get(key) != now.get(key) and not any(fnmatch(key, one) for one in COST)
        ]
        if changes:
            raise ValueError(
                f"{self.folder.name} in {self.folder.parent} was begun with other settings: "
                f"{', '.join(changes)}; restore them, name another run with resume=<folder>, or "
                "start a new one"
            )

    def begin(self) -> None:
        """Make the folder, and write the settings there that a later run is compared with."""
        if first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            record = yaml.safe_dump(self._relative(), sort_keys=False)
            (self.folder / "stage.yaml").write_text(record)

    def write_summary(self, **entries: Any) -> None:
        """Write summary.json, which marks the stage as finished."""
        write_json(self.folder / FINISHED, {"stage": self.folder.name, **entries})

    def _relative(self) -> Any:
        """The settings, with paths below places that may be moved by the names of the places."""
        places = {str(self.folder.parent): "<run>", self.checkout: "<checkout>"}

        def relative(node: Any) -> Any:
            if isinstance(node, Mapping):
                return {str(key): relative(value) for key, value in node.items()}
            if isinstance(node, list):
                return [relative(value) for value in node]
            for place, name in places.items():
                if isinstance(node, str) and node.startswith(f"{place}/"):
                    return name + node.removeprefix(place)
            return node

        return relative(self.settings)


def _flat(node: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _flat(value, f"{place}{key}.") if isinstance(value, dict) else {place + key: value}
    return found


def newest_runs(
    outputs: str | Path, name: str | None = None, *, trials: bool = False
) -> Iterator[Path]:
    """Runs ``<outputs>/<name>/<run>``, the one that was written to last first.

    A run is written to when it begins or goes on, saves a checkpoint, writes a shard or finishes a
    stage. The first of these runs that a command can use is its ``latest``. Cells of sweeps are
    left out.

    Args:
        outputs: folder of all runs.
        name: of the experiment; None for all.
        trials: whether trials (``debug=...``) are looked for, in place of the other runs.
    """
    found = Path(outputs).glob(f"{glob.escape(name) if name else '*'}/*/{CONFIG}")
    for run in sorted((file.parent for file in found), key=_written, reverse=True):
        if trials == bool(yaml.safe_load((run / CONFIG).read_bytes()).get("trial")):
            yield run


def latest_of(
    outputs: str | Path, usable: Callable[[Path], bool], wanted: str, option: str
) -> Path:
    """The run below ``outputs`` that was written to last, of those that are usable; no trial.

    Args:
        outputs: folder of all runs.
        usable: whether a command can use a run.
        wanted: what a usable run has, for the message.
        option: what a run's folder is given by, such as ``run=`` or ``--run``; for the message.

    Raises:
        FileNotFoundError: there is none; the message says how to get one.
    """
    if (found := next(filter(usable, newest_runs(outputs)), None)) is not None:
        return found
    trial = next(filter(usable, newest_runs(outputs, trials=True)), None)
    use = "use a trial (debug=...)" if trial else "name the folder of another run"
    named = f"{option}{'' if option[-1] == '=' else ' '}{trial or 'FOLDER'}"
    raise FileNotFoundError(
        f"no finished run below {Path(outputs).resolve()} has {wanted}; "
        f"train one with: make train, or {use} with: {named}"
    )


def has_network(run: Path) -> bool:
    """Whether a stage of a run has trained a network; of which kind says its card."""
    return any(run.glob("*/network.json"))


def _progress(run: Path) -> list[Path]:
    """Checkpoints, finished stages and shards: what a run need not make again."""
    return [path for name in ("last.ckpt", FINISHED, "shards") for path in run.glob(f"*/{name}")]


def _written(run: Path) -> int:
    return max(mark.stat().st_mtime_ns for mark in (run / CONFIG, *_progress(run)))


def run_folder(
    outputs: str, name: str, resume: Any, trial: bool = False, overrides: str = ""
) -> str:
    """Folder of this run: the one to resume, or a new one that no other run has.

    ``latest`` is the newest run that was begun with the same overrides; else the newest one that
    has a checkpoint or a finished stage, whose settings may differ in what they cost.

    Jobs whose processes are started from outside (SLURM, torchrun) are named by the job and by
    their overrides, so that all ranks have one folder, and a requeued job finds its own again.

    Raises:
        ValueError: there is nothing to resume, or the processes have no name in common.
    """
    base = Path(outputs) / name
    if resume == "latest":
        runs = list(newest_runs(outputs, name, trials=trial))
        same = (run for run in runs if _overrides(run) == overrides)
        found = next(itertools.chain(same, filter(_progress, runs)), None)
        if found is None:
            raise ValueError(
                f"resume=latest: no {'trial' if trial else 'run'} in {base} was begun with these "
                "overrides, or has a checkpoint or a finished stage; start one without resume"
            )
        return os.path.abspath(found)
    if resume == "":
        raise ValueError("resume= is empty: give a run's folder or latest; without it a run begins")
    if resume is not None:
        if not Path(str(resume)).is_dir():
            meant = difflib.get_close_matches(str(resume), ["latest"])
            hint = ". Did you mean resume=latest?" if meant else ""
            raise ValueError(f"resume={resume}: no such folder{hint}")
        return os.path.abspath(str(resume))
    return _job_or_new_folder(base, "", overrides)


def _overrides(run: Path) -> str | None:
    """Those that a run was begun with, but for ``resume``, as Hydra's ``override_dirname``."""
    if not (record := run / "overrides.yaml").is_file():
        return None
    given = yaml.safe_load(record.read_bytes())
    return ",".join(sorted(one for one in given if not one.startswith("resume=")))


def sweep_folder(outputs: str, name: str, overrides: str = "") -> str:
    """Folder of a sweep that has no name; the ranks that its first run starts share it.

    Raises:
        ValueError: processes that were started from outside have no name in common.
    """
    if not first_process() and _SWEEP in os.environ:
        return os.environ[_SWEEP]
    os.environ[_SWEEP] = _job_or_new_folder(Path(outputs) / name, "sweep_", overrides)
    return os.environ[_SWEEP]


def _job_or_new_folder(base: Path, prefix: str, overrides: str) -> str:
    for variable, launcher in (("SLURM_JOB_ID", "slurm"), ("TORCHELASTIC_RUN_ID", "torchrun")):
        if (job := os.environ.get(variable, "none")) != "none":
            run = sha256(overrides.encode()).hexdigest()[:8]
            return str(base / f"{prefix}{launcher}_{job}_{run}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "the processes of this run have no name in common: start them with "
            "torchrun --rdzv-id=<name>, or give hydra.run.dir=<folder>"
        )
    stem = base / f"{prefix}{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count(1):
        folder = stem if number == 1 else stem.with_name(f"{stem.name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # of a run that began in the same second
            continue
        return str(folder)
    raise AssertionError


def first_process() -> bool:
    """Whether this process is the first of its run, as the launchers' variables say."""
    ranks = ("RANK", "NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(variable, "0") == "0" for variable in ranks)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """This process alone writes to the run in ``folder``; the system frees one whose process died.

    Only the first process of a run holds it. A file system without locks holds none.

    Raises:
        ValueError: another process trains the run.
    """
    if not first_process():
        yield
        return
    with (folder / ".process").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{folder} is being trained by {file.read() or 'another process'}; wait for it or "
                "end it, or start another run without resume"
            ) from None
        except OSError:
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def ends_cleanly(folder: Path, *, sweep: bool) -> Iterator[None]:
    """What ends the run in ``folder`` early leaves no empty folder behind.

    SIGINT and SIGTERM end it with the command that goes on, and status 128 + signal.

    Args:
        folder: of the run.
        sweep: whether it is one of the runs of a sweep, which the same command goes on with.
    """

    def stop(number: int, _: object) -> None:  # Python does the same for SIGINT
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except Exception:
        for place in (folder, folder.parent) if first_process() else ():
            with contextlib.suppress(OSError):  # it is not empty
                place.rmdir()
        raise
    except (Interrupted, KeyboardInterrupt) as stopped:
        if not isinstance(stopped, Interrupted):  # outside of a stage's training and tests
            stopped = Interrupted(signal.SIGINT)
        if first_process():
            begun = [one for one in sys.orig_argv if not one.startswith("resume=")]
            again = shlex.join(sys.orig_argv if sweep else [*begun, f"resume={folder}"])
            if "TORCHELASTIC_RUN_ID" in os.environ:  # whose own arguments are not known here
                again = "torchrun with the same arguments as before"
            print(f"{stopped}; to go on:\n  {again}")
        sys.exit(128 + stopped.number)


class Interrupted(BaseException):
    """A signal stopped the run after a checkpoint; no failure, which a sweep would go on after."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def git_commit() -> str:
    """Commit of the checkout, ``-dirty`` where files differ from it; ``unknown`` without git."""
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
