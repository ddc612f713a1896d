"""Pix2PixHD with its feature encoder (Wang et al., CVPR 2018)."""

from __future__ import annotations

from sisbench.methods.pix2pixhd.clusters import Clusters, fit_clusters
from sisbench.methods.pix2pixhd.method import Pix2PixHD

__all__ = ["Clusters", "Pix2PixHD", "fit_clusters"]
