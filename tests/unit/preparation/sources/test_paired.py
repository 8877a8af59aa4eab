"""Sets of pairs: which files belong together, and which have no counterpart."""

from pathlib import Path

import pytest

from genrefocus.preparation.sources import Lfdof, Pairs
from genrefocus.rejection import Reason
from tests.unit.preparation.sources.layouts import (
    declared,
    dpdd,
    ebb,
    files,
    image,
    images,
    lfdof,
    realdof,
    reasons,
)


def test_dpdd_pairs_by_order_and_keeps_the_splits(tmp_path: Path) -> None:
    items = declared("dpdd", dpdd(tmp_path)).items()
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
        declared("dpdd", tmp_path).items()


def test_pairs_without_a_counterpart_are_named(tmp_path: Path) -> None:
    realdof(tmp_path)
    images(tmp_path, "source/3.png", "target/4.png")
    source = declared("realdof", tmp_path)
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
    source = declared("ebb", tmp_path)
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
    image(tmp_path / "train_data/ground_truth/IMG_3000.png")
    image(tmp_path / "train_data/input/IMG_2001.png")
    (tmp_path / "test_data/input/IMG_4000").mkdir()
    image(tmp_path / "test_data/ground_truth/IMG_4000.png")
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
        images(tmp_path / split, "gt/1.tif", "gt/sub/1.PNG", "blur/1.jpg", "blur/sub/1.Jpg")
    images(tmp_path / "train", "gt/twice.png", "gt/twice.jpg", "blur/twice.png")
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
