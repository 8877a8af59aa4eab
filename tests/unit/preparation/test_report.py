"""The report: parsed as a browser would, against what was put into the folder."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genrefocus.data.sample import Sample
from genrefocus.optics import blur_radius
from genrefocus.preparation.ledger import distribution
from genrefocus.preparation.report import write_report
from genrefocus.report import spread

HOSTILE = '<script>alert("x")</script>&"onerror=alert(1).jpg'
COUNT = 30
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and text by the id of the nearest element around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table = ""
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = attributes.get("id", "")
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self._open or "th" in self._open:
            self.rows[self._table][-1][-1] += data.strip()

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def series(ks: list[float], scores: list[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(ks, scores, strict=True)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_preparation, make_labelled) -> Path:
    curve = series([1, 10, 100], [0.5, 0.9, 0.6])
    samples = [
        make_labelled(
            number,
            split="train" if number < 25 else "val",
            measures={
                "k": float(number),
                "ssim": 0.9 + number / 1000,
                "long_edge": 16.0,
                "sharpness_ratio": None,
            },
            calibration={"ssim": 0.9, "curve": curve},
            source=HOSTILE if number == 1 else f"scene/{number}.jpg",
        )
        for number in range(1, COUNT + 1)
    ]
    rejections = [
        {
            "name": HOSTILE,
            "split": None,
            "reason": "not_an_image",
            "value": None,
            "detail": "give <b>a JPEG</b>",
        },
        *(
            {
                "key": f"away-{number}",
                "name": f"scene/away-{number}.jpg",
                "split": "train",
                "reason": "gate_ssim",
                "value": 0.1,
                "detail": "ssim must be at least 0.8",
                "measures": {"k": 40.0 + number, "ssim": 0.1},
            }
            for number in range(11)
        ),
        {
            "key": "bound",
            "name": "scene/bound.jpg",
            "split": "val",
            "reason": "k_at_bound",
            "value": {"k": 100.0, "score": 0.9, "curve": series([1, 100], [0.5, 0.9])},
            "detail": "widen the bounds",
        },
    ]
    return write_preparation(
        tmp_path_factory.mktemp("made") / "out",
        samples,
        rejections,
        gates={"ssim": {"min": 0.8, "max": None}},
        measured_only=["k", "colour_shift", "mask_agreement"],
    )


@pytest.fixture(scope="module")
def text(made: Path) -> str:
    return write_report(made).read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def images(page: Page) -> list[Image.Image]:
    found = []
    for image in page.of("img"):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/jpeg;base64"
        found.append(Image.open(io.BytesIO(base64.b64decode(data))))
        found[-1].load()
    return found


def test_counts_and_reasons(page: Page) -> None:
    assert page.rows["splits"][1:] == [
        ["train", "24", "11"],
        ["val", "6", "1"],
        ["none yet", "0", "1"],
    ]
    reasons = {row[0]: row[1:] for row in page.rows["reasons"][1:]}
    assert list(reasons) == ["gate_ssim", "k_at_bound", "not_an_image"]
    assert [row[0] for row in reasons.values()] == ["11", "1", "1"]
    assert reasons["gate_ssim"][1] == "scene/away-0.jpg (0.1): ssim must be at least 0.8"
    assert page.rows["gates"][1:] == [["ssim", "min 0.8"]]
    anchors = {a.get("id") for _, a in page.tags}
    for reason in reasons:
        assert f"reason-{reason}" in anchors
    text = " ".join(" ".join(page.text).split())
    assert f"{COUNT + 13} found, {COUNT} written , 13 rejected" in text
    # Of those without a gate only what this route measures is worth a warning.
    assert "no gate is set for k." in text
    assert "8 of 11" in text and "16 everywhere" in text
    assert f"{COUNT + 11} without a finite value" in text  # all of sharpness_ratio


def test_nothing_comes_from_outside(text: str, page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/jpeg;base64,")), (name, target)
        assert not any(name.startswith("on") for name in attributes)
    assert not page.of("script") and not page.of("link") and not page.of("iframe")
    assert "@import" not in text
    assert "url(http" not in text.replace(" ", "").replace('"', "")
    ids = [a["id"] for _, a in page.tags if "id" in a and not a["id"].startswith(("p", "m"))]
    assert len(ids) == len(set(ids))


def test_names_are_shown_and_not_run(text: str, page: Page) -> None:
    assert "<script" not in text and "<b>" not in text
    assert sum(HOSTILE in one for one in page.text) >= 3  # a sample, an example, the example's card
    assert any(a.get("title") == HOSTILE for a in page.of("figure"))


def test_images_show_the_samples(page: Page, make_labelled) -> None:
    alts = [image["alt"] for image in page.of("img")]
    found = dict(zip(alts, images(page), strict=True))
    sheet = [alt for alt in alts if alt.startswith("photograph of")]
    assert len(sheet) == 24
    assert sheet[0] == "photograph of made-001" and sheet[-1] == f"photograph of made-{COUNT:03d}"
    sample = make_labelled(COUNT)
    # Equal but for what JPEG does to noise.
    shown = np.array(found["photograph of made-030"]).astype(float).mean((0, 1))
    assert np.abs(shown - sample.bokeh.float().mean((1, 2)).numpy()).max() < 3
    mask = np.array(found["in focus of made-030"]).astype(float)
    assert np.abs(mask[:, ::2] - 255).mean() < 10 and mask[:, 1::2].mean() < 10
    radius = blur_radius(sample.disparity, 0.25, sample.strength)
    assert f"{float(radius.min()):.1f} to {float(radius.max()):.1f} px" in page.text
    light = np.array(found["defocus map of made-030"]).astype(float).mean(-1)
    assert np.corrcoef(light.ravel(), radius.numpy().ravel())[0, 1] > 0.9


def test_extremes_are_the_extremes(page: Page) -> None:
    captions = " ".join(" ".join(page.text).split())
    lowest, highest = captions.split("K (px at 1/m) lowest")[1].split("highest")[:2]
    keys = [word for word in lowest.split() if word.startswith("made-")]
    assert keys == [f"made-{n:03d}" for n in (1, 2, 3, 4, 5)]
    keys = [word for word in highest.split() if word.startswith("made-")]
    assert keys[:5] == [f"made-{n:03d}" for n in (26, 27, 28, 29, 30)]


def test_charts_draw_gates_and_both_groups(page: Page) -> None:
    charts, styles = [], []
    for tag, attributes in page.tags:
        if tag == "svg":
            charts.append(styles := [])
        styles.append(attributes.get("style", ""))
    k, ssim, calibration = (" ".join(one) for one in charts)
    assert "var(--accepted)" in k and "var(--rejected)" in k and "var(--gate)" not in k
    assert "var(--gate)" in ssim
    # One line and one dot for each accepted sample, and for the one that was at the bound.
    assert calibration.count("stroke: var(--accepted); stroke-opacity: 0.6") == COUNT
    assert calibration.count("stroke: var(--rejected); stroke-opacity: 0.6") == 1


def test_equal_folders_give_equal_bytes(made: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    (tmp_path / "copy/report.html").unlink()
    assert write_report(tmp_path / "copy").read_text() == text


def test_rejected_images_are_shown_where_there_are_files(
    made: Path, page: Page, tmp_path: Path
) -> None:
    out, root = shutil.copytree(made, tmp_path / "out"), tmp_path / "photos"
    (root / "scene").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(root / "scene/away-0.jpg")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "outside.jpg")
    (root / "scene/bound.jpg").write_bytes(b"no image")
    lines = (made / "rejections.jsonl").read_text().replace("scene/away-10.jpg", "../outside.jpg")
    (out / "rejections.jsonl").write_text(lines)
    shown = Page(write_report(out, root=root).read_text())
    assert len(images(shown)) == len(images(page)) + 1


def test_a_sheet_has_columns_for_what_samples_have(
    tmp_path: Path, write_preparation, make_labelled
) -> None:
    pair = make_labelled(1, measures={"registration_error": 0.1})
    shared = {"split": "train", "aif": pair.aif, "bokeh": pair.bokeh, "route": "deblur"}
    shared["provenance"] = pair.provenance
    bare = Sample(key="bare", **shared)
    further = Sample(key="further", extras={"pre_deblur": pair.aif}, **shared)
    page = Page(write_report(write_preparation(tmp_path / "out", [bare, further])).read_text())
    (head, first, second) = page.rows["sheet"]
    assert head == ["all in focus", "photograph", "pre deblur", "sample"]
    assert (first[2], second[2]) == ("none", "")
    assert [image["alt"] for image in page.of("img")][-1] == "pre deblur of further"
    assert len(images(page)) == 5
    assert "Measured only:" not in page.text and "reasons" not in page.rows


def test_what_is_missing_is_named(made: Path, tmp_path: Path) -> None:
    made = shutil.copytree(made, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no summary\.json.*goes on where it stopped"):
        write_report(tmp_path)
    with (made / "rejections.jsonl").open("a") as file:
        file.write('{"name": "ha')
    with pytest.raises(ValueError, match=r"rejections\.jsonl, line 14 is damaged"):
        write_report(made)
    (made / "rejections.jsonl").write_text("")
    entry = {"key": "other", "name": "other", "split": "train", "measures": {}}
    with (made / "samples.jsonl").open("a") as file:
        file.write(json.dumps(entry))
    with pytest.raises(ValueError, match="lists other, which no set"):
        write_report(made)


def test_distribution_and_spread() -> None:
    values = torch.randn(101, generator=torch.Generator().manual_seed(0)).double().numpy()
    ordered = np.sort(values)
    levels = distribution(np.append(values, [np.nan, np.inf]))
    assert list(levels.values()) == pytest.approx(ordered[[0, 5, 50, 95, 100]])
    assert distribution(np.array([np.nan])) == {}
    assert spread(100, 5) == [0, 25, 50, 74, 99]
    assert spread(3, 5) == [0, 1, 2] and spread(0, 5) == [] and spread(9, 1) == [0]
