"""A label map at every size of a generator, indexed for convolutions by table look-up.

A convolution of a one-hot map is a sum of table rows, one a tap. Two convolutions in a row (the
mask branch of a SPADE layer) give the same value wherever the label map shows the same window: 5x5
pixels for two kernels of 3x3. A face has few such windows, so ``Level`` numbers the distinct ones
once per size, for all layers, and a layer computes each of them once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot

DENSE_SHARE = 0.75
"""From this share of distinct windows on, an ordinary convolution over the whole map is quicker."""
_LARGEST = 2**62
"""Bound of the numbers that windows are told apart by."""


class Level:
    """A label map at one size.

    While gradients are recorded every pixel is kept, so that the layers are ordinary convolutions.

    Args:
        label: (B, h, w) int64, negative where there is no class.
        classes: number of classes K; K itself stands for "no class".
        kernel: odd size of the convolutions.
        edges: (B, 1, h, w) float instance edges, or None.
        dense: keep every pixel, however few windows there are.
        convs: how many convolutions follow one another (2 in a mask branch), 1 or 2.
        per_sample: tell equal windows of two samples apart, for tables that depend on the sample.

    Attributes:
        windows: (B*h*w,) which of the U distinct windows each pixel shows; None when the level is
            dense: each pixel stands for itself, and U is B*h*w.
        taps: (n, kernel^2) rows of a (K + 1, kernel^2, D) table that the first convolution sums,
            for its n distinct windows, or for every pixel (dense).
        tap_samples: (n,) a sample that shows each row of ``taps``.
        edge_taps: (n, kernel^2) edge values beside ``taps``, or None.
        around: (U, kernel^2) positions in ``taps`` of what surrounds each window's centre; n means
            outside of the map. None when the level is dense, or for one convolution.
        centre_taps, centre_samples: ``taps`` and a sample of each window's centre, (U, kernel^2)
            and (U,).
        centre_index: (U,) the class at each window's centre, K where there is none.
    """

    def __init__(
        self,
        label: Tensor,
        classes: int,
        kernel: int,
        edges: Tensor | None,
        dense: bool = False,
        convs: int = 2,
        per_sample: bool = False,
    ) -> None:
        self.batch, self.height, self.width = label.shape
        self.classes, self.kernel, self.convs = classes, kernel, convs
        self.label, self.edges = label, edges
        self._planes: Tensor | None = None
        self._index = torch.where(label < 0, classes, label)
        self.windows: Tensor | None = None
        self.around: Tensor | None = None
        if dense or torch.is_grad_enabled() or not self._number(per_sample):
            self._keep_all()

    def _keep_all(self) -> None:
        """Every pixel stands for itself."""
        pixels = torch.arange(self.label.numel(), device=self.label.device)
        self.taps, self.tap_samples, self.edge_taps = self._taps(pixels)
        self.centre_taps, self.centre_samples = self.taps, self.tap_samples
        self.centre_index = self._index.flatten()

    def _number(self, per_sample: bool) -> bool:
        """Find the distinct windows; False where they are too many to be worth it."""
        radius, numel = self.kernel // 2, self.label.numel()
        first, count = _distinct(_shifts(*self._symbols(per_sample), self.kernel))
        if self.convs == 1:
            inner, windows, total = first, first, count
        else:
            # the corners' windows of the first convolution cover the joint window
            inner = first[:, radius : radius + self.height, radius : radius + self.width]
            ends = ((y, x) for y in {0, 2 * radius} for x in {0, 2 * radius})
            corners = [first[:, y : y + self.height, x : x + self.width] for y, x in ends]
            windows, total = _distinct([(c, count) for c in corners])
        if total > DENSE_SHARE * numel:
            return False
        self.windows = windows.flatten()
        centres = _first_pixels(self.windows, total)
        self.centre_index = self._index.flatten()[centres]
        self.centre_taps, self.centre_samples, edges = self._taps(centres)
        self.taps, self.tap_samples, self.edge_taps = self.centre_taps, self.centre_samples, edges
        if self.convs == 2:
            pixels = _first_pixels(inner.flatten(), count)
            kept = (pixels < numel).nonzero()[:, 0]  # the others are centred outside of the map
            number = torch.empty_like(pixels)
            number[kept] = torch.arange(len(kept), device=kept.device)
            self.taps, self.tap_samples, self.edge_taps = self._taps(pixels[kept])
            self.around = self._neighbours(number[inner], len(kept), centres)
        return True

    def _symbols(self, per_sample: bool) -> tuple[Tensor, int]:
        """What tells pixels apart, padded as far as the windows reach, and how many there are."""
        symbols, count = self._index, self.classes + 1
        if self.edges is not None:
            values, which = torch.unique(self.edges[:, 0], return_inverse=True)
            symbols, count = symbols + count * which, count * len(values)
        if per_sample:
            sample = torch.arange(self.batch, device=symbols.device)[:, None, None]
            symbols, count = symbols + count * sample, count * self.batch
        reach = (self.kernel // 2,) * 4 if self.convs == 1 else (self.kernel - 1,) * 4
        return F.pad(symbols, reach, value=count), count + 1

    def _taps(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of a table, sample and edge values of pixels (n,)."""
        tap = torch.arange(self.kernel**2, device=pixels.device)
        taps = self._neighbours(self._index, self.classes, pixels) * self.kernel**2 + tap
        edges = None if self.edges is None else self._neighbours(self.edges[:, 0], 0, pixels)
        return taps, pixels // (self.height * self.width), edges

    def _neighbours(self, plane: Tensor, outside: float, pixels: Tensor) -> Tensor:
        """(B, h, w), pixels (n,) -> (n, kernel^2), row-major within the window."""
        r = self.kernel // 2
        padded = F.pad(plane, (r, r, r, r), value=outside)
        views = padded.unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)  # (B, h, w, k, k)
        rows, x = pixels // self.width, pixels % self.width
        return views[rows // self.height, rows % self.height, x].flatten(1)

    def planes(self) -> Tensor:
        """One-hot map with the edges, (B, K [+ 1], h, w) float32 in channels-last memory."""
        if self._planes is None:
            planes = one_hot(self.label, self.classes)
            if self.edges is not None:
                planes = torch.cat([planes, self.edges], 1)
            self._planes = planes.contiguous(memory_format=torch.channels_last)
        return self._planes

    def spread(self, values: Tensor) -> Tensor:
        """One value a pixel, from one a window: (U, D) -> (B, D, h, w) in channels-last memory."""
        rows = values if self.windows is None else values.index_select(0, self.windows)
        return rows.view(self.batch, self.height, self.width, -1).permute(0, 3, 1, 2)


def _shifts(padded: Tensor, count: int, kernel: int) -> list[tuple[Tensor, int]]:
    """The planes that a window of ``kernel`` x ``kernel`` sees, of values below ``count``."""
    height, width = (n - kernel + 1 for n in padded.shape[1:])
    return [
        (padded[:, y : y + height, x : x + width], count)
        for y in range(kernel)
        for x in range(kernel)
    ]


def _distinct(planes: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, int]:
    """One number for each distinct combination of values, and how many there are: exact, no hash.

    Args:
        planes: int64 tensors of one shape, and the bound of their values from 0.
    """
    joint, bound = planes[0]
    for plane, count in planes[1:]:
        if bound * count > _LARGEST:
            joint, bound = _renumbered(joint)
        joint, bound = joint * count + plane, bound * count
    return _renumbered(joint)


def _renumbered(values: Tensor) -> tuple[Tensor, int]:
    found, which = torch.unique(values, return_inverse=True)
    return which, len(found)


def _first_pixels(numbers: Tensor, count: int) -> Tensor:
    """(n,) numbers -> (count,) where each stands first; n for one that stands nowhere."""
    places = torch.arange(len(numbers), device=numbers.device)
    found = places.new_full((count,), len(numbers))
    return found.scatter_reduce_(0, numbers, places, "amin")


class LabelPyramid:
    """A label map (and instance edges) at any size, each size prepared once.

    Args:
        label: (B, H, W) int64, negative where there is no class.
        classes: number of classes.
        kernel: odd size of the convolutions.
        edges: (B, 1, H, W) float, or None.
        convs, per_sample: as for ``Level``.
    """

    def __init__(
        self,
        label: Tensor,
        classes: int,
        kernel: int = 3,
        edges: Tensor | None = None,
        convs: int = 2,
        per_sample: bool = False,
    ) -> None:
        self.label, self.classes, self.kernel, self.edges = label, classes, kernel, edges
        self.convs, self.per_sample = convs, per_sample
        self._levels: dict[tuple[int, int], Level] = {}

    def at(self, size: tuple[int, int]) -> Level:
        """The level of ``size`` (h, w), resized by torch's nearest rule."""
        if size not in self._levels:
            edges = None if self.edges is None else resize_labels_torch(self.edges, size)
            self._levels[size] = Level(
                resize_labels_torch(self.label, size),
                self.classes,
                self.kernel,
                edges,
                convs=self.convs,
                per_sample=self.per_sample,
            )
        return self._levels[size]
