"""Training of the toy parser on toyfaces; ``sisbench train toy-parser`` calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.core.store import write_atomic
from sisbench.segmenters.toy import CLASSES, LARGEST, SMALLEST, STEP, ToyNet

PIXELS = 16 * 64 * 64
"""Pixels of a training batch: 16 pictures of 64 x 64, 4 of 128 x 128."""

LARGE_EVERY = 4
"""Every fourth step sees pictures of twice the size, so that the parser works at 128 too."""

PEAK_RATE = 6e-3
MIRRORED = {4: 5, 5: 4, 6: 7, 7: 6, 8: 9, 9: 8}

Progress = Callable[[int, int, float], None]


def train(
    out: Path,
    steps: int = 2600,
    seed: int = 0,
    n: int = 2000,
    size: int = 64,
    progress: Progress | None = None,
) -> Path:
    """Train on the first ``n`` samples of toyfaces' training split and write the weights.

    Weighted cross entropy on pictures with flips, brightness, contrast, tint, blur and noise, so
    that generated pictures are parsed too. One seed gives one result on one machine and thread
    count.

    Args:
        out: safetensors file; float16, with the provenance in its header.
        steps: optimiser steps (AdamW, one cycle).
        seed: of weights, order and augmentation.
        n: number of training samples; a quarter of them is also drawn at twice the size.
        size: side in pixels, a multiple of 16 from 64 to 128.
        progress: called after each step with (step, steps, loss).

    Returns:
        ``out``.

    Raises:
        UserError: no step, no sample, or a size that the parser does not take.
    """
    if steps < 1 or n < 1:
        raise UserError(f"toy parser: steps and n must be at least 1, got {steps} and {n}")
    if size % STEP or not SMALLEST <= size <= LARGEST:
        raise UserError(
            f"toy parser: size must be a multiple of {STEP} from {SMALLEST} to {LARGEST}, "
            f"got {size}"
        )
    scales = [_samples(n, size)]
    if 2 * size <= LARGEST:
        scales.append(_samples(max(1, n // 4), 2 * size))
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
    return _save(net.eval(), out, {"steps": steps, "seed": seed, "n": n, "size": size})


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


def _samples(n: int, size: int) -> tuple[Tensor, Tensor]:
    """(n, 3, size, size) uint8 pictures and (n, size, size) uint8 label maps."""
    # the harness may import this package and not the other way round: hence here, at call time
    from sisbench.data.toyfaces import ToyFaces

    faces = ToyFaces("train", size, n)
    drawn = [faces.load(sample_id) for sample_id in faces.ids]
    images = torch.from_numpy(np.stack([s.image for s in drawn])).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(np.stack([s.label for s in drawn]).astype(np.uint8))


def _save(net: ToyNet, out: Path, training: dict[str, int]) -> Path:
    from safetensors.torch import save

    from sisbench.data.toyfaces import VERSION

    about = {
        "method": "toy-parser",
        "space": "celebamask_hq",
        "options": {},
        "training": {
            **training,
            "data": f"toyfaces {VERSION}, train",
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
