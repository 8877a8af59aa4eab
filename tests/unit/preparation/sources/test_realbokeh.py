"""RealBokeh_3MP: facts of each frame, and metadata that cannot be trusted."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrefocus.preparation.sources import RealBokeh3mp
from genrefocus.preparation.sources.realbokeh import spread_over_stops
from genrefocus.rejection import Reason
from tests.unit.preparation.sources.layouts import (
    THIRD_STOPS,
    files,
    image,
    realbokeh,
    realbokeh_scene,
    reasons,
)


def test_realbokeh_states_the_facts_of_each_frame(tmp_path: Path) -> None:
    items = {item.name: item for item in RealBokeh3mp(realbokeh(tmp_path)).items()}
    item = items["validation/gt/11/11_f2.2.JPG"]
    assert files(item, tmp_path) == {"sharp": "validation/in/11_f22.JPG", "photo": item.name}
    assert (item.scene, item.split) == ("validation/11", "val")
    assert item.facts == {
        "f_number": 2.2,
        "sharp_f_number": 22.0,
        "focal_length_mm": 53.0,
        "focus_distance_m": 0.93,
        "focus_distance_uncertainty_m": 0.03,
    }
    scenes = {item.scene: item.split for item in items.values()}
    assert scenes["train/135"] == "train"
    assert scenes["test/135"] == "test"


def test_realbokeh_caps_a_scene(tmp_path: Path) -> None:
    realbokeh(tmp_path)

    def f_numbers(scene: str, **options) -> list[float]:
        items = RealBokeh3mp(tmp_path, **options).items()
        return sorted(item.facts["f_number"] for item in items if item.scene == scene)

    assert f_numbers("train/1") == [2, 4, 9, 20]
    assert f_numbers("test/135") == [2, 4.5, 9, 20]
    assert f_numbers("test/135", max_per_scene=1) == [2]
    assert f_numbers("test/135", max_per_scene=99) == THIRD_STOPS
    with pytest.raises(ValueError, match="max_per_scene is 0"):
        RealBokeh3mp(tmp_path, max_per_scene=0)


@given(st.sets(st.sampled_from(THIRD_STOPS), min_size=1), st.integers(1, 25), st.randoms())
def test_the_cap_keeps_the_widest_whatever_the_order(
    f_numbers: set[float], count: int, shuffler: random.Random
) -> None:
    frames = [(Path(f"{number}"), number) for number in f_numbers]
    chosen = spread_over_stops(dict(frames), count)
    assert len(set(chosen)) == len(chosen) == min(count, len(frames))
    assert Path(f"{min(f_numbers)}") in chosen
    shuffler.shuffle(frames)
    assert spread_over_stops(dict(frames), count) == chosen


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"focal_length": ...}, r"\(metadata/7.json\): focal_length: Field required"),
        ({"focal_length": 10**400}, "focal_length: "),
        ({"focal_length": 0}, r"focal_length: Input should be greater than 0"),
        ({"focus_plane_distance": "0.9"}, r"\(0.9\): focus_plane_distance"),
        ({"focus_plane_distance": float("nan")}, "focus_plane_distance"),
        ({"focus_plane_uncertainty": -0.1}, "focus_plane_uncertainty"),
        ({"source_av": True}, "source_av"),
        ({"target_avs": [2.0]}, "3 target_images, 1 target_avs"),
        ({"target_avs": None}, "target_avs: Input should be a valid"),
        ({"target_avs": [2.0, 5.0, 8.0]}, r"\(5.0\): target_avs does not fit the name 7_f4.0"),
        ({"source_av": 7.0}, r"\(8.0\): no wider than source_av 7"),
        ({"source_image": "../test/in/7_f22.JPG"}, "source_image must be a path in train"),
    ],
)
def test_realbokeh_metadata_that_cannot_be_trusted(
    tmp_path: Path, changes: dict, complaint: str
) -> None:
    realbokeh_scene(tmp_path / "train", "1", [2, 4])
    realbokeh_scene(tmp_path / "train", "7", [2, 4, 8], **changes)
    source = RealBokeh3mp(tmp_path)
    assert {item.scene for item in source.items()} == {"train/1"}
    ((name, rejected),) = source.problems()
    assert (name, rejected.reason) == ("train/7", Reason.METADATA_INVALID)
    assert re.search(complaint, str(rejected))


def test_realbokeh_files_and_metadata_that_disagree(tmp_path: Path) -> None:
    base = tmp_path / "train"
    for scene in ("1", "2", "3", "4", "5"):
        realbokeh_scene(base, scene, [2, 4, 8])
    (base / "metadata/2.json").unlink()
    (base / "metadata/3.json").write_text('{"id": 3, ')
    (base / "in/4_f22.JPG").unlink()
    (base / "gt/5/5_f4.0.JPG").unlink()
    image(base / "gt/5/5_f5.6.JPG")
    source = RealBokeh3mp(tmp_path)
    names = [item.name for item in source.items()]
    assert [name for name in names if "gt/5" in name] == [
        "train/gt/5/5_f2.0.JPG",
        "train/gt/5/5_f8.0.JPG",
    ]
    assert len(names) == 5
    assert reasons(source.problems()) == {
        "train/2": Reason.FILE_MISSING,
        "train/3": Reason.METADATA_INVALID,
        "train/4": Reason.FILE_MISSING,
        "train/gt/5/5_f4.0.JPG": Reason.FILE_MISSING,
        "train/gt/5/5_f5.6.JPG": Reason.METADATA_INVALID,
    }
    (base / "metadata/1.json").unlink()
    (base / "metadata/5.json").unlink()
    with pytest.raises(ValueError, match="nothing usable .* 5 problems, such as train/1: file_mis"):
        RealBokeh3mp(tmp_path).items()
