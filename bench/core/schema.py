"""Strict models of YAML: an unknown key is an error that names the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sisbench.core.errors import UserError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def validated(model: type[Model], raw: Any, where: str) -> Model:
    """``raw`` as ``model``.

    Raises:
        UserError: every fault in one message, with its place and, for unknown keys, the nearest
        one.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        faults = []
        for fault in _causes(error.errors()):
            place = ".".join(str(p) for p in fault["loc"]) or "(top)"
            message = fault["msg"].removeprefix("Value error, ")
            if fault["type"] == "extra_forbidden":
                known = _fields_at(model, fault["loc"][:-1])
                message = f"unknown key; {did_you_mean(str(fault['loc'][-1]), known)}"
            elif fault["type"] == "missing":
                message = "this key is required"
            elif "input" in fault and not isinstance(fault["input"], Mapping | list | tuple):
                value = repr(fault["input"])
                message += "" if value in message else f", got {value}"
            faults.append(f"{place}: {message}")
        raise UserError(f"{where}: " + "; ".join(faults), "see docs/configuration.md") from error


def _causes(faults: Sequence[Any]) -> list[Any]:
    """Without the lists that are only too short because a member of theirs was refused."""
    places = [fault["loc"] for fault in faults]

    def follows(fault: Any) -> bool:
        n = len(fault["loc"])
        within = any(len(place) > n and place[:n] == fault["loc"] for place in places)
        return fault["type"] == "too_short" and within

    return [fault for fault in faults if not follows(fault)]


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Field names of the sub-model at ``place`` (indices of lists are skipped)."""
    current: Any = model
    for step in place:
        if isinstance(step, str) and step in getattr(current, "model_fields", {}):
            current = current.model_fields[step].annotation
            for inner in getattr(current, "__args__", ()):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    current = inner
    return list(getattr(current, "model_fields", {}))
