"""Focal stacks: which frames are one, in which order, and what is none."""

from pathlib import Path

import pytest
from PIL import Image

from genrefocus.rejection import Reason
from tests.unit.preparation.sources.layouts import declared, focal_stacks, image, images, reasons


def test_frames_go_by_their_numbers_and_share_an_image_that_is_made(tmp_path: Path) -> None:
    source = declared("focal_stacks", focal_stacks(tmp_path))
    stacks = source.stacks()
    plain, public = stacks["street"][0], stacks["FSK_1/midsize/undistorted/RigCenter"][0]
    assert [frame.name for frame in plain.frames] == [f"frame{n}.png" for n in (1, 2, 10)]
    assert plain.index == tmp_path / "street" / "street_depthmap.png"
    assert len(public.frames) == 9 and public.index is None
    first, last = (
        item for item in source.items() if item.name in ("street/frame1.png", "street/frame10.png")
    )
    assert (first.facts, last.facts) == ({"frame": 0, "frames": 3}, {"frame": 2, "frames": 3})
    assert first.images["sharp"].read() == last.images["sharp"].read()
    assert [i.scene for i in source.items() if "RigLeft" in i.name][:1] == ["FSK_1"]


def test_scenes_for_testing_are_named_by_a_file(tmp_path: Path) -> None:
    root, listed = focal_stacks(tmp_path / "set"), tmp_path / "test_scenes.txt"
    listed.write_text("FSK_1\n")
    source = declared("focal_stacks", root, test=str(listed))
    assert {item.scene: item.split for item in source.items()} == {
        "FSK_1": "test",
        "street": "train",
    }
    listed.write_text("FSK_2\n")
    with pytest.raises(ValueError, match=r"test_scenes\.txt names none of the scenes"):
        declared("focal_stacks", root, test=str(listed)).items()


def test_folders_that_are_no_stack_are_problems(tmp_path: Path) -> None:
    focal_stacks(tmp_path)
    images(tmp_path, "two/1.png", "two/2.png", *(f"maps/{n}.png" for n in range(3)))
    for name in ("index", "depthmap"):
        Image.new("L", (8, 6)).save(image(tmp_path / "maps" / f"{name}.png"))
    source = declared("focal_stacks", tmp_path)
    assert reasons(source.problems()) == {
        "maps": Reason.COUNTERPART_AMBIGUOUS,
        "two": Reason.FILE_MISSING,
    }
    assert {item.scene for item in source.items()} == {"FSK_1", "street"}
