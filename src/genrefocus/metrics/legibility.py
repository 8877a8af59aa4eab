"""Can the word in an image be read? Template matching of its letters, each in its own place."""

import torch
from torch import Tensor
from torch.nn.functional import unfold

from genrefocus.metrics.info import TARGET, MetricInfo
from genrefocus.metrics.pairs import check_pair
from genrefocus.metrics.precision import in_float32
from genrefocus.render.lettering import LETTERS, Lettering, glyph

SHIFT_PX = 1


@in_float32
def read_letters(pred: Tensor, target: Tensor, lettering: Lettering) -> str:
    """What an image says where a word stands.

    Of all 26 letters, drawn as the word is, the one is read that correlates best with a letter's
    cell at a shift of up to ``SHIFT_PX``.

    Args:
        pred: (3, H, W) in [0, 1].
        target: the sharp image, same shape and range. It tells whether letters are bright or dark.
        lettering: where the word stands, and how large; as many letters are read as it has.

    Raises:
        ValueError: shapes differ, values lie outside [0, 1], or the word beyond the image.
    """
    check_pair(pred[None], target[None])
    pred, target = pred.cpu(), target.cpu()
    ink = lettering.coverage(*target.shape[-2:])
    ground = ink[lettering.box] - ink[lettering.box].mean()
    bright = float((ground * target.mean(0)[lettering.box]).sum()) > 0
    grey = pred.mean(0) if bright else -pred.mean(0)
    drawn = torch.stack([glyph(letter, lettering.height).flatten() for letter in LETTERS])
    templates, read = _standardised(drawn), ""
    for rows, columns in lettering.cells:
        seen = grey[_wider(rows, grey.shape[0]), _wider(columns, grey.shape[1])]
        places = unfold(seen[None, None], (lettering.height, lettering.pitch))[0].T
        read += LETTERS[int((templates @ _standardised(places).T).amax(1).argmax())]
    return read


def legibility(pred: Tensor, *, target: Tensor, lettering: Lettering) -> float:
    """Share of the letters of a word that are read right, see :func:`read_letters`; chance is 1/26.

    Arguments and errors are those of :func:`read_letters`.
    """
    read = read_letters(pred, target, lettering)
    return sum(a == b for a, b in zip(read, lettering.text, strict=True)) / len(read)


def _wider(part: slice, size: int) -> slice:
    return slice(max(part.start - SHIFT_PX, 0), min(part.stop + SHIFT_PX, size))


def _standardised(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-6)


METRICS = (MetricInfo("legibility", legibility, "higher", TARGET | {"lettering"}),)
