"""The one error that users see: what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that its user can mend; the command line prints it without a traceback.

    Args:
        message: what was expected and what came (names the file, key or value).
        hint: what to do about it, one sentence.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class Unavailable(UserError):
    """Something that a score or an image needs is not there (weights, a library, a capability).

    The runner makes it an empty cell with ``message`` as its reason; ``--strict`` lets it rise.
    """


class Broken(Unavailable):
    """Code of somebody else's that is there and cannot be imported, or is of another kind."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"did you mean 'sean'?"``, or the list of what is known when nothing is near."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    shown = ", ".join(options[:30]) + (", ..." if len(options) > 30 else "")
    return f"known: {shown}" if options else "nothing is registered"


MACHINE_FAULTS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
    }
)
"""What a disk or a system says no with: no bug of ours."""
