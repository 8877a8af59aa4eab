"""The runner: right figures, nothing computed twice, failures counted, any number of jobs."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genrefocus.benchmark.case import Case
from genrefocus.benchmark.cases import PictureCases, ShardCases
from genrefocus.benchmark.figures import read_figures
from genrefocus.benchmark.methods import (
    Classical,
    Identity,
    Predictions,
    RichardsonLucy,
    Unsharp,
)
from genrefocus.benchmark.runner import Plan, gather, measure, run
from genrefocus.data.images import save_image
from genrefocus.embedded import build_embedded
from genrefocus.k_search import KRange
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.preparation.item import Picture

COUNTS = {"synthetic": {"val": 3, "test": 4}, "deblur": {"val": 4, "test": 4}}
METRICS = {
    "psnr": lambda answer, case: float(psnr(answer[None], case.target[None])[0]),
    "ssim": lambda answer, case: float(ssim(answer[None], case.target[None])[0]),
}
GIVEN = Plan(METRICS, {}, None, control=False, protocol="p")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("embedded")
    build_embedded(root, seed=1, counts=COUNTS, size=64, workers=0, progress=False)
    return root


@dataclass
class Counted:
    """A method that counts, and fails on the second case."""

    inner: Identity
    calls: int = 0
    name = "counted"
    needs_k = False
    fingerprint = "counted 1"

    def __call__(self, case: Case) -> Tensor:
        self.calls += 1
        if case.key.endswith("1"):
            raise ValueError("no answer")
        return self.inner(case)


def test_figures_are_those_of_the_metrics(data: Path, tmp_path: Path) -> None:
    cases = ShardCases("bokeh", "embedded", data / "synthetic/test")
    run(cases, Identity(), GIVEN, tmp_path)
    rows = gather(tmp_path, [(cases, GIVEN, ["identity"])])
    assert rows is not None and read_figures(tmp_path / "rows.parquet").equals(rows)
    assert len(rows) == 2 * 4
    for row in rows.itertuples():
        case = cases[row.key]
        expected = {"psnr": psnr, "ssim": ssim}[row.metric](case.image[None], case.target[None])
        assert row.value == pytest.approx(float(expected[0]), abs=1e-4)
    pictures = tmp_path / "pictures/bokeh/embedded"
    assert {p.name for p in pictures.iterdir()} == {"identity", "input", "target"}
    # Somebody else's pictures are scored alike, without their code.
    other = Predictions("theirs", pictures / "identity")
    run(cases, other, GIVEN, tmp_path)
    both = gather(tmp_path, [(cases, GIVEN, ["identity", "theirs"])])
    assert both is not None
    values = {(row.method, row.key, row.metric): row.value for row in both.itertuples()}
    for (method, key, metric), value in values.items():
        assert value == values["theirs" if method == "identity" else "identity", key, metric]


def test_a_failure_is_counted_and_nothing_is_computed_twice(data: Path, tmp_path: Path) -> None:
    cases = ShardCases("deblur", "embedded", data / "deblur/test")
    method = Counted(Identity())
    run(cases, method, GIVEN, tmp_path)
    assert method.calls == 4
    run(cases, method, GIVEN, tmp_path)
    assert method.calls == 4
    rows = gather(tmp_path, [(cases, GIVEN, ["counted"])])
    assert rows is not None
    assert rows["failure"].dropna().to_list() == ["no answer"] * 2
    method.fingerprint = "counted 2"  # other weights: what is there does not count
    run(cases, method, GIVEN, tmp_path)
    assert method.calls == 8


def test_jobs_and_processes_leave_the_same_rows(data: Path, tmp_path: Path) -> None:
    cases = ShardCases("bokeh", "embedded", data / "synthetic/test")
    measured = [(cases, PLAIN, ["classical_scatter"])]
    threads: list[int] = []

    def watched(*given: object) -> float:
        threads.append(torch.get_num_threads())
        return _psnr(*given)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        plan = replace(PLAIN, metrics={"psnr": watched})
        run(cases, Classical("scatter"), plan, tmp_path / "one", workers=0)
        assert set(threads) == {1}, "sums over two threads would be others"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    run(cases, Classical("scatter"), PLAIN, tmp_path / "two", workers=2)
    run(cases, Classical("scatter"), PLAIN, tmp_path / "jobs", job=1, jobs=2)
    assert gather(tmp_path / "jobs", measured) is None
    run(cases, Classical("scatter"), PLAIN, tmp_path / "jobs", job=0, jobs=2)
    gathered = [gather(tmp_path / one, measured) for one in ("one", "two", "jobs")]
    assert all(gathered[0].equals(one) for one in gathered)


def _psnr(answer: Tensor, case: Case) -> float:
    return float(psnr(answer[None], case.target[None])[0])


PLAIN = Plan({"psnr": _psnr}, {}, None, control=True, protocol="p")


def test_the_search_finds_the_k_of_the_target(data: Path) -> None:
    cases = ShardCases("bokeh", "embedded", data / "synthetic/test")
    policy = KRange(min_radius=0.002, max_radius=0.2, budget=12)
    searched = Plan(METRICS, {}, policy, control=True, protocol="p")
    for key in cases.keys:
        record, *_ = measure(cases, Classical("layered"), searched, key)
        truth, *_ = measure(cases, Classical("layered"), PLAIN, key)
        [curve] = [one for one in record["curves"] if one["kind"] == "ssim_k"]
        assert len(curve["x"]) <= 12
        assert record["figures"]["ssim"][0] == pytest.approx(max(curve["y"]))
        assert record["figures"]["psnr"][0] >= truth["figures"]["psnr"][0] - 0.5
        assert -1 <= record["figures"]["lvcorr"][0] <= 1
    # K does not move a method that ignores it; it is scored all the same, once.
    record, *_ = measure(cases, Identity(), searched, cases.keys[0])
    assert record["curves"] == []


def test_classical_deblurring_is_no_worse_than_nothing(data: Path) -> None:
    validation, cases = (
        ShardCases("deblur", "embedded", data / f"deblur/{split}") for split in ("val", "test")
    )
    fitted = [validation[key] for key in validation.keys]
    means = {}
    for method in (
        Identity(),
        Unsharp.fitted(fitted),
        RichardsonLucy.fitted(fitted, radii=(0.5, 1.0), iterations=(2, 5)),
    ):
        scores = [
            _psnr(method(case).clamp(0, 1), case) for case in map(cases.__getitem__, cases.keys)
        ]
        means[method.name] = sum(scores) / len(scores)
    assert means["unsharp"] >= means["identity"] - 1
    assert all(value > means["identity"] - 1 for value in means.values())


def test_pairs_of_pictures_are_cases(tmp_path: Path) -> None:
    pairs = []
    for number in range(2):
        picture = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8)
        for name in ("a", "b"):
            save_image(picture, tmp_path / f"{name}{number}.png")
        files = (Picture(tmp_path / f"{name}{number}.png") for name in ("a", "b"))
        pairs.append((str(number), *files))
    cases = PictureCases("deblur", "pairs", pairs)
    assert torch.equal(cases["1"].image, cases["1"].target)
    before = cases.fingerprint
    save_image(torch.zeros(3, 20, 24, dtype=torch.uint8), tmp_path / "b1.png")
    assert PictureCases("deblur", "pairs", pairs).fingerprint != before
    save_image(torch.zeros(3, 20, 25, dtype=torch.uint8), tmp_path / "b0.png")
    record, *_ = measure(cases, Identity(), GIVEN, "0")
    assert "target is (3, 20, 25)" in record["figures"]["psnr"][1]
