"""The colours that a label map is drawn in for a ControlNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.yaml_file import read_yaml

Colours = tuple[tuple[int, int, int], ...]

BLACK = (0, 0, 0)
"""Of a pixel of no class; ADE20K's networks have never seen it."""

_ADE20K = """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07
e005ff ebff07 96053d 787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603
0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207
ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f
14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00
008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000
8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff
00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff
4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""
"""ADE20K's classes 1..150 in RGB; 7 (road) and 49 (skyscraper) share one colour."""


def _unpacked(text: str) -> Colours:
    return tuple((c[0], c[1], c[2]) for c in map(bytes.fromhex, text.split()))


ADE20K: Colours = (BLACK, *_unpacked(_ADE20K))
"""A colour for each annotation value 0..150, 0 unlabelled."""


def palette(name: str | None, space: LabelSpace) -> Colours:
    """A colour (RGB, 0..255) for each label value of ``space``.

    Args:
        name: "ade20k", "space" (the label space's own), a YAML or JSON file with one RGB triple for
            each label value, or None: ADE20K's for ADE20K, else the space's.

    Raises:
        UserError: no such file, no list of colours, or another number of them than label values.
    """
    if name is None:
        name = "ade20k" if space.name == "ade20k" else "space"
    if name == "space":
        return space.palette
    found = ADE20K if name == "ade20k" else _read(Path(name))
    if len(found) != len(space):
        raise UserError(
            f"controlnet: palette '{name}' has {len(found)} colours, "
            f"'{space.name}' has {len(space)} label values",
            "give one colour for each label value, in their order",
        )
    return found


def _read(path: Path) -> Colours:
    hint = "palette is ade20k, space, or a YAML or JSON file: [[r, g, b], ...]"
    raw: Any = read_yaml(path, "palette file", hint)
    if not isinstance(raw, list) or not all(map(_is_colour, raw)):
        raise UserError(f"{path} is no palette: a list of [r, g, b] within 0..255 is needed", hint)
    return tuple((int(r), int(g), int(b)) for r, g, b in raw)


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)
    )
