"""SemanticStyleGAN: a generator for each class, photographs by inversion."""

from __future__ import annotations

from sisbench.methods.semantic_stylegan.method import SemanticStyleGAN

__all__ = ["SemanticStyleGAN"]
