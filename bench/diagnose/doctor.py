"""``sisbench doctor``: data, weights, devices, versions; one finding a line, with its remedy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sisbench.config import IMAGES, RunConfig, load_config
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.provenance import library_versions

_NEEDED = ("torch", "torchvision", "torch-fidelity", "lpips")
_EXTRAS = {"facenet-pytorch": "FRS (extra: identity)", "transformers": "SegFormer (extra: hf)"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: ``state`` is "ok", "warn" (an empty cell will appear) or "fail"."""

    state: Literal["ok", "warn", "fail"]
    what: str
    remedy: str = ""


def examine(config: Path | None, anchor: bool = False) -> Iterator[Finding]:
    """Look at the machine and, with a configuration, at all that its run will need.

    Args:
        anchor: also run the parser over the real test photographs and compare with its anchor.
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
    yield from _plan(loaded)
    yield from _weights(loaded)
    yield from _disk(loaded)
    yield from _anchors(loaded, anchor)


def _anchors(config: RunConfig, wanted: bool) -> Iterator[Finding]:
    """The parser on the real photographs of its anchor, where weights and data are there."""
    from sisbench.core import weights
    from sisbench.core.devices import pick_devices
    from sisbench.core.progress import Progress
    from sisbench.data import open_dataset
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


def _plan(config: RunConfig) -> Iterator[Finding]:
    """Data sets, methods and weights of the plan, each on its own: no fault hides another."""
    from sisbench.data import open_dataset
    from sisbench.run.plan import method_class, resolve_weights

    for d in config.datasets:
        try:
            data = open_dataset(d.name, **d.arguments)
            data.load(data.ids[0])
            size = "x".join(map(str, data.size))
            yield Finding("ok", f"data set {d.shown}: {len(data)} at {size}, the first decodes")
        except UserError as error:
            yield Finding("fail", f"data set {d.shown}: {error.message}", error.hint)
    for m in config.methods:
        try:
            method_class(m.name)(**m.options)
            if m.name == IMAGES:
                yield Finding("ok", f"method {m.shown}: images in {m.options['root']}")
            elif m.weights is None:
                yield Finding(
                    "warn",
                    f"method {m.shown}: no weights given",
                    "fine for a method that learns nothing",
                )
            elif m.weights.startswith("seeded:"):
                yield Finding("warn", f"method {m.shown}: seeded test weights, scores mean nothing")
            else:
                yield Finding("ok", f"method {m.shown}: weights at {resolve_weights(m.weights)}")
        except Unavailable as error:
            yield Finding("warn", f"method {m.shown}: {error.message}", error.hint)
        except UserError as error:
            yield Finding("fail", f"method {m.shown}: {error.message}", error.hint)


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
    folder = config.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    state: Literal["ok", "fail"] = "ok" if free > 1 else "fail"
    yield Finding(
        state, f"{free:.0f} GiB free at {folder.resolve()}", "" if free > 1 else "make room"
    )
