"""Commands of this room, as ``sisbench.cli`` hangs them in: stats, merge, bundle, verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sisbench.core.overrides import named_values
from sisbench.core.progress import Progress

if TYPE_CHECKING:
    from sisbench.share.sources import Merging

stats_app = typer.Typer(
    help="Reference statistics of FID, to and from other tools' files.", no_args_is_help=True
)
_KINDS = "sisbench, pytorch-fid, clean-fid, guided-diffusion or torch-fidelity"


@stats_app.command("export")
def stats_export(
    source: Annotated[str, typer.Argument(help="a run's folder, or the name of a data set")],
    to: Annotated[Path, typer.Option("--out", "-o", help="file (torch-fidelity: folder) to write")],
    kind: Annotated[str, typer.Option("--to", help=_KINDS)] = "sisbench",
    protocol: Annotated[
        str,
        typer.Option("--protocol", "-p", help="whose extractor is taken (default: the run's)"),
    ] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="argument of the data set, as root=DIR, split=train")
    ] = None,
    dataset: Annotated[str, typer.Option(help="of a run that has several")] = "",
    split: Annotated[str, typer.Option(help="of a run's real sets: test or train")] = "test",
    method: Annotated[str, typer.Option(help="of a run: its images, not the photographs")] = "",
    task: Annotated[str, typer.Option(help="with --method: the task's name, as in tables")] = "",
    name: Annotated[str, typer.Option(help="for captions, and torch-fidelity's input")] = "",
    features: Annotated[bool, typer.Option(help="keep the features: KID needs them")] = True,
    weights: Annotated[str, typer.Option(help="Inception's file (default: the known one)")] = "",
    device: Annotated[str, typer.Option(help="torch device")] = "cpu",
) -> None:
    """Write mean and covariance of photographs, or of a run's images, as another tool reads
    them."""
    from sisbench.metrics.base import Context
    from sisbench.share.collect import export, of_dataset, of_run, protocol_of

    run = Path(source) if (Path(source) / "run.json").is_file() else None
    chosen = protocol_of(run, protocol)
    if run is not None:
        wanted = of_run(run, dataset, split, method, task)
    else:
        wanted = of_dataset(source, named_values(option or [], "argument"))
    context = Context(device=device, weights={"inception": weights} if weights else {})
    for path in export(
        wanted, to, kind, chosen, Progress(), name=name, keep_features=features, context=context
    ):
        typer.echo(f"wrote {path}: {len(wanted.source.ids)} images, {wanted.name}")


@stats_app.command("import")
def stats_import(
    source: Annotated[Path, typer.Argument(help="file of another tool")],
    to: Annotated[Path, typer.Option("--out", "-o", help=".npz to write")],
    kind: Annotated[str, typer.Option("--from", help=_KINDS.removeprefix("sisbench, "))],
    extractor: Annotated[
        str, typer.Option(help="inception-tf1, -clean or -pytorch_fid (default: the tool's own)")
    ] = "",
    name: Annotated[str, typer.Option(help="for captions (default: the file's)")] = "",
    split: Annotated[str, typer.Option(help="of the real set: test or train")] = "test",
    n: Annotated[int, typer.Option(min=0, help="images, where the file does not say")] = 0,
    features: Annotated[bool, typer.Option(help="keep features that are there")] = True,
    weights: Annotated[str, typer.Option(help="Inception's file, for images (arr_0)")] = "",
    device: Annotated[str, typer.Option(help="torch device, for images (arr_0)")] = "cpu",
) -> None:
    """Take in another tool's file; then: sisbench score RUN --real-stats FILE, or at the data set
    'real_stats: FILE'."""
    from sisbench.metrics.base import Context
    from sisbench.share.stats import import_statistics

    context = Context(device=device, weights={"inception": weights} if weights else {})
    found = import_statistics(
        source,
        to,
        kind,
        extractor=extractor,
        name=name,
        split=split,
        n=n,
        keep_features=features,
        context=context,
    )
    there = "features" if "features" in found.columns else "mean and covariance, so no KID"
    typer.echo(f"wrote {to}: {found.said}, for the {split} photographs; {there}")


def merge(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs; the first decides")],
    to: Annotated[Path, typer.Option("--out", "-o", help="new folder of the merged run")],
    images: Annotated[
        bool, typer.Option(help="take the images too, by hard link where the disk allows it")
    ] = True,
    strict: Annotated[
        bool, typer.Option("--strict", help="exit with 1 where anything is refused")
    ] = False,
) -> None:
    """Several runs as one: methods of several machines in one table. What differs in data,
    protocol or basis from the first run is refused line by line."""
    from sisbench.share.merge import merging
    from sisbench.share.merged import write_merged

    found = merging(runs)
    write_merged(found, to, "link" if images else "none")
    tell(found)
    cells, scores = len(found.taken), sum(s.value is not None for s in found.scores)
    typer.echo(f"merged: {to}: {cells} cells, {scores} scores of {len(runs)} runs")
    raise typer.Exit(1 if strict and found.refused else 0)


def bundle(
    run: Annotated[Path, typer.Argument(help="folder of a scored run")],
    to: Annotated[Path | None, typer.Option("--out", "-o", help="file (default: NAME.zip)")] = None,
    images: Annotated[bool, typer.Option("--images", help="all images, not thumbnails")] = False,
    pictures: Annotated[bool, typer.Option(help="thumbnails, or none at all")] = True,
    every_feature: Annotated[
        bool, typer.Option("--every-feature", help="keep a real set's features however large")
    ] = False,
) -> None:
    """One archive of a run to hand on: scores, the rows behind them, provenance, hashes."""
    from sisbench.share.bundle import write_bundle

    file = to or Path(f"{run.resolve().name}.zip")
    kind: Any = "images" if images else "thumbnails" if pictures else "none"
    for note in write_bundle(run, file, kind, every_feature):
        typer.echo(f"note: {note}")
    typer.echo(f"wrote {file}: {file.stat().st_size / 2**20:.1f} MiB")


def verify(
    file: Annotated[Path, typer.Argument(help="what sisbench bundle wrote")],
    to: Annotated[
        Path | None, typer.Option("--unpack", help="write the run into this folder if it passes")
    ] = None,
    most: Annotated[float, typer.Option("--max-gib", help="largest size unpacked")] = 32,
    strict: Annotated[
        bool, typer.Option("--strict", help="what cannot be checked is a failure")
    ] = False,
) -> None:
    """Check a bundle: schema, hashes, every score from its rows, provenance. Exit code 0 or 1."""
    from sisbench.report.tables import one_line
    from sisbench.share.verify import unpack
    from sisbench.share.verify import verify as check

    failed = unchecked = 0
    marks = {True: "ok  ", False: "FAIL", None: "skip"}
    largest = int(most * 2**30)
    for finding in check(file, largest):
        typer.echo(f"{marks[finding.ok]} {one_line(finding.what)}")
        failed += finding.ok is False
        unchecked += finding.ok is None
    failed += unchecked if strict else 0
    more = f", {unchecked} scores could not be checked" if unchecked else ""
    typer.echo(f"{file}: {f'{failed} failures' if failed else 'pass'}{more}")
    if to is not None and not failed:
        unpack(file, to, largest)
    raise typer.Exit(1 if failed else 0)


def tell(found: Merging | None) -> None:
    """Print what a merging refused, and its notes."""
    for line in found.refused if found is not None else ():
        typer.echo(f"refused: {line}")
    for line in found.notes if found is not None else ():
        typer.echo(f"note: {line}")
