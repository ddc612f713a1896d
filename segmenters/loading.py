"""Weights of parsers and identity networks: safe reading, strict reports, exact folding."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sisbench.core.errors import Unavailable, UserError

Self = TypeVar("Self", bound="Loadable")
Shape = tuple[int, ...]
State = Mapping[str, Tensor]

_SHOWN = 6
_OPTIONAL = re.compile(r"(^|\.)num_batches_tracked$")  # absent in files from before PyTorch 0.4.1


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
            UserError: lists missing, unexpected and mis-shaped keys with the likely cause.
        """
        if state and all(k.startswith("module.") for k in state):
            state = {k.removeprefix("module."): v for k, v in state.items()}
        state = {k: v for k, v in state.items() if not re.search(self.dropped, k)}
        expected = self.shapes()
        report = _compare(state, expected, self.unused)
        if report:
            raise UserError(f"{where} does not fit:\n{report}", _likely_cause(state, expected))
        self.network.load_state_dict(
            {
                k: state[k].detach().to(v.dtype, copy=True)
                if k in state
                else torch.zeros(v.shape, dtype=v.dtype)
                for k, v in self.network.state_dict().items()
            },
            assign=True,
        )


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

        The weights registry is part of the harness, which may import this package and not the
        other way round; it is therefore looked up here, at call time.

        Raises:
            Unavailable: a file is not there (names it and how to get it).
            UserError: it does not fit.
        """
        parts = self._bare_parts()
        files = {m: self._file(m, part, weights, len(parts)) for m, part in parts.items()}
        where = {m: str(f) for m, f in files.items()}
        self._fill({m: read_state(f) for m, f in files.items()}, where)
        hashes = {m: sha256_of(f) for m, f in files.items()}
        self.weights_info = {
            "source": "official",
            "files": {m: {"name": f.name, "sha256": hashes[m]} for m, f in files.items()},
            "sha256": _joined(hashes),
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
                f"got {', '.join(map(str, list(modules)[:_SHOWN])) or 'none'}"
            )
        self._fill(modules, {m: f"{self.name}: {m}" for m in names})
        hashes = {m: state_hash(modules[m]) for m in names}
        self.weights_info = {"source": "state dict", "sha256": _joined(hashes)}
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
            return registered(part.registered)
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


def registered(name: str) -> Path:
    """Where the weights registry keeps ``name``.

    Raises:
        Unavailable: it is not there.
    """
    from sisbench.core import weights

    path: Path = weights.path(name)
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth/.pt or .safetensors file; nothing in it is executed.

    Raises:
        UserError: not readable without running code, or no state dict.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types here; each means: not plain tensors
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{path} cannot be read as plain tensors: {reason}",
            "the file is damaged, or holds pickled objects, which sisbench does not run; "
            "re-save its state_dict with torch.save in an environment that you trust",
        ) from error
    if isinstance(raw, Mapping) and isinstance(raw.get("state_dict"), Mapping):
        raw = raw["state_dict"]
    if not isinstance(raw, Mapping) or not any(isinstance(v, Tensor) for v in raw.values()):
        raise UserError(f"{path} holds no state dict (a {type(raw).__name__})")
    return {str(k): v for k, v in raw.items() if isinstance(v, Tensor)}


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def state_hash(state: State) -> str:
    """Content hash of a state dict, independent of the order of keys."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fold_batch_norms(network: nn.Module) -> None:
    """Fold every batch norm in eval mode into the convolution registered just before it, in place.

    Our networks register the two in the order in which they are applied. Computed in float64, so
    the result differs from the unfolded one by float32 rounding only.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                setattr(parent, name, nn.Identity())


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = 0.0 if conv.bias is None else conv.bias.double()
    shift = norm.bias.double() + (bias - norm.running_mean.double()) * scale
    conv.weight = nn.Parameter((conv.weight.double() * scale[:, None, None, None]).float())
    conv.bias = nn.Parameter(shift.float())


def _compare(state: State, expected: Mapping[str, Shape], unused: Mapping[str, Shape]) -> str:
    missing = [
        k for k in expected if k not in state and k not in unused and not _OPTIONAL.search(k)
    ]
    extra = [k for k in state if k not in expected and not _OPTIONAL.search(k)]
    shaped = [
        f"{k}: expected {expected[k]}, file has {tuple(v.shape)}"
        for k, v in state.items()
        if k in expected and tuple(v.shape) != tuple(expected[k])
    ]
    groups = (("missing", missing), ("unexpected", extra), ("mis-shaped", shaped))
    return "\n".join(_listing(title, rows) for title, rows in groups if rows)


def _listing(title: str, rows: list[str]) -> str:
    shown = "\n".join(f"    {row}" for row in rows[:_SHOWN])
    rest = f"\n    ... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"  {title} ({len(rows)}):\n{shown}{rest}"


def _likely_cause(state: State, expected: Mapping[str, Shape]) -> str:
    """One sentence on why a state dict does not fit, from the pattern of the misfit."""
    shared = state.keys() & expected.keys()
    if not shared:
        for prefix in sorted({k.split(".", 1)[0] + "." for k in state}):
            if any(k.removeprefix(prefix) in expected for k in state):
                return f"every key carries the prefix '{prefix}': give the state dict without it"
        return "no key matches: this is the file of another network"
    shaped = [k for k in shared if tuple(state[k].shape) != tuple(expected[k])]
    if shaped and all(state[k].shape[1:] == torch.Size(expected[k][1:]) for k in shaped):
        return "only the last layer differs: trained for another number of classes"
    if shaped:
        return "the network was built at another width or depth: check the options"
    return "some keys match: this is another variant of the network, or a part of the file"


def _joined(hashes: Mapping[str, str]) -> str:
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(hashes[m] for m in sorted(hashes)).encode()).hexdigest()
