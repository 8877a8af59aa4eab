"""What all stages share: name, folder, settings, and the record that a resumed run is held to."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from genrefocus.backbone import Backbone
from genrefocus.runs import StageRecord
from genrefocus.terminal import counted
from lit_models.ranks import Ranks

CONSOLE = Console()


class Stage(ABC):
    """One stage of the curriculum.

    A subclass takes the keys of its file in ``conf/stage`` as keyword arguments, as
    configurations: what they describe is built when the stage runs.

    Args:
        name: of the stage; a key of ``stages`` in the configuration.
        config: of the whole run.
        folder: of the stage.
    """

    def __init__(self, name: str, config: DictConfig, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.config = copy.deepcopy(config)
        self.config.stage_folder = str(folder)  # which callbacks and loggers write to
        self.record = StageRecord(folder, self._settings(), checkout=config.paths.root)

    def _settings(self) -> dict[str, Any]:
        """All that the stage depends on, resolved."""
        own = self.config.stages[self.name]
        parts = ("backbone", "trainer", "callbacks") if "fit" in own else ("backbone",)
        settings: Any = OmegaConf.to_container(own, resolve=True)
        for part in parts:
            settings[part] = OmegaConf.to_container(self.config[part], resolve=True)
        return dict(settings)

    @abstractmethod
    def prompts(self) -> set[str]:
        """Prompts that the stage encodes."""

    @abstractmethod
    def run(self, backbone: Backbone, ranks: Ranks) -> None:
        """Do the work, from where an earlier run was interrupted, and write the summary last.

        Args:
            backbone: the frozen network of the run.
            ranks: this process among those of the run.
        """


def build_stages(config: DictConfig, folder: Path) -> list[Stage]:
    """The stages of the curriculum of a run.

    Args:
        config: of the run.
        folder: of the run; each stage has its own in it.
    """
    return [
        instantiate(config.stages[name], _partial_=True, _recursive_=False)(
            name=name, config=config, folder=folder / name
        )
        for name in config.curriculum
    ]


def learn_prompts(stages: Sequence[Stage], backbone: Backbone, ranks: Ranks, name: str) -> None:
    """Compute the embeddings of all prompts of stages and of their sets, on the first rank.

    No text encoder is in memory afterwards. Sets that an earlier stage has yet to make are left
    out, as are those of finished stages. A backbone without a folder of embeddings encodes as it
    goes, which costs nothing.
    """
    if backbone.prompts.folder is None:
        return
    with ranks.together(name):
        if ranks.rank == 0:
            found = {prompt for stage in stages for prompt in stage.prompts()}
            if count := backbone.prompts.learn(found, ranks.device):
                place = escape(str(backbone.prompts.folder))
                CONSOLE.print(f"encoded {counted(count, 'prompt')}, see {place}", soft_wrap=True)
