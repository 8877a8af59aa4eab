"""Picture files: upright, or a named reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.data.images import load_image, load_mask, save_image
from genrefocus.rejection import Reason, Rejected

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_once(tmp_path: Path, orientation: int) -> None:
    """Against the definition in the EXIF standard of where row 0 and column 0 are shown."""
    stored = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.transpose(1, 0, 2),
        6: np.rot90(RAMP),
        7: RAMP[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RAMP, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    picture = load_image(tmp_path / "a.png")
    assert picture.dtype == torch.float32
    assert np.array_equal((picture.permute(1, 2, 0) * 255).round().numpy(), RAMP)


def test_sixteen_bit_grey_is_kept(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = torch.from_numpy(grey.astype(np.float32) / 65535).expand(3, -1, -1)
    assert torch.equal(load_image(tmp_path / "grey.png"), expected)


def test_masks_and_saving(tmp_path: Path) -> None:
    mask = torch.rand(5, 6) < 0.5
    save_image(mask.to(torch.uint8) * 255, tmp_path / "mask.png")
    assert torch.equal(load_mask(tmp_path / "mask.png"), mask)
    picture = torch.from_numpy(RAMP).permute(2, 0, 1)
    save_image(picture, tmp_path / "p.png")
    assert torch.equal(load_image(tmp_path / "p.png"), picture / 255)


def test_unusable_files_have_reasons(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no picture")
    for name, reason in {
        "cut.jpg": Reason.IMAGE_DAMAGED,
        "text.jpg": Reason.NOT_AN_IMAGE,
        "none.jpg": Reason.FILE_MISSING,
    }.items():
        with pytest.raises(Rejected) as caught:
            load_image(tmp_path / name)
        assert caught.value.reason == reason
        assert name in str(caught.value)
