"""Fixtures, seeded networks and image batches that the tests of the metrics share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sisbench.core.label_space import LabelSpace
from sisbench.methods.seeded import seeded_state
from sisbench.metrics.base import ImageBatch

FIXTURES = Path(__file__).parent / "fixtures" / "metrics"
SEED = 101
CASES = ("sq64", "sq128", "rect")


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz") as stored:
        return dict(stored)


def meta(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def seeded(module: torch.nn.Module, seed: int = SEED) -> dict[str, torch.Tensor]:
    """The fixtures' recipe: seeded values, every 4-D tensor times sqrt(2)."""
    shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    state = seeded_state(shapes, seed)
    return {k: v * 2**0.5 if v.ndim == 4 else v for k, v in state.items()}


def pictures(case: str, side: str) -> torch.Tensor:
    """(B, 3, H, W) uint8 of one side of a fixture case."""
    return torch.from_numpy(arrays("images")[f"{case}_{side}"]).permute(0, 3, 1, 2)


def image_batch(
    image: torch.Tensor, target: torch.Tensor | None = None, **fields: Any
) -> ImageBatch:
    """A batch of given images with an empty label map unless one is given."""
    b, _, h, w = image.shape
    values: dict[str, Any] = {
        "label": torch.zeros(b, h, w, dtype=torch.int64),
        "reference": None,
        "classes": None,
        "space": LabelSpace("two", ("ground", "thing")),
    } | fields
    return ImageBatch(ids=[str(i) for i in range(b)], image=image, target=target, **values)


def noise_images(n: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)
