"""Points of one class of a toy face: coordinates, light, colour and noise for the shaders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sisbench.data.toyfaces.appearance import Light, Look
from sisbench.data.toyfaces.labels import to_head
from sisbench.data.toyfaces.layout import FaceLayout

WARM_SHADOW = np.array([0.16, 0.02, -0.04], np.float32)


@dataclass(frozen=True)
class Points:
    """Points of one class.

    Attributes:
        class_id, face, look, light: what they are drawn from.
        hair: the geometry whose fringe shades the forehead; ``face`` but in a shape transfer.
        x, y: (N,) float32 picture coordinates.
    """

    class_id: int
    face: FaceLayout
    look: Look
    light: Light
    hair: FaceLayout
    x: np.ndarray
    y: np.ndarray

    @cached_property
    def uv(self) -> tuple[np.ndarray, np.ndarray]:
        """Head coordinates."""
        return to_head(self.face, self.x, self.y)

    def lit(self, nx: np.ndarray, ny: np.ndarray, amount: float = 1.0) -> np.ndarray:
        """(N,) brightness, about 1 in the light, of a surface with normal (nx, ny, ...): Lambert's
        law over an ambient share. ``amount`` below 1 flattens it."""
        lx, ly, lz = self.light.direction
        nz = np.sqrt(np.maximum(0.05, 1 - nx * nx - ny * ny))
        diffuse = np.maximum(0, nx * lx + ny * ly + nz * lz)
        shade = self.light.ambient + 1.08 * (1 - self.light.ambient) * diffuse
        return 1 + amount * (shade - 0.97)

    def coloured(
        self, brightness: np.ndarray, mix: np.ndarray | float = 0.0, shine: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """(N, 3): the look's colour, ``mix`` of its accent, times brightness, plus ``shine``."""
        tint = np.array(self.light.tint, np.float32)
        base = np.array(self.look.colour, np.float32) * tint
        step = np.array(self.look.accent, np.float32) * tint - base
        mixes = np.broadcast_to(np.asarray(mix, np.float32), self.x.shape)
        out = base + np.multiply.outer(mixes, step)
        # shadows keep some red: skin and wood do not turn grey in the shade
        bright = np.broadcast_to(brightness, self.x.shape)[:, None]
        out *= bright * (1 - WARM_SHADOW) + WARM_SHADOW
        if np.ndim(shine):
            out += np.asarray(shine)[:, None]
        return out

    def head_normal(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Normal (right, down) of an ellipsoid ``scale`` times as wide as the head."""
        u, v = self.uv
        nx, ny = u / (self.face.head_w * scale), v / (self.face.head_h * scale)
        cos, sin = math.cos(self.face.roll), math.sin(self.face.roll)
        return (cos * nx - sin * ny) * 0.9, (sin * nx + cos * ny) * 0.8

    def noise(self, x: np.ndarray, y: np.ndarray, frequency: float) -> np.ndarray:
        """(N,) smooth noise in about [-1, 1]: four plane waves that the look's phases set off."""
        first, second = self.look.phase
        f = frequency / self.look.scale
        total = np.sin(f * (0.92 * x + 0.39 * y) + first)
        total += np.sin(f * 1.31 * (-0.47 * x + 0.88 * y) + second)
        total += np.sin(f * 1.73 * (0.31 * x - 0.95 * y) + 2 * first + total)
        total += np.sin(f * 2.17 * (0.85 * x + 0.52 * y) + 3 * second)
        return 0.3 * total


def blob(u: np.ndarray, v: np.ndarray, cu: float, cv: float, ru: float, rv: float) -> np.ndarray:
    return np.exp(-(((u - cu) / ru) ** 2) - ((v - cv) / rv) ** 2)


def step(value: np.ndarray, at: float, soft: float) -> np.ndarray:
    """0 below ``at``, 1 above it, with a ramp of width ``soft``."""
    return np.clip((value - at) / soft + 0.5, 0, 1)


def smooth(value: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
