"""Lazy registries: built-in names, entry points of installed packages, and ``./file.py:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from sisbench.core.adapter_file import described, load_file
from sisbench.core.errors import Broken, UserError, did_you_mean


class Registry:
    """Names to classes, imported on first use.

    Args:
        group: entry-point group, as ``sisbench.methods``; a package may add names there.
        builtin: name -> ``"module:Attribute"``.
        base: ``"module:Class"`` that whatever a package or a file brings must derive from.
    """

    def __init__(self, group: str, builtin: Mapping[str, str], base: str) -> None:
        self.group, self.base = group, base
        self.kind = group.rsplit(".", 1)[-1].removesuffix("s")
        self._builtin = dict(builtin)

    def names(self) -> list[str]:
        """Every known name, built-in ones first, then those of installed packages."""
        found = {point.name for point in entry_points(group=self.group)}
        return list(self._builtin) + sorted(found - self._builtin.keys())

    def get(self, name: str) -> Any:
        """The class called ``name``, or the one at ``path/to/file.py:Class``.

        Raises:
            UserError: unknown name (the nearest one is named), missing file, missing class.
            Broken: a package's or a user's own, which cannot be imported or derives from something
                else.
        """
        if ".py" in name:
            return self._derived(name, self._from_file(name))
        target = self._builtin.get(name) or self._builtin.get(self._spelled(name))
        if target is None:
            for point in entry_points(group=self.group):
                if point.name == name:
                    return self._derived(name, self._from_package(point))
            raise UserError(
                f"no {self.kind} is called '{name}'",
                did_you_mean(name, self.names())
                + f" A file of yours works too: ./my.py:My{self.kind.title()}",
            )
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def all(self) -> tuple[dict[str, Any], dict[str, UserError]]:
        """(name -> class, name -> why it cannot be had) of every known name: a package that is
        broken costs itself alone."""
        found, broken = {}, {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except UserError as error:
                broken[name] = error
        return found, broken

    def _from_package(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (Exception, SystemExit) as error:  # a package is anybody's: it may raise anything
            package = point.dist.name if point.dist is not None else point.value
            raise Broken(
                f"{self.kind} '{point.name}' of the package {package} cannot be imported: "
                f"{described(error)}",
                "mend the package, or uninstall it",
            ) from error

    def _derived(self, name: str, found: Any) -> Any:
        """``found``, after a look that it is a class of this kind."""
        module, _, attribute = self.base.partition(":")
        base = getattr(importlib.import_module(module), attribute)
        if isinstance(found, type) and issubclass(found, base):
            return found
        raise Broken(
            f"'{name}' is no {self.kind}: {getattr(found, '__name__', found)} is no subclass of "
            f"{attribute}",
            f"derive it from {module}.{attribute}",
        )

    def _spelled(self, name: str) -> str:
        """The built-in name that a paper's spelling means: ``CA2-SIS`` is ``ca2sis``."""
        wanted = _bare(name)
        return next((known for known in self._builtin if _bare(known) == wanted), name)

    def _from_file(self, spec: str) -> Any:
        path_text, _, attribute = spec.rpartition(":")
        if not path_text or not attribute.isidentifier():
            raise UserError(
                f"'{spec}' does not name a class",
                f"write it as path/to/file.py:My{self.kind.title()}",
            )
        module = load_file(Path(path_text))
        found = getattr(module, attribute, None)
        if not isinstance(found, type):
            own = {n: v for n, v in vars(module).items() if isinstance(v, type)}
            classes = [n for n, v in own.items() if v.__module__ == module.__name__]
            raise UserError(
                f"{path_text} has no class '{attribute}'", did_you_mean(attribute, classes)
            )
        return found


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
