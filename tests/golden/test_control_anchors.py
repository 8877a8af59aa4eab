"""The control signal against the released arithmetic on a real photograph, and Eq. 3's example."""

import json
from pathlib import Path

import numpy as np
import piexif
import pytest
import torch
from PIL import Image

from genrefocus.cli import main
from genrefocus.optics import (
    MAX_COC,
    BlurStrength,
    blur_strength_from_exif,
    defocus_map,
    depth_to_disparity,
    focus_disparity,
)
from genrefocus.photograph.exif import read_exposure

PIGEON = Path(__file__).parent / "pigeon"
EXPECTED = json.loads((PIGEON / "expected_defocus.json").read_text())
FLOAT32 = 1e-7


@pytest.fixture(scope="module")
def disparity() -> torch.Tensor:
    return depth_to_disparity(torch.from_numpy(np.load(PIGEON / "depth_m.npy")))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(PIGEON / "in_focus_mask.png"))) > 0


def test_max_coc_is_the_released_constant():
    assert MAX_COC == EXPECTED["max_coc"] == 100.0


def test_focus_disparity_of_the_pigeon(disparity, mask):
    d_f = focus_disparity(disparity, mask)
    assert d_f == pytest.approx(0.5788357, abs=1e-7)
    assert d_f == EXPECTED["focus_disparity_1_per_m"]


@pytest.mark.parametrize("k", EXPECTED["maps"])
def test_defocus_map_of_the_pigeon(disparity, mask, k):
    expected = EXPECTED["maps"][k]
    strength = BlurStrength(float(k), *disparity.shape)
    defocus = defocus_map(disparity, focus_disparity(disparity, mask), strength).numpy()

    assert defocus.mean(dtype=np.float64) == pytest.approx(expected["mean"], abs=FLOAT32)
    assert defocus.max() == pytest.approx(expected["max"], abs=FLOAT32)
    assert np.percentile(defocus, 50) == pytest.approx(expected["p50"], abs=FLOAT32)
    assert np.percentile(defocus, 99) == pytest.approx(expected["p99"], abs=FLOAT32)
    at_points = [defocus[y, x] for y, x in EXPECTED["points"]]
    assert at_points == pytest.approx(expected["at_points_yx"], abs=FLOAT32)


def test_control_command_prints_the_anchor_at_the_official_k(capsys):
    files = [str(PIGEON / name) for name in ("aif.png", "depth_m.npy", "in_focus_mask.png")]
    assert main(["control", files[0], "--depth", files[1], "--mask", files[2], "--k", "15"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["focus_disparity", "k", "mean", "max", "p99"]
    assert printed["focus_disparity"] == pytest.approx(0.5788357, abs=1e-7)
    assert printed["mean"] == pytest.approx(0.0639754, abs=5e-8)
    assert printed["max"] == pytest.approx(0.0740978, abs=5e-8)


def test_eq3_example_from_a_photograph_to_k(tmp_path):
    exif = {
        "Exif": {
            piexif.ExifIFD.FocalLength: (50, 1),
            piexif.ExifIFD.FNumber: (18, 10),
            piexif.ExifIFD.FocalLengthIn35mmFilm: 50,
        }
    }
    photo = tmp_path / "full_frame.jpg"
    Image.new("RGB", (1024, 683)).save(photo, exif=piexif.dump(exif))

    facts = read_exposure(photo)
    strength = blur_strength_from_exif(facts, focus_disparity=0.5, height=683, width=1024)

    assert facts.pixel_ratio == pytest.approx(28.44, abs=0.005)
    assert strength.k * 1000 == pytest.approx(20258, rel=1e-4)  # the example rounds on its way
    assert strength.k == pytest.approx(20.26, abs=0.005)
    assert (strength.height, strength.width) == (683, 1024)
