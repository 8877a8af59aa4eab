"""A photograph on the page, with networks that answer with what they were given."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import piexif
import pytest
import torch
from PIL import Image
from torch import Tensor

from genrefocus.backbone.tiny import build_tiny
from genrefocus.denoiser import Denoiser
from genrefocus.estimators import Photo
from genrefocus.flow import Flow
from genrefocus.network import Network
from genrefocus.optics import Lens
from genrefocus.page.rendering import Wish
from genrefocus.page.session import Service, Session, Superseded
from genrefocus.pipeline import RefocusPipeline
from genrefocus.rejection import Reason, Rejected
from genrefocus.render.apertures import disk, heart

HEIGHT, WIDTH = 202, 606
NEAR, FAR = 1.0, 0.25  # 1/m, left and right half
PROMPTS = ("a photo", "a photo")


@dataclass(frozen=True)
class Answering(Network):
    """A network that answers with a function of source and control."""

    answer: Any = None
    takes_shape: bool = False  # type: ignore[misc]
    seen: list[Any] = field(default_factory=list)

    def generate(self, source: Tensor, *_: Any, **given: Any) -> Tensor:
        self.seen.append(given.get("aperture"))
        if given["report"] is not None:
            given["report"](1, 1)
        return self.answer(source, given["control"])


class Estimator:
    """Depth of the two halves."""

    name, holds_network = "halves", False

    def depth(self, photos: list[Photo]) -> list[Tensor]:
        return [halves(*photo.size) for photo in photos]


def halves(height: int, width: int) -> Tensor:
    depth = torch.full((height, width), 1 / NEAR)
    depth[:, width // 2 :] = 1 / FAR
    return depth


@pytest.fixture(scope="module")
def networks(tiny_settings: dict[str, Any]) -> RefocusPipeline:
    """DeblurNet inverts the colours, BokehNet shows the defocus map; largest radius 4 px."""
    denoiser = Denoiser(build_tiny(**tiny_settings).requires_grad_(False).eval(), Flow())
    made = partial(Answering, denoiser, "a photo", 1)
    deblur = made(answer=lambda source, _: 1 - source)
    shown = made(answer=lambda _, control: control.expand(-1, 3, -1, -1), largest_radius=4.0)
    return RefocusPipeline(deblur, shown)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Noise, by a 50 mm lens on full frame, and its depth."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    lens = {
        piexif.ExifIFD.FocalLength: (50, 1),
        piexif.ExifIFD.FNumber: (2, 1),
        piexif.ExifIFD.FocalLengthIn35mmFilm: 50,
    }
    photo, depth = tmp_path / "photo.png", tmp_path / "depth.npy"
    Image.fromarray(pixels).save(photo, exif=piexif.dump({"Exif": lens}))
    np.save(depth, halves(HEIGHT, WIDTH).numpy())
    return photo, depth


def nothing(stage: str, done: int, total: int) -> None:
    """A report to nobody."""


def sharp_at(session: Session, k: float) -> Wish:
    return Wish(session.plane, k, disk())


@pytest.mark.filterwarnings("ignore::genrefocus.pipeline.BeyondTraining")
@pytest.mark.parametrize("edge", [None, 303])
def test_the_network_gets_the_map_of_the_click_and_of_k(
    networks: RefocusPipeline, files: tuple[Path, Path], edge: int | None
) -> None:
    """In px of the result K shrinks with it: radius K |d - d_f| in parts of 100 px."""
    session = Session(Service(networks), *files, edge)
    session.sharpen(PROMPTS, nothing)
    width = edge or WIDTH
    assert session.view.width == (width if edge is None else width // 8 * 8)
    for across, (left, right) in ((0.9, (0.75, 0.0)), (0.1, (0.0, 0.75))):
        session.focus_on(int(across * session.small.width), 5)
        result = session.refocused(sharp_at(session, 40.0), PROMPTS, nothing)
        assert result.shape[-1] == session.view.width
        for column, part in ((2, left), (-3, right)):
            expected = 40 * part * width / WIDTH / 100
            torch.testing.assert_close(
                result[:, 5:-5, column], torch.tensor(expected).expand(3, result.shape[1] - 10),
                rtol=0.03, atol=1e-3,
            )  # fmt: skip


def test_a_preview_is_blurred_where_it_is_not_sharp(
    networks: RefocusPipeline, files: tuple[Path, Path]
) -> None:
    session = Session(Service(networks), *files, None)
    assert (session.small.height, session.small.width) == (171, 512)
    session.focus_on(400, 20)  # far
    before = session.small.image
    shown = session.preview(sharp_at(session, 12.0))
    # 7.6 px of blur on the left; the right half is as it was but for the blur of the edge.
    torch.testing.assert_close(shown[..., 280:], before[..., 280:], rtol=0, atol=2e-3)
    assert float(shown[..., :236].std()) < 0.3 * float(before[..., :236].std())
    unblurred = session.preview(sharp_at(session, 0.0))
    torch.testing.assert_close(unblurred, before, rtol=0, atol=1e-5)
    drawn = session.preview(Wish(session.plane, 12.0, heart()))
    assert float((drawn - shown)[..., :236].abs().mean()) > 0.005
    torch.testing.assert_close(drawn[..., 280:], before[..., 280:], rtol=0, atol=2e-3)
    session.sharpen(PROMPTS, nothing)
    now = session.preview(sharp_at(session, 0.0))
    torch.testing.assert_close(now, session.small.image, rtol=0, atol=1e-5)
    assert float((session.small.image - (1 - before)).abs().mean()) < 0.05


def test_k_and_f_number_by_eq_3(networks: RefocusPipeline, files: tuple[Path, Path]) -> None:
    session = Session(Service(networks), *files, 303)
    session.focus_on(250, 5)
    at_f1 = 0.05**2 / 2 / (1 - 0.05 * FAR) * WIDTH / 0.036
    assert session.k_at_f1(Lens(50, 36)) == pytest.approx(at_f1)
    assert session.facts is not None and session.facts.focal_length_mm == 50
    with pytest.raises(Rejected, match="focal length"):
        session.k_at_f1(Lens(5000, 36))
    # BokehNet knows 4 px of the result, which is half as large as the photograph.
    learned = session.learned_k()
    assert learned == pytest.approx(0.99 * 4 / 0.75 * WIDTH / session.long_edge)
    assert session.radius(learned) == pytest.approx(0.99 * 4)
    first, most = session.k_range()
    assert 0 < first <= learned < most


@pytest.mark.parametrize(("f_number", "starts"), [((2, 1), 2.0), ((178, 100), 1.8), ((1, 2), 1.0)])
def test_it_starts_at_the_f_number_of_the_exif(
    networks: RefocusPipeline, files: tuple[Path, Path], f_number: tuple[int, int], starts: float
) -> None:
    """As the slider states it; K follows by Eq. 3, at the focus in the middle, which is far."""
    photo, depth = files
    with Image.open(photo) as image:
        exif = piexif.load(image.info["exif"])
        exif["Exif"][piexif.ExifIFD.FNumber] = f_number
        image.save(photo, exif=piexif.dump(exif))
        image.save(photo.with_name("bare.png"), exif=b"")
    session = Session(Service(networks), photo, depth, 303)
    at_f1 = 0.05**2 / 2 / (1 - 0.05 * FAR) * WIDTH / 0.036
    start = session.coupled(session.asked)
    assert start.by_f and start.f_number == starts and start.k == pytest.approx(at_f1 / starts)
    bare = Session(Service(networks), photo.with_name("bare.png"), depth, 303)
    start = bare.coupled(bare.asked)
    assert not start.by_f and start.lens is None and start.k == bare.k_range()[0] > 0


@pytest.mark.parametrize("takes", [True, False])
def test_a_shape_goes_to_a_network_that_takes_one(
    networks: RefocusPipeline, files: tuple[Path, Path], takes: bool
) -> None:
    bokeh = replace(networks.bokeh, takes_shape=takes, largest_radius=None)  # type: ignore[call-arg]
    session = Session(Service(RefocusPipeline(None, bokeh)), *files, 303)
    session.sharpen(PROMPTS, nothing)
    bokeh.seen.clear()  # type: ignore[attr-defined]
    shape = heart()
    for aperture in (shape, disk()):
        session.refocused(Wish(session.plane, 8.0, aperture), PROMPTS, nothing)
    assert bokeh.seen == [shape if takes else None, None]  # type: ignore[attr-defined]


def test_what_is_overtaken_ends_and_leaves_nothing(
    networks: RefocusPipeline, files: tuple[Path, Path]
) -> None:
    session = Session(Service(networks), *files, 303)

    def overtaken(*_: object) -> None:
        raise Superseded

    before = session.view
    with pytest.raises(Superseded):
        session.sharpen(PROMPTS, overtaken)
    assert session.scene is None and session.view is before
    session.sharpen(PROMPTS, nothing)
    scene = session.scene
    session.sharpen(PROMPTS, overtaken)  # nothing is left to do
    assert session.scene is scene
    with pytest.raises(Superseded):
        session.sharpen(("a sign that says HALT", ""), overtaken)


def test_depth_by_an_estimator_and_the_subject(
    networks: RefocusPipeline, files: tuple[Path, Path]
) -> None:
    def left(photo: Tensor) -> Tensor:
        found = torch.zeros(photo.shape[1:], dtype=torch.bool)
        found[:, : photo.shape[2] // 4] = True
        return found

    service = Service(networks, estimator=Estimator(), subject=left)
    session = Session(service, files[0], None, 303)
    assert session.plane == NEAR
    outlined = session.depth_picture()
    assert (outlined[:, session.small.width // 4] == 255).all()
    session.sharpen(PROMPTS, nothing)
    assert session.plane == NEAR
    other = Session(service, files[0], None, None)
    session.focus_on(250, 5)
    other.focus_like(session)
    assert other.plane == FAR and other.focus == (int(250.5 / session.small.width * WIDTH), 11)


def test_input_that_cannot_be_used(
    networks: RefocusPipeline, files: tuple[Path, Path], tmp_path: Path
) -> None:
    photo, depth = files
    with pytest.raises(ValueError, match="--depth-model"):
        Session(Service(networks), photo, None, None)
    with pytest.raises(Rejected, match="606x202 px.*0.1 megapixels") as rejected:
        Session(Service(networks, most_pixels=1e5), photo, depth, None)
    assert rejected.value.reason is Reason.IMAGE_TOO_LARGE
    np.save(tmp_path / "square.npy", np.eye(50, dtype=np.float32))
    with pytest.raises(ValueError, match=r"square\.npy is 50x50 px but the image is 606x202"):
        Session(Service(networks), photo, tmp_path / "square.npy", None)
    np.save(tmp_path / "mm.npy", np.load(depth) * 1000)
    (notice,) = Session(Service(networks), photo, tmp_path / "mm.npy", None).notices
    assert "divided by 1000" in notice
    with pytest.raises(ValueError, match="lies outside"):
        Session(Service(networks), photo, depth, None).focus_on(512, 0)
    drafts = replace(networks.bokeh, variant="pre_deblur")
    with pytest.raises(ValueError, match="draft"):
        Service(RefocusPipeline(drafts, networks.bokeh))
