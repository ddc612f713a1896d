"""The building blocks of a toy face's label map: class ids and implicit shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

BACKGROUND, SKIN, NOSE, GLASSES, L_EYE, R_EYE, L_BROW, R_BROW, L_EAR, R_EAR = range(10)
MOUTH, U_LIP, L_LIP, HAIR, HAT, EARRING, NECKLACE, NECK, CLOTH = range(10, 19)

Box = tuple[float, float, float, float]
Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
FAR = 1e3


@dataclass(frozen=True)
class Shape:
    """A region: ``inside(p, q) -> bool`` within ``box`` (p0, q0, p1, q1), both in the head frame
    or, where ``head`` is False, in the picture frame."""

    box: Box
    inside: Inside
    head: bool = True


Shapes = Iterator[Shape]


def around(u: float, v: float, ru: float, rv: float) -> Box:
    """The box of half sizes ``ru``, ``rv`` about a point."""
    return (u - ru, v - rv, u + ru, v + rv)


def ellipse(u: float, v: float, ru: float, rv: float, power: float = 2.0) -> Shape:
    """A (super)ellipse in the head frame."""
    return Shape(
        around(u, v, ru, rv),
        lambda p, q: np.abs((p - u) / ru) ** power + np.abs((q - v) / rv) ** power < 1,
    )
