"""Focal stacks against a scene whose depth and sharp image are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from genrefocus.data.focal_stack import FocalStack, all_in_focus, sharpest
from genrefocus.data.images import save_image
from genrefocus.data.sample import to_uint8
from genrefocus.metrics.psnr import psnr
from genrefocus.rejection import Reason, Rejected

FRAMES = 7
SCENE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def index() -> Tensor:
    """Four surfaces side by side, the third between two frames."""
    return torch.tensor([1.0, 5.0, 2.5, 4.0]).repeat_interleave(24).expand(64, 96)


@pytest.fixture(scope="module")
def frames(index: Tensor) -> Tensor:
    """Every surface blurred by a Gaussian as wide as its distance from the frame."""
    images = torch.empty(FRAMES, 3, 64, 96)
    for number in range(FRAMES):
        for surface in index.unique():
            width = abs(number - float(surface))
            blurred = gaussian_filter(SCENE.numpy(), (0, width, width))
            known = torch.from_numpy(blurred)
            images[number] = torch.where(index == surface, known, images[number])
    return to_uint8(images)


def inner(values: Tensor) -> Tensor:
    """Away from the edges of surfaces, where the windows see two of them."""
    return values.reshape(*values.shape[:-1], 4, 24)[..., 6:-6]


def test_sharpness_finds_the_frame_in_which_a_surface_is_in_focus(
    frames: Tensor, index: Tensor
) -> None:
    found = sharpest(frames)
    assert float((inner(found) - inner(index)).abs().max()) < 0.35
    sharp = [inner(one)[..., [0, 1, 3], :] for one in (all_in_focus(frames, found), SCENE)]
    assert float(psnr(sharp[0].flatten(-2)[None], sharp[1].flatten(-2)[None])) > 35


@pytest.fixture
def stack(frames: Tensor, index: Tensor, tmp_path: Path) -> FocalStack:
    """Files of the stack, numbered from 1; the first surface has no index in the map."""
    files = tuple(tmp_path / f"frame{number + 1}.png" for number in range(FRAMES))
    for file, frame in zip(files, frames, strict=True):
        save_image(frame, file)
    values = torch.where(index == 1, torch.zeros(()), index.round() + 1)
    Image.fromarray(values.numpy().astype(np.uint8)).save(tmp_path / "index.png")
    return FocalStack(files, tmp_path / "index.png")


def test_an_index_map_counts_and_its_holes_are_filled(
    stack: FocalStack, frames: Tensor, index: Tensor
) -> None:
    read, found = stack.read()
    assert torch.equal(read, frames)
    assert torch.equal(inner(found)[:, 1:], inner(index).round()[:, 1:])
    assert float((inner(found)[:, 0] - 1.0).abs().max()) < 0.35
    far_first = FocalStack(stack.frames, stack.index, near_first=False)
    turned, other = far_first.read()
    assert torch.equal(turned, frames.flip(0)) and torch.equal(other, FRAMES - 1 - found)


def test_files_that_do_not_fit_are_named(stack: FocalStack, tmp_path: Path) -> None:
    assert stack.index is not None
    Image.new("RGB", (96, 64)).save(stack.index)
    with pytest.raises(Rejected, match="index.png.*grey"):
        stack.read()
    Image.new("L", (95, 64)).save(stack.index)
    with pytest.raises(Rejected, match="95x64.*index.png: the stack is 96x64 px") as error:
        stack.read()
    assert error.value.reason is Reason.SIZES_DIFFER
    Image.new("RGB", (95, 64)).save(stack.frames[2])
    with pytest.raises(Rejected, match="frame3.png: the stack is 96x64 px"):
        stack.read()
