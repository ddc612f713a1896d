"""What the tests of bench/share share: an Inception of twelve numbers, and small scored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sisbench.config import RunConfig
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.metrics import inception
from sisbench.pipeline import run_all, score_run
from sisbench.segmenters import toy

SHA = "ab" * 32
QUIET = Progress(quiet=True)


def tiny_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inception becomes the mean colours of the four quarters, the toy parser one that goes by
    brightness: no weights and no seconds, the same rules."""

    def weights(name: str, given: Any) -> tuple[Path, str]:
        return Path("tiny"), SHA

    def features(self: inception.Inception, images: torch.Tensor) -> np.ndarray:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images.float() / 64, 2)
        scale = {"tf1": 1.0, "clean": 1.1, "pytorch_fid": 1.2}[self.preprocess]
        return (pooled.flatten(1) * scale).numpy()

    def predict(self: toy.ToyParser, images: torch.Tensor) -> torch.Tensor:
        return images.long().sum(1) // 256  # three classes by brightness

    monkeypatch.setattr(toy.ToyParser, "predict", predict)
    monkeypatch.setattr(inception, "weights_file", weights)
    monkeypatch.setattr(inception.Inception, "features", features)


def config(method: str, out: Path, **changes: Any) -> RunConfig:
    raw = {
        "name": out.name,
        "output": str(out),
        "methods": [{"name": method, "label": "Mean"}],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 20, "train": {"split": "train"}}],
        "metrics": ["fid", "kid", "psnr", "ssim", "miou"],
        "parsers": {"celebamask_hq": "toy"},
        "engine": {"device": "cpu", "batch_size": 10},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def scored_run(method: str, out: Path, **changes: Any) -> Path:
    """A run with scores and without a report, which takes the longest."""
    run_all(config(method, out, **changes), QUIET, generate_only=True)
    score_run(out, None, [], [], QUIET)
    return out


def other_method(method_file: str, folder: Path) -> str:
    """The tiny method without its grain: other images."""
    path = folder / "clean_colour.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    path.write_text(text.replace("0.05 * grain", "0.0 * grain"))
    return f"{path}:MeanColour"
