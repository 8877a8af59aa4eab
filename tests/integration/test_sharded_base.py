"""trainer=fsdp: the whole scheme in two processes, of which neither ever has the base whole."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from genrefocus.backbone.lora import read_lora
from genrefocus.backbone.sharding import held_elsewhere
from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.benchmark.results import read_results
from tests.warm import ROOT, python

pytestmark = pytest.mark.slow
STAGES = ("deblurnet", "bokehnet_synthetic", "bokehnet_semi_supervised")
#: most is uneven, so that one of the processes has more to do than the other
COUNTS = (
    "{deblur:{train:4,val:3,test:3},synthetic:{train:4,val:3,test:3},"
    "sweep:{val:1,test:1},camera_roll:{train:5}}"
)
#: train.py in a process that notes, while a block computes, what there is of the others: by what
#: asked for the forward, blocks that are whole and bytes of the whole transformer, at the most
SPY = """
import json
import os
from torch.distributed.tensor import DTensor
from genrefocus.backbone import branches, flux
from lit_models import DeblurNet, evaluation
from lit_models.flow_matching import FlowMatching
from lit_models.stages import PrepareInTheWild

work, seen, asked = ["none"], {}, []

def told(place, name):
    own = getattr(place, name)
    def inner(*args, **kwargs):
        work.append(name)
        try:
            return own(*args, **kwargs)
        finally:
            work.pop()
            with open(f"{SPIED}/{os.environ.get('LOCAL_RANK', '0')}.json", "w") as file:
                json.dump(seen, file)
    setattr(place, name, inner)

for place, name in (
    (FlowMatching, "training_step"), (FlowMatching, "validation_step"),
    (DeblurNet, "validation_step"), (PrepareInTheWild, "run"),
    (evaluation, "measure_all"),
):
    told(place, name)

def spied(own):
    def inner(*args):
        parts = [p for p in asked[0].parameters()]
        held = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in parts)
        blocks = [*asked[0].transformer_blocks, *asked[0].single_transformer_blocks]
        whole = sum(not isinstance(p, DTensor) for b in blocks for p in [next(b.parameters())])
        before = seen.get(work[-1], (0, 0, 0))
        seen[work[-1]] = (max(before[0], whole), max(before[1], held), before[2] + 1)
        return own(*args)
    return inner

branches._BLOCKS = tuple(map(spied, branches._BLOCKS))
forward = branches.multi_condition_forward

def noted(transformer, *args, **kwargs):
    asked[:] = [transformer]
    return forward(transformer, *args, **kwargs)

flux.multi_condition_forward = noted

# Not runpy: the other process is started by the name that this one was.
with open(f"{ROOT}/train.py") as file:
    code = compile(file.read(), f"{ROOT}/train.py", "exec")
exec(code, {"__name__": "__main__"})
"""


def test_no_rank_has_the_base_whole_and_the_figures_are_those_of_ddp(
    tiny_training: list[str], tiny_settings: dict[str, Any], tmp_path: Path
) -> None:
    deeper = tiny_settings["transformer"] | {"num_layers": 2, "num_single_layers": 3}
    settings = tiny_settings | {"transformer": deeper}
    backbone = build_tiny(**settings)
    save_tiny(backbone, tmp_path / "base.safetensors", settings=settings, card={})
    given = [
        *(one for one in tiny_training if one.startswith(("data.build", "data.crop", "trainer."))),
        *(f"stages.{name}.module.rank=4" for name in STAGES),
        *("experiment=semi_supervised", "debug=limit", "val_samples=3", "test_samples=3"),
        *("data.long_edge=48", "stages.deblurnet.module.told=0.5", "sampling_steps=2"),
        *(f"backbone.path={tmp_path}/base.safetensors", f"paths.data={tmp_path}/data"),
        *(f"+data.build.counts={COUNTS}", "stages.in_the_wild.prepare.items_per_shard=1"),
    ]
    runs = {}
    for trainer in ("ddp_cpu", "fsdp_cpu"):
        folder = tmp_path / trainer
        folder.mkdir()
        head = f"SPIED, ROOT = {str(folder)!r}, {str(ROOT)!r}\n"
        (folder / "spy.py").write_text(head + SPY)
        outputs = [f"trainer={trainer}", f"paths.outputs={folder}/outputs"]
        done = python(str(folder / "spy.py"), *given, *outputs, folder=folder)
        assert done.returncode == 0, done.stderr
        (runs[trainer],) = folder.glob("outputs/semi_supervised/*")

    whole = sum(one.nbytes for one in backbone.transformer.parameters())
    elsewhere, gathered = held_elsewhere(backbone.transformer, 2)
    for rank in range(2):
        seen = json.loads((tmp_path / f"fsdp_cpu/{rank}.json").read_text())
        assert seen.keys() == {"training_step", "validation_step", "run", "measure_all"}
        for blocks, held, forwards in seen.values():
            assert blocks == 1 and forwards > 0
            assert held <= whole - elsewhere + gathered / 2
        before = json.loads((tmp_path / f"ddp_cpu/{rank}.json").read_text())
        assert {held for _, held, _ in before.values()} == {whole}
        assert [one[2] for one in before.values()] == [one[2] for one in seen.values()]

    for name in STAGES:
        (lora,) = runs["ddp_cpu"].glob(f"{name}/*.safetensors")
        other = read_lora(runs["fsdp_cpu"] / name / lora.name)
        for key, tensor in read_lora(lora).items():
            assert (other[key] - tensor).norm() <= 1e-2 * tensor.norm(), key
        logs = [pd.read_csv(run / name / "logs/metrics.csv") for run in runs.values()]
        for column in ("val/loss", "val/psnr"):
            first, second = (log[column].dropna().tolist() for log in logs)
            assert first and second == pytest.approx(first, rel=1e-3)
    figures = [read_results(run / "benchmark").figures for run in runs.values()]
    assert figures[1]["value"].tolist() == pytest.approx(
        figures[0]["value"].tolist(), abs=1e-3, nan_ok=True
    )
