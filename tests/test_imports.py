"""The floor plan of the design, read from the source, and what must not pull in torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "sisbench": "bench",
    "sisbench.methods": "methods",
    "sisbench.metrics": "metrics",
    "sisbench.segmenters": "segmenters",
    "sisbench.results": "results",
}
# room -> rooms that it may import; the whole plan, without an exception
PLAN = {
    "core": set(),
    "results": set(),
    "methods": {"core"},
    "segmenters": {"core"},
    "metrics": {"core", "segmenters"},
    "data": {"core"},
    "config": {"core"},
    "protocol": {"core"},
    "run": {"core", "methods", "data", "config", "protocol"},
    "score": {"core", "metrics", "segmenters", "data", "config", "protocol"},
    "report": {"core", "config", "protocol", "results"},
    "training": {"core", "methods", "segmenters", "metrics", "data", "config"},
    "diagnose": {"core", "methods", "metrics", "segmenters", "data", "config", "protocol", "run"}
    | {"score", "share"},
    "share": {"core", "metrics", "data", "config", "protocol", "score", "report"},
    "perf": {"core", "methods", "metrics", "segmenters", "data", "score", "diagnose"},
}
TOP = {"cli", "commands", "pipeline", "__main__", "__init__"}  # may import every room


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def sources() -> dict[str, Path]:
    """Module name -> file, of everything that is imported as sisbench."""
    found = {}
    for name, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((name, *(p for p in inner if p != "__init__")))] = path
    return found


def imports(path: Path, typing_too: bool = False) -> set[str]:
    """Dotted names of our modules that a file imports, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only and not typing_too:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    known = sources()
    names = {n if n in known else n.rpartition(".")[0] for n in found if n.startswith("sisbench")}
    return {name for name in names if name}


@pytest.mark.parametrize("module", sources())
def test_every_module_keeps_to_the_floor_plan(module: str) -> None:
    room = room_of(module)
    if room in TOP:
        return
    for name in imports(sources()[module], typing_too=True):
        other = room_of(name)
        assert other == room or other in PLAN[room], f"{module} imports {name}"


def test_the_plan_names_every_room() -> None:
    rooms = {room_of(module) for module in sources()}
    assert rooms == set(PLAN) | TOP


def test_no_circles() -> None:
    graph = {m: imports(p) - {m} for m, p in sources().items()}
    state: dict[str, int] = {}

    def visit(module: str, path: tuple[str, ...]) -> None:
        if state.get(module) == 2:
            return
        assert state.get(module) != 1, f"circle: {' -> '.join((*path, module))}"
        state[module] = 1
        for name in graph.get(module, ()):
            visit(name, (*path, module))
        state[module] = 2

    for module in graph:
        visit(module, ())


def test_no_import_of_bare_names_anywhere() -> None:
    bare = {"bench", "methods", "metrics", "segmenters", "results"}
    files = [*sources().values(), *(ROOT / "tests").rglob("*.py")]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in bare, f"{path.relative_to(ROOT)} imports {name}"


def test_no_module_shadows_a_standard_one() -> None:
    for module, path in sources().items():
        leaf = module.rpartition(".")[2]
        if path.name == "__init__.py" or room_of(module) in ("__main__",):
            continue
        assert leaf not in sys.stdlib_module_names - SAME_WORD, f"{module} shadows '{leaf}'"


SAME_WORD = {"statistics", "resource", "code"}


def test_a_methods_folder_never_imports_another() -> None:
    folders = [p for p in (ROOT / "methods").iterdir() if p.is_dir() and p.name != "layers"]
    for folder in folders:
        for path in folder.rglob("*.py"):
            for name in imports(path):
                others = {f"sisbench.methods.{o.name}" for o in folders if o != folder}
                there = {".".join(name.split(".")[:3])}
                assert not there & others, f"{path.relative_to(ROOT)} imports {name}"


def test_layers_import_no_method() -> None:
    fine = ("layers", "base", "loadable", "key_map", "options", "training")
    for module, path in sources().items():
        if module.startswith("sisbench.methods.layers"):
            for name in imports(path):
                inner = name.split(".")
                assert inner[1] == "core" or inner[2] in fine, f"{module} imports {name}"


def test_report_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import sisbench.report, sisbench.pipeline, sisbench.cli, sisbench.diagnose.explain\n"
        "from sisbench import metrics\n"
        "for name in metrics.registry.names(): metrics.registry.get(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_does_not_load_torch() -> None:
    code = (
        "import sys, sisbench.cli, sisbench.methods, sisbench.metrics, sisbench.segmenters\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
