"""Shaders of a toy face's background, clothes, skin, nose, ears and neck."""

from __future__ import annotations

import math

import numpy as np

from sisbench.data.toyfaces.body import hair_edge, shoulder_line
from sisbench.data.toyfaces.labels import to_head
from sisbench.data.toyfaces.points import Points, blob, smooth, step
from sisbench.data.toyfaces.shapes import L_EAR


def background(p: Points) -> np.ndarray:
    """Patterns: gradient, soft clouds, lights out of focus, stripes, a round glow."""
    x, y, look = p.x, p.y, p.look
    cos, sin = math.cos(look.angle), math.sin(look.angle)
    across, along = cos * x + sin * y, cos * y - sin * x
    mix = 0.5 + 0.35 * along
    if look.pattern == 1:
        mix = 0.5 + 0.45 * p.noise(x, y, 3.0)
    elif look.pattern == 2:
        cell = 0.55 * look.scale
        du = np.mod(across / cell + look.phase[0], 1) - 0.5
        dv = np.mod(along / cell + look.phase[1], 1) - 0.5
        mix = 0.35 * mix + 0.55 * step(0.34 - np.hypot(du, dv), 0, 0.10)
    elif look.pattern == 3:
        mix = 0.3 * mix + 0.45 * step(np.sin(9 * across / look.scale + look.phase[0]), 0, 0.3)
    elif look.pattern == 4:
        mix = np.hypot(x - 0.5 * cos, y + 0.3 + 0.2 * sin) * 0.7
    fade = 1.03 - 0.10 * (x * x + y * y) + 0.008 * p.noise(x, y, 27.0)
    untinted = np.array(look.colour, np.float32)
    change = np.array(look.accent, np.float32) - untinted
    return (untinted + np.multiply.outer(np.clip(mix, 0, 1), change)) * fade[:, None]


def cloth(p: Points) -> np.ndarray:
    """Patterns: plain, stripes, checks, dots, knit; folds, and a trim along the shoulder."""
    face, look = p.face, p.look
    x, y = p.x - face.body_x, p.y
    drop = y - shoulder_line(face, p.x)
    folds = np.sin(8 * x + 5 * y * np.sign(x) + look.phase[0] + 2 * np.sin(2.5 * y + look.phase[1]))
    bright = p.lit(0.75 * x / face.shoulder_w, -0.35 * np.exp(-6 * drop)) + 0.045 * folds
    f = 34 / look.scale
    mix: np.ndarray | float = 0.0
    if look.pattern == 1:
        mix = step(np.sin(f * (drop + 0.12 * x * x)), 0.15, 0.4)
    elif look.pattern == 2:
        mix = 0.4 * step(np.sin(0.8 * f * x), 0, 0.4) + 0.4 * step(np.sin(0.8 * f * y), 0, 0.4)
    elif look.pattern == 3:
        mix = step(np.sin(0.8 * f * x) * np.sin(0.8 * f * y + look.phase[0]), 0.45, 0.25)
    elif look.pattern == 4:
        bright = bright + 0.08 * np.sin(1.3 * f * x + 1.5 * np.sin(1.6 * f * y))
    bright = bright * (0.80 + 0.20 * smooth(drop, 0.0, 0.05))
    return p.coloured(bright, mix)


def skin(p: Points) -> np.ndarray:
    """Patterns: plain, rosy, freckles, stubble; and shadows of sockets, nose, lip and fringe."""
    face, (u, v), look = p.face, p.uv, p.look
    bright = p.lit(*p.head_normal(1.12))
    lx = p.light.direction[0]
    _, _, tip_u, tip_v = face.nose()
    bright -= (
        0.16 * blob(u, v, tip_u - math.copysign(0.10, lx), tip_v - 0.05, 0.075, 0.13) * abs(lx)
    )
    bright -= 0.10 * blob(u, v, tip_u, tip_v + 0.075, 0.10, 0.035)
    mix = 0.0 * u
    for side in (-1, 1):
        eu, ev, narrowing = face.eye(side)
        bright -= 0.13 * blob(u, v, eu, ev - 0.035, 0.17 * narrowing, 0.10)
        cu, cv, _ = face.place(side * 0.62 * face.head_w, face.nose_end - 0.01)
        cheek = blob(u, v, cu, cv, 0.12, 0.09)
        mix += (0.85 if look.pattern == 1 else 0.40) * cheek
        bright += 0.04 * blob(u, v, cu, cv - 0.05, 0.08, 0.05)
    mu, mv, _ = face.mouth()
    bright -= 0.09 * blob(u, v, mu, mv + face.lip_lower + 0.055, 0.10, 0.022)
    hair_u, hair_v = to_head(p.hair, p.x, p.y)
    edge = hair_v - hair_edge(p.hair, hair_u)
    bright *= 0.84 + 0.16 * smooth(edge, -0.01, 0.07)
    if look.pattern == 2:
        spots = np.sin(61 * u + 3 * np.sin(23 * v)) * np.sin(57 * v + 3 * np.sin(29 * u))
        band = blob(u, v, tip_u, tip_v - 0.06, 0.28, 0.10)
        bright -= 0.16 * band * step(spots, 0.45, 0.3)
    if look.pattern == 3:
        beard = smooth(v - face.nose_end + 0.25 * np.abs(u), 0.10, 0.22)
        bright -= 0.17 * beard * (0.8 + 0.2 * np.sin(90 * u) * np.sin(90 * v))
    forehead = blob(u, v, 0.15 * lx, face.eye_y - 0.25, 0.13, 0.08)
    return p.coloured(bright, np.minimum(mix, 1), 0.12 * look.gloss * forehead)


def nose(p: Points) -> np.ndarray:
    face, (u, v), look = p.face, p.uv, p.look
    top_u, top_v, tip_u, tip_v = face.nose()
    t = np.clip((v - top_v) / (tip_v - top_v), 0, 1.2)
    across = (u - top_u - (tip_u - top_u) * t) / face.nose_w
    bright = p.lit(0.85 * across, 0.35 * (t - 0.55), 1.1)
    bright -= 0.14 * smooth(t, 1.0, 1.18)
    for side in (-1, 1):
        nostril = blob(u, v, tip_u + side * 0.5 * face.nose_w, tip_v + 0.018, 0.024, 0.016)
        bright = bright * (1 - 0.55 * nostril)
    lx = p.light.direction[0]
    tip = blob(u, v, tip_u + 0.02 * lx, tip_v - 0.035, 0.028, 0.030)
    ridge = 0.35 * np.exp(-((across / 0.25) ** 2)) * (t < 0.8)
    return p.coloured(bright, 0.25 * smooth(t, 0.6, 1.0), 0.35 * look.gloss * (tip + ridge))


def ear(p: Points) -> np.ndarray:
    side = -1 if p.class_id == L_EAR else 1
    cu, cv = p.face.ear(side)
    u, v = p.uv
    du, dv = (u - cu) / p.face.ear_w, (v - cv) / p.face.ear_h
    rim = np.hypot(du - 0.15 * side, dv)
    bright = p.lit(0.55 * du, 0.45 * dv) - 0.22 * np.exp(-(((rim - 0.42) / 0.2) ** 2))
    return p.coloured(bright, 0.35 * np.maximum(0, dv))


def neck(p: Points) -> np.ndarray:
    face, (u, v) = p.face, p.uv
    nx = (p.x - face.body_x) / (face.neck_w + 0.12)
    bright = p.lit(np.clip(0.8 * nx, -0.95, 0.95), 0.0 * nx)
    chin = np.hypot(0.9 * u, v - 0.1) - 0.92 * face.head_h
    bright *= 0.66 + 0.34 * smooth(chin, -0.04, 0.20)
    below = p.y - face.shoulder_y
    bright -= 0.05 * np.exp(-(((np.abs(nx) * 0.10 - below + 0.05) / 0.025) ** 2)) * np.abs(nx)
    return p.coloured(bright)
