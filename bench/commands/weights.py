"""``sisbench weights``: what is known, what is here, where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sisbench.commands.console import line

weights_app = typer.Typer(
    help="Weights: what is known, what is here, where it lies.", no_args_is_help=True
)


@weights_app.command("list")
def weights_list(
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Every known file: what for, licence, whether it is here, how to get it."""
    from sisbench.commands import show

    show.weights(as_json)


@weights_app.command("fetch")
def weights_fetch(
    names: Annotated[list[str], typer.Argument(help="one or several")],
    offline: Annotated[bool, typer.Option("--offline")] = False,
) -> None:
    """Download files and check their hashes."""
    from sisbench.core import weights

    for name in names:
        line(str(weights.fetch(name, progress=True, offline=offline)))


@weights_app.command("add")
def weights_add(name: str, file: Path) -> None:
    """Take in a file that you fetched yourself; a first one pins its hash in your lock file."""
    from sisbench.core import weights

    line(weights.add(name, file))


@weights_app.command("verify")
def weights_verify() -> None:
    """Check the hash of every file that is here."""
    from sisbench.core import weights

    bad = 0
    for name, right, detail in weights.verify():
        line(f"{'ok  ' if right else 'BAD '} {name} {detail}")
        bad += not right
    raise typer.Exit(1 if bad else 0)


@weights_app.command("path")
def weights_path(name: str) -> None:
    """Where a file lies."""
    from sisbench.core import weights

    line(str(weights.path(name)))
