"""Archives of anybody's: a zip that is the same bytes for the same files, read without trust."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from sisbench.core.errors import UserError

MOST_FILES = 1_000_000
LARGEST_FILE = 2 << 30
LARGEST = 32 << 30
"""Bytes of one file and of all files of an archive, unpacked."""
_BLOCK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)
_PACKED = frozenset({".png", ".jpg", ".parquet"})
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_UNIX, _REGULAR = 3, 0o100644 << 16


def write_zip(
    path: Path, files: Iterable[tuple[str, bytes | Path]], hashes: dict[str, str]
) -> None:
    """Write (name, content) pairs in their order, without times and rights of this machine.

    Args:
        files: content as bytes, or a file that holds it.
        hashes: name -> sha256, filled as the files are written.

    Raises:
        UserError: a name that a reader refuses.
    """
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system, info.external_attr = _UNIX, _REGULAR
            packed = PurePosixPath(name).suffix in _PACKED
            info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            if fault := _fault(info):  # a reader would refuse it
                raise UserError(f"the file {name!r} {fault}")
            data = content if isinstance(content, bytes) else content.read_bytes()
            archive.writestr(info, data)
            hashes[name] = hashlib.sha256(data).hexdigest()


class Archive:
    """A zip of anybody's, read in memory file by file; nothing is unpacked unless asked for.

    Raises:
        UserError: no zip, or one with a name that leads out of it, a link, an encrypted file, two
            files of one name, too many or too large files.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, largest: int = LARGEST) -> None:
        self._archive, self.path = archive, path
        members = archive.infolist()
        if len(members) > MOST_FILES:
            raise UserError(f"{path}: {len(members)} files, at most {MOST_FILES} are read")
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members:
            fault = _fault(info) or ("stands twice" if info.filename in self._members else "")
            if fault:
                raise UserError(f"{path}: the file {info.filename[:200]!r} {fault}")
            self._members[info.filename] = info
        total = sum(info.file_size for info in members)
        if total > largest:
            raise UserError(
                f"{path}: {total} bytes unpacked, at most {largest} are read",
                "raise the limit if you trust its origin: --max-gib",
            )

    @property
    def names(self) -> list[str]:
        """Every file, in the order of the archive."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Content of a file; never more bytes than the archive's directory says.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        info = self._members.get(name)
        if info is None:
            raise UserError(f"{self.path}: there is no file {name}")
        parts, left = [], info.file_size
        try:
            with self._archive.open(info) as stream:
                while left > 0 and (block := stream.read(min(_BLOCK, left))):
                    parts.append(block)
                    left -= len(block)
                stream.read(1)  # to the end: the checksum is looked at there
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
            raise UserError(f"{self.path}: the file {name} is damaged: {error}") from error
        if left:
            raise UserError(f"{self.path}: the file {name} is cut off")
        return b"".join(parts)


@contextmanager
def open_archive(path: Path, largest: int = LARGEST) -> Iterator[Archive]:
    """An archive that is closed again.

    Raises:
        UserError: missing, no zip, or not to be trusted (see ``Archive``).
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is no zip archive: {error}") from error
    with archive:
        yield Archive(archive, path, largest)


def _fault(info: zipfile.ZipInfo) -> str:
    """Why a member is refused, or ""."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    name = PurePosixPath(info.filename)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        return "is a link, a folder or a device; only plain files are read"
    plain = info.filename.isprintable() and not set(info.filename) & set("\\:")
    if name.is_absolute() or not name.parts or ".." in name.parts or not plain:
        return "has a name that leads out of the archive, or that no system takes"
    if str(name) != info.filename or info.orig_filename != info.filename:
        return "has a name in no plain form"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in _METHODS:
        return "is packed by a method other than deflate"
    if info.file_size > LARGEST_FILE:
        return f"has {info.file_size} bytes, at most {LARGEST_FILE} are read"
    return ""


def read_npz(source: Path | bytes, what: str, only: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Arrays of an .npz, without pickles, and none larger than its bytes in the file.

    Args:
        source: a file or its content; what: its name in messages.
        only: names to read; () reads all.

    Raises:
        UserError: missing or damaged file, pickled objects, an array that claims more than is
            there.
    """
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"no file {what}")
    stream: IO[bytes] | Path = source if isinstance(source, Path) else io.BytesIO(source)
    found: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if only and name not in only:
                    continue
                if info.file_size > LARGEST:
                    raise UserError(f"{what}: '{name}' has {info.file_size} bytes")
                with archive.open(info) as member:
                    found[name] = _read_array(member, info.file_size)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, MemoryError) as error:
        raise UserError(f"{what} holds no plain arrays: {error}") from error
    except NotImplementedError as error:
        raise UserError(f"{what} is packed by an unknown method: {error}") from error
    return found


def _read_array(member: IO[bytes], size: int) -> np.ndarray:
    """One .npy; its header is believed only as far as the member is long.

    Raises:
        ValueError: pickled objects, or another length than the header says.
    """
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version}")
    read = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("pickled objects, which sisbench does not run")
    count = 1
    for side in shape:
        count *= side
    expected = count * dtype.itemsize
    if min(shape, default=0) < 0 or expected > size:
        raise ValueError(f"an array of {shape} in {size} bytes")
    data = member.read(expected + 1)
    if len(data) != expected:
        raise ValueError(f"{len(data)} bytes where {expected} are expected")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def write_npz(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an .npz: the same arrays, the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
