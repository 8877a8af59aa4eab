"""Tables and published rows: what is averaged, what is marked, what is struck out."""

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from genrefocus.benchmark import typeset
from genrefocus.benchmark.printed import shown, summary
from genrefocus.benchmark.protocol import load_protocol
from genrefocus.benchmark.published import published_figures, tolerance
from genrefocus.benchmark.results import Results, merge, read_results
from genrefocus.benchmark.tables import (
    BenchmarkTable,
    build_tables,
    latex,
    markdown,
    paired_table,
    records,
    write_tables,
)
from genrefocus.benchmark.typeset import TextTable

NOISE = np.random.default_rng(0).normal(0, 0.02, 12)
AWAY = "not available: pip install genrefocus[metrics]"
# Means of LPIPS and DISTS as published for the Input row on DPDD; the others are ours.
LIKE_INPUT = {"lpips": list(0.3485 + NOISE - NOISE.mean()), "dists": [0.1827] * 12}


def make(folder: Path, write_results, figures, task="deblur", dataset="dpdd", **more) -> Results:
    write_results(folder, task, dataset, figures, **more)
    return read_results(folder)


def table_of(results: Results) -> BenchmarkTable:
    (table,) = build_tables(results, seed=0)
    return table


@pytest.fixture
def table(tmp_path: Path, write_results) -> BenchmarkTable:
    figures = {
        "model_1": {
            "lpips": [*(0.2 + NOISE[:11]), "the answer is not finite"],
            "dists": list(0.1 + NOISE),
            "maniqa": [AWAY] * 12,
        },
        "unsharp": {
            "lpips": list(0.3 + NOISE),
            "dists": list(0.15 + NOISE),
            "maniqa": [AWAY] * 12,
        },
        "identity": {**LIKE_INPUT, "maniqa": [AWAY] * 12},
    }
    return table_of(make(tmp_path / "results", write_results, figures))


def cells(table: BenchmarkTable, metric: str) -> dict:
    return {(row["method"], row["source"]): row["cells"].get(metric) for row in table.rows()}


def test_means_failures_and_order(table: BenchmarkTable) -> None:
    assert table.methods == ["identity", "model_1", "unsharp"]
    assert table.metrics == ["lpips", "dists", "maniqa"]
    cell = cells(table, "lpips")["model_1", None]
    assert cell["mean"] == pytest.approx(np.mean(0.2 + NOISE[:11]))
    assert (cell["n"], cell["failed"]) == (11, 1)
    assert cell["low"] < cell["mean"] < cell["high"]
    assert cells(table, "maniqa")["unsharp", None]["remedy"] == "pip install genrefocus[metrics]"


def test_only_means_over_the_same_images_are_marked(table: BenchmarkTable) -> None:
    """model_1 has the lowest LPIPS of ours, over fewer images."""
    lpips, dists = cells(table, "lpips"), cells(table, "dists")
    assert [name for name, cell in lpips.items() if cell["best"]] == [("GenRefocus", "Table 2")]
    assert [name for name, cell in dists.items() if cell and cell["best"]] == [
        ("GenRefocus", "Table 2")
    ]
    assert any(note.startswith("model_1 failed on p") for note in table.notes)
    assert any("compared in pairs and not as means: lpips" in note for note in table.notes)
    # Nothing of ours checks MANIQA.
    assert any("comparable in lpips, dists, where the Input" in note for note in table.notes)
    assert not any(cell and cell["best"] for cell in cells(table, "maniqa").values())


def test_direction_decides_what_is_best(tmp_path: Path, write_results) -> None:
    figures = {name: {"psnr": [x] * 9, "lpips": [x] * 9} for name, x in (("a", 0.2), ("b", 0.4))}
    table = table_of(make(tmp_path, write_results, figures, dataset="embedded"))
    best = {
        m: [name for (name, _), cell in cells(table, m).items() if cell["best"]]
        for m in figures["a"]
    }
    assert best == {"psnr": ["b"], "lpips": ["a"]}
    assert table.heading("psnr") == "psnr ↑" and table.heading("lpips") == "lpips ↓"
    alone = {"a": {"psnr": [1.0] * 9}}
    table = table_of(make(tmp_path / "alone", write_results, alone, dataset="embedded"))
    assert not cells(table, "psnr")["a", None]["best"]


def test_published_rows_are_struck_out_where_the_input_differs(
    tmp_path: Path, write_results
) -> None:
    figures = {
        "identity": {**LIKE_INPUT, "dists": [0.1827 * (1 + 1.5 * tolerance())] * 12},
        "model": {"lpips": [0.2] * 12},
    }
    table = table_of(make(tmp_path, write_results, figures))
    published = [row for row in table.rows() if row["source"]]
    assert len(published) == 7
    expected = "not comparable: Input row differs: dists ours 0.1854, published 0.1827"
    assert {row["objection"] for row in published} == {expected}
    assert cells(table, "lpips")["model", None]["best"]
    assert "~~GenRefocus (published, Table 2, not comparable)~~ | ~~0.1440~~" in markdown(table)
    assert expected in markdown(table) and expected in latex(table)
    assert r"\textcolor{gray}{GenRefocus (published, Table 2, not comparable)}" in latex(table)


def test_the_check_of_the_input_row() -> None:
    protocol = load_protocol("deblur", "realdof")

    def objections(ours: dict, protocol=protocol) -> set:
        return {row["objection"] for row in published_figures(protocol, ours)}

    # A public reproduction of the paper's figures, and the same with the wrong CLIP-IQA.
    assert objections({"lpips": 0.5280, "dists": 0.2865}) == {None}
    (objection,) = objections({"lpips": 0.5280, "dists": 0.2865, "clip_iqa": 0.40})
    assert objection.endswith("differs: clip_iqa ours 0.4000, published 0.3562")
    (objection,) = objections({"psnr": 20.0})
    assert "identity row has none" in objection
    bokeh = load_protocol("bokeh", "lf_bokeh")
    (three, six) = sorted(objections({"lpips": 0.3}, bokeh))
    assert "Table 3 has no Input row" in three and "Table 6 has no Input row" in six
    embedded = load_protocol("deblur", "embedded")
    assert list(published_figures(embedded, {"lpips": 0.5241})) == []


def test_tables_belong_to_protocols() -> None:
    protocol = load_protocol("deblur", "dpdd")
    assert {row["source"] for row in published_figures(protocol, {})} == {"Table 2"}
    crops = load_protocol("deblur", "dpdd_crops")
    assert crops.crop == (512, 512)
    assert {row["source"] for row in published_figures(crops, {})} == {"Table 7"}
    for crop in ((256, 256), None):
        assert not list(published_figures(dataclasses.replace(crops, crop=crop), {}))
    for task, dataset in (("bokeh", "lf_bokeh"), ("refocus", "lf_refocus"), ("deblur", "dpdd")):
        protocol = load_protocol(task, dataset)
        for row in published_figures(protocol, {}):
            assert row["metric"] in protocol.metrics
            assert row["version"] == "v3 of arXiv 2512.16923"
    values: dict = {}
    for row in published_figures(load_protocol("bokeh", "lf_bokeh"), {}):
        values.setdefault((row["source"], row["method"]), {})[row["metric"]] = row["mean"]
    assert values["Table 3", "GenRefocus"] == {
        "lpips": 0.0833,
        "dists": 0.0487,
        "clip_i": 0.9713,
        "lvcorr": 0.9368,
    }
    assert "lvcorr" not in values["Table 3", "Bokehlicious"]
    assert (
        values["Table 6", "GenRefocus, data a+b+c"]["lpips"]
        == values["Table 3", "GenRefocus"]["lpips"]
    )


def test_markdown_is_a_table(table: BenchmarkTable) -> None:
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    grid = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(row) for row in grid} == {4}
    by_name = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in grid}
    assert by_name[r"model\_1"][0].startswith(f"{np.mean(0.2 + NOISE[:11]):.4f} [0.")
    assert by_name[r"model\_1"][0].endswith("] (n 11, 1 failed)")
    assert by_name["unsharp"][2] == "n/a"
    assert by_name["identity"][1] == "0.1827"  # all equal: no interval
    assert by_name["GenRefocus (published, Table 2)"] == ["**0.1440**", "**0.0772**", "0.3452"]


def test_latex_is_a_table(table: BenchmarkTable) -> None:
    text = latex(table)
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(table.rows())
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {3}
    assert r"model\_1 &" in body and r"lpips $\downarrow$" in body
    assert r"\textbf{0.1440}" in body
    assert not re.search(r"(?<!\\)[_%#]", body)
    assert body.count(r"\midrule") == 2


def test_the_terminal_shows_names_as_they_are(tmp_path: Path, write_results) -> None:
    figures = {"[red]x[/red]": {"psnr": [12.345] * 9}, "b": {"psnr": ["[no]"] * 9}}
    table = table_of(make(tmp_path, write_results, figures, dataset="embedded"))
    console = Console(file=io.StringIO(), width=140)
    console.print(*shown([table], 140))
    text = console.file.getvalue()
    assert "[red]x[/red]" in text and "12.35" in text and "failed (9)" in text
    assert table.protocol.hash[:12] in text


@pytest.mark.parametrize("width", [80, 110, 200])
def test_a_terminal_of_any_width_shows_all_in_full(
    tmp_path: Path, write_results, width: int
) -> None:
    names = ["identity", "a_method_with_a_rather_long_name"]
    metrics = ["lpips", "dists", "psnr", "ssim", "focus_plane_error", "blur_radius_error"]
    figures = {name: {m: [0.1 * n for n in range(9)] for m in metrics} for name in names}
    folder = make(tmp_path, write_results, figures, "bokeh", "lf_bokeh_embedded")
    console = Console(file=io.StringIO(), width=width)
    console.print(*shown([table_of(folder)], width), sep="\n")
    text = console.file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert text.count("0.4000") == 2 * len(metrics) and text.count(names[1]) >= 1
    assert text.count("[0.2") == (2 * len(metrics) if width >= 100 else 0)
    if width == 200:
        assert text.count(names[1]) == 1
    console = Console(file=io.StringIO(), width=width)
    console.print(*summary([table_of(folder)], width), sep="\n")
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width and "blur" in text
    assert "dists" not in text and "[" not in text and text.count("0.4000") == 2 * 4


def test_a_summary_names_what_the_machine_cannot_measure(table: BenchmarkTable) -> None:
    console = Console(file=io.StringIO(), width=140)
    console.print(*summary([table], 140), sep="\n")
    text = console.file.getvalue()
    assert "Not available here: maniqa;" in text and AWAY not in text
    assert "model_1 failed on" in text and "the answer is not finite" in text


def test_heads_break_between_words_to_the_width_of_their_column() -> None:
    columns = ["method", "1 to 2 px (n 30)", "4 px and more (n 7)", "in_focus_psnr ↑"]
    texts = pd.DataFrame([["unsharp", "28.61", "-0.1234", "9.1"]], columns=columns)
    console = Console(file=io.StringIO(), width=80)
    console.print(*typeset.terminal(TextTable(texts, {}), "title", 80), sep="\n")
    rows = [line.strip("┃").split("┃") for line in console.file.getvalue().splitlines()[2:6]]
    heads = [" ".join(" ".join(cells).split()) for cells in zip(*rows, strict=True)]
    assert heads == ["method", "1 to 2 px (n 30)", "4 px and more (n 7)", "in focus psnr ↑"]
    assert [len(cell) for cell in rows[0]] == [9, 8, 9, 8]


def test_files_hold_the_same(table: BenchmarkTable, tmp_path: Path) -> None:
    write_tables([table], tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == records([table]) and len(found) == 9
    (one,) = [x for x in found if (x["method"], x["metric"]) == ("model_1", "lpips")]
    assert set(one) == {
        *("task", "dataset", "method", "n", "metric", "mean", "low", "high"),
        *("part", "failures", "protocol"),
    }
    assert (one["n"], one["failures"], one["protocol"]) == (11, 1, table.protocol.hash)
    for name, form in (("tables.md", markdown), ("tables.tex", latex)):
        text = (tmp_path / name).read_text()
        assert text.startswith(form(table)) and text.count("Units: docs/metrics.md") == 1


def test_metrics_over_other_images_state_their_number(tmp_path: Path, write_results) -> None:
    figures = {"a": {"lpips": list(NOISE), "lvcorr": [0.9] * 4}}
    results = make(tmp_path, write_results, figures, "bokeh", "lf_bokeh_embedded")
    text = markdown(table_of(results))
    assert "Images (n): lpips 12, lvcorr 4." in text
    assert "not as means" not in text


def test_comparisons_are_those_of_the_pairs(tmp_path: Path, write_results) -> None:
    figures = {
        "a": {"lpips": list(0.2 + NOISE), "ssim": [0.5] * 12},
        "b": {"lpips": [*(0.3 + NOISE[:11]), "failed"]},
    }
    results = make(tmp_path, write_results, figures, dataset="embedded")
    (table,) = build_tables(results, seed=0, pairs=lambda *_: [("a", "b"), ("a", "absent")])
    (one,) = table.compared.itertuples()
    assert (one.metric, one.n, one.wins, one.excluded) == ("lpips", 11, 11, ["p11"])
    assert one.difference == pytest.approx(-0.1)
    text = typeset.markdown(paired_table(table))
    assert "| lpips ↓ | a | b | 11 | -0.1000 |" in text and "| p11 |" in text


def test_merging_keeps_what_is_equal_and_tells_apart_what_is_not(
    tmp_path: Path, write_results
) -> None:
    shared = {"identity": LIKE_INPUT}
    first, second = tmp_path / "one", tmp_path / "two"
    for folder, value in ((first, 0.2), (second, 0.3)):
        figures = {**shared, "model": {"lpips": [value] * 12}}
        write_results(folder, "deblur", "dpdd", figures, images=True)
    write_results(first, "bokeh", "lf_bokeh", {"identity": {"ssim": [0.5] * 9}})
    both = merge([read_results(first), read_results(second)])
    assert both.methods("deblur", "dpdd") == ["identity", "model @ one", "model @ two"]
    assert both.methods("bokeh", "lf_bokeh") == ["identity"]
    assert both.image("deblur", "dpdd", "model @ two", "p03") == (
        second / "images/deblur/dpdd/model/p03.png"
    )
    assert both.image("deblur", "dpdd", "target", "p03").is_relative_to(first)
    assert both.image("bokeh", "lf_bokeh", "identity", "p03") is None
    table = build_tables(both, seed=0)[0]
    assert {row["objection"] for row in table.rows()} == {None}


def test_folders_that_do_not_hold_together_are_refused(tmp_path: Path, write_results) -> None:
    def written(name: str, metrics=("lpips",)) -> Path:
        figures = {"a": {metric: [0.1, 0.2] for metric in metrics}}
        write_results(tmp_path / name, "deblur", "embedded", figures)
        return tmp_path / name

    with pytest.raises(FileNotFoundError, match=r"no figures in .*absent.rows\.parquet"):
        read_results(tmp_path / "absent")
    folder = written("protocol")
    (folder / "protocols/deblur-embedded.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"deblur-embedded\.yaml"):
        read_results(folder)
    folder = written("stale")
    path = folder / "protocols/deblur-embedded.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(ValueError, match="was measured under protocol"):
        read_results(folder)
    with pytest.raises(ValueError, match="no metric niqe"):
        read_results(written("metric", ["niqe"]))
