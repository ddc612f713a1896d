"""How the SemanticStyleGAN fixtures seed weights: ``post_seed_rules`` of their JSON files."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from sisbench.methods.layers.stylegan import fir_kernel


def fixture_weights(seeded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``seeded_state`` with the fixtures' rules; the first that matches counts."""
    return {key: _scaled(key, value) for key, value in seeded.items()}


def _scaled(key: str, value: Tensor) -> Tensor:
    root = (value.numel() // value.shape[0]) ** 0.5  # sqrt(fan_in)
    if key.endswith(".kernel"):
        return fir_kernel(4.0)
    if re.fullmatch(r"style\.\d+\.(weight|bias)", key):
        return value * 100 * (root if key.endswith("weight") else 1)
    if key.endswith("modulation.bias"):
        return 1 + value
    if key.endswith(".modulation"):
        return 1 + 0.1 * value * root
    if ".noises.noise_" in key:
        return value * root
    if key.endswith("to_depth.conv.weight"):
        return value * 3 * root
    if re.fullmatch(r"render_net\.to_rgbs\.\d+\.conv\.weight", key):
        return value * 0.1 * root
    if value.dim() >= 2 and key.endswith(("weight", "weights")):
        return value * root
    return value
