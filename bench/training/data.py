"""The training split, decoded once, and batches that depend on the step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.file_hash import cache_dir
from sisbench.core.store import write_atomic
from sisbench.data.base import Dataset

DONE = "done"
IN_MEMORY = 4 * 2**30
"""Bytes of a training set above which it is kept in a file, which processes share."""


class TrainingData:
    """All samples as 8-bit pictures and label maps.

    Args:
        dataset: the split.
        report: called with the number of samples that were just decoded.
        shared: keep it in a file of the cache folder, for several processes; so is what does not
            fit into memory well (``IN_MEMORY``).
        workers: threads that decode.

    Raises:
        UserError: no samples, photographs of different sizes, or more than memory or disk holds.
    """

    def __init__(
        self,
        dataset: Dataset,
        report: Callable[[int], None] = lambda n: None,
        shared: bool = False,
        workers: int = 4,
    ) -> None:
        self.space, self.fingerprint = dataset.space, dataset.fingerprint()
        if not dataset.ids:
            raise UserError("the training split holds no samples", "see sisbench datasets NAME")
        first = dataset.load(dataset.ids[0])
        n, size = len(dataset.ids), first.label.shape
        kinds: dict[str, tuple[tuple[int, ...], type]] = {
            "images": ((n, 3, *size), np.uint8),
            "labels": ((n, *size), np.int16),
        }
        if first.instance is not None:
            kinds["instances"] = ((n, *size), np.int32)
        need = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in kinds.values())
        folder = self._folder() if shared or need > IN_MEMORY else None
        if folder is not None and (folder / DONE).is_file():
            arrays = {k: np.load(folder / f"{k}.npy", mmap_mode="c") for k in kinds}
            report(n)
        else:
            arrays = _allocated(kinds, need, folder)
            _decode(dataset, arrays, report, workers)
            if folder is not None:
                write_atomic(folder / DONE, b"")
        self.images, self.labels = (torch.from_numpy(arrays[k]) for k in ("images", "labels"))
        found = arrays.get("instances")
        self.instances = None if found is None else torch.from_numpy(found)

    def _folder(self) -> Path | None:
        """Where this training set is kept; None where there is no cache folder."""
        base = cache_dir()
        name = hashlib.sha256(self.fingerprint.encode()).hexdigest()[:20]
        return None if base is None else base / "training" / name

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the samples."""
        return self.images.shape[2], self.images.shape[3]

    def per_epoch(self, size: int) -> int:
        """Updates of an epoch; the last few samples that fill no batch are left out.

        Raises:
            UserError: fewer samples than ``size``.
        """
        if len(self) < size:
            raise UserError(
                f"{len(self)} samples do not fill a batch of {size}",
                "give more samples, or a smaller batch",
            )
        return len(self) // size

    def batch(self, step: int, size: int, seed: int, flip: bool, crop: int | None = None) -> Batch:
        """The samples of update ``step``: each epoch is a new permutation.

        Args:
            step, seed: what the batch depends on.
            size: samples.
            flip: mirror half of them.
            crop: side of a random window; None takes the whole picture.
        """
        epoch, place = divmod(step, self.per_epoch(size))
        rng = np.random.default_rng((seed, epoch))
        rows = torch.from_numpy(rng.permutation(len(self))[place * size : (place + 1) * size])
        draws = np.random.default_rng((seed, epoch, place))
        turn = torch.from_numpy((draws.random(size) < 0.5) & flip)
        windows = self._windows(draws, size, crop)

        def pick(planes: Tensor) -> Tensor:
            chosen = planes[rows]
            if windows is not None and crop is not None:
                cut = [s[..., y : y + crop, x : x + crop] for s, (y, x) in zip(chosen, windows)]
                chosen = torch.stack(cut)
            across = turn.reshape(-1, *[1] * (chosen.ndim - 1))
            return torch.where(across, chosen.flip(-1), chosen)

        return Batch(
            tuple(str(int(r)) for r in rows),
            pick(self.images).float() / 127.5 - 1,
            pick(self.labels).long(),
            None if self.instances is None else pick(self.instances).long(),
            self.space,
        )

    def _windows(
        self, draws: np.random.Generator, size: int, crop: int | None
    ) -> list[tuple[int, int]] | None:
        if crop is None:
            return None
        room = [side - crop for side in self.size]
        if min(room) < 0:
            raise UserError(f"crop {crop} does not fit into samples of {self.size}")
        return [(int(y), int(x)) for y, x in draws.integers(0, [r + 1 for r in room], (size, 2))]


def _allocated(
    kinds: Mapping[str, tuple[tuple[int, ...], type]], need: int, folder: Path | None
) -> dict[str, np.ndarray]:
    """Arrays in memory, or in files of ``folder``."""
    try:
        if folder is None:
            return {name: np.empty(shape, kind) for name, (shape, kind) in kinds.items()}
        folder.mkdir(parents=True, exist_ok=True)
        return {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
            for name, (shape, kind) in kinds.items()
        }
    except (MemoryError, OSError) as error:
        raise UserError(
            f"the training set takes {need / 2**30:.1f} GiB of memory or cache: {error}",
            "set data.limit, a smaller data.size, or SISBENCH_CACHE to a larger disk",
        ) from error


def _decode(
    dataset: Dataset,
    arrays: Mapping[str, np.ndarray],
    report: Callable[[int], None],
    workers: int,
) -> None:
    size = arrays["labels"].shape[1:]

    def fill(row: int) -> None:
        sample = dataset.load(dataset.ids[row])
        if sample.label.shape != size:
            raise UserError(
                f"sample {dataset.ids[row]} is {sample.label.shape}, the first {size}",
                "give the data set a size",
            )
        arrays["images"][row] = sample.image.transpose(2, 0, 1)
        arrays["labels"][row] = sample.label
        if "instances" in arrays:
            arrays["instances"][row] = sample.instance

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(len(dataset.ids))):
            report(1)
