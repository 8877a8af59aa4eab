"""The runner: right figures, nothing computed twice, failures counted, any number of jobs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genrefocus.benchmark.case import Case, Method
from genrefocus.benchmark.cases import CaseSet, PairCases, ShardCases
from genrefocus.benchmark.figures import read_figures
from genrefocus.benchmark.methods import (
    Classical,
    Identity,
    Predictions,
    RichardsonLucy,
    Unsharp,
)
from genrefocus.benchmark.protocol import protocol_at_given_k
from genrefocus.benchmark.runner import Entry, gather, measure, run
from genrefocus.data.images import save_image
from genrefocus.data.shards import write_set
from genrefocus.embedded import build_embedded
from genrefocus.k_search import KRange
from genrefocus.metrics.psnr import psnr
from genrefocus.metrics.ssim import ssim
from genrefocus.preparation.sources import Pairs
from tests.samples import noise_sample

COUNTS = {"synthetic": {"val": 3, "test": 4}, "deblur": {"val": 4, "test": 4}}


def entry_of(cases: CaseSet, *methods: Method, metrics: Sequence[str] = ("psnr", "ssim")) -> Entry:
    protocol = protocol_at_given_k(cases.task, cases.name, metrics, crop=None, seed=0)
    return Entry(cases, protocol, {}, methods)


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
    own = entry_of(cases, Identity())
    run(own, Identity(), tmp_path)
    assert gather(tmp_path, [own])
    rows = read_figures(tmp_path / "rows.parquet")
    assert len(rows) == 2 * 4
    for row in rows.itertuples():
        case = cases[row.key]
        expected = {"psnr": psnr, "ssim": ssim}[row.metric](case.image[None], case.target[None])
        assert row.value == pytest.approx(float(expected[0]), abs=1e-4)
    images = tmp_path / "images/bokeh/embedded"
    assert {p.name for p in images.iterdir()} == {"identity", "input", "target"}
    # Somebody else's images are scored alike, without their code.
    other = Predictions("theirs", images / "identity")
    run(own, other, tmp_path)
    assert gather(tmp_path, [entry_of(cases, Identity(), other)])
    both = read_figures(tmp_path / "rows.parquet")
    values = {(row.method, row.key, row.metric): row.value for row in both.itertuples()}
    for (method, key, metric), value in values.items():
        assert value == values["theirs" if method == "identity" else "identity", key, metric]


def test_a_failure_is_counted_and_nothing_is_computed_twice(data: Path, tmp_path: Path) -> None:
    cases = ShardCases("deblur", "embedded", data / "deblur/test")
    method = Counted(Identity())
    entry = entry_of(cases, method)
    run(entry, method, tmp_path)
    assert method.calls == 4
    run(entry, method, tmp_path)
    assert method.calls == 4
    assert gather(tmp_path, [entry])
    rows = read_figures(tmp_path / "rows.parquet")
    assert rows["failure"].dropna().to_list() == ["no answer"] * 2
    method.fingerprint = "counted 2"  # other weights: what is there does not count
    run(entry, method, tmp_path)
    assert method.calls == 8


def test_jobs_and_processes_leave_the_same_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, method = ShardCases("bokeh", "embedded", data / "synthetic/test"), Classical("scatter")
    entry = entry_of(cases, method, metrics=["psnr", "lvcorr"])
    threads: list[int] = []
    answer = Classical.__call__

    def watched(one: Classical, case: Case) -> Tensor:
        threads.append(torch.get_num_threads())
        return answer(one, case)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with monkeypatch.context() as patched:
            patched.setattr(Classical, "__call__", watched)
            run(entry, method, tmp_path / "one", workers=0)
        assert set(threads) == {1}, "sums over two threads would be others"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    run(entry, method, tmp_path / "two", workers=2)
    run(entry, method, tmp_path / "jobs", job=1, jobs=2)
    assert not gather(tmp_path / "jobs", [entry])
    run(entry, method, tmp_path / "jobs", job=0, jobs=2)
    rows = []
    for name in ("one", "two", "jobs"):
        assert gather(tmp_path / name, [entry])
        rows.append(read_figures(tmp_path / name / "rows.parquet"))
    assert all(rows[0].equals(one) for one in rows)


def test_the_search_finds_the_k_of_the_target(data: Path) -> None:
    cases = ShardCases("bokeh", "embedded", data / "synthetic/test")
    policy = KRange(min_radius=0.002, max_radius=0.2, budget=12)
    given = entry_of(cases, metrics=["psnr", "ssim", "lvcorr"])
    searched = replace(given, protocol=replace(given.protocol, k_search=policy))
    for key in cases.keys:
        record, *_ = measure(searched, Classical("layered"), key)
        truth, *_ = measure(given, Classical("layered"), key)
        [curve] = [one for one in record["curves"] if one["kind"] == "ssim_k"]
        assert len(curve["x"]) <= 12
        assert record["figures"]["ssim"][0] == pytest.approx(max(curve["y"]))
        assert record["figures"]["psnr"][0] >= truth["figures"]["psnr"][0] - 0.5
        assert -1 <= record["figures"]["lvcorr"][0] <= 1
    # K does not move a method that ignores it; it is scored all the same, once.
    record, *_ = measure(searched, Identity(), cases.keys[0])
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
            float(psnr(method(case)[None].clamp(0, 1), case.target[None])[0])
            for case in map(cases.__getitem__, cases.keys)
        ]
        means[method.name] = sum(scores) / len(scores)
    assert means["unsharp"] >= means["identity"] - 1
    assert all(value > means["identity"] - 1 for value in means.values())


def test_pairs_of_images_are_cases(tmp_path: Path) -> None:
    for number in range(2):
        image = torch.randint(0, 256, (3, 20, 24), dtype=torch.uint8)
        for folder in ("photo", "sharp"):
            (tmp_path / folder / "day").mkdir(parents=True, exist_ok=True)
            save_image(image, tmp_path / folder / "day" / f"{number}.png")

    def cases() -> PairCases:
        return PairCases("deblur", "pairs", Pairs(tmp_path))

    assert cases().keys == ["0", "1"]
    assert torch.equal(cases()["1"].image, cases()["1"].target)
    before = cases().fingerprint
    save_image(torch.zeros(3, 20, 24, dtype=torch.uint8), tmp_path / "sharp/day/1.png")
    assert cases().fingerprint != before
    save_image(torch.zeros(3, 20, 25, dtype=torch.uint8), tmp_path / "sharp/day/0.png")
    record, *_ = measure(entry_of(cases()), Identity(), "0")
    assert "target is 25x20 px but the input 24x20 px" in record["figures"]["psnr"][1]
    with pytest.raises(ValueError, match="no pair of the split test"):
        PairCases("deblur", "pairs", Pairs(tmp_path), split="test")


def test_captions_of_a_set_are_part_of_its_fingerprint(tmp_path: Path) -> None:
    texts = ("a sign", None, "a sign")
    samples = [noise_sample(n, 16, 16, prompt=text) for n, text in enumerate(texts)]
    write_set(tmp_path, samples, parameters={})
    plain = ShardCases("deblur", "x", tmp_path)
    asked = ShardCases("deblur", "x", tmp_path, own_prompts=True)
    assert (plain.prompts, asked.prompts) == (set(), {"a sign"})
    assert [plain[key].prompt for key in plain.keys] == [None] * 3
    assert [asked[key].prompt for key in asked.keys] == ["a sign", None, "a sign"]
    assert asked.fingerprint == f"{plain.fingerprint}, own prompts"
