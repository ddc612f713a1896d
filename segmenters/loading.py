"""Weights of parsers and identity networks: their official files, read, compared and folded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sisbench.core import weights as registry
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.fit import Shape, State, fill, fold_batch_norms
from sisbench.core.state_dict import joined_hash, read_hashed, state_hash

Self = TypeVar("Self", bound="Loadable")


@dataclass(frozen=True)
class Part:
    """One official weights file.

    Attributes:
        network: the network whose state dict has the file's keys (those of ``unused`` apart).
        registered: name in the weights registry.
        pattern: name of the file in a folder of official files.
        unused: keys that the file holds and inference does not need; may be absent.
        dropped: regular expression of further keys that may be there.
    """

    network: nn.Module
    registered: str
    pattern: str
    unused: Mapping[str, Shape] = field(default_factory=dict)
    dropped: str = r"(?!)"

    def shapes(self) -> dict[str, Shape]:
        """Every key and shape of the official file."""
        own = {k: tuple(v.shape) for k, v in self.network.state_dict().items()}
        return own | dict(self.unused)

    def load(self, state: State, where: str) -> None:
        """Fill the network, which may have been built on the meta device, with copies.

        Raises:
            UserError: lists missing, unexpected, mis-shaped and mistyped keys, and a likely cause.
        """
        fill(self.network, state, where, unused=self.unused, dropped=self.dropped)


class Loadable(ABC):
    """Something made of networks with official weights; folded and frozen once they are in.

    Attributes:
        name: registry name.
        channels_last: whether a CPU computes faster with that memory format.
        net: official module name -> network, as loaded.
        weights_info: source, files and hashes.
    """

    name: ClassVar[str] = ""
    channels_last: ClassVar[bool] = True
    net: nn.ModuleDict | None = None
    weights_info: dict[str, Any]
    device: torch.device

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """Official module name -> its file, with freshly built networks."""

    def official_shapes(self) -> dict[str, dict[str, Shape]]:
        """Official module name -> keys and shapes of its file, as manifests list them."""
        return {name: part.shapes() for name, part in self._bare_parts().items()}

    def _bare_parts(self) -> dict[str, Part]:
        """``parts`` without memory: initial values would be overwritten at once."""
        with torch.device("meta"):
            return self.parts()

    def load(self: Self, weights: Path | str | None = None, device: str = "cpu") -> Self:
        """Load official files: a file, a folder of files, or None for the registered ones.

        Raises:
            Unavailable: a file is not there (names it and how to get it).
            UserError: it does not fit.
        """
        parts = self._bare_parts()
        files = {m: self._file(m, part, weights, len(parts)) for m, part in parts.items()}
        where = {m: str(f) for m, f in files.items()}
        read = {m: read_hashed(f) for m, f in files.items()}
        self._fill({m: state for m, (state, _) in read.items()}, where)
        hashes = {m: digest for m, (_, digest) in read.items()}
        self.weights_info = {
            "source": "official",
            "files": {m: {"name": f.name, "sha256": hashes[m]} for m, f in files.items()},
            "sha256": joined_hash(hashes),
        }
        return self.to(device)

    def load_state(self: Self, state: State | Mapping[str, State]) -> Self:
        """Load official state dicts: ``{module: {key: tensor}}``, or ``{key: tensor}`` where there
        is one module.

        Raises:
            UserError: other modules, or keys that do not fit.
        """
        names = list(self._bare_parts())
        modules: Mapping[str, Any] = state
        if len(names) == 1 and any(isinstance(v, Tensor) for v in state.values()):
            modules = {names[0]: state}
        if set(modules) != set(names):
            raise UserError(
                f"{self.name} takes the modules {', '.join(names)}; "
                f"got {', '.join(map(str, list(modules)[:6])) or 'none'}"
            )
        self._fill(modules, {m: f"{self.name}: {m}" for m in names})
        hashes = {m: state_hash({"": modules[m]}) for m in names}
        self.weights_info = {"source": "state dict", "sha256": joined_hash(hashes)}
        return self.to("cpu")

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the networks; an absent device is torch's own error."""
        self.device = torch.device(device)
        last = self.channels_last and self.device.type == "cpu"
        layout = torch.channels_last if last else torch.contiguous_format
        self.loaded().to(self.device).to(memory_format=layout)  # type: ignore[call-overload]
        return self

    def loaded(self) -> nn.ModuleDict:
        """The networks.

        Raises:
            UserError: no weights have been loaded yet.
        """
        if self.net is None:
            raise UserError(f"{self.name} has no weights yet", "call load() or load_state() first")
        return self.net

    def _fill(self, states: Mapping[str, State], where: Mapping[str, str]) -> None:
        parts = self._bare_parts()
        for module, part in parts.items():
            part.load(states[module], where[module])
            fold_batch_norms(part.network.eval())
        self.net = nn.ModuleDict({m: p.network for m, p in parts.items()}).requires_grad_(False)

    def _file(self, module: str, part: Part, weights: Path | str | None, count: int) -> Path:
        if weights is None:
            return registry.path(part.registered)
        path = Path(weights)
        if not path.exists():
            raise Unavailable(f"{self.name}: no weights at {path}", "see: sisbench weights list")
        if path.is_file():
            if count > 1:
                raise UserError(
                    f"{self.name} needs several files, {path} is one", "give the folder of them"
                )
            return path
        found = sorted(path.glob(part.pattern))
        if len(found) != 1:
            names = ", ".join(f.name for f in found[:5]) or "none"
            raise UserError(
                f"{path} must hold one file {part.pattern} for {module}; found: {names}",
                "keep the one to be used",
            )
        return found[0]
