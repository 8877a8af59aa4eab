"""``genrefocus inspect``: what it prints is what was written, and damage is named."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrefocus.cli import main
from genrefocus.data.shards import ShardDataset

COUNT = 21


@pytest.fixture
def made(tmp_path: Path, write_preparation, make_labelled) -> Path:
    samples = [
        make_labelled(
            number,
            split="train" if number <= COUNT else "val",
            measures={"largest_radius": 2.0 * number},
            renderer="layered" if number % 2 else "lens [sampled]",
            depth="Depth Pro",
            **({"mask_agreement": 0.5} if number <= 10 else {}),
        )
        for number in range(1, COUNT + 4)
    ]
    samples = [replace(one, prompt="a sign") if n < 4 else one for n, one in enumerate(samples)]
    return write_preparation(tmp_path / "out", samples)


def inspect(capsys, *arguments) -> dict:
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_facts_of_every_set(made: Path, capsys) -> None:
    facts = inspect(capsys, made)
    assert list(facts) == ["test", "train", "val"]
    train = facts["train"]
    assert (train["samples"], train["shards"], facts["val"]["samples"]) == (COUNT, 6, 3)
    assert (train["captions"], facts["val"]["captions"]) == (4, 0)
    assert train["bytes"] == sum(path.stat().st_size for path in made.glob("train/*.tar"))
    assert train["fingerprint"] == ShardDataset(made / "train").fingerprint
    assert train["routes"] == {"aperture_series": COUNT} and train["splits"] == {"train": COUNT}
    assert train["sizes"] == {"16x12": COUNT}
    assert train["origins"] == {
        "renderer": {"layered": 11, "lens [sampled]": 10},
        "depth": {"Depth Pro": COUNT},
        "code_version": {"0.1.0": COUNT},
    }
    k = train["distributions"]["k"]
    expected = dict(zip(("min", "p5", "median", "p95", "max"), (1, 2, 11, 20, 21), strict=True))
    assert k == pytest.approx({"samples": COUNT, **expected})
    radius = train["distributions"]["largest_radius"]
    assert radius["median"] == 22
    assert train["distributions"]["mask_agreement"]["samples"] == 10
    assert facts["test"] == {**facts["test"], "samples": 0, "distributions": {}, "sizes": {}}
    assert inspect(capsys, made / "train") == {"train": train}


def test_the_table_says_the_same(made: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["inspect", str(made), "--verify"]) == 0
    text = capsys.readouterr().out
    for part in (
        "11 layered, 10 lens [sampled]",
        "min 1, p5 2, median 11, p95 20, max 21",
        "(11 without)",
        "checksums agree",
        "captions",
        "3 sets, 24 samples",
        ShardDataset(made / "val").fingerprint,
    ):
        assert part in text


def test_damage_is_found_by_checksums_only(made: Path, capsys) -> None:
    shard = made / "train/shard-00003.tar"
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    shard.write_bytes(data)
    assert inspect(capsys, made)["train"]["samples"] == COUNT
    assert main(["inspect", str(made), "--verify"]) == 2
    error = capsys.readouterr().err
    assert "shard-00003.tar has sha256" in error and "copy it again" in error


def test_previews_show_samples_from_first_to_last(made: Path, tmp_path: Path, capsys) -> None:
    inspect(capsys, made, "--previews", tmp_path / "sheets", "--samples", 3)
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["train.png", "val.png"]
    sheet = np.array(Image.open(tmp_path / "sheets/train.png")).astype(int)
    dataset = ShardDataset(made / "train")
    for number in (0, 10, 20):
        assert contains(sheet, dataset[number].aif.permute(1, 2, 0).numpy())
    assert not contains(sheet, dataset[1].aif.permute(1, 2, 0).numpy())


def contains(sheet: np.ndarray, image: np.ndarray) -> bool:
    height, width = image.shape[:2]
    places = np.argwhere((sheet == image[0, 0]).all(-1))
    return any(
        np.array_equal(sheet[top : top + height, left : left + width], image)
        for top, left in places
    )


@pytest.mark.parametrize(("version", "remedy"), [(0, "prepare route="), (2, "update this one")])
def test_other_schema_versions_name_the_way_out(made: Path, capsys, version, remedy) -> None:
    index = made / "val/index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "schema_version": version}))
    assert main(["inspect", str(made)]) == 2
    error = capsys.readouterr().err
    assert f"val/index.json has schema version {version}" in error and remedy in error


def test_no_set_is_an_error(tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "holds no finished set" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "absent does not exist" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--samples", "0"]) == 2
    assert "--samples: '0': give a whole number, 1 or more" in capsys.readouterr().err
