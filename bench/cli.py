"""The command line: thin commands over the library; a mistake is one message and exit code 2."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from sisbench.commands.console import line, note, out, print_tables, split
from sisbench.commands.score_images import score_images
from sisbench.commands.weights import weights_app
from sisbench.core.errors import MACHINE_FAULTS, UserError
from sisbench.core.progress import Progress
from sisbench.share import commands

app = typer.Typer(
    name="sisbench",
    help="Benchmark semantic image synthesis: one interface, one protocol, the papers' tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(weights_app, name="weights")
app.add_typer(commands.stats_app, name="stats")
_INTERRUPTED = 130  # what typer makes of Ctrl-C

Config = Annotated[Path, typer.Argument(help="YAML of the run; see docs/configuration.md")]
Run = Annotated[Path, typer.Argument(help="folder of a run")]
Strict = Annotated[bool, typer.Option("--strict", help="a score that cannot be had is an error")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
AllColumns = Annotated[
    bool, typer.Option("--all-columns", help="also columns of which no method has a score")
]
Json = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
ShardText = Annotated[
    str, typer.Option("--shard", help="one share alone, as 3/16: any process on any machine")
]
Protocols = Annotated[
    str, typer.Option("--protocol", "-p", help="protocol, or several: a,b (default: the run's own)")
]


def _version(wanted: bool) -> None:
    if wanted:
        from sisbench import __version__

        line(f"sisbench {__version__}")
        raise typer.Exit()


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="and exit")
    ] = False,
) -> None:
    """Benchmark semantic image synthesis: one interface, one protocol, the papers' tables.

    Exit codes: 0, what was asked for is done; 1, some of it failed (the summary says what); 2, bad
    input, or a disk or system that says no; 130, stopped by Ctrl-C."""


@app.command()
def run(
    config: Config,
    assignments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="changes: engine.device=cuda methods.SEAN.weights=x"
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", help="a or a,b: instead of the configuration's own")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", help="items of every data set; 0: all")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="method=SEAN, task=transfer or dataset=NAME; repeatable"),
    ] = None,
    strict: Strict = False,
    quiet: Quiet = False,
    generate_only: Annotated[
        bool, typer.Option("--generate-only", help="make images, no scores and no report")
    ] = False,
    all_columns: AllColumns = False,
    shard: ShardText = "",
) -> None:
    """Make the missing images of CONFIG, score them, write the report. Running again is the
    resume. With --shard, only make that share; run again without it to join, score and report.

    Exit codes: 0, at least one score was made and nothing failed that was asked for; 1, something
    failed, or nothing could be made; 2, bad input."""
    from sisbench.commands.work import run as work_off

    named = (assignments or [], protocol, limit, only or [])
    raise typer.Exit(work_off(config, *named, strict, quiet, generate_only, all_columns, shard))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="configuration to write")] = Path("run.yaml"),
    root: Annotated[
        Path | None, typer.Option(help="folder of the data set (default: the bundled toyfaces)")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME=WEIGHTS; repeatable")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="repeatable")] = None,
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="protocol")] = "sisbench1",
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """Write a commented configuration to start from: the data set is found and counted. On a
    terminal it asks for what no option says."""
    from sisbench.commands.work import init as write

    write(file, root, method or [], task or [], protocol, force)


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
    all_columns: AllColumns = False,
    shard: ShardText = "",
) -> None:
    """Score the images that a run has stored; no method is needed. With --shard, only keep the rows
    of that share; score again without it to join them.

    Exit codes: 0, at least one score was made and nothing failed that was asked for; 1, something
    failed, or no score could be had; 2, bad input."""
    from sisbench.commands.work import score as work_off

    named, given = (split(protocol), split(parsers)), tuple(real_stats or ())
    code = work_off(run, metric, *named, strict, quiet, device, compiled, given, all_columns, shard)
    raise typer.Exit(code)


@app.command()
def status(
    run: Run,
    shards: Annotated[
        int, typer.Option(help="count by so many shards (default: the configuration's)")
    ] = 0,
) -> None:
    """What a run has and lacks, by cell and by shard, and what works on it now."""
    from sisbench.run.status import status_of, status_tables

    found = status_of(run, shards)
    for table in status_tables(found):
        out.print(table)
    if found.remark:
        out.print(escape(found.remark), highlight=False, soft_wrap=True)


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
    all_columns: AllColumns = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="exit with 1 where a run is refused or lacks something"),
    ] = False,
) -> None:
    """Tables, charts, grids and one self-contained page from a scored run (needs no torch).

    What a run has lost (images, a damaged file) is named, and the rest is reported. Several runs
    stand in the same tables as far as data, protocols and bases agree (see merge); their report is
    written where --out says.

    Exit codes: 0, the report was made; 1, with --strict alone, where the run lacks something
    that was asked for (by the rule of `run`), or one of several is refused; 2, bad input."""
    from sisbench.pipeline import write_report
    from sisbench.report.outcome import outcome
    from sisbench.share.merged import one_run

    protocols, named = split(protocol), tuple(split(formats))
    paper = versus or None
    with one_run(runs) as (run, merged):
        commands.tell(merged)
        page = None
        if merged is None or to is not None:
            page = write_report(run, protocols, paper, named, uncertainty, to, note, all_columns)
        print_tables(run, paper, protocols, uncertainty, all_columns)
        found = outcome(run, protocols=protocols)
    for text in found.lines():
        line(text)
    line(f"report: {page}" if page else "no report is kept; --out DIR writes it")
    refused = merged is not None and bool(merged.refused)
    raise typer.Exit(1 if strict and (refused or not found.complete) else 0)


for _command in (score_images, commands.merge, commands.bundle, commands.verify):
    app.command(_command.__name__.replace("_", "-"))(_command)


@app.command()
def methods(
    name: Annotated[str, typer.Argument(help="options, tasks and weights of this one")] = "",
    as_json: Json = False,
) -> None:
    """The methods that are known, and what each is able to do; with a name, all about one."""
    from sisbench.commands import show

    show.methods(name, as_json)


@app.command()
def datasets(
    name: Annotated[str, typer.Argument(help="a data set, or a run's YAML: check every item")] = "",
    root: Annotated[str, typer.Option(help="folder of the data set")] = "",
    split: Annotated[str, typer.Option(help="split")] = "",
    as_json: Json = False,
) -> None:
    """The data sets that are known; with a name or a configuration, decode and check every item."""
    from sisbench.commands import show

    raise typer.Exit(show.datasets(name, root, split, as_json))


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
    line(f"{written} pairs written, {kept} kept, in {to / split}")


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="name of a recipe, a YAML file, toy-parser, or list")
    ] = "list",
    assignments: Annotated[
        list[str] | None, typer.Argument(help="key=value in place of the recipe's, data.root=DIR")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--out", "-o", help="safetensors file to write")
    ] = None,
    steps: Annotated[int, typer.Option(min=0, help="updates; 0 takes the recipe's")] = 0,
    seed: Annotated[int, typer.Option(help="of initial weights, data order and noise")] = 0,
    quiet: Quiet = False,
) -> None:
    """Train a method by a recipe; run it again to go on after a stop. The file says in its header
    how it was made. Without a recipe: list them."""
    from sisbench.commands import training

    if recipe == "list":
        training.list_recipes()
        return
    if to is None:
        raise UserError("where to?", f"sisbench train {recipe} -o WEIGHTS.safetensors")
    training.train(recipe, to, assignments or [], steps, seed, quiet)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="YAML of a run")] = None,
    anchor: Annotated[
        bool, typer.Option("--anchor", help="also score the parser on the real test photographs")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="the first item of each data set, no trial image")
    ] = False,
    as_json: Json = False,
) -> None:
    """Data, weights, devices, versions: one line each, with the remedy. With CONFIG the audit
    before a long run: every item, every checkpoint, every method, images, disk and time."""
    from sisbench.commands import audit

    raise typer.Exit(audit.doctor(config, anchor, quick, as_json))


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
    from sisbench.commands import audit

    raise typer.Exit(audit.check(method, space, weights, option or [], device))


@app.command()
def explain(
    metric: Annotated[str, typer.Argument(help="as fid, miou; empty lists them")] = "",
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="protocol")] = "",
    run: Annotated[
        Path | None, typer.Option("--run", help="folder of a run: its scores, on what they rest")
    ] = None,
) -> None:
    """What exactly a number is: formula, extractor, resize, splits, file and line, how papers
    differ; with a run, each of its scores and what it rests on."""
    from sisbench.diagnose.explain import explain as text_of
    from sisbench.diagnose.explain import explain_scores

    if run is not None:
        line(explain_scores(run, metric, protocol))
    else:
        line(text_of(metric, protocol or "sisbench1"))


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", "-o", help="folder of the run")] = Path("runs/demo"),
    limit: Annotated[int, typer.Option(help="test items")] = 0,
    quiet: Quiet = False,
) -> None:
    """The whole benchmark on the bundled data set, offline, in minutes."""
    from sisbench.pipeline import run_demo

    page = run_demo(to, limit or None, Progress(quiet=quiet))
    print_tables(to)
    line(f"\nreport: {page.resolve()}")


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
        if error.errno not in MACHINE_FAULTS:
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
