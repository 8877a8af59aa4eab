"""A headless Chromium that a test drives by the DevTools protocol, over pipes."""

import base64
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECONDS = 90  # on a machine that does something else as well


def find_chromium() -> str:
    """A Chromium, or that which GENREFOCUS_BROWSER names; the test is skipped without one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    for name in [os.environ.get("GENREFOCUS_BROWSER"), *names]:
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no Chromium on PATH and none named by GENREFOCUS_BROWSER")


class Tab:
    """One tab: it loads pages, runs scripts, and does with the mouse what a user would."""

    def __init__(self, commands: Any, answers: Any) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._session = 0, ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The answer to a command of the protocol; what is reported meanwhile is noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _read(self) -> Any:
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        return json.loads(text)

    def _note(self, event: Any) -> None:
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(event["params"]["exceptionDetails"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression, or of what it promises."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, fine: Callable[[Any], bool] = bool) -> Any:
        """The value of an expression, as soon as it is fine."""
        end = time.monotonic() + SECONDS
        while not fine(value := self.run(script)):
            assert time.monotonic() < end, f"{script} is still {value}"
            time.sleep(0.05)
        return value

    def open(self, address: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an input element."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event of the left button: Pressed, Moved or Released, in px of the window."""
        buttons = 0 if kind == "Released" else 1
        more = {"button": "left", "buttons": buttons, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **more)

    def at(self, selector: str, across: float = 0.5, down: float = 0.5) -> tuple[float, float]:
        """The point of an element in the window, after it was scrolled into sight."""
        script = (
            "(e => {e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        x, y, width, height = self.run(script)
        return x + across * width, y + down * height

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Click on an element, in parts of its width and height."""
        point = self.at(selector, across, down)
        self.mouse("Pressed", *point)
        self.mouse("Released", *point)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def chromium(profile: Path, *options: str) -> Iterator[Tab]:
    """A tab of a headless Chromium of its own, whose profile is in a folder."""
    command = [find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-pipe"]
    command += [f"--user-data-dir={profile}", *options, "about:blank"]
    ours, theirs = zip(_pipe(), reversed(_pipe()), strict=True)
    # It reads commands from file 3 and writes answers to file 4.
    files = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(theirs, 3)]
    files += [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]  # type: ignore[list-item]
    browser = os.posix_spawn(command[0], command, os.environ, file_actions=files)
    for end in theirs:
        os.close(end)
    with os.fdopen(ours[0], "wb") as sent, os.fdopen(ours[1], "rb") as received:
        try:
            yield Tab(sent, received)
        finally:
            os.kill(browser, signal.SIGTERM)
            os.waitpid(browser, 0)


def _pipe() -> tuple[int, int]:
    """The ends to write to and to read from, clear of the first files."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[1], high[0]
