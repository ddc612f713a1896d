"""The running average (EMA) of trained weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Average:
    """Averages of the tensors of some networks, quick at first so that they forget the start: after
    n updates the decay is min(decay, (1 + n) / (10 + n)).

    Args:
        networks: by name.
        decay: in (0, 1).
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.networks, self.decay, self.updates = dict(networks), decay, 0
        self.state: dict[str, dict[str, Tensor]] = {
            name: {k: v.detach().clone() for k, v in network.state_dict().items()}
            for name, network in self.networks.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the present weights; integer tensors are taken as they are."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, network in self.networks.items():
            for key, value in network.state_dict().items():
                kept = self.state[name][key]
                if kept.is_floating_point():
                    kept.lerp_(value, 1 - decay)
                else:
                    kept.copy_(value)
