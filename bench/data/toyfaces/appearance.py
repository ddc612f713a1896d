"""The looks of a toy face, apart from its geometry: one record a class, and the light."""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from sisbench.data.toyfaces.shapes import (
    BACKGROUND,
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
)

Colour = tuple[float, float, float]
NUM_CLASSES = 19

SKIN_TONES = (0xF9DCC8, 0xF3C9AC, 0xE9B58E, 0xDCA277, 0xC4875B, 0xA56B43, 0x7F4E30, 0x5A3825)
HAIR_TONES = (0x1E1816, 0x2F211B, 0x4B3020, 0x6B4428, 0x8E5C31, 0xB98544, 0xDDB56C, 0xA8482A)
DYED_TONES = (0x9A9BA3, 0xD8D5D0, 0xB04A78, 0x3F6E9C, 0x3F8A72, 0x6F4C9B)
IRIS_TONES = (0x4A2C17, 0x6B4423, 0x8B6B2E, 0x4C7A3F, 0x3E7FA8, 0x6C8796)
METALS = (0xE3B341, 0xD9DDE3, 0xD98E73, 0xB8C4D4)
GEMS = (0x2FA36B, 0xC8324A, 0x2F6FC8, 0xF4F0E6, 0x8D4FC0)


@dataclass(frozen=True)
class Look:
    """How one class is drawn.

    Attributes:
        colour, accent: RGB in [0, 1]; what the accent colours depends on the class.
        pattern: which of the class's textures (see ``render``).
        scale: size of the texture, 1 is usual.
        angle: its direction, radians.
        phase: where it begins, two numbers in [0, 2 pi).
        gloss: strength of highlights, 0..1.
    """

    colour: Colour
    accent: Colour
    pattern: int
    scale: float
    angle: float
    phase: tuple[float, float]
    gloss: float


@dataclass(frozen=True)
class Light:
    """The one light on a face; it does not reach the background.

    Attributes:
        direction: unit vector towards it: right, down, towards the viewer.
        ambient: share of the light that comes from everywhere.
        tint: RGB factors.
    """

    direction: tuple[float, float, float]
    ambient: float
    tint: Colour


@dataclass(frozen=True)
class Appearance:
    """``looks[c]`` for each of the 19 classes, worn or not, and the light."""

    looks: tuple[Look, ...]
    light: Light

    def lend(self, other: Appearance, classes: Collection[int], light: bool) -> Appearance:
        """``other``'s looks for ``classes``, and its light if so asked; this one's otherwise."""
        looks = tuple(
            o if c in classes else s for c, (s, o) in enumerate(zip(self.looks, other.looks))
        )
        return replace(self, looks=looks, light=other.light if light else self.light)


def rgb(code: int) -> np.ndarray:
    """0xRRGGBB as float64 in [0, 1]."""
    return np.array([code >> 16, code >> 8 & 255, code & 255]) / 255.0


def hsv(h: float, s: float, v: float) -> np.ndarray:
    """RGB of a hue, saturation and value."""
    return np.array(colorsys.hsv_to_rgb(h % 1.0, s, v))


class _Palette:
    """Draws looks from one generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def pick(self, codes: tuple[int, ...], jitter: float = 0.02) -> np.ndarray:
        chosen = rgb(codes[self.rng.integers(len(codes))])
        return chosen + self.rng.normal(0, jitter, 3)

    def between(self, codes: tuple[int, ...]) -> np.ndarray:
        """A colour somewhere along a ramp of colours."""
        at = self.rng.uniform(0, len(codes) - 1)
        low = min(int(at), len(codes) - 2)
        a, b = rgb(codes[low]), rgb(codes[low + 1])
        return a + (b - a) * (at - low) + self.rng.normal(0, 0.012, 3)

    def look(
        self, colour: np.ndarray, accent: np.ndarray, patterns: int = 1, gloss: float = 0.5
    ) -> Look:
        phase = self.rng.uniform(0, 2 * np.pi, 2)
        return Look(
            colour=_clipped(colour),
            accent=_clipped(accent),
            pattern=int(self.rng.integers(patterns)),
            scale=float(self.rng.uniform(0.75, 1.35)),
            angle=float(self.rng.uniform(-np.pi, np.pi)),
            phase=(float(phase[0]), float(phase[1])),
            gloss=float(np.clip(gloss * self.rng.uniform(0.6, 1.4), 0, 1)),
        )


def _clipped(colour: np.ndarray) -> Colour:
    r, g, b = (float(v) for v in np.clip(colour, 0.02, 0.98))
    return r, g, b


def draw_appearance(rng: np.random.Generator) -> Appearance:
    """Skin, hair, eyes, lips, things worn, clothes, background and light, apart from any layout.

    Nose, ears and neck follow the skin, brows follow the hair, left and right share a look.
    """
    palette = _Palette(rng)
    looks: dict[int, Look] = {}
    _draw_body(palette, looks)
    _draw_worn(palette, looks)
    return Appearance(tuple(looks[c] for c in range(NUM_CLASSES)), _draw_light(rng))


def _draw_body(palette: _Palette, looks: dict[int, Look]) -> None:
    rng = palette.rng
    tone = palette.between(SKIN_TONES)
    blush = np.clip(tone * (1.04, 0.80, 0.78), 0, 1)
    looks[SKIN] = palette.look(tone, blush, patterns=4, gloss=0.35)
    looks[NOSE] = replace(looks[SKIN], colour=_clipped(tone * (1.02, 0.955, 0.94)))
    looks[L_EAR] = looks[R_EAR] = replace(looks[SKIN], colour=_clipped(tone * (1.0, 0.90, 0.87)))
    looks[NECK] = replace(looks[SKIN], colour=_clipped(tone * (0.95, 0.93, 0.92)))

    dyed = rng.random() < 0.18
    hair = palette.pick(DYED_TONES) if dyed else palette.between(HAIR_TONES)
    looks[HAIR] = palette.look(hair, hair * 1.25 + 0.12, patterns=3, gloss=0.6)
    brow = 0.72 * hair * rng.uniform(0.75, 1.0) + 0.05 * tone
    looks[L_BROW] = looks[R_BROW] = palette.look(brow, hair, gloss=0.0)

    iris = palette.pick(IRIS_TONES, 0.03)
    looks[L_EYE] = looks[R_EYE] = palette.look(iris, np.array([0.96, 0.95, 0.93]), gloss=0.8)
    bare = tone * (0.86, 0.56, 0.56) + (0.08, 0.02, 0.03)
    stick = hsv(rng.uniform(0.90, 1.03), rng.uniform(0.55, 0.85), rng.uniform(0.55, 0.85))
    lips = bare if rng.random() < 0.6 else stick
    looks[L_LIP] = palette.look(lips, lips + 0.3, gloss=0.5)
    looks[U_LIP] = replace(looks[L_LIP], colour=_clipped(lips * 0.82))
    teeth = np.array([0.95, 0.93, 0.88]) * rng.uniform(0.92, 1.02)
    looks[MOUTH] = palette.look(np.array([0.33, 0.07, 0.09]), teeth, patterns=2)


def _draw_worn(palette: _Palette, looks: dict[int, Look]) -> None:
    rng = palette.rng
    hue = rng.uniform()
    cloth = hsv(hue, rng.uniform(0.15, 0.8), rng.uniform(0.25, 0.92))
    trim = hsv(hue + rng.choice([0.08, 0.5, -0.12]), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.98))
    looks[CLOTH] = palette.look(cloth, trim, patterns=5, gloss=0.2)
    hue = rng.uniform()
    hat = hsv(hue, rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.9))
    looks[HAT] = palette.look(hat, hsv(hue + 0.45, 0.5, rng.uniform(0.2, 0.95)), patterns=3)
    frame = hsv(rng.uniform(), rng.uniform(0, 0.8), rng.uniform(0.05, 0.55))
    lens = hsv(rng.uniform(), rng.uniform(0.05, 0.45), rng.uniform(0.5, 0.95))
    looks[GLASSES] = palette.look(frame, lens, gloss=0.7)
    looks[EARRING] = palette.look(palette.pick(METALS), palette.pick(GEMS), patterns=2, gloss=0.9)
    looks[NECKLACE] = palette.look(palette.pick(METALS), palette.pick(GEMS), patterns=3, gloss=0.9)
    hue = rng.uniform()
    back = hsv(hue, rng.uniform(0.08, 0.5), rng.uniform(0.35, 0.95))
    far = hsv(hue + rng.normal(0, 0.08), rng.uniform(0.05, 0.6), rng.uniform(0.25, 0.9))
    looks[BACKGROUND] = palette.look(back, far, patterns=5, gloss=0.5)


def _draw_light(rng: np.random.Generator) -> Light:
    around, up = rng.uniform(-1.1, 1.1), rng.uniform(0.1, 0.75)
    direction = np.array([np.sin(around) * np.cos(up), -np.sin(up), np.cos(around) * np.cos(up)])
    warmth = rng.uniform(-0.05, 0.06)
    return Light(
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        ambient=float(rng.uniform(0.42, 0.60)),
        tint=(1 + warmth, 1.0, 1 - warmth),
    )
