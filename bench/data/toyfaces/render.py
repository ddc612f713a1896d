"""The picture of a toy face: shades any label map from its geometry and its appearance."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np

from sisbench.data.toyfaces.appearance import Appearance
from sisbench.data.toyfaces.labels import axes, label_map
from sisbench.data.toyfaces.layout import FaceLayout
from sisbench.data.toyfaces.shading import SHADERS, Points
from sisbench.data.toyfaces.shapes import HAIR


def oversampling(size: tuple[int, int]) -> int:
    """Points a pixel and axis: 3 for small pictures, 2 from 160 pixels on."""
    return 3 if min(size) < 160 else 2


def fine(size: tuple[int, int]) -> tuple[int, int]:
    """The size of the point grid that a picture of ``size`` is averaged from."""
    factor = oversampling(size)
    return size[0] * factor, size[1] * factor


def render_label(
    label: np.ndarray,
    appearance: Appearance,
    face: FaceLayout,
    size: tuple[int, int],
    lent: FaceLayout | None = None,
    lent_classes: Collection[int] = (),
) -> np.ndarray:
    """Shade a label map.

    A point's colour depends on its class, its place, that class's look, the light, and the
    geometry: nothing of one class leaks into another, but for the averaging at borders.

    Args:
        label: (kH, kW) uint8 or int64 class ids on the point grid ``fine(size)``; no holes.
        appearance: looks and light.
        face: geometry that places eyes, hair strands, folds, shadows, ...
        size: (H, W) of the picture.
        lent: another geometry, that of ``lent_classes``.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    x, y = axes(label.shape)
    width = label.shape[1]
    hair = lent if lent is not None and HAIR in lent_classes else face
    flat = label.astype(np.uint8).ravel()
    order = np.argsort(flat, kind="stable")
    ends = np.cumsum(np.bincount(flat, minlength=len(appearance.looks)))
    picture = np.empty((flat.size, 3), np.float32)
    for class_id, (start, end) in enumerate(zip((0, *ends[:-1]), ends)):
        if start == end:
            continue
        where = order[start:end]
        shape = lent if lent is not None and class_id in lent_classes else face
        px, py = x[where % width], y[where // width]
        look = appearance.looks[class_id]
        points = Points(class_id, shape, look, appearance.light, hair, px, py)
        picture[where] = SHADERS[class_id](points)
    averaged = cv2.resize(
        picture.reshape(*label.shape, 3), (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return np.rint(255 * np.clip(averaged, 0, 1)).astype(np.uint8)


def render(face: FaceLayout, appearance: Appearance, size: tuple[int, int]) -> np.ndarray:
    """The picture of a layout in an appearance: (H, W, 3) uint8 RGB."""
    return render_label(label_map(face, fine(size)), appearance, face, size)
