"""``sisbench doctor`` and ``sisbench check``: findings, one line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from sisbench.commands.console import line, marked, out, print_json
from sisbench.core.overrides import named_values
from sisbench.core.progress import Progress


def doctor(config: Path | None, anchor: bool, quick: bool, as_json: bool) -> int:
    """Print every finding and a verdict; returns the exit code: 1 where one is a failure."""
    from sisbench.diagnose.doctor import examine

    tally: Counter[str] = Counter()
    found = []
    for finding in examine(config, anchor, quick, Progress(quiet=as_json)):
        tally[finding.state] += 1
        found.append({"state": finding.state, "what": finding.what, "remedy": finding.remedy})
        if not as_json:
            remedy = f"\n     -> {finding.remedy}" if finding.remedy else ""
            marked(finding.state, finding.what + remedy)
    if as_json:
        print_json(found)
    elif config is not None:
        said = f"{tally['fail']} failures, {tally['warn']} warnings"
        line(f"{said}: " + ("mend the failures first" if tally["fail"] else "ready to run"))
    return 1 if tally["fail"] else 0


def check(method: str, space: str, weights: str, options: Sequence[str], device: str) -> int:
    """Check an adapter against the contract; returns the exit code: 1 where a clause failed."""
    from sisbench.diagnose.conformance import check_method

    failed = 0
    marks = {True: "[green]ok  [/]", False: "[red]FAIL[/]", None: "[dim]n/a [/]"}
    for finding in check_method(
        method, space, weights or None, named_values(options, "option"), device
    ):
        detail = f" [dim]({escape(finding.detail)})[/dim]" if finding.detail else ""
        out.print(f"{marks[finding.ok]} {escape(finding.clause)}{detail}", highlight=False)
        failed += finding.ok is False
    out.print(f"{failed} of the clauses failed" if failed else "the adapter keeps the contract")
    return 1 if failed else 0
