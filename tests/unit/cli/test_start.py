"""Help, wrong arguments and wrong overrides are answered before torch is imported."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from genrefocus.benchmark.case import TASKS
from genrefocus.benchmark.lightfield.building import GRID
from genrefocus.benchmark.lightfield.reading import Order
from genrefocus.cli import COMMANDS, applications, build_parser, main
from genrefocus.cli.arguments import ARGUMENTS
from genrefocus.estimators import DepthKind
from genrefocus.geometry import DepthResize
from genrefocus.metrics.trunks import PACKAGE, VERSION
from genrefocus.network import MemoryUse
from genrefocus.render.tone import RESPONSES

HEAVY = {"torch", "lightning", "diffusers", "transformers", "scipy"}
NETWORKS = HEAVY - {"torch", "scipy"}
USE = """
import json, sys
from genrefocus.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    try:
        ended.append(main(arguments))
    except SystemExit as exit:
        ended.append(exit.code)
    if heavy := set(sys.modules) & set(sys.argv[2:]):
        raise SystemExit(f"{arguments} imported {heavy}")
print(json.dumps(ended), file=sys.stderr)
"""


def ended(*commands: list[str], heavy: set[str] = HEAVY) -> tuple[list[int], str]:
    """Exit statuses, and all that was printed, of commands in a process without ``heavy``."""
    done = subprocess.run(
        [sys.executable, "-c", USE, json.dumps(commands), *heavy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1]), done.stdout + done.stderr


def test_help_is_light() -> None:
    status, said = ended(["--help"], *([name, "--help"] for name in COMMANDS))
    assert status == [0] * (1 + len(COMMANDS))
    assert all(f"usage: genrefocus {name}" in said for name in COMMANDS)


def test_wrong_arguments_are_light(tmp_path: Path, repo_root: Path) -> None:
    image = repo_root / "docs/images/night.jpg"
    photo = tmp_path / "photo.png"
    photo.touch()
    use = ["refocus", str(photo), "--focus", "3,3"]
    commands = [
        [],
        ["nothing"],
        *([name, "--no-such-option"] for name in ARGUMENTS),
        ["refocus", str(tmp_path / "absent.jpg")],
        [*use, "--k", "3", "-o", "out.png"],
        [*use, "--k", "3", "-o", "out.xyz", "--depth", str(photo)],
        [*use, "--k", "much", "-o", "out.png", "--depth", str(photo)],
        [*use, "--k", "3", "-o", "out.png", "--depth-model", "hub/id"],
        ["compare", "one"],
        ["verify-resume", "--steps", "4", "--kill-at", "4"],
        ["calibrate", "out", "--reviewed", "absent.csv"],
        ["inspect", str(tmp_path / "absent")],
        ["control", str(image), "--depth", str(image), "--k", "3", "--focus", "90000,3"],
    ]
    network = tmp_path / "net.onnx"
    network.touch()
    commands += [
        [*use, "--k", "3", "-o", "out.png", "--depth-model", str(network), *more]
        for more in ([], ["--depth-kind", "relative_depth"])
    ]
    status, said = ended(*commands)
    assert status == [2] * len(commands)
    *_, unknown, relative, _ = lines = said.splitlines()
    assert len(lines) == len(commands) + 1  # one line each, and the statuses
    for option in ("--depth-kind metric, ", "--depth-range NEAR,FAR", "--depth-pixels RANGE"):
        assert option in unknown and (option in relative) == ("kind" not in option)


def test_wrong_overrides_are_light(tmp_path: Path) -> None:
    commands = [
        ["benchmark", "limt=3"],
        ["benchmark", "seed=abc"],
        ["benchmark", "benchmark=dpdd"],
        ["benchmark", "tasks=deblur"],
        ["prepare", "route=synthetic", "sed=3"],
        ["prepare", "route=in_the_wild", "source=photographs", "sorce.root=/a"],
        ["prepare", "route=synthetic", "limit={a: 1}", "workers=two"],
        ["verify-resume", "learning_rate=abc"],
        ["verify-resume", "scale=paper"],
        ["verify-resume", "depth=onnx"],
        ["prepare", "route=in_the_wild", "source.root=/", "depth=onnx", "mask=onnx"],
    ]
    status, said = ended(*commands)
    assert status == [2] * len(commands)
    assert "'sorce.root'. Did you mean source.root?" in said
    assert "workers=two: give a whole number (it was 2)" in said
    all_of_depth = (
        "depth.file=... depth.kind=... {}depth.range=[NEAR,FAR] (not if metric) depth.pix"
    )
    assert all_of_depth.format("") in said
    assert all_of_depth.format("mask.file=... ") in said
    assert "Traceback" not in said


def test_what_is_not_there_is_said_without_networks(tmp_path: Path, repo_root: Path) -> None:
    absent, images = str(tmp_path / "absent"), repo_root / "docs/images"
    use = ["refocus", str(images / "night.jpg"), "--focus", "3,3", "--k", "3", "-o", "o.png"]
    use += ["--depth-model", absent + "@1"]
    prepare = ["prepare", f"paths.data={tmp_path}", f"paths.outputs={tmp_path}", "depth=depth_pro"]
    prepare += ["route=in_the_wild", "mask=detail_retention", "source=photographs"]
    commands = [
        [*use, "--run", absent],
        [*prepare, f"source.root={absent}"],
        [*prepare, f"source.root={images}"],
        [*prepare, f"source.root={images}", "deblur=lora", f"deblur.lora={absent}"],
    ]
    status, said = ended(*commands, heavy=NETWORKS)
    assert status == [2] * len(commands)
    parts = [f"--run {absent} does not exist", f"source {absent} does not exist"]
    parts += ["no finished run below", f"LoRA file {absent} does not exist"]
    for part, line in zip(
        parts, (one for one in said.splitlines() if "genrefocus " in one), strict=True
    ):
        assert part in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seed=1.5", "seed=1.5: give a whole number (it was 42)"),
        ("seed=true", "seed=True: give a whole number (it was 42)"),
        ("out=7", "out=7: give text"),
        ("progress=1", "progress=1: give true or false (it was True)"),
        ("leakage.against=/a", "leakage.against=/a: give a list in brackets (it was [])"),
        ("leakage={distance: abc}", "leakage.distance=abc: give a whole number (it was 64)"),
        ("splits.test=abc", "splits.test=abc: give a number (it was 0.05)"),
    ],
)
def test_a_value_of_another_kind(
    given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["prepare", "route=synthetic", f"paths.data={tmp_path}", given])
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("genrefocus prepare: ") and said in line


@pytest.mark.parametrize(("job", "given"), [("prepare", ["route=synthetic"]), ("benchmark", [])])
def test_an_interrupted_job_goes_on_later(
    job: str, given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"genrefocus.cli.{job}.run_job", interrupted)
    with pytest.raises(SystemExit) as ended:
        main([job, *given])
    assert ended.value.code == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"genrefocus {job}: interrupted; ") and "goes on" in line


@pytest.mark.parametrize("folder", ["/trip (1)/x", "/trip/a,b", "/trip/a=b", "/{trip}", "[x]/y"])
def test_paths_that_hydra_reads_otherwise_are_quoted(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message holds an override that works, but for the folder that does not exist."""
    command = ["prepare", "route=deblur_pairs", "source=dpdd", f"paths.data={tmp_path}"]
    with pytest.raises(SystemExit) as refused:
        main([*command, f"source.root={folder}"])
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"source.root={folder}: " in line and "two pairs of quotes" in line
    (quoted,) = shlex.split(f"'{line.split(chr(39))[1]}'")
    with pytest.raises(SystemExit):
        main([*command, quoted])
    assert f"source {folder} does not exist" in capsys.readouterr().err


def test_arguments_agree_with_the_library() -> None:
    def action(command: str, option: str) -> argparse.Action:
        parser = argparse.ArgumentParser()
        ARGUMENTS[command](parser)
        return next(one for one in parser._actions if option in one.option_strings)

    for command in ("control", "render", "refocus"):
        assert action(command, "--resize-depth").choices == get_args(DepthResize)
    assert action("render", "--response").choices == RESPONSES
    assert action("refocus", "--depth-kind").choices == get_args(DepthKind)
    assert action("lightfield", "--order").choices == get_args(Order)
    assert action("lightfield", "--grid").default == GRID
    assert action("refocus", "--tile-batch").default == MemoryUse.tile_batch
    assert action("refocus", "--cache-gib").default == MemoryUse.cache_gib
    assert f"{PACKAGE} {VERSION}" in str(action("weights", "--source").help)
    assert applications.TASKS == TASKS
    assert set(ARGUMENTS) | set(applications.APPLICATIONS) == set(COMMANDS)
    assert build_parser().prog == "genrefocus"


def test_a_terminal_without_the_letters_of_a_message() -> None:
    code = "from genrefocus.terminal import any_terminal\nwith any_terminal(): "
    code += r"print('\u2022 5 \u00b1 1')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "? 5 ? 1\n", "")


def test_a_warning_shows_what_it_says_and_no_code() -> None:
    code = "import warnings\nfrom genrefocus.terminal import any_terminal\nwith any_terminal():\n"
    code += "  warnings.warn('depth in millimetres?')\n  warnings.warn('old', FutureWarning)"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    first, second = done.stderr.splitlines()[:2]
    assert first == "warning: depth in millimetres?"
    assert "FutureWarning: old" in second
