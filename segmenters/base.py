"""The contract of a parser: 8-bit photographs in, label maps out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from bench.types import LabelSpace


class Segmenter(ABC):
    """A trained parser for one label space.

    Class attributes:
        name, title, paper: registry name, name in tables, source.
        spaces: names of the label spaces that it parses into.
        size: side (or (H, W)) of its input; images are brought there by its own stated rule.
        weights: name in the weights registry (bench/weights.yaml), or "" where it brings its own.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    spaces: ClassVar[tuple[str, ...]] = ()
    size: ClassVar[int | tuple[int, int]] = 512
    weights: ClassVar[str] = ""

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

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that changes a prediction: weights sha256, sizes, code version."""
