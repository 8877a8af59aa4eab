"""``genrefocus refocus`` says in a line what is wrong with its input, and what mends it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genrefocus.cli import main

HEIGHT, WIDTH = 40, 57

BASIC = ["refocus", "photo.png", "--depth", "depth.npy"]
K = ["--k", "3", "-o", "out.png"]
FOCUS = ["--focus", "1,1", *K]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["refocus", "photo.png", *FOCUS], "--depth D.npy"),
        (["refocus", "photo.png", *FOCUS], "--depth-model with an ONNX file, or with a depth net"),
        (["refocus", "photo.png", *FOCUS, "--depth-model", "a.onnx"], "a.onnx does not exist"),
        ([*BASIC, *FOCUS, "--depth-range", "1,9"], "does nothing without --depth-model"),
        ([*BASIC, *FOCUS, "--depth-range", "near"], "metres as NEAR,FAR"),
        ([*BASIC, *K, "--subject"], "--subject needs --subject-model"),
        ([*BASIC, *K, "--subject", "--subject-model", "some/net"], "some/net@COMMIT"),
        ([*BASIC, *FOCUS, "--subject-model", "a.onnx"], "does nothing without --subject"),
        (["refocus", "absent.png", "--depth", "depth.npy", *FOCUS], "absent.png"),
        (["refocus", "depth.npy", "--depth", "depth.npy", *FOCUS], "not_an_image"),
        ([*BASIC, *K, "--focus", "57,0"], "57x40 px"),
        ([*BASIC, *K, "--focus", "middle"], "X,Y"),
        ([*BASIC, *K, "--mask", "black.png"], "empty_mask"),
        ([*BASIC, "--focus", "1,1", "--k", "much", "-o", "out.png"], "--k: 'much'"),
        (
            [*BASIC, "--focus", "1,1", "--k", "-1", "-o", "out.png"],
            "--k: '-1': give a number, 0 or more",
        ),
        (
            [*BASIC, "--focus", "1,1", "--f-number", "0", "-o", "out.png"],
            "'0': give a number, above",
        ),
        ([*BASIC, "--focus", "1,1", "--f-number", "2", "-o", "out.png"], "--focal-length MM"),
        ([*BASIC, *FOCUS, "--f-number", "2"], "not allowed with argument"),
        ([*BASIC, *FOCUS, "--focal-length", "50"], "--sensor-width MM"),
        ([*BASIC, "--focus", "1,1", "--k", "0:9", "-o", "out.gif"], "--frames N"),
        ([*BASIC, "--focus", "1,1", "--k", "9", "-o", "out.gif"], "for a pull"),
        ([*BASIC, *FOCUS, "--frames", "5"], "needs what changes"),
        ([*BASIC, *FOCUS, "--frames", "5", "--focus-to", "0,0"], "cannot hold frames"),
        ([*BASIC, *FOCUS, "--frames", "5", "--focus-to", "0,99", "-o", "a.gif"], "outside"),
        ([*BASIC, "--focus", "1,1", "--k", "1", "-o", "out.xyz"], "out.xyz"),
        ([*BASIC, "--focus", "1,1", "--k", "1", "-o", "no/out.png"], "no folder no"),
        ([*BASIC, *FOCUS, "--save-map", "map.jpg"], ".png"),
        ([*BASIC, *FOCUS, "--run", "elsewhere"], "elsewhere does not exist"),
        ([*BASIC, *FOCUS, "--run", "outputs"], "outputs has no network"),
        ([*BASIC, *FOCUS, "--flux", "flux"], "--bokeh-lora"),
        ([*BASIC, *FOCUS, "--flux", "flux", "--bokeh-lora", "photo.png"], "--no-deblur"),
        (
            [*BASIC, *FOCUS, "--flux", "flux", "--bokeh-lora", "b.safetensors", "--no-deblur"],
            "b.safetensors does not exist",
        ),
        ([*BASIC, *FOCUS, "--deblur-lora", "photo.png"], "belong to --flux"),
        ([*BASIC, *FOCUS, "--aperture", "moon"], "--aperture moon: neither disk"),
        ([*BASIC, *FOCUS, "--aperture", "star:two"], "as in polygon:7 or star:5"),
        ([*BASIC, *FOCUS, "--aperture", "disk", "--rotation", "9"], "not for --aperture disk"),
        ([*BASIC, *FOCUS, "--shape-lora", "photo.png"], "belongs to --flux"),
        (
            [*BASIC, *FOCUS, "--flux", "f", "--bokeh-lora", "photo.png", "--no-deblur"]
            + ["--aperture", "disk"],
            "needs --shape-lora FILE",
        ),
        ([*BASIC, *FOCUS, "--steps", "0"], "--steps: '0': give a whole number, 1 or more"),
        ([*BASIC, *FOCUS, "--long-edge", "5"], "larger long edge"),
        ([*BASIC, *FOCUS, "--no-deblur", "--deblur-prompt", "a sign"], "--no-deblur leaves out"),
        ([*BASIC, *FOCUS, "--no-deblur", "--source-k", "4"], "--no-deblur leaves out"),
        ([*BASIC, *FOCUS, "--source-k", "much"], "exif, auto or none"),
        ([*BASIC, *FOCUS, "--source-k", "4"], "no DeblurNet takes part that can be told"),
        (["refocus", "photo.png", "--depth-model", "some/DepthPro", *FOCUS], "@COMMIT"),
        (["refocus", "photo.png", "--depth", "flat.npy", *FOCUS], "depth_without_spread"),
        (["refocus", "photo.png", "--depth", "other.npy", *FOCUS], "of other proportions"),
        (["refocus", "photo.png", "--depth", "bar.npy", *FOCUS], "bar.npy is 8x2 px but the image"),
    ],
)
def test_wrong_input_gets_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save("black.png")
    np.save("flat.npy", np.ones((HEIGHT, WIDTH)))
    np.save("bar.npy", np.ones((2, 8)))  # flat, too
    np.save("other.npy", np.arange(1.0, 17).reshape(2, 8))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and not Path("out.png").exists()
    assert message in printed.err and printed.err.count("\n") == 1


def test_without_a_run_the_remedy_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("outputs/semi_supervised/one/deblur/deblurNet.safetensors").unlink()
    assert main([*BASIC, *FOCUS]) == 2
    assert "make train" in capsys.readouterr().err
    assert main([*BASIC, *FOCUS, "--no-deblur"]) == 0
    shutil.rmtree("outputs")
    assert main([*BASIC, *FOCUS]) == 2
    assert (
        "make train, or name the folder of another run with: --run FOLDER"
        in capsys.readouterr().err
    )
