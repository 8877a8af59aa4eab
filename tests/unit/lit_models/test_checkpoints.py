"""Files that are whole or absent; LoRA snapshots; training that a signal stops in a validation."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.writing import whole, write_atomically, write_json
from lit_models.checkpoints import WholeCheckpoints, read_checkpoint


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write beyond 4096 bytes of a file fails; pytest's own too, where it goes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(params=[0o077, 0o022, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_respect_the_umask(
    umask: int, tmp_path: Path, tiny_settings: dict[str, Any], random_lora: Callable[..., Any]
) -> None:
    backbone = build_tiny(**tiny_settings)
    random_lora(backbone.transformer).save(tmp_path / "lora.safetensors")
    save_tiny(backbone, tmp_path / "base.safetensors", settings=tiny_settings, card={})
    write_json(tmp_path / "a.json", {})
    WholeCheckpoints().save_checkpoint({"a": torch.zeros(1)}, tmp_path / "last.ckpt")
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~umask)
    assert len(modes) == 4


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomically(path, b"old")
    with pytest.raises(RuntimeError), whole(path) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with whole(path) as first, whole(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # which was left last
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    WholeCheckpoints().save_checkpoint({"step": 1}, path)
    with full_disk(), pytest.raises(OSError, match=f"File too large: '{path}'"):
        WholeCheckpoints().save_checkpoint({"weights": torch.zeros(10_000)}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_checkpoint_offers_the_newest_snapshot(tmp_path: Path, share: float) -> None:
    path = tmp_path / "deblurnet" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"last.ckpt is damaged .*; remove it and resume"):
        read_checkpoint(path)
    for step in (100, 20):
        (path.parent / "snapshots").mkdir(exist_ok=True)
        (path.parent / "snapshots" / f"step_{step:07d}.safetensors").touch()
    offered = r"start a new run with stages.deblurnet.module.init_lora=\S+/step_0000100.safetensors"
    with pytest.raises(ValueError, match=rf"{offered}, or remove it"):
        read_checkpoint(path)
