"""The geometry of a toy face: the parameters that decide its label map, and how they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SHORT, BOB, LONG, AFRO, BUN = range(5)
"""Hair styles."""
FRINGE_ROUND, FRINGE_STRAIGHT, FRINGE_PART, FRINGE_PEAK = range(4)
"""Hair lines over the forehead."""
BEANIE, BRIM, CAP = 1, 2, 3
"""Hats; 0 is none."""
ROUND, SQUARE = 1, 2
"""Lenses of glasses; 0 is none."""
STUD, DROP, HOOP = 1, 2, 3
"""Earrings; 0 is none."""
CHAIN, PENDANT = 1, 2
"""Necklaces; 0 is none."""


@dataclass(frozen=True)
class FaceLayout:
    """Geometry of one face.

    Two frames are used. Picture frame (x, y): origin in the middle, y down, the shorter side spans
    [-1, 1]. Head frame (u, v): the picture frame moved to (cx, cy), rolled and scaled. Lengths are
    in head units unless said otherwise; ``body_*``, ``neck_*``, ``shoulder_*`` and ``necklace_*``
    are in the picture frame. Side -1 (``l_eye``, ``l_ear``, ``l_brow``) is the picture's left.
    """

    cx: float
    cy: float
    scale: float
    roll: float
    yaw: float
    pitch: float
    head_w: float
    head_h: float
    head_power: float
    jaw: float
    eye_x: float
    eye_y: float
    eye_w: float
    eye_h: float
    eye_tilt: float
    gaze_x: float
    gaze_y: float
    brow_gap: float
    brow_w: float
    brow_t: float
    brow_arch: float
    brow_tilt: float
    nose_end: float
    nose_w: float
    nose_bridge: float
    mouth_y: float
    mouth_w: float
    mouth_smile: float
    mouth_open: float
    lip_upper: float
    lip_lower: float
    ear_w: float
    ear_h: float
    ear_y: float
    hair_style: int
    hair_volume: float
    hair_length: float
    hair_line: float
    hair_fringe: int
    hair_part: float
    hair_wave: float
    hair_waves: int
    hair_over_ears: bool
    hat: int
    hat_line: float
    hat_height: float
    glasses: int
    glasses_w: float
    glasses_h: float
    earrings: int
    earring_size: float
    necklace: int
    necklace_drop: float
    necklace_w: float
    body_x: float
    shoulder_y: float
    shoulder_w: float
    neck_w: float
    neckline_v: bool
    neckline_w: float
    neckline_depth: float

    def place(self, u: float, v: float) -> tuple[float, float, float]:
        """Where a point on the front of the head comes to lie once yaw and pitch turn it:
        (u, v, horizontal foreshortening)."""
        height = math.sqrt(
            max(0.15, 1 - 0.8 * (u / self.head_w) ** 2 - 0.6 * v**2 / self.head_h**2)
        )
        slope = -0.8 * u / (self.head_w * height)
        turned = u * math.cos(self.yaw) + self.head_w * height * math.sin(self.yaw)
        tipped = v * math.cos(self.pitch) + self.head_w * height * math.sin(self.pitch)
        narrowing = math.cos(self.yaw) + slope * math.sin(self.yaw)
        return turned, tipped, min(1.15, max(0.55, narrowing))

    def eye(self, side: int) -> tuple[float, float, float]:
        """Centre and foreshortening of the eye on ``side`` (-1 left, 1 right)."""
        return self.place(side * self.eye_x, self.eye_y)

    def brow(self, side: int) -> tuple[float, float, float]:
        """Centre and foreshortening of a brow."""
        return self.place(side * self.eye_x * 1.05, self.eye_y - self.brow_gap)

    def ear(self, side: int) -> tuple[float, float]:
        """Centre of an ear: it sits behind the middle of the head and moves against the face."""
        u = side * self.head_w * 1.02 - 0.22 * self.head_w * math.sin(self.yaw)
        return u, self.ear_y - 0.2 * self.head_w * math.sin(self.pitch)

    def lobe(self, side: int) -> tuple[float, float]:
        """The point that an earring hangs from."""
        u, v = self.ear(side)
        return u + side * 0.02, v + 0.85 * self.ear_h

    def mouth(self) -> tuple[float, float, float]:
        """Centre and foreshortening of the mouth."""
        return self.place(0.0, self.mouth_y)

    def nose(self) -> tuple[float, float, float, float]:
        """(u of the bridge, v of the bridge, u of the tip, v of the tip); the tip stands out."""
        top_u, top_v, _ = self.place(0.0, self.eye_y - 0.02)
        tip_u, tip_v, _ = self.place(0.0, self.nose_end)
        return top_u, top_v, tip_u + 0.10 * math.sin(self.yaw), tip_v + 0.06 * math.sin(self.pitch)

    def half_width(self, v: np.ndarray) -> np.ndarray:
        """Half width of the head at height ``v``; 0 above and below it. The jaw narrows it."""
        t = v * (1.0 / self.head_h)
        round_part = np.sqrt(np.maximum(0.0, 1.0 - np.abs(t) ** self.head_power))
        return self.head_w * round_part * (1.0 - self.jaw * np.clip(t, 0.0, 1.0) ** 1.5)


def draw_layout(rng: np.random.Generator) -> FaceLayout:
    """A face: pose, shape, hair, accessories (hat 15 %, glasses 20 %, earrings 25 %, necklace
    20 %) and clothes."""
    head_w, head_h = rng.uniform(0.40, 0.47), rng.uniform(0.53, 0.60)
    return FaceLayout(
        **_draw_pose(rng),
        **_draw_head(rng, head_w, head_h),
        **_draw_mouth(rng, head_h),
        **_draw_hair(rng, head_h),
        **_draw_worn(rng, head_h),
        **_draw_body(rng),
    )


def _draw_pose(rng: np.random.Generator) -> dict[str, Any]:
    flat = rng.uniform
    return {
        "cx": float(np.clip(rng.normal(0, 0.05), -0.12, 0.12)),
        "cy": flat(-0.10, 0.0),
        "scale": flat(1.02, 1.20),
        "roll": float(np.clip(rng.normal(0, 0.08), -0.22, 0.22)),
        "yaw": flat(-0.32, 0.32),
        "pitch": flat(-0.12, 0.16),
    }


def _draw_head(rng: np.random.Generator, head_w: float, head_h: float) -> dict[str, Any]:
    flat = rng.uniform
    return {
        "head_w": head_w,
        "head_h": head_h,
        "head_power": flat(2.1, 2.9),
        "jaw": flat(0.08, 0.40),
        "eye_x": flat(0.42, 0.48) * head_w,
        "eye_y": flat(-0.02, 0.08) * head_h,
        "eye_w": flat(0.105, 0.135),
        "eye_h": flat(0.055, 0.085),
        "eye_tilt": float(rng.normal(0.0, 0.10)),
        "gaze_x": flat(-0.3, 0.3),
        "gaze_y": flat(-0.15, 0.15),
        "brow_gap": flat(0.145, 0.19),
        "brow_w": flat(0.12, 0.155),
        "brow_t": flat(0.020, 0.036),
        "brow_arch": flat(0.01, 0.06),
        "brow_tilt": float(rng.normal(0.0, 0.12)),
        "nose_end": flat(0.36, 0.43) * head_h,
        "nose_w": flat(0.070, 0.105),
        "nose_bridge": flat(0.40, 0.55),
        "ear_w": flat(0.085, 0.115),
        "ear_h": flat(0.11, 0.15),
        "ear_y": flat(0.04, 0.12) * head_h,
    }


def _draw_mouth(rng: np.random.Generator, head_h: float) -> dict[str, Any]:
    flat = rng.uniform
    return {
        "mouth_y": flat(0.64, 0.70) * head_h,
        "mouth_w": flat(0.15, 0.205),
        "mouth_smile": flat(0.0, 0.085),
        "mouth_open": float(rng.random() < 0.55) * flat(0.04, 0.085),
        "lip_upper": flat(0.034, 0.050),
        "lip_lower": flat(0.042, 0.062),
    }


def _draw_hair(rng: np.random.Generator, head_h: float) -> dict[str, Any]:
    style = int(rng.choice(5, p=[0.34, 0.20, 0.28, 0.09, 0.09]))
    curly = rng.random() < 0.4
    volume = {SHORT: (0.03, 0.09), AFRO: (0.14, 0.22)}.get(style, (0.05, 0.12))
    length = {BOB: (0.35, 0.62), LONG: (0.85, 1.5)}.get(style, (0.0, 0.1))
    over_ears = rng.random() < 0.4
    return {
        "hair_style": style,
        "hair_volume": rng.uniform(*volume),
        "hair_length": rng.uniform(*length),
        "hair_line": rng.uniform(-0.70, -0.50) * head_h,
        "hair_fringe": int(rng.integers(4)),
        "hair_part": rng.uniform(-0.6, 0.6),
        "hair_wave": rng.uniform(0.012, 0.03) if curly or style == AFRO else 0.004,
        "hair_waves": int(rng.integers(9, 17)),
        "hair_over_ears": bool(over_ears and style in (BOB, LONG)),
    }


def _draw_worn(rng: np.random.Generator, head_h: float) -> dict[str, Any]:
    flat = rng.uniform
    wears = rng.random(4) < (0.15, 0.20, 0.25, 0.20)
    kinds = rng.integers(1, (4, 3, 4, 3))
    hat, glasses, earrings, necklace = (int(k) if w else 0 for k, w in zip(kinds, wears))
    return {
        "hat": hat,
        "hat_line": flat(-0.62, -0.50) * head_h,
        "hat_height": flat(0.16, 0.28),
        "glasses": glasses,
        "glasses_w": flat(0.155, 0.18),
        "glasses_h": flat(0.115, 0.145),
        "earrings": earrings,
        "earring_size": flat(0.045, 0.060),
        "necklace": necklace,
        "necklace_drop": flat(0.16, 0.24),
        "necklace_w": flat(0.024, 0.034),
    }


def _draw_body(rng: np.random.Generator) -> dict[str, Any]:
    flat = rng.uniform
    return {
        "body_x": flat(-0.05, 0.05),
        "shoulder_y": flat(0.68, 0.76),
        "shoulder_w": flat(0.78, 0.98),
        "neck_w": flat(0.20, 0.26),
        "neckline_v": bool(rng.random() < 0.4),
        "neckline_w": flat(0.24, 0.38),
        "neckline_depth": flat(0.10, 0.30),
    }
