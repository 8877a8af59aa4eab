"""Networks in ONNX files that are made here: a weighted sum of the channels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrefocus.estimators import OnnxDepth, OnnxSaliency, Photo

onnx = pytest.importorskip("onnx", reason="the package onnx makes the files")
pytest.importorskip("onnxruntime", reason="extra onnx")

WEIGHTS = np.array([0.5, 0.3, 0.2], np.float32)


def write(
    path: Path,
    *,
    size: tuple[Any, Any] = (12, 16),
    kind: int = onnx.TensorProto.FLOAT,
    last: bool = False,
    sigmoid: bool = False,
    channels: int = 1,
) -> Path:
    """A network that adds up the channels by ``WEIGHTS``, into ``channels`` equal maps."""
    h = onnx.helper
    shape = [1, *size, 3] if last else [1, 3, *size]
    steps, name = [h.make_node("Cast", ["image"], ["a"], to=onnx.TensorProto.FLOAT)], "a"
    if last:
        steps.append(h.make_node("Transpose", [name], ["b"], perm=[0, 3, 1, 2]))
        name = "b"
    steps.append(h.make_node("Conv", [name, "weights"], ["c"]))
    steps.append(h.make_node("Sigmoid" if sigmoid else "Identity", ["c"], ["map"]))
    weights = np.tile(WEIGHTS.reshape(1, 3, 1, 1), (channels, 1, 1, 1))
    graph = h.make_graph(
        steps,
        "sum",
        [h.make_tensor_value_info("image", kind, shape)],
        [h.make_tensor_value_info("map", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def photo(height: int = 12, width: int = 16) -> Photo:
    return Photo("a.jpg", torch.rand(3, height, width), torch.rand(3, height, width))


def read_as(image: torch.Tensor, pixels: str) -> np.ndarray:
    """What the network answers where it reads pixels so, by the words of the documentation."""
    name, _, order = pixels.partition(":")
    x = image.numpy().transpose(1, 2, 0)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    seen = {
        "unit": x,
        "bytes": 255 * x,
        "centred": 2 * x - 1,
        "shifted": x - 0.5,
        "imagenet": (x - mean) / deviation,
    }[name]
    return (seen[..., ::-1] if order == "bgr" else seen) @ WEIGHTS


@pytest.mark.parametrize("pixels", ["unit", "bytes", "centred", "shifted:bgr", "imagenet:bgr"])
@pytest.mark.parametrize("last", [False, True])
def test_pixels_are_read_as_the_option_says(tmp_path: Path, pixels: str, last: bool) -> None:
    file = write(tmp_path / "net.onnx", last=last)
    one = photo()
    [depth] = OnnxDepth(file, pixels=pixels, kind="metric").depth([one])
    np.testing.assert_allclose(depth.numpy(), read_as(one.aif, pixels), rtol=1e-4, atol=1e-4)
    known = OnnxDepth(file, pixels=pixels, kind="metric").name
    assert known.startswith("net.onnx (sha256 ") and known.endswith("), metric")


def test_relative_answers_are_spread_over_the_range(tmp_path: Path) -> None:
    file = write(tmp_path / "net.onnx")
    one = photo()
    answer = read_as(one.aif, "unit")
    part = (answer - answer.min()) / (answer.max() - answer.min())
    for kind, expected in (
        ("relative_disparity", 1 / (1 / 20 + part * (1 / 2 - 1 / 20))),
        ("relative_depth", 2 + part * 18),
    ):
        network = OnnxDepth(file, pixels="unit", kind=kind, range=[2, 20])
        [depth] = network.depth([one])
        np.testing.assert_allclose(depth.numpy(), expected, rtol=1e-4)
        assert network.name.endswith(f"), {kind}, assumed from 2 to 20 m")


def test_any_size_goes_in_and_comes_out(tmp_path: Path) -> None:
    """An image that varies along one axis alone stays so, from corner to corner."""
    ramp = torch.linspace(0, 1, 48).expand(3, 30, 48)
    fixed = write(tmp_path / "fixed.onnx")
    floating = write(tmp_path / "open.onnx", size=("h", "w"), kind=onnx.TensorProto.FLOAT16)
    whole = write(tmp_path / "bytes.onnx", kind=onnx.TensorProto.UINT8, last=True)
    for file, pixels, white in (
        (fixed, "unit", 1),
        (floating, "unit:24x20", 1),
        (whole, None, 255),
    ):
        [depth] = OnnxDepth(file, pixels=pixels, kind="metric").depth([Photo("a", ramp, ramp)])
        assert depth.shape == (30, 48)
        assert (depth - ramp[0] * white).abs().max() < 0.04 * white


def test_saliency_is_a_probability(tmp_path: Path) -> None:
    one = photo()
    file = write(tmp_path / "net.onnx", sigmoid=True)
    [found] = OnnxSaliency(file, pixels="centred").mask([one])
    assert np.array_equal(found.region.numpy(), read_as(one.image, "centred") >= 0)
    assert found.origin.startswith("net.onnx (sha256 ")
    with pytest.raises(ValueError, match=r"net.onnx answers .*; export it with its sigmoid"):
        OnnxSaliency(write(file), pixels="bytes").mask([one])


def test_what_is_wrong_with_a_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="does not say how it reads pixels: give unit, bytes, "):
        OnnxDepth(file, kind="metric")
    with pytest.raises(ValueError, match="pixels 'rgb': give unit"):
        OnnxDepth(file, pixels="rgb", kind="metric")
    with pytest.raises(ValueError, match=r"reads 16x12 px \(WxH\), not unit:9x9"):
        OnnxDepth(file, pixels="unit:9x9", kind="metric")
    with pytest.raises(ValueError, match="net.onnx does not say what it answers"):
        OnnxDepth(file, pixels="unit")
    with pytest.raises(ValueError, match="net.onnx answers relative_depth, which has no metres"):
        OnnxDepth(file, pixels="unit", kind="relative_depth")
    with pytest.raises(ValueError, match=r"nor at which size: .*state its kind, .*NEAR,FAR"):
        OnnxDepth(write(tmp_path / "free.onnx", size=("h", "w")))
    free = write(tmp_path / "free.onnx", size=("h", "w"))
    with pytest.raises(ValueError, match="leaves its size open .*: give unit:WxH"):
        OnnxDepth(free, pixels="unit", kind="metric")
    two = write(tmp_path / "two.onnx", channels=2)
    with pytest.raises(ValueError, match=r"shape \[1, 2, 12, 16\]; export it with one map of sal"):
        OnnxSaliency(two, pixels="unit").mask([photo()])
    wide = write(tmp_path / "wide.onnx", kind=onnx.TensorProto.DOUBLE)
    with pytest.raises(ValueError, match=r"reads tensor\(double\) \[1, 3, 12, 16\]; a network of"):
        OnnxSaliency(wide, pixels="unit")
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match="text.onnx is no network that onnxruntime can run"):
        OnnxSaliency(tmp_path / "text.onnx", pixels="unit")
    with pytest.raises(FileNotFoundError, match="none.onnx does not exist"):
        OnnxSaliency(tmp_path / "none.onnx", pixels="unit")
