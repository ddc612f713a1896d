"""Implicit shapes of a toy face's features: skin, ears, nose, glasses, eyes, brows, mouth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sisbench.data.toyfaces.layout import SQUARE, FaceLayout
from sisbench.data.toyfaces.shapes import Shape, Shapes, around, ellipse


def skin(face: FaceLayout) -> Shapes:
    yield Shape(around(0, 0, face.head_w, face.head_h), lambda u, v: np.abs(u) < face.half_width(v))


def ear(side: int) -> Callable[[FaceLayout], Shapes]:
    def shapes(face: FaceLayout) -> Shapes:
        u, v = face.ear(side)
        yield ellipse(u, v, face.ear_w, face.ear_h)

    return shapes


def nose(face: FaceLayout) -> Shapes:
    top_u, top_v, tip_u, tip_v = face.nose()
    wide = face.nose_w

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        t = np.clip((v - top_v) / (tip_v - top_v), 0, 1)
        centre = top_u + (tip_u - top_u) * t
        half = wide * (face.nose_bridge + (0.75 - face.nose_bridge) * t**2)
        bridge = (np.abs(u - centre) < half) & (v > top_v) & (v < tip_v)
        ball = ((u - tip_u) / wide) ** 2 + ((v - tip_v + 0.02) / (0.62 * wide)) ** 2 < 1
        return bridge | ball

    lo, hi = min(top_u, tip_u), max(top_u, tip_u)
    yield Shape((lo - wide, top_v, hi + wide, tip_v + wide), inside)


def glasses(face: FaceLayout) -> Shapes:
    if not face.glasses:
        return
    power = 5.0 if face.glasses == SQUARE else 2.2
    centres = [face.eye(side) for side in (-1, 1)]
    for u, v, narrowing in centres:
        yield ellipse(u, v + 0.01, face.glasses_w * narrowing, face.glasses_h, power)
    (lu, lv, ln), (ru, rv, rn) = centres
    bar = (lu, min(lv, rv) - 0.04, ru, max(lv, rv) + 0.005)
    yield Shape(bar, lambda u, v: np.ones(np.broadcast(u, v).shape, bool))
    for side, u, v, narrowing in ((-1, lu, lv, ln), (1, ru, rv, rn)):
        hinge, ear = u + side * 0.9 * face.glasses_w * narrowing, side * face.head_w
        arm = (min(hinge, ear), v - 0.045, max(hinge, ear), v - 0.003)
        if side * (ear - hinge) > 0:
            yield Shape(arm, lambda p, q: np.abs(p) < face.half_width(q))


def eye_frame(
    face: FaceLayout, side: int, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates within an eye: across in [-1, 1] and down in units of its half height."""
    eu, ev, narrowing = face.eye(side)
    du, dv = u - eu, v - ev + side * face.eye_tilt * (u - eu)
    return du / (face.eye_w * narrowing), dv / face.eye_h


def eye(side: int) -> Callable[[FaceLayout], Shapes]:
    def shapes(face: FaceLayout) -> Shapes:
        u, v, _ = face.eye(side)

        def inside(p: np.ndarray, q: np.ndarray) -> np.ndarray:
            across, down = eye_frame(face, side, p, q)
            lid = np.maximum(0, 1 - across**2)
            return (np.abs(across) < 1) & (down > -(lid**0.75)) & (down < 0.85 * lid)

        yield Shape(around(u, v, 1.2 * face.eye_w, 1.6 * face.eye_h + 0.03), inside)

    return shapes


def brow_frame(
    face: FaceLayout, side: int, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates within a brow: along it from its inner end (-1) to its outer (1), and across."""
    bu, bv, narrowing = face.brow(side)
    along = side * (u - bu) / (face.brow_w * narrowing)
    centre = bv + face.brow_tilt * face.brow_w * along + face.brow_arch * along**2
    return along, (v - centre) / face.brow_t


def brow(side: int) -> Callable[[FaceLayout], Shapes]:
    def shapes(face: FaceLayout) -> Shapes:
        u, v, _ = face.brow(side)

        def inside(p: np.ndarray, q: np.ndarray) -> np.ndarray:
            along, across = brow_frame(face, side, p, q)
            return np.abs(across) < np.sqrt(np.maximum(0, 1 - along**2)) * (1.05 - 0.35 * along)

        yield Shape(around(u, v, 1.2 * face.brow_w, face.brow_t + 0.17), inside)

    return shapes


def mouth_frame(
    face: FaceLayout, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Across the mouth in [-1, 1], height over its middle line, and half of its opening there."""
    mu, mv, narrowing = face.mouth()
    across = (u - mu) / (face.mouth_w * narrowing)
    arc = np.maximum(0, 1 - across**2)
    return across, v - mv - face.mouth_smile * (arc - 0.5), 0.5 * face.mouth_open * arc


def lips(part: int) -> Callable[[FaceLayout], Shapes]:
    """The upper lip (-1), the lower one (1), or what an open mouth shows between them (0)."""

    def shapes(face: FaceLayout) -> Shapes:
        def inside(p: np.ndarray, q: np.ndarray) -> np.ndarray:
            across, down, gap = mouth_frame(face, p, q)
            arc = np.maximum(0, 1 - across**2)
            if part == 0:
                return (np.abs(down) < gap) & (arc > 0)
            if part > 0:
                return (down >= gap) & (down < gap + face.lip_lower * arc**0.8) & (arc > 0)
            bow = 1 - 0.3 * np.exp(-((across / 0.2) ** 2))
            top = -gap - face.lip_upper * bow * arc**0.7
            return (down < np.where(gap > 0, -gap, 0.0)) & (down > top) & (arc > 0)

        if part or face.mouth_open:
            u, v, _ = face.mouth()
            yield Shape(around(u, v, 1.2 * face.mouth_w, 0.18), inside)

    return shapes
