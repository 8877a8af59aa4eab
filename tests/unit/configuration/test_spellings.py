"""What users of Lightning type works, or is answered by what does it."""

import inspect
import re

import pytest
from lightning import Trainer

from genrefocus.configuration.composing import compose_training
from genrefocus.configuration.spellings import MEANT

WORKS = (
    "trainer.devices=2",
    "trainer.precision=bf16-mixed",
    "trainer.fast_dev_run=true",
    "trainer.limit_val_batches=2",
    "+trainer.num_sanity_val_steps=0",
    "trainer.gradient_clip_val=null",
    "logger=null",
    "~callbacks.ema",
    "+own=3e-4",
    "learning_rate=${own}",
)


def test_what_works() -> None:
    config = compose_training(WORKS)
    options = [key for key in config.trainer if key != "_target_"]
    assert set(options) <= inspect.signature(Trainer).parameters.keys()
    assert config.get("logger") is None and config.learning_rate == 3e-4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trainer.max_steps=9", "stages.<stage>.fit.max_steps=..."),
        ("+trainer.max_steps=9", "stages.<stage>.fit.max_steps=..."),
        ("+trainer.max_epochs=9", "stages.<stage>.fit.max_steps=..."),
        ("+trainer.limit_train_batches=9", "stages.<stage>.fit.max_steps=..."),
        ("+trainer.callbacks=[]", "~callbacks.<name>"),
        ("trainer.accumulate_grad_batches=4", "global_batch=..."),
        ("+stages.deblurnet.fit.accumulate_grad_batches=4", "global_batch=..."),
        ("trainer.strategy=ddp", "trainer=ddp"),
        ("+trainer.strategy=fsdp_cpu_offload", "trainer=fsdp splits"),
        ("ckpt_path=/a/last.ckpt", "resume=<folder of a run>"),
        ("+ckpt_path=/a/last.ckpt", "resume=<folder of a run>"),
        ("tags=[a]", "+logger.wandb.tags="),
        ("lr=0.1", "learning_rate=..."),
        ("max_steps=9", "Did you mean stages.deblurnet.fit.max_steps or"),
        ("num_workers=9", "Did you mean data.num_workers"),
        ("+unheard_of=1", "nothing reads unheard_of"),
        ("backbone.quantise=none", "backbone.quantise=none: give null, int8, fp8 or nf4"),
        ("callbacks=null", "callbacks=null: a run needs this group"),
        ("data=null", "data=null: a run needs this group"),
    ],
)
def test_what_does_not_work_names_what_does(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        compose_training([given])


def test_options_of_the_trainer_are_those_of_lightning() -> None:
    former = {"gpus", "resume_from_checkpoint"}
    names = {key.removeprefix("trainer.") for key in MEANT if key.startswith("trainer.")}
    assert names - former <= inspect.signature(Trainer).parameters.keys()
