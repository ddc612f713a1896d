"""LayoutEditor: a label map in, an edited label map out, to stand before any method."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from bench.types import Batch, LabelSpace
from methods.base import Classes, NoiseSource, NoOptions, parse_options

Self = TypeVar("Self", bound="LayoutEditor")


class LayoutEditor(ABC):
    """A generative model of label maps behind one interface.

    An edited label map replaces the layout of a batch; the style still comes from the photograph
    with its own label map. Weights are handled as a ``Method``'s are (``methods.checkpoints``).

    Class attributes:
        name, title, paper: registry name, name in tables, citation with arXiv id or DOI.
        size: (H, W) of the label maps that the official configuration draws.
        Options: frozen dataclass of the construction options and their official defaults.
        files: official module name -> file-name patterns in an official checkpoint folder.
        sampling_options: options that no weight depends on; they may differ from a file's own.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    size: tuple[int, int] = (256, 256)
    Options: ClassVar[type] = NoOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    sampling_options: ClassVar[frozenset[str]] = frozenset()

    net: nn.Module
    space: LabelSpace
    weights_info: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        self.options = parse_options(self.Options, options, self.name)
        self.given_options = frozenset(options)
        self.weights_info = {"source": "none"}
        self.device = torch.device("cpu")

    # ---- construction -------------------------------------------------------------------------

    def setup(self: Self, space: LabelSpace | str) -> Self:
        """Build the network for ``space`` (a label space or the name of one)."""
        self.space = LabelSpace.named(space) if isinstance(space, str) else space
        self.net = self.build(self.space).eval().requires_grad_(False)
        return self

    @abstractmethod
    def build(self, space: LabelSpace) -> nn.Module:
        """The network, without trained weights, for label maps of ``space``."""

    def load(
        self: Self, space: LabelSpace | str, weights: Path | str | None, device: str = "cpu"
    ) -> Self:
        """Build for ``space`` and load ``weights``, as ``Method.load`` does.

        Raises:
            UserError: the file is missing or does not fit; None for an editor with parameters.
        """
        from methods.checkpoints import load_weights

        load_weights(self, space, weights)
        return self.to(device)

    def load_state(self: Self, official: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Load official state dicts by module name, as ``{"netG": {...}}``.

        Raises:
            UserError: keys are missing, unexpected or mis-shaped.
        """
        from methods.checkpoints import load_official

        load_official(self, official)
        return self

    def key_maps(self) -> Mapping[str, Any]:
        """Official module name -> ``methods.checkpoints.KeyMap`` onto ``self.net``."""
        return {}

    def after_load(self) -> None:
        """Called once the weights are in."""

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the network."""
        self.device = torch.device(device)
        self.net.to(self.device)
        return self

    def describe(self) -> dict[str, Any]:
        """Name, options, size and weights, as the manifest of a run records them."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "size": list(self.size),
            "options": dataclasses.asdict(self.options),
            "weights": self.weights_info,
        }

    # ---- the contract: every result is (B, H, W) int64 ------------------------------------------

    @abstractmethod
    def reconstruct(self, batch: Batch, noise: NoiseSource) -> Tensor:
        """The label map through the model, unedited."""

    @abstractmethod
    def generate(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """New shapes for ``classes`` (None: all of them), drawn from the prior."""

    @abstractmethod
    def perturb(self, batch: Batch, noise: NoiseSource, classes: Classes = None) -> Tensor:
        """Random variations of the shapes of ``classes``."""

    @abstractmethod
    def swap(
        self, target: Batch, reference: Batch, noise: NoiseSource, classes: Classes = None
    ) -> Tensor:
        """``target`` with the shapes of ``classes`` from ``reference``."""

    @abstractmethod
    def interpolate(
        self,
        target: Batch,
        reference: Batch,
        noise: NoiseSource,
        alpha: float,
        classes: Classes = None,
    ) -> Tensor:
        """Shapes of ``classes`` between ``target`` (alpha 0) and ``reference`` (alpha 1)."""
