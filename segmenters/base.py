"""The contract of a parser: 8-bit photographs in, label maps out."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sisbench.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from sisbench.core.label_space import LabelSpace


class Segmenter(ABC):
    """A trained parser for one label space.

    Class attributes:
        name, title, paper: registry name, name in tables, source.
        spaces: names of the label spaces that it parses into.
        size: side (or (H, W)) of its input; images are brought there by its own stated rule.
        weights: name in the weights registry, or "" where it brings its own.
        fixed: facts of the network that a configuration may repeat as options; checked, not used.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    spaces: ClassVar[tuple[str, ...]] = ()
    size: int | tuple[int, int] = 512
    weights: ClassVar[str] = ""
    fixed: ClassVar[Mapping[str, object]] = {}

    def __init__(self, space: LabelSpace, **options: Any) -> None:
        self.space = space
        self.options = options

    @abstractmethod
    def load(self, weights: Path | None = None, device: str = "cpu") -> Segmenter:
        """Load ``weights``; None takes the registered file.

        Raises:
            Unavailable: the file is not there (names it and how to get it).
            UserError: the file does not fit.
        """

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, h, w) int64 class ids of ``space``, at the parser's own
        size (``compare_size``): label maps meet it there, by PIL's nearest rule."""

    def compare_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the prediction for photographs of (H, W): by default ``size``."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that changes a prediction: weights sha256, sizes, code version."""


def accept_options(owner: type, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` less the redundant ones of ``owner.fixed``, all checked against what ``owner``
    takes.

    Raises:
        UserError: an unknown option (the nearest one is named), or a fixed one with another value.
    """
    fixed: Mapping[str, object] = getattr(owner, "fixed", {})
    taken = inspect.signature(owner).parameters.values()
    known = {p.name for p in taken if p.kind is p.KEYWORD_ONLY} | fixed.keys()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in taken)
    for key, value in options.items():
        if key not in known and not takes_any:
            raise UserError(f"{name} has no option '{key}'", did_you_mean(key, known))
        if key in fixed and value != fixed[key]:
            raise UserError(
                f"{name}: '{key}' is {fixed[key]!r} in this network, got {value!r}",
                "leave the option out, or take another network",
            )
    return {k: v for k, v in options.items() if k not in fixed}


def check_images(images: Tensor, owner: str) -> None:
    """Photographs as parsers and identity networks take them: (B, 3, H, W) uint8 RGB.

    Raises:
        UserError: another dtype (a float image has an unknown range) or shape.
    """
    import torch

    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        came = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise UserError(
            f"{owner} takes 8-bit images (uint8), got {came}",
            "quantise generated images once, as they are stored",
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise UserError(f"{owner} takes images (B, 3, H, W), got {tuple(images.shape)}")


def parse_size(value: object, name: str) -> tuple[int, int]:
    """(h, w) from a side or a pair.

    Raises:
        UserError: neither.
    """
    pair = (value, value) if isinstance(value, int) else value
    if (
        isinstance(pair, (tuple, list))
        and len(pair) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in pair)
    ):
        return (pair[0], pair[1])
    raise UserError(f"{name}: a size is a side or (height, width) in pixels, got {value!r}")
