"""What a file is that should hold weights and does not: told by its bytes, whatever its name."""

from __future__ import annotations

import codecs
import json
import struct
import zipfile
from pathlib import Path

from sisbench.core.errors import Unavailable, UserError

_HEAD = 1024
_GET_AGAIN = "download it again, and look at what the address gives in a browser"
_UNPACK = "unpack it and give the weights file that is inside"
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
)
_OTHER = (
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"GGUF", "a GGUF file (quantised weights)"),
)


def refuse_foreign(path: Path) -> None:
    """Return where ``path`` may be a weights file (torch's zip or pickle, safetensors).

    Raises:
        Unavailable: there is nothing at ``path``.
        UserError: a folder, unreadable, empty, cut off, a web page, a Git LFS pointer, an archive,
            text, or a file of another known kind; says which, and what to do.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a weights file", "give the file in it")
    if not path.is_file():
        raise Unavailable(f"no weights file at {path}", "see: sisbench weights list")
    try:
        found = foreign_kind(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}", "check its permissions"
        ) from error
    if found is not None:
        raise UserError(f"{path} is {found[0]}, not a weights file", found[1])


def foreign_kind(path: Path) -> tuple[str, str] | None:
    """(what the file is, what to do), or None where it may be a weights file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return "empty (0 bytes)", "download it again"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the file itself: git lfs pull"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path, size)
    if is_safetensors(path):
        return _safetensors_kind(path, size)
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            return f"an archive ({name})", _UNPACK
    if head[257:262] == b"ustar":
        return "an archive (tar)", _UNPACK
    for magic, name in _OTHER:
        if head.startswith(magic):
            return name, "give the file that holds the network's parameters"
    return _text_kind(head, size)


def is_safetensors(path: Path) -> bool:
    """Whether a file is a safetensors file by its first bytes, or is called one without being of
    another kind."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    if not head:
        return False
    opens = len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32
    torch_file = head.startswith((b"PK\x03\x04", b"\x80"))
    text = _text_kind(head, path.stat().st_size) is not None
    return opens or (path.suffix == ".safetensors" and not torch_file and not text)


def _zip_kind(path: Path, size: int) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return f"cut off (its end is missing after {size} bytes)", "download it again"
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program", "give the state dict that it was made from"
    if any(name.endswith("/data.pkl") for name in names):
        return None
    return "an archive (zip)", _UNPACK


def _safetensors_kind(path: Path, size: int) -> tuple[str, str] | None:
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        header = stream.read(length) if length <= size else b""
    cut = f"cut off (its end is missing after {size} bytes)", "download it again"
    if len(header) < length:
        return cut
    try:
        entries = json.loads(header)
        ends = [v["data_offsets"][1] for k, v in entries.items() if k != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return "a damaged safetensors file (its header is no JSON)", "download it again"
    return cut if size < expected else None


def _text_kind(head: bytes, size: int) -> tuple[str, str] | None:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=size <= _HEAD)
    except UnicodeDecodeError:
        return None
    if not all(c.isprintable() or c in "\r\n\t" for c in text):
        return None
    text = text.strip()
    shown = " ".join(text.split())[:60]
    if text.lower().startswith(("<!doctype html", "<html", "<head", "<body")):
        return "a web page (HTML)", f"{_GET_AGAIN}: a login, a quota or a warning page came instead"
    if text.startswith("<"):
        return f"an XML text ('{shown}')", _GET_AGAIN
    if text.startswith(("{", "[")):
        return f"a JSON text ('{shown}')", f"{_GET_AGAIN}: it is the answer of a server"
    return f"a plain text ('{shown}')", _GET_AGAIN
