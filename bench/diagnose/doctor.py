"""``sisbench doctor``: data, weights, devices, versions; one finding a line, with its remedy."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sisbench import metrics, segmenters
from sisbench.config import RunConfig, load_config
from sisbench.core.adapter_file import as_user_error
from sisbench.core.devices import pick_devices
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.provenance import library_versions
from sisbench.data import Dataset, open_dataset
from sisbench.diagnose.audit import datasets_of, methods_of
from sisbench.diagnose.finding import Finding
from sisbench.diagnose.real_sets import statistics_of
from sisbench.diagnose.scores import scores_of
from sisbench.run.plan import run_protocols
from sisbench.run.preflight import existing

_NEEDED = ("torch", "torchvision", "torch-fidelity", "lpips")
_EXTRAS = {"facenet-pytorch": "FRS (extra: identity)", "transformers": "SegFormer (extra: hf)"}


def examine(
    config: Path | None,
    anchor: bool = False,
    quick: bool = False,
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Look at the machine and, with a configuration, at all that its run will need.

    Args:
        config: YAML of a run.
        anchor: also run the parser over the real test photographs and compare with its anchor.
        quick: decode the first item of each data set alone, and draw no trial image.
        progress: where decoding shows how far it is.
    """
    yield Finding("ok", f"python {sys.version.split()[0]}")
    versions = library_versions()
    for name in _NEEDED:
        if versions.get(name):
            yield Finding("ok", f"{name} {versions[name]}")
        else:
            yield Finding("fail", f"{name} is not installed", "pip install sisbench")
    for name, purpose in _EXTRAS.items():
        if not versions.get(name):
            yield Finding("warn", f"{name} is not installed: no {purpose}")
    yield from _device()
    if config is None:
        yield from _weights(None)
        return
    try:
        loaded = load_config(config)
    except UserError as error:
        yield Finding("fail", error.message, error.hint)
        return
    yield Finding("ok", f"{config}: {_size(loaded)}")
    datasets: dict[str, Dataset] = {}
    yield from datasets_of(loaded, quick, progress or Progress(quiet=True), datasets)
    yield from methods_of(loaded, datasets, quick)
    yield from _weights(loaded)
    yield from statistics_of(loaded)
    yield from _metrics(loaded)
    yield from _parsers(loaded, datasets)
    if not quick:
        yield from scores_of(loaded, datasets)
    yield from _disk(loaded)
    yield from _anchors(loaded, anchor)


def _anchors(config: RunConfig, wanted: bool) -> Iterator[Finding]:
    """The parser on the real photographs of its anchor, where weights and data are there."""
    from sisbench.core import weights
    from sisbench.score.anchor import ANCHORS, check_anchor

    for anchor in ANCHORS:
        for d in config.datasets:
            if d.name != anchor.dataset:
                continue
            what = f"anchor of {anchor.parser} on {d.shown}"
            try:
                file = config.weights.get(anchor.parser)
                path = Path(file) if file else weights.path(anchor.parser)
                data = open_dataset(d.name, **{"root": d.arguments.get("root"), **anchor.arguments})
                device = pick_devices(config.engine.device)[0]
            except UserError as error:
                yield Finding("warn", f"{what}: not checked, {error.message}", error.hint)
                continue
            cheap = device == "cpu" and not wanted  # minutes on a CPU: where it was asked for
            found = check_anchor(anchor, data, path, device, Progress(), only_cached=cheap)
            if found is None:
                remedy = f"sisbench doctor CONFIG --anchor ({len(data):,} photographs on a CPU)"
                yield Finding("warn", f"{what}: not checked", remedy)
                continue
            right, said = found
            remedy = "" if right else f"the anchor: {anchor.source}"
            yield Finding("ok" if right else "fail", f"{what}: {said}", remedy)


def _size(config: RunConfig) -> str:
    counts = (len(config.methods), len(config.datasets), len(config.tasks))
    return "{} methods x {} data sets x {} tasks".format(*counts)


def _device() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("ok", f"no GPU; CPU with {torch.get_num_threads()} threads")
        return
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield Finding("ok", f"cuda:{i} {about.name}, {about.total_memory / 2**30:.0f} GiB")


def _metrics(config: RunConfig) -> Iterator[Finding]:
    """Whether the metrics that are asked for are there, and those of packages can be had."""
    _, broken = metrics.registry.all()
    for name in config.metrics or ():
        try:
            metrics.registry.get(name)
        except UserError as error:
            yield Finding("fail", f"metric {name}: {error.message}", error.hint)
    for name, fault in broken.items():
        if name not in (config.metrics or ()):
            yield Finding("warn", f"metric {name}: {fault.message}", fault.hint)


def _parsers(config: RunConfig, datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Whether the parser of every label space is known, and reads that label space."""
    defaults: dict[str, str] = {}
    for protocol in run_protocols(config):
        defaults |= protocol.parsers
    for space in {data.space.name: data.space for data in datasets.values()}.values():
        name = config.parsers.get(space.name) or defaults.get(space.name)
        if not name:
            yield Finding("warn", f"no parser for {space.name}: no mIoU", "name one in 'parsers'")
            continue
        try:
            segmenters.create(name, space)
        except Exception as error:  # a parser is anybody's
            found = as_user_error(error)
            yield Finding("fail", f"parser {name}: {found.message}", found.hint)
            continue
        yield Finding("ok", f"parser {name}: reads {space.name}")


def _weights(config: RunConfig | None) -> Iterator[Finding]:
    """Networks behind the metrics, and those that the configuration names files for."""
    from sisbench.core import weights

    given = {} if config is None else config.weights
    for row in weights.status():
        name, purpose = row["name"], row["purpose"]
        if name not in given and row["kind"] != "metric":
            continue
        missing = "" if row["here"] else row["remedy"]
        if name in given:
            missing = "" if Path(given[name]).is_file() else f"no file at {given[name]}"
        if missing:
            yield Finding("warn", f"weights {name}: not here, so no {purpose}", missing)
        else:
            yield Finding("ok", f"weights {name}: here ({purpose})")


def _disk(config: RunConfig) -> Iterator[Finding]:
    """Whether the run's folder can be written."""
    folder = existing(config.folder)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = "is a file" if not folder.is_dir() else str(error.strerror)
        yield Finding("fail", f"{config.folder} cannot be written: {why}", "give another 'output'")
