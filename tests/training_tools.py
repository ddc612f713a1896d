"""What the tests of trainings share: given noise, discriminators under official keys."""

from __future__ import annotations

from collections.abc import Callable

import torch
from parity import seeded
from torch import Tensor, nn

from sisbench.methods.training import Losses, Phase, Training

ENDS = {
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0.u": "weight_u",
    "parametrizations.weight.0.v": "weight_v",
}


class Given:
    """Noise of one phase: given tensors by name."""

    def __init__(self, **values: Tensor) -> None:
        self.values = values

    def normal(self, name: str, *shape: int) -> Tensor:
        """The given tensor (B, *shape)."""
        assert tuple(self.values[name].shape[1:]) == shape
        return self.values[name]

    uniform = normal

    def shared(self, name: str, *shape: int) -> Tensor:
        """The given tensor (*shape)."""
        assert tuple(self.values[name].shape) == shape
        return self.values[name]


class Drawn:
    """Noise of one phase from a generator.

    Args:
        batch: number of samples.
        seed: of the generator.
    """

    def __init__(self, batch: int, seed: int = 0) -> None:
        self.batch, self.generator = batch, torch.Generator().manual_seed(seed)

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) standard normal."""
        return torch.randn(self.batch, *shape, generator=self.generator)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.rand(self.batch, *shape, generator=self.generator)

    def shared(self, name: str, *shape: int) -> Tensor:
        """(*shape) in [0, 1)."""
        return torch.rand(*shape, generator=self.generator)


def fill(
    network: nn.Module, official: Callable[[str], str], seed: int
) -> dict[str, tuple[int, ...]]:
    """Seed ``network`` through official key names and return their shapes.

    Args:
        network: with ``Spectral`` parametrisations where the official one has spectral norm.
        official: our name of a layer -> its official name.
        seed: of the seeded weights.
    """
    own, names = network.state_dict(), {}
    for key in own:
        end = next((e for e in ENDS if key.endswith(e)), key.rpartition(".")[2])
        layer = key.removesuffix(f".{end}")
        names[key] = f"{official(layer)}.{ENDS.get(end, end)}"
    shapes = {name: tuple(own[key].shape) for key, name in names.items()}
    state = seeded(shapes, seed)
    network.load_state_dict({key: state[name] for key, name in names.items()})
    return shapes


def move(training: Training, phase: Phase, losses: Losses) -> list[nn.Parameter]:
    """One step of a phase's optimiser; the parameters that it may move."""
    networks = training.networks()
    parameters = [p for name in phase.networks for p in networks[name].parameters()]
    optimiser = phase.optimiser(parameters)
    optimiser.zero_grad()
    torch.stack([training.weight(k) * v for k, v in losses.items()]).sum().backward()
    optimiser.step()
    return parameters
