"""What a cell's files hold, as digests, so that rows belong to the pixels they were made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sisbench.core.store import write_atomic

ABSENT = "absent"


class Digests:
    """sha256 of files below a folder; a file is read again only when its size or times changed.

    Args:
        folder: names are kept relative to it.
        store: where digests are kept between runs; it may be gone, damaged or read-only.
    """

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder, self.store = folder, store
        self._known = _read(store)
        self._changed = False

    def of(self, path: Path) -> str:
        """sha256 of a file, or ``ABSENT`` where it cannot be read."""
        try:
            stat = path.stat()
            # the inode's own time moves with every change, also where the two others are set back
            state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            name = path.relative_to(self.folder).as_posix()
            kept = self._known.get(name)
            if kept is not None and kept[:3] == state:
                return str(kept[3])
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            return ABSENT
        self._known[name] = [*state, found]
        self._changed = True
        return found

    def save(self) -> None:
        """Keep them for the next time, where the folder can be written."""
        if not self._changed:
            return
        try:
            write_atomic(self.store, json.dumps(self._known, sort_keys=True).encode())
        except OSError:
            return  # nothing is lost: the files are read again
        self._changed = False


def _read(store: Path) -> dict[str, list[object]]:
    try:
        raw = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(raw, dict):
        return {}
    return {k: v for k, v in raw.items() if isinstance(v, list) and len(v) == 4}
