"""sisbench: a benchmark harness for semantic image synthesis. Importing it imports no torch.

>>> import sisbench
>>> sisbench.create_metric("psnr").direction
'up'
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from sisbench.config import RunConfig
    from sisbench.core.batch import Batch
    from sisbench.core.frames import Run
    from sisbench.core.label_space import LabelSpace
    from sisbench.core.noise import Noise
    from sisbench.data import Dataset
    from sisbench.methods.base import Method
    from sisbench.metrics.base import Metric
    from sisbench.segmenters.base import Segmenter

    __version__: str

__all__ = [
    "Batch",
    "LabelSpace",
    "Noise",
    "Run",
    "__version__",
    "create_method",
    "create_metric",
    "create_parser",
    "open_dataset",
    "open_run",
    "run",
    "score_images",
]

_LAZY = {
    "Batch": "sisbench.core.batch",
    "LabelSpace": "sisbench.core.label_space",
    "Noise": "sisbench.core.noise",
    "Run": "sisbench.core.frames",
}


def create_method(
    name: str,
    space: LabelSpace | str,
    weights: str | Path | None = None,
    device: str = "cpu",
    **options: Any,
) -> Method:
    """A method for a label space, with its weights; the official size unless ``options`` say so.

    Args:
        name: as ``sisbench methods`` lists it, or ``"./file.py:Class"``.
        space: a label space, or the name of one, as ``"celebamask_hq"``.
        weights: a checkpoint (file or folder), a name of ``sisbench weights list``,
            ``"bundled:toy-spade"``, ``"seeded:0"`` (test weights), or None: built, not loaded.
        device: torch device, as ``"cuda"``.
        options: fields of the method's ``Options``.

    Raises:
        UserError: an unknown name or option (the nearest one is named), weights that do not fit.

    >>> import sisbench
    >>> method = sisbench.create_method("spade", "celebamask_hq", weights="bundled:toy-spade")
    >>> method.size
    (64, 64)
    """
    from sisbench import methods
    from sisbench.run.method_entry import resolve_weights

    method: Method = methods.registry.get(name)(**options)
    if weights is None:
        return method.setup(space).to(device)
    seeded = str(weights).startswith("seeded:")
    return method.load(space, str(weights) if seeded else resolve_weights(str(weights)), device)


def create_parser(
    name: str,
    space: LabelSpace | str,
    weights: str | Path | None = None,
    device: str = "cpu",
    **options: Any,
) -> Segmenter:
    """A parser with its weights: called with (B, 3, H, W) uint8 RGB it gives (B, h, w) int64.

    Args:
        weights: a file; None takes the registered one.

    Raises:
        UserError: an unknown name or option, or a parser that does not know the label space.
        Unavailable: the weights are not here (it says how to get them).

    >>> import sisbench, torch
    >>> parser = sisbench.create_parser("toy", "celebamask_hq")
    >>> parser(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
    torch.Size([2, 64, 64])
    """
    from sisbench import segmenters

    parser = segmenters.create(name, space, **options)
    return parser.load(None if weights is None else Path(weights), device)


def create_metric(name: str, **options: Any) -> Metric:
    """A metric: ``reduce`` turns the rows of its maker, one a sample, into a score.

    Raises:
        UserError: an unknown name; the nearest one is named.

    >>> import numpy as np, sisbench
    >>> sisbench.create_metric("ssim").reduce({"ssim": np.array([0.25, 0.75])}).value
    0.5
    """
    from sisbench import metrics

    return metrics.create(name, **options)


def open_dataset(name: str, **arguments: Any) -> Dataset:
    """A data set: ``ids``, and ``load(id)`` with photograph, label map and instance map.

    Args:
        name: as ``sisbench datasets`` lists it, or ``"./file.py:Class"``.
        arguments: of the data set's class: root, split, size, ...

    Raises:
        UserError: an unknown name or argument, missing folders, unpaired files.

    >>> import sisbench
    >>> faces = sisbench.open_dataset("toyfaces", n=4, size=64)
    >>> faces.load(faces.ids[0]).image.shape
    (64, 64, 3)
    """
    from sisbench import data

    return data.open_dataset(name, **arguments)


def open_run(path: str | Path) -> Run:
    """The results of a run folder as data frames, finished or not.

    Raises:
        UserError: no run there, a damaged manifest, or one of another version.

    >>> import sisbench
    >>> _ = sisbench.run({"name": "tiny", "methods": [{"name": "spade",
    ...     "weights": "bundled:toy-spade"}], "metrics": ["psnr", "ssim"],
    ...     "datasets": [{"name": "toyfaces", "n": 3, "size": 64}]})
    >>> images = sisbench.open_run("runs/tiny").items()
    >>> len(images), bool(images["psnr"].min() > 10)
    (3, True)
    """
    from sisbench.core.frames import Run

    return Run(path)


def run(config: RunConfig | Mapping[str, Any] | str | Path, *, quiet: bool = True) -> Run:
    """Make the missing images of a configuration, score them, write the report; running again is
    the resume.

    Args:
        config: a YAML file, or the same keys as a mapping.
        quiet: no progress on the console.

    Raises:
        UserError: anything that the user can mend; what is done is kept.

    >>> import sisbench
    >>> tiny = sisbench.run({"name": "tiny", "methods": [{"name": "spade",
    ...     "weights": "bundled:toy-spade"}], "metrics": ["psnr", "ssim"],
    ...     "datasets": [{"name": "toyfaces", "n": 3, "size": 64}]})
    >>> tiny.scores()[["metric", "n"]].values.tolist()
    [['psnr', 3], ['ssim', 3]]
    """
    from sisbench.config import RunConfig, load_config
    from sisbench.core.progress import Progress
    from sisbench.core.schema import validated
    from sisbench.pipeline import run_all

    if isinstance(config, str | Path):
        chosen = load_config(Path(config))
    elif isinstance(config, RunConfig):
        chosen = config
    else:
        chosen = validated(RunConfig, config, "configuration")
    run_all(chosen, Progress(quiet=quiet))
    return open_run(chosen.folder)


def score_images(
    images: str | Path,
    reference: str | Path,
    labels: str | Path | None = None,
    *,
    space: LabelSpace | str | None = None,
    metrics: Sequence[str] | None = None,
    protocol: str = "sisbench1",
    parsers: Sequence[str] = (),
    weights: Mapping[str, str | Path] | None = None,
    size: int | Sequence[int] | None = None,
    resize: str | None = None,
    missing: str = "skip",
    pattern: str = "{id}",
    device: str = "auto",
    quiet: bool = True,
) -> pd.DataFrame:
    """Scores of a folder of images, made by whatever program, against a folder of photographs: one
    row a score, with the columns of ``Run.scores`` (NaN with a ``reason`` where it cannot be had).

    Images and photographs of one stem are pairs (psnr, ssim, lpips, ...); where no stem is shared,
    whole sets are compared (fid, kid). Label maps add miou and accuracy.

    Args:
        images, reference, labels: folders; label maps are PNG, by the photograph's stem.
        space: the label maps' space, its name, or a YAML file of one.
        metrics: names; None takes those that are defined for what is there.
        protocol: a preset; parsers: names, instead of the protocol's.
        weights: files by name of the weights registry.
        size: side or [height, width] of every image; None takes that of the photographs.
        resize: "nearest", "bilinear", "bicubic", "lanczos" or "area" for images of another size,
            said in the score's ``resize``; None refuses them.
        missing: a stem without a partner is left out of pairs ("skip") or an "error".
        pattern: stem of the image of the photograph ``id``, as "{id}_fake".

    Raises:
        UserError: empty folders, other sizes without a filter, an unknown name (the nearest one is
            named), label maps without their space.

    >>> import sisbench
    >>> tiny = sisbench.run({"name": "tiny", "methods": [{"name": "spade",
    ...     "weights": "bundled:toy-spade"}], "metrics": ["psnr"],
    ...     "datasets": [{"name": "toyfaces", "n": 3, "size": 64}]})
    >>> folder = tiny.cells[0].folder / "images"
    >>> sisbench.score_images(folder, folder, metrics=["ssim"])[["metric", "value", "n"]]
      metric  value  n
    0   ssim    1.0  3
    """
    from sisbench.core.frames import score_frame
    from sisbench.core.progress import Progress
    from sisbench.pipeline import score_folders

    found = score_folders(
        Path(images),
        Path(reference),
        None if labels is None else Path(labels),
        space,
        metrics,
        protocol,
        parsers,
        weights,
        size,
        resize,
        missing,
        pattern,
        device,
        Progress(quiet=quiet),
    )
    return score_frame(found)


class _CallableRoom(ModuleType):
    """``sisbench.run`` is a folder of modules, which Python sets in place of the function as soon
    as one of them is imported; so the folder is made callable."""

    __call__ = staticmethod(run)


importlib.import_module("sisbench.run")
sys.modules["sisbench.run"].__class__ = _CallableRoom


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sisbench")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sisbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
