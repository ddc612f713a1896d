"""The console that all commands print on, and what several of them print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

out = Console()
if not out.is_terminal:
    out = Console(width=160)  # a pipe has no width: tables are not cut

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "bad": "red", "note": "yellow"}


def line(text: str) -> None:
    """One line as it is: no markup, no colours, never cut."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def marked(mark: str, text: str) -> None:
    """``ok   text``, the mark in its colour."""
    colour = _COLOURS.get(mark, "default")
    out.print(f"[{colour}]{mark:4}[/] {escape(text)}", highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line that whoever reads the results must know."""
    out.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """JSON on standard output, for programs."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def split(text: str) -> list[str]:
    """``"a, b"`` as ["a", "b"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def print_tables(
    run: Path,
    versus: str | None = None,
    protocols: Sequence[str] = (),
    uncertainty: bool = False,
    all_columns: bool = False,
) -> None:
    """The tables of a run."""
    from sisbench.pipeline import metric_facts
    from sisbench.report import console_tables

    tables = console_tables(
        run,
        versus=versus,
        protocols=protocols,
        uncertainty=uncertainty,
        metric_facts=metric_facts() if versus else {},
        all_columns=all_columns,
    )
    for table in tables:
        out.print(table)
