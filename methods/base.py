"""Layout, Style and Method: a method writes ``encode_style`` and ``render`` and gets every task."""

from __future__ import annotations

import typing
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE
from sisbench.methods.loadable import Loadable

Classes = Sequence[int] | Tensor | None
"""Which classes: ids (the same for every sample), a bool tensor (B, C), or None for all."""


class NoiseSource(Protocol):
    """What ``Noise``, ``ZeroNoise`` and ``GivenNoise`` of ``core.noise`` have in common."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape), or (1, *shape) where one value serves every sample."""
        ...


def draw(noise: NoiseSource, name: str, batch: int, *shape: int, like: Tensor) -> Tensor:
    """Noise as (batch, *shape) on the device and dtype of ``like``.

    Raises:
        UserError: the source holds noise for another number of samples.
    """
    value = noise.normal(name, *shape).to(device=like.device, dtype=like.dtype)
    if value.shape[0] not in (1, batch):
        raise UserError(f"noise '{name}' is for {value.shape[0]} samples, the batch has {batch}")
    return value.expand(batch, *shape)


def class_mask(classes: Classes, present: Tensor) -> Tensor:
    """``classes`` as a bool tensor of the shape of ``present`` (B, C).

    Raises:
        UserError: an id outside of [0, C), or a mask of another shape.
    """
    if classes is None:
        return torch.ones_like(present)
    if isinstance(classes, Tensor):
        if classes.shape != present.shape or classes.dtype != torch.bool:
            raise UserError(
                f"a class mask must be bool {tuple(present.shape)}, "
                f"got {classes.dtype} {tuple(classes.shape)}"
            )
        return classes.to(present.device)
    mask = torch.zeros_like(present)
    for c in classes:
        if not 0 <= c < present.shape[1]:
            raise UserError(f"class {c} is outside of 0..{present.shape[1] - 1}")
        mask[:, c] = True
    return mask


def present_classes(label: Tensor, num_classes: int) -> Tensor:
    """Which classes a label map holds: (B, H, W) int64 -> (B, C) bool; others are left out."""
    flat = label.flatten(1)
    inside = (flat >= 0) & (flat < num_classes)
    counts = torch.zeros(label.shape[0], num_classes, dtype=torch.int64, device=label.device)
    counts.scatter_add_(1, flat.clamp(0, num_classes - 1), inside.long())
    return counts > 0


@dataclass(frozen=True)
class Style:
    """The appearance of a photograph, addressable by class.

    Attributes:
        codes: (B, C, ...) float, one code a class.
        present: (B, C) bool, whether the photograph has the class.
        extra: further tensors (B, C, ...) that belong to the codes (log-variances, ...).
    """

    codes: Tensor
    present: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def swap(self, other: Style, classes: Classes = None) -> Style:
        """``other``'s code for ``classes``, this one's for the rest. No rule for absent classes is
        applied here: that is the protocol's (bench/run/tasks.py)."""
        mask = class_mask(classes, self.present)
        return self._combine(other, lambda a, b: torch.where(_over(mask, a), b, a), mask)

    def lerp(self, other: Style, alpha: float, classes: Classes = None) -> Style:
        """(1 - alpha) * this + alpha * other for ``classes``; alpha in [0, 1], 1 gives ``swap``."""
        mask = class_mask(classes, self.present)
        return self._combine(
            other, lambda a, b: torch.where(_over(mask, a), torch.lerp(a, b, alpha), a), mask
        )

    def _combine(
        self, other: Style, merge: typing.Callable[[Tensor, Tensor], Tensor], mask: Tensor
    ) -> Style:
        if self.codes.shape != other.codes.shape:
            raise UserError(
                f"styles of different shape: {tuple(self.codes.shape)}, {tuple(other.codes.shape)}"
            )
        return replace(
            self,
            codes=merge(self.codes, other.codes),
            present=torch.where(mask, other.present, self.present),
            extra={k: merge(v, other.extra[k]) for k, v in self.extra.items()},
        )


class GlobalStyle(Style):
    """One style vector for the whole photograph, codes (B, D): single classes cannot be swapped."""

    def _combine(
        self, other: Style, merge: typing.Callable[[Tensor, Tensor], Tensor], mask: Tensor
    ) -> Style:
        if not bool(mask.all()):
            raise Unavailable("one global style vector: single classes cannot be exchanged")
        return super()._combine(other, merge, mask)


def _over(mask: Tensor, value: Tensor) -> Tensor:
    """(B, C) as (B, C, 1, ...) beside a per-class tensor; per sample beside a global (B, D) one."""
    if value.ndim == 2 and value.shape[1] != mask.shape[1]:
        return mask.all(1, keepdim=True)
    return mask.reshape(*mask.shape, *[1] * (value.ndim - 2))


@dataclass(frozen=True)
class Layout:
    """The label map to be drawn, in pixel space.

    Attributes:
        label: (B, H, W) int64; ``HOLE`` (-1) marks pixels of no class (an all-zero one-hot column).
        present: (B, C) bool.
        instance: (B, H, W) int64 instance ids, or None.
    """

    label: Tensor
    present: Tensor
    instance: Tensor | None = None

    def swap(self, other: Layout, classes: Classes = None) -> Layout:
        """The shape of ``classes`` from ``other``: this one's pixels of them become holes, then the
        other's are painted over whatever is there. Nothing is repaired: FID-Sh measures that."""
        mask = class_mask(classes, self.present)
        gone, painted = _chosen(self.label, mask), _chosen(other.label, mask)
        label = self.label.masked_fill(gone, HOLE)
        label = torch.where(painted, other.label, label)
        instance = None  # ids that no map tells apart are not kept
        if self.instance is not None and other.instance is not None:
            instance = torch.where(painted, other.instance, self.instance)
        return replace(
            self, label=label, present=present_classes(label, mask.shape[1]), instance=instance
        )

    def lerp(self, other: Layout, alpha: float, classes: Classes = None) -> Layout:
        """A layout between two; raw label maps have none.

        Raises:
            Unavailable: always, here; a method with layout embeddings overrides it.
        """
        raise Unavailable(
            "a raw label map cannot be interpolated; the method has no layout embedding"
        )


def _chosen(label: Tensor, mask: Tensor) -> Tensor:
    """(B, H, W) bool: pixels whose class is set in ``mask`` (B, C)."""
    inside = (label >= 0) & (label < mask.shape[1])
    rows = mask.gather(1, label.clamp(0, mask.shape[1] - 1).flatten(1))
    return rows.reshape(label.shape) & inside


class _Can:
    """``Method.can``: what a class, or a configured instance, is able to do."""

    def __get__(self, instance: Method | None, owner: type[Method]) -> frozenset[str]:
        able = _class_can(owner)
        return able if instance is None else able - instance.cannot().keys()


class Method(Loadable):
    """A semantic image synthesis method behind one interface.

    Subclasses write ``build``, ``encode_style`` and ``render``; the tasks come with it. Networks
    are held in eval mode and every public call runs in inference mode.

    Class attributes: those of ``Loadable``; ``can`` follows from what a subclass overrides.
    """

    can: ClassVar[frozenset[str]] = _Can()  # type: ignore[assignment]

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The layout of the batch; by default the label map itself."""
        label = batch.label
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    @abstractmethod
    def encode_style(self, batch: Batch) -> Style:
        """The style of (photograph, label map) pairs. Deterministic: noise enters in ``render``.

        A method with one vector for the whole photograph returns, and annotates, ``GlobalStyle``.
        """

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        """A style drawn from the method's prior for the label maps of ``batch``."""
        raise Unavailable(f"{self.title or self.name} has no prior to draw styles from")

    @abstractmethod
    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """The photograph: (B, 3, H, W) float32 in [-1, 1]."""

    def cannot(self) -> Mapping[str, str]:
        """Tasks that this *configuration* is unable to do, with the reason; none by default."""
        return {}

    def _require(self, task: str) -> None:
        """Raises Unavailable where this configuration is unable to do ``task``."""
        reason = self.cannot().get(task)
        if reason:
            raise Unavailable(f"{self.title or self.name}: {reason}")

    @property
    def num_classes(self) -> int:
        """Number of classes that layouts and styles are addressed by."""
        return len(self.space)

    # ---- the algebra of tasks (final) ---------------------------------------------------------

    @typing.final
    @torch.inference_mode()
    def reconstruct(self, batch: Batch, noise: NoiseSource, drawn: Batch | None = None) -> Tensor:
        """render(L(x), S(x)); ``drawn`` holds edited label maps to draw in place of x's own."""
        self._require("reconstruct")
        return self.render(self.encode_layout(drawn or batch), self.encode_style(batch), noise)

    @typing.final
    @torch.inference_mode()
    def transfer(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        classes: Classes = None,
        drawn: Batch | None = None,
    ) -> Tensor:
        """render(L(x), S(r)), or render(L(x), S(x).swap(S(r), classes)); ``drawn`` as above."""
        self._require("transfer" if classes is None else "class_transfer")
        style = self.encode_style(reference)
        if classes is not None:
            style = self.encode_style(target).swap(style, classes)
        return self.render(self.encode_layout(drawn or target), style, noise)

    @typing.final
    @torch.inference_mode()
    def shape_transfer(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes
    ) -> Tensor:
        """render(L(x).swap(L(r), classes), S(x))"""
        self._require("shape_transfer")
        layout = self.encode_layout(target).swap(self.encode_layout(reference), classes)
        return self.render(layout, self.encode_style(target), noise)

    @typing.final
    @torch.inference_mode()
    def subject_transfer(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        subject: Classes,
        layout: str = "target",
    ) -> Tensor:
        """render(L(x), S(x).swap(S(r), subject)): background of x, subject of r.
        ``layout="reference"`` draws r's label map instead (the formula of the SCAM paper; its
        figures and metric use x's)."""
        self._require("subject_transfer")
        style = self.encode_style(target).swap(self.encode_style(reference), subject)
        return self.render(
            self.encode_layout(reference if layout == "reference" else target), style, noise
        )

    @typing.final
    @torch.inference_mode()
    def sample(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """render(L(x), S ~ noise)"""
        self._require("sample")
        return self.render(self.encode_layout(batch), self.sample_style(batch, noise), noise)

    @typing.final
    @torch.inference_mode()
    def mixed(self, batch: Batch, noise: NoiseSource, classes: Classes) -> Tensor:
        """render(L(x), S(x).swap(S ~ noise, classes))"""
        self._require("mixed")
        style = self.encode_style(batch).swap(self.sample_style(batch, noise), classes)
        return self.render(self.encode_layout(batch), style, noise)

    @typing.final
    @torch.inference_mode()
    def interpolate_style(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """render(L(x), S(x).lerp(S(r), alpha, classes))"""
        self._require("interpolate_style")
        style = self.encode_style(target).lerp(self.encode_style(reference), alpha, classes)
        return self.render(self.encode_layout(target), style, noise)

    @typing.final
    @torch.inference_mode()
    def interpolate_shape(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """render(L(x).lerp(L(r), alpha, classes), S(x))"""
        self._require("interpolate_shape")
        layout = self.encode_layout(target).lerp(self.encode_layout(reference), alpha, classes)
        return self.render(layout, self.encode_style(target), noise)


def _returns(function: Any, default: type) -> type:
    """The annotated return type of a method, or ``default`` when it is not a plain class."""
    try:
        found = typing.get_type_hints(function).get("return", default)
    except NameError:
        return default
    return found if isinstance(found, type) else default


def _class_can(cls: type[Method]) -> frozenset[str]:
    """Tasks that follow from the methods that ``cls`` overrides and the types they return."""
    able = {"reconstruct", "transfer", "shape_transfer", "interpolate_style"}
    per_class = not issubclass(_returns(cls.encode_style, Style), GlobalStyle)
    sampled = cls.sample_style is not Method.sample_style
    if per_class:
        able |= {"class_transfer", "subject_transfer"}
    if sampled:
        able |= {"sample"} | ({"mixed"} if per_class else set())
    if _returns(cls.encode_layout, Layout).lerp is not Layout.lerp:  # type: ignore[attr-defined]
        able |= {"interpolate_shape"}
    return frozenset(able)


def why_not(method: Method, task: str) -> str | None:
    """Why ``method`` is unable to do ``task``; None when it is able to."""
    if task in method.can:
        return None
    given = method.cannot().get(task)
    if given:
        return given
    if task in ("class_transfer", "subject_transfer", "mixed") and issubclass(
        _returns(type(method).encode_style, Style), GlobalStyle
    ):
        return "one global style vector: single classes cannot be exchanged"
    if task in ("sample", "mixed"):
        return "no prior to draw styles from"
    if task == "interpolate_shape":
        return "a raw label map cannot be interpolated; the method has no layout embedding"
    return f"the method does not do '{task}'"
