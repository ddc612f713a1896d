"""The contract of an adapter, clause by clause, on any method, also ``./file.py:Class``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.devices import pick_device
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise, ZeroNoise
from sisbench.core.tasks import Edit, method_tasks
from sisbench.core.unset import UnsetError
from sisbench.data.base import Sample
from sisbench.data.loader import to_batch
from sisbench.diagnose.laws import Broken, Laws, same
from sisbench.diagnose.laws import require as _require
from sisbench.methods.base import (
    GlobalStyle,
    Method,
    capabilities,
    encoded_types,
    present_classes,
    why_not,
)
from sisbench.run.tasks import check_images, image_faults

_PLAIN_ERRORS = (
    UserError,
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
)


@dataclass(frozen=True)
class Finding:
    """What one clause gave: ``ok`` is None where the clause does not apply."""

    clause: str
    ok: bool | None
    detail: str


def check_batch(space: LabelSpace, size: tuple[int, int], n: int = 3) -> Batch:
    """``n`` samples to check with: toy faces for celebamask_hq, blocks of random classes
    elsewhere."""
    if space.name == "celebamask_hq" and len(space) == 19:
        from sisbench.data.toyfaces import ToyFaces

        data = ToyFaces("val", size=size, n=n)
        return to_batch([data.load(i) for i in data.ids], space)
    rng = np.random.default_rng(0)
    samples = []
    for k in range(n):
        blocks = rng.integers(0, len(space), (4, 4))
        rows, columns = (np.arange(s) * 4 // s for s in size)
        label = blocks[rows[:, None], columns[None]]
        colours = rng.integers(0, 256, (len(space), 3))
        image = np.clip(colours[label] + rng.normal(0, 12, (*size, 3)), 0, 255).astype(np.uint8)
        samples.append(Sample(f"check-{k}", image, label.astype(np.int64)))
    return to_batch(samples, space)


def check_method(
    name: str, space: str, weights: str | None, options: dict[str, Any], device: str = "cpu"
) -> Iterator[Finding]:
    """Every clause in turn; a clause that raises has failed, and the rest goes on.

    Args:
        name: registry name or ``./file.py:Class``.
        space: name of a label space.
        weights: as in a configuration; None takes seeded test weights where the method has an
            official layout, and nothing where it learns nothing.
        options: construction options.
        device: torch device.

    Raises:
        UserError: no such device, no method, or one that cannot be built or loaded at all.
    """
    device = pick_device(device)
    method: Method = methods.create(name, space, **options)
    if weights is None and method.key_maps():
        weights = "seeded:0"
    try:
        method.load(space, weights, device)
    except UnsetError as error:
        yield Finding("every parameter has an official key", False, error.message)
        return
    batch = check_batch(method.space, method.size).to(device)
    kit = _Kit(method, batch)
    for clause, test in kit.clauses():
        try:
            outcome = test()
            ok, detail = (None, outcome) if outcome.startswith("n/a") else (True, outcome)
        except Broken as error:
            ok, detail = False, str(error)
        except _PLAIN_ERRORS as error:
            first = (str(error).splitlines() or [""])[0]
            ok, detail = False, f"{type(error).__name__}: {first[:200]}"
        yield Finding(clause, ok, detail)


class _Kit:
    """The clauses, on one loaded method and one batch of three samples."""

    def __init__(self, method: Method, batch: Batch) -> None:
        self.method, self.batch = method, batch
        self.noise = Noise(batch.ids, 0)
        self.laws = Laws(method, batch)
        self.styled = self.laws.styled

    def clauses(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("name, title and paper are stated", self.names),
            ("at least one task follows from what is overridden", self.tasks),
            ("renders (B, 3, H, W) float in [-1, 1], finite", self.output),
            ("randomness comes from the noise source alone", self.no_global_rng),
            ("every parameter has an official key", self.parameters),
            ("inputs are not modified", self.inputs_kept),
            ("style: codes and presence are addressable by class", self.style),
            ("swap and lerp keep their laws", self.algebra),
            ("every task in `can` runs, the others say why not", self.every_task),
            ("holes of a swapped label map are drawn", self.holes),
            *self.laws.clauses(),
        ]

    def _any(self, batch: Batch, noise: Any) -> Any:
        return (self.method.reconstruct if self.styled else self.method.sample)(batch, noise)

    def names(self) -> str:
        missing = [f for f in ("name", "title", "paper") if not getattr(self.method, f)]
        _require(not missing, f"class attributes are empty: {', '.join(missing)}")
        return f"{self.method.title} ({self.method.paper})"

    def tasks(self) -> str:
        _require(bool(self.method.can), "neither encode_style nor sample_style gives a task")
        return ", ".join(sorted(self.method.can))

    def output(self) -> str:
        image = self._any(self.batch, self.noise)
        expected = (len(self.batch), 3, *self.method.size)
        check_images(self.method.name, image, expected)
        fault = next(filter(None, image_faults(image)), "")
        _require(not fault, fault)
        low, high = float(image.min()), float(image.max())
        _require(high - low > 1e-4, "the image is constant")
        return f"range [{low:.2f}, {high:.2f}]"

    def no_global_rng(self) -> str:
        import torch

        images = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            images.append(self._any(self.batch, self.noise))
        worst = same(images[0], images[1], "after other seeds of torch and NumPy", self.laws.bits)
        return f"largest difference {worst:.1e}" if worst else "the same bits"

    def parameters(self) -> str:
        maps = self.method.key_maps()
        if not maps:
            return "n/a: no official checkpoint"
        mapped = {id(p) for m in maps.values() for p in m.module.parameters()}
        left = [name for name, p in self.method.net.named_parameters() if id(p) not in mapped]
        _require(not left, f"no key map covers {', '.join(left[:4])}: no file can fill it")
        return ""

    def inputs_kept(self) -> str:
        image, label = self.batch.image.clone(), self.batch.label.clone()
        self._any(self.batch, self.noise)
        _require(bool((image == self.batch.image).all()), "batch.image was written to")
        _require(bool((label == self.batch.label).all()), "batch.label was written to")
        return ""

    def style(self) -> str:
        import torch

        if not self.styled:
            return "n/a: no reference style"
        with torch.inference_mode():
            layout, style = self.method.encode(self.batch)
        notes = self.claims(type(layout), type(style))
        b, c = len(self.batch), self.method.num_classes
        _require(tuple(style.present.shape) == (b, c), f"present is {tuple(style.present.shape)}")
        _require(style.codes.shape[0] == b, f"codes are {tuple(style.codes.shape)}")
        if isinstance(style, GlobalStyle):
            return f"one global vector {tuple(style.codes.shape[1:])}{notes}"
        _require(
            style.codes.shape[1] == c,
            f"codes are {tuple(style.codes.shape)}, expected (B, {c}, ...)",
        )
        truth = present_classes(self.batch.label, c)  # a small class may vanish inside a network
        _require(
            not bool((style.present & ~truth).any()), "present names classes that are not there"
        )
        _require(bool(style.present.any(1).all()), "present is empty")
        return f"codes {tuple(style.codes.shape[1:])} a sample{notes}"

    def claims(self, layout: type, style: type) -> str:
        """What the class annotates, and so claims unasked, against the types that really came;
        returns which annotations are missing."""
        cls = type(self.method)
        said = capabilities(cls)
        stated = encoded_types(cls)
        notes = [
            f"{call} returns {came.__name__}: annotate it '-> {came.__name__}'"
            for call, came, known, alike in (
                ("encode_layout", layout, stated[0], capabilities(cls, layout=layout) == said),
                ("encode_style", style, stated[1], capabilities(cls, style=style) == said),
            )
            if known is None or not alike
        ]
        found = capabilities(cls, layout, style)
        wrong = [t.name for t in method_tasks() if bool(t.lacks(said)) != bool(t.lacks(found))]
        _require(not wrong, f"{'; '.join(notes)} ({', '.join(wrong)}: claimed wrongly)")
        return "".join(f"; {note}" for note in notes)

    def algebra(self) -> str:
        import torch

        if "transfer" not in self.method.can:
            return "n/a: no style transfer"
        with torch.inference_mode():
            a, b = (
                self.method.encode_style(self.batch[:1]),
                self.method.encode_style(self.batch[1:2]),
            )
            whole = a.swap(b)
            _require(_close(whole.codes, b.codes), "swapping every class is not the other style")
            _require(_close(a.swap(a).codes, a.codes), "swapping with itself changes the style")
            _require(_close(a.lerp(b, 0.0).codes, a.codes), "lerp at 0 is not the own style")
            _require(_close(a.lerp(b, 1.0).codes, b.codes), "lerp at 1 is not the other style")
            if "class_transfer" in self.method.can:
                one = a.swap(b, [1])
                _require(_close(one.codes[:, 1], b.codes[:, 1]), "swap of class 1 misses it")
                _require(_close(one.codes[:, 0], a.codes[:, 0]), "swap of class 1 changes class 0")
        return ""

    def every_task(self) -> str:
        edit = Edit(self.batch[:1], Noise(self.batch.ids[:1], 0), self.batch[1:2], alpha=0.5)
        for task in method_tasks():
            asked = edit if task.classes == "all" else replace(edit, classes=[1])
            if task.name in self.method.can:
                image = task.call(self.method, asked)
                _require(bool(image.isfinite().all()), f"{task.name}: NaN or infinity")
                continue
            _require(bool(why_not(self.method, task.name)), f"{task.name}: no reason is given")
            try:
                task.call(self.method, asked)
            except Unavailable:
                continue
            raise Broken(f"{task.name} is not in `can`, yet it runs")
        return ""

    def holes(self) -> str:
        if "shape_transfer" not in self.method.can:
            return "n/a: no shape transfer"
        present = [int(c) for c in self.batch.label[0].unique()][1:3]
        image = self.method.shape_transfer(
            self.batch[:1], self.batch[1:2], ZeroNoise(), present or [0]
        )
        _require(bool(image.isfinite().all()), "NaN or infinity")
        return ""


def _close(a: Any, b: Any) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * max(1.0, float(b.abs().max())))
