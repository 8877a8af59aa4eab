"""What every test runs under: one thread, no network, no tracker, scratch files in a temp folder.

The environment is set before torch and the Hugging Face libraries are imported, because they read
it once, and it reaches the processes that tests start.
"""

import os
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

# One, for the test processes share the cores. TEST_THREADS=2 is how most users compute.
THREADS = os.environ.get("TEST_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = THREADS
os.environ["MKL_NUM_THREADS"] = THREADS
# Where `genrefocus weights` has put the metric weights, also for tests that change HOME.
os.environ.setdefault("TORCH_HOME", str(CACHE / "torch"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.pop("WANDB_API_KEY", None)
# A launcher around the tests must not be mistaken for the launcher of a run under test.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("SLURM_")]:
    del os.environ[name]

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout: the folder of conf/, train.py and eval.py."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    """The smallest backbone there is: 8 px a token, tiles of 4 x 4 tokens."""
    return {
        "transformer": {
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 6, 6),
        },
        "text_tokens": 8,
        "control_gain": 1.0,
        "tile": 4,
        "tile_stride": 3,
        "widths": [8, 8, 8],
        "blocks": [1, 1, 1],
        "radii": [1.5, 3.0],
        "inverse_radii": [1.5],
        "steering": 4,
    }


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what trackers and plotting write out of the checkout and of the home folder."""
    scratch = tmp_path_factory.mktemp("scratch")
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ[name] = str(scratch)


@pytest.fixture(autouse=True)
def _no_global_randomness() -> None:
    """A test that draws from the global generator must not depend on the tests before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
