"""Image files: as pixels, or a named reason. Orientation is tested in test_decoding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from genrefocus.data.images import load_image, load_map, load_mask, save_animation, save_image
from genrefocus.rejection import Reason, Rejected

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def test_sixteen_bit_grey_is_kept(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    expected = torch.from_numpy(grey.astype(np.float32) / 65535).expand(3, -1, -1)
    assert torch.equal(load_image(tmp_path / "grey.png"), expected)


@pytest.mark.parametrize("suffix", ["gif", "webp", "mp4"])
def test_animations_hold_their_frames_in_order(suffix: str, tmp_path: Path) -> None:
    if suffix == "mp4":
        pytest.importorskip("av")
    frames = [np.full((21, 33, 3), level, np.uint8) for level in (20, 120, 220)]
    save_animation(frames, tmp_path / f"a.{suffix}", 10)
    if suffix == "mp4":
        import imageio.v3

        shown = imageio.v3.imread(tmp_path / "a.mp4", plugin="pyav")[:, :21, :33]
    else:
        with Image.open(tmp_path / f"a.{suffix}") as animation:
            assert animation.info.get("duration", 100) == 100 and animation.info["loop"] == 0
            shown = [np.array(one.convert("RGB")) for one in ImageSequence.Iterator(animation)]
    for frame, one in zip(frames, shown, strict=True):
        assert np.abs(one.astype(int) - frame).max() <= 4


def test_a_gif_keeps_a_gradient_and_the_colour_of_a_small_thing(tmp_path: Path) -> None:
    """Means of 8 x 8 px of a sky, and of a spot, in a frame whose colours are many and dull."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 160, (256, 256, 1)) + rng.integers(0, 60, (256, 256, 3))
    down, across = np.linspace(0, 1, 16)[:, None, None], np.linspace(0, 1, 256)[:, None]
    frame[:16] = [75, 130, 200] + down * [60, 40, 20] + across * [50, 40, 15]
    frame[100:104, 40:44] = 250, 90, 20
    save_animation([frame.astype(np.uint8)], tmp_path / "a.gif", 10)
    with Image.open(tmp_path / "a.gif") as animation:
        error = np.array(animation.convert("RGB")).astype(float) - frame
    sky = np.abs(error[:16].reshape(2, 8, 32, 8, 3).mean((1, 3)))
    spot = np.abs(error[100:104, 40:44].mean((0, 1)))
    assert sky.mean() < 1.2 and spot.max() < 20


def test_masks_and_saving(tmp_path: Path) -> None:
    mask = torch.rand(5, 6) < 0.5
    save_image(mask.to(torch.uint8) * 255, tmp_path / "mask.png")
    assert torch.equal(load_mask(tmp_path / "mask.png"), mask)
    image = torch.from_numpy(RAMP).permute(2, 0, 1)
    save_image(image, tmp_path / "p.png")
    assert torch.equal(load_image(tmp_path / "p.png"), image / 255)


def test_unusable_files_have_reasons(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:900])
    (tmp_path / "text.jpg").write_text("no image")
    for name, reason in {
        "cut.jpg": Reason.IMAGE_DAMAGED,
        "text.jpg": Reason.NOT_AN_IMAGE,
        "none.jpg": Reason.FILE_MISSING,
    }.items():
        with pytest.raises(Rejected) as caught:
            load_image(tmp_path / name)
        assert caught.value.reason == reason
        assert name in str(caught.value)


def test_arrays_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.ones((4, 5), np.float32))
    whole = (tmp_path / "whole.npy").read_bytes()
    np.savez(tmp_path / "archive.npz", np.ones((4, 5), np.float32))
    for content in (
        b"",
        b"text",
        whole[:-1],
        whole.replace(b"(4, 5)", b"(4, 5 "),
        whole.replace(b"(4, 5)", b"(9e9,)"),
        whole.replace(b"'<f4'", b"'<q!'"),
        (tmp_path / "archive.npz").read_bytes()[:90],
    ):
        (tmp_path / "depth.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"depth\.npy is no whole \.npy array"):
            load_map(tmp_path / "depth.npy", "depth")
    np.save(tmp_path / "depth.npy", np.ones((0, 5), np.float32))
    with pytest.raises(ValueError, match=r"depth\.npy holds float32 \(0, 5\)"):
        load_map(tmp_path / "depth.npy", "depth")
