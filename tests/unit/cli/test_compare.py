"""``genrefocus compare``: one table of several folders, or a refusal that says why."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from genrefocus.benchmark.protocol import load_protocol
from genrefocus.cli import main

NOISE = np.random.default_rng(0).normal(0, 0.02, 12)
IDENTITY = {"lpips": list(0.5 + NOISE)}


@pytest.fixture
def folders(tmp_path: Path, write_results) -> list[str]:
    made = []
    for name, value in (("first", 0.2), ("second", 0.3), ("third", 0.4)):
        values = list(value + np.roll(NOISE, round(10 * value)))
        figures = {"identity": IDENTITY, "model": {"lpips": values}}
        write_results(tmp_path / name, "deblur", "embedded", figures, images=True)
        made.append(str(tmp_path / name))
    return made


def test_the_first_is_compared_with_each_other(folders: list[str], capsys) -> None:
    assert main(["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = [one["method"] for one in found["results"]]
    assert methods == ["identity", "model @ first", "model @ second", "model @ third"]
    paired = [(one["first"], one["second"]) for one in found["paired"]]
    assert paired == [("model @ first", f"model @ {name}") for name in ("second", "third")]
    assert [one["difference"] for one in found["paired"]] == pytest.approx([-0.1, -0.2])
    assert all(one["n"] == one["wins"] == 12 and one["p"] < 0.01 for one in found["paired"])
    assert {one["protocol"] for one in found["results"]} == {found["paired"][0]["protocol"]}


def test_runs_are_named_by_their_folders(tmp_path: Path, write_results, capsys) -> None:
    runs = [tmp_path / "deblur" / name for name in ("monday", "tuesday")]
    for run, value in zip(runs, (0.2, 0.3), strict=True):
        figures = {"deblurnet": {"lpips": list(value + NOISE)}}
        write_results(run / "benchmark", "deblur", "embedded", figures)
    assert main(["compare", str(runs[0]), str(runs[1] / "benchmark"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    methods = [one["method"] for one in found["results"]]
    assert methods == ["deblurnet @ deblur/monday", "deblurnet @ deblur/tuesday"]


def test_every_form_shows_table_and_comparison(
    folders: list[str], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    for option in ([], ["--markdown"], ["--latex"]):
        assert main(["compare", *folders, *option]) == 0
        text = capsys.readouterr().out
        for part in ("model @ second", "-0.1000", "paired", "deblur on embedded"):
            assert part in text, (option, part)
    page = tmp_path / "both.html"
    assert main(["compare", *folders[:2], "--html", str(page)]) == 0
    text = page.read_text()
    assert "Benchmark: first, second" in text and 'data-layer="model @ second"' in text


def test_other_protocols_are_refused_with_the_difference(
    folders: list[str], tmp_path: Path, write_results, capsys
) -> None:
    protocol = load_protocol("deblur", "embedded").filled(
        name="embedded", fingerprint="0" * 64, found={}
    )
    other = dataclasses.replace(protocol, steps=4)
    figures = {"model": {"lpips": [0.1] * 12}}
    write_results(tmp_path / "other", "deblur", "embedded", figures, protocol=other)
    assert main(["compare", folders[0], str(tmp_path / "other")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert "steps: 1 and 4" in captured.err
    assert f'dataset.fingerprint: "{"f0" * 32}" and "{"0" * 64}"' in captured.err


def test_wrong_use_is_an_error(folders: list[str], tmp_path: Path, write_results, capsys) -> None:
    def refused(*arguments: str) -> str:
        assert main(["compare", *arguments]) == 2
        return capsys.readouterr().err

    assert "give two results folders or more" in refused(folders[0])
    assert "no figures in" in refused(folders[0], str(tmp_path / "absent"))
    assert "no folder" in refused(*folders, "--html", str(tmp_path / "absent/page.html"))
    write_results(tmp_path / "bokeh", "bokeh", "lf_bokeh", {"a": {"ssim": [0.1]}})
    assert "no task and data set in common" in refused(folders[0], str(tmp_path / "bokeh"))
    figures = {"model": {"lpips": [0.9] * 12}}
    write_results(tmp_path / "again/first", "deblur", "embedded", figures)
    assert "two folders named first" in refused(folders[0], str(tmp_path / "again/first"))


def test_a_copy_has_nothing_to_compare(folders: list[str], tmp_path: Path, capsys) -> None:
    assert main(["compare", folders[0], folders[0], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in found["results"]] == ["identity", "model"]
    assert found["paired"] == []
