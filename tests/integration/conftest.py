"""Overrides that make train.py small enough for a test."""

from typing import Any

import pytest

from genrefocus.backbone.flux import build_tiny, save_tiny


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
        "sweep:{val:2,test:2},camera_roll:{train:2}}"
    )
    return [
        "experiment=deblur",
        f"backbone.path={base}",
        f"paths.data={folder}/data",
        f"+data.build.counts={counts}",
        "data.build.size=32",
        "data.build.workers=0",
        "data.crop=32",
        "print_config=false",
        "trainer.log_every_n_steps=1",
        "stages.deblurnet.module.rank=4",
        "stages.deblurnet.fit.val_check_interval=8",
    ]
