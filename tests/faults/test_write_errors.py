"""ENOSPC, EACCES, EROFS and EIO at every write of a run, and of training and preparing: one line
and exit code 2, or the work goes on without what is only kept to save time; then a good run gives
the undisturbed bytes."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import SEED, Bench, sisbench
from test_kills import commands
from writes import Event, events, listed, refused

ERRORS = {
    "mkdir": (errno.EACCES, errno.ENOSPC, errno.EROFS),
    "open": (errno.EACCES, errno.ENOSPC, errno.EROFS),
    "connect": (errno.EACCES,),
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES),
    "remove": (errno.EACCES,),
}
"""Kind of event -> what a system answers it with; the next event of the kind gets the next one."""


def kept_to_save_time(path: str) -> bool:
    """Files without which scoring goes on: rows, digests, values of single images, the cache, and
    item rows in many parts instead of one file."""
    parts = Path(path).parts
    return parts[0] == "cache" or parts[-2:-1] in (("rows",), ("values",)) or "rows" in parts


def faults_of(found: list[Event]) -> list[tuple[int, int, Event]]:
    """(position, error number, event) of every event, error numbers in turn."""
    met: dict[str, int] = {}
    planned = []
    for at, event in enumerate(found):
        numbers = ERRORS[event[0]]
        turn = met[event[0]] = met.get(event[0], -1) + 1
        planned.append((at, numbers[turn % len(numbers)], event))
    return planned


@pytest.mark.parametrize("most", [4, pytest.param(10_000, marks=pytest.mark.faults)])
def test_errors_at_the_writes_of_a_run(
    small: Bench, most: int, record_property: Callable[[str, object], None]
) -> None:
    folder, log = small.copy("listed", finished=False), small.base / "writes.txt"
    whole = sisbench(
        "run", "-q", "run.yaml", cwd=folder, before=listed, given=(str(folder), str(log))
    )
    assert whole.code == 0, whole.told()
    planned = faults_of(events(log))
    assert len(planned) > 50
    if len(planned) > most:
        planned = random.Random(SEED).sample(planned, most)
    stopped, faults = 0, []
    for at, number, event in planned:
        about = f"{os.strerror(number)} at {event}"
        folder = small.copy("refused", finished=False)
        full = number == errno.ENOSPC  # a disk stays full
        given = (str(folder), at, number, full)
        ended = sisbench("run", "-q", "run.yaml", cwd=folder, before=refused, given=given)
        try:
            text = ended.told()
            if ended.code == 2:
                stopped += 1
                assert text.count("error:") == 1, text
                assert len(text.strip().splitlines()) <= 2, text
            else:
                assert ended.code == 0, (ended.code, text)
                unneeded = event[0] in ("remove", "mkdir")  # or the folder is there already
                assert unneeded or kept_to_save_time(event[1]), "it went unseen"
            small.check(folder, about)
        except AssertionError as error:
            faults.append(f"{about}: {str(error)[:1200]}")
    assert not faults, f"{len(faults)} of {len(planned)}\n" + "\n\n".join(faults)
    record_property("faults", f"{len(planned)} writes refused, {stopped} ended the run")


def small_files(most: int) -> None:
    """A write beyond so many bytes of a file fails, in any library, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.faults
@pytest.mark.parametrize("command", ["run", "score", "report", "train", "prepare"])
def test_files_that_do_not_fit(
    bench: Bench, command: str, record_property: Callable[[str, object], None]
) -> None:
    """The system itself refuses the rest of a file; libraries in other languages are refused,
    too."""
    arguments, start, content = commands(bench)[command]
    folder = start(bench, f"{command}-fits")
    assert sisbench(*arguments, cwd=folder).code == 0
    expected, count = content(folder), 0
    for most in (3000, 8000, 20_000, 60_000):
        folder = start(bench, f"{command}-full")
        ended = sisbench(*arguments, cwd=folder, before=small_files, given=(most,))
        assert ended.code in (0, 2), (most, ended.code, ended.text)
        assert ended.code == 0 or "error:" in ended.told(), (most, ended.text)
        again = sisbench(*arguments, cwd=folder)
        assert again.code == 0, (most, again.told())
        assert content(folder) == expected, most
        count += ended.code == 2
    record_property("faults", f"{count} of 4 limits ended it")
