"""Semantic-VAE: automatic generation of semantic parts of face label maps."""

from __future__ import annotations

from sisbench.methods.semantic_vae.method import SemanticVAE

__all__ = ["SemanticVAE"]
