"""Free space in all folders that a run writes to."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from genrefocus.configuration.composing import compose_training
from genrefocus.data.shards import write_set
from genrefocus.preflight import disk
from genrefocus.preflight.disk import WrittenFolder, check_disk, find_disk
from tests.samples import noise_sample

GIB = 1024**3


def leave_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: SimpleNamespace(free=size))


def test_folders_of_one_file_system_share_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [
        WrittenFolder("paths.outputs", tmp_path / "new" / "outputs", {"checkpoints": 5 * GIB}),
        WrittenFolder("TMPDIR", tmp_path, {}),
        WrittenFolder("HF_HOME", tmp_path / "hub", {"weights": 3 * GIB}),
    ]
    for free, verdict in {9: "ok", 8.5: "warning", 7.9: "error"}.items():
        leave_free(monkeypatch, int(free * GIB))
        (found,) = check_disk(written)
        assert found.verdict == verdict
        assert "8.0 GiB needed (checkpoints 5.0 GiB, weights 3.0 GiB)" in found.detail
    apart = [*written, WrittenFolder("paths.data", Path("/proc"), {})]
    assert len([one for one in check_disk(apart) if "free" in one.detail]) == 2


def test_what_a_run_writes_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, one of them twice, LoRA files, and the shards of photographs at their size."""
    for number in range(3):
        Image.new("RGB", (200, 100)).save(tmp_path / f"{number}.jpg")
    given = [f"data.photos={tmp_path}", f"data.estimates={tmp_path}", "data.long_edge=100"]
    outputs = ["paths.outputs=/dev/shm/none", "+data.build.counts={}"]
    config = compose_training([*given, *outputs])
    found = find_disk(config, checkpoints=[GIB, 2 * GIB], loras=[GIB], download=0)
    (own,) = (one for one in found if "/dev/shm/none" in one.detail)
    assert "checkpoints 5.0 GiB, LoRA files with snapshots 1.0 GiB" in own.detail
    assert f"photographs {3 * 100 * 50 * 9 / 1024**2:.1f} MiB" in own.detail
    cache = "/dev/shm/hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    found = find_disk(config, checkpoints=[], loras=[], download=34 * GIB)
    assert any(cache in one.detail and "weights 34.0 GiB" in one.detail for one in found)


def test_embeddings_of_captions_are_counted_once_each(tmp_path: Path) -> None:
    """Of sets that are there and of photographs: 4 MiB for each text."""
    texts = ("a sign", "a plant", None, "a sign")
    samples = [noise_sample(n, 16, 16, prompt=text) for n, text in enumerate(texts)]
    write_set(tmp_path / "deblur/train", samples, parameters={})
    for name in ("1", "2"):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text({"1": "a plant", "2": "a tree"}[name])
    given = ["scale=paper", "data=embedded", f"data.photos={tmp_path}", "captions=sidecar"]
    given += [f"captions.folder={tmp_path}", f"data.deblur={tmp_path / 'deblur'}"]
    given += ["backbone.prompts=/dev/shm/prompts", "data.synthetic=/none", "data.sweep=/none"]
    found = find_disk(compose_training(given), checkpoints=[], loras=[], download=0)
    (own,) = (one for one in found if "/dev/shm/prompts" in one.detail)
    assert "embeddings of captions 12.0 MiB" in own.detail
