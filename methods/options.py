"""Options of methods: checked against their dataclass, and official option files read as such."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sisbench.core.errors import UserError, did_you_mean

Converted = Mapping[str, Any]

GAN_TRAINING = (
    *("norm_D", "ndf", "num_D", "n_layers_D"),
    *("gan_mode", "lambda_feat", "lambda_vgg", "lambda_kld"),
)
"""Discriminator and losses in option files of SPADE's code base, which SEAN, INADE and CA2-SIS
share."""


@dataclass(frozen=True)
class OfficialOptions:
    """How the keys of a method's official option files become fields of its ``Options``.

    The class attribute ``official`` of an ``Options`` dataclass holds one; keys that it does not
    list are taken by their own name.

    Attributes:
        training: keys that change no image (losses, discriminator): accepted and left out.
        fixed: keys that every published network sets to this one value; another is refused.
        aliases: official key -> our option. Two names of one quantity must agree.
        convert: official key -> function from its value to our options; a ValueError or TypeError
            in it is the user's error.
        sections: section -> the keys in it, read as above.
        own: within a section, the keys that are options of ours; at the top, all are.
        finish: what is left to do once all keys are read, where one needs another; as ``convert``.
    """

    training: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    convert: Mapping[str, Callable[[Any], Converted]] = field(default_factory=dict)
    sections: Mapping[str, OfficialOptions] = field(default_factory=dict)
    own: tuple[str, ...] = ()
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def keys(self) -> set[str]:
        """Every key that this level knows."""
        known = (self.training, self.fixed, self.aliases, self.convert, self.sections, self.own)
        return {key for group in known for key in group}


def translate(given: Mapping[str, Any], options_type: type, owner: str) -> dict[str, Any]:
    """``given`` by the names of ``options_type``; lists become tuples.

    Raises:
        UserError: an unknown key (the nearest is named), a fixed quantity with another value, or
            one quantity given twice with different values.
    """
    names = tuple(f.name for f in dataclasses.fields(options_type))
    official = getattr(options_type, "official", OfficialOptions())
    top = dataclasses.replace(official, own=names)
    flat: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, ours, value in _entries(given, top, owner, ""):
        if value is None and key != ours:
            continue  # a second name that is left open says nothing
        if ours in flat and flat[ours] != value:
            raise UserError(
                f"{owner}: the options contradict one another: "
                f"{origin[ours]}={flat[ours]!r}, {key}={value!r}",
                f"'{ours}' is one quantity: give it once",
            )
        flat[ours], origin[ours] = value, key
    if official.finish is None:
        return flat
    try:
        return official.finish(flat)
    except (ValueError, TypeError) as error:
        raise UserError(f"{owner}: {error}") from error


def _entries(
    given: Mapping[str, Any], level: OfficialOptions, owner: str, prefix: str
) -> Iterator[tuple[str, str, Any]]:
    """(key as it was given, our name, value) of every key that is an option."""
    for key, value in given.items():
        name, value = f"{prefix}{key}", tuple(value) if isinstance(value, list) else value
        if key in level.convert:
            try:
                converted = level.convert[key](value)
            except (ValueError, TypeError) as error:
                raise UserError(f"{owner}: {name}: {error}") from error
            yield from ((name, ours, found) for ours, found in converted.items())
        elif key in level.sections:
            if not isinstance(value, Mapping):
                raise UserError(f"{owner}: {name} is a section of options, got {value!r}")
            yield from _entries(value, level.sections[key], owner, f"{name}.")
        elif key in level.fixed:
            only = level.fixed[key]
            if value != only:
                raise UserError(f"{owner}: {name} must be {only!r}, got {value!r}")
        elif key in level.training:
            continue
        elif key in level.aliases or key in level.own:
            yield name, level.aliases.get(key, key), value
        else:
            raise UserError(f"{owner} has no option '{name}'", did_you_mean(key, level.keys()))


def parse_options(options_type: type, given: Mapping[str, Any], owner: str) -> Any:
    """``options_type`` from our names or an official option file's, each value checked.

    Raises:
        UserError: as ``translate``; a value of another type, or one that the dataclass refuses.
    """
    flat = translate(given, options_type, owner)
    hints = typing.get_type_hints(options_type)
    for key, value in flat.items():
        if not fits(value, hints[key]):
            raise UserError(
                f"{owner}: option '{key}' must be {_words(hints[key])}, got {value!r}",
                _remedy(value),
            )
    try:
        return options_type(**flat)
    except (ValueError, TypeError) as error:
        raise UserError(f"{owner}: {error}") from error


def require_positive(options: Any, *names: str) -> None:
    """Raises ValueError where one of the fields is 0 or less."""
    for name in names:
        if getattr(options, name) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(options, name)}")


def require_not_negative(options: Any, *names: str) -> None:
    """Raises ValueError where one of the fields is below 0."""
    for name in names:
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must not be negative, got {getattr(options, name)}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type (int passes for float, bool for neither)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = args[:1] * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(wanted) and all(map(fits, value, wanted))
    if origin is typing.Literal:
        return value in args
    kind = origin or hint
    if kind is Any:
        return True
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _remedy(value: Any) -> str:
    """What to do about text that Python, but not YAML 1.1, reads as a number."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        number = None
    return "" if number is None else f"write it as {number!r}: YAML reads {value} as text"


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
