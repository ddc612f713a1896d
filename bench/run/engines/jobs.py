"""What the engines of clusters share: the work that they are given, and its logs."""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from sisbench.config import RunConfig
from sisbench.core.progress import Progress

LOGS = "logs"
"""In the run folder: one file a job, to which each of its starts appends."""
STAGES = ("run", "score")
"""What is done shard by shard, in this order; the whole run then joins both."""


@dataclass(frozen=True)
class Work:
    """Functions that a job calls by import, on any machine.

    Attributes:
        shard: (configuration, folder of its paths, "3/16", stage) makes one shard of one stage.
        finish: (configuration, folder of its paths, strict, generate_only) joins, scores, reports.
        strict: a score that cannot be had is an error.
        generate_only: images alone are wanted.
    """

    shard: Callable[[Mapping[str, Any], str, str, str], None]
    finish: Callable[[Mapping[str, Any], str, bool, bool], None]
    strict: bool
    generate_only: bool

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES[:1] if self.generate_only else STAGES


def arguments(config: RunConfig) -> tuple[dict[str, Any], str]:
    """(the configuration as plain values, the folder as seen from which its paths are given)."""
    return config.model_dump(mode="json"), os.getcwd()


def log_path(root: Path, job: str) -> Path:
    """The log of ``run-3/16``, ``score-3/16`` or ``finish``."""
    return root / LOGS / f"{job.replace('/', '-')}.log"


@contextmanager
def job_log(root: Path, job: str) -> Iterator[Progress]:
    """Progress that goes to the job's log, what ends it included."""
    path = log_path(root, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        progress = Progress(Console(file=stream, width=160))
        progress.say(f"{_now()} {job} on {platform.node()}, process {os.getpid()}")
        try:
            yield progress
        except BaseException:
            progress.say(traceback.format_exc())
            raise
        progress.say(f"{_now()} {job} done")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
