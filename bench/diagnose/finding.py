"""What a diagnosis says: one finding a line, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One line: ``state`` is "ok", "warn" (something will be absent) or "fail" (what was asked for
    will fail)."""

    state: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""
