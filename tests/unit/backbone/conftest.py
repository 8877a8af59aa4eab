"""Programs of ``torch.compile`` that are counted, and a group of one process."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from genrefocus.backbone import branches


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many were made since it was asked last. They are run by torch's eager backend."""
    counter, before = CompileCounter(), [0]
    torch.compiler.reset()
    counters.clear()
    branches._compiled.cache_clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))

    def made() -> int:
        assert not counters["graph_break"]
        before.append(counter.frame_count)
        return before[-1] - before[-2]

    yield made
    branches._compiled.cache_clear()
    torch.compiler.reset()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()
