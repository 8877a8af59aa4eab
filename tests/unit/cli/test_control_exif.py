"""The control and exif commands: strict JSON on stdout, one clear line for wrong input."""

import json

import numpy as np
import piexif
import pytest
from PIL import Image

from genrefocus.cli import main


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def json_lines(text: str) -> list[dict]:
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A folder to work in: a 6x4 px (WxH) image, depth 1 m left and 4 m right, left mask."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (6, 4), "grey").save("photo.png")
    depth = np.ones((4, 6), np.float32)
    depth[:, 3:] = 4
    np.save("depth.npy", depth)
    Image.fromarray(np.where(depth == 1, 255, 0).astype(np.uint8)).save("mask.png")
    return tmp_path


CONTROL = ["control", "photo.png", "--depth", "depth.npy"]


def test_control_by_mask_and_by_point_in_closed_form(scene, capsys):
    for focus, d_f in ((["--mask", "mask.png"], 1.0), (["--focus", "5,0"], 0.25)):
        assert main([*CONTROL, *focus, "--k", "20"]) == 0
        (line,) = json_lines(capsys.readouterr().out)
        assert line == pytest.approx(
            {"focus_disparity": d_f, "k": 20.0, "mean": 0.075, "max": 0.15, "p99": 0.15}
        )


def test_control_writes_the_map_at_16_bit(scene, capsys):
    assert main([*CONTROL, "--focus", "0,0", "--k", "20", "--save-map", "map.png"]) == 0
    with Image.open("map.png") as image:
        values = np.array(image)
    assert values.dtype == np.uint16
    expected = np.zeros((4, 6), np.uint16)
    expected[:, 3:] = round(0.15 * 65535)
    np.testing.assert_array_equal(values, expected)


def test_control_accepts_k_zero_of_the_sweep(scene, capsys):
    assert main([*CONTROL, "--focus", "0,0", "--k", "0"]) == 0
    (line,) = json_lines(capsys.readouterr().out)
    assert (line["mean"], line["max"], line["p99"]) == (0, 0, 0)


def test_control_works_on_the_upright_image(scene, capsys):
    exif = piexif.dump({"0th": {piexif.ImageIFD.Orientation: 6}})
    Image.new("RGB", (4, 6)).save("turned.jpg", exif=exif)
    turned = ["control", "turned.jpg", "--depth", "depth.npy", "--focus", "5,3", "--k", "1"]
    assert main(turned) == 0
    assert json_lines(capsys.readouterr().out)[0]["focus_disparity"] == 0.25


def test_control_resizes_depth_and_mask_of_the_same_proportions(scene, capsys):
    np.save("small.npy", np.array([[1.0, 4.0, 4.0], [1.0, 4.0, 4.0]]))
    Image.fromarray(np.array([[0, 0, 255]] * 2, np.uint8)).save("small.png")
    command = ["control", "photo.png", "--depth", "small.npy", "--k", "20"]
    for focus in (["--focus", "2,3"], ["--mask", "small.png"]):
        assert main([*command, *focus]) == 0
        printed = capsys.readouterr()
        assert json_lines(printed.out)[0]["focus_disparity"] == 0.25
        notices = printed.err.splitlines()
        assert notices[0] == "notice: small.npy is resized from 3x2 to 6x4 px (WxH), nearest"
        assert len(notices) == (2 if "--mask" in focus else 1)
    np.save("other.npy", np.array([[1.0, 4.0, 4.0, 4.0, 4.0]] * 2))
    command[command.index("small.npy")] = "other.npy"
    assert main([*command, "--focus", "2,3"]) == 2
    error = capsys.readouterr().err
    assert "other.npy is 5x2 px but the image is 6x4 px" in error and error.count("\n") == 1


def test_depth_that_may_be_in_millimetres_is_noticed(scene, capsys):
    np.save("mm.npy", np.load("depth.npy") * 1000)
    command = ["control", "photo.png", "--depth", "mm.npy", "--focus", "0,0", "--k", "20"]
    assert main(command) == 0
    assert capsys.readouterr().err.startswith("notice: mm.npy: half of the depth is beyond 1000 m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--focus", "6,0", "--k", "1"], "6x4 px"),
        (["--focus", "a,b", "--k", "1"], "X,Y"),
        (["--focus", "0,0", "--k", "-1"], "--k: '-1': give a number, 0 or more"),
        (["--focus", "0,0", "--k", "nan"], "give a number"),
        (["--mask", "absent.png", "--k", "1"], "absent.png does not exist"),
        (
            ["--mask", "depth.npy", "--k", "1"],
            "not_an_image (starts with '93 4e 55 4d'): depth.npy",
        ),
        (["--mask", "black.png", "--k", "1"], "empty_mask (0): black.png"),
        (["--mask", "large.png", "--k", "1"], "8x8"),
        (["--focus", "0,0", "--k", "1", "--save-map", "map.jpg"], ".png"),
        (["--focus", "0,0", "--k", "1", "--save-map", "absent/map.png"], "absent"),
    ],
)
def test_control_names_wrong_input_in_one_line(scene, capsys, arguments, message):
    Image.new("L", (6, 4)).save("black.png")
    Image.new("L", (8, 8), 255).save("large.png")
    assert main([*CONTROL, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.full((4, 6), 2.0), "depth_without_spread"),
        (np.array([[1, np.nan] * 3] * 4), "non_finite (12)"),
        (np.ones((4, 6), np.uint16), "uint16"),
        (np.ones((1, 4, 6)), "2-D"),
        (b"not an array", "wrong.npy is no whole .npy array"),
        (b"PK\x03\x04" + bytes(40), "wrong.npy is no whole .npy array"),  # the start of an .npz
        (b"\x93NUMPY\x01\x00", "wrong.npy is no whole .npy array"),
    ],
)
def test_control_names_wrong_depth_in_one_line(scene, capsys, depth, message):
    if isinstance(depth, bytes):
        (scene / "wrong.npy").write_bytes(depth)
    else:
        np.save("wrong.npy", depth)
    command = ["control", "photo.png", "--depth", "wrong.npy", "--focus", "0,0", "--k", "1"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and "wrong.npy" in error and error.count("\n") == 1


@pytest.mark.parametrize("image", ["absent.png", "depth.npy", "cut.png"])
def test_control_names_a_wrong_image_in_one_line(scene, capsys, image):
    (scene / "cut.png").write_bytes((scene / "photo.png").read_bytes()[:50])
    command = ["control", image, "--depth", "depth.npy", "--focus", "0,0", "--k", "1"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert image in error and error.count("\n") == 1


def test_exif_prints_a_line_for_every_file_and_goes_on(scene, capsys):
    exif = {
        "0th": {piexif.ImageIFD.Make: b"Canon", piexif.ImageIFD.Model: b"Canon EOS 7D"},
        "Exif": {piexif.ExifIFD.FocalLength: (50, 1), piexif.ExifIFD.FNumber: (28, 10)},
    }
    Image.new("RGB", (223, 100)).save("good.jpg", exif=piexif.dump(exif))
    exif["Exif"][piexif.ExifIFD.FNumber] = (0, 0)
    Image.new("RGB", (223, 100)).save("zero.jpg", exif=piexif.dump(exif))
    files = ["depth.npy", "photo.png", "zero.jpg", "good.jpg"]

    assert main(["exif", *files]) == 0
    lines = json_lines(capsys.readouterr().out)

    assert [line["file"] for line in lines] == files
    reasons = ["not_an_image", "no_exif", "f_number_invalid"]
    assert [line["reason"] for line in lines[:-1]] == reasons
    assert lines[2]["value"] == "0/0"
    facts = lines[-1]
    assert "reason" not in facts
    assert (facts["focal_length_mm"], facts["f_number"]) == (50.0, 2.8)
    assert (facts["focal_length_35mm"], facts["sensor_width_source"]) == (None, "table")
    assert facts["sensor_width_mm"] == 22.3
    assert facts["pixel_ratio"] == pytest.approx(10.0)
    assert (facts["make"], facts["model"]) == ("Canon", "Canon EOS 7D")


def test_exif_looks_through_folders_and_counts(scene, capsys):
    exif = {"Exif": {piexif.ExifIFD.FocalLength: (50, 1), piexif.ExifIFD.FNumber: (28, 10)}}
    (scene / "trip" / "day1").mkdir(parents=True)
    Image.new("RGB", (9, 6)).save("trip/unknown.jpg", exif=piexif.dump(exif))
    exif["Exif"][piexif.ExifIFD.FocalLengthIn35mmFilm] = 50
    for name in ("a.jpg", "b.JPG"):
        Image.new("RGB", (9, 6)).save(scene / "trip/day1" / name, exif=piexif.dump(exif))
    (scene / "trip/day1/notes.txt").write_text("no photograph")

    assert main(["exif", "trip"]) == 0
    lines = json_lines(capsys.readouterr().out)
    files = ["trip/day1/a.jpg", "trip/day1/b.JPG", "trip/unknown.jpg"]
    assert [line["file"] for line in lines] == files

    assert main(["exif", "trip", "photo.png", "--summary"]) == 0
    out = capsys.readouterr().out
    assert "\ncrop_factor_one_unverified: trip/day1/a.jpg, trip/day1/b.JPG\n" in out
    assert "\nno_exif: photo.png\nsensor_width_unknown: trip/unknown.jpg\n" in out
    words = [line.replace("│", "").split() for line in out.splitlines()]
    for row in (
        "all 4",
        "usable 2",
        "sensor width from focal_length_35mm 2",
        "flagged crop_factor_one_unverified 2",
        "rejected 2",
        "because of no_exif 1",
        "because of sensor_width_unknown 1",
    ):
        assert row.split() in words

    assert main(["exif", *["photo.png"] * 5, "--summary"]) == 0
    assert "no_exif: photo.png, photo.png, photo.png ... and 2 more\n" in capsys.readouterr().out

    assert main(["exif", "photo.png", "absent"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.endswith("absent does not exist\n")
    (scene / "empty").mkdir()
    (scene / "empty/._a.jpg").write_bytes(b"as macOS leaves them on other disks")
    assert main(["exif", "empty"]) == 2
    assert "no photographs in empty" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["exif"], CONTROL, [*CONTROL, "--focus", "0,0", "--k", "x"]])
def test_wrong_usage_exits_with_2(scene, capsys, command):
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"genrefocus {command[0]}: ")
