"""The training split, decoded once into memory, and batches that depend on the step alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.data.base import Dataset


class TrainingData:
    """All samples as 8-bit pictures and label maps.

    Args:
        dataset: the split.
        report: called with the number of samples that were just decoded.

    Raises:
        UserError: no samples, photographs of different sizes, or more than memory holds.
    """

    def __init__(self, dataset: Dataset, report: Callable[[int], None] = lambda n: None) -> None:
        self.space, self.fingerprint = dataset.space, dataset.fingerprint()
        if not dataset.ids:
            raise UserError("the training split holds no samples", "see sisbench datasets NAME")
        first = dataset.load(dataset.ids[0])
        n, (height, width) = len(dataset.ids), first.label.shape
        try:
            images = np.empty((n, 3, height, width), np.uint8)
            labels = np.empty((n, height, width), np.int16)
            instances = None if first.instance is None else np.empty((n, height, width), np.int32)
        except MemoryError as error:
            need = n * height * width * 9 / 2**30
            raise UserError(
                f"{n} samples of {height} x {width} need {need:.1f} GiB of memory",
                "set data.limit, or a smaller data.size",
            ) from error
        for row, sample_id in enumerate(dataset.ids):
            sample = dataset.load(sample_id)
            if sample.label.shape != (height, width):
                raise UserError(
                    f"sample {sample_id} is {sample.label.shape}, the first {(height, width)}",
                    "give the data set a size",
                )
            images[row] = sample.image.transpose(2, 0, 1)
            labels[row] = sample.label
            if instances is not None:
                instances[row] = sample.instance
            report(1)
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.instances = None if instances is None else torch.from_numpy(instances)

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
            if windows is not None:
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
