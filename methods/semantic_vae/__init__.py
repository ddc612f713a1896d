"""Semantic-VAE: automatic generation of semantic parts of face label maps."""

from sisbench.methods.semantic_vae.editor import SemanticVAE

__all__ = ["SemanticVAE"]
