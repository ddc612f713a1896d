"""One process a device on this machine: each makes an equal share of every cell's images.

Noise belongs to the sample, so the images are those of a single process. Workers only make images;
the parent keeps the manifest, and makes what a worker that died has left.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from sisbench.config import RunConfig
from sisbench.core.devices import exact_arithmetic
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.run.elsewhere import Images
from sisbench.run.images import Timer
from sisbench.run.imported import fill_cell
from sisbench.run.loading import by_method, load_editor, load_method, unable
from sisbench.run.plan import Plan, make_plan
from sisbench.run.stored import merge_items, pending
from sisbench.run.trial import is_anybodys, trial

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


def spread(
    plan: Plan, devices: Sequence[str], progress: Progress, share: tuple[int, int] = (0, 1)
) -> Timer:
    """Make the missing images of ``plan`` (or of a share of it) by one process a device; returns
    their summed times.

    What cannot be made (a method that does not load, an item that fails) stays missing: the caller
    goes on with a single process and finds the reason.
    """
    root = plan.config.folder
    able = [c for c in plan.cells if plan.wanted(c) and not c.reason]
    work = [c for c in able if pending(root, c, share)]
    timer = Timer()
    if not work:
        return timer
    total = sum(len(pending(root, c, share)) for c in work)
    workers, receivers = [], []
    try:
        for k in range(len(devices)):
            worker, receiver = _start(plan, k, devices, share)
            workers.append(worker)
            receivers.append(receiver)
        with progress.bar(f"{len(devices)} processes ({', '.join(devices)})", total) as advance:
            for message in _messages(receivers):
                if isinstance(message, int):
                    advance(message)
                else:
                    timer.add(message["seconds"], message["images"])
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for worker in workers:
            worker.join()
        if share == (0, 1):  # beside other shards, the parts stay until the whole run joins them
            for cell in work:
                merge_items(root / cell.folder)
    for device, worker in zip(devices, workers, strict=True):
        if worker.exitcode:
            progress.say(f"the process on {device} ended with exit code {worker.exitcode}")
    return timer


def _start(
    plan: Plan, k: int, devices: Sequence[str], share: tuple[int, int]
) -> tuple[BaseProcess, Connection]:
    """The k-th worker, and where it reports: a pipe of its own, which ends with it."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    raw = plan.config.model_dump(mode="json")
    args = (raw, k, tuple(devices), share, sender, plan.only)
    worker = context.Process(target=_work, args=args, daemon=True)
    worker.start()
    sender.close()  # the worker has its own
    return worker, receiver


def _messages(receivers: Sequence[Connection]) -> Iterator[int | Mapping[str, Any]]:
    """What the workers report, until the last of them has ended: numbers of images made, and times
    at the end."""
    open_ = list(receivers)
    while open_:
        for receiver in wait(open_):
            assert isinstance(receiver, Connection)
            try:
                yield receiver.recv()
            except (EOFError, OSError):
                open_.remove(receiver)


class _Reporting(Progress):
    """Progress that the parent shows."""

    def __init__(self, sender: Connection) -> None:
        super().__init__(quiet=True)
        self.sender = sender

    def count(self, images: int) -> None:
        self.sender.send(images)


def _work(
    raw: dict[str, Any],
    k: int,
    devices: Sequence[str],
    share: tuple[int, int],
    sender: Connection,
    only: frozenset[str] | None,
) -> None:
    """The k-th worker: its part of the share, one method after the other."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices[k] == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // devices.count("cpu")))
    elif devices[k].startswith("cuda"):
        torch.cuda.set_device(devices[k])
    exact_arithmetic()
    plan = replace(make_plan(validated(RunConfig, raw, "the run's configuration")), only=only)
    own = (share[0] + k * share[1], share[1] * len(devices))  # together they are the share
    timer = make_share(plan, devices[k], _Reporting(sender), own)
    sender.send({"seconds": timer.seconds, "images": timer.images})


def make_share(plan: Plan, device: str, progress: Progress, share: tuple[int, int]) -> Timer:
    """Make the missing images of a share of every cell in this process. What cannot be made stays
    missing: the whole run finds the reason."""
    timer = Timer()
    for _, group in by_method(plan.cells):
        able = [c for c in group if plan.wanted(c) and not c.reason]
        work = [c for c in able if pending(plan.config.folder, c, share)]
        if not work:
            continue
        method = load_method(work[0], plan, device, progress)
        editor = load_editor(work[0], plan, device)
        if isinstance(method, str) or isinstance(editor, str):
            progress.say(next(fault for fault in (method, editor) if isinstance(fault, str)))
            continue
        for cell in work:
            found = unable(method, cell, plan)
            if found is None and is_anybodys(plan, cell) and not isinstance(method, Images):
                found = trial(plan, cell, method, editor, timer, share)
            reason = found.reason if found else ""
            if found is None:
                reason = fill_cell(plan, cell, method, editor, timer, progress, share)
            if reason:
                progress.say(f"{cell.folder}: {reason}")
        del method, editor
    return timer


def _end_with_parent() -> None:
    """End this process with its parent, also where that was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
