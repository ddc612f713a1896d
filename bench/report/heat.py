"""Heat maps of where an edit changed an image."""

from __future__ import annotations

import numpy as np

from sisbench.core.errors import UserError


def heat_map(edited: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Mean absolute difference of several edits of one image, for a heat map.

    Args:
        edited: (K, H, W, 3) uint8; original: (H, W, 3) uint8.

    Returns:
        (H, W) float32 in [0, 1], mean over edits and channels.

    Source: Fontanini et al. (CA2-SIS), IEEE Access, Fig. 14.

    >>> found = heat_map(np.full((2, 1, 1, 3), 51, np.uint8), np.zeros((1, 1, 3), np.uint8))
    >>> round(float(found[0, 0]), 6)
    0.2
    """
    if edited.ndim != 4 or edited.shape[1:] != original.shape or not len(edited):
        raise UserError(f"edits {edited.shape} do not fit the original {original.shape}")
    total = np.zeros(original.shape[:2], np.float64)
    for image in edited:
        total += np.abs(image.astype(np.int16) - original.astype(np.int16)).mean(axis=2)
    return (total / (255 * len(edited))).astype(np.float32)
