"""``sisbench run``, ``score`` and ``init``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.prompt import Prompt

from sisbench.commands.console import line, note, out, print_tables, split
from sisbench.config import load_config
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.shard import Shard

_T = TypeVar("_T")


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


def on_terminal() -> bool:
    """Whether somebody can answer."""
    return sys.stdin.isatty()


def _ask(question: str, default: str, understood: Callable[[str], _T]) -> _T:
    """An answer; one that is not understood is asked for again, with the reason."""
    while True:
        given = Prompt.ask(question, default=default, show_default=bool(default))
        try:
            return understood(given)
        except UserError as error:
            note(str(error))


def _known_methods(text: str) -> list[str]:
    from sisbench.run.method_entry import method_class

    names = split(text)
    for name in names:
        method_class(name.partition("=")[0])
    return names


def _known_tasks(text: str) -> list[str]:
    from sisbench.core.tasks import find_task

    names = split(text)
    for name in names:
        find_task(name)
    return names


def _data_folder(text: str) -> Path | None:
    from sisbench.core.yaml_file import expanded
    from sisbench.data.detect import detect

    if not text.strip():
        return None
    root = Path(expanded(text.strip()))
    detect(root)
    return root


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
    from sisbench.data.starter import Wanted, starter
    from sisbench.protocol import get_protocol

    if file.exists() and not force:
        raise UserError(f"{file} is there already", "give another FILE, or --force to replace it")
    get_protocol(protocol)
    if not methods and on_terminal():
        methods = _ask("methods, as NAME or NAME=WEIGHTS, with commas", "sean", _known_methods)
        if root is None:
            question = "folder of the data set (empty: the bundled toyfaces)"
            root = _ask(question, "", _data_folder)
        tasks = tasks or _ask("tasks, with commas", "reconstruct,transfer", _known_tasks)
    named = dict(text.partition("=")[::2] for text in _known_methods(",".join(methods)))
    _known_tasks(",".join(tasks))
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
