"""The network of the perceptual loss that a recipe names."""

from __future__ import annotations

from sisbench.methods.layers.training.perceptual import Perceptual, Vgg19


def make_perceptual(name: str) -> tuple[Perceptual | None, str]:
    """The network, and a line for the provenance that says which file it came from.

    Args:
        name: vgg19, efficientnet-lite0 or none.

    Raises:
        Unavailable: its weights, or the package that holds them, are not there.
    """
    if name == "none":
        return None, "none"
    if name == "vgg19":
        from sisbench.core import weights
        from sisbench.core.state_dict import read_state, sha256_of

        path = weights.path("vgg19")
        return Vgg19(read_state(path), str(path)), f"vgg19, sha256 {sha256_of(path)}"
    raise NotImplementedError(name)
