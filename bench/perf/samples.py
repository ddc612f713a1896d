"""Seeded weights and procedural pictures for the speed comparisons (speed does not depend on
either)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sisbench.methods.seeded import seeded_state
from sisbench.metrics.inception import trunk

SEED = 101


def seeded_weights(folder: Path) -> tuple[Path, Path]:
    """(Inception, AlexNet trunk) with seeded values; 4-D ones times sqrt(2), which keeps features
    from becoming constant over images."""
    from torchvision import models

    inception = trunk()
    inception.add_module("fc", nn.Linear(2048, 1008))
    alex = models.alexnet(weights=None)
    paths = folder / "inception.pth", folder / "alex.pth"
    for module, path in zip((inception, alex), paths, strict=True):
        shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        shapes = {k: s for k, s in shapes.items() if not k.startswith("classifier")}
        state = seeded_state(shapes, SEED)
        torch.save({k: v * 2**0.5 if v.ndim == 4 else v for k, v in state.items()}, path)
    return paths


def pictures(n: int, size: int, seed: int) -> np.ndarray:
    """(n, size, size, 3) uint8: smooth random fields with grain."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.normal(size=(n, 3, 8, 8)).astype(np.float32))
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    grain = generator.normal(size=(n, 3, size, size)) * 6
    values = np.clip(128 + 55 * smooth.numpy() + grain, 0, 255)
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1).round().astype(np.uint8))


def degraded(images: np.ndarray, seed: int) -> np.ndarray:
    """The same pictures with a shift of brightness and noise, as "generated" ones."""
    generator = np.random.default_rng(seed)
    strength = generator.uniform(2, 25, size=(len(images), 1, 1, 1))
    noise = generator.normal(size=images.shape) * strength
    values = images + noise + generator.normal(size=(len(images), 1, 1, 3)) * 8
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def write_folder(images: np.ndarray, folder: Path) -> list[Path]:
    """PNG files ``00000.png`` ..."""
    folder.mkdir(parents=True)
    paths = [folder / f"{i:05d}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths
