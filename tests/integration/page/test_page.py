"""The page without a browser: its handlers are called as Gradio calls them, its server is asked."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import piexif
import pytest
from PIL import Image, ImageSequence

from genrefocus.cli import main

gr = pytest.importorskip("gradio", reason="the page needs Gradio, the extra app")
from starlette.testclient import TestClient  # noqa: E402

from genrefocus.page.handlers import Page  # noqa: E402
from genrefocus.page.serving import application  # noqa: E402
from tests.visitor import HEIGHT, WIDTH, Visitor, at_f1  # noqa: E402


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
