"""Examples of the page: photographs with EXIF and depth, made once."""

from pathlib import Path

import pytest

from genrefocus.data.images import load_image, load_map
from genrefocus.embedded import examples
from genrefocus.optics import depth_to_disparity
from genrefocus.photograph.exif import read_exposure


def test_examples_are_photographs_with_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert examples.build_examples(tmp_path / "none") == []
    monkeypatch.setattr(examples, "_SEEDS", (15,))
    monkeypatch.setattr(examples, "_SIZE", (64, 96))
    ((photo, depth),) = examples.build_examples(tmp_path)
    assert load_image(photo).shape == (3, 64, 96)
    disparity = depth_to_disparity(load_map(depth, "depth"))
    assert disparity.shape == (64, 96) and float(disparity.max() / disparity.min()) > 2
    facts = read_exposure(photo)
    assert facts.make == "Simulated" and facts.f_number > 0
    made = photo.stat().st_mtime_ns
    ((again, _),) = examples.build_examples(tmp_path)
    assert again.stat().st_mtime_ns == made
