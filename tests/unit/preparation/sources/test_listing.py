"""What holds of every source: items, order, and roots that do not fit."""

import json
import os
import pickle
from pathlib import Path

import pytest

from tests.unit.preparation.sources.layouts import MADE, clutter, declared


def test_every_source_has_an_option_of_its_name(tmp_path: Path) -> None:
    assert all(declared(name, tmp_path).name == name for name in MADE)


@pytest.mark.parametrize("name", MADE)
def test_items_are_plain_unique_readable_and_of_the_stated_roles(tmp_path: Path, name: str) -> None:
    source = declared(name, MADE[name](tmp_path / "set"))
    clutter(tmp_path / "set")
    items = source.items()
    assert source.problems() == []
    assert len({item.name for item in items}) == len(items) > 1
    for item in items:
        assert item.images.keys() == source.roles
        assert json.loads(json.dumps(dict(item.facts))) == item.facts
        assert pickle.loads(pickle.dumps(item)) == item
        assert all(one.read()[:2] in (b"\xff\xd8", b"\x89P") for one in item.images.values())
    splits: dict[str, set] = {}
    for item in items:
        splits.setdefault(item.scene or item.name, set()).add(item.split)
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("name", MADE)
def test_the_order_depends_on_names_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MADE[name](tmp_path / "set")
    listed = declared(name, root).items()
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
    assert declared(name, root).items() == listed


@pytest.mark.parametrize("name", MADE)
def test_a_root_that_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist; set source.root"):
        declared(name, tmp_path / "elsewhere").items()


@pytest.mark.parametrize("name", MADE)
def test_a_root_without_anything_usable(tmp_path: Path, name: str) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    for method in ("items", "problems"):
        with pytest.raises(ValueError, match=r"found 1 \.txt, looked for .*source\.root"):
            getattr(declared(name, tmp_path), method)()


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
            declared(name, wrong).items()
        assert f"in {wrong}: found {found}" in str(error.value)
        assert f"looked for {looked_for}" in str(error.value)
        assert str(error.value).endswith(f"{root} looks right: set source.root={root}")
