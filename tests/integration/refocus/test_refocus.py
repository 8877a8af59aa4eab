"""``genrefocus refocus`` from file to file, with networks that return what they are given."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
from PIL import Image

from genrefocus.backbone import Lora
from genrefocus.backbone.tiny import build_tiny
from genrefocus.cli import main
from genrefocus.data.images import load_image
from genrefocus.denoiser import Conditions, Denoiser
from genrefocus.pipeline import BeyondTraining, RefocusPipeline

HEIGHT, WIDTH = 40, 57


def read(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image).astype(int)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


BASIC = ["refocus", "photo.png", "--depth", "depth.npy"]
K = ["--k", "3", "-o", "out.png"]
FOCUS = ["--focus", "1,1", *K]


def test_a_photograph_of_any_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*BASIC, "--focus", "50,3", "--k", "8", "-o", "out.png"]
    assert main([*command, "--save-aif", "aif.jpg", "--save-map", "map.png"]) == 0
    (line,) = lines(capsys)
    assert line.pop("seconds") > 0
    assert Path(line.pop("network")).is_file()
    assert line == {
        "output": "out.png",
        "focus_disparity": 0.25,
        "k": 8.0,
        "size": [WIDTH, HEIGHT],
    }
    # 57 px go to 64 and back; nothing else happens to the image.
    assert np.abs(read("out.png") - read("photo.png")).max() <= 3
    assert read("aif.jpg").shape == (HEIGHT, WIDTH, 3)
    defocus = read("map.png")
    assert (defocus[:, : WIDTH // 2] == round(8 * 0.75 / 100 * 65535)).all()
    assert (defocus[:, WIDTH // 2 :] == 0).all()
    assert not list(Path().glob("*.partial"))


def test_a_sweep_writes_one_image_for_each_k(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*BASIC, "--mask", "mask.png", "--k", "0,2.5,15", "-o", "out.png", "--no-deblur"]
    assert main([*command, "--save-map", "map.png", "--run", "outputs/semi_supervised/one"]) == 0
    found = lines(capsys)
    assert [line["output"] for line in found] == ["out_k0.png", "out_k2.5.png", "out_k15.png"]
    assert [line["focus_disparity"] for line in found] == [0.25] * 3
    assert all(Path(line["output"]).is_file() for line in found)
    highest = [int(read(f"map_k{k}.png").max()) for k in ("0", "2.5", "15")]
    assert highest == [round(k * 0.75 / 100 * 65535) for k in (0, 2.5, 15)]


def test_depth_and_subject_of_onnx_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Networks that answer with red: relative disparity of an assumed range, and the subject."""
    onnx = pytest.importorskip("onnx", reason="the package onnx makes the files")
    pytest.importorskip("onnxruntime", reason="extra onnx")
    h, kind = onnx.helper, onnx.TensorProto.FLOAT
    whole = [1, 3, HEIGHT, WIDTH]
    red = onnx.numpy_helper.from_array(np.array([0], np.int64), "red")
    graph = h.make_graph(
        [h.make_node("Gather", ["image", "red"], ["map"], axis=1)],
        "red",
        [h.make_tensor_value_info("image", kind, whole)],
        [h.make_tensor_value_info("map", kind, [1, 1, *whole[2:]])],
        [red],
    )
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), "red.onnx")
    seen = read("photo.png")[..., 0]
    part = (seen - seen.min()) / (seen.max() - seen.min())
    disparity = 1 / 20 + part * (1 / 2 - 1 / 20)
    command = ["refocus", "photo.png", "--no-deblur", "--k", "8", "-o", "out.png"]
    command += ["--depth-model", "red.onnx", "--depth-pixels", "unit", "--depth-range", "2,20"]
    command += ["--depth-kind", "relative_disparity"]
    subject = ["--subject", "--subject-model", "red.onnx", "--subject-pixels", "unit"]
    for focus, expected in (
        (["--focus", "50,3"], disparity[3, 50]),
        (subject, np.sort(disparity[seen >= 128])[(seen >= 128).sum() // 2]),
    ):
        assert main([*command, *focus]) == 0
        (line,) = lines(capsys)
        assert line["focus_disparity"] == pytest.approx(expected, rel=0.02)
        assert line["depth"].startswith("red.onnx (sha256 ")
        assert line["depth"].endswith("), relative_disparity, assumed from 2 to 20 m")
    Image.new("RGB", (WIDTH, HEIGHT), "navy").save("dark.png")
    assert main(["refocus", "dark.png", "--depth", "depth.npy", *K, *subject]) == 2
    assert "finds no subject; name what shall be sharp" in capsys.readouterr().err


def test_both_networks_take_a_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    encode = Denoiser.encode

    def spied(self: Denoiser, conditions: Conditions, *given: Any) -> Any:
        asked.append(tuple(conditions.prompts))
        return encode(self, conditions, *given)

    monkeypatch.setattr(Denoiser, "encode", spied)
    command = [*BASIC, "--focus", "50,3", "--k", "8", "-o", "out.png"]
    assert main([*command, "--deblur-prompt", 'it says "EXIT"', "--bokeh-prompt", "at night"]) == 0
    assert asked == [('it says "EXIT"',), ("at night",)]


def test_values_of_k_that_are_nearly_equal_have_files_of_their_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*BASIC, "--focus", "1,1", "--k", "10.00001,10.00002,1e-7", "-o", "out.png"]
    assert main([*command, "--no-deblur"]) == 0
    found = [line["output"] for line in lines(capsys)]
    assert found == ["out_k10.00001.png", "out_k10.00002.png", "out_k1e-07.png"]
    assert all(Path(name).is_file() for name in found)


def test_depth_of_another_size_is_resized_with_a_notice(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("large.npy", np.load("depth.npy").repeat(3, 0).repeat(3, 1))
    command = ["refocus", "photo.png", "--depth", "large.npy", "--no-deblur", *K]
    assert main([*command, "--focus", "50,3"]) == 0
    printed = capsys.readouterr()
    assert "notice: large.npy is resized from 171x120 to 57x40 px (WxH), nearest" in printed.err
    assert json.loads(printed.out)["focus_disparity"] == 0.25


def test_orientation_is_applied_once_and_colours_become_srgb(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open("photo.png") as upright:
        stored = upright.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it back
        adobe = {piexif.ExifIFD.ColorSpace: 2}
        for name, exposure in (("turned.jpg", {}), ("adobe.jpg", adobe)):
            exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}, "Exif": exposure})
            stored.save(name, exif=exif, quality=98, subsampling=0)
    for name in ("turned.jpg", "adobe.jpg"):
        command = ["refocus", name, "--depth", "depth.npy", "--focus", "56,39", "--k", "3"]
        assert main([*command, "-o", f"of_{name}", "--no-deblur"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["focus_disparity"] == 0.25
        with Image.open(f"of_{name}") as out:
            assert out.getexif().get(0x0112, 1) == 1
            assert out.getexif().get_ifd(34665).get(40961, 1) == 1
            # What was converted says that it is sRGB now.
            assert ("icc_profile" in out.info) == (name == "adobe.jpg")
        said = "notice: adobe.jpg: colours are converted from Adobe RGB to sRGB"
        assert (said in printed.err) == (name == "adobe.jpg")
    assert np.abs(read("of_turned.jpg") - read("photo.png")).mean() < 3
    expected = (load_image("adobe.jpg").permute(1, 2, 0).numpy() * 255).astype(int)
    assert np.abs(read("of_adobe.jpg") - expected).mean() < 3
    assert np.abs(read("of_adobe.jpg") - read("of_turned.jpg")).mean() > 3


def test_long_edge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sides are multiples of 8 px; what more than 1 % is cropped for is said."""
    for edge, size in (("32", [32, 16]), ("24", [24, 16])):
        command = [*BASIC, "--focus", "0,0", "--k", "3", "-o", "out.png", "--long-edge", edge]
        assert main(command) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["size"] == size
        assert read("out.png").shape == (*size[::-1], 3)
        said = (
            "notice: photo.png: of 32x22 px at --long-edge 32 the middle, 32x16 px (WxH), is kept"
        )
        assert (said in printed.err, "--long-edge 24 keeps" in printed.err) == (edge == "32",) * 2


def test_a_photograph_of_many_tiles_is_told_of(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 8 px a token, tiles of 4 x 4 tokens every 3: 9 x 8 of them."""
    Image.open("photo.png").resize((208, 200)).save("photo.png")
    np.save("depth.npy", np.linspace(1, 4, 208 * 200, dtype=np.float32).reshape(200, 208))
    command = [*BASIC, "--focus", "0,0", "--no-deblur", "--k", "3", "-o", "out.png"]
    said = "notice: photo.png: the networks work at its own size, 208x200 px (WxH), in 72 tiles"
    for given in ([], ["--long-edge", "64"]):
        assert main([*command, *given]) == 0
        assert (said in capsys.readouterr().err) == (not given)


def test_the_shape_of_the_aperture_needs_a_second_lora(
    folder: Path, tiny_settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*BASIC, "--focus", "50,3", "--k", "8", "-o", "out.png", "--aperture"]
    assert main([*command, "heart"]) == 2
    said = capsys.readouterr().err
    assert "no second LoRA" in said and "experiment=aperture_shape" in said
    assert said.count("\n") == 1
    other = Path("outputs/aperture_shape/two")
    stage = shutil.copytree("outputs/semi_supervised/one/bokeh", other / "bokehnet_shape")
    transformer = build_tiny(**tiny_settings).transformer
    Lora.for_transformer(transformer, 2, shaped=True).save(stage / "apertureShape.safetensors")
    card = json.loads((stage / "network.json").read_text())
    card["shape_lora"] = "apertureShape.safetensors"
    (stage / "network.json").write_text(json.dumps(card))
    Image.fromarray(np.tri(40, dtype=np.uint8) * 255).save("corner.png")
    assert main([*command, "heart", "--run", str(other)]) == 2
    assert "no DeblurNet" in (said := capsys.readouterr().err) and "name a run" in said
    for shape, name in (("star:6", "star6"), ("hexagon:7", "polygon7"), ("corner.png", "corner")):
        turned = ["--rotation", "20"] if name == "star6" else []
        assert main([*command, shape, *turned, "--run", "latest", "--run", str(other)]) == 0
        (line,) = lines(capsys)
        assert line["aperture"] == name and str(other) in line["network"]


def write_photo_of_a_50_mm_lens() -> None:
    lens = {
        piexif.ExifIFD.FocalLength: (50, 1),
        piexif.ExifIFD.FNumber: (2, 1),
        piexif.ExifIFD.FocalLengthIn35mmFilm: 50,
    }
    with Image.open("photo.png") as image:
        image.save("photo.jpg", exif=piexif.dump({"Exif": lens}), quality=95)


def test_f_numbers_are_those_of_eq_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At 4 m, from the photograph's EXIF or a stated lens; K and F-number are both printed."""
    write_photo_of_a_50_mm_lens()

    def at_f1(focal: float, sensor: float) -> float:
        return focal**2 / 2 / (1 - focal * 0.25) * WIDTH / sensor

    stated = ["--focal-length", "85", "--sensor-width", "24"]
    photo = ["refocus", "photo.jpg", "--depth", "depth.npy", "--no-deblur", "-o", "out.png"]
    for focus, lens, f1 in (
        (["--focus", "50,3"], [], at_f1(0.05, 0.036)),
        (["--focus-distance", "4"], stated, at_f1(0.085, 0.024)),
        (["--mask", "mask.png"], stated[:2], at_f1(0.085, 0.036)),
    ):
        assert main([*photo, *focus, *lens, "--f-number", "1.4,8"]) == 0
        found = lines(capsys)
        assert [line["output"] for line in found] == ["out_f1.4.png", "out_f8.png"]
        assert [line["k"] for line in found] == pytest.approx([f1 / 1.4, f1 / 8])
        assert [line["f_number"] for line in found] == [1.4, 8.0]
    # A lens that cannot focus there has no F-number, which K does not need.
    assert main([*photo, "--focus-distance", "0.04", "--k", "3"]) == 0
    assert "f_number" not in lines(capsys)[0]
    assert main([*photo, "--focus", "50,3", "--k", f"0,{at_f1(0.05, 0.036) / 2}"]) == 0
    assert [line.get("f_number") for line in lines(capsys)] == [None, 2.0]


def test_pulls_are_even_in_disparity_and_in_k(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, float]] = []
    refocus = RefocusPipeline.refocus

    def noted(self: Any, scene: Any, strength: Any, **more: Any) -> Any:
        asked.append((scene.focus_disparity, strength.k))
        return refocus(self, scene, strength, **more)

    monkeypatch.setattr(RefocusPipeline, "refocus", noted)
    basic = [*BASIC, "--no-deblur", "--focus", "50,3", "--frames", "4"]
    lens = ["--focal-length", "50", "--sensor-width", "36"]
    at_f1 = 0.05**2 / 2 / (1 - 0.05 * 0.25) * WIDTH / 0.036
    for given, planes, blurs in (
        (["--k", "8", "--focus-to", "3,3"], [0.25, 0.5, 0.75, 1.0], [8.0] * 4),
        (["--k", "0:6"], [0.25] * 4, [0.0, 2.0, 4.0, 6.0]),
        (
            [*lens, "--f-number", "8:2"],
            [0.25] * 4,
            [at_f1 / 8, at_f1 / 4, at_f1 * 3 / 8, at_f1 / 2],
        ),
    ):
        assert main([*basic, *given, "-o", "out.gif"]) == 0
        (line,) = lines(capsys)
        assert (line["output"], line["frames"]) == ("out.gif", 4)
        assert [plane for plane, _ in asked] == pytest.approx(planes)
        assert [k for _, k in asked] == pytest.approx(blurs)
        asked.clear()
    assert Path("out.gif").is_file()


def test_what_deblurnet_was_told_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K of the source as given, by Eq. 3 of its own EXIF, or none."""
    card = folder / "outputs/semi_supervised/one/deblur/network.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "variant": "told"}))
    write_photo_of_a_50_mm_lens()
    own = 0.05 * 0.025 / 2 / (1 - 0.05 * 0.25) * WIDTH / 0.036
    for photo, given, expected in (
        ("photo.png", [], {"blind": "no_exif"}),
        ("photo.jpg", ["--source-k", "none"], {"blind": "not told"}),
        (
            "photo.png",
            ["--source-k", "4", "--source-focus", "1,1"],
            {"k": 4.0, "focus_disparity": 1.0, "from": "given"},
        ),
        (
            "photo.jpg",
            ["--source-focus", "50,1"],
            {"k": round(own, 4), "focus_disparity": 0.25, "from": "exif"},
        ),
    ):
        assert main(["refocus", photo, "--depth", "depth.npy", *FOCUS, *given]) == 0
        assert lines(capsys)[0]["source"] == expected
    for given, message in (
        (["--source-k", "auto", "--source-focus", "1,1"], "or --source-k none to deblur blind"),
        (["--source-focus", "1,1"], "give its K with --source-k K"),
        (["--source-k", "4", "--source-focus", "99,1"], "lies outside"),
    ):
        assert main([*BASIC, *FOCUS, *given]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(("k", "restored"), [(4, 1.3), (4, None), (3, 1.3)])
def test_blur_that_deblurnet_cannot_take_away_is_told_of(
    folder: Path, k: float, restored: float | None, recwarn: pytest.WarningsRecorder
) -> None:
    """The right half lies 0.75 1/m behind the plane of focus: 3 and 2.25 px of blur."""
    run = folder / "outputs/semi_supervised/one"
    for network, fact in (
        ("deblur", {"variant": "told"}),
        ("bokeh", {"restored_radius": restored}),
    ):
        card = run / network / "network.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), **fact}))
    assert main([*BASIC, *FOCUS, "--source-k", str(k), "--source-focus", "1,1"]) == 0
    said = [str(one.message) for one in recwarn if one.category is BeyondTraining]
    if (k, restored) == (4, 1.3):
        (only,) = said
        assert "a radius of 3.0 px (K 4), and DeblurNet takes no more than 1.3 px away" in only
    else:
        assert not said
