"""Experiment trackers that ask no questions and never end a training run."""

import csv
import functools
import os
import shlex
import warnings
import zlib
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image


class FaultTolerantLogger(Logger):
    """A logger whose failures are reported once and then leave it out.

    Args:
        logger: the logger proper.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self.failure: Exception | None = None

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._attempt("log_metrics", metrics, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._attempt("log_hyperparams", params, *args, **kwargs)

    def log_sheet(self, key: str, image: Image.Image, step: int) -> None:
        """Show an image, where the tracker has a place for images."""
        if isinstance(self.logger, WandbLogger):
            self._attempt("log_image", key, [image], step)

    def log_file(self, path: Path, kind: str) -> None:
        """Keep a file as an artifact, where the tracker has artifacts."""
        if isinstance(self.logger, WandbLogger):
            self._guard(lambda: self.logger.experiment.log_artifact(str(path), type=kind))

    def close(self) -> None:
        """End the run of a tracker that has one in each process: the next stage opens its own."""
        if isinstance(self.logger, WandbLogger):
            self._guard(self._finish)

    def _finish(self) -> None:
        assert isinstance(self.logger, WandbLogger)
        self.logger.experiment.finish()
        folder = Path(str(self.logger.save_dir)) / "wandb"
        if parts := sorted(folder.glob("offline-run-*")):
            resumed = f" (one run in {len(parts)} parts: upload them together)" * (len(parts) > 1)
            parts_of_it = " ".join(shlex.quote(str(part)) for part in parts)
            print(f"W&B is offline{resumed}: wandb sync {parts_of_it}")

    def save(self) -> None:
        self._attempt("save")

    def finalize(self, status: str) -> None:
        self._attempt("finalize", status)

    def _attempt(self, method: str, *args: Any, **kwargs: Any) -> None:
        self._guard(functools.partial(getattr(self.logger, method), *args, **kwargs))

    def _guard(self, call: Any) -> None:
        if self.failure is not None:
            return
        try:
            call()
        except Exception as error:
            self.failure = error
            warnings.warn(
                f"{type(self.logger).__name__} failed and is left out from here on; "
                f"training goes on. Cause: {type(error).__name__}: {error}",
                stacklevel=2,
            )


def csv_logger(save_dir: str) -> CSVLogger:
    """``logs/metrics.csv`` in the folder; a resumed job adds to it, Lightning's own would empty it.

    Every row is on disk at once: a killed job keeps the rows up to its checkpoint. Steps that are
    repeated after the checkpoint appear twice.
    """
    logger = CSVLogger(save_dir, name="", version="logs", flush_logs_every_n_steps=1)
    before = Path(logger.log_dir) / "metrics.csv"
    if getattr(rank_zero_only, "rank", 0) == 0 and before.is_file():
        with before.open(newline="") as log:
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(log)]
        logger.experiment.metrics.extend(rows)
        logger.save()
    return logger


def wandb_logger(save_dir: str, project: str, **settings: Any) -> WandbLogger:
    """A W&B run that belongs to the folder: a resumed job continues it, also after a move.

    Without a key the run is written offline, for ``wandb sync`` later; a prompt never appears.
    """
    folder = Path(save_dir).resolve()
    known = next((folder / "wandb").glob("*run-*"), None)
    run = known.name.rpartition("-")[2] if known else f"{zlib.crc32(str(folder).encode()):08x}"
    mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=project,
        save_dir=str(folder),
        **{
            "name": f"{folder.parent.name}/{folder.name}",
            "group": folder.parent.name,
            "id": run,
            "offline": mode == "offline",
            "resume": "allow",
            **settings,
        },
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it on, and W&B warns of it
    return logger


def _has_key(environment: Mapping[str, str] = os.environ) -> bool:
    if environment.get("WANDB_API_KEY"):
        return True
    try:
        return netrc().authenticators("api.wandb.ai") is not None
    except (OSError, NetrcParseError):
        return False
