"""The loader: samples in plan order as batches of tensors, decoded ahead in threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from sisbench.core.adapter_file import as_user_error
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.data.base import Dataset, Sample

if TYPE_CHECKING:
    from torch import Tensor


def to_float(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]: (u / 255 - 0.5) / 0.5."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous()
    return tensor.float().div_(255).sub_(0.5).div_(0.5)


def to_batch(samples: Sequence[Sample], space: LabelSpace) -> Batch:
    """Samples of one size as a ``Batch``; instance maps only if every sample has one."""
    import torch

    instances = [s.instance for s in samples if s.instance is not None]
    stacked = torch.from_numpy(np.stack(instances)) if len(instances) == len(samples) else None
    return Batch(
        ids=tuple(s.id for s in samples),
        image=to_float(np.stack([s.image for s in samples])),
        label=torch.from_numpy(np.stack([s.label for s in samples]).astype(np.int64)),
        instance=stacked,
        space=space,
    )


def load_or_error(dataset: Dataset, sample_id: str) -> Sample | UserError:
    """A sample, or the error that it gave: one corrupt file must not end a run, nor a data set of
    anybody's that raises whatever it likes."""
    try:
        return dataset.load(sample_id)
    except Exception as error:
        return as_user_error(error)


def prefetch(
    dataset: Dataset, groups: Sequence[Sequence[str]], workers: int = 2, ahead: int = 2
) -> Iterator[dict[str, Sample | UserError]]:
    """The decoded samples of each group of ids, in order, decoded ``ahead`` groups in advance.

    Args:
        dataset: where the samples come from.
        groups: the ids that each batch needs, targets and references alike; an id that is twice in
            a group is decoded once.
        workers: threads that decode; 0 decodes in the calling thread.
        ahead: how many groups are decoded before they are asked for.
    """
    if workers == 0:
        for group in groups:
            yield {i: load_or_error(dataset, i) for i in dict.fromkeys(group)}
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[dict[str, Future[Sample | UserError]]] = []
        position = 0
        while position < len(groups) or waiting:
            while position < len(groups) and len(waiting) <= ahead:
                unique = dict.fromkeys(groups[position])
                waiting.append({i: pool.submit(load_or_error, dataset, i) for i in unique})
                position += 1
            yield {i: future.result() for i, future in waiting.pop(0).items()}
