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
        report: called with (samples done, samples in all).

    Raises:
        UserError: the split is smaller than a batch is asked for later, or sizes differ.
    """

    def __init__(self, dataset: Dataset, report: Callable[[int, int], None] | None = None) -> None:
        self.space, self.fingerprint = dataset.space, dataset.fingerprint()
        images, labels, instances = [], [], []
        for done, sample_id in enumerate(dataset.ids, start=1):
            sample = dataset.load(sample_id)
            images.append(sample.image.transpose(2, 0, 1))
            labels.append(sample.label.astype(np.int16))
            if sample.instance is not None:
                instances.append(sample.instance.astype(np.int32))
            if report is not None:
                report(done, len(dataset.ids))
        self.images = torch.from_numpy(np.stack(images))
        self.labels = torch.from_numpy(np.stack(labels))
        self.instances = torch.from_numpy(np.stack(instances)) if instances else None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, step: int, size: int, seed: int, flip: bool) -> Batch:
        """The samples of update ``step``: each epoch is a new permutation, the last few samples of
        one that fill no batch are left out.

        Raises:
            UserError: fewer samples than ``size``.
        """
        per_epoch = len(self) // size
        if not per_epoch:
            raise UserError(f"{len(self)} samples do not fill a batch of {size}")
        epoch, place = divmod(step, per_epoch)
        rng = np.random.default_rng((seed, epoch))
        rows = torch.from_numpy(rng.permutation(len(self))[place * size : (place + 1) * size])
        mirrored = np.random.default_rng((seed, epoch, place)).random(size) < 0.5
        turn = torch.from_numpy(mirrored & flip)

        def pick(planes: Tensor) -> Tensor:
            chosen = planes[rows]
            across = turn.reshape(-1, *[1] * (chosen.ndim - 1))
            return torch.where(across, chosen.flip(-1), chosen)

        return Batch(
            tuple(str(int(r)) for r in rows),
            pick(self.images).float() / 127.5 - 1,
            pick(self.labels).long(),
            None if self.instances is None else pick(self.instances).long(),
            self.space,
        )
