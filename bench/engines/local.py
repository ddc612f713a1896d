"""One process a device on this machine: each makes every n-th image of every cell.

Noise belongs to the sample, so the images are those of a single process. Workers only make images;
the parent keeps the manifest, and makes what a worker that died has left.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, parent_process
from queue import Empty
from typing import TYPE_CHECKING, Any

from bench.cells import Plan, make_plan
from bench.config import RunConfig, validated
from bench.generation import CellRunner, Timer, merge_items, pending
from bench.progress import Progress

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from multiprocessing.queues import Queue

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0


def spread(plan: Plan, devices: Sequence[str], progress: Progress) -> Timer:
    """Make the missing images of ``plan`` by one process a device; returns their summed times.

    What cannot be made (a method that does not load, an item that fails) stays missing: the caller
    goes on with a single process and finds the reason.
    """
    root = plan.config.folder
    work = [c for c in plan.cells if not c.reason and pending(root, c)]
    timer = Timer()
    if not work:
        return timer
    context = get_context("spawn")
    done: Queue[int | dict[str, Any]] = context.Queue()
    raw = plan.config.model_dump(mode="json")
    workers = [
        context.Process(target=_work, args=(raw, k, tuple(devices), done), daemon=True)
        for k in range(len(devices))
    ]
    total = sum(len(pending(root, c)) for c in work)
    try:
        with progress.bar(f"{len(devices)} processes ({', '.join(devices)})", total) as advance:
            for worker in workers:
                worker.start()
            for message in _messages(done, workers):
                if isinstance(message, int):
                    advance(message)
                else:
                    timer.add(message["seconds"], message["images"])
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
        for cell in work:
            merge_items(root / cell.folder)
    for device, worker in zip(devices, workers, strict=True):
        if worker.exitcode not in (0, -signal.SIGTERM):
            progress.say(f"the process on {device} ended with exit code {worker.exitcode}")
    return timer


def _messages(done: Queue[Any], workers: Sequence[BaseProcess]) -> Any:
    """What the workers report, until each has reported its times or has ended."""
    left, ended = len(workers), 0.0
    while left:
        try:
            message = done.get(timeout=_POLL_SECONDS)
        except Empty:
            if any(worker.is_alive() for worker in workers):
                continue
            ended = ended or time.monotonic()
            if time.monotonic() - ended > _PATIENCE_SECONDS:  # the queue's own thread may lag
                return
            continue
        left -= isinstance(message, Mapping)
        yield message


class _Reporting(Progress):
    """Progress that the parent shows."""

    def __init__(self, done: Queue[Any]) -> None:
        super().__init__(quiet=True)
        self.done = done

    def made(self, images: int) -> None:
        self.done.put(images)


def _work(raw: dict[str, Any], k: int, devices: Sequence[str], done: Queue[Any]) -> None:
    """The k-th worker: its share of every cell, one method after the other."""
    import torch

    from bench.runner import by_method, exact_arithmetic, load_editor, load_method, unable

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices[k] == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // devices.count("cpu")))
    elif devices[k].startswith("cuda"):
        torch.cuda.set_device(devices[k])
    exact_arithmetic()
    plan = make_plan(validated(RunConfig, raw, "the run's configuration"))
    timer, progress, share = Timer(), _Reporting(done), (k, len(devices))
    for _, group in by_method(plan.cells):
        work = [c for c in group if not c.reason and pending(plan.config.folder, c, share)]
        if not work:
            continue
        method = load_method(work[0], plan, devices[k], progress)
        editor = load_editor(work[0], plan, devices[k])
        if isinstance(method, str) or isinstance(editor, str):
            continue
        for cell in work:
            if not unable(method, cell, plan):
                CellRunner(plan, cell, method, editor, timer, progress, share).run()
        del method, editor
    done.put({"seconds": timer.seconds, "images": timer.images})


def _end_with_parent() -> None:
    """End this process with its parent, also where that was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
