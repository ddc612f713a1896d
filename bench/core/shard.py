"""One shard of a run, as ``3/16``: the third of sixteen equal shares of its images."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sisbench.core.errors import UserError

_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """Shard ``number`` of ``of``, counted from 1.

    >>> Shard.parse("3/16").share
    (2, 16)
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``"3/16"``.

        Raises:
            UserError: anything else, or a number that is not within 1..N.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(
                f"'{text}' is no shard", "write it as K/N with K from 1 to N, as --shard 3/16"
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def share(self) -> tuple[int, int]:
        """(k, n) with k from 0: what ``pending`` and ``CellRunner`` take."""
        return self.number - 1, self.of

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def all_shards(of: int) -> list[Shard]:
    """1/N .. N/N."""
    return [Shard(k + 1, of) for k in range(of)]
