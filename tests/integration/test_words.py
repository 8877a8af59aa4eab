"""Captions from data to tables: trained on at their rate; right, none and wrong ones measured."""

import json
from pathlib import Path

import pytest

from genrefocus.benchmark.results import read_results
from genrefocus.cli.verify_resume import finish

pytestmark = pytest.mark.slow
ENDS = ("", "_uncaptioned", "_wrong_caption")


def test_right_no_and_wrong_captions_are_measured(tiny_training: list[str], tmp_path: Path) -> None:
    kept = [one for one in tiny_training if not one.startswith(("experiment=", "+data.build"))]
    kept += ["+data.build.counts={train:6,val:2,test:3}", f"paths.data={tmp_path}/data"]
    finish(["experiment=deblur_words", *kept, "debug=limit", "~callbacks.progress"], tmp_path)
    (run,) = (tmp_path / "deblur_words").iterdir()
    results = read_results(run / "benchmark")
    asked = [f"{name}{end}" for name in ("base", "deblurnet") for end in ENDS]
    assert results.methods("deblur", "test") == ["identity", "unsharp", *asked]
    read = results.figures[results.figures["metric"] == "legibility"]
    assert len(read) == 3 * len(results.methods("deblur", "test")) and read["failure"].isna().all()
    assert set(read["value"]) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    result = json.loads((run / "result.json").read_text())
    assert result["stage"] == "deblurnet" and "legibility" in result["figures"]
