"""Files of the user's own (``./file.py:Class``): imported and hashed with their neighbours."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from sisbench.core.errors import Broken, UserError

_INSTALLED = tuple(
    Path(path).resolve()
    for key in ("stdlib", "platstdlib", "purelib", "platlib")
    if (path := sysconfig.get_path(key))
)


def load_file(path: Path) -> ModuleType:
    """Import a Python file by path, under a name of its own. The modules beside it are importable,
    as for a script; two files of different folders may each have a neighbour of one name.

    Raises:
        UserError: the file is missing.
        Broken: it cannot be imported; says what it raised, and where.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}", "give the path as seen from the current folder")
    path = path.resolve()
    name = f"_sisbench_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _make_importable(path.parent)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is the user's: it may raise anything
        del sys.modules[name]
        raise Broken(f"{path} cannot be imported: {described(error)}", _hint(error)) from error
    return module


def _make_importable(folder: Path) -> None:
    """Put ``folder`` first on the path, and forget modules of the same name from other folders."""
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)
    for name, module in list(sys.modules.items()):
        if "." in name or name.startswith("_sisbench_file_"):
            continue
        file = getattr(module, "__file__", None)
        own = folder / f"{name}.py", folder / name / "__init__.py"
        there = any(candidate.is_file() for candidate in own)
        if there and file and _is_local(Path(file)) and Path(file).resolve() not in own:
            for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
                del sys.modules[loaded]


def as_user_error(error: Exception) -> UserError:
    """Any exception as one that a table can print: a ``UserError`` itself, else its line."""
    return error if isinstance(error, UserError) else UserError(described(error))


def described(error: BaseException) -> str:
    """``NameError: name 'x' is not defined (helper.py, line 3)``; the line is the last one of a
    file that is not installed, where there is one. A ``UserError`` is its message and its hint."""
    if isinstance(error, UserError):
        return error.message.splitlines()[0] + (f" ({error.hint})" if error.hint else "")
    place = ""
    if isinstance(error, SyntaxError):
        place = f" ({Path(error.filename or '?').name}, line {error.lineno})"
        return f"{type(error).__name__}: {error.msg}{place}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename.endswith(".py") and _is_local(Path(f.filename))]
    if not own and frames and "importlib" in frames[-1].filename:
        frames = traceback.StackSummary()  # Python's own machinery says nothing of where
    for frame in (own or list(frames))[-1:]:
        place = f" ({Path(frame.filename).name}, line {frame.lineno})"
    first = (str(error).splitlines() or [""])[0][:300]
    return f"{type(error).__name__}{first and ': '}{first}{place}"


def _hint(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"install '{error.name}' here, or put it beside the file"
    if isinstance(error, SystemExit):
        return "it ends the program when it is imported: guard that with if __name__ == '__main__'"
    return "mend the file; python FILE shows the whole error"


def class_digest(cls: type) -> str:
    """sha256 over the source of a class that is not sisbench's: its file and every local module
    that it imports, by name, whatever folder they lie in. "" for a class of sisbench."""
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if cls.__module__.split(".")[0] == "sisbench" or file is None:
        return ""
    return source_digest(Path(file))


def source_digest(path: Path) -> str:
    """sha256 over a Python file and the local modules that it imports, directly or not."""
    digest = hashlib.sha256()
    for name, file in sorted(local_sources(path).items()):
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def local_sources(path: Path) -> dict[str, Path]:
    """Name -> file of a Python file ("") and all local modules that it imports, also inside
    functions: modules beside it, and whatever else is found on the path but not installed."""
    path = path.resolve()
    found = {"": path}
    waiting: list[tuple[Path, str]] = [(path, "")]
    search = [str(path.parent), *sys.path]
    while waiting:
        file, package = waiting.pop()
        for name in _imported(file, package):
            for part, source in _resolved(name, search):
                if part not in found:
                    found[part] = source
                    inner = part if source.name == "__init__.py" else part.rpartition(".")[0]
                    waiting.append((source, inner))
    return found


def _imported(file: Path, package: str) -> Iterator[str]:
    """Dotted names that a file may import; ``from a import b`` gives ``a.b`` too."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(part for part in (*above, base) if part)
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _resolved(name: str, search: list[str]) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of a local module and of the packages that it lies in."""
    parts = name.split(".")
    places: Any = search
    for k in range(len(parts)):
        try:
            spec = PathFinder.find_spec(".".join(parts[: k + 1]), places)
        except (ImportError, ValueError):
            return
        if spec is None:
            return
        if spec.origin and spec.origin.endswith(".py"):
            file = Path(spec.origin).resolve()
            if not _is_local(file) or parts[0] == "sisbench":
                return
            yield ".".join(parts[: k + 1]), file
        places = spec.submodule_search_locations
        if places is None:
            return


def _is_local(file: Path) -> bool:
    """Whether a file is no part of Python, of an installed package, or of sisbench."""
    file = file.resolve()
    ours = Path(__file__).resolve().parents[1]
    return not any(folder in file.parents for folder in (*_INSTALLED, ours)) and not (
        {"site-packages", "dist-packages"} & set(file.parts)
    )
