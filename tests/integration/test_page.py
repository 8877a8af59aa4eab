"""The page without a browser: its handlers are called as Gradio calls them, its server is asked."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import piexif
import pytest
import torch
from PIL import Image, ImageSequence

from genrefocus.cli import main
from genrefocus.estimators import Photo
from genrefocus.network_card import networks_of
from genrefocus.page.session import Service
from genrefocus.pipeline import RefocusPipeline, load_pipeline

gr = pytest.importorskip("gradio", reason="the page needs Gradio, the extra app")
from starlette.testclient import TestClient  # noqa: E402

from genrefocus.page.handlers import Page  # noqa: E402
from genrefocus.page.serving import application  # noqa: E402

HEIGHT, WIDTH = 40, 64


def at_f1(plane: float) -> float:
    """K by Eq. 3 of a 50 mm lens on full frame at F-number 1."""
    return 0.05**2 / 2 / (1 - 0.05 * plane) * WIDTH / 0.036


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A JPEG photograph by a 50 mm lens, 1 m left and 4 m right."""
    lens = {
        piexif.ExifIFD.FocalLength: (50, 1),
        piexif.ExifIFD.FNumber: (2, 1),
        piexif.ExifIFD.FocalLengthIn35mmFilm: 50,
    }
    about = {piexif.ImageIFD.Artist: b"Ada", piexif.ImageIFD.Orientation: 1}
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    photo, depth = tmp_path / "photo.jpg", tmp_path / "depth.npy"
    Image.fromarray(pixels).save(photo, exif=piexif.dump({"0th": about, "Exif": lens}))
    metres = np.ones((HEIGHT, WIDTH), np.float32)
    metres[:, WIDTH // 2 :] = 4
    np.save(depth, metres)
    return str(photo), str(depth)


class Visitor:
    """What one tab holds: the values of components, which handlers take and change."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.values: dict[Any, Any] = {
            one: getattr(one, "value", None)
            for one in vars(page).values()
            if isinstance(one, gr.blocks.Block)
        }

    def __getitem__(self, name: str) -> Any:
        return self.values[getattr(self.page, name)]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[getattr(self.page, name)] = value

    def controls(self) -> list[Any]:
        return [self.values[one] for one in self.page.controls]

    def does(self, handler: Callable[..., Any], *given: Any) -> dict[Any, Any]:
        changes = handler(*given)
        if changes == gr.skip():
            return {}
        for part, value in changes.items():
            updated = isinstance(value, dict)
            if not updated or "value" in value:
                self.values[part] = value["value"] if updated else value
        return changes

    def opens(self, photo: str | None, depth: str | None, size: int = 0) -> None:
        self.does(self.page.opened, self["session"], photo, depth, size)
        self.sets(self.page.changed)

    def sets(self, handler: Callable[..., Any]) -> dict[Any, Any]:
        return self.does(handler, self["session"], *self.controls())

    def clicks(self, x: int, y: int) -> None:
        event = SimpleNamespace(index=(x, y))
        self.does(self.page.clicked, self["session"], event, *self.controls())

    def asks(self, handler: Callable[..., Any], maker: str = "networks") -> Any:
        wanted = [] if handler == self.page.pulled else [True]
        asked = [self["session"], "a photo", "a photo", maker, *wanted]
        return self.does(handler, *asked, lambda *_, **__: None)

    def refocuses(self, maker: str = "networks") -> None:
        self.asks(self.page.sharpened, maker=maker)
        self.asks(self.page.refocused, maker=maker)


@pytest.fixture
def page(
    tmp_path: Path, write_echo_run: Callable[[Path, Path], None], files: tuple[str, str]
) -> Page:
    run = tmp_path / "run"
    write_echo_run(run, tmp_path / "base.safetensors")
    service = Service(load_pipeline(networks_of(run), run), long_edge=None, most_pixels=1e4)
    return Page(service, [(Path(files[0]), Path(files[1]))], "Networks.")


@pytest.fixture
def visitor(page: Page) -> Visitor:
    return Visitor(page)


def test_without_depth_the_page_says_where_it_comes_from(
    visitor: Visitor, files: tuple[str, str]
) -> None:
    visitor.opens(files[0], None)
    assert visitor["session"] is None and visitor["preview"].shape == (HEIGHT, WIDTH, 3)
    assert "--depth-model" in visitor["note"] and ".npy" in visitor["note"]
    with pytest.raises(gr.Error, match="--depth-model"):
        visitor.clicks(1, 1)
    visitor.opens(*files)
    assert visitor["session"] is not None and "1 m to 4 m" in visitor["depth_note"]


def test_a_click_focuses_and_the_sliders_follow_each_other(
    visitor: Visitor, files: tuple[str, str]
) -> None:
    page = visitor.page
    visitor.opens(*files)
    assert (visitor["focal"], visitor["sensor"]) == (50, 36)
    visitor.clicks(WIDTH - 2, 3)
    assert visitor["distance"] == 4
    visitor["f_number"] = 1.4
    changes = visitor.sets(page.by_f_number)
    assert "value" not in changes[page.f_number] and "F/1.4" in visitor["note"]
    assert visitor["k"] == pytest.approx(at_f1(0.25) / 1.4, rel=0.01)
    far = visitor["preview"]
    assert far[:, : WIDTH // 2 - 8].std() < 40 < far[:, WIDTH // 2 + 4 :].std()
    visitor.clicks(1, 3)
    assert visitor["k"] == pytest.approx(at_f1(1) / 1.4, rel=0.01) and visitor["distance"] == 1
    visitor["k"] = at_f1(1) / 8
    changes = visitor.sets(page.by_k)
    assert "value" not in changes[page.k] and visitor["f_number"] == 8
    visitor.does(page.at_distance, 4.0, visitor["session"], *visitor.controls())
    assert "Sharp at **4 m**" in visitor["note"]
    visitor["focal"] = None
    visitor.sets(page.changed)
    assert "F/" not in visitor["note"]


def test_the_result_is_what_refocus_makes_with_the_exif_of_the_photograph(
    visitor: Visitor, files: tuple[str, str], tmp_path: Path
) -> None:
    page = visitor.page
    visitor.opens(*files)
    visitor.clicks(WIDTH - 2, 3)
    visitor["f_number"] = 4
    visitor.sets(page.by_f_number)
    visitor.refocuses()
    before, after = map(Path, visitor["result"])
    assert after.name == "photo_f4.jpg" == Path(visitor["download"]).name
    assert "64x40 px" in visitor["result_note"]
    run, out = str(tmp_path / "run"), tmp_path / "out.jpg"
    command = ["refocus", files[0], "--depth", files[1], "--run", run, "-o", str(out)]
    assert main([*command, "--focus", f"{WIDTH - 2},3", "--f-number", "4"]) == 0
    np.testing.assert_array_equal(read(after), read(out))
    assert np.abs(read(before) - read(Path(files[0]))).mean() < 10  # JPEG of noise, twice
    exif = piexif.load(str(after))
    assert exif["0th"][piexif.ImageIFD.Artist] == b"Ada"
    assert exif["Exif"][piexif.ExifIFD.FocalLength] == (50, 1)
    assert visitor.asks(page.refocused) == {}  # nothing has changed since


def test_the_renderer_draws_shapes_and_the_networks_say_that_they_do_not(
    visitor: Visitor, files: tuple[str, str], tmp_path: Path
) -> None:
    page = visitor.page
    visitor.opens(*files)
    visitor.clicks(WIDTH - 2, 3)
    visitor["k"] = 12.0
    visitor["shape"] = "heart"
    visitor.sets(page.by_k)
    visitor.refocuses()
    assert "round opening" in visitor["result_note"]
    visitor.refocuses("layered renderer")
    assert "round opening" not in visitor["result_note"]
    heart = read(Path(visitor["result"][1]))
    visitor["shape"] = "round"
    visitor.sets(page.changed)
    visitor.refocuses("layered renderer")
    assert np.abs(read(Path(visitor["result"][1])) - heart)[:, : WIDTH // 2 - 8].mean() > 1
    Image.new("L", (20, 20)).save(tmp_path / "black.png")
    visitor["own_shape"] = str(tmp_path / "black.png")
    with pytest.raises(gr.Error, match="half white"):
        visitor.sets(page.changed)


def test_pulls_of_focus_and_of_the_aperture(visitor: Visitor, files: tuple[str, str]) -> None:
    page = visitor.page
    visitor.opens(*files)
    visitor.clicks(WIDTH - 2, 3)
    visitor["k"] = 12.0
    visitor.sets(page.by_k)
    visitor.asks(page.pulled, maker="layered renderer")
    aperture = frames(Path(visitor["pull"]))
    # Everything is sharp at first; then the left half is not.
    left = [frame[:, : WIDTH // 2 - 8].std() for frame in aperture]
    assert len(left) == 16 and left[0] > 45 and left[-1] < 30
    visitor.does(page.pull_started, visitor["session"])
    assert "From 4 m" in visitor["pull_note"]
    visitor.clicks(1, 3)
    visitor.asks(page.pulled, maker="layered renderer")
    focus = frames(Path(visitor["pull"]))
    np.testing.assert_allclose(focus[0], aperture[-1], atol=40)
    assert focus[0][:, :20].std() < 40 < focus[-1][:, :20].std()
    assert "everything sharp" in visitor["pull_note"]


class Estimator:
    """1 m left; right 4 m at first, then 2 m. ``meanwhile`` the visitor does something."""

    name, holds_network = "halves", False

    def __init__(self) -> None:
        self.far = 4.0
        self.meanwhile: Callable[[], object] = lambda: None

    def depth(self, photos: list[Photo]) -> list[torch.Tensor]:
        self.meanwhile()
        (photo,) = photos
        metres = torch.ones(photo.size)
        metres[:, WIDTH // 2 :], self.far = self.far, 2.0
        return [metres]


Wishes = list[tuple[float, float]]


@pytest.fixture
def wishes(monkeypatch: pytest.MonkeyPatch) -> Wishes:
    """Plane and K of all that BokehNet renders; pulls have three frames."""
    monkeypatch.setattr("genrefocus.page.handlers._FRAMES", 3)
    seen: Wishes = []
    render = RefocusPipeline.refocus

    def refocus(pipeline: Any, scene: Any, strength: Any, **more: Any) -> Any:
        seen.append((scene.focus_disparity, strength.k))
        return render(pipeline, scene, strength, **more)

    monkeypatch.setattr(RefocusPipeline, "refocus", refocus)
    return seen


@pytest.fixture
def estimator(visitor: Visitor, files: tuple[str, str]) -> Estimator:
    """Of a page where a photograph is open, and its F-number was set to 7."""
    page, estimator = visitor.page, Estimator()
    page.service = replace(page.service, estimator=estimator)
    visitor.opens(files[0], None)
    visitor["f_number"] = 7.0
    visitor.sets(page.by_f_number)
    assert visitor["distance"] == 4 and visitor["k"] == pytest.approx(at_f1(0.25) / 7, abs=0.05)
    return estimator


def sets_k(visitor: Visitor) -> tuple[float, float]:
    visitor["k"] = 0.5
    visitor.sets(visitor.page.by_k)
    return 0.5, 0.5


def sets_k_and_clicks(visitor: Visitor) -> tuple[float, float]:
    sets_k(visitor)
    visitor.clicks(1, 3)
    return 1.0, 0.5


def sets_the_f_number(visitor: Visitor) -> tuple[float, float]:
    sets_k(visitor)
    visitor["f_number"] = 1.4
    visitor.sets(visitor.page.by_f_number)
    return 0.5, at_f1(0.5) / 1.4


def enters_a_distance(visitor: Visitor) -> tuple[float, float]:
    visitor.does(visitor.page.at_distance, 1.6, visitor["session"], *visitor.controls())
    return 0.625, at_f1(0.625) / 7


def waits(visitor: Visitor) -> tuple[float, float]:
    return 0.5, at_f1(0.5) / 7


@pytest.mark.filterwarnings("ignore::genrefocus.pipeline.BeyondTraining")
@pytest.mark.parametrize(
    ("act", "pull"),
    [
        (sets_k, False),
        (sets_k_and_clicks, False),
        (sets_k_and_clicks, True),
        (sets_the_f_number, False),
        (enters_a_distance, False),
        (waits, False),
    ],
)
def test_what_is_set_while_deblurnet_runs_is_kept(
    visitor: Visitor, estimator: Estimator, wishes: Wishes, act: Any, pull: bool
) -> None:
    """What follows it, follows from the depth that was estimated anew."""
    page, expected = visitor.page, []
    estimator.meanwhile = lambda: expected.append(act(visitor))
    if pull:
        visitor.asks(page.pulled)
    changes = visitor.asks(page.sharpened)
    estimator.meanwhile = lambda: None
    ((plane, k),) = expected
    followed = act in (sets_k, sets_k_and_clicks)
    kept, moved = (page.k, page.f_number) if followed else (page.f_number, page.k)
    assert "value" not in changes[kept] and "value" in changes[moved]
    assert visitor["k"] == pytest.approx(k, abs=0.05)
    assert visitor["f_number"] == pytest.approx(at_f1(plane) / k, abs=0.05)
    assert visitor["distance"] == pytest.approx(1 / plane)
    assert f"K {k:.3g}" in visitor["note"] and "1 m to 2 m" in visitor["depth_note"]
    for _ in range(2):  # the second time it is there
        visitor.refocuses()
    assert wishes[-1] == pytest.approx((plane, k))
    assert len(wishes) == (4 if pull else 1) and wishes[2 if pull else 0] == wishes[-1]


def test_a_result_that_was_asked_for_before_is_of_what_is_set_now(
    visitor: Visitor, estimator: Estimator, wishes: Wishes
) -> None:
    """What BokehNet has begun ends when another K is set, and the next one is of that."""
    page = visitor.page
    visitor.asks(page.sharpened)
    asked = [visitor["session"], "a photo", "a photo", "networks", True]
    asked.append(lambda *_, **__: sets_k(visitor))
    assert visitor.does(page.refocused, *asked) == {} and len(wishes) == 1
    visitor.does(page.refocused, *asked)  # where K is set as it is
    assert wishes[-1] == (0.5, 0.5) and Path(visitor["download"]).name == "photo_k0.5.jpg"


def test_an_older_preview_does_not_replace_a_newer_one(
    visitor: Visitor, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, render = visitor["session"], visitor["session"].preview

    def preview(wish: Any) -> Any:
        monkeypatch.setattr(session, "preview", render)
        sets_k(visitor)
        return render(wish)

    monkeypatch.setattr(session, "preview", preview)
    visitor.clicks(1, 3)  # with the F-number 7; K is set before it is shown
    assert visitor["k"] == 0.5 and visitor["distance"] == 1 and "K 0.5" in visitor["note"]


def test_what_is_set_while_the_photograph_opens_at_another_size_is_kept(
    visitor: Visitor, estimator: Estimator, files: tuple[str, str]
) -> None:
    estimator.meanwhile = lambda: (visitor.clicks(1, 3), sets_k(visitor))
    visitor.opens(files[0], None, 48)
    assert visitor["session"].view.width == 48 and visitor["distance"] == 1
    assert visitor["k"] == 0.5 and "K 0.5" in visitor["note"]
    visitor.clicks(40, 3)
    assert visitor["k"] == 0.5


def test_a_start_that_is_noted_while_a_pull_is_made_is_that_of_the_next(
    visitor: Visitor, estimator: Estimator, wishes: Wishes
) -> None:
    """The pixel is noted, whose distance DeblurNet may change."""
    page = visitor.page
    visitor.does(page.pull_started, visitor["session"])
    visitor.clicks(1, 3)
    visitor.asks(page.sharpened)
    asked = [visitor["session"], "a photo", "a photo", "networks"]
    start = lambda *_, **__: visitor.does(page.pull_started, visitor["session"])  # noqa: E731
    visitor.does(page.pulled, *asked, start)
    assert [plane for plane, _ in wishes[::2]] == [0.5, 1]
    assert "From 1 m" in visitor["pull_note"]


def test_errors_are_said_in_words_and_without_folders(
    visitor: Visitor, files: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("none")
    np.save(tmp_path / "square.npy", np.eye(50, dtype=np.float32))
    Image.new("RGB", (200, 100)).save(tmp_path / "large.png")
    (tmp_path / "no.npy").write_text("none")
    for photo, depth, words in (
        ("text.jpg", None, "text.jpg"),
        ("photo.jpg", "square.npy", "square.npy is 50x50 px but the image is 64x40"),
        ("large.png", None, "0.01 megapixels"),
        ("photo.jpg", "no.npy", "no.npy is no whole .npy array"),
    ):
        given = [None if name is None else str(tmp_path / name) for name in (photo, depth)]
        with pytest.raises(gr.Error) as error:
            visitor.opens(*given)
        assert words in error.value.message and str(tmp_path) not in error.value.message


def test_an_example_opens_with_its_depth_and_an_upload_without(
    visitor: Visitor, files: tuple[str, str]
) -> None:
    page = visitor.page
    example = SimpleNamespace(index=0)
    visitor.does(page.example_opened, None, example, 0)
    assert (visitor["photo"], visitor["depth"]) == files
    session = visitor["session"]
    visitor.does(page.photo_opened, session, *files, 0)
    assert session.closed and visitor["depth"] is None and visitor["session"] is None


def test_the_server_gives_nothing_away(page: Page, tmp_path: Path) -> None:
    """No file of the machine, no page of others, nothing to other names, nothing too large."""
    secret = tmp_path / "private.txt"
    secret.write_text("a secret")
    with TestClient(application(page, "127.0.0.1", 10_000), "http://127.0.0.1") as client:
        front = client.get("/")
        assert front.status_code == 200
        assert "default-src 'self'" in front.headers["content-security-policy"]
        for path in (
            f"file={secret}",
            f"file={secret.parent}/page/../{secret.name}",
            "file=/etc/passwd",
            "file=../../../../etc/passwd",
            "file=%2e%2e/%2e%2e/etc/passwd",
            "file=pyproject.toml",
            "file=http://example.org/",
            "proxy=http://example.org/",
        ):
            answer = client.get(f"/gradio_api/{path}")
            assert answer.status_code in (403, 404) and "a secret" not in answer.text, path
        assert client.get("/", headers={"host": "elsewhere.example"}).status_code == 400
        for size, status in ((5_000, 200), (20_000, 413)):
            sent = {"files": ("photo.jpg", bytes(size))}
            assert client.post("/gradio_api/upload", files=sent).status_code == status
        (uploaded,) = client.post(
            "/gradio_api/upload", files={"files": ("../../up.jpg", b"x")}
        ).json()
        assert "/up.jpg" in uploaded and ".." not in uploaded
        # A file that was not uploaded here is not taken for one that was.
        opening = next(n for n, one in page.blocks.fns.items() if one.name == "photo_opened")
        data = [None, {"path": str(secret), "meta": {"_type": "gradio.FileData"}}, None, 0]
        joined = {"data": data, "fn_index": opening, "session_hash": "a"}
        client.post("/gradio_api/queue/join", json=joined)
        events = client.get("/gradio_api/queue/data", params={"session_hash": "a"}).text
        assert '"success":false' in events and "a secret" not in events


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image).astype(int)


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.array(one.convert("RGB")) for one in ImageSequence.Iterator(image)]
