"""The report: opened in a browser, which says what is there and what happens when it is used."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from genrefocus.benchmark.report import EXTREMES, write_report
from genrefocus.benchmark.results import read_results
from genrefocus.benchmark.tables import build_tables
from tests.browser import find_chromium

HOSTILE = '<script>alert("x")</script>'
VALUES = [0.1 * n for n in (3, 1, 4, 2, 9, 5, 8, 7, 6, 10, 12, 11)]

PROBE = """
<script>
const all = (selector) => [...document.querySelectorAll(selector)];
const shown = () => all(".case:first-child .stack img").map((image) => {
  const style = getComputedStyle(image);
  return style.visibility === "visible" ? [image.dataset.layer, style.clipPath] : null;
}).filter((one) => one);
const report = {
  errors: window.problems,
  images: all("img").length,
  broken: all("img").filter((one) => !one.complete || !one.naturalWidth).map((one) => one.alt),
  before: shown(),
};
const select = document.querySelector("[data-side=right]");
select.value = "target";
select.dispatchEvent(new Event("change"));
const range = document.querySelector(".case:first-child input");
range.value = 20;
range.dispatchEvent(new Event("input"));
report.after = shown();
report.sizes = all(".stack").map((one) => one.getBoundingClientRect())
  .map((box) => box.width / box.height);
report.wide = document.documentElement.scrollWidth - innerWidth;
report.loaded = performance.getEntriesByType("resource").map((one) => one.name.slice(0, 40))
  .filter((name) => !name.startsWith("data:"));
report.charts = all("[data-chart]")
  .map((one) => [one.dataset.chart, one.querySelectorAll("svg").length]);
report.colourless = all('svg [style*="stroke: var("]')
  .filter((one) => getComputedStyle(one).stroke === "none").length;
report.drawn = all('svg [style*="stroke: var(--series"]').length;
report.paper = getComputedStyle(document.body).backgroundColor;
report.struck = all(".incomparable td:first-child")
  .map((one) => getComputedStyle(one).textDecorationLine);
report.links = all('a[href^="#"]').filter((a) => !document.getElementById(a.hash.slice(1))).length;
document.body.innerHTML = "";
document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(report);
</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_results) -> Path:
    folder = tmp_path_factory.mktemp("results") / "run"
    curves = []
    for method in ("identity", "model"):
        for number in range(12):
            shared = {"method": method, "key": f"p{number:02d}"}
            y = [0.5, 0.8, 0.6] if method == "model" else [0.5, 0.5, 0.5]
            curves.append({"kind": "ssim_k", "x": [2, 8, 32], "y": y, **shared})
            control = {"x": [1, 5, 10], "y": [0.1, 0.01, 0.001]}
            if number == 0:
                control["images"] = [f"images/bokeh/lf_bokeh/{method}/p00.png"] * 3
            curves.append({"kind": "lvcorr", **control, **shared})
        error = {"x": [0, 4, 8], "y": [0.1, 0.2, 0.3], "key": None}
        curves.append({"kind": "radius_error", "method": method, **error})
    figures = {
        "identity": {"lpips": [0.6] * 12, "lvcorr": ["it does not respond to K"] * 12},
        "model": {"lpips": VALUES[:11] + [HOSTILE], "lvcorr": [0.9] * 12},
    }
    write_results(folder, "bokeh", "lf_bokeh", figures, curves, images=True)
    write_results(folder, "deblur", "embedded", {"identity": {"psnr": VALUES}})
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    results = read_results(folder)
    tables = build_tables(results, seed=0)
    return write_report(results, tables, folder / "report.html")


@pytest.fixture(scope="module")
def browser() -> str:
    return find_chromium()


def opened(browser: str, page: Path, tmp_path: Path, *options: str) -> dict:
    """What PROBE finds in the page."""
    text = page.read_text()
    problems = (
        "<script>window.problems=[];addEventListener('error',e=>problems.push(e.message))</script>"
    )
    # The page must hold no second <body> or script for the places below to be the only ones.
    assert text.count("<body>") == 1 and text.count("</body>") == 1
    probed = tmp_path / "probed.html"
    probed.write_text(
        text.replace("<body>", f"<body>{problems}").replace("</body>", PROBE + "</body>")
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options, probed.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (found := re.search(r"<pre>(.*)</pre>", result.stdout, re.S)), result.stderr[-2000:]
    plain = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(plain)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_works_in_a_browser(browser: str, page: Path, tmp_path: Path, width: int) -> None:
    found = opened(browser, page, tmp_path, f"--window-size={width},900")
    assert found["errors"] == [] and found["broken"] == [] and found["loaded"] == []
    assert found["images"] > 12 and found["links"] == 0
    # Input on the left and the model on the right, each half; then the target, and a fifth.
    assert found["before"] == [
        ["input", "inset(0px 50% 0px 0px)"],
        ["model", "inset(0px 0px 0px 50%)"],
    ]
    assert found["after"] == [
        ["input", "inset(0px 80% 0px 0px)"],
        ["target", "inset(0px 0px 0px 20%)"],
    ]
    assert found["sizes"] == pytest.approx([1.5] * len(found["sizes"]), rel=0.02)
    assert found["wide"] <= 0  # nothing to scroll sideways but within a table
    kinds = ["ssim_k", "lvcorr", "radius_error"]
    assert found["charts"] == [[kind, 1] for kind in kinds]
    assert found["drawn"] > 2 * 24 and found["colourless"] == 0
    assert found["paper"] == "rgb(255, 255, 255)"
    assert found["struck"] and set(found["struck"]) == {"line-through"}


def test_the_page_works_in_the_dark(browser: str, page: Path, tmp_path: Path) -> None:
    found = opened(browser, page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert found["errors"] == [] and found["colourless"] == 0
    assert found["paper"] == "rgb(22, 22, 22)"


def between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


def test_best_and_worst_are_those(page: Path) -> None:
    """Of the LPIPS of the model, lower is better."""
    ends = between(page.read_text(), 'id="ends-bokeh-lf_bokeh"', "</details>")
    model = ends.split("<strong>model</strong>")[1]
    found = re.findall(r'<figure class="(\w+)" title="(\w+)">', model)
    order = np.argsort(VALUES[:11])
    best = [("best", f"p{n:02d}") for n in order[:EXTREMES]]
    assert found == best + [("worst", f"p{n:02d}") for n in order[-EXTREMES:]]


def test_what_must_be_there(page: Path, folder: Path) -> None:
    text = page.read_text()
    results = read_results(folder)
    for task, dataset in (("bokeh", "lf_bokeh"), ("deblur", "embedded")):
        assert results.protocols[task, dataset].hash in text
    failures = between(text, 'id="failures-bokeh-lf_bokeh"', "</table>")
    assert failures.count("it does not respond to K") == 12 and "p11" in failures
    assert "&lt;script&gt;alert" in failures and HOSTILE not in text
    paired = between(text, 'data-paired="lpips"', "</table>")
    row = re.findall(r"<td[^>]*>(.*?)</td>", paired)
    assert row[:3] == ["identity", "model", "11"] and row[-1] == "p11"
    assert [int(x) for x in row[5:8]] == [
        sum(v > 0.6 for v in VALUES[:11]),
        sum(v == 0.6 for v in VALUES[:11]),
        sum(v < 0.6 for v in VALUES[:11]),
    ]
    assert text.count("published, Table 3") == 6 and text.count("published, Table 6") == 4
    assert "Table 3 has no Input row" in text
    assert "images-deblur-embedded" not in text  # none were kept


def test_nothing_is_loaded_and_equal_results_give_equal_bytes(page: Path, folder: Path) -> None:
    text = page.read_text()
    targets = re.findall(r'\b(?:src|href|action|srcset)="([^"]*)"', text)
    assert targets
    assert all(target.startswith(("#", "data:image/jpeg;base64,")) for target in targets)
    assert "@import" not in text and "url(http" not in text
    results = read_results(folder)
    again = write_report(results, build_tables(results, seed=0), folder / "again.html")
    assert again.read_text() == text
