"""Toy label maps: the shapes of a face painted from back to front at any resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np

from sisbench.data.toyfaces import body, features
from sisbench.data.toyfaces.layout import FaceLayout
from sisbench.data.toyfaces.shapes import (
    CLOTH,
    EARRING,
    GLASSES,
    HAIR,
    HAT,
    L_BROW,
    L_EAR,
    L_EYE,
    L_LIP,
    MOUTH,
    NECK,
    NECKLACE,
    NOSE,
    R_BROW,
    R_EAR,
    R_EYE,
    SKIN,
    U_LIP,
    Shapes,
)

LAYERS: tuple[tuple[int, Callable[[FaceLayout], Shapes]], ...] = (
    (HAIR, body.hair_back),
    (CLOTH, body.cloth),
    (NECK, body.neck),
    (NECKLACE, body.necklace),
    (HAIR, body.locks_behind),
    (L_EAR, features.ear(-1)),
    (R_EAR, features.ear(1)),
    (HAIR, body.locks_over),
    (EARRING, body.earrings),
    (SKIN, features.skin),
    (NOSE, features.nose),
    (MOUTH, features.lips(0)),
    (U_LIP, features.lips(-1)),
    (L_LIP, features.lips(1)),
    (GLASSES, features.glasses),
    (L_EYE, features.eye(-1)),
    (R_EYE, features.eye(1)),
    (L_BROW, features.brow(-1)),
    (R_BROW, features.brow(1)),
    (HAIR, body.hair_front),
    (HAT, body.hat),
)
"""Painted in this order over the background; the class underneath shows where one is left out."""


def axes(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Picture coordinates of pixel centres: x (W,) and y (H,) float32; the shorter side spans
    [-1, 1]."""
    height, width = size
    unit = 2.0 / min(height, width)
    x = (np.arange(width) + 0.5 - width / 2) * unit
    y = (np.arange(height) + 0.5 - height / 2) * unit
    return x.astype(np.float32), y.astype(np.float32)


def to_head(face: FaceLayout, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture coordinates to head coordinates."""
    cos, sin = math.cos(face.roll) / face.scale, math.sin(face.roll) / face.scale
    dx, dy = x - face.cx, y - face.cy
    return cos * dx + sin * dy, cos * dy - sin * dx


def label_map(face: FaceLayout, size: tuple[int, int], without: Collection[int] = ()) -> np.ndarray:
    """The label map of a layout.

    Args:
        face: geometry.
        size: (H, W).
        without: classes that are lifted off; what lies under them shows.

    Returns:
        (H, W) uint8 class ids of ``celebamask_hq``: the class of each pixel's centre.
    """
    x, y = axes(size)
    label = np.zeros(size, np.uint8)
    for class_id, shapes in LAYERS:
        if class_id in without:
            continue
        for shape in shapes(face):
            left, top, right, bottom = _outer(face, shape.box) if shape.head else shape.box
            columns = slice(*np.searchsorted(x, (left, right)))
            rows = slice(*np.searchsorted(y, (top, bottom)))
            p, q = x[None, columns], y[rows, None]
            if shape.head:
                p, q = to_head(face, p, q)
            label[rows, columns][shape.inside(p, q)] = class_id
    return label


def _outer(face: FaceLayout, box: tuple[float, float, float, float]) -> tuple[float, ...]:
    """The box in the picture frame that holds a box of the head frame."""
    corner_u = np.array([box[0], box[2], box[0], box[2]])
    corner_v = np.array([box[1], box[1], box[3], box[3]])
    cos, sin = math.cos(face.roll) * face.scale, math.sin(face.roll) * face.scale
    x = face.cx + cos * corner_u - sin * corner_v
    y = face.cy + sin * corner_u + cos * corner_v
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())
