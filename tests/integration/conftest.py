"""Overrides that make train.py small enough for a test, and a run whose answers are known."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch

from genrefocus.backbone import Lora
from genrefocus.backbone.tiny import build_tiny, save_tiny
from genrefocus.cli import verify_resume
from genrefocus.flow import Flow
from genrefocus.network_card import BackboneSource, NetworkCard, write_network_card
from tests.warm import Python


@pytest.fixture(scope="session", autouse=True)
def _warm_runs() -> Iterator[None]:
    """Runs that ``genrefocus verify-resume`` starts, and tests by its functions, start warm."""

    def start(command: list[str], *, stdout: IO[bytes], **_: object) -> Python:
        return Python(*command[1:], out=Path(stdout.name))

    with pytest.MonkeyPatch.context() as patch:
        warm = SimpleNamespace(Popen=start, STDOUT=subprocess.STDOUT)
        patch.setattr(verify_resume, "subprocess", warm)
        yield


@pytest.fixture(scope="session")
def tiny_training(
    tmp_path_factory: pytest.TempPathFactory, tiny_settings: dict[str, Any]
) -> list[str]:
    """DeblurNet on an untrained backbone and 12 pairs of 32 px, which the first run makes."""
    folder = tmp_path_factory.mktemp("tiny_training")
    base = folder / "base.safetensors"
    save_tiny(build_tiny(**tiny_settings), base, settings=tiny_settings, card={})
    counts = (
        "{deblur:{train:12,val:2,test:2},synthetic:{train:2,val:2,test:2},"
        "sweep:{val:2,test:2},camera_roll:{train:2},point_lights:{train:4,val:2,test:2}}"
    )
    return [
        "experiment=deblur",
        f"backbone.path={base}",
        f"paths.data={folder}/data",
        f"+data.build.counts={counts}",
        "data.build.size=32",
        "data.build.workers=0",
        "data.crop=32",
        "trainer.log_every_n_steps=1",
        "stages.deblurnet.module.rank=4",
        "stages.deblurnet.fit.val_check_interval=4",
    ]


@pytest.fixture(scope="session")
def write_echo_run(tiny_settings: dict[str, Any]) -> Callable[[Path, Path], None]:
    """Writes a run, and its base, whose networks return what they are given.

    The base's last layers are zero, and its output is added to the photograph.
    """

    def write(run: Path, base: Path) -> None:
        backbone = build_tiny(**tiny_settings)
        path = backbone.transformer.pixel_path
        for weights in (*path.last.parameters(), *path.mix.parameters()):
            torch.nn.init.zeros_(weights)
        save_tiny(backbone, base, settings=tiny_settings, card={})
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("trial: false")
        for task in ("deblur", "bokeh"):
            stage = run / task
            stage.mkdir()
            generator = torch.Generator().manual_seed(0)
            lora = Lora.for_transformer(backbone.transformer, 2, generator=generator)
            lora.save(stage / f"{task}Net.safetensors")
            card = NetworkCard(
                task=task,  # type: ignore[arg-type]
                backbone=BackboneSource("tiny", str(base)),
                flow=Flow("residual"),
                prompt="a photo",
                guidance=1.0,
                steps=2,
                rank=2,
                lora=f"{task}Net.safetensors",
            )
            write_network_card(stage, card)

    return write
