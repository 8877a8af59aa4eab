"""One direction of dependency, read from the imports of every module.

``ALLOWED`` is the architecture: what a part may import, anything else is an error. A part is a
module or package of the library (a dotted row such as ``data.sample`` takes precedence over the
row of its package), one of the two Lightning packages, or an entry point.
"""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

CORE = {"rejection", "optics", "geometry"}
MODEL = {"noise", "flow", "sampling", "backbone", "denoiser", "network", "network_card"}

ALLOWED: dict[str, set[str]] = {
    # The domain.
    "genrefocus": set(),
    "rejection": set(),
    "terminal": set(),
    "writing": set(),
    "optics": {"rejection"},
    "geometry": {"optics", "rejection"},
    "photograph": CORE,
    "render": CORE | {"photograph"},
    "world": CORE | {"render"},
    "metrics": CORE | {"render", "writing"},
    "k_search": CORE | {"metrics", "render"},
    # The model.
    "noise": set(),
    "flow": {"rejection"},
    "sampling": {"flow", "rejection"},
    "backbone": {"noise", "flow", "sampling", "rejection", "render", "writing"},
    "denoiser": {"noise", "backbone", "flow", "sampling"},
    "network_card": {"flow", "sampling", "runs", "terminal", "writing"},
    "network": {"noise", "denoiser", "backbone", "sampling", "network_card", "geometry", "render"},
    "hub": {"network", "network_card", "runs", "writing"},
    "compat": {"backbone", "denoiser", "flow", "sampling"},
    "estimators": CORE | {"data"},
    "captioner": {"data.sample"},
    "focus": CORE | {"estimators", "k_search", "render"},
    "pipeline": CORE | MODEL | {"estimators", "focus", "hub", "render"},
    # Samples and shards; what makes them sits above the renderer and the pipeline.
    "data.sample": CORE,
    "data": CORE | {"data.sample", "photograph", "writing"},
    "preparation.item": {"rejection"},
    "preparation.ledger": {"data", "rejection"},
    "preparation": (
        CORE
        | {
            "preparation.item",
            "preparation.ledger",
            "metrics",
            "data",
            "data.sample",
            "photograph",
            "render",
            "world",
        }
        | {"estimators", "k_search", "report", "terminal", "writing"}
    ),
    "embedded": CORE
    | {
        "metrics",
        "data",
        "data.sample",
        "render",
        "world",
        "preparation",
        "preparation.item",
        "terminal",
        "writing",
    },
    # Use.
    "network_methods": {
        "focus",
        "optics",
        "network",
        "network_card",
        "pipeline",
        "render",
        "benchmark",
        "estimators",
        "world",
    },
    "page": CORE
    | {"data", "data.sample", "estimators", "focus", "photograph", "pipeline", "render"},
    "report": CORE | {"data", "data.sample", "render", "writing"},
    "benchmark": (
        CORE
        | {"k_search", "metrics", "render", "world", "data", "data.sample", "preparation.item"}
        | {"report", "runs", "terminal", "writing"}
    ),
    "benchmark.lightfield": (
        CORE
        | {"data", "data.sample", "render", "world", "preparation", "preparation.item", "writing"}
    ),
    # Training: neither package imports the other, data.sample is the contract between them.
    "datamodules": CORE | {"data", "data.sample", "preparation.ledger", "render", "world"},
    "lit_models": CORE
    | MODEL
    | {"metrics", "world", "data.sample", "report"}
    | {"runs", "terminal", "writing"},
    "runs": {"writing"},
    # Configurations are composed and checked here.
    "configuration": {"data", "runs", "terminal", "writing"},
    "preflight": (
        {"configuration", "photograph", "data", "data.sample", "metrics", "backbone", "denoiser"}
        | {"flow", "geometry", "rejection", "sampling", "terminal"}
    ),
    # What a run does of its configuration; beside the former, all that reads one.
    "lit_models.evaluation": (
        {"lit_models.ranks", "backbone", "benchmark", "data", "network", "network_card"}
        | {"network_methods", "report", "pipeline", "runs", "terminal", "writing"}
    ),
    "lit_models.ranks": {"data"},
    "lit_models.stages": (
        {"lit_models", "lit_models.ranks", "backbone", "network", "network_card"}
        | {"preparation", "preparation.item", "preparation.ledger", "runs", "terminal", "writing"}
    ),
}
# The entry points parse and call: nothing imports them, and they do not import each other.
ENTRY_POINTS = ("cli", "train", "eval")
ALLOWED |= {
    "train": {"configuration", "preflight", "runs", "terminal"}
    | {"lit_models", "lit_models.evaluation", "lit_models.ranks", "lit_models.stages"},
    "eval": {"configuration", "lit_models.evaluation", "lit_models.ranks", "runs", "terminal"},
    "cli": {name for name in ALLOWED if not name.startswith(("lit_models", "datamodules"))},
}
CONFIGURED = (
    *(*ENTRY_POINTS, "configuration", "preflight"),
    *("lit_models.evaluation", "lit_models.stages"),
)

# Formulas depend on arrays alone, and naming an error or the version costs no import.
ARRAYS = {"torch", "numpy", "einops"}
THIRD_PARTY = {
    "genrefocus": set(),
    "rejection": set(),
    "optics": ARRAYS,
    "geometry": ARRAYS | {"PIL"},  # whose Lanczos filter is the released one
    "flow": ARRAYS,
    "noise": ARRAYS,
}
# No config object below the entry points; no trainer below the Lightning packages.
FRAMEWORKS = {
    "hydra": CONFIGURED,
    "omegaconf": CONFIGURED,
    "lightning": (
        *("train", "eval", "datamodules"),
        *("lit_models", "lit_models.ranks", "lit_models.stages"),
    ),
    "pytorch_lightning": (),
    "lightning_fabric": (),
}
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
OWN = ("genrefocus", "datamodules", "lit_models", "train", "eval")


def sources(root: Path) -> dict[str, Path]:
    """Dotted module name -> file, for everything the rules cover."""
    found = {}
    for base, top in ((root / "src", "genrefocus"), (root, "datamodules"), (root, "lit_models")):
        for path in sorted((base / top).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found |= {name: root / f"{name}.py" for name in ("train", "eval")}
    return {name: path for name, path in found.items() if path.is_file()}


def part(module: str) -> str | None:
    """The most specific row of ``ALLOWED`` that covers ``module``; None where there is none."""
    name = module.removeprefix("genrefocus.")
    while name not in ALLOWED and "." in name:
        name = name.rpartition(".")[0]
    return name if name in ALLOWED else None


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and dotted target of every import, wherever in the file it stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in known else base


def objection(source: str, target: str) -> str | None:
    """Why part ``source`` may not import module ``target``; None where it may."""
    top = target.partition(".")[0]
    if top in OWN:
        wanted = part(target)
        if wanted in ({source, "genrefocus"} | ALLOWED[source]):
            return None
        return f"{source} may import {', '.join(sorted(ALLOWED[source])) or 'nothing'}"
    if top in FRAMEWORKS and source not in FRAMEWORKS[top]:
        return f"only {', '.join(FRAMEWORKS[top]) or 'nobody'} may import {top}"
    if source in THIRD_PARTY and top not in THIRD_PARTY[source] | sys.stdlib_module_names:
        return f"{source} may import {', '.join(sorted(THIRD_PARTY[source])) or 'no library'}"
    return None


def violations(root: Path) -> list[str]:
    """Everything in the checkout ``root`` that breaks the rules, one line each."""
    known, found = sources(root), []
    for module, path in known.items():
        where = path.relative_to(root)
        if NAMELESS & set(where.with_suffix("").parts):
            found.append(f"{where}: a name that says nothing; name it after what it knows")
            continue
        source = part(module)
        if source is None:
            found.append(f"{where}: no row in ALLOWED covers {module}; add one")
            continue
        for line, target in imports(module, path, known):
            if reason := objection(source, target):
                found.append(f"{where}:{line}: imports {target}; {reason}")
    return found


def test_imports_point_one_way(repo_root: Path) -> None:
    assert len(sources(repo_root)) > 1
    assert not (found := violations(repo_root)), "\n".join(found)


def test_the_table_has_no_cycle() -> None:
    assert list(TopologicalSorter(ALLOWED).static_order())


def test_the_map_names_every_room(repo_root: Path) -> None:
    library = repo_root / "src" / "genrefocus"
    rooms = {path.stem for path in library.glob("[a-z]*.py")}
    rooms |= {path.parent.name for path in library.glob("[a-z]*/__init__.py")}
    named = re.findall(
        r"^- ``(\w+)``", ast.get_docstring(ast.parse((library / "__init__.py").read_text())), re.M
    )
    assert sorted(named) == sorted(rooms)


def test_unit_tests_mirror_the_sources(repo_root: Path) -> None:
    """A folder of tests/unit is a package; a file beside them begins with the name of a module."""
    modules = {name.removeprefix("genrefocus.") for name in sources(repo_root)}
    unit = repo_root / "tests" / "unit"
    for path in sorted(unit.rglob("test_*.py")):
        *folders, file = path.relative_to(unit).with_suffix("").parts
        if folders:
            assert ".".join(folders) in modules, f"{path}: no package {'.'.join(folders)} in src"
        else:
            named = [name for name in modules if f"{file}_".startswith(f"test_{name}_")]
            assert named, f"{path}: no module of src is called so"


LIBRARY = "src/genrefocus"


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        (f"{LIBRARY}/optics.py", "from genrefocus.render import lens", "imports genrefocus.render"),
        (f"{LIBRARY}/optics.py", "from genrefocus import flow", "imports genrefocus.flow"),
        (f"{LIBRARY}/optics.py", "def f():\n    import scipy", "optics may import einops"),
        (
            f"{LIBRARY}/render/lens.py",
            "from .. import runs",
            "imports genrefocus.runs",
        ),
        (
            f"{LIBRARY}/render/__init__.py",
            "from .. import runs",
            "imports genrefocus.runs",
        ),
        (f"{LIBRARY}/benchmark/a.py", "import genrefocus.backbone.lora", "imports genrefocus.back"),
        (f"{LIBRARY}/data/shards.py", "from genrefocus.embedded import p", "genrefocus.embedded"),
        (f"{LIBRARY}/sampling.py", "import lightning.pytorch as pl", "may import lightning"),
        (f"{LIBRARY}/flow.py", "from omegaconf import DictConfig", "may import omegaconf"),
        (f"{LIBRARY}/pipeline.py", "from lit_models import bokehnet", "imports lit_models"),
        (f"{LIBRARY}/render/utils.py", "", "says nothing"),
        (f"{LIBRARY}/helpers/a.py", "", "says nothing"),
        (f"{LIBRARY}/cli/a.py", "import lit_models", "imports lit_models"),
        (f"{LIBRARY}/novelty.py", "", "no row in ALLOWED"),
        ("datamodules/mix.py", "from lit_models.bokehnet import BokehNet", "imports lit_models"),
        ("lit_models/bokehnet.py", "import hydra", "may import hydra"),
        ("lit_models/bokehnet.py", "from genrefocus.data.shards import S", "data.shards"),
        ("train.py", "import eval", "imports eval"),
        ("train.py", "from genrefocus.cli import main", "imports genrefocus.cli"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    plant(tmp_path, "src/genrefocus/runs.py", "import math\n")
    plant(tmp_path, "src/genrefocus/flow.py", "import math\n\nimport torch\n")
    plant(tmp_path, "src/genrefocus/network_card.py", "from genrefocus import __version__\n")
    plant(tmp_path, "train.py", "import hydra\nfrom genrefocus.runs import f\nimport lit_models\n")
    plant(tmp_path, "lit_models/deblurnet.py", "import lightning\nfrom genrefocus import flow\n")
    assert violations(tmp_path) == []
    plant(tmp_path, file, code)
    assert [complaint in line for line in violations(tmp_path)] == [True]


def plant(root: Path, file: str, code: str) -> None:
    """Write a source file into a checkout made for a test."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(code, encoding="utf-8")
