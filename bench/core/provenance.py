"""What made a score: versions, machine, code; recorded with every run."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

_FOR_DEVELOPERS = 'extra == "dev"'


def library_versions() -> dict[str, str | None]:
    """Installed version of sisbench and of every library that it declares, those of its extras
    too; None where one is not there."""
    found: dict[str, str | None] = {}
    for name in ("sisbench", *_declared()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _declared() -> list[str]:
    """Names of the libraries that sisbench declares, in its order, without a developer's tools."""
    try:
        lines = requires("sisbench") or []
    except PackageNotFoundError:  # run from its sources
        return []
    used = [line for line in lines if _FOR_DEVELOPERS not in line.replace("'", '"')]
    names = (re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in used)
    return list(dict.fromkeys(name.lower() for name in names))


def _git(*arguments: str) -> str:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        run = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout.strip()


def provenance(devices: Sequence[str]) -> dict[str, Any]:
    """Versions, commit, platform, devices and time of a run."""
    import torch

    names = (
        torch.cuda.get_device_name(d) if d.startswith("cuda") else platform.processor()
        for d in devices
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "libraries": library_versions(),
        "commit": _git("rev-parse", "HEAD") or None,
        "modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "device": ", ".join(devices),
        "device_name": ", ".join(dict.fromkeys(names)),
        "threads": torch.get_num_threads(),
    }
