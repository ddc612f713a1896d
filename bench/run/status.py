"""What a run has and lacks, by cell and by shard, and what works on it now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.schema import validated
from sisbench.core.shard import Shard, all_shards
from sisbench.core.store import CellFolder, CellView, RunStore
from sisbench.data.elsewhere import some
from sisbench.run.engines.jobs import log_path
from sisbench.run.engines.slurm import jobs_of, states
from sisbench.run.locks import busy_shards
from sisbench.run.plan import Plan, make_plan
from sisbench.run.stored import arithmetic_of, finished, group_size, groups_of


@dataclass(frozen=True)
class CellState:
    """Items of a cell: all, those with an image, those that failed, those not tried yet; why it
    has none; of images made elsewhere, files that are missing or no item's."""

    method: str
    dataset: str
    task: str
    items: int
    done: int
    failed: int
    reason: str = ""
    files: str = ""

    @property
    def left(self) -> int:
        return 0 if self.reason else self.items - self.done - self.failed


@dataclass(frozen=True)
class ShardState:
    """A shard: its items over all cells, as ``CellState`` counts them; what is known of it
    ("working", Slurm's state of its job, "" for nothing) and the log of its job."""

    shard: str
    done: int
    failed: int
    left: int
    now: str
    log: Path | None


@dataclass(frozen=True)
class Status:
    """A run at one moment.

    Attributes:
        cells, shards: the states of each.
        jobs: job id -> (what it does, Slurm's state), of the jobs that are queued or running.
        remark: why shards are not counted or jobs not known, "" where they are.
    """

    cells: Sequence[CellState]
    shards: Sequence[ShardState]
    jobs: dict[str, tuple[str, str]]
    remark: str = ""


def status_of(root: Path, shards: int = 0) -> Status:
    """The state of a run, from its files, its locks and Slurm's queue (where there is one).

    Args:
        shards: count by so many shards; 0 takes the configuration's.

    Raises:
        UserError: no run there.
    """
    manifest = RunStore(root).manifest()
    config = validated(RunConfig, manifest.config, str(root / "run.json"))
    cells = [_cell(view) for view in RunStore(root).cells()]
    queued, remark = _queued(root)
    of = shards or config.engine.shards
    if of == 1:
        return Status(cells, [], queued, remark)
    try:
        plan = make_plan(config)
    except UserError as error:  # the data may lie on another machine
        uncounted = f"shards are not counted: {error.message}"
        return Status(cells, [], queued, "; ".join(filter(None, [remark, uncounted])))
    counts = _counts(root, plan, of)
    named_shards = zip(all_shards(of), counts, strict=True)
    return Status(cells, [_shard(root, s, c, queued) for s, c in named_shards], queued, remark)


def _queued(root: Path) -> tuple[dict[str, tuple[str, str]], str]:
    """Job id -> (what it does, Slurm's state); and why they are not known, "" where they are."""
    named = jobs_of(root)
    try:
        return {job: (named[job], state) for job, state in states(root).items()}, ""
    except UserError as error:
        return {}, error.message


def _cell(view: CellView) -> CellState:
    entry = view.entry
    done = finished(view)
    failed = sum(1 for row in view.items() if row["error"] and row["id"] not in done)
    named = entry.method.label, entry.dataset.label, entry.task.slug
    reason = entry.reason if entry.status == "impossible" else ""
    lists = {"missing": entry.missing, "no item's": entry.unused}
    files = "; ".join(f"{len(v)} {what}: {some(v)}" for what, v in lists.items() if v)
    return CellState(*named, entry.items, len(done), failed, reason, files)


def _counts(root: Path, plan: Plan, of: int) -> list[Counter[str]]:
    """How many items of each shard are done, failed, left."""
    counts: list[Counter[str]] = [Counter() for _ in range(of)]
    for cell in plan.cells:
        if cell.reason:
            continue
        folder = CellFolder(root / cell.folder)
        done = finished(folder)
        failed = {row["id"] for row in folder.items() if row["error"]} - done
        for k, group in enumerate(groups_of(cell.items, group_size(arithmetic_of(folder)))):
            for item in group:
                state = "done" if item.id in done else "failed" if item.id in failed else "left"
                counts[k % of][state] += 1
    return counts


def _shard(
    root: Path, shard: Shard, counts: Counter[str], queued: dict[str, tuple[str, str]]
) -> ShardState:
    busy = [b.partition(" ")[0] for b in busy_shards(root) if b.endswith(f" {shard}")]
    states_ = [state.lower() for what, state in queued.values() if what.endswith(f"-{shard}")]
    now = f"working ({', '.join(busy)})" if busy else ", ".join(dict.fromkeys(states_))
    log = log_path(root, f"run-{shard}")
    found = log if log.is_file() else None
    return ShardState(str(shard), counts["done"], counts["failed"], counts["left"], now, found)


def status_tables(status: Status) -> Iterator[Table]:
    """The status for a terminal."""
    cells = Table("method", "data set", "task", "items", "done", "failed", "left", "remark")
    for c in status.cells:
        counts = (str(n) for n in (c.items, c.done, c.failed, c.left))
        texts = (c.method, c.dataset, c.task, *counts, c.reason or c.files)
        cells.add_row(*map(escape, texts))
    yield cells
    if status.shards:
        shards = Table("shard", "done", "failed", "left", "now", "log")
        for s in status.shards:
            log = "" if s.log is None else str(s.log)
            counts = (str(n) for n in (s.done, s.failed, s.left))
            shards.add_row(s.shard, *counts, escape(s.now), escape(log))
        yield shards
    if status.jobs:
        jobs = Table("job", "what", "state in Slurm")
        for job, (what, state) in status.jobs.items():
            jobs.add_row(job, what, state.lower())
        yield jobs
