"""Wrong overrides of train.py and eval.py: one line, exit status 2, no traceback."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from genrefocus.cli import main
from genrefocus.configuration.bounds import ACCELERATORS, PRECISIONS, require_bounds
from genrefocus.configuration.composing import compose_training, wrong_input_ends
from genrefocus.preflight.inputs import require_inputs

pytestmark = pytest.mark.slow


HEAVY = {"torch", "lightning", "diffusers", "transformers"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train.py", "learning_rate=abc", "seed=x"], "seed=x: give a whole number (it was 42); "),
        (["train.py", "curriculum=deblurnet"], "curriculum=deblurnet: give a list in brackets"),
        (["train.py", "data.long_egde=512"], "'data.long_egde'. Did you mean data.long_edge?"),
        (["train.py", "trainr=gpu"], "'trainr'. Did you mean trainer"),
        (["train.py", "seed=-1", "mix.in_the_wild=-1"], "seed=-1: give 0 to 4294967295"),
        (["train.py", "learning_rate=-1"], "learning_rate=-1: give 0 or more"),
        (["train.py", "evaluation.bokeh=null"], "evaluation.bokeh=null: name a folder of shards"),
        (
            ["train.py", "experiment=deblurr"],
            "semi_supervised, tiny_base. Did you mean experiment=deblur?",
        ),
        (["train.py", "resume=latest", "paths.outputs={empty}"], "start one without resume"),
        (["train.py", "scale=paper"], "data.deblur=... data.synthetic=..."),
        (["train.py", "trainer.devices=abc"], "trainer.devices=abc: give a number, 1 or more"),
        (["train.py", "trainer.precision=foo"], "trainer.precision=foo: give one of 32-true, "),
        (["train.py", "data.photos=/absent"], "data.photos: /absent does not exist; data.photos="),
        (["train.py", "backbone.path=/absent"], "tiny base: /absent does not exist; backbone."),
        (["eval.py", "run=latest", "outputs={empty}"], "no finished run below"),
        (
            ["eval.py", "+overrides.sampling_steps=4"],
            "sampling_steps: an evaluation does not",
        ),
        (["train.py", "trainer=gpu"], "trainer: there is no CUDA driver; trainer=cpu"),
        (["train.py", "sed=1", "-m"], "Did you mean seed?"),
        (["train.py", "--resume", "latest"], "Did you mean resume=latest?"),
    ],
    ids=["kind", "list", "key", "group", "bounds", "rate", "null", "option", "resume", "missing"]
    + ["devices", "precision", "photos", "base", "eval", "unread", "gpu", "multirun", "dashes"],
)
def test_wrong_overrides_are_one_line(
    command: list[str], said: str, repo_root: Path, tmp_path: Path
) -> None:
    given = [*(part.format(empty=tmp_path) for part in command)]
    if "train.py" in given:
        given.append(f"paths.outputs={tmp_path}")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *given],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert not HEAVY & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert lines[0].startswith(f"{command[0]}: ") and "append" not in lines[0]
    assert len(lines) == 1 or (len(lines) == 2 and lines[0].endswith("missing or wrong"))
    assert said in lines[-1]
    assert not any(tmp_path.iterdir()), "no folder of a run that never began"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["trainer=gpu"], "trainer: torch finds no CUDA device; trainer=cpu"),
        (["+logger.csv.flush=3"], "csv_logger has no such option; leave logger.csv.flush out"),
        (["+trainer.max_step=3"], "lightning.Trainer has no such option; trainer.max_steps=..."),
        (["+stages.deblurnet.module.rnk=3"], "stages.deblurnet.module.rank=..."),
        (["callbacks.ema._target_=no.such.Thing"], "callbacks.ema: no.such.Thing:"),
    ],
)
def test_what_a_class_does_not_take(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genrefocus.preflight.inputs.CDLL", lambda name: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=re.escape(said)):
        require_inputs(compose_training(["experiment=deblur", *given]))


@pytest.mark.parametrize("devices", [1, 2, "3", "auto", 0, -1, "abc", "0,1", [0]])
def test_devices_are_those_that_lightning_takes(devices: int | str | list[int]) -> None:
    config = compose_training(["experiment=deblur"])
    config.trainer.devices = devices
    try:
        instantiate(config.trainer)
        taken = config.trainer.devices != 0  # trains nothing
    except InstantiationException:
        taken = False
    with contextlib.nullcontext() if taken else pytest.raises(ValueError, match="trainer.devices"):
        require_bounds(config)


def test_names_are_those_that_lightning_has() -> None:
    precisions = [name for some in get_args(_PRECISION_INPUT) for name in get_args(some)]
    assert set(PRECISIONS) == set(map(str, precisions))
    assert set(ACCELERATORS) == {"auto", "gpu", *AcceleratorRegistry.available_accelerators()}
    config = compose_training(["experiment=deblur", "trainer=ddp_cpu"])
    for name in StrategyRegistry.available_strategies():
        config.trainer.strategy = name
        if name.startswith("ddp"):
            require_bounds(config)


def test_a_part_that_cannot_be_built_is_named(
    repo_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth = ["depth=onnx", "depth.kind=metric", f"depth.file={repo_root / 'README.md'}"]
    with pytest.raises(ValueError, match=r"  depth: \S+/README\.md"):
        require_inputs(compose_training(depth))
    config = compose_training(["experiment=deblur", "callbacks.ema.decay=2"])
    with pytest.raises(ValueError, match=r"callbacks\.ema: Invalid decay value 2"):
        require_inputs(config)
    with pytest.raises(SystemExit), wrong_input_ends("train.py"):
        instantiate(config.callbacks.ema)
    assert capsys.readouterr().err.startswith("train.py: callbacks.ema: Invalid decay value 2")


def test_a_pipe_that_nobody_reads(repo_root: Path) -> None:
    for command in (["train.py", "--help"], ["train.py", "--cfg", "job"], ["-m", "genrefocus.cli"]):
        done = subprocess.run(
            f"{sys.executable} {' '.join(command)} --help | true",
            shell=True,
            cwd=repo_root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["limt=3"], "Did you mean limit?"),
        (["benchmark=dpdd"], "values are not given: source.root=..."),
        (["benchmark=shards"], "benchmark.task=... benchmark.folder=... benchmark.protocol=..."),
        (["benchmark=realdof", "source.root=/absent"], "(realdof) /absent does not exist"),
        (["tasks=[deblr]"], "tasks=['deblr']: give some of deblur, bokeh, refocus in brackets"),
        (["tasks=deblur"], "tasks=deblur: give some of deblur, bokeh, refocus in brackets"),
        (["+limt=3"], "nothing reads limt"),
        (["limit=0"], "limit=0: give a number of images, 1 or more"),
        (["limit=abc"], "limit=abc: give a number of images"),
        (["benchmark=lightfields"], "values are not given: benchmark.folder=..."),
        (["+methods.mine._target_=no.such.Thing"], "no.such.Thing"),
        (["run=latest"], "run=null measures without one"),
        (
            ["run=/absent"],
            "/absent does not exist or has no trained network; name the folder of a run",
        ),
        (["+loras.released.deblur=/absent"], "LoRA file /absent does not exist"),
        (["+predictions.identity=/absent"], "several methods are called identity"),
    ],
)
def test_wrong_overrides_of_the_benchmark(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = given if any(one.startswith("run=") for one in given) else ["run=null", *given]
    with pytest.raises(SystemExit) as refused:
        main(["benchmark", f"paths.outputs={tmp_path}", *given])
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("genrefocus benchmark: ") and said in line
