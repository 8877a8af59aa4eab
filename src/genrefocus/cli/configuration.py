"""The configuration of ``train.py`` for commands that look at it before a run."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def checkout() -> Path:
    """The folder of train.py and conf/.

    Raises:
        FileNotFoundError: the package was installed without them.
    """
    found = importlib.util.find_spec("train")
    root = Path(found.origin).parent if found and found.origin else Path.cwd()
    if not (root / "conf" / "train.yaml").is_file():
        raise FileNotFoundError(
            f"no conf/train.yaml in {root}; run this command in a checkout after `make setup`"
        )
    return root


def compose_training(overrides: Sequence[str]) -> DictConfig:
    """What ``python train.py OVERRIDES`` would run with, its run folder being ``<outputs>/<name>``.

    Raises:
        ValueError: the overrides do not fit the configuration.
    """
    root = checkout()
    OmegaConf.register_new_resolver("checkout", lambda: str(root), replace=True)
    run = "paths.run=${paths.outputs}/${name}/new"
    try:
        with initialize_config_dir(str(root / "conf"), version_base=None):
            return compose("train", overrides=[run, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the configuration does not compose: {reason}") from error
