"""Evaluate a run: ``python eval.py run=<folder>`` (or ``run=latest``).

Every stage's network is measured again on its test sets, beside doing nothing and beside the
classical floor, and so is the chain of both networks. The run's own configuration is used;
``+overrides.<key>=<value>`` changes it.
"""

import genrefocus  # noqa: F401 (first: it turns away a Python that Hydra fails on)

# isort: split
import json
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import (
    require_kinds,
    run_application,
    trained,
    wrong_input_ends,
)
from genrefocus.runs import CONFIG, FINISHED, first_process, latest_of
from genrefocus.terminal import quiet_libraries
from genrefocus.writing import write_json

# Torch and what needs it are imported in functions: a wrong override must not wait for them.

quiet_libraries()

USAGE = f"""usage: python eval.py [run=FOLDER] [outputs=FOLDER] [+overrides.KEY=VALUE ...]

{__doc__}"""


@hydra.main(version_base=None, config_path="conf", config_name="eval")
def main(config: DictConfig) -> None:
    """Print the table and write ``<run>/evaluation.json``; exit status 2 for wrong input."""
    with wrong_input_ends("eval.py"):
        require_kinds(config)
        evaluate(config)


def evaluate(config: DictConfig) -> None:
    """Test all networks of a run.

    Raises:
        FileNotFoundError: no such run, or it has no trained network.
    """
    run = _latest(Path(config.outputs)) if config.run == "latest" else Path(config.run)
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(f"{run} is no run of train.py: it has no {CONFIG}")
    from genrefocus.backbone.lora import read_lora
    from lit_models import DeblurNet
    from lit_models.callbacks import Pictures
    from lit_models.figures import (
        CONSOLE,
        by_method,
        device_of,
        last_bokeh,
        measure_chain,
        summary_table,
        test_pairs,
    )

    text = (run / CONFIG).read_text()
    before = yaml.safe_load(text)["paths"]["run"]  # the run may have been moved
    own = OmegaConf.create(text.replace(f"{before}/", f"{run.absolute()}/"))
    settings: Any = OmegaConf.merge(own, config.overrides)
    backbone = instantiate(settings.backbone)
    results = {}
    for name, stage in trained(settings).items():
        if not (run / name / FINISHED).is_file():
            continue
        network = instantiate(stage.module)(backbone, failure_dir=run)
        network.lora.load_released_state(
            read_lora(run / name / network.lora_file), source=str(run / name)
        )
        data = instantiate(stage.datamodule)
        backbone.prompts.learn({network.prompt, *data.prompts()}, device_of(settings))
        if isinstance(network, DeblurNet):
            network.fit_floor(*test_pairs(data))
        trainer = instantiate(
            settings.trainer,
            logger=False,
            callbacks=[Pictures(run / name / "evaluation")],
            enable_checkpointing=False,
            enable_progress_bar=False,
            default_root_dir=str(run),
        )
        measured = trainer.test(network, datamodule=data, verbose=False)[0]
        results[name] = {"stage": name, **by_method(measured)}
    if not results:
        raise FileNotFoundError(f"{run} has no finished network to evaluate; train.py resume={run}")
    if not first_process():
        return
    if (bokeh := last_bokeh(results)) is not None:
        sheet = run / "chain" / "evaluation.png"
        results["chain"] = measure_chain(settings, run, backbone, bokeh, sheet)
    write_json(run / "evaluation.json", results)
    CONSOLE.print(summary_table(f"evaluation of {run.name}", results))
    print(json.dumps({"evaluation": str(run / "evaluation.json")}))


def _latest(outputs: Path) -> Path:
    """The run with a finished network that was written to last."""

    def usable(run: Path) -> bool:
        return any((file.parent / "network.json").is_file() for file in run.glob(f"*/{FINISHED}"))

    run = latest_of(outputs, usable, "a network")
    if first_process():
        print(f"evaluating {run}")
    return run


if __name__ == "__main__":
    run_application(main, "eval.py", "eval", USAGE)
