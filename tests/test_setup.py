"""What `make setup` makes an environment of: an interpreter that fits, every package in use."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NOT_LOCKED = {"app", "iqa", "onnx", "optuna", "quantise"}
"""Extras that have to be installed by hand."""

OTHER_PYTHON = """\
#!/bin/sh
# A Python of another version, and what it was asked for.
echo "$@" >> {log}
test "$1" = --version && echo "Python {major}.{minor}.0" && exit
test "$1" = -c || exit 1
exec {python} -c "import sys; sys.version_info = ({major}, {minor}, 0); exec(sys.argv[1])" "$2"
"""


def locked(root: Path) -> dict[str, str]:
    lines = [line.split(";")[0].split("==") for line in (root / "requirements.lock").open()]
    return {canonicalize_name(x[0].strip()): x[1].strip() for x in lines if len(x) == 2}


def declared(root: Path) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [line for name, lines in extras.items() if name not in NOT_LOCKED for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *wanted)]


def test_the_lock_has_every_declared_package_at_an_allowed_version(repo_root: Path) -> None:
    versions = locked(repo_root)
    for one in declared(repo_root):
        assert one.specifier.contains(versions[canonicalize_name(one.name)]), str(one)


def test_the_lock_is_closed(repo_root: Path) -> None:
    """What a locked package needs on this platform is locked too, at a version that it allows."""
    versions = locked(repo_root)
    for name in versions:
        for line in importlib.metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert needed.specifier.contains(versions[canonicalize_name(needed.name)], True), (
                    f"{name}: {line}"
                )


def test_every_package_that_the_code_or_its_tests_import_is_declared(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = (*project["dependencies"], *(line for extra in extras for line in extra))
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    files = [repo_root / "train.py", repo_root / "eval.py"]
    for folder in ("src", "datamodules", "lit_models", "tests"):
        files += (repo_root / folder).rglob("*.py")
    providers = importlib.metadata.packages_distributions()
    own = {"genrefocus", "datamodules", "lit_models", "tests", *(file.stem for file in files)}
    unknown = {
        f"{file.relative_to(repo_root)}: {module}"
        for file in files
        for module in imported(file) - own - sys.stdlib_module_names
        if not names & {canonicalize_name(x) for x in providers.get(module, [module])}
    }
    assert not unknown


def imported(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    found += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in found}


@pytest.fixture
def make_setup(tmp_path: Path, repo_root: Path):
    """Run `make setup` in an empty checkout with an interpreter of a version: (result, log)."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(repo_root / name, tmp_path)
    log = tmp_path / "log"
    log.touch()

    def python(place: str, minor: int) -> None:
        file = tmp_path / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(OTHER_PYTHON.format(log=log, python=sys.executable, major=3, minor=minor))
        file.chmod(0o755)

    def run(minor: int, in_venv: int | None = None) -> tuple[subprocess.CompletedProcess, str]:
        python("python3", minor)
        if in_venv is not None:
            python(".venv/bin/python", in_venv)
            (tmp_path / ".venv/.ready").touch()
        command = ["make", "--no-print-directory", "setup", "PYTHON=./python3"]
        environment = {**os.environ, "MAKEFLAGS": ""}
        done = subprocess.run(
            command, check=False, cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        return done, log.read_text()

    return run


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("minor", "in_venv"), [(10, None), (14, None), (14, 14)])
def test_setup_names_an_interpreter_that_it_cannot_use(make_setup, minor, in_venv) -> None:
    done, log = make_setup(minor, in_venv)
    assert done.returncode == 2
    ours, makes = done.stderr.splitlines()
    assert f"is Python 3.{minor}.0. Name another: make setup PYTHON=python3.12" in ours
    assert "Error 1" in makes and "venv" not in log


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("minor", "in_venv"), [(11, None), (13, None), (13, 14)])
def test_setup_makes_the_environment_anew_where_it_has_to(make_setup, minor, in_venv) -> None:
    done, log = make_setup(minor, in_venv)
    assert "-m venv --clear .venv" in log  # which the interpreter of this test cannot
    assert "is needed" not in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_setup_ends_with_what_to_type_next(make_setup) -> None:
    done, log = make_setup(13, in_venv=13)
    assert done.returncode == 0 and "venv" not in log
    ready, shell = done.stdout.splitlines()
    assert ready == ".venv is ready. To train the whole scheme: make train"
    assert shell.endswith(". .venv/bin/activate")


@pytest.mark.parametrize(
    "start",
    [
        "runpy.run_path('train.py', run_name='__main__')",
        "runpy.run_path('eval.py', run_name='__main__')",
        "import genrefocus.cli",
    ],
)
def test_an_interpreter_that_hydra_fails_on_is_one_line(start: str, repo_root: Path) -> None:
    code = f"import runpy, sys; sys.version_info = (3, 14, 0); {start}"
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=repo_root, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "genrefocus needs Python 3.11, 3.12 or 3.13: make setup PYTHON=python3.12"
    ]
