"""Free space, and leave to write, in every folder that a run writes to."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from genrefocus.geometry import size_within
from genrefocus.photograph.decoding import image_size
from genrefocus.preflight.files import Finding, shown_size
from genrefocus.rejection import Rejected

#: of a pixel in the shards of photographs before compression: two images, disparity and mask
_PIXEL_BYTES = 3 + 3 + 2 + 1
#: of a token of a prompt's embedding by T5, 16 bits a channel
_TOKEN_BYTES = 2 * 4096
#: below it what libraries write (compiled kernels, sockets, caches) may fail
_LEAST_BYTES = 1024**3


@dataclass(frozen=True)
class WrittenFolder:
    """A folder that a run writes to.

    Attributes:
        option: override or variable that names another.
        folder: may not exist yet.
        parts: what is written -> bytes, at most; empty where it is not known.
    """

    option: str
    folder: Path
    parts: Mapping[str, int]


def find_disk(
    config: DictConfig, *, checkpoints: Sequence[int], loras: Sequence[int], download: int
) -> Iterator[Finding]:
    """Look at outputs, data, temporary files and, where it is needed, the cache of the hub.

    Args:
        config: of train.py, resolved.
        checkpoints, loras: bytes of each stage; a checkpoint is there twice while it is replaced.
        download: bytes of weights that come from the hub.
    """
    outputs = {
        "checkpoints": sum(checkpoints) + max(checkpoints, default=0),
        "LoRA files with snapshots": sum(loras),
        "all-in-focus images of photographs": sum(_photographs(config)),
    }
    written = [
        WrittenFolder("paths.outputs", Path(config.paths.outputs), outputs),
        WrittenFolder("paths.data", Path(config.paths.data), {}),
        WrittenFolder("TMPDIR", Path(tempfile.gettempdir()), {}),
    ]
    if config.backbone.get("latents") is not None:
        written.append(WrittenFolder("backbone.latents", Path(config.backbone.latents), {}))
    if config.backbone.get("prompts") is not None:
        each = _TOKEN_BYTES * config.backbone.max_text_length
        parts = {"embeddings of captions": len(_captions(config)) * each}
        written.append(WrittenFolder("backbone.prompts", Path(config.backbone.prompts), parts))
    if download:
        from huggingface_hub.constants import HF_HUB_CACHE

        written.append(WrittenFolder("HF_HOME", Path(HF_HUB_CACHE), {"weights": download}))
    yield from check_disk(written)


def check_disk(written: Sequence[WrittenFolder]) -> Iterator[Finding]:
    """Bytes that are written against free space, a finding for each file system."""
    systems: dict[int, list[WrittenFolder]] = {}
    for one in written:
        place = existing(one.folder)
        if not os.access(place, os.W_OK):
            yield Finding("disk", "error", f"{place} cannot be written", f"{one.option}=<folder>")
        systems.setdefault(place.stat().st_dev, []).append(one)
    for folders in systems.values():
        parts = {name: size for one in folders for name, size in one.parts.items() if size}
        needed, free = sum(parts.values()), shutil.disk_usage(existing(folders[0].folder)).free
        listed = ", ".join(f"{name} {shown_size(size)}" for name, size in parts.items())
        where = f"{', '.join(str(one.folder) for one in folders)}: {shown_size(free)} free"
        detail = f"{where}, {shown_size(needed)} needed ({listed})" if parts else where
        remedy = ", or ".join(f"{one.option}=<folder on another disk>" for one in folders)
        if needed > free:
            yield Finding("disk", "error", detail, remedy)
        elif free - needed < _LEAST_BYTES:
            yield Finding("disk", "warning", detail, remedy)
        else:
            yield Finding("disk", "ok", detail)


def existing(folder: Path) -> Path:
    """The folder, or the one above that it would be made in."""
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    return place


def _captions(config: DictConfig) -> set[str | None]:
    """Of the sets that are there by now, and of photographs."""
    from genrefocus.data.images import images_below

    found: set[str | None] = set()
    for stage in (config.stages[name] for name in config.curriculum):
        with contextlib.suppress(ValueError, OSError):  # other checks say what is wrong
            if "datamodule" in stage:
                found |= instantiate(stage.datamodule).prompts()
            if stage.get("captions"):
                photos = Path(stage.source.root)
                names = [path.relative_to(photos).as_posix() for path in images_below(photos)]
                found |= set(instantiate(stage.captions).of_all(names).values())
    return found


def _photographs(config: DictConfig) -> Iterator[int]:
    """Bytes that each photograph takes at most in the shards that the run makes of it."""
    from genrefocus.data.images import images_below

    for name in config.curriculum:
        stage = config.stages[name]
        folder = Path(stage.source.root) if "prepare" in stage and stage.source.root else None
        if folder is None or not folder.is_dir():
            continue
        for path in images_below(folder)[: stage.prepare.limit]:
            with contextlib.suppress(Rejected):  # the stage says why it turns it away
                width, height = size_within(*image_size(path), stage.route.long_edge)
                yield width * height * _PIXEL_BYTES
