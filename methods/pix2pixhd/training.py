"""Pix2PixHD's training: generator and feature encoder together (Wang et al. 2018, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sisbench.methods.layers.training.least_squares import LeastSquaresTraining

if TYPE_CHECKING:
    from sisbench.methods.pix2pixhd.method import Pix2PixHD


class Pix2PixHDTraining(LeastSquaresTraining):
    """Least squares, feature matching and perceptual loss; the features are not judged."""

    method: Pix2PixHD

    def label_channels(self) -> int:
        """Classes, and instance edges where the network has them."""
        return self.method.semantics.channels
