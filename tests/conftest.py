"""What several test files share: an isolated cache and a tiny method without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

METHOD = '''"""A method in one file: every class in its mean colour, plus noise."""

import torch
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Layout, Method, NoiseSource, Style, draw, present_classes
from sisbench.methods.layers.labels import one_hot, region_means


class MeanColour(Method):
    name, title, paper = "mean-colour", "Mean colour", "none"
    size = (32, 32)

    def build(self, space: LabelSpace) -> nn.Module:
        return nn.Identity()

    def encode_style(self, batch: Batch) -> Style:
        codes = region_means(batch.image, batch.label, self.num_classes)
        return Style(codes, present_classes(batch.label, self.num_classes))

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        codes = draw(noise, "codes", len(batch), self.num_classes, 3, like=batch.image)
        return Style(codes.tanh(), present_classes(batch.label, self.num_classes))

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        flat = one_hot(layout.label, self.num_classes)
        image = torch.einsum("bchw,bcd->bdhw", flat, style.codes)
        grain = draw(noise, "grain", len(image), 1, *image.shape[2:], like=image)
        return (image + 0.05 * grain).clamp(-1, 1)
'''


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's weights nor their cached rows reach a test."""
    base = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(base / "weights"))
    monkeypatch.setenv("SISBENCH_CACHE", str(base / "cache"))


@pytest.fixture
def method_file(tmp_path: Path) -> str:
    """``file.py:Class`` of the tiny method."""
    path = tmp_path / "mean_colour.py"
    path.write_text(METHOD)
    return f"{path}:MeanColour"
