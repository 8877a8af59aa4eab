"""What ends several processes on machines that look alright."""

import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from genrefocus.configuration.composing import compose_training, settle_missing
from genrefocus.preflight.cluster import (
    Mount,
    check_locks,
    check_shared_memory,
    check_timeout,
    mount_of,
    shared_bytes,
)

GIB = 1024**3
TABLE = """\
overlay / overlay rw,relatime 0 0
tmpfs /dev/shm tmpfs rw,nosuid 0 0
home:/export /home nfs4 rw,vers=4.2,local_lock=none 0 0
mds@tcp:/lustre /work/my\\040data lustre rw,localflock 0 0
"""


def paper(*overrides: str) -> DictConfig:
    given = ["scale=paper", "experiment=bokeh_synthetic", "trainer=ddp", "trainer.devices=4"]
    given += ["data.sweep=/absent/sweep", "data.synthetic=/absent/synthetic"]
    config = compose_training([*given, *overrides])
    settle_missing(config)
    OmegaConf.resolve(config)
    return config


def test_shared_memory_is_that_of_all_loaders_of_a_machine() -> None:
    batch, image = 4 + 1, 4 * 3 * 512 * 512 * 4
    expected = {"loader processes": 4 * 3 * 2 * batch * image, "NCCL": GIB}
    stage = "stages.bokehnet_synthetic.datamodule.batch_size=4"
    config = paper("trainer.num_nodes=2", "global_batch=32", "data.num_workers=3", stage)
    assert shared_bytes(config) == expected
    assert not any(shared_bytes(compose_training(["experiment=deblur"])).values())
    total = sum(expected.values())
    assert [one.verdict for one in check_shared_memory(expected, total)] == ["ok"]
    (docker,) = check_shared_memory(expected, 64 * 1024**2)
    assert docker.verdict == "warning" and "64.0 MiB free" in docker.detail
    assert not list(check_shared_memory({"NCCL": 0}, 0))


def test_a_batch_of_validation_that_outlasts_the_time_out_is_found() -> None:
    """A scene of the sweep: a loss at five sigmas, and images at four K in 28 steps each."""
    passes = 5 + 4 * 28
    found = check_timeout(paper())
    assert found.verdict == "ok" and f"{passes} passes" in found.detail
    assert f"allows {1800 / passes:.3g} s" in found.detail
    many = check_timeout(paper("data.eval_batch_size=16"))
    assert many.verdict == "warning" and f"{16 * passes} passes" in many.detail
    *_, longer = many.remedy.split(", or ")
    given = check_timeout(paper("data.eval_batch_size=16", longer.strip("'")))
    assert given.verdict == "ok" and "of 240 min" in given.detail


@pytest.mark.parametrize(
    ("mount", "nodes", "verdict"),
    [
        (Mount("/home", "nfs4", {"rw", "local_lock=none"}), 2, "ok"),
        (Mount("/home", "nfs", {"nolock"}), 2, "error"),
        (Mount("/home", "nfs4", {"local_lock=flock"}), 2, "error"),
        (Mount("/work", "lustre", {"localflock"}), 2, "error"),
        (Mount("/work", "lustre", {"localflock"}), 1, "ok"),
        (Mount("/work", "lustre", {"flock"}), 2, "ok"),
        (Mount("/", "ext4", set()), 2, "warning"),
        (Mount("/", "ext4", set()), 1, "ok"),
    ],
)
def test_locks_that_other_machines_do_not_see(
    tmp_path: Path, mount: Mount, nodes: int, verdict: str
) -> None:
    assert check_locks(tmp_path, mount, nodes).verdict == verdict


def test_a_file_system_without_locks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("genrefocus.preflight.cluster.fcntl.flock", refuse)
    found = check_locks(tmp_path, Mount("/work", "lustre", set()), 1)
    assert found.verdict == "error" and "Function not implemented" in found.detail


def test_the_mount_of_a_folder_is_the_longest() -> None:
    kinds = {"/home/me": "nfs4", "/homes": "overlay", "/work/my data/run": "lustre"}
    assert {place: mount_of(Path(place), TABLE).kind for place in kinds} == kinds
    here = mount_of(Path("/proc/self").resolve(), Path("/proc/self/mounts").read_text())
    assert here.kind == "proc"
