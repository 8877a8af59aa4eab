"""Contact sheets and the colours of defocus maps."""

import numpy as np
import pytest
import torch
from PIL import ImageDraw
from skimage.color import rgb2lab

from genrefocus.report.contact_sheet import colour_map, contact_sheet


def test_lightness_rises_evenly_with_the_value() -> None:
    """Beside CIELAB of another library: monotone, and far from a step anywhere."""
    colours = colour_map(torch.linspace(0, 1, 256)[None]).permute(1, 2, 0).numpy()
    steps = np.diff(rgb2lab(colours)[0, :, 0])
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.mean()
    assert len(np.unique((colours * 255).round(), axis=1)[0]) == 256


def test_images_are_enlarged_and_placed_and_empty_cells_stay_empty() -> None:
    red = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 5, 7)
    blue = torch.tensor([0, 0, 1.0])[:, None, None].expand(3, 5, 7)
    sheet = np.array(contact_sheet([[red, None], [None, blue]], ["a", "b"], 4))
    rows, columns = np.nonzero((sheet == (255, 0, 0)).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (20, 28, 20 * 28)
    blue_rows, blue_columns = np.nonzero((sheet == (0, 0, 255)).all(-1))
    assert len(blue_rows) == 20 * 28
    assert blue_rows.min() > rows.max() and blue_columns.min() > columns.max()


@pytest.mark.parametrize("shape", [(1, 6, 6), (6, 6)])
def test_a_defocus_map_is_labelled_with_its_range_in_px(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, text, **style: written.append(text)
    )
    cells = [[torch.linspace(0.004, 0.0731, 36).reshape(shape), torch.rand(3, 6, 6)]]
    contact_sheet(cells, ["map", "output"], 2, [["", "psnr 30.00"]])
    assert written == ["map", "output", "0.4 to 7.3 px", "psnr 30.00"]


def test_a_map_without_blur_and_images_of_several_sizes_are_fine() -> None:
    rows = [
        [torch.zeros(1, 4, 4), torch.rand(3, 4, 4)],
        [torch.zeros(1, 90, 30), torch.rand(3, 90, 30)],
    ]
    assert contact_sheet(rows, ["defocus map", "output"], 1).height > 94


@pytest.mark.parametrize(
    ("rows", "titles", "scale"),
    [
        ([], ["a"], 1),
        ([[None]], ["a"], 0),
        ([[None, None]], ["a"], 1),
        ([[torch.zeros(2, 4, 4)]], ["a"], 1),
    ],
)
def test_wrong_input_is_named(rows, titles, scale) -> None:
    with pytest.raises(ValueError, match="contact sheet|row of the sheet|cell of the sheet"):
        contact_sheet(rows, titles, scale)
