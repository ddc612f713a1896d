"""The command line: thin commands over the library; a mistake is one message and exit code 2."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.share import commands

app = typer.Typer(
    name="sisbench",
    help="Benchmark semantic image synthesis: one interface, one protocol, the papers' tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(
    help="Weights: what is known, what is here, where it lies.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")
app.add_typer(commands.stats_app, name="stats")
out = Console()
if not out.is_terminal:
    out = Console(width=160)  # a pipe has no width: tables are not cut

_INTERRUPTED = 130  # what typer makes of Ctrl-C

Config = Annotated[Path, typer.Argument(help="YAML of the run; see docs/configuration.md")]
Run = Annotated[Path, typer.Argument(help="folder of a run")]
Strict = Annotated[bool, typer.Option("--strict", help="a score that cannot be had is an error")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
Protocols = Annotated[
    str, typer.Option("--protocol", "-p", help="protocol, or several: a,b (default: the run's own)")
]


@app.command()
def run(
    config: Config,
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", help="a or a,b: instead of the configuration's own")
    ] = "",
    strict: Strict = False,
    quiet: Quiet = False,
    generate_only: Annotated[
        bool, typer.Option("--generate-only", help="make images, no scores and no report")
    ] = False,
) -> None:
    """Make the missing images of CONFIG, score them, write the report. Running again is the
    resume."""
    from sisbench.config import load_config
    from sisbench.pipeline import run_all

    chosen = load_config(config)
    if protocol:
        chosen = chosen.model_copy(update={"protocol": tuple(_split(protocol))})
    page = run_all(chosen, Progress(quiet=quiet), strict, generate_only)
    if page is not None:
        out.print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def score(
    run: Run,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", "-m", help="only these; scores that are there stay"),
    ] = None,
    protocol: Protocols = "",
    parsers: Annotated[str, typer.Option(help="parsers for mIoU and accuracy: a,b")] = "",
    device: Annotated[str, typer.Option(help="torch device (default: the run's own)")] = "",
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch.compile: a minute once, then faster")
    ] = False,
    real_stats: Annotated[
        list[str] | None,
        typer.Option(help="[DATA SET=]FILE of sisbench stats in place of its photographs"),
    ] = None,
    strict: Strict = False,
    quiet: Quiet = False,
) -> None:
    """Score the images that a run has stored; no method is needed."""
    from sisbench.pipeline import score_run

    named = _split(protocol), _split(parsers)
    given = tuple(real_stats or ())
    score_run(run, metric, *named, Progress(quiet=quiet), strict, device, compiled, given)
    _print_tables(run, protocols=named[0])


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="folder of a run, or of several, as one")],
    protocol: Protocols = "",
    versus: Annotated[
        str, typer.Option(help="a method (paired, on the same items) or a paper, as ca2sis")
    ] = "",
    formats: Annotated[str, typer.Option(help="table formats")] = "md,tex,csv,html",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", "-u", help="print one standard error beside scores")
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of the report (default: RUN/report)")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="of several runs: exit with 1 where any is refused")
    ] = False,
) -> None:
    """Tables, charts, grids and one self-contained page from a scored run (needs no torch).

    What a run has lost (images, a damaged file) is named, and the rest is reported. Several runs
    stand in the same tables as far as data, protocols and bases agree (see merge); their report is
    written where --out says."""
    from sisbench.pipeline import write_report
    from sisbench.share.merged import one_run

    protocols = _split(protocol)
    named = tuple(_split(formats))

    def say(text: str) -> None:
        out.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)

    with one_run(runs) as (run, merged):
        commands.tell(merged)
        page = None
        if merged is None or to is not None:
            page = write_report(run, protocols, versus or None, named, uncertainty, to, say)
        _print_tables(run, versus or None, protocols, uncertainty)
    where = f"report: {page}" if page else "no report is kept; --out DIR writes it"
    out.print(where, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if strict and merged is not None and merged.refused else 0)


for _command in (commands.merge, commands.bundle, commands.verify):
    app.command()(_command)


@app.command()
def methods() -> None:
    """The methods that are known, and what each is able to do."""
    from sisbench import methods as registry
    from sisbench.core.tasks import TASKS
    from sisbench.methods.editor import no_task

    table = Table("name", "title", "size", "can", "paper")
    for name in registry.registry.names():
        cls = registry.registry.get(name)
        size = "x".join(map(str, cls.size))
        table.add_row(name, cls.title, size, ", ".join(sorted(cls().can)), escape(cls.paper))
    for name in registry.editors.names():
        cls = registry.editors.get(name)
        size = "x".join(map(str, cls.size))
        own = [t.name for t in TASKS.values() if t.by == "editor" and not no_task(cls, t.name)]
        able = ", ".join([*own, "layout_editor: " + ", ".join(sorted(cls.can))])
        table.add_row(name, cls.title, size, able, escape(cls.paper))
    out.print(table)


@app.command()
def datasets(
    name: Annotated[str, typer.Argument(help="with a name: check every item of it")] = "",
    root: Annotated[str, typer.Option(help="folder of the data set")] = "",
    split: Annotated[str, typer.Option(help="split")] = "",
) -> None:
    """The data sets that are known; with a name, decode and check every item."""
    from sisbench import data
    from sisbench.data.check import check_items

    if name:
        arguments: dict[str, Any] = {k: v for k, v in (("root", root), ("split", split)) if v}
        faults = check_items(data.open_dataset(name, **arguments), Progress())
        for fault in faults:
            out.print(f"[red]bad[/red] {escape(fault)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1 if faults else 0)
    table = Table("name", "what")
    for known in data.registry.names():
        summary = (data.registry.get(known).__doc__ or "").strip().splitlines()[0]
        table.add_row(known, escape(summary))
    out.print(table)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="data set, as celebamask_hq")],
    root: Annotated[Path, typer.Argument(help="its official download")],
    to: Annotated[Path, typer.Argument(help="folder for images/ + labels/")],
    split: Annotated[str, typer.Option(help="split")] = "test",
    size: Annotated[int, typer.Option(help="side in pixels")] = 256,
    split_rule: Annotated[
        str, typer.Option(help="celebamask_hq: sean, official, or a list file")
    ] = "",
) -> None:
    """Write the prepared layout of a data set from its official one; existing pairs are kept."""
    from sisbench.data import open_dataset
    from sisbench.data.prepare import prepare as write_prepared

    more = {"split_rule": split_rule} if split_rule else {}
    dataset = open_dataset(name, root=root, split=split, size=size, **more)
    with Progress().bar(f"preparing {name} {split}", len(dataset)) as advance:
        written, kept = write_prepared(dataset, to, advance)
    out.print(f"{written} pairs written, {kept} kept, in {to / split}", highlight=False)


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="toy-parser, toy-spade, toy-sean, or a YAML recipe")
    ],
    to: Annotated[Path, typer.Option("--out", "-o", help="safetensors file to write")],
    steps: Annotated[int, typer.Option(help="optimiser steps; 0 takes the recipe's")] = 0,
    seed: Annotated[int, typer.Option(help="seed of data order and initial weights")] = 0,
) -> None:
    """Train by a recipe; the file says in its header how it was made."""
    from sisbench.pipeline import train_recipe

    out.print(f"wrote {train_recipe(recipe, to, steps or None, seed, Progress())}", highlight=False)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="YAML of a run")] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="also score the parser on the real test photographs")
    ] = False,
) -> None:
    """Data, weights, devices, versions: one line each, with the remedy."""
    from sisbench.diagnose.doctor import examine

    worst = 0
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for finding in examine(config, anchor):
        mark = f"[{colours[finding.state]}]{finding.state:4}[/]"
        remedy = f"\n       -> {finding.remedy}" if finding.remedy else ""
        out.print(f"{mark} {escape(finding.what)}{escape(remedy)}", highlight=False, soft_wrap=True)
        worst |= finding.state == "fail"
    raise typer.Exit(worst)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="registry name or ./file.py:Class")],
    space: Annotated[str, typer.Option(help="label space")] = "celebamask_hq",
    weights: Annotated[str, typer.Option(help="weights; default: seeded test weights")] = "",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="construction option, as ngf=8")
    ] = None,
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
) -> None:
    """Check an adapter against the contract, clause by clause."""
    from sisbench.diagnose.conformance import check_method

    failed = 0
    marks = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[dim]n/a [/]"}
    for finding in check_method(method, space, weights or None, _options(option or []), device):
        detail = f" [dim]({escape(finding.detail)})[/dim]" if finding.detail else ""
        out.print(f"{marks[finding.ok]} {escape(finding.clause)}{detail}", highlight=False)
        failed += finding.ok is False
    out.print(f"{failed} of the clauses failed" if failed else "the adapter keeps the contract")
    raise typer.Exit(1 if failed else 0)


@app.command()
def explain(
    metric: Annotated[str, typer.Argument(help="as fid, miou; empty lists them")] = "",
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="protocol")] = "sisbench1",
) -> None:
    """What exactly a number is: formula, extractor, resize, splits, file and line, how papers
    differ."""
    from sisbench.diagnose.explain import explain as text_of

    out.print(text_of(metric, protocol), highlight=False, markup=False, soft_wrap=True)


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", "-o", help="folder of the run")] = Path("runs/demo"),
    limit: Annotated[int, typer.Option(help="test items")] = 0,
    quiet: Quiet = False,
) -> None:
    """The whole benchmark on the bundled data set, offline, in minutes."""
    from sisbench.pipeline import run_demo

    page = run_demo(to, limit or None, Progress(quiet=quiet))
    _print_tables(to)
    out.print(f"\nreport: {page.resolve()}", highlight=False, soft_wrap=True)


@weights_app.command("list")
def weights_list() -> None:
    """Every known file: what for, licence, whether it is here, how to get it."""
    from sisbench.core import weights

    table = Table("name", "for", "state", "licence", "how to get it")
    for row in weights.status():
        how = "" if row["here"] else row["remedy"]
        columns = (row["name"], row["purpose"], row["state"], row["licence"], how)
        table.add_row(*(escape(column) for column in columns))
    out.print(table)


@weights_app.command("fetch")
def weights_fetch(name: str, offline: Annotated[bool, typer.Option("--offline")] = False) -> None:
    """Download one file and check its hash."""
    from sisbench.core import weights

    path = weights.fetch(name, progress=True, offline=offline)
    out.print(str(path), highlight=False, soft_wrap=True)


@weights_app.command("add")
def weights_add(name: str, file: Path) -> None:
    """Take in a file that you fetched yourself; a first one pins its hash in your lock file."""
    from sisbench.core import weights

    out.print(weights.add(name, file), highlight=False, soft_wrap=True)


@weights_app.command("verify")
def weights_verify() -> None:
    """Check the hash of every file that is here."""
    from sisbench.core import weights

    bad = 0
    for name, right, detail in weights.verify():
        out.print(f"{'ok  ' if right else 'BAD '} {name} {detail}", highlight=False, soft_wrap=True)
        bad += not right
    raise typer.Exit(1 if bad else 0)


@weights_app.command("path")
def weights_path(name: str) -> None:
    """Where a file lies."""
    from sisbench.core import weights

    out.print(str(weights.path(name)), highlight=False, soft_wrap=True)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _options(pairs: list[str]) -> dict[str, Any]:
    """``["ngf=8"]`` as {"ngf": 8}; values are YAML scalars."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"'{pair}' is no option", "write it as name=value")
        options[key] = yaml.safe_load(value)
    return options


def _print_tables(
    run: Path,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
) -> None:
    from sisbench.pipeline import metric_facts
    from sisbench.report import console_tables

    facts = metric_facts() if versus else {}
    tables = console_tables(
        run, versus=versus, protocols=protocols, uncertainty=uncertainty, metric_facts=facts
    )
    for table in tables:
        out.print(table)


_MACHINE_FAULTS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.EMFILE,
        errno.ENFILE,
    }
)
"""What a disk or a system says no with: no bug of ours."""


def main() -> None:
    """Entry point: a ``UserError``, and a disk or a system that says no, is one message and exit
    code 2; Ctrl-C keeps what is done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an arrow must not end a run on a plain terminal
            stream.reconfigure(errors="replace")
    console = Console(stderr=True)
    try:
        app()
    except UserError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:  # as in: sisbench methods | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _MACHINE_FAULTS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror}\n  -> what is done is kept; mend this, then run it again"
        console.print(f"[red]error:[/red] {escape(text)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            console.print("\nstopped; what is done is kept, run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
