"""Shaders of a toy face's eyes, brows, mouth, hair, hat, glasses and jewels."""

from __future__ import annotations

import math

import numpy as np

from sisbench.data.toyfaces.body import necklace_curve
from sisbench.data.toyfaces.features import brow_frame, eye_frame, mouth_frame
from sisbench.data.toyfaces.layout import BEANIE, SQUARE
from sisbench.data.toyfaces.points import Points, smooth, step
from sisbench.data.toyfaces.shapes import L_BROW, L_EYE


def eye(p: Points) -> np.ndarray:
    """The look's colour is the iris, its accent the white."""
    face, look = p.face, p.look
    side = -1 if p.class_id == L_EYE else 1
    across, down = eye_frame(face, side, *p.uv)
    du = (across - face.gaze_x - 0.35 * math.sin(face.yaw)) * face.eye_w
    dv = (down - face.gaze_y) * face.eye_h
    r = np.hypot(du, dv) / (0.9 * face.eye_h)
    lid = np.maximum(0, 1 - across**2)
    white = 1 - 0.30 * smooth(-down, 0.1, 0.9) - 0.12 * across**2
    iris = step(1 - r, 0, 0.10)
    inner = 0.85 + 0.5 * smooth(r, 0.3, 0.75) - 0.55 * smooth(r, 0.75, 1.0) + 0.25 * dv / face.eye_h
    pupil = step(0.46 - r, 0, 0.12)
    bright = (white + (inner - white) * iris) * (1 - 0.93 * pupil)
    lash = step(-down - lid**0.75, -0.26, 0.14)
    bright = bright * (1 - 0.85 * lash)
    lx, ly, _ = p.light.direction
    glint = step(0.27 - np.hypot(du / face.eye_h - 0.35 * lx, dv / face.eye_h - 0.4 * ly), 0, 0.1)
    return p.coloured(bright, 1 - iris, 0.9 * look.gloss * glint * (1 - lash))


def brow(p: Points) -> np.ndarray:
    side = -1 if p.class_id == L_BROW else 1
    along, across = brow_frame(p.face, side, *p.uv)
    hairs = np.sin(26 * along - 3.5 * across + p.look.phase[0])
    return p.coloured(0.95 + 0.16 * hairs - 0.10 * across, 0.15)


def lips(p: Points) -> np.ndarray:
    face = p.face
    across, down, gap = mouth_frame(face, *p.uv)
    upper = down < 0
    depth = np.where(upper, (-down - gap) / face.lip_upper, (down - gap) / face.lip_lower)
    tilt = np.where(upper, 0.25 + 0.25 * depth, 0.75 * (depth - 0.4))
    bright = p.lit(0.4 * across, tilt) - 0.40 * np.exp(-((depth / 0.22) ** 2)) * (gap < 0.006)
    bright += 0.05 * np.sin(30 * across + p.look.phase[0])
    lx = p.light.direction[0]
    shine = np.exp(-(((depth - 0.45) / 0.16) ** 2) - ((across - 0.25 * lx) / 0.35) ** 2)
    return p.coloured(bright, 0.0, 0.55 * p.look.gloss * shine * ~upper)


def mouth(p: Points) -> np.ndarray:
    """Patterns: teeth above, teeth all over. The accent is the teeth."""
    across, down, gap = mouth_frame(p.face, *p.uv)
    t = down / np.maximum(gap, 1e-4)
    teeth = step(0.25 - t, 0, 0.35) if p.look.pattern == 0 else 1.0 + 0 * t
    split = 1 - 0.20 * np.exp(-((np.mod(across * 6, 1) - 0.5) ** 2) / 0.006)
    bright = (1 + teeth * (split - 1)) * (1 - 0.45 * across**2) * (1 - 0.35 * smooth(-t, 0.6, 1.0))
    return p.coloured(bright + 0.25 * (1 - teeth) * smooth(t, 0.3, 1.0), teeth)


def hair(p: Points) -> np.ndarray:
    """Patterns: straight, wavy, curly strands that run from the parting; a band of shine."""
    face, (u, v), look = p.face, p.uv, p.look
    root_u, root_v = 0.5 * face.hair_part * face.head_w, -0.80 * face.head_h
    du, dv = u - root_u, v - root_v
    angle = np.arctan2(du, dv + 0.35)
    r = np.hypot(du, dv)
    if look.pattern == 2:
        curls = np.sin(26 * du / look.scale + 2.2 * np.sin(17 * dv + look.phase[0]))
        curls *= np.sin(24 * dv / look.scale + 2.2 * np.sin(19 * du + look.phase[1]))
        strands = 0.75 * curls + 0.25 * np.sin(70 * angle)
    else:
        sway = (0.05 if look.pattern == 0 else 0.16) * np.sin(9 * r / look.scale + look.phase[0])
        warped = angle + sway
        strands = 0.45 * np.sin(31 * warped + look.phase[1]) + 0.30 * np.sin(67 * warped + 4 * r)
        strands += 0.25 * np.sin(113 * warped + look.phase[0])
    nx, ny = p.head_normal(1.35)
    bright = p.lit(np.clip(nx, -0.9, 0.9), np.clip(ny, -0.9, 0.5)) + 0.17 * strands
    # hair behind the face and under the chin lies in the shade
    bright *= 1 - 0.28 * smooth(v, 0.0, 0.6) * (np.abs(u) < 0.9 * face.head_w)
    lx = p.light.direction[0]
    band = np.hypot(u - 0.25 * lx, v + 0.1) - 0.66 * face.head_h
    shine = np.exp(-((band / 0.07) ** 2)) * (0.6 + 0.4 * strands) * (v < 0.1)
    shine *= np.maximum(0, 0.8 + 0.6 * np.sin(np.arctan2(u, -v)) * lx)
    return p.coloured(bright, 0.8 * look.gloss * np.clip(shine, 0, 1))


def hat(p: Points) -> np.ndarray:
    """Patterns: plain, ribbed, striped; a band in the accent colour."""
    face, (u, v), look = p.face, p.uv, p.look
    nx, ny = p.head_normal(1.2)
    bright = p.lit(np.clip(0.8 * nx, -0.9, 0.9), np.clip(0.8 * ny, -0.9, 0.9))
    rise = face.hat_line + 0.0 * u - v + 0.05 * (u / face.head_w) ** 2
    band = step(rise, 0.02, 0.02) * step(-rise, -0.15, 0.02)
    if face.hat == BEANIE or look.pattern == 1:
        bright = bright + 0.09 * np.sin(44 * np.arctan2(u, 0.5 - v) / look.scale)
    stripes = step(np.sin(40 * v + look.phase[0]), 0.1, 0.3) if look.pattern == 2 else 0.0 * u
    bright = bright - 0.22 * np.exp(-(((rise - 0.005) / 0.02) ** 2))
    return p.coloured(bright, np.maximum(band, 0.8 * stripes * (rise > 0.15)))


def glasses(p: Points) -> np.ndarray:
    """A frame in the look's colour around lenses in its accent, with a streak of light."""
    face, (u, v), look = p.face, p.uv, p.look
    power = 5.0 if face.glasses == SQUARE else 2.2
    lens = np.zeros_like(u)
    streak = np.zeros_like(u)
    for side in (-1, 1):
        eu, ev, narrowing = face.eye(side)
        du, dv = (u - eu) / (face.glasses_w * narrowing), (v - ev - 0.01) / face.glasses_h
        inner = np.abs(du / 0.80) ** power + np.abs(dv / 0.73) ** power
        lens = np.maximum(lens, step(1 - inner, 0, 0.2))
        streak = np.maximum(streak, np.exp(-(((du + 0.7 * dv + 0.35) / 0.13) ** 2)))
    bright = 1.0 + lens * (p.lit(*p.head_normal(1.2), 0.6) - 1.0)
    return p.coloured(bright, lens, 0.30 * look.gloss * streak * lens + 0.05 * (1 - lens))


def _metal(p: Points, gem: np.ndarray, wave: np.ndarray) -> np.ndarray:
    bright = 0.82 + 0.28 * wave
    return p.coloured(bright, gem, 0.45 * p.look.gloss * np.maximum(0, wave) ** 4)


def earring(p: Points) -> np.ndarray:
    face, (u, v) = p.face, p.uv
    right = u > 0
    (left_u, left_v), (right_u, right_v) = face.lobe(-1), face.lobe(1)
    du = (u - np.where(right, np.float32(right_u), np.float32(left_u))) / face.earring_size
    dv = (v - np.where(right, np.float32(right_v), np.float32(left_v))) / face.earring_size
    lx, ly, _ = p.light.direction
    wave = np.cos(2.2 * (du - 0.5 * lx)) * np.cos(2.2 * (np.mod(dv + 1, 2.2) - 1 - 0.4 * ly))
    return _metal(p, step(dv, 1.2, 0.2) if p.look.pattern else 0.0 * u, wave)


def necklace(p: Points) -> np.ndarray:
    """Patterns: a smooth band, beads, beads of two colours; a pendant is a gem."""
    face = p.face
    off = (p.y - necklace_curve(face, p.x)) / face.necklace_w
    along = (p.x - face.body_x) / (1.6 * face.necklace_w)
    wave = np.cos(1.3 * off)
    gem = step(off, 1.1, 0.3)
    if p.look.pattern:
        wave = wave * (0.35 + 0.65 * np.abs(np.cos(np.pi * along)))
    if p.look.pattern == 2:
        gem = np.maximum(gem, step(np.sin(np.pi * along + 0.5 * np.pi), 0, 0.2))
    return _metal(p, gem, np.where(off > 1.1, np.cos(0.9 * (off - 3.0)), wave))
