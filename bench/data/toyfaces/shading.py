"""The shader of each class of a toy face: the colour of its points, a function of place alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sisbench.data.toyfaces import shade_body, shade_parts
from sisbench.data.toyfaces.points import Points

SHADERS: tuple[Callable[[Points], np.ndarray], ...] = (
    shade_body.background,
    shade_body.skin,
    shade_body.nose,
    shade_parts.glasses,
    shade_parts.eye,
    shade_parts.eye,
    shade_parts.brow,
    shade_parts.brow,
    shade_body.ear,
    shade_body.ear,
    shade_parts.mouth,
    shade_parts.lips,
    shade_parts.lips,
    shade_parts.hair,
    shade_parts.hat,
    shade_parts.earring,
    shade_parts.necklace,
    shade_body.neck,
    shade_body.cloth,
)
"""The shader of each class; all of them return (N, 3) float32, about [0, 1]."""
