"""Training: what a method declares about how it is trained; the trainer knows no method by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor, nn

from sisbench.methods.layers.training.spectral import normalised
from sisbench.methods.options import parse_options

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from sisbench.core.batch import Batch
    from sisbench.methods.layers.training.perceptual import Perceptual
    from sisbench.methods.loadable import Loadable

Losses = dict[str, Tensor]
"""Unweighted losses by name, each a scalar."""


class TrainingNoise(Protocol):
    """Random numbers of one phase of one update; a ``NoiseSource`` that can draw more."""

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        ...

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        ...

    def shared(self, name: str, *shape: int) -> Tensor:
        """(*shape) in [0, 1), the same for every sample and process of the update."""
        ...


@dataclass
class Step:
    """One micro-batch of one update, as a phase sees it.

    Attributes:
        index: updates before this one.
        batch: the training samples.
        noise: of this phase.
        kept: what an earlier phase of the same micro-batch left.
    """

    index: int
    batch: Batch
    noise: TrainingNoise
    kept: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """The part of an update that one optimiser makes.

    Attributes:
        name: as logs show it.
        networks: names in ``Training.networks()`` of what it moves; all others are fixed in it.
        optimiser: parameters -> optimiser.
        losses: the losses of a micro-batch, with gradients; none where the phase rests.
    """

    name: str
    networks: tuple[str, ...]
    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer]
    losses: Callable[[Step], Losses]


@dataclass(frozen=True)
class NoTrainingOptions:
    """A training without options."""


class Training(ABC):
    """Networks, losses and optimisers of one method.

    Class attributes:
        Options: frozen dataclass of loss weights, widths of discriminators, rates; its defaults are
            the official ones.
        averages_per_batch: whether the running average moves once a micro-batch (else an update).
        forgiven: updates in a row that may have a loss that is not finite; they move nothing.
        file_options: options that name files; the sha256 of a given one goes into the provenance.

    Args:
        method: built for the label space; its networks are put into train mode.
        options: fields of ``Options``.
        perceptual: the network of the perceptual loss, or None: that loss is then left out.
    """

    Options: ClassVar[type] = NoTrainingOptions
    averages_per_batch: ClassVar[bool] = False
    forgiven: ClassVar[int] = 0
    file_options: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def require(cls, options: Any, started: bool) -> None:
        """Check before data are read that the training can begin.

        Args:
            options: an ``Options``.
            started: whether it begins from given weights.

        Raises:
            UserError: something is missing.
        """

    def __init__(
        self,
        method: Loadable,
        options: Mapping[str, Any] | None = None,
        perceptual: Perceptual | None = None,
    ) -> None:
        self.method = method
        self.options = parse_options(self.Options, options or {}, f"training of {method.name}")
        self.perceptual = perceptual
        self.setup()
        for name in list(self.spectral_names()):  # key maps know the plain weights alone
            normalised(method.net.get_submodule(name))
        method.net.train().requires_grad_(True)
        for network in self.networks().values():
            network.train()
        for module in self.fixed():
            module.eval().requires_grad_(False)

    def setup(self) -> None:
        """Build what training needs beside the method (discriminators), and draw the initial
        weights where they are not the framework's own."""

    def prepare(self, labels: Tensor) -> None:
        """Called once, before the first update, with the label maps of the training set (N, H, W):
        for what depends on all of them."""

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """What is trained, by name: modules of ``method.net`` and discriminators. No module is in
        two of them."""

    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """The parts of an update, in their official order."""

    def averaged(self) -> tuple[str, ...]:
        """Networks that the running average (EMA) covers; those of the method by default."""
        inner = set(self.method.net.modules())
        return tuple(name for name, network in self.networks().items() if network in inner)

    def fixed(self) -> tuple[nn.Module, ...]:
        """Modules of ``method.net`` that keep their weights (a given first stage)."""
        return ()

    def weight(self, loss: str) -> float:
        """The weight of a loss; by default the option of its name, 1 where there is none."""
        return float(getattr(self.options, loss, 1.0))

    def one_pass(self, step: Step) -> Mapping[str, Losses] | None:
        """The losses of all phases (by name) from one forward pass, or None: there is no such form.
        It saves a forward pass a phase and is not what the papers do."""
        return None

    def spectral_names(self) -> Iterator[str]:
        """Modules of ``method.net`` whose ``weight`` is spectrally normalised in training."""
        places = {module: name for name, module in self.method.net.named_modules()}
        for keys in self.method.key_maps().values():
            for weight in keys.spectral_names:
                inner = weight.removesuffix(".weight")
                outer = places[keys.module]
                yield f"{outer}.{inner}" if outer else inner
