"""A label map at every size of a generator, indexed for convolutions by table look-up.

A convolution of a one-hot map is a sum of table rows, one a tap. Two convolutions in a row (the
mask branch of a SPADE layer) give the same value at every pixel whose neighbourhood holds one class
only; the rest, the *mixed* pixels along outlines and borders, are few at high resolution. ``Level``
finds them once per size for all layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.resize import resize_labels_torch
from sisbench.methods.layers.labels import one_hot

DENSE_SHARE = 0.5
"""From this share of mixed pixels on, an ordinary convolution over the whole map is quicker."""


class Level:
    """A label map at one size.

    Args:
        label: (B, h, w) int64, negative where there is no class.
        classes: number of classes K; K itself stands for "no class" in ``index``.
        kernel: odd size of the convolutions.
        edges: (B, 1, h, w) float instance edges, or None.
        dense: keep every pixel, whatever the share of mixed ones.
        convs: how many convolutions follow one another (2 in a mask branch).

    Attributes:
        index: (B*h*w,) row of a (B, K + 1, D) table for each pixel.
        taps: (n, kernel^2) rows of a (K + 1, kernel^2, D) table that a convolution sums, for the
            pixels that are needed: all of them (dense), or those near a mixed pixel.
        tap_samples: (n,) the sample of each row of ``taps``.
        edge_taps: (n, kernel^2) edge values beside ``taps``, or None.
        mixed: (P,) flat indices of the mixed pixels; None when the level is dense.
        mixed_taps, mixed_samples: ``taps`` and sample of each mixed pixel (of every one, if dense).
        around: (P, kernel^2) positions in ``taps`` of their neighbours; n means outside of the map.
    """

    def __init__(
        self,
        label: Tensor,
        classes: int,
        kernel: int,
        edges: Tensor | None,
        dense: bool = False,
        convs: int = 2,
    ) -> None:
        self.batch, self.height, self.width = label.shape
        self.classes, self.kernel = classes, kernel
        self.label, self.edges = label, edges
        self._planes: Tensor | None = None
        label = torch.where(label < 0, classes, label)
        self.samples = torch.arange(self.batch, device=label.device).repeat_interleave(
            self.height * self.width
        )
        self.index = label.flatten() + self.samples * (classes + 1)
        tap = torch.arange(kernel * kernel, device=label.device)
        taps = self._neighbours(label, classes) * kernel**2 + tap
        edge_taps = None if edges is None else self._neighbours(edges[:, 0], 0)
        self.mixed: Tensor | None = None
        self.taps, self.edge_taps, self.around = taps, edge_taps, taps
        self.mixed_taps, self.mixed_samples = taps, self.samples
        self.tap_samples = self.samples
        if not dense:
            self._keep_near(self._find_mixed(label, edges, convs * (kernel // 2)))

    def _keep_near(self, mixed: Tensor) -> None:
        """Restrict everything to the mixed pixels (B, h, w) and their neighbours, if few."""
        rows = mixed.flatten().nonzero()[:, 0]
        if len(rows) > DENSE_SHARE * mixed.numel():
            return
        near = _spread(mixed, self.kernel // 2).flatten().nonzero()[:, 0]
        position = torch.full(mixed.shape, len(near), device=mixed.device)
        position.view(-1)[near] = torch.arange(len(near), device=mixed.device)
        self.around = self._neighbours(position, len(near))[rows]
        self.mixed, self.mixed_taps, self.mixed_samples = rows, self.taps[rows], self.samples[rows]
        self.taps, self.tap_samples = self.taps[near], self.samples[near]
        self.edge_taps = None if self.edge_taps is None else self.edge_taps[near]

    def _neighbours(self, plane: Tensor, outside: float) -> Tensor:
        """(B, h, w) -> (B*h*w, kernel^2), row-major within the window."""
        r = self.kernel // 2
        padded = F.pad(plane, (r, r, r, r), value=outside)
        windows = padded.unfold(1, self.kernel, 1).unfold(2, self.kernel, 1)
        return windows.reshape(-1, self.kernel**2)

    def _find_mixed(self, label: Tensor, edges: Tensor | None, reach: int) -> Tensor:
        """(B, h, w) bool: another class, an edge or the border within reach of the
        convolutions."""
        window = 2 * reach + 1
        plane = F.pad(label[:, None].float(), (reach,) * 4, value=-2.0)
        high, low = F.max_pool2d(plane, window, 1), -F.max_pool2d(-plane, window, 1)
        mixed = (high != low)[:, 0]
        return mixed if edges is None else mixed | _spread(edges[:, 0] > 0, reach)

    def planes(self) -> Tensor:
        """One-hot map with the edges, (B, K [+ 1], h, w) float32 in channels-last memory."""
        if self._planes is None:
            planes = one_hot(self.label, self.classes)
            if self.edges is not None:
                planes = torch.cat([planes, self.edges], 1)
            self._planes = planes.contiguous(memory_format=torch.channels_last)
        return self._planes

    def spread(self, per_class: Tensor, mixed: Tensor) -> Tensor:
        """One value a pixel: ``per_class`` (B or 1, K + 1, D), with ``mixed`` (P, D) in its places.

        Returns:
            (B, D, h, w) in channels-last memory. On a dense level ``mixed`` holds every pixel.
        """
        if self.mixed is None:
            rows = mixed
        else:
            table = per_class.expand(self.batch, -1, -1).reshape(-1, per_class.shape[-1])
            rows = table.index_select(0, self.index).index_copy_(0, self.mixed, mixed)
        return rows.view(self.batch, self.height, self.width, -1).permute(0, 3, 1, 2)


def _spread(plane: Tensor, radius: int) -> Tensor:
    """(B, h, w) bool, dilated by a square."""
    return F.max_pool2d(plane[:, None].float(), 2 * radius + 1, 1, radius)[:, 0] > 0


class LabelPyramid:
    """A label map (and instance edges) at any size, each size prepared once.

    Args:
        label: (B, H, W) int64, negative where there is no class.
        classes: number of classes.
        kernel: odd size of the convolutions.
        edges: (B, 1, H, W) float, or None.
        convs: how many convolutions follow one another.
    """

    def __init__(
        self,
        label: Tensor,
        classes: int,
        kernel: int = 3,
        edges: Tensor | None = None,
        convs: int = 2,
    ) -> None:
        self.label, self.classes, self.kernel, self.edges = label, classes, kernel, edges
        self.convs = convs
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
            )
        return self._levels[size]
