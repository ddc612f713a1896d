"""Changes to a configuration from the command line: ``engine.device=cuda``, ``--limit 8``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.yaml_file import parse_yaml


def overridden(
    raw: Mapping[str, Any], assignments: Sequence[str], limit: int = 0
) -> dict[str, Any]:
    """A configuration with keys set.

    Args:
        raw: as read from YAML; it is not changed.
        assignments: ``place=value``. The place is made of keys, and in lists of positions or the
            label or name of an entry: ``engine.device=cuda``, ``methods.0.options.steps=20``,
            ``methods.SEAN.weights=x``. The value is YAML: ``[a, b]``, ``true``, ``null``.
        limit: at most so many items of every data set; 0 leaves them.

    Raises:
        UserError: no assignment, or a place that leads nowhere. Whether the configuration knows the
            key is found where it is validated.
    """
    found: dict[str, Any] = copy.deepcopy(dict(raw))
    for text in assignments:
        place, equals, value = text.partition("=")
        if not equals or not place.strip():
            raise UserError(f"'{text}' sets nothing", "write it as engine.device=cuda")
        _set(found, place.strip().split("."), parse_yaml(value, f"'{text}'"), text)
    if limit:
        if limit < 0:
            raise UserError(f"--limit must be at least 1, got {limit}")
        entries = found.get("datasets") or []
        if isinstance(entries, list):
            found["datasets"] = [_spelled(entry) | {"limit": limit} for entry in entries]
    return found


def named_values(pairs: Sequence[str], what: str) -> dict[str, Any]:
    """``["ngf=8"]`` as {"ngf": 8}; values are YAML.

    Args:
        what: the kind of thing that a pair sets, as messages name it.

    Raises:
        UserError: a pair without ``=``, or a value that is no YAML.
    """
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"'{pair}' is no {what}", "write it as name=value")
        found[key] = parse_yaml(value, f"'{pair}'")
    return found


def _spelled(entry: Any) -> dict[str, Any]:
    """``toyfaces`` as {name: toyfaces}, so that a key can be set in it."""
    if isinstance(entry, Mapping):
        return dict(entry)
    return {"name": entry}


def _set(root: dict[str, Any], steps: Sequence[str], value: Any, text: str) -> None:
    current: Any = root
    for step, following in zip(steps, [*steps[1:], None]):
        if isinstance(current, list):
            key: Any = _position(current, step, text)
            if following is not None:
                current[key] = _spelled(current[key])
        elif isinstance(current, dict):
            key = step
        else:
            raise UserError(
                f"'{text}': there is nothing below '{step}'", "see docs/configuration.md"
            )
        if following is None:
            current[key] = value
            return
        if isinstance(current, dict) and not isinstance(current.get(key), dict | list):
            if current.get(key) is not None:
                raise UserError(
                    f"'{text}': '{step}' is {current[key]!r}, which holds no '{following}'",
                    "write the whole value",
                )
            current[key] = {}
        current = current[key]


def _position(entries: list[Any], step: str, text: str) -> int:
    if step.isdecimal() and int(step) < len(entries):
        return int(step)
    labels: dict[str, int] = {}
    for k, entry in enumerate(entries):
        spelled = _spelled(entry)
        for label in (spelled.get("label"), spelled.get("name")):
            if isinstance(label, str):
                labels.setdefault(label, k)
    if step not in labels:
        known = did_you_mean(step, labels)
        raise UserError(f"'{text}': no entry '{step}' among {len(entries)}", known)
    return labels[step]
