"""``genrefocus calibrate``: verdicts joined with measures, gates that can be pasted."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from genrefocus.cli import main
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.ledger import read_lines
from genrefocus.preparation.report import tabulate
from genrefocus.preparation.review import choose

COUNT = 20


@pytest.fixture
def made(tmp_path: Path, write_preparation, make_labelled) -> Path:
    """Samples 1 to 20 with SSIM 0.51 to 0.70, and a rejected one that was measured."""
    samples = [
        make_labelled(
            number,
            measures={
                "ssim": (50 + number) / 100,
                "registration_error": float(number * 7 % COUNT),
                "mask_agreement": None,
                "long_edge": 16.0,
            },
        )
        for number in range(1, COUNT + 1)
    ]
    away = {
        "key": "away",
        "name": "away.jpg",
        "split": "train",
        "reason": "gate_ssim",
        "value": 0.1,
        "detail": "too low",
        "measures": {"ssim": 0.1, "registration_error": 3.0},
    }
    unmeasured = {**away, "key": "dark", "reason": "k_at_bound"}
    del unmeasured["measures"]
    return write_preparation(tmp_path / "out", samples, [away, unmeasured])


def reviewed(folder: Path, text: str) -> str:
    path = folder / "reviewed.csv"
    path.write_text(text)
    return str(path)


def by_ssim(number: int) -> str:
    return f"made-{number:03d},{'yes' if number > 10 else 'no'}\n"


def test_a_clean_cut_is_found_and_can_be_pasted(made: Path, tmp_path: Path, capsys) -> None:
    rows = "".join(map(by_ssim, range(2, COUNT + 1)))
    path = reviewed(tmp_path, f"key,good,remark\n{rows}made-001,,\naway,0,dark\n")
    assert main(["calibrate", str(made), "--reviewed", path]) == 0
    printed = capsys.readouterr()
    gates = yaml.safe_load(printed.out)
    assert gates["ssim"] == {"min": 0.61}
    assert set(gates) <= {"ssim", "registration_error"}  # long_edge is no gate
    assert printed.out.startswith("# conf/gates/<name>.yaml: 20 reviewed samples, precision 0.95")
    Gates(gates)  # which takes what was printed
    words = " ".join(printed.err.split())
    assert "20 reviewed, 10 of them good, 1 left open" in words
    assert "gates together pass 10, 10 of them good" in words
    assert "min 0.61" in words


def test_measures_that_tell_nothing_stay_out_of_the_gates(made, tmp_path, capsys) -> None:
    # The highest and the lowest are bad: no threshold is right.
    rows = "".join(f"made-{n:03d},{int(5 < n < 16)}\n" for n in range(1, COUNT + 1))
    path = reviewed(tmp_path, f"key,good\n{rows}")
    assert main(["calibrate", str(made), "--reviewed", path, "--precision", "1"]) == 0
    out = capsys.readouterr().out
    assert yaml.safe_load(out) == {}
    assert "# ssim: no threshold reaches that precision" in out


def test_a_gate_that_keeps_few_good_samples_is_a_comment(made, tmp_path, capsys) -> None:
    # Of the good ones only 18 to 20 have a better SSIM than the best of the bad ones.
    bad = {1, 2, 3, 17}
    rows = "".join(f"made-{n:03d},{int(n not in bad)}\n" for n in range(1, COUNT + 1))
    command = ["calibrate", str(made), "--reviewed", reviewed(tmp_path, f"key,good\n{rows}")]
    assert main([*command, "--precision", "1"]) == 0
    printed = capsys.readouterr()
    assert "ssim" not in (yaml.safe_load(printed.out) or {})
    assert "# ssim: {min: 0.68}  # precision 1, recall 0.188" in printed.out
    assert main([*command, "--precision", "1", "--recall", "0.1"]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["ssim"] == {"min": 0.68}
    assert main([*command, "--precision", "0.9"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["ssim"] == {"min": 0.54}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,verdict\na,1\n", "lacks the column key and good, it has name, verdict"),
        ("", "lacks the column key and good, it has none"),
        ("key,good\nmade-001,1\nmade-001,0\n", "line 3: key made-001 occurs twice"),
        ("key,good\nmade-001,maybe\n", "line 2: good is 'maybe'; give 1, 0, yes, no"),
        ("key,good\nmade-001,1\nother,0\n", "1 of 2 reviewed keys were not measured in"),
        ("key,good\nmade-001,1\ndark,0\n", "not measured in"),
        ("key,good\nmade-001,\n", "has no verdict"),
        ("key,good\nmade-001,1\n", "verdicts are alike"),
    ],
)
def test_a_wrong_list_is_named(made: Path, tmp_path: Path, capsys, text, message) -> None:
    assert main(["calibrate", str(made), "--reviewed", reviewed(tmp_path, text)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == ""


def test_lists_of_spreadsheets_are_read(made: Path, tmp_path: Path, capsys) -> None:
    rows = "".join(map(by_ssim, range(1, COUNT + 1))).replace("\n", "\r\n")
    path = reviewed(tmp_path, f"\ufeffkey,good\r\n{rows}")
    assert main(["calibrate", str(made), "--reviewed", path]) == 0
    assert "20 reviewed, 10 of them good, 0 left open" in capsys.readouterr().err


def test_the_template_can_be_filled_in_and_read(made: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "[lists]/mine.csv"  # brackets are no markup
    command = ["calibrate", str(made), "--template", str(path), "--samples", "6"]
    assert main(command) == 0
    assert str(path) in capsys.readouterr().err
    head, *rows = path.read_text().splitlines()
    keys = [row.removesuffix(",") for row in rows]
    assert head == "key,good" and len(set(keys)) == 6
    page = path.with_suffix(".html").read_text()
    assert page.count("<img") == 4 * 6 and "http:" not in page
    for key in keys:
        assert f"photograph of {key}" in page
    assert {"made-001", f"made-{COUNT:03d}"} <= set(keys)  # the ends of SSIM
    assert main(["calibrate", str(made), "--reviewed", str(path)]) == 2
    assert "has no verdict" in capsys.readouterr().err
    filled = [f"{key},{int(key > 'made-010')}" for key in keys]
    path.write_text("\n".join([head, *filled]))
    assert main(["calibrate", str(made), "--reviewed", str(path)]) == 0
    assert "6 reviewed" in capsys.readouterr().err
    assert main(command) == 2
    assert "may hold verdicts" in capsys.readouterr().err


def test_the_choice_covers_the_range_of_every_measure() -> None:
    rng = np.random.default_rng(0)
    entries = [
        {
            "name": str(n),
            "split": "train",
            "measures": {"a": float(rng.lognormal()), "b": float(rng.integers(3)), "c": 1.0},
        }
        for n in range(500)
    ]
    measured = tabulate(entries)
    chosen = choose(measured, ("a", "b", "c", "absent"), 40)
    assert len(chosen) == 40 == len(set(chosen))
    column = measured["a"]
    ranks = np.argsort(np.argsort(column.to_numpy()))[chosen]
    assert {0, 499} <= set(ranks)
    assert np.diff(np.sort(ranks)).max() < 500 / 15
    assert set(measured["b"][chosen]) == {0.0, 1.0, 2.0}
    assert len(choose(measured, ("a",), 1000)) == 500
    assert choose(measured, ("c",), 3) == [0, 250, 499]


def test_unfinished_preparations_are_named(tmp_path: Path, capsys) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps({"name": "a"}))
    path = reviewed(tmp_path, "key,good\na,1\n")
    assert main(["calibrate", str(tmp_path), "--reviewed", path]) == 2
    assert "no summary.json" in capsys.readouterr().err
    assert main(["calibrate", str(tmp_path), "--reviewed", path, "--recall", "50"]) == 2
    assert "--recall: '50': give a number, 0 to 1" in capsys.readouterr().err
    assert list(read_lines(tmp_path / "samples.jsonl")) == [{"name": "a"}]
