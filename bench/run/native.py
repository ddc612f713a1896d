"""Methods of another native size than the data set: what they read, how their images fit it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sisbench.core.errors import UserError
from sisbench.core.resize import Filter, resize_images_pil, resize_labels_pil
from sisbench.data import Dataset

if TYPE_CHECKING:
    from sisbench.methods.loadable import Loadable
    from sisbench.run.tasks import TaskResult


@dataclass(frozen=True)
class Fit:
    """How a method and a data set come together.

    Attributes:
        dataset: where the method's samples are read: the run's data set, or the same one at the
            method's size.
        size: (H, W) of the images that are kept.
        by: filter that brings images to ``size``; None where they have it.
        reads, resized: what is done to the samples and to the images, for provenance and captions;
            "" where nothing is.
    """

    dataset: Dataset
    size: tuple[int, int]
    by: Filter | None = None
    reads: str = ""
    resized: str = ""

    def kept(self, result: TaskResult) -> TaskResult:
        """The result at the data set's size, its label map by Pillow's nearest rule."""
        label = result.label
        if label is not None:
            label = resize_labels_pil(label, self.size)
        image = result.image
        if self.by is not None:
            image = resize_images_pil(image, self.size, self.by)
        return replace(result, image=image, label=label)


def size_misfit(drawn: Sequence[int], opened: Sequence[int], by: Filter | None = None) -> str:
    """Why images of one (H, W) are not compared with photographs of another; "" where they are."""
    if tuple(drawn) == tuple(opened) or by is not None:
        return ""
    return (
        f"renders {_shown(drawn)}, the data set is opened at {_shown(opened)} (set its 'size', or "
        "name a filter: 'resize')"
    )


def fit(method: Loadable, dataset: Dataset, by: Filter | None) -> Fit:
    """How ``method`` is run on ``dataset``.

    Args:
        by: the filter of the method's configuration.

    Raises:
        UserError: the sizes differ and no filter is named, or the data set cannot be read at
            another size.
    """
    size = (dataset.size[0], dataset.size[1])
    drawn = (method.size[0], method.size[1])
    misfit = size_misfit(drawn, size, by)
    if misfit:
        raise UserError(misfit)
    stored, other = method.stored_labels, drawn != size
    if not stored and not other:
        return Fit(dataset, size)
    view = dataset.read_at(drawn, method.photographs_by, stored)
    if stored:
        reads = "label maps as stored, which the method itself reduces"
    else:
        reads = f"photographs at {_shown(drawn)} by PIL's {method.photographs_by}, label maps by "
        reads += "its nearest rule, straight from what is stored"
    resized = f"images from {_shown(drawn)} to {_shown(size)} by PIL's {by}" if other else ""
    return Fit(view, size, by if other else None, reads, resized)


def _shown(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
