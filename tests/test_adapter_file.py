"""Files of the user's own: imported with their neighbours, hashed with what they import."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sisbench.core.adapter_file import class_digest, load_file, local_sources, source_digest
from sisbench.core.errors import UserError


@pytest.fixture(autouse=True)
def _path_and_modules() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if "_here" in name or name.startswith("_sisbench"):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An adapter that imports a neighbour, a package, and, inside a function, one module more."""
    files = {
        "adapter.py": "import helper_here\nfrom nets_here.blocks import WIDTH\n\n\n"
        "class Mine:\n    shift = helper_here.SHIFT + WIDTH\n\n"
        "    def late(self):\n        import late_here\n        return late_here.X\n",
        "helper_here.py": "import numpy\nSHIFT = 1\n",
        "late_here.py": "X = 3\n",
        "unused_here.py": "Y = 1\n",
        "nets_here/__init__.py": "",
        "nets_here/blocks.py": "from . import base\nfrom .base import W\nWIDTH = W\n",
        "nets_here/base.py": "W = 2\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path / "adapter.py"


def test_neighbours_are_importable(project: Path) -> None:
    module = load_file(project)
    assert module.Mine.shift == 3
    assert module.Mine().late() == 3
    assert load_file(project) is module


def test_the_digest_covers_every_local_module_and_nothing_else(project: Path) -> None:
    assert set(local_sources(project)) == {
        "",
        "helper_here",
        "late_here",
        "nets_here",
        "nets_here.blocks",
        "nets_here.base",
    }
    first = source_digest(project)
    (project.parent / "unused_here.py").write_text("Y = 2\n")
    assert source_digest(project) == first
    for name in ("adapter.py", "helper_here.py", "late_here.py", "nets_here/base.py"):
        path = project.parent / name
        path.write_text(path.read_text() + "# edited\n")
        assert source_digest(project) != first, name
        first = source_digest(project)


def test_the_digest_follows_content_not_place(project: Path, tmp_path: Path) -> None:
    first = source_digest(project)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    assert source_digest(moved / "adapter.py") == first
    assert class_digest(load_file(moved / "adapter.py").Mine) == first
    assert class_digest(UserError) == ""


def test_two_folders_with_a_neighbour_of_one_name(tmp_path: Path) -> None:
    found = []
    for value in (1, 2):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "utils_here.py").write_text(f"X = {value}\n")
        (folder / "mine.py").write_text("import utils_here\nX = utils_here.X\n")
        found.append(load_file(folder / "mine.py").X)
    assert found == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_at_all\n", "No module named 'nowhere_at_all'.*install 'nowhere_at_all'"),
        ("x = (\n", r"SyntaxError: .*\(bad\.py, line 1\)"),
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero \(bad\.py, line 2\)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3.*__main__"),
        ("undefined\n", "NameError: name 'undefined'"),
    ],
)
def test_a_failing_import_says_what_was_raised_and_where(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_file(path)
    assert re.search(message, str(caught.value).replace("\n", " "))
