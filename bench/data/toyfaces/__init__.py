"""Toy faces: a procedural, seeded data set with the 19 CelebAMask-HQ classes and known truth."""

from sisbench.data.toyfaces.dataset import VERSION, ToyFaces

__all__ = ["VERSION", "ToyFaces"]
