"""Commands in processes of their own that need not import torch, lightning and diffusers.

Importing is most of what a short command takes. A server (multiprocessing's) imports them once and
forks. What importing itself does, the tests of the entry points see: test_usage_errors and
unit/cli/test_start.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["genrefocus.cli.doctor", "genrefocus.network", "datamodules", "lit_models.evaluation"]
)


class Python(ForkServerProcess):
    """``python *command`` in the checkout and in a session of its own.

    What it prints is appended to ``out`` and ``err``, by default both to ``out``.
    """

    def __init__(self, *command: str, out: Path, err: Path | None = None) -> None:
        super().__init__()
        self.command, self.files = command, (out, err or out)
        self.environment = dict(os.environ)
        self.start()

    def run(self) -> None:
        multiprocessing.set_start_method(None, force=True)  # as in a program of its own
        os.setsid()
        os.chdir(ROOT)
        os.environ.clear()
        os.environ.update(self.environment)
        for standard, path in zip((1, 2), self.files, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), standard)
        try:
            if self.command[0] == "-m":
                sys.argv = list(self.command[1:])
                runpy.run_module(self.command[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = list(self.command)
                runpy.run_path(self.command[0], run_name="__main__")
        finally:  # in the order of an interpreter that ends
            threading._shutdown()
            atexit._run_exitfuncs()

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.join(timeout)
        return self.exitcode


def python(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end; ``folder`` holds what it prints until then."""
    out, err = folder / "stdout", folder / "stderr"
    for file in (out, err):
        file.write_text("")
    status = Python(*command, out=out, err=err).wait()
    return subprocess.CompletedProcess(command, status, out.read_text(), err.read_text())
