"""Tables of a sweep against figures worked out by hand, from folders made by hand."""

import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy import stats

from genrefocus.benchmark.ablation import compare, image_grid, read_sweep
from genrefocus.cli import main
from genrefocus.data.images import load_image, save_image

DATA = {"synthetic/test": "1234"}
COLOURS = {"a": 40, "a_b": 90, "a_c": 160}


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """Writer of sweeps: (psnr by cell and seed, plan, failures) -> folder."""

    def write(
        values: Mapping[tuple[str, int], float],
        cells: list[str],
        seeds: list[int],
        failed: Mapping[tuple[str, int], str] = {},
    ) -> Path:
        plan = {"baseline": cells[0], "cells": cells, "seeds": seeds}
        (tmp_path / "sweep.json").write_text(json.dumps(plan))
        for (cell, seed), value in values.items():
            folder = tmp_path / cell / f"seed_{seed}"
            for sample in ("faint", "one", "two"):
                for title in ("input", "output", "target"):
                    shade = COLOURS[cell] if title == "output" else 220
                    image = torch.full((3, 8, 12), shade, dtype=torch.uint8)
                    (folder / title).mkdir(parents=True, exist_ok=True)
                    save_image(image, folder / title / f"{sample}.png")
            result = {
                "stage": "bokehnet",
                "figures": {"psnr": value, "lpips": 1 / value},
                "references": {"identity": {"psnr": 20.0}},
                "steps": 400,
                "test_data": DATA,
                "images": {title: title for title in ("input", "output", "target")},
                "visible": ["one", "two"],
            }
            (folder / "result.json").write_text(json.dumps(result))
        for (cell, seed), reason in failed.items():
            folder = tmp_path / cell / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "failed.json").write_text(json.dumps({"reason": reason}))
        return tmp_path

    return write


VALUES = {
    **{("a", seed): value for seed, value in ((1, 30.0), (2, 31.0), (3, 35.0))},
    **{("a_b", seed): value for seed, value in ((1, 30.5), (2, 32.0), (3, 35.9))},
    ("a_c", 2): 33.0,
}


def test_means_spread_and_paired_differences(sweep: Callable[..., Path]) -> None:
    table = compare(read_sweep(sweep(VALUES, ["a", "a_b", "a_c"], [1, 2, 3])))
    psnr = table[table["metric"] == "psnr"]
    assert list(psnr["cell"]) == ["a", "a_b", "a_c"]
    assert list(table["metric"].unique()) == ["psnr", "lpips"]
    base, other, single = psnr.itertuples()
    assert base.mean == pytest.approx(32.0)
    assert base.spread == pytest.approx(math.sqrt(7.0))  # (4 + 1 + 9) / 2
    assert (base.n, base.pairs) == (3, 0) and math.isnan(base.difference + base.low)
    differences = [0.5, 1.0, 0.9]
    assert other.difference == pytest.approx(0.8)
    # The paired t-test, which knows nothing of this code, ends its interval at the same places.
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert (other.low, other.high) == pytest.approx((expected.low, expected.high))
    # Paired by seed, the interval is far narrower than the spread of either cell says.
    assert other.high - other.low < other.spread
    assert (single.mean, single.n) == (33.0, 1) and math.isnan(single.spread)
    assert (single.difference, single.pairs) == (pytest.approx(2.0), 1) and math.isnan(single.low)
    lpips = table[(table["cell"] == "a_b") & (table["metric"] == "lpips")]
    assert lpips["mean"].item() == pytest.approx(statistics.mean([1 / 30.5, 1 / 32.0, 1 / 35.9]))


def test_failed_and_missing_runs_are_named_and_not_averaged(
    sweep: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    # a_b/seed_2 has a result of old, and its last attempt failed: the result does not count.
    failed = {("a_b", 2): "ValueError: other settings", ("a_d", 1): "OSError: disk full"}
    folder = sweep(VALUES, ["a", "a_b", "a_c"], [1, 2, 3, 4], failed)
    read = read_sweep(folder)
    psnr = compare(read).query("metric == 'psnr'").set_index("cell")
    assert psnr["mean"]["a_b"] == pytest.approx((30.5 + 35.9) / 2)
    assert psnr["pairs"]["a_b"] == 2
    assert "a_d" in read.cells and "a_d" not in psnr.index
    assert main(["ablation", str(folder), "--markdown"]) == 1
    shown = capsys.readouterr()
    assert "a_b/seed_2 failed: ValueError: other settings" in shown.err
    assert "a_d/seed_1 failed: OSError: disk full" in shown.err
    missing = shown.err.partition("missing: ")[2]
    for name in ("a/seed_4", "a_b/seed_4", "a_c/seed_1", "a_c/seed_3", "a_c/seed_4"):
        assert name in missing
    assert "a_c/seed_2" not in missing


def test_runs_of_other_test_data_are_not_compared(sweep: Callable[..., Path]) -> None:
    folder = sweep(VALUES, ["a", "a_b", "a_c"], [1, 2, 3])
    path = folder / "a_b/seed_3/result.json"
    other = json.loads(path.read_text()) | {"test_data": {"synthetic/test": "9999"}}
    path.write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"a_b/seed_3 was tested on other data.*synthetic/test"):
        read_sweep(folder)


def test_tables_in_every_form_hold_the_same_figures(
    sweep: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    folder = sweep({at: v for at, v in VALUES.items() if at[0] != "a_c"}, ["a", "a_b"], [1, 2, 3])
    printed = {}
    for form in ("--markdown", "--latex", "--json"):
        assert main(["ablation", str(folder), form, "--images", "0"]) == 0
        printed[form] = capsys.readouterr().out
    header, rule, *rows = printed["--markdown"].splitlines()
    assert {line.count("|") for line in (header, rule, *rows)} == {6}
    assert "32.00 ± 2.65" in rows[0] and "(baseline)" in rows[0]
    assert "+0.80 [+0.14, +1.46]" in rows[1]
    assert "unmodified input" in rows[2] and "20.00" in rows[2]
    lines = [line for line in printed["--latex"].splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines} == {4}
    assert r"a\_b" in printed["--latex"] and r"32.80 $\pm$ 2.79" in printed["--latex"]
    figure = psnr(printed["--json"], "a_b")
    assert figure["difference"] == pytest.approx(0.8) and figure["n"] == 3
    assert not (folder / "grid.png").exists()
    assert main(["ablation", str(folder), "--baseline", "a_b", "--json"]) == 0
    assert psnr(capsys.readouterr().out, "a")["difference"] == pytest.approx(-0.8)


def psnr(text: str, cell: str) -> dict:
    figures = json.loads(text)["figures"]
    (found,) = (one for one in figures if (one["cell"], one["metric"]) == (cell, "psnr"))
    return found


def test_the_grid_shows_every_cell_beside_input_and_target(sweep: Callable[..., Path]) -> None:
    folder = sweep(VALUES, ["a", "a_b", "a_c"], [1, 2, 3])
    rows, titles, seed = image_grid(read_sweep(folder), count=4)
    assert titles == ["input", "a", "a_b", "a_c", "target"] and seed == 2  # where all three are
    assert [row[0].stem for row in rows] == ["one", "two"]
    shades = [round(float(load_image(file).mean()) * 255) for file in rows[0]]
    assert shades == [220, 40, 90, 160, 220]
    main(["ablation", str(folder), "--grid", str(folder / "sheet.png"), "--images", "1"])
    assert Image.open(folder / "sheet.png").width > 5 * 2 * 12


def test_what_is_no_sweep_is_refused(
    tmp_path: Path, sweep: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    assert main(["ablation", str(tmp_path)]) == 2
    assert "sweep.json" in capsys.readouterr().err
    folder = sweep({}, ["a"], [1], {("a", 1): "ValueError: no"})
    assert main(["ablation", str(folder)]) == 2
    assert "no run" in (err := capsys.readouterr().err) and "ValueError: no" in err
    folder = sweep(VALUES, ["a", "a_b", "a_c"], [1, 2, 3])
    assert main(["ablation", str(folder), "--baseline", "b"]) == 2
    assert "baseline b is no cell" in capsys.readouterr().err
