"""The toyfaces data set: any split, count and size, and the true images of transfers."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import Filter
from sisbench.core.tasks import TASKS, Task
from sisbench.data.base import Dataset, Sample
from sisbench.data.toyfaces.appearance import Appearance, draw_appearance
from sisbench.data.toyfaces.kept import KeptArrays
from sisbench.data.toyfaces.labels import label_map
from sisbench.data.toyfaces.layout import FaceLayout, draw_layout
from sisbench.data.toyfaces.render import fine, render, render_label
from sisbench.data.toyfaces.shapes import EARRING, GLASSES, HAT, NECKLACE

VERSION = "1"
"""Raised whenever a pixel or a label of any sample changes."""

SPLITS = {"train": 2000, "val": 100, "test": 200}
"""Splits and their usual sizes."""

SMALLEST = 16

_KEPT = KeptArrays()


class ToyFaces(Dataset):
    """Drawn faces: a layout (geometry) and an appearance (looks, light), drawn apart.

    A sample depends on (seed, split, index) alone: ``n`` cuts, the size resamples. Both pictures
    and label maps exist for any pair of a layout and an appearance, so ``truth`` can say what a
    transfer should have drawn. Left (``l_eye``) is the picture's left.

    Args:
        split: "train", "val" or "test".
        size: side, or (H, W), in pixels; at least 16. The face fits the shorter side.
        n: number of samples; by default 2000, 100 and 200.
        seed: another seed is another data set.
        limit: only the first of them.

    Raises:
        UserError: unknown split, size or n out of range.
    """

    name = "toyfaces"

    def __init__(
        self,
        split: str = "test",
        size: int | Sequence[int] = 64,
        n: int | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"toyfaces has no split {split!r}", did_you_mean(str(split), SPLITS))
        self.split = split
        self.size = _checked_size(size)
        count = SPLITS[split] if n is None else _whole("n", n, 1)
        if limit is not None:
            count = min(count, _whole("limit", limit, 1))
        self.seed = _whole("seed", seed, 0)
        self.space = LabelSpace.named("celebamask_hq")
        self.ids = tuple(f"{split}-{i:05d}" for i in range(count))
        self._index = {sample_id: i for i, sample_id in enumerate(self.ids)}

    def load(self, sample_id: str) -> Sample:
        """Draw one sample.

        Raises:
            UserError: unknown id.
        """

        def draw() -> tuple[np.ndarray, ...]:
            face = self.layout(sample_id)
            return render(face, self.appearance(sample_id), self.size), label_map(face, self.size)

        image, label = _KEPT.of(self._key(sample_id), draw)
        return Sample(sample_id, image, label.astype(np.int64))

    def fingerprint(self) -> str:
        """sha256 of the generator's version and every parameter."""
        parts = (self.name, VERSION, self.split, len(self), self.seed, self.size, self.space.name)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def read_at(
        self, size: tuple[int, int], by: Filter = "bicubic", stored_labels: bool = False
    ) -> ToyFaces:
        """The same faces drawn at another size; with ``stored_labels`` at this one, as nothing is
        stored at any other."""
        view = copy.copy(self)
        view.size = self.size if stored_labels else _checked_size(size)
        return view

    def layout(self, sample_id: str) -> FaceLayout:
        """The geometry of a sample.

        Raises:
            UserError: unknown id.
        """
        return draw_layout(self._generator(sample_id, "layout"))

    def appearance(self, sample_id: str) -> Appearance:
        """The looks of a sample, also of things that its layout does not wear.

        Raises:
            UserError: unknown id.
        """
        return draw_appearance(self._generator(sample_id, "appearance"))

    def truth(
        self, task: str, target: str, reference: str, classes: Sequence[int] = ()
    ) -> np.ndarray | None:
        """The true image of a task on a pair of samples.

        ========================  ==========================  ==================================
        task                      geometry                    looks; light
        ========================  ==========================  ==================================
        ``transfer``              target's                    reference's; reference's
        ``class_transfer``        target's                    reference's for ``classes``, else
                                                              target's; target's
        ``shape_transfer``        ``truth_layout``            target's; target's
        ``subject_transfer``      target's                    reference's for ``classes`` (by
                                                              default all but the background),
                                                              else target's; reference's
        ========================  ==========================  ==================================

        A look that nobody can know is not asked for: where the reference does not wear a hat,
        glasses, earrings or a necklace, the target keeps its own look of it; and a thing that comes
        by shape transfer to a target that wears none brings the reference's look. ``transfer``
        takes no ``classes``. The light does not reach the background.

        Args:
            task: one of the above.
            target, reference: sample ids of this split.
            classes: class ids.

        Returns:
            (H, W, 3) uint8 RGB; None for any other task.

        Raises:
            UserError: unknown id or class.
        """
        declared = TASKS.get(task)
        if declared is None or not declared.reference or declared.variants != "one":
            return None
        key = (*self._key(target), *self._key(reference), task, self._checked(classes))
        (image,) = _KEPT.of(key, lambda: (self._draw_truth(declared, target, reference, classes),))
        return image

    def _draw_truth(
        self, declared: Task, target: str, reference: str, classes: Sequence[int]
    ) -> np.ndarray:
        face, other = self.layout(target), self.layout(reference)
        own, theirs = self.appearance(target), self.appearance(reference)
        chosen = self._checked(classes)
        if declared.edits == "shape":
            looks = own.lend(theirs, (chosen & worn(other)) - worn(face), light=False)
            label = _swapped(face, other, chosen, fine(self.size))
            return render_label(label, looks, face, self.size, other, chosen)
        everything = frozenset(range(len(self.space)))
        wanted = {
            "all": everything,
            "drawn": chosen,
            "subject": chosen or everything - self.space.background,
        }[declared.classes]
        known = wanted - (ACCESSORIES - worn(other))
        light = declared.classes != "drawn"
        return render(face, own.lend(theirs, known, light=light), self.size)

    def truth_layout(self, target: str, reference: str, classes: Sequence[int]) -> np.ndarray:
        """The label map of a shape transfer as a perfect method should read it.

        The target's pixels of ``classes`` go, the reference's are painted over what is there (as
        ``Layout.swap`` does). Holes that stay are filled with what lies underneath
        in the target: skin under a nose, the background behind hair, a bare head under a hat.

        Returns:
            (H, W) int64 class ids, no holes.

        Raises:
            UserError: unknown id or class.
        """
        chosen = self._checked(classes)
        label = _swapped(self.layout(target), self.layout(reference), chosen, self.size)
        return label.astype(np.int64)

    def _key(self, sample_id: str) -> tuple[object, ...]:
        """What a picture depends on; -1 is no sample's number, which drawing then says."""
        return VERSION, self.seed, self.split, self._index.get(sample_id, -1), self.size

    def _checked(self, classes: Sequence[int]) -> frozenset[int]:
        return frozenset(self.space.indices(int(c) for c in classes))

    def _checked_id(self, sample_id: str) -> None:
        if sample_id not in self._index:
            raise UserError(
                f"toyfaces '{self.split}' has no sample '{sample_id}'",
                f"ids run from {self.ids[0]} to {self.ids[-1]}",
            )

    def _generator(self, sample_id: str, what: str) -> np.random.Generator:
        self._checked_id(sample_id)
        key = f"{self.seed}\0{self.split}\0{self._index[sample_id]}\0{what}"
        digest = hashlib.sha256(key.encode()).digest()
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


ACCESSORIES = frozenset({GLASSES, HAT, EARRING, NECKLACE})


def worn(face: FaceLayout) -> frozenset[int]:
    """The classes of the accessories that a layout wears."""
    kinds = {
        GLASSES: face.glasses,
        HAT: face.hat,
        EARRING: face.earrings,
        NECKLACE: face.necklace,
    }
    return frozenset(c for c, kind in kinds.items() if kind)


def _swapped(
    face: FaceLayout, other: FaceLayout, classes: Collection[int], size: tuple[int, int]
) -> np.ndarray:
    label = label_map(face, size, without=classes)
    theirs = label_map(other, size)
    return np.where(np.isin(theirs, list(classes)), theirs, label)


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2:
        raise UserError(f"toyfaces: size must be a side or (height, width), got {size!r}")
    return _whole("size", sides[0], SMALLEST), _whole("size", sides[1], SMALLEST)


def _whole(what: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"toyfaces: {what} must be a whole number from {least} on, got {value!r}")
    return value
