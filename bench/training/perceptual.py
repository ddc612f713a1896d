"""The network of the perceptual loss that a recipe names."""

from __future__ import annotations

from torch import Tensor

from sisbench.methods.layers.training.perceptual import Perceptual, Vgg19


class EfficientNetPerceptual(Perceptual):
    """EfficientNet-lite0, its five maps from 1/2 to 1/32 of the side; works offline (the extra
    ``efficientnet``).

    Raises:
        Unavailable: the extra is not installed.
    """

    name = "efficientnet-lite0"

    def __init__(self) -> None:
        from sisbench.metrics.efficientnet import load_efficientnet_lite0, normalise

        super().__init__()
        self.network, self._normalise = load_efficientnet_lite0(), normalise

    def features(self, image: Tensor) -> list[Tensor]:
        """As ``Perceptual.features``."""
        return self.network.features(self._normalise(image / 2 + 0.5))


def perceptual_file(name: str) -> str:
    """The file of a perceptual network, as the provenance of weights names it: name and sha256.

    Raises:
        Unavailable: its weights, or the package that holds them, are not there.
    """
    if name == "none":
        return "none"
    from sisbench.core import weights
    from sisbench.core.file_hash import sha256_of

    return f"{name}, sha256 {sha256_of(weights.path(name))}"


def make_perceptual(name: str) -> Perceptual | None:
    """The network; None for ``none``.

    Args:
        name: vgg19, efficientnet-lite0 or none.

    Raises:
        Unavailable: its weights, or the package that holds them, are not there.
    """
    if name == "none":
        return None
    if name == EfficientNetPerceptual.name:
        return EfficientNetPerceptual()
    from sisbench.core import weights
    from sisbench.core.state_dict import read_state

    path = weights.path(name)
    return Vgg19(read_state(path), str(path))
