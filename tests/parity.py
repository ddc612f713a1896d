"""Parity fixtures: inputs, expected arrays, and weights regenerated from key names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.label_space import LabelSpace
from sisbench.methods.base import Method
from sisbench.methods.seeded import seeded_state as seeded

FIXTURES = Path(__file__).parent / "fixtures"


def shapes_of(manifest: str, module: str) -> dict[str, tuple[int, ...]]:
    """Official keys and shapes, from ``tests/fixtures/<manifest>.manifest.json``."""
    raw = json.loads((FIXTURES / f"{manifest}.manifest.json").read_text())
    return {k: tuple(v) for k, v in raw["modules"][module].items()}


@dataclass(frozen=True)
class Case:
    """One fixture: ``meta`` (the .json) and ``arrays`` (the .npz)."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @staticmethod
    def read(name: str) -> Case:
        """``tests/fixtures/<name>.{json,npz}``."""
        meta = json.loads((FIXTURES / f"{name}.json").read_text())
        with np.load(FIXTURES / f"{name}.npz") as stored:
            return Case(meta, dict(stored))

    @property
    def space(self) -> LabelSpace:
        """A label space of as many classes as the network has."""
        config = self.meta["config"]
        count = config.get("label_nc") or config["num_labels"]
        count += int(config.get("contain_dontcare_label", False))
        return LabelSpace("fixture", tuple(f"c{i}" for i in range(count)))

    def method(self, **options: Any) -> Method:
        """The method of the fixture with its seeded weights."""
        space, name = self.space, self.meta["method"]
        config = {**self.meta["config"], **options}
        if name.startswith("scam-"):
            name = name.removeprefix("scam-")  # the options' names say which variant it is
        method = methods.create(name, space, **config)
        shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
        return method.load_state({m: self.weights(m, s) for m, s in shapes.items()})

    def weights(self, module: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Seeded weights of one module, with the scaling that the fixture states; a module that
        the fixture does not name is seeded with 0."""
        if "weight_seed" in self.meta:
            return seeded(shapes, self.meta["weight_seed"])
        rule = self.meta["weights"].get(module, {"seed": 0})
        state = seeded(shapes, rule["seed"])
        for patterns, factor in rule.get("multiply", {}).items():
            assert factor == "sqrt(C), C = number of columns"
            for key, value in state.items():
                if any(fnmatch(key, pattern) for pattern in patterns.split(", ")):
                    state[key] = value * value.shape[1] ** 0.5
        return state

    def image(self, name: str) -> Tensor:
        """uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
        return (torch.from_numpy(self.arrays[name]).float() / 255 - 0.5) / 0.5

    def batch(self, label: str = "label", image: str = "image") -> Batch:
        """The batch of a label map and, where there is one, a photograph."""
        labels = torch.from_numpy(self.arrays[label]).long()
        size, count = labels.shape[1:], len(labels)
        picture = self.image(image) if image in self.arrays else torch.zeros(count, 3, *size)
        instance = self.arrays.get("instance")
        return Batch(
            tuple(str(i) for i in range(count)),
            picture,
            labels,
            None if instance is None else torch.from_numpy(instance).long(),
            self.space,
        )

    def off_by(self, name: str, found: Tensor, *step: slice) -> float:
        """Largest absolute difference from array ``name``; ``found`` is cut by ``step`` first."""
        expected = self.arrays[name]
        got = found[step] if step else found
        assert got.shape == expected.shape, (name, tuple(got.shape), expected.shape)
        return float((got - torch.from_numpy(expected)).abs().max())


def every(*steps: int) -> tuple[slice, ...]:
    """``every(1, 16, 4, 4)`` is ``[:, ::16, ::4, ::4]``."""
    return tuple(slice(None, None, s) for s in steps)
