"""Implicit shapes of a toy face's body, hair, hat and jewels."""

from __future__ import annotations

import math

import numpy as np

from sisbench.data.toyfaces.layout import (
    AFRO,
    BEANIE,
    BOB,
    BRIM,
    BUN,
    CAP,
    DROP,
    FRINGE_PART,
    FRINGE_PEAK,
    FRINGE_STRAIGHT,
    HOOP,
    LONG,
    PENDANT,
    FaceLayout,
)
from sisbench.data.toyfaces.shapes import FAR, Inside, Shape, Shapes, around, ellipse


def shoulder_line(face: FaceLayout, x: np.ndarray) -> np.ndarray:
    """Height y of the shoulders at ``x`` (picture frame)."""
    t = np.abs(x - face.body_x) / face.shoulder_w
    return face.shoulder_y + 0.16 * t**2 + 0.25 * t**8


def _in_opening(face: FaceLayout, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    across = np.abs(x - face.body_x) / face.neckline_w
    down = (y - face.shoulder_y) / face.neckline_depth
    if face.neckline_v:
        return across + down < 1
    return across**2 + np.maximum(down, 0) ** 2 < 1


def cloth(face: FaceLayout) -> Shapes:
    box = (face.body_x - 1.3, face.shoulder_y, face.body_x + 1.3, FAR)
    yield Shape(box, lambda x, y: y > shoulder_line(face, x), head=False)


def neck(face: FaceLayout) -> Shapes:
    top = face.cy
    reach = face.shoulder_y - top

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        t = np.clip((y - top) / reach, 0, 1)
        centre = face.cx + (face.body_x - face.cx) * t
        column = np.abs(x - centre) < face.neck_w + 0.10 * t**8
        below = y > shoulder_line(face, x)
        return np.where(below, _in_opening(face, x, y), column)

    wide = max(face.neck_w + 0.25, face.neckline_w) + 0.1
    yield Shape(
        (face.body_x - wide, top, face.body_x + wide, face.shoulder_y + face.neckline_depth),
        inside,
        head=False,
    )


def necklace_curve(face: FaceLayout, x: np.ndarray) -> np.ndarray:
    """Height y of the necklace at ``x``."""
    t = (x - face.body_x) / (face.neck_w + 0.09)
    return face.shoulder_y - 0.06 + face.necklace_drop * (1 - t**2)


def necklace(face: FaceLayout) -> Shapes:
    if not face.necklace:
        return
    half = face.neck_w + 0.09
    low = face.shoulder_y - 0.06 + face.necklace_drop

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        t = (x - face.body_x) / half
        steep = np.sqrt(1 + (2 * face.necklace_drop / half * t) ** 2)
        return (np.abs(y - necklace_curve(face, x)) < face.necklace_w * steep) & (np.abs(t) < 1)

    yield Shape((face.body_x - half, 0.0, face.body_x + half, low + 0.05), inside, head=False)
    if face.necklace == PENDANT:
        r = 2.0 * face.necklace_w
        yield Shape(
            around(face.body_x, low + r, r, r),
            lambda x, y: (x - face.body_x) ** 2 + (y - low - r) ** 2 < r * r,
            head=False,
        )


def _wavy(face: FaceLayout, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far the outline of the hair bulges, by direction from the head's centre."""
    turn = np.arctan2(u, -v)
    first = np.sin(face.hair_waves * turn + 9 * face.hair_part)
    return face.hair_wave * (0.6 * first + 0.4 * np.sin((face.hair_waves + 5) * turn))


def _skull(face: FaceLayout, u: np.ndarray, v: np.ndarray, grow: float) -> np.ndarray:
    wave = _wavy(face, u, v) if face.hair_wave > 0.01 else 0.0
    ru, rv = face.head_w + grow, face.head_h + grow
    return np.sqrt((u / ru) ** 2 + (v / rv) ** 2) < 1 + wave / face.head_w


def hair_back(face: FaceLayout) -> Shapes:
    grow = face.hair_volume
    if face.hair_style == BUN:
        yield ellipse(0.3 * face.hair_part, -face.head_h - grow - 0.06, 0.17, 0.14)
    reach = around(0, 0, face.head_w + grow + 0.08, face.head_h + grow + 0.08)
    low = 0.45 if face.hair_style == AFRO else 0.12
    yield Shape(reach, lambda u, v: _skull(face, u, v, grow) & (v < low))
    if face.hair_style in (BOB, LONG):
        yield _curtain(face, inner=0.0)


def _curtain(face: FaceLayout, inner: float) -> Shape:
    """Hair that hangs at both sides of the head, down to ``hair_length``; ``inner`` is how near
    it comes to the middle, as a part of the head's width (0 fills all of it)."""
    wide, end = face.head_w + face.hair_volume, face.hair_length
    turn = -0.06 * math.sin(face.yaw)

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        t = np.clip(v / max(end, 0.1), 0, 1)
        swing = 0.05 * np.sin(2.5 * t) - 0.10 * np.maximum(t - 0.75, 0)
        wave = face.hair_wave * np.sin(face.hair_waves * v * 1.6 + 5 * face.hair_part)
        side = np.abs(u - turn)
        ends = end - 0.5 * (side - wide * 0.75) ** 2 + wave
        return (side < wide + swing + wave) & (side > inner * face.head_w - wave) & (v < ends)

    return Shape((-wide - 0.15, -0.02, wide + 0.15, end + 0.05), inside)


def locks_behind(face: FaceLayout) -> Shapes:
    if face.hair_style == LONG and not face.hair_over_ears:
        yield _curtain(face, inner=0.82)


def locks_over(face: FaceLayout) -> Shapes:
    if face.hair_over_ears:
        yield _curtain(face, inner=0.86)


def hair_edge(face: FaceLayout, u: np.ndarray) -> np.ndarray:
    """Height v of the hair line over the forehead at ``u``."""
    shift = 0.35 * face.head_w * math.sin(face.yaw)
    t = (u - shift) / face.head_w
    line = face.hair_line + 0.22 * face.head_w * math.sin(face.pitch)
    if face.hair_fringe == FRINGE_STRAIGHT:
        return line + 0.10 + 0.012 * np.sin(38 * t + 7 * face.hair_part) + 0.25 * np.abs(t) ** 4
    if face.hair_fringe == FRINGE_PART:
        return line - 0.05 + 0.30 * np.abs(t - 0.6 * face.hair_part) ** 1.3
    if face.hair_fringe == FRINGE_PEAK:
        return line + 0.06 - 0.10 * np.sin(np.clip(np.abs(t) * 4.2, 0, np.pi)) + 0.42 * t**4
    return line + 0.34 * t**2


def hair_front(face: FaceLayout) -> Shapes:
    grow = face.hair_volume

    def inside(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        crown = _skull(face, u, v, grow) & (v < hair_edge(face, u))
        # sideburns: a rim at the temples that joins the fringe to the ears
        rim = (np.abs(u) > 0.93 * face.half_width(v)) & (v < face.ear_y - 0.04) & (v < 0.1)
        return crown | (rim & _skull(face, u, v, 0.3 * grow))

    yield Shape(around(0, -0.2, face.head_w + grow + 0.08, face.head_h + grow), inside)


def hat(face: FaceLayout) -> Shapes:
    if not face.hat:
        return
    wide = face.head_w + max(0.05, 0.7 * face.hair_volume)
    line, top = face.hat_line, face.head_h + face.hat_height - 0.5 * min(face.hat_height, 0.2)
    bow = 0.10 * math.sin(face.pitch) - 0.05

    def dome(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        power = 3.0 if face.hat == BRIM else 2.2
        shape = np.abs(u / wide) ** power + np.abs(v / top) ** power < 1
        return shape & (v < line + bow * (1 - (u / wide) ** 2) + 0.06)

    yield Shape((-wide, -top, wide, line + 0.2), dome)
    if face.hat == BEANIE:
        yield ellipse(0.0, -top - 0.03, 0.09, 0.08)
    if face.hat == BRIM:
        yield ellipse(0.0, line + 0.03, wide * 1.38, 0.085, 2.5)
    if face.hat == CAP:
        out = 0.28 * math.copysign(1, face.yaw)
        yield ellipse(out * face.head_w + 0.6 * math.sin(face.yaw) * wide, line + 0.04, wide, 0.075)


def earrings(face: FaceLayout) -> Shapes:
    for side in (-1, 1) if face.earrings else ():
        u, v = face.lobe(side)
        r = face.earring_size
        if face.earrings == HOOP:
            r *= 1.5
            yield Shape(around(u, v + r, r, r), _ring(u, v + r, r))
            continue
        yield ellipse(u, v + 0.3 * r, r, r)
        if face.earrings == DROP:
            yield ellipse(u, v + 2.0 * r, 0.8 * r, 1.6 * r)


def _ring(u: float, v: float, r: float) -> Inside:
    return lambda p, q: np.abs(np.hypot(p - u, q - v) - 0.72 * r) < 0.28 * r
