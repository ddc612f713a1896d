"""What a number means, as data: a named, frozen, hashed protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.schema import validated

GENERATION_FIELDS = frozenset(
    {
        "pairs",
        "absent",
        "shape_swap",
        "shape_classes",
        "subject_layout",
        "noise",
        "quantise",
        "seed",
        "samples",
    }
)
"""Fields that change images (``run.items.generation_of`` says which task's); the others change only
what is computed from them."""
MADE_BY = MappingProxyType({"noise_of": "target", "absent_by": "style"})
"""How this version makes images where an earlier one did otherwise, so that the two do not mix:
interpolations draw the noise of their target; ``absent: own`` asks the reference's encoded style
which classes it lacks."""


class Protocol(BaseModel):
    """Everything that a score depends on besides the method and the data.

    Attributes:
        name, title, source: registry name, one line, paper and section.
        pairs: how references are paired: "derangement" (a seeded random cycle, no fixed point),
            "half" (i with i + n/2, as CA2-SIS), "next" (i with i + 1).
        absent: classes that the method does not find in a reference: "reference" (the method's own
            code for an absent class) or "own" (the target keeps its code, as SEAN's editor).
        shape_swap: swap the shape of a class "present_in_both" or "always".
        shape_classes: by label space, the classes that a random shape or class transfer draws from.
        subject_layout: whose label map a subject transfer draws: "target" or "reference".
        noise: "sampled" by the target's id (by the item's in the task ``sample``), or "zero".
        quantise: "round" or "truncate" to 8 bits.
        seed: seed of pairs, class draws and noise.
        samples: images per label map in the task ``sample``.
        fid: preprocessing of Inception: "tf1" (torch-fidelity), "clean", "pytorch_fid".
        dtype: precision of the feature networks: "float32", or "bf16", which the id then shows.
        real: by metric, the split of the real set ("test", "train").
        miou, accuracy, psnr, ssim: convention names (metrics/segmentation.py, metrics/pixel.py).
        parsers: by label space, the parser behind mIoU and accuracy.
        remarks: what a reader must know before comparing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str = ""
    source: str = ""
    pairs: Literal["derangement", "half", "next"] = "derangement"
    absent: Literal["reference", "own"] = "reference"
    shape_swap: Literal["present_in_both", "always"] = "present_in_both"
    shape_classes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    subject_layout: Literal["target", "reference"] = "target"
    noise: Literal["sampled", "zero"] = "sampled"
    quantise: Literal["round", "truncate"] = "round"
    seed: int = 0
    samples: int = Field(10, ge=1)
    fid: Literal["tf1", "clean", "pytorch_fid"] = "tf1"
    dtype: Literal["float32", "bf16"] = "float32"
    real: dict[str, Literal["test", "train"]] = Field(default_factory=dict)
    miou: str = "miou_dataset_union"
    accuracy: str = "acc_pixel_dataset"
    psnr: Literal["image_mean", "pooled"] = "image_mean"
    ssim: Literal["gauss11", "uniform7"] = "gauss11"
    parsers: dict[str, str] = Field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Name and hash: ``sisbench1@3f2a9c01``. No score is printed without it."""
        return f"{self.name}@{_hash(self.model_dump(exclude={'title', 'source', 'remarks'}))}"

    @property
    def generation(self) -> dict[str, Any]:
        """The part that images depend on, with ``MADE_BY``."""
        return self.model_dump(include=set(GENERATION_FIELDS), mode="json") | MADE_BY

    def references(self, ids: Sequence[str]) -> dict[str, str]:
        """The fixed pair list: target id -> reference id. It depends on the *set* of ids, the rule
        and the seed, not on their order.

        Raises:
            UserError: fewer than two ids.
        """
        if len(ids) < 2:
            raise UserError(
                "a reference needs at least two samples",
                "raise 'limit', or leave out the transfers",
            )
        ordered = sorted(ids)
        n = len(ordered)
        if self.pairs == "derangement":
            cycle = np.random.RandomState(self.seed).permutation(n)
            return {ordered[a]: ordered[b] for a, b in zip(cycle, np.roll(cycle, -1), strict=True)}
        step = n // 2 if self.pairs == "half" else 1
        return {ordered[i]: ordered[(i + step) % n] for i in range(n)}

    def drawn_class(self, sample_id: str, candidates: Sequence[int]) -> int:
        """The class that a random class or shape transfer edits for this sample."""
        text = f"{self.seed}\0{sample_id}\0class"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return candidates[number % len(candidates)]


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@lru_cache(maxsize=1)
def presets() -> dict[str, Protocol]:
    """The protocols that come with sisbench, by name."""
    raw = yaml.safe_load(files("sisbench").joinpath("protocols.yaml").read_text(encoding="utf-8"))
    return {row["name"]: Protocol(**row) for row in raw}


def get_protocol(name: str, changes: dict[str, Any] | None = None) -> Protocol:
    """A preset, with fields changed; a changed one says so in its name (``sisbench1+noise=zero``).

    Raises:
        UserError: unknown preset, field or value.
    """
    known = presets()
    if name not in known:
        raise UserError(f"no protocol is called '{name}'", did_you_mean(name, known))
    if not changes:
        return known[name]
    for key in changes:
        if key not in Protocol.model_fields or key == "name":
            raise UserError(
                f"a protocol has no field '{key}'", did_you_mean(key, Protocol.model_fields)
            )
    label = ",".join(f"{k}={v}" for k, v in sorted(changes.items()))
    return validated(
        Protocol, known[name].model_dump() | changes | {"name": f"{name}+{label}"}, "protocol"
    )
