"""Training of the toy parser, on toyfaces or any faces; ``sisbench train toy-parser`` calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.config import DatasetConfig
from sisbench.core.errors import UserError
from sisbench.core.store import write_atomic
from sisbench.data import open_dataset
from sisbench.data.base import Dataset
from sisbench.data.toyfaces import VERSION
from sisbench.segmenters.toy import CLASSES, LARGEST, SMALLEST, STEP, ToyNet

PIXELS = 16 * 64 * 64
"""Pixels of a training batch: 16 pictures of 64 x 64, 4 of 128 x 128."""

LARGE_EVERY = 4
"""Every fourth step sees pictures of twice the size, so that the parser works at 128 too."""

TOYFACES = {"name": "toyfaces", "split": "train", "n": 2000, "size": 64}
PEAK_RATE = 6e-3
MIRRORED = {4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8}

Progress = Callable[[int, int, float], None]


def train(
    out: Path,
    steps: int = 2600,
    seed: int = 0,
    data: DatasetConfig | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train on a split of faces and write the weights.

    Weighted cross entropy on pictures with flips, brightness, contrast, tint, blur and noise, so
    that generated pictures are parsed too. One seed gives one result on one machine and thread
    count.

    Args:
        out: safetensors file; float16, with the provenance in its header.
        steps: optimiser steps (AdamW, one cycle).
        seed: of weights, order and augmentation.
        data: the split, with its size: a multiple of 16 from 64 to 128; by default 2,000 training
            samples of toyfaces at 64. A quarter of them is also seen at twice the size.
        progress: called after each step with (step, steps, loss).

    Returns:
        ``out``.

    Raises:
        UserError: no step, no sample, or a size that the parser does not take.
    """
    data = data or DatasetConfig.model_validate(TOYFACES)
    if steps < 1:
        raise UserError(f"toy parser: steps must be at least 1, got {steps}")
    size = data.arguments.get("size", SMALLEST)
    if not isinstance(size, int) or size % STEP or not SMALLEST <= size <= LARGEST:
        raise UserError(
            f"toy parser: size must be a multiple of {STEP} from {SMALLEST} to {LARGEST}, "
            f"got {size}"
        )
    scales, about = [], ""
    for side, share in ((size, 1), (2 * size, 4)):
        if side <= LARGEST:
            faces = open_dataset(data.name, **data.arguments | {"size": side})
            if faces.space.name != "celebamask_hq":
                raise UserError(
                    f"the toy parser has the classes of celebamask_hq, {data.name} has those of "
                    f"{faces.space.name}"
                )
            about = about or f"{faces.fingerprint()}"
            scales.append(_samples(faces, max(1, len(faces.ids) // share)))
    weight = class_weights(scales[0][1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ToyNet().train()
        net.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
        optimiser = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=1e-3)
        rates = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, PEAK_RATE, total_steps=max(steps, 4), pct_start=0.15
        )
        for step in range(steps):
            images, labels = scales[-1 if step % LARGE_EVERY == LARGE_EVERY - 1 else 0]
            count = max(2, PIXELS // (images.shape[-1] * images.shape[-2]))
            rows = torch.randint(len(images), (count,))
            x, y = augment(images[rows].float() / 127.5 - 1, labels[rows].long())
            loss = F.cross_entropy(net(x.to(memory_format=torch.channels_last)), y, weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rates.step()
            if progress is not None:
                progress(step + 1, steps, float(loss.detach()))
    training = {"steps": steps, "seed": seed, "samples": len(scales[0][0]), "size": size}
    named = f"toyfaces {VERSION}, train" if data.name == "toyfaces" else f"{data.name} {about}"
    return _save(net.eval(), out, training, named)


def augment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Vary pictures as generators do: mirrored, brighter, tinted, blurred, noisy.

    Args:
        x: (B, 3, H, W) float32 in [-1, 1].
        y: (B, H, W) int64; mirroring exchanges left and right classes.
    """
    b = x.shape[0]
    flip = torch.rand(b) < 0.5
    swap = torch.tensor([MIRRORED.get(c, c) for c in range(CLASSES)])
    x = torch.where(flip.view(b, 1, 1, 1), x.flip(-1), x)
    y = torch.where(flip.view(b, 1, 1), swap[y.flip(-1)], y)
    gain = 1 + 0.25 * (2 * torch.rand(b, 1, 1, 1) - 1)
    tint = 0.25 * (2 * torch.rand(b, 1, 1, 1) - 1) + 0.08 * torch.randn(b, 3, 1, 1)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    soft = (torch.rand(b, 1, 1, 1) - 0.4).clamp_min(0) * 1.5
    x = gain * torch.lerp(x, blurred, soft.expand_as(x)) + tint
    noise = 0.25 * torch.rand(b, 1, 1, 1) ** 2
    return (x + noise * torch.randn_like(x)).clamp(-1, 1), y


def class_weights(labels: Tensor) -> Tensor:
    """(19,) weights that lift rare classes: the fourth root of the inverse frequency, mean 1 over
    pixels. A class that does not occur weighs nothing."""
    counts = torch.bincount(labels.flatten().long(), minlength=CLASSES).double()
    share = counts / counts.sum()
    raw = torch.where(counts > 0, share.clamp_min(1e-12) ** -0.25, 0.0)
    return (raw / (raw * share).sum()).float()


def _samples(faces: Dataset, n: int) -> tuple[Tensor, Tensor]:
    """(n, 3, size, size) uint8 pictures and (n, size, size) uint8 label maps."""
    drawn = [faces.load(sample_id) for sample_id in faces.ids[:n]]
    images = torch.from_numpy(np.stack([s.image for s in drawn])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.stack([s.label for s in drawn]).astype(np.uint8))


def _save(net: ToyNet, out: Path, training: dict[str, int], data: str) -> Path:
    from safetensors.torch import save

    about = {
        "method": "toy-parser",
        "space": "celebamask_hq",
        "options": {},
        "training": {
            **training,
            "data": data,
            "torch": torch.__version__,
            "command": "sisbench train toy-parser",
        },
    }
    state = {
        k: v.half().contiguous(memory_format=torch.contiguous_format)
        for k, v in net.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    header = {"format": "sisbench/1", "sisbench": json.dumps(about, sort_keys=True)}
    write_atomic(out, save(state, header))
    return out
