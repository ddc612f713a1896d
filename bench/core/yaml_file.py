"""The one reader of YAML files: plain values alone, no key twice, every fault one clear line."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sisbench.core.errors import UserError, did_you_mean

_LARGEST = 4 << 20
_DEEPEST, _MOST = 40, 200_000
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice in one mapping."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    found: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise UserError(f"line {key_node.start_mark.line + 1}: a key must be a plain word")
        line = key_node.start_mark.line + 1
        if key in found:
            raise UserError(
                f"line {line}: the key '{key}' stands twice (first in line {found[key]})",
                "keep one of them",
            )
        found[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, where: str) -> Any:
    """Plain values (mappings, lists, strings, numbers, booleans, None, dates) of a YAML text.

    Args:
        where: names the text in errors.

    Raises:
        UserError: no YAML, a key that stands twice, tags that would make objects, a structure that
            holds itself or is absurdly deep or large.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)
    except UserError as error:
        raise UserError(f"{where}: {error.message}", error.hint) from error
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {_first_line(error)}") from error
    except (ValueError, OverflowError, RecursionError, TypeError) as error:
        raise UserError(f"{where}: a value cannot be read: {_first_line(error)}") from error
    _check_tree(raw, where)
    return raw


def read_yaml(path: Path, what: str = "file", missing_hint: str = "") -> Any:
    """``parse_yaml`` of a UTF-8 file; ``what`` it is, and what to do where it is missing.

    Raises:
        UserError: also where the file is missing, unreadable, no text, or too large.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no {what} {path}", missing_hint or _tried(path)) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise UserError(f"{path} has {len(data):,} bytes: that is no configuration")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error.reason}", "save it as UTF-8") from error
    return parse_yaml(text, str(path))


def _tried(path: Path) -> str:
    return "" if path.is_absolute() else f"looked for {path.absolute()}"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_tree(raw: Any, where: str) -> None:
    """Aliases may make a small text a tree without end."""
    level, count = [raw], 0
    for _ in range(_DEEPEST):
        count += len(level)
        if count > _MOST:
            break
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set):
                below += value
        if not below:
            return
        level = below
    raise UserError(f"{where} is deeper or larger than any configuration", "does it hold itself?")


def expanded(text: str) -> str:
    """A path with ``~`` and ``$VAR`` or ``${VAR}`` replaced.

    Raises:
        UserError: a variable that is not set, or no home folder for ``~``.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if name not in os.environ:
            raise UserError(
                f"'{text}': the variable {name} is not set", did_you_mean(name, os.environ)
            )
        return os.environ[name]

    filled = _VARIABLE.sub(value, text)
    if not filled.startswith("~"):
        return filled
    try:
        return str(Path(filled).expanduser())
    except RuntimeError as error:
        raise UserError(f"'{text}': there is no such home folder", "write the path out") from error
