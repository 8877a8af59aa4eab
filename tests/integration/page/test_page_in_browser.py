"""``genrefocus serve`` in a real browser: upload, click, drag; what changes, and what must not."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import SECONDS, Tab, chromium, find_chromium

pytest.importorskip("gradio", reason="the page needs Gradio, the extra app")

HEIGHT, WIDTH = 240, 320

# Contrast of the left and the right third of an image, 0 to 255, and the image itself, in greys.
SEEN = """
(async (selector) => {
  const image = document.querySelector(selector);
  if (!image || !image.complete || !image.naturalWidth) return null;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const third = Math.floor(canvas.width / 3);
  const contrast = (left) => {
    const data = context.getImageData(left, 0, third, canvas.height).data;
    const greens = [...data].filter((_, index) => index % 4 === 1);
    const mean = greens.reduce((a, b) => a + b) / greens.length;
    return Math.sqrt(greens.reduce((a, b) => a + (b - mean) ** 2, 0) / greens.length);
  };
  return [contrast(0), contrast(canvas.width - third)];
})
"""


@pytest.fixture
def served(
    tmp_path: Path, write_echo_run: Callable[[Path, Path], None]
) -> Iterator[tuple[str, Path, Path]]:
    """The address of the page, and files: grey noise, near on the left and far on the right."""
    find_chromium()
    write_echo_run(tmp_path / "outputs/semi_supervised/one", tmp_path / "base.safetensors")
    photo, depth = tmp_path / "photo.png", tmp_path / "depth.npy"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 2, WIDTH // 2), dtype=np.uint8)
    Image.fromarray(noise.repeat(2, 0).repeat(2, 1)).convert("RGB").save(photo)
    metres = np.ones((HEIGHT, WIDTH), np.float32)
    metres[:, WIDTH // 2 :] = 4
    np.save(depth, metres)
    command = [sys.executable, "-m", "genrefocus.cli", "serve", "run=latest", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("the page is at http://127.0.0.1:"), line
            yield line.split()[4].rstrip(";"), photo, depth
        finally:
            server.terminate()


def seen(tab: Tab, selector: str = "#preview img") -> list[float]:
    return tab.wait(f"({SEEN})({selector!r})")


def changed(tab: Tab, act: Callable[[], object]) -> list[float]:
    """What the preview shows after an action, when there is another one."""
    source = "document.querySelector('#preview img')?.src"
    before = tab.run(source)
    act()
    tab.wait(source, lambda now: now is not None and now != before)
    return seen(tab)


def test_upload_click_and_drag(served: tuple[str, Path, Path], tmp_path: Path) -> None:
    address, photo, depth = served
    with chromium(tmp_path / "profile", "--window-size=1300,900") as tab:
        tab.open(address)
        tab.wait("document.querySelector('#photo input[type=file]') !== null")
        plain = changed(tab, lambda: tab.choose_file("#photo input[type=file]", photo))
        assert min(plain) > 50
        tab.wait("document.querySelector('#note').innerText.includes('--depth-model')")
        changed(tab, lambda: tab.choose_file("#depth-file input[type=file]", depth))
        tab.wait("document.querySelector('#result-note').innerText.includes('320x240 px')")

        # At first the focus is in the middle, which is far.
        near = changed(tab, lambda: tab.click("#preview img", 0.1, 0.5))
        assert near[1] < 0.6 * plain[1] and near[0] == pytest.approx(plain[0], rel=0.03)
        far = changed(tab, lambda: tab.click("#preview img", 0.9, 0.5))
        assert far[0] < 0.6 * plain[0] and far[1] == pytest.approx(plain[1], rel=0.03)

        def drag_to_the_left() -> None:
            slider = "#k input[type=range]"
            tab.mouse("Pressed", *tab.at(slider, 0.6))
            for part in (0.5, 0.3, 0.1):
                tab.mouse("Moved", *tab.at(slider, part))

        changed(tab, drag_to_the_left)
        tab.mouse("Released", *tab.at("#k input[type=range]", 0.02))
        k = "document.querySelector('#k input[type=range]').value"
        tab.wait(f"Number({k})", lambda value: 0 < value < 5)
        tab.wait(f"document.querySelector('#note').innerText.includes('K ' + {k} + ':')")
        little = seen(tab)
        assert far[0] < little[0] and little[1] == pytest.approx(plain[1], rel=0.03)

        # The networks, which here return what they are given, have followed.
        tab.wait(f"({SEEN})('#result img')")
        tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        tab.click("#download")
        end = time.monotonic() + SECONDS
        while not (found := [*tmp_path.glob("photo_k*.png")]) and time.monotonic() < end:
            time.sleep(0.05)
        with Image.open(found[0]) as result:
            assert result.size == (WIDTH, HEIGHT)
        elsewhere = [url for url in tab.requests if not url.startswith((address, "data:", "blob:"))]
        assert elsewhere == [] and tab.errors == []
