"""Layout, Style and Method: a method writes ``encode_style`` and ``render`` and gets every task."""

from __future__ import annotations

import typing
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_maps import close_classes as close_classes
from sisbench.core.label_maps import present_classes as present_classes
from sisbench.core.label_maps import swap_labels
from sisbench.core.noise import NoiseSource as NoiseSource
from sisbench.core.tasks import MISSING, Capability, find_task, method_tasks
from sisbench.methods.loadable import Loadable

Classes: TypeAlias = Sequence[int] | Tensor | None
"""Which classes: ids (the same for every sample), a bool tensor (B, C), or None for all."""


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
        applied here: that is the protocol's (``run.tasks``)."""
        mask = class_mask(classes, self.present)
        return self._combine(other, lambda a, b: torch.where(_over(mask, a), b, a), mask)

    def lerp(self, other: Style, alpha: float, classes: Classes = None) -> Style:
        """(1 - alpha) * this + alpha * other for ``classes``; alpha in [0, 1], 1 gives ``swap``."""
        mask = class_mask(classes, self.present)
        return self._combine(
            other, lambda a, b: torch.where(_over(mask, a), torch.lerp(a, b, alpha), a), mask
        )

    def _combine(
        self, other: Style, merge: Callable[[Tensor, Tensor], Tensor], mask: Tensor
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
        self, other: Style, merge: Callable[[Tensor, Tensor], Tensor], mask: Tensor
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
        """The shape of ``classes`` from ``other`` (``core.label_maps.swap_labels``), holes and all:
        FID-Sh measures that."""
        mask = class_mask(classes, self.present)
        label, painted = swap_labels(self.label, other.label, mask)
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


ClassRule: TypeAlias = "Callable[[Style], Tensor | None]"
"""Which classes, once the reference's style is there to be asked what it holds: (B, C) bool, or
None for the whole style."""


class _Can:
    """``Method.can``: the tasks that a class may be able to do, or that an instance is able to."""

    def __get__(self, instance: Method | None, owner: type[Method]) -> frozenset[str]:
        found = capabilities(owner if instance is None else instance)
        able = frozenset(task.name for task in method_tasks() if task.lacks(found) is None)
        return able if instance is None else able - instance.cannot().keys()


class Method(Loadable):
    """A semantic image synthesis method behind one interface.

    Subclasses write ``build``, ``render`` and what they have of ``encode_style`` (the style of a
    photograph) and ``sample_style`` (a style from a prior); the tasks come with them. Networks are
    held in eval mode and every public call runs in inference mode.

    Class attributes: those of ``Loadable``; ``can`` follows from ``capabilities``;
    ``draws_label_maps`` is False where the layout comes from the photograph, so that no edited
    label map can be drawn.
    """

    can: ClassVar[frozenset[str]] = _Can()  # type: ignore[assignment]
    draws_label_maps: ClassVar[bool] = True

    _encoded_style: type[Style] | None = None
    _encoded_layout: type[Layout] | None = None
    """Types that were really encoded so far; annotations may be missing or wide."""

    # ---- the contract -------------------------------------------------------------------------

    def encode_layout(self, batch: Batch) -> Layout:
        """The layout of the batch; by default the label map itself. A method with an embedding
        returns, and annotates, a ``Layout`` of its own with ``lerp``."""
        label = batch.label
        return Layout(label, present_classes(label, self.num_classes), batch.instance)

    def encode_style(self, batch: Batch) -> Style:
        """The style of (photograph, label map) pairs. Deterministic: noise enters in ``render``.

        A method with one vector for the whole photograph returns, and annotates, ``GlobalStyle``.
        A method that only samples does not override it.

        Raises:
            Unavailable: the method reads no photographs.
        """
        if type(self).encode is not Method.encode:
            return self.encode(batch)[1]
        raise Unavailable(f"{self.title or self.name}: {MISSING['style']}")

    def encode(self, batch: Batch) -> tuple[Layout, Style]:
        """Layout and style of the same batch. A method that finds both at once (an inversion)
        overrides it, and ``encode_layout`` where its layout is not the label map."""
        return self.encode_layout(batch), self.encode_style(batch)

    def sample_style(self, batch: Batch, noise: NoiseSource) -> Style:
        """A style drawn from the method's prior for the label maps of ``batch``."""
        raise Unavailable(f"{self.title or self.name} has {MISSING['prior']}")

    @abstractmethod
    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        """The photograph: (B, 3, H, W) float32 in [-1, 1]."""

    def cannot(self) -> Mapping[str, str]:
        """Tasks that this *configuration* is unable to do, with the reason; none by default."""
        return {}

    @property
    def num_classes(self) -> int:
        """Number of classes that layouts and styles are addressed by."""
        return len(self.space)

    @property
    def class_groups(self) -> tuple[int, ...] | None:
        """The group of each class, where some classes share a code and are only exchanged together
        (both eyes); None where each stands for itself."""
        return None

    @typing.final
    def closed(self, mask: Tensor) -> Tensor:
        """``mask`` (B, C) bool with whole ``class_groups``."""
        return mask if self.class_groups is None else close_classes(mask, self.class_groups)

    def _require(self, task: str, drawn: Batch | None = None) -> None:
        """Raises Unavailable where the method, as far as it is known, is unable to do ``task``, or
        to draw the edited label maps of ``drawn``."""
        reason = why_not(self, task)
        if drawn is not None and not self.draws_label_maps:
            reason = "draws no label maps: its layouts come from photographs"
        if reason:
            raise Unavailable(f"{self.title or self.name}: {reason}")

    # ---- the algebra of tasks (final) ---------------------------------------------------------

    @typing.final
    @torch.inference_mode()
    def reconstruct(self, batch: Batch, noise: NoiseSource, drawn: Batch | None = None) -> Tensor:
        """render(L(x), S(x)); ``drawn`` holds edited label maps to draw in place of x's own."""
        self._require("reconstruct", drawn)
        if drawn is not None:
            return self.render(_layout(self, drawn), _style(self, batch), noise)
        return self.render(*_both(self, batch), noise)

    @typing.final
    @torch.inference_mode()
    def transfer(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        classes: Classes | ClassRule = None,
        drawn: Batch | None = None,
    ) -> Tensor:
        """render(L(x), S(r)), or render(L(x), S(x).swap(S(r), classes)); ``drawn`` as above."""
        task = "transfer" if classes is None or callable(classes) else "class_transfer"
        self._require(task, drawn)
        style = _style(self, reference)
        chosen = _chosen(classes, style)
        if chosen is None:
            return self.render(_layout(self, drawn or target), style, noise)
        self._require("class_transfer")
        if drawn is None:
            layout, own = _both(self, target)
        else:
            layout, own = _layout(self, drawn), _style(self, target)
        return self.render(layout, own.swap(style, chosen), noise)

    @typing.final
    @torch.inference_mode()
    def shape_transfer(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes
    ) -> Tensor:
        """render(L(x).swap(L(r), classes), S(x))"""
        self._require("shape_transfer")
        layout, style = _both(self, target)
        return self.render(layout.swap(_layout(self, reference), classes), style, noise)

    @typing.final
    @torch.inference_mode()
    def subject_transfer(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        subject: Classes | ClassRule,
        layout: str = "target",
    ) -> Tensor:
        """render(L(x), S(x).swap(S(r), subject)): background of x, subject of r.
        ``layout="reference"`` draws r's label map instead (the formula of the SCAM paper; its
        figures and metric use x's)."""
        self._require("subject_transfer")
        if layout == "reference":
            own = _style(self, target)
            drawn, style = _both(self, reference)
        else:
            drawn, own = _both(self, target)
            style = _style(self, reference)
        self._require("subject_transfer")
        return self.render(drawn, own.swap(style, _chosen(subject, style)), noise)

    @typing.final
    @torch.inference_mode()
    def sample(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """render(L(x), S ~ noise)"""
        self._require("sample")
        return self.render(_layout(self, batch), self.sample_style(batch, noise), noise)

    @typing.final
    @torch.inference_mode()
    def mixed(self, batch: Batch, noise: NoiseSource, classes: Classes) -> Tensor:
        """render(L(x), S(x).swap(S ~ noise, classes))"""
        self._require("mixed")
        layout, style = _both(self, batch)
        self._require("mixed")
        return self.render(layout, style.swap(self.sample_style(batch, noise), classes), noise)

    @typing.final
    @torch.inference_mode()
    def interpolate_style(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes | ClassRule = None,
    ) -> Tensor:
        """render(L(x), S(x).lerp(S(r), alpha, classes))"""
        self._require("interpolate_style")
        layout, own = _both(self, target)
        style = _style(self, reference)
        return self.render(layout, own.lerp(style, alpha, _chosen(classes, style)), noise)

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
        layout, style = _both(self, target)
        self._require("interpolate_shape")
        return self.render(layout.lerp(_layout(self, reference), alpha, classes), style, noise)


def _both(method: Method, batch: Batch) -> tuple[Layout, Style]:
    layout, style = method.encode(batch)
    method._encoded_layout, method._encoded_style = type(layout), type(style)
    return layout, style


def _layout(method: Method, batch: Batch) -> Layout:
    layout = method.encode_layout(batch)
    method._encoded_layout = type(layout)
    return layout


def _style(method: Method, batch: Batch) -> Style:
    style = method.encode_style(batch)
    method._encoded_style = type(style)
    return style


def _chosen(classes: Classes | ClassRule, style: Style) -> Classes:
    """``classes``, or what a rule says of the reference's style."""
    return classes(style) if callable(classes) else classes


def _annotated(function: Any, position: int | None = None) -> type | None:
    """The annotated return type of ``function``, or the one at ``position`` of a tuple; None where
    that is not said."""
    try:
        found = typing.get_type_hints(function).get("return")
    except NameError:  # a name that only type checkers import
        return None
    if position is not None:
        inner = typing.get_args(found)
        found = inner[position] if len(inner) > position else None
    return found if isinstance(found, type) else None


def encoded_types(method: Method | type[Method]) -> tuple[type | None, type | None]:
    """(layout, style) types that a method encodes to, None where nothing says so: an instance that
    has encoded something tells what came, a class what it annotates."""
    cls = type(method) if isinstance(method, Method) else method
    both = cls.encode is not Method.encode
    own_layout = not both or cls.encode_layout is not Method.encode_layout
    own_style = not both or cls.encode_style is not Method.encode_style
    layout = _annotated(cls.encode_layout) if own_layout else _annotated(cls.encode, 0)
    style = _annotated(cls.encode_style) if own_style else _annotated(cls.encode, 1)
    if isinstance(method, Method):
        return method._encoded_layout or layout, method._encoded_style or style
    return layout, style


def capabilities(
    method: Method | type[Method], layout: type | None = None, style: type | None = None
) -> frozenset[Capability]:
    """What a method is capable of: by what it overrides, and by the types that it encodes to
    (``layout`` and ``style`` if given, else ``encoded_types``). What is not known yet counts as a
    capability, until the first encoding tells."""
    cls = type(method) if isinstance(method, Method) else method
    found: set[Capability] = set()
    if cls.encode is not Method.encode or cls.encode_style is not Method.encode_style:
        found.add("style")
    if cls.sample_style is not Method.sample_style:
        found.add("prior")
    known = encoded_types(method)
    layout, style = layout or known[0], style or known[1]
    if style is None or not issubclass(style, GlobalStyle):
        found.add("per_class")
    if layout is None or getattr(layout, "lerp", None) is not Layout.lerp:
        found.add("layout_lerp")
    return frozenset(found)


def why_not(method: Method, task: str) -> str | None:
    """Why ``method`` is unable to do ``task``; None when it is able to.

    Raises:
        UserError: no task is called so.
    """
    return method.cannot().get(task) or find_task(task).lacks(capabilities(method))
