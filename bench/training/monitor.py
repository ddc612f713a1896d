"""What can be watched while a training runs: TensorBoard scalars and grids of samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sisbench.core.noise import Noise
from sisbench.methods.base import Method

if TYPE_CHECKING:
    from sisbench.core.batch import Batch
    from sisbench.methods.loadable import Loadable

SAMPLES = 8
"""Columns of a grid."""
GREY = 0.5


class Monitor:
    """Writes TensorBoard events into a folder; does nothing without tensorboard.

    Args:
        folder: of the events.
        step: updates made before: events after it, of a broken process, are hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(folder), purge_step=step or None)  # type: ignore[no-untyped-call]

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each curve."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def grid(self, step: int, method: Loadable, batch: Batch) -> None:
        """Label maps, photographs and what the method makes of them, in three rows."""
        if self.writer is not None:
            self.writer.add_image("samples", sample_grid(method, batch), step)

    def close(self) -> None:
        """Write what is pending."""
        if self.writer is not None:
            self.writer.close()


def sample_grid(method: Loadable, batch: Batch) -> Tensor:
    """(3, 3 H, B W) float32 in [0, 1]: label maps, photographs and reconstructions (samples, of a
    method that reads no photographs); for a layout editor two rows of label maps."""
    colours = torch.tensor(batch.space.palette, dtype=torch.float32) / 255
    maps = _coloured(batch.label, colours)
    model: Any = method
    draw = model.reconstruct if "reconstruct" in model.can else model.sample
    modes = [(module, module.training) for module in method.net.modules()]
    method.net.eval()
    try:
        made = draw(batch.to(method.device), Noise(batch.ids)).cpu()
    finally:
        for module, training in modes:
            module.training = training
    rows = [maps, batch.image / 2 + GREY, made / 2 + GREY]
    if not isinstance(method, Method):
        rows = [maps, _coloured(made, colours)]
    return torch.cat([torch.cat(list(row.clamp(0, 1)), 2) for row in rows], 1)


def _coloured(label: Tensor, colours: Tensor) -> Tensor:
    """(B, H, W) -> (B, 3, H, W) in [0, 1]."""
    return colours[label.cpu().clamp(0, len(colours) - 1)].permute(0, 3, 1, 2)
