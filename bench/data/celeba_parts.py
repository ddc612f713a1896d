"""Composing CelebAMask-HQ's part masks into label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sisbench.core.errors import UserError, did_you_mean

PARTS = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear",
    "mouth", "u_lip", "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""Parts in the order of CelebAMask-HQ: label = position + 1, and later ones are painted over."""

BISENET_PARTS = (
    "skin", "l_brow", "r_brow", "l_eye", "r_eye", "eye_g", "l_ear", "r_ear", "ear_r",
    "nose", "mouth", "u_lip", "l_lip", "neck", "neck_l", "cloth", "hair", "hat",
)  # fmt: skip
"""The same parts in the order of BiSeNet's own training labels."""


def compose_parts(
    parts: Mapping[str, np.ndarray], size: tuple[int, int], order: Sequence[str] = PARTS
) -> np.ndarray:
    """Paint part masks one over the other, background 0 first.

    Args:
        parts: part name -> (H, W) mask; non-zero is set. Parts that a face lacks are left out.
        size: (H, W).
        order: part names; label k + 1 goes to ``order[k]``, later ones win.

    Returns:
        (H, W) int64 label map.

    Raises:
        UserError: an unknown part, or a mask of another size.

    Source: Lee et al., MaskGAN, CVPR 2020, and the tools of its repository.
    """
    label = np.zeros(size, dtype=np.int64)
    for name, mask in parts.items():
        if name not in order:
            raise UserError(f"no part is called '{name}'", did_you_mean(name, order))
        if np.shape(mask) != tuple(size):
            raise UserError(f"mask '{name}' must be {tuple(size)}, got {np.shape(mask)}")
    for value, name in enumerate(order, start=1):
        if name in parts:
            label[np.asarray(parts[name]) != 0] = value
    return label
