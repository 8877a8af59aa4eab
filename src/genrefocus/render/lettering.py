"""Words in capital letters of one width: what signs in scenes show, and what is looked for in them.

Every letter fills a cell of its own, so that it can be compared with all others in its place.
"""

import functools
import string
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

LETTERS = string.ascii_uppercase

_PITCH = 0.85  # from letter to letter, in parts of the height
_INK = 0.8  # greatest width of a letter in parts of the pitch
_STROKE = 0.05  # that letters are bolder by, in parts of the height
_SUPERSAMPLING = 8


@dataclass(frozen=True)
class Lettering:
    """A word in an image.

    Attributes:
        text: of :data:`LETTERS`.
        top, left: of the first letter's cell, px.
        height: of the letters, px.

    Raises:
        ValueError: no letter, or one that cannot be drawn.
    """

    text: str
    top: int
    left: int
    height: int

    def __post_init__(self) -> None:
        if not self.text or set(self.text) - set(LETTERS):
            raise ValueError(f"{self.text!r} cannot be drawn; letters are {LETTERS}")

    @property
    def pitch(self) -> int:
        """Width of a letter's cell, px."""
        return round(_PITCH * self.height)

    @property
    def cells(self) -> list[tuple[slice, slice]]:
        """Rows and columns of each letter."""
        lefts = [self.left + n * self.pitch for n in range(len(self.text))]
        return [(self.box[0], slice(left, left + self.pitch)) for left in lefts]

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of all letters."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + len(self.text) * self.pitch)

    def coverage(self, height: int, width: int) -> Tensor:
        """(height, width) in [0, 1], 1 where there is ink.

        Raises:
            ValueError: the word reaches beyond the image.
        """
        rows, columns = self.box
        if min(self.top, self.left) < 0 or rows.stop > height or columns.stop > width:
            raise ValueError(f"{self} reaches beyond an image of {width}x{height} px (WxH)")
        ink = torch.zeros(height, width)
        ink[self.box] = torch.cat([glyph(letter, self.height) for letter in self.text], 1)
        return ink


@functools.lru_cache(maxsize=1024)
def glyph(letter: str, height: int) -> Tensor:
    """One of :data:`LETTERS` in its cell, (height, pitch) in [0, 1]."""
    fine = _SUPERSAMPLING * height
    cell = round(_PITCH * height) * _SUPERSAMPLING
    canvas = Image.new("L", (4 * fine, 4 * fine), 0)
    font = ImageFont.load_default(1.4 * fine)
    stroke = round(_STROKE * fine)
    ImageDraw.Draw(canvas).text(
        (2 * fine, 2 * fine), letter, 255, font, anchor="mm", stroke_width=stroke
    )
    ink = canvas.crop(canvas.getbbox())
    wide = min(round(ink.width * fine / ink.height), round(_INK * cell))
    whole = Image.new("L", (cell, fine), 0)
    whole.paste(ink.resize((wide, fine)), ((cell - wide) // 2, 0))
    return pil_to_tensor(whole.reduce(_SUPERSAMPLING))[0] / 255
