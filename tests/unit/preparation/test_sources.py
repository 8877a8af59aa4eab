"""Sources on miniatures of their true layouts: items, splits, scenes, and what is no item."""

import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import piexif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from genrefocus.photograph.exif import exposure_from_tags
from genrefocus.preparation.item import Item, Picture
from genrefocus.preparation.sources import (
    SOURCES,
    DevelopedRaw,
    Dpdd,
    Ebb,
    Folder,
    Lfdof,
    Pairs,
    Photographs,
    PhotographTable,
    RealBokeh3mp,
    RealDof,
)
from genrefocus.preparation.sources.aperture_series import spread_over_stops
from genrefocus.preparation.sources.exposure import parse_exif_column
from genrefocus.rejection import Reason, Rejected

THIRD_STOPS = [
    2,
    2.2,
    2.5,
    2.8,
    3.2,
    3.5,
    4,
    4.5,
    5,
    5.6,
    6.3,
    7.1,
    8,
    9,
    10,
    11,
    13,
    14,
    16,
    18,
    20,
]
EXPOSURE = {
    "Exif": {piexif.ExifIFD.FNumber: (28, 10), piexif.ExifIFD.FocalLength: (50, 1)},
    "0th": {
        piexif.ImageIFD.Make: "Canon",
        piexif.ImageIFD.Model: "EOS 5D",
        piexif.ImageIFD.Artist: "A. Person",
    },
    "GPS": {piexif.GPSIFD.GPSLatitudeRef: "N", piexif.GPSIFD.GPSLatitude: ((1, 1),) * 3},
}


def picture(path: Path, exif: dict | None = None) -> Path:
    """A tiny picture of the suffix's format; every path has its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = tuple(random.Random(path.as_posix()).randbytes(3))
    extra = {"exif": piexif.dump(exif)} if exif else {}
    Image.new("RGB", (8, 6), colour).save(path, **extra)
    return path


def pictures(root: Path, *names: str) -> None:
    for name in names:
        picture(root / name)


def clutter(root: Path) -> None:
    """Files that systems leave in every folder."""
    for folder in [root, *(path for path in sorted(root.rglob("*")) if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "Thumbs.db").write_bytes(b"\0")
        (folder / "._1P0A0890.png").write_bytes(b"\0")
        picture(folder / ".hidden/1.png")


def dpdd(root: Path) -> Path:
    # Numbers as in the authors' lists; the sharp exposure came first in the test split.
    for split, source, target in (
        ("train", "1P0A0890", "1P0A0891"),
        ("train", "1P0A0892", "1P0A0893"),
        ("train", "1P0A0898", "1P0A0899"),
        ("val", "1P0A0894", "1P0A0895"),
        ("test", "1P0A0917", "1P0A0916"),
        ("test", "1P0A0933", "1P0A0932"),
    ):
        pictures(root, f"{split}_c/source/{source}.png", f"{split}_c/target/{target}.png")
        pictures(root, f"{split}_l/source/{source}.png", f"{split}_r/source/{source}.png")
    return root


def realdof(root: Path) -> Path:
    pictures(root, *(f"{kind}/{number}.png" for kind in ("source", "target") for number in (1, 2)))
    return root


def ebb(root: Path) -> Path:
    for split, count in (("train", 3), ("test", 1)):
        for number in range(count):
            pictures(root, f"{split}/original/{number}.jpg", f"{split}/bokeh/{number}.jpg")
            picture(root / f"{split}/original_depth/{number}.png")
    return root


def lfdof(root: Path) -> Path:
    for split, scene in (("train", "IMG_1275"), ("train", "IMG_2001"), ("test", "IMG_2162")):
        picture(root / f"{split}_data/ground_truth/{scene}.png")
        for step in range(3):
            picture(root / f"{split}_data/input/{scene}/{scene}_ap1_{step:02d}.png")
    return root


def realbokeh_scene(base: Path, scene: str, f_numbers: list[float], **changes) -> dict:
    """A scene as published: f/2 is written 2.0, f/10 is written 10."""
    written = [f"{number:.1f}" if number < 10 else f"{number}" for number in f_numbers]
    names = [f"gt/{scene}/{scene}_f{number}.JPG" for number in written]
    meta = {
        "id": int(scene),
        "source_image": f"in/{scene}_f22.JPG",
        "source_av": 22.0,
        "target_images": names,
        "target_avs": [float(n) for n in f_numbers],
        "focal_length": 53,
        "ISO": 100,
        "EV": 13.125,
        "focus_plane_distance": 0.93,
        "focus_plane_uncertainty": 0.03,
    }
    meta = {name: value for name, value in (meta | changes).items() if value is not ...}
    pictures(base, f"in/{scene}_f22.JPG", *names)
    (base / "metadata").mkdir(exist_ok=True)
    (base / f"metadata/{scene}.json").write_text(json.dumps(meta))
    return meta


def realbokeh(root: Path) -> Path:
    realbokeh_scene(root / "train", "1", [2, 4, 7.1, 9, 20])
    realbokeh_scene(root / "train", "135", [2, 20])
    realbokeh_scene(root / "validation", "11", [2, 2.2])
    realbokeh_scene(root / "test", "135", THIRD_STOPS)
    return root


def photographs(root: Path) -> Path:
    pictures(root, "b.JPG", "a/c.png", "a/d.jpeg")
    (root / "notes.txt").write_text("no picture")
    return root


def pairs(root: Path) -> Path:
    pictures(root, "sharp/1.png", "sharp/day/2.png", "photo/1.JPG", "photo/day/2.jpg")
    return root


def table(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    cells = [picture(root.parent / f"cell{n}.jpg").read_bytes() for n in range(3)]
    rows = {"image": cells, "f_number": [1.8, 2.8, None], "focal_length": [50, 35, None]}
    pq.write_table(pa.table(rows), root / "photos.parquet")
    return root


def developed(root: Path) -> Path:
    for name in ("a.NEF", "trip/b.dng"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(piexif.dump(EXPOSURE).removeprefix(b"Exif\x00\x00"))
    pictures(root, "a.png", "trip/developed/b.jpg")
    return root


MADE: dict[str, Callable[[Path], Path]] = {
    "dpdd": dpdd,
    "realdof": realdof,
    "realbokeh_3mp": realbokeh,
    "lfdof": lfdof,
    "ebb": ebb,
    "photographs": photographs,
    "photograph_table": table,
    "developed_raw": developed,
    "folder": photographs,
    "pairs": pairs,
}


def reasons(problems: list[tuple[str, Rejected]]) -> dict[str, Reason]:
    assert len({name for name, _ in problems}) == len(problems)
    return {name: rejected.reason for name, rejected in problems}


def files(item: Item, root: Path) -> dict[str, str]:
    return {role: one.path.relative_to(root).as_posix() for role, one in item.pictures.items()}


# What holds of every source


def test_every_source_is_registered_under_its_name() -> None:
    assert SOURCES.keys() == MADE.keys()
    assert all(kind.name == name for name, kind in SOURCES.items())


@pytest.mark.parametrize("name", SOURCES)
def test_items_are_plain_unique_readable_and_of_the_stated_roles(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](MADE[name](tmp_path / "set"))
    clutter(tmp_path / "set")
    items = source.items()
    assert source.problems() == []
    assert len({item.name for item in items}) == len(items) > 1
    for item in items:
        assert item.pictures.keys() == source.roles
        assert json.loads(json.dumps(dict(item.facts))) == item.facts
        assert pickle.loads(pickle.dumps(item)) == item
        assert all(one.read()[:2] in (b"\xff\xd8", b"\x89P") for one in item.pictures.values())
    splits: dict[str, set] = {}
    for item in items:
        splits.setdefault(item.scene or item.name, set()).add(item.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", SOURCES)
def test_the_order_depends_on_names_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MADE[name](tmp_path / "set")
    listed = SOURCES[name](root).items()
    assert [item.name for item in listed] == sorted(item.name for item in listed)
    scandir, listdir = os.scandir, os.listdir

    class Backwards:
        def __init__(self, *path) -> None:
            with scandir(*path) as entries:
                self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=True))

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None: ...

        def __iter__(self):
            return self.entries

        def __next__(self):
            return next(self.entries)

        def close(self) -> None: ...

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda *path: sorted(listdir(*path), reverse=True))
    assert SOURCES[name](root).items() == listed


@pytest.mark.parametrize("name", SOURCES)
def test_a_root_that_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist; set source.root"):
        SOURCES[name](tmp_path / "elsewhere").items()


@pytest.mark.parametrize("name", SOURCES)
def test_a_root_without_anything_usable(tmp_path: Path, name: str) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    for method in ("items", "problems"):
        with pytest.raises(ValueError, match=r"found 1 \.txt, looked for .*source\.root"):
            getattr(SOURCES[name](tmp_path), method)()


@pytest.mark.parametrize(
    ("name", "below", "looked_for"),
    [
        ("dpdd", "train_c", "train_c/source with train_c/target"),
        ("realdof", "source", "source with target"),
        ("realbokeh_3mp", "train", "train/in/<scene>_f22.JPG, train/gt/<scene>"),
        ("lfdof", "train_data", "train_data/input/<scene>/"),
        ("ebb", "train", "train/bokeh with train/original"),
        ("pairs", "sharp", "photo with sharp"),
    ],
)
def test_a_root_one_level_off_is_named(
    tmp_path: Path, name: str, below: str, looked_for: str
) -> None:
    root = MADE[name](tmp_path / "data/set")
    for wrong, found in ((tmp_path / "data", "folders set"), (root / below, "")):
        with pytest.raises(ValueError) as error:
            SOURCES[name](wrong).items()
        assert f"in {wrong}: found {found}" in str(error.value)
        assert f"looked for {looked_for}" in str(error.value)
        assert str(error.value).endswith(f"{root} looks right: set source.root={root}")


# Pairs


def test_dpdd_pairs_by_order_and_keeps_the_splits(tmp_path: Path) -> None:
    items = Dpdd(dpdd(tmp_path)).items()
    assert [(item.split, *files(item, tmp_path).values()) for item in items] == [
        ("test", "test_c/target/1P0A0916.png", "test_c/source/1P0A0917.png"),
        ("test", "test_c/target/1P0A0932.png", "test_c/source/1P0A0933.png"),
        ("train", "train_c/target/1P0A0891.png", "train_c/source/1P0A0890.png"),
        ("train", "train_c/target/1P0A0893.png", "train_c/source/1P0A0892.png"),
        ("train", "train_c/target/1P0A0899.png", "train_c/source/1P0A0898.png"),
        ("val", "val_c/target/1P0A0895.png", "val_c/source/1P0A0894.png"),
    ]
    assert len({item.scene for item in items}) == 6


@pytest.mark.parametrize(
    ("gone", "complaint"),
    [
        (["target/1P0A0891"], "3 photographs and 2 sharp .* 1P0A0890 and 1P0A0893 cannot be one"),
        (["source/1P0A0890", "target/1P0A0899"], "1P0A0898 and 1P0A0893 cannot be one"),
    ],
)
def test_dpdd_with_a_missing_file_is_refused(
    tmp_path: Path, gone: list[str], complaint: str
) -> None:
    dpdd(tmp_path)
    for name in gone:
        (tmp_path / f"train_c/{name}.png").unlink()
    with pytest.raises(ValueError, match=complaint):
        Dpdd(tmp_path).items()


def test_pairs_without_a_counterpart_are_named(tmp_path: Path) -> None:
    realdof(tmp_path)
    pictures(tmp_path, "source/3.png", "target/4.png")
    source = RealDof(tmp_path)
    assert [(item.name, item.split) for item in source.items()] == [
        ("source/1.png", "test"),
        ("source/2.png", "test"),
    ]
    assert [(name, rejected.value) for name, rejected in source.problems()] == [
        ("source/3.png", "target/3.*"),
        ("target/4.png", "source/4.*"),
    ]
    assert set(reasons(source.problems()).values()) == {Reason.FILE_MISSING}


def test_ebb_pairs_by_number_and_names_a_folder_without_counterpart(tmp_path: Path) -> None:
    ebb(tmp_path)
    for path in (tmp_path / "test/bokeh").iterdir():
        path.unlink()
    (tmp_path / "test/bokeh").rmdir()
    source = Ebb(tmp_path)
    assert files(source.items()[2], tmp_path) == {
        "sharp": "train/original/2.jpg",
        "photo": "train/bokeh/2.jpg",
    }
    assert {item.split for item in source.items()} == {"train"}
    ((name, rejected),) = source.problems()
    assert (name, rejected.reason, rejected.value) == ("test", Reason.FILE_MISSING, "bokeh")


def test_lfdof_groups_renderings_by_light_field(tmp_path: Path) -> None:
    lfdof(tmp_path)
    (tmp_path / "train_data/ground_truth/IMG_2001.png").unlink()
    picture(tmp_path / "train_data/ground_truth/IMG_3000.png")
    picture(tmp_path / "train_data/input/IMG_2001.png")
    (tmp_path / "test_data/input/IMG_4000").mkdir()
    picture(tmp_path / "test_data/ground_truth/IMG_4000.png")
    source = Lfdof(tmp_path)
    assert {(item.scene, item.split) for item in source.items()} == {
        ("train_data/IMG_1275", "train"),
        ("test_data/IMG_2162", "test"),
    }
    assert [files(item, tmp_path) for item in source.items()][4] == {
        "sharp": "train_data/ground_truth/IMG_1275.png",
        "photo": "train_data/input/IMG_1275/IMG_1275_ap1_01.png",
    }
    assert reasons(source.problems()) == {
        "test_data/input/IMG_4000": Reason.FILE_MISSING,
        "train_data/ground_truth/IMG_3000.png": Reason.FILE_MISSING,
        "train_data/input/IMG_2001": Reason.FILE_MISSING,
        "train_data/input/IMG_2001.png": Reason.FILE_MISSING,
    }


def test_pairs_of_ones_own(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        pictures(tmp_path / split, "gt/1.tif", "gt/sub/1.PNG", "blur/1.jpg", "blur/sub/1.Jpg")
    pictures(tmp_path / "train", "gt/twice.png", "gt/twice.jpg", "blur/twice.png")
    splits = {"train": "train", "validation": "val", "test": "test"}
    source = Pairs(tmp_path, sharp="gt", photo="blur", splits=splits)
    assert [(item.name, item.scene, item.split) for item in source.items()] == [
        ("train/blur/1.jpg", "train/1", "train"),
        ("train/blur/sub/1.Jpg", "train/sub/1", "train"),
        ("validation/blur/1.jpg", "validation/1", "val"),
        ("validation/blur/sub/1.Jpg", "validation/sub/1", "val"),
    ]
    ((name, rejected),) = source.problems()
    assert (name, rejected.reason) == ("train/blur/twice.png", Reason.COUNTERPART_AMBIGUOUS)
    assert "train/gt/twice.jpg, train/gt/twice.png" in str(rejected.value)
    with pytest.raises(ValueError, match=r"splits \['validation'\] are unknown"):
        Pairs(tmp_path, splits={"validation": "validation"})


# RealBokeh_3MP


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
        ({"focal_length": ...}, "metadata_invalid: focal_length must be"),
        ({"focal_length": 10**400}, "focal_length must be a number"),
        ({"focal_length": 0}, r"\(0\): focal_length must be a number above zero"),
        ({"focus_plane_distance": "0.9"}, r"\(0.9\): focus_plane_distance"),
        ({"focus_plane_distance": float("nan")}, "focus_plane_distance"),
        ({"focus_plane_uncertainty": -0.1}, "focus_plane_uncertainty"),
        ({"source_av": True}, "source_av"),
        ({"target_avs": [2.0]}, "3 target_images, 1 target_avs"),
        ({"target_avs": None}, "3 target_images, no list of target_avs"),
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
    picture(base / "gt/5/5_f5.6.JPG")
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


# Single pictures


def test_photographs_follow_links_once_and_name_broken_ones(tmp_path: Path) -> None:
    root = photographs(tmp_path / "roll")
    pictures(tmp_path, "album/e.jpg", "f.jpg")
    (root / "album").symlink_to(tmp_path / "album")
    (root / "a/loop").symlink_to(root)
    (root / "f.jpg").symlink_to(tmp_path / "f.jpg")
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    source = Photographs(root)
    assert [item.name for item in source.items()] == [
        "a/c.png",
        "a/d.jpeg",
        "album/e.jpg",
        "b.JPG",
        "f.jpg",
    ]
    assert all(item.scene is None and item.split is None for item in source.items())
    ((name, rejected),) = source.problems()
    assert (name, rejected.reason) == ("gone.jpg", Reason.FILE_MISSING)
    assert "nowhere.jpg" in str(rejected)


def test_photographs_that_would_share_an_estimate_are_refused_by_name(tmp_path: Path) -> None:
    root = tmp_path
    pictures(root, "a/1.JPG", "a/1.jpg", "a/1.png", "b/1.jpg", "a/2.jpg")
    (root / "a/._2.jpg").write_bytes(b"as macOS leaves them on other disks")
    source = Photographs(root)
    assert [item.name for item in source.items()] == ["a/2.jpg", "b/1.jpg"]
    problems = source.problems()
    assert [name for name, _ in problems] == ["a/1.JPG", "a/1.jpg", "a/1.png"]
    for _, rejected in problems:
        assert rejected.reason is Reason.COUNTERPART_AMBIGUOUS
        assert rejected.value == "a/1.JPG, a/1.jpg, a/1.png"


def test_a_name_that_is_not_utf_8_is_turned_away_alone(tmp_path: Path) -> None:
    root = tmp_path
    pictures(root, "a.jpg")
    with open(os.path.join(os.fsencode(root), b"Z\xfcrich.jpg"), "wb") as file:  # Latin-1
        file.write((root / "a.jpg").read_bytes())
    for source in (Photographs(root), Folder(root)):
        assert [item.name for item in source.items()] == ["a.jpg"]
        ((name, rejected),) = source.problems()
        assert (name, rejected.reason) == ("Z\\xfcrich.jpg", Reason.FILE_NAME_INVALID)
        json.dumps([name, str(rejected)], ensure_ascii=False).encode()


def test_a_folder_of_anything_else_says_what_it_found(tmp_path: Path) -> None:
    for name in ("a.cr2", "b.CR2", "c.txt", "README"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"found 2 \.cr2, 1 \.txt, 1 without suffix, looked for \.j"
    ):
        Photographs(tmp_path).items()


def test_sharp_pictures_of_a_folder(tmp_path: Path) -> None:
    assert [files(item, tmp_path) for item in Folder(photographs(tmp_path)).items()] == [
        {"sharp": "a/c.png"},
        {"sharp": "a/d.jpeg"},
        {"sharp": "b.JPG"},
    ]


def test_raw_exposure_goes_to_pictures_that_lost_theirs(tmp_path: Path) -> None:
    developed(tmp_path)
    (tmp_path / "kept.CR2").write_bytes((tmp_path / "a.NEF").read_bytes())
    picture(tmp_path / "kept.jpg", EXPOSURE | {"GPS": {}})
    source = DevelopedRaw(tmp_path)
    facts = {item.name: item.facts for item in source.items()}
    exif = {"FocalLength": "50/1", "FNumber": "14/5", "Make": "Canon", "Model": "EOS 5D"}
    assert facts == {
        "a.png": {"raw": "a.NEF", "exif": exif},
        "kept.jpg": {"raw": "kept.CR2"},
        "trip/developed/b.jpg": {"raw": "trip/b.dng", "exif": exif},
    }
    assert source.problems() == []
    known = exposure_from_tags(facts["a.png"]["exif"], width=6, height=8)
    assert (known.f_number, known.focal_length_mm, known.sensor_width_mm) == (2.8, 50, 35.8)


@pytest.mark.parametrize("start", [b"MMOR", b"MMRS", b"MM\0U"])
def test_raw_headers_with_a_magic_number_of_their_own(tmp_path: Path, start: bytes) -> None:
    developed(tmp_path)
    (tmp_path / "a.NEF").write_bytes(start + (tmp_path / "a.NEF").read_bytes()[4:])
    assert DevelopedRaw(tmp_path).items()[0].facts["exif"]["FNumber"] == "14/5"


def test_raw_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    developed(tmp_path)
    raw = (tmp_path / "a.NEF").read_bytes()
    for name in ("undeveloped.arw", "twice.nef", "same.dng", "same.nef"):
        (tmp_path / name).write_bytes(raw)
    (tmp_path / "boxes.cr3").write_bytes(b"\0\0\0\x18ftypcrx ")
    pictures(tmp_path, "twice.jpg", "developed/twice.png", "same.jpg", "boxes.png")
    pictures(tmp_path, "bare.png", "cut.png", "alone.jpg")
    no_exposure = piexif.dump({"0th": {piexif.ImageIFD.Make: "Canon"}})
    (tmp_path / "bare.nef").write_bytes(no_exposure.removeprefix(b"Exif\x00\x00"))
    (tmp_path / "cut.nef").write_bytes(raw[:9])
    source = DevelopedRaw(tmp_path)
    assert len(source.items()) == 2
    found = reasons(source.problems())
    assert found.pop("cut.nef") in (Reason.EXIF_CORRUPT, Reason.NO_EXIF, Reason.FORMAT_UNSUPPORTED)
    assert found == {
        "alone.jpg": Reason.FILE_MISSING,
        "bare.nef": Reason.NO_EXIF,
        "boxes.cr3": Reason.FORMAT_UNSUPPORTED,
        "same.dng": Reason.COUNTERPART_AMBIGUOUS,
        "same.nef": Reason.COUNTERPART_AMBIGUOUS,
        "twice.nef": Reason.COUNTERPART_AMBIGUOUS,
        "undeveloped.arw": Reason.FORMAT_UNSUPPORTED,
    }
    assert "develop it" in str(dict(source.problems())["undeveloped.arw"])


# Tables


def test_only_exposure_leaves_a_table(tmp_path: Path) -> None:
    flickr = [
        {"tagspace": "Canon", "tag": "FNumber", "raw": {"_content": "99"}},
        {"tagspace": "IFD0", "tag": "Make", "raw": {"_content": "NIKON "}},
        {"tagspace": "ExifIFD", "tag": "FocalLengthIn35mmFormat", "raw": {"_content": "75 mm"}},
        {"tagspace": "ExifIFD", "tag": "SerialNumber", "raw": {"_content": "12345"}},
        {"tagspace": "GPS", "tag": "GPSLatitude", "raw": {"_content": "48.1"}},
    ]
    rows = {
        "image": [picture(tmp_path / "p.jpg").read_bytes()] * 3,
        "f_number": [1.8, float("nan"), None],
        "focal_length": [50, 0, None],
        "GPSLatitude": [48.1, 48.1, 48.1],
        "OwnerName": ["A. Person"] * 3,
        "flickr_exif": [
            json.dumps({"photo": {"id": "1", "exif": flickr}}),
            json.dumps({"FNumber": [28, 10], "FocalLength": "9 mm", "Artist": "A. Person"}),
            None,
        ],
    }
    pq.write_table(pa.table(rows), tmp_path / "photos.parquet")
    items = PhotographTable(tmp_path).items()
    assert [item.facts for item in items] == [
        {
            "exif": {
                "Make": "NIKON",
                "FocalLengthIn35mmFilm": "75",
                "FNumber": 1.8,
                "FocalLength": 50.0,
            }
        },
        {"exif": {"FNumber": [28, 10], "FocalLength": 0.0}},
        {},
    ]
    assert [item.name for item in items] == [f"photos.parquet/{n:07d}" for n in range(3)]
    assert {item.scene for item in items} == {None}


def test_a_table_says_which_rows_it_cannot_read(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/1.jpg")
    rows = {
        "file": ["pictures/1.jpg", "pictures/2.jpg", None, "pictures/1.jpg"],
        "aperture": [2.0, 2.0, 2.0, 2.0],
        "scene": ["beach", "beach", "beach", None],
        "exif": ["{}", None, None, "{broken"],
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    source = PhotographTable(tmp_path / "t.parquet", image="file", exif={"aperture": "FNumber"})
    (item,) = source.items()
    assert (item.scene, item.facts) == ("beach", {"exif": {"FNumber": 2.0}})
    assert files(item, tmp_path) == {"photo": "pictures/1.jpg"}
    assert reasons(source.problems()) == {
        "t.parquet/0000001": Reason.FILE_MISSING,
        "t.parquet/0000002": Reason.FILE_MISSING,
        "t.parquet/0000003": Reason.EXIF_CORRUPT,
    }


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "no column 'image'; it has picture, f_number"),
        ({"image": "f_number"}, "column 'f_number' is double; it must hold bytes"),
        ({"image": "picture", "exif": {"iso": "FNumber"}}, r"no columns \['iso'\]"),
        ({"image": "picture", "exif": {"f_number": "GPSLatitude"}}, "not passed on"),
    ],
)
def test_a_table_of_other_columns(tmp_path: Path, options: dict, complaint: str) -> None:
    pq.write_table(pa.table({"picture": [b""], "f_number": [2.0]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=complaint):
        PhotographTable(tmp_path, **options).items()


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ValueError, match="is no parquet file"):
        PhotographTable(tmp_path).items()


@pytest.mark.parametrize("text", ['{"Artist": "A. Person"', "3", "[1, 2", "[" * 100_000])
def test_exif_that_is_no_json(text: str) -> None:
    with pytest.raises(Rejected, match="exif_corrupt") as error:
        parse_exif_column(text)
    assert "Person" not in str(error.value)


@pytest.mark.parametrize("as_struct", [False, True])
def test_cells_in_any_order_and_small_memory(tmp_path: Path, as_struct: bool) -> None:
    generator = random.Random(3)
    cells = [generator.randbytes(400_000) for _ in range(90)]
    column = [{"bytes": cell, "path": None} for cell in cells] if as_struct else cells
    path = tmp_path / "t.parquet"
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()}) if as_struct else pa.binary()
    image = pa.array(column, kind)
    pq.write_table(pa.table({"image": image}), path, row_group_size=60, write_batch_size=4)
    del column, image
    before, group = pa.total_allocated_bytes(), 60 * 400_000
    for row in [*range(90), 5, 3, 88, 60, 59, 61]:
        assert Picture(path, (row, "image")).read() == cells[row]
        assert pa.total_allocated_bytes() - before < group / 3


def test_cells_in_order_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"%d" % n for n in range(50)]}), path, row_group_size=20)
    opened = []
    original = pq.ParquetFile.iter_batches

    def counted(self, **options):
        opened.append(options["row_groups"])
        return original(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert [Picture(path, (n, "image")).read() for n in range(50)] == [b"%d" % n for n in range(50)]
    assert opened == [[0], [1], [2]]


def test_an_empty_cell_is_rejected(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x", None]}), tmp_path / "t.parquet")
    with pytest.raises(Rejected, match="file_missing .*row 1.* is empty there"):
        Picture(tmp_path / "t.parquet", (1, "image")).read()
