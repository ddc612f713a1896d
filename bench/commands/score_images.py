"""``sisbench score-images``: a folder of images against one of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sisbench.commands.console import out, split
from sisbench.core.overrides import named_values
from sisbench.core.progress import Progress


def score_images(
    images: Annotated[Path, typer.Argument(help="folder of generated images")],
    reference: Annotated[Path, typer.Argument(help="folder of photographs")],
    labels: Annotated[Path | None, typer.Option(help="folder of label maps (PNG), by stem")] = None,
    space: Annotated[str, typer.Option(help="their label space, or its YAML")] = "",
    metric: Annotated[
        str, typer.Option("--metric", "-m", help="a,b (default: all that are defined)")
    ] = "",
    protocol: Annotated[str, typer.Option("--protocol", "-p", help="a preset")] = "sisbench1",
    parsers: Annotated[str, typer.Option(help="parsers for mIoU and accuracy: a,b")] = "",
    weights: Annotated[
        list[str] | None, typer.Option("--weights", help="file of a metric's weights: NAME=FILE")
    ] = None,
    size: Annotated[int, typer.Option(help="side in pixels (default: the photographs')")] = 0,
    resize: Annotated[
        str, typer.Option(help="filter for other sizes: nearest, bilinear, bicubic, lanczos, area")
    ] = "",
    missing: Annotated[str, typer.Option(help="stems without a partner: skip or error")] = "skip",
    pattern: Annotated[str, typer.Option(help="stem of the image of ID, as {id}_fake")] = "{id}",
    device: Annotated[str, typer.Option(help="torch device")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Score a folder of IMAGES against one of photographs, whatever made them; no run is needed.

    Exit code 1 where no score can be had, 2 for bad input."""
    from sisbench.pipeline import score_folders
    from sisbench.score import folder_table

    scores = score_folders(
        images,
        reference,
        labels,
        space or None,
        split(metric) or None,
        protocol,
        split(parsers),
        {k: str(v) for k, v in named_values(weights or [], "option").items()},
        size or None,
        resize or None,
        missing,
        pattern,
        device,
        Progress(quiet=quiet),
    )
    if as_json or as_csv:
        typer.echo(
            folder_table.as_json(scores) if as_json else folder_table.as_csv(scores).rstrip()
        )
    else:
        for part in folder_table.as_table(scores):
            out.print(part, highlight=False, soft_wrap=isinstance(part, str))
    raise typer.Exit(0 if any(s.value is not None for s in scores) else 1)
