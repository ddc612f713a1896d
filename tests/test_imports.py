"""Import directions of the design, read from the source, and what must not pull in torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"bench.types", "bench.errors", "bench.registry"}
PACKAGES = ("bench", "methods", "metrics", "segmenters")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, top_only: bool = False) -> set[str]:
    """Dotted names of our own modules that a file imports (``from a import b`` gives a and a.b)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    nodes = tree.body if top_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def under(name: str, *prefixes: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in prefixes)


@pytest.mark.parametrize("leaf", ["errors", "registry", "types"])
def test_leaves_import_leaves_only(leaf: str) -> None:
    for name in imports(ROOT / "bench" / f"{leaf}.py"):
        assert under(name, *LEAVES), f"bench/{leaf}.py imports {name}"


@pytest.mark.parametrize("package", ["methods", "segmenters", "metrics"])
def test_packages_import_only_leaves_of_bench(package: str) -> None:
    allowed = {
        "methods": ("methods",),
        "segmenters": ("segmenters",),
        "metrics": ("metrics", "segmenters"),
    }[package]
    # the weights registry is asked where a network is loaded; the toy parser's trainer draws its
    # own data: both only inside functions
    late = ("bench.weights", "bench.data")
    for path in modules(package):
        top = imports(path, top_only=True)
        for name in imports(path):
            lazy = name not in top and under(name, *late)
            fine = under(name, *LEAVES) or under(name, *allowed) or lazy or name == "bench"
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


def test_a_methods_folder_never_imports_another() -> None:
    folders = [p for p in (ROOT / "methods").iterdir() if p.is_dir() and p.name != "layers"]
    for folder in folders:
        for path in folder.rglob("*.py"):
            for name in imports(path):
                others = [f"methods.{o.name}" for o in folders if o != folder]
                assert not under(name, *others), f"{path.relative_to(ROOT)} imports {name}"


def test_layers_import_no_method() -> None:
    for path in modules("methods/layers"):
        for name in imports(path):
            assert (
                under(name, *LEAVES, "methods.layers", "methods.base", "methods.loadable")
                or name == "methods"
            ), f"{path.relative_to(ROOT)} imports {name}"


def test_report_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import bench.report, bench.pipeline, bench.cli, bench.explain, metrics\n"
        "for name in metrics.registry.names(): metrics.registry.get(name)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_does_not_load_torch() -> None:
    code = "import sys, bench.cli, methods, metrics, segmenters; assert 'torch' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
