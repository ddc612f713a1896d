"""A tiny method without weights, as the text of an adapter's file."""

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
