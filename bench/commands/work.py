"""``sisbench run``, ``score`` and ``init``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.prompt import Prompt

from sisbench.commands.console import line, note, out, print_tables, split
from sisbench.config import load_config
from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.progress import Progress
from sisbench.core.shard import Shard


def run(
    config: Path,
    assignments: Sequence[str],
    protocol: str,
    limit: int,
    only: Sequence[str],
    strict: bool,
    quiet: bool,
    generate_only: bool,
    all_columns: bool,
    shard: str = "",
) -> int:
    """Work off a configuration, print tables and what became of it; returns the exit code."""
    from sisbench import pipeline
    from sisbench.report.outcome import outcome

    chosen = load_config(config, assignments, limit)
    if protocol:
        chosen = chosen.model_copy(update={"protocol": tuple(split(protocol))})
    progress = Progress(quiet=quiet)
    one = shard_of(shard, strict)
    if one is not None:
        if only:
            raise UserError("--only and --shard do not go together", "leave one of them out")
        pipeline.run_shard(chosen, one, progress)
        return 0
    page = pipeline.run_all(chosen, progress, strict, generate_only, only, all_columns)
    if page is not None:
        print_tables(chosen.folder, all_columns=all_columns)
    elif chosen.engine.kind == "slurm":
        return 0  # the jobs go on: sisbench status RUN
    found = outcome(chosen.folder, scored=not generate_only)
    for text in found.lines():
        line(text)
    line(f"report: {page}" if page is not None else f"images: {chosen.folder / 'cells'}")
    return found.exit_code


def score(
    run: Path,
    metrics: Sequence[str] | None,
    protocols: Sequence[str],
    parsers: Sequence[str],
    strict: bool,
    quiet: bool,
    device: str,
    compiled: bool,
    real_stats: Sequence[str],
    all_columns: bool,
    shard: str = "",
) -> int:
    """Score a run, print tables and what became of it; returns the exit code."""
    from sisbench.pipeline import score_run
    from sisbench.report.outcome import outcome

    one = shard_of(shard, strict)
    named = (metrics, protocols, parsers, Progress(quiet=quiet))
    score_run(run, *named, strict, device, compiled, real_stats, one)
    if one is not None:
        return 0
    print_tables(run, protocols=protocols, all_columns=all_columns)
    found = outcome(run, metrics=metrics, protocols=protocols)
    for text in found.lines():
        line(text)
    return found.exit_code


def shard_of(text: str, strict: bool) -> Shard | None:
    """``3/16`` as a shard; None for "".

    Raises:
        UserError: no shard; ``strict``, which has no effect on one.
    """
    if not text:
        return None
    if strict:
        raise UserError("--strict has no effect on one shard", "give it to the last command")
    return Shard.parse(text)


def init(
    file: Path,
    root: Path | None,
    methods: Sequence[str],
    tasks: Sequence[str],
    protocol: str,
    force: bool,
) -> None:
    """Write a commented configuration and say what was found.

    Raises:
        UserError: the file is there already; an unknown method, task or protocol; no data set.
    """
    from sisbench.core.store import write_atomic
    from sisbench.core.tasks import TASKS
    from sisbench.data.starter import Wanted, starter
    from sisbench.protocol import get_protocol
    from sisbench.run.method_entry import method_class

    if file.exists() and not force:
        raise UserError(f"{file} is there already", "give another FILE, or --force to replace it")
    asked = sys.stdin.isatty() and not methods
    if asked:
        methods = split(Prompt.ask("methods, as NAME or NAME=WEIGHTS, with commas", default="sean"))
        if root is None:
            given = Prompt.ask("folder of the data set (empty: the bundled toyfaces)", default="")
            root = Path(given).expanduser() if given else None
        tasks = tasks or split(Prompt.ask("tasks", default="reconstruct,transfer"))
    named = dict(text.partition("=")[::2] for text in methods)
    for name in named:
        method_class(name)
    for task in tasks:
        if task not in TASKS:
            raise UserError(f"no task is called '{task}'", did_you_mean(task, TASKS))
    get_protocol(protocol)
    wanted = Wanted(named, root, tasks=tuple(tasks) or Wanted.tasks, protocol=protocol)
    text, found = starter(wanted, file)
    for one in found:
        size = " x ".join(map(str, one.size))
        split_ = one.arguments["split"] or "all"
        line(f"found {one.name}, split {split_}: {one.count:,} items at {size}")
        for remark in one.remarks:
            note(remark)
    write_atomic(file, text.encode())
    line(f"wrote {file}; next: sisbench doctor {file}")
    for name, weights in named.items():
        if not weights:
            note(f"{name} needs its weights: fill them in")
    out.file.flush()
