"""Lazy registries: built-in names, entry points of installed packages, and ``./file.py:Class``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sisbench.core.adapter_file import load_file
from sisbench.core.errors import UserError, did_you_mean


class Registry:
    """Names to classes, imported on first use.

    Args:
        group: entry-point group, as ``sisbench.methods``; a package may add names there.
        builtin: name -> ``"module:Attribute"``.
    """

    def __init__(self, group: str, builtin: Mapping[str, str]) -> None:
        self.group = group
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
        """
        if ".py" in name:
            return self._from_file(name)
        target = self._builtin.get(name) or self._builtin.get(self._spelled(name))
        if target is None:
            for point in entry_points(group=self.group):
                if point.name == name:
                    loaded = point.load()
                    if not isinstance(loaded, type):
                        raise UserError(f"entry point {self.group}:{name} is no class")
                    return loaded
            raise UserError(
                f"no {self.kind} is called '{name}'",
                did_you_mean(name, self.names())
                + f" A file of yours works too: ./my.py:My{self.kind.title()}",
            )
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module), attribute)

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
            classes = [n for n, v in vars(module).items() if isinstance(v, type)]
            raise UserError(
                f"{path_text} has no class '{attribute}'", did_you_mean(attribute, classes)
            )
        return found


def _bare(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")
