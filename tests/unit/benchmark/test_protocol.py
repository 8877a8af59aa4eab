"""Protocols: what is in the files, and that a hash stands for all of it."""

import dataclasses
import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
import yaml

from genrefocus.benchmark.protocol import (
    BenchmarkProtocol,
    ProtocolMetric,
    available_protocols,
    difference,
    load_protocol,
    read_protocol,
    require_same,
    write_protocol,
)

EXPECTED = {
    ("deblur", "dpdd"),
    ("deblur", "dpdd_crops"),
    ("deblur", "realdof"),
    ("deblur", "embedded"),
    ("bokeh", "lf_bokeh"),
    ("bokeh", "lf_bokeh_embedded"),
    ("refocus", "lf_refocus"),
    ("refocus", "lf_refocus_embedded"),
    ("bokeh", "focal_stacks"),
    ("bokeh", "focal_stacks_embedded"),
    ("refocus", "focal_stacks"),
    ("refocus", "focal_stacks_embedded"),
}


@pytest.fixture
def protocol() -> BenchmarkProtocol:
    return load_protocol("bokeh", "lf_bokeh")


def test_the_data_sets_of_the_three_tasks_have_one() -> None:
    assert set(available_protocols()) >= EXPECTED


@pytest.mark.parametrize(("task", "dataset"), available_protocols())
def test_every_file_says_what_its_name_says_and_survives_writing(
    task: str, dataset: str, tmp_path: Path
) -> None:
    protocol = load_protocol(task, dataset)
    assert (protocol.task, protocol.dataset.name) == (task, dataset)
    assert (protocol.k_search is None) == (task == "deblur")
    assert protocol.k_search is None or protocol.k_search.budget <= 12
    # The weights are those of a run, not of a file.
    assert {metric.weights for metric in protocol.metrics.values()} == {None}
    filled = protocol.filled(
        name="other", fingerprint="é" * 3, found={"lpips": ("lpips 9, alex", "0" * 64)}
    )
    assert filled.dataset.name == "other" and filled.metrics["lpips"].better == "lower"
    for one in (protocol, filled):
        write_protocol(one, tmp_path / "p.yaml")
        assert read_protocol(tmp_path / "p.yaml") == one
        assert read_protocol(tmp_path / "p.yaml").hash == one.hash


def test_the_hash_is_of_the_file_as_canonical_json() -> None:
    file = resources.files("genrefocus.benchmark") / "protocols/deblur-dpdd.yaml"
    plain = yaml.safe_load(file.read_text())
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert load_protocol("deblur", "dpdd").hash == expected


def test_every_field_counts(protocol: BenchmarkProtocol) -> None:
    lpips = protocol.metrics["lpips"]
    changes = {
        "task": "refocus",
        "version": 99,
        "dataset.fingerprint": dataclasses.replace(protocol.dataset, fingerprint="0"),
        "resolution": "512 px",
        "colour_space": "linear",
        "bit_depth": 16,
        "crop": (512, 512),
        "prompts.bokeh": {"bokeh": "another"},
        "steps": 4,
        "seed": 1,
        "k_search.budget": dataclasses.replace(protocol.k_search, budget=8),
        "metrics.lpips.weights": {
            **protocol.metrics,
            "lpips": dataclasses.replace(lpips, weights="0"),
        },
    }
    assert {name.partition(".")[0] for name in changes} == {
        field.name for field in dataclasses.fields(BenchmarkProtocol)
    }
    hashes = {protocol.hash}
    for name, value in changes.items():
        other = dataclasses.replace(protocol, **{name.partition(".")[0]: value})
        (line,) = difference(protocol, other)
        assert line.startswith(f"{name}: ")
        with pytest.raises(
            ValueError, match=f"differ in {name}: .* and .*; measure both under one"
        ):
            require_same(protocol, other)
        hashes.add(other.hash)
    assert len(hashes) == len(changes) + 1
    require_same(protocol, load_protocol("bokeh", "lf_bokeh"))


def test_a_metric_more_is_a_difference(protocol: BenchmarkProtocol) -> None:
    more = {**protocol.metrics, "niqe": ProtocolMetric("pyiqa niqe", "lower")}
    assert difference(protocol, dataclasses.replace(protocol, metrics=more)) == [
        'metrics.niqe.implementation: absent and "pyiqa niqe"',
        'metrics.niqe.better: absent and "lower"',
        "metrics.niqe.weights: absent and null",
    ]
    with pytest.raises(ValueError, match="no metric niqe; it has lpips, dists"):
        protocol.higher_is_better("niqe")
    with pytest.raises(ValueError, match="no metric niqe"):
        protocol.filled(name="x", fingerprint="0", found={"niqe": ("", "0")})
    with pytest.raises(ValueError, match="use _ in place of -"):
        protocol.filled(name="a-b", fingerprint="0", found={})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sed": 1}, "sed is 1: Unexpected"),
        ({"steps": ...}, "steps is .*: Field required"),
        ({"task": "sharpen"}, "task is 'sharpen': Input should be 'deblur'"),
        ({"version": "1"}, "version is '1'"),
        ({"crop": 512}, "crop is 512: Input should be a valid array"),
        (
            {"k_search": {"min_radius": 0.001, "max_radius": 0.05, "budget": 13}},
            "budget is 13; .* 12",
        ),
        ({"k_search": {"min_radius": 0.1, "max_radius": 0.05, "budget": 12}}, "must be below"),
        ({"k_search": {"min_radius": "1e-3", "max_radius": 1, "budget": 12}}, "'1e-3'"),
        ({"dataset": "dpdd"}, "dataset is 'dpdd'"),
        ({"metrics": {"lpips": {"implementation": "a", "better": "up", "weights": None}}}, "'up'"),
        ({"metrics": {"lpips": {"implementation": "a"}}}, "better is .*: Field required"),
    ],
)
def test_a_damaged_file_is_named(
    change: dict, complaint: str, protocol: BenchmarkProtocol, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    write_protocol(protocol, path)
    plain = {**yaml.safe_load(path.read_text()), **change}
    path.write_text(yaml.safe_dump({k: v for k, v in plain.items() if v is not ...}))
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{complaint}"):
        read_protocol(path)


def test_what_is_no_protocol_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml"):
        read_protocol(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match=r"list\.yaml: .*is \[1\]"):
        read_protocol(tmp_path / "list.yaml")
    (tmp_path / "open.yaml").write_text("task: [\n")
    with pytest.raises(ValueError, match=r"open\.yaml is not YAML"):
        read_protocol(tmp_path / "open.yaml")
    with pytest.raises(ValueError, match="no protocol for deblur/lf_bokeh; there are"):
        load_protocol("deblur", "lf_bokeh")
