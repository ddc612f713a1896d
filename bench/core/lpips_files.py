"""The linear weights of LPIPS, which the installed lpips package holds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from sisbench.core.errors import Unavailable
from sisbench.core.file_hash import sha256_of

LINEAR_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
"""Hashes of version 0.1, as the lpips wheel ships it."""


def linear_file(net: str) -> Path:
    """The linear weights of ``net`` (alex, vgg or squeeze) inside the installed lpips package.

    Raises:
        Unavailable: lpips is not installed, or its file is another version.
    """
    spec = find_spec("lpips")
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable("LPIPS needs the linear weights of the lpips package", "install lpips")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / f"{net}.pth"
    if not path.is_file() or sha256_of(path) != LINEAR_SHA256[net]:
        raise Unavailable(f"{path} is not version 0.1 of the LPIPS weights", "install lpips 0.1.4")
    return path
