"""Wrong overrides of train.py and eval.py: one line, exit status 2, no traceback."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from genrefocus.cli import main
from genrefocus.cli.configuration import compose_training, wrong_input_ends
from genrefocus.cli.doctor import require_inputs

pytestmark = pytest.mark.slow


HEAVY = {"torch", "lightning", "diffusers", "transformers"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train.py", "learning_rate=abc", "seed=x"], "seed=x: give a whole number (it was 42); "),
        (["train.py", "curriculum=deblurnet"], "curriculum=deblurnet: give a list in brackets"),
        (["train.py", "data.long_egde=512"], "'data.long_egde'. Did you mean data.long_edge?"),
        (["train.py", "trainr=gpu"], "'trainr'. Did you mean trainer?"),
        (["train.py", "seed=-1", "mix.in_the_wild=-1"], "seed=-1: give 0 to 4294967295"),
        (["train.py", "learning_rate=-1"], "learning_rate=-1: give 0 or more"),
        (["train.py", "experiment=deblurr"], "Available options in 'experiment': bokeh"),
        (["train.py", "resume=latest", "paths.outputs={empty}"], "start one without resume"),
        (["train.py", "scale=paper"], "data.deblur=... data.synthetic=..."),
        (["eval.py", "run=latest", "outputs={empty}"], "no finished run below"),
    ],
    ids=["kind", "list", "key", "group", "bounds", "rate", "option", "resume", "missing", "eval"],
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
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(command[0])]
    assert said in line and "append" not in line
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
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=re.escape(said)):
        require_inputs(compose_training(["experiment=deblur", *given]))


def test_devices_that_there_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = compose_training(["experiment=deblur", "trainer.devices=abc"]).trainer
    with pytest.raises(SystemExit) as refused, wrong_input_ends("train.py"):
        instantiate(trainer)
    assert refused.value.code == 2
    assert "`devices` selected with" in capsys.readouterr().err


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
        (["benchmark=realdof", "source.root=/absent"], "RealDOF pairs /absent does not exist"),
        (["tasks=[deblr]"], "tasks=['deblr']: give some of deblur, bokeh, refocus in brackets"),
        (["tasks=deblur"], "tasks=deblur: give some of deblur, bokeh, refocus in brackets"),
        (["+limt=3"], "nothing reads limt"),
        (["limit=0"], "limit=0: give a number of pictures, 1 or more"),
        (["limit=abc"], "limit=abc: give a number of pictures"),
        (["benchmark=lightfields"], "values are not given: benchmark.folder=..."),
        (["+methods.mine._target_=no.such.Thing"], "no.such.Thing"),
        (["run=latest"], "run=null measures without one"),
        (["run=/absent"], "/absent does not exist; name the folder of a run"),
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
