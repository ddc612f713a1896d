"""KeyMap: official keys onto our modules, with a strict report of what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sisbench.core.fit import Shape, require_fit
from sisbench.core.state_dict import plain_state


@dataclass(frozen=True)
class _Entry:
    """How one of our tensors is made: official keys with shapes, and what joins them."""

    ours: str
    official: dict[str, Shape]
    join: Callable[[dict[str, Tensor]], Tensor]


class KeyMap:
    """The exact correspondence between one official state dict and one of our modules.

    Every tensor of ``module.state_dict()`` must be covered by one of ``same``, ``take``,
    ``spectral``, ``stack`` or ``analytic``; every official key that we do not use by ``unused``.
    What is left over on either side is an error at load.

    Args:
        module: the module whose tensors are filled.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        state = module.state_dict()
        self._shapes = {k: tuple(v.shape) for k, v in state.items()}
        self._whole = {k for k, v in state.items() if not v.is_floating_point()}
        self._entries: dict[str, _Entry] = {}
        self._unused: dict[str, Shape] = {}
        self._optional: list[re.Pattern[str]] = []
        self._ignored: list[re.Pattern[str]] = []
        self._analytic: set[str] = set()

    def shape(self, ours: str) -> Shape:
        """Shape of one of our tensors."""
        return self._shapes[ours]

    def take(self, ours: str, official: str | None = None) -> None:
        """``ours`` is the official tensor of the same shape (and the same name by default)."""
        key = official or ours
        self._add(_Entry(ours, {key: self._shapes[ours]}, lambda found: found[key]))

    def view(self, ours: str, official: str, shape: Shape) -> None:
        """``ours`` is the official tensor of ``shape``, reshaped (1x1 convolution as a matrix)."""
        own = self._shapes[ours]
        self._add(_Entry(ours, {official: shape}, lambda found: found[official].reshape(own)))

    def spectral(self, ours: str, official: str | None = None) -> None:
        """``ours`` (a ``weight``) is spectrally normalised there; folded here."""
        stem = (official or ours).removesuffix("weight")
        out, *rest = self._shapes[ours]
        numel = 1
        for n in rest:
            numel *= n
        keys = {
            f"{stem}weight_orig": self._shapes[ours],
            f"{stem}weight_u": (out,),
            f"{stem}weight_v": (numel,),
        }
        self._add(_Entry(ours, keys, lambda found: fold_spectral(found, stem)))

    def stack(self, ours: str, official: list[str]) -> None:
        """``ours`` is the official tensors (each of shape ``ours[1:]``) stacked on a first axis."""
        shape = self._shapes[ours][1:]
        keys = dict.fromkeys(official, shape)
        self._add(_Entry(ours, keys, lambda found: torch.stack([found[k] for k in official])))

    def join(
        self,
        ours: str,
        official: Mapping[str, Shape],
        function: Callable[[dict[str, Tensor]], Tensor],
    ) -> None:
        """``ours`` is ``function`` of several official tensors, whose shapes are given."""
        self._add(_Entry(ours, dict(official), function))

    def same(self) -> None:
        """Every tensor of ours that is not mapped yet has its official name and shape."""
        for ours in self._shapes:
            if ours not in self._entries and ours not in self._analytic:
                self.take(ours)

    def unused(self, official: str, shape: Shape) -> None:
        """An official key that belongs to the file but not to inference: expected, then dropped."""
        self._unused[official] = shape

    def ignore(self, pattern: str) -> None:
        """Official keys that *may* be there and are dropped (other networks in the same file)."""
        self._ignored.append(re.compile(pattern))

    def optional(self, pattern: str) -> None:
        """Official keys that a file may lack; our tensor then keeps its initial value."""
        self._optional.append(re.compile(pattern))

    def analytic(self, ours: str) -> None:
        """A buffer of ours that is computed, not loaded."""
        self._analytic.add(ours)

    def _add(self, entry: _Entry) -> None:
        if entry.ours not in self._shapes:
            raise KeyError(f"the module has no tensor '{entry.ours}'")
        self._entries[entry.ours] = entry

    @property
    def spectral_names(self) -> list[str]:
        """Our tensors that are spectrally normalised in training."""
        entries = self._entries.values()
        return [e.ours for e in entries if any(k.endswith("weight_orig") for k in e.official)]

    def official_shapes(self) -> dict[str, Shape]:
        """Every key and shape of the official state dict, as its manifest lists them."""
        return self._expected(self._entries.values())

    def renamed(self, official: Mapping[str, Tensor], where: str) -> Mapping[str, Tensor]:
        """The tensors of a file by the names that this map knows; a map whose files name them
        otherwise overrides it.

        Raises:
            UserError: the file does not hold what was asked for.
        """
        return official

    def check(self, official: Mapping[str, Tensor], where: str) -> None:
        """Compare a file's keys with the expected ones; nothing is filled.

        Raises:
            UserError: as ``load``.
        """
        self._fitting(self.renamed(official, where), where)

    def load(self, official: Mapping[str, Tensor], where: str) -> None:
        """Fill the module; floats of another width become float32 before anything is folded.

        Raises:
            UserError: lists missing, unexpected, mis-shaped and mistyped keys, and a likely cause.
        """
        official = plain_state(self.renamed(official, where))
        entries = self._fitting(official, where)
        state = self.module.state_dict()
        for entry in entries:
            if entry.official.keys() <= official.keys():  # else optional: the initial value stays
                state[entry.ours] = entry.join(official).to(state[entry.ours].dtype)
        self.module.load_state_dict(state)

    def _fitting(self, official: Mapping[str, Tensor], where: str) -> list[_Entry]:
        """How each of our tensors is made of this file's, which were compared."""
        uncovered = self._shapes.keys() - self._entries.keys() - self._analytic
        if uncovered:
            raise KeyError(f"key map does not cover {sorted(uncovered)[:6]}")
        entries = [_folded(entry, official) for entry in self._entries.values()]
        expected = self._expected(entries)
        whole = {k for e in entries if e.ours in self._whole for k in e.official}
        require_fit(
            official,
            expected,
            where,
            may_lack=lambda k: _any(self._optional, k),
            may_hold=lambda k: (
                _any(self._ignored, k) or _any(self._optional, k) or _leftover(k, expected)
            ),
            whole_numbers=whole | self._unused.keys(),
        )
        return entries

    def _expected(self, entries: Iterable[_Entry]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for entry in entries:
            shapes.update(entry.official)
        return shapes | self._unused


def fill_known(keys: KeyMap, official: Mapping[str, Tensor]) -> None:
    """Fill what ``official`` holds whole (normalised weights as ``weight``); the rest stays as it
    is: for initial weights."""
    state = keys.module.state_dict()
    for entry in (_folded(entry, official) for entry in keys._entries.values()):
        if entry.official.keys() <= official.keys():
            state[entry.ours] = entry.join(dict(official))
    keys.module.load_state_dict(state)


def _folded(entry: _Entry, official: Mapping[str, Tensor]) -> _Entry:
    """Where a file holds the normalised ``weight`` itself (saved after folding, or by PyTorch
    before 1.0, which lacks ``weight_v``), that is what an entry takes instead of weight_orig /
    sigma."""
    stem = next(
        (k.removesuffix("weight_v") for k in entry.official if k.endswith("weight_v")), None
    )
    if stem is None or f"{stem}weight" not in official or f"{stem}weight_v" in official:
        return entry
    key = f"{stem}weight"
    return _Entry(entry.ours, {key: entry.official[f"{stem}weight_orig"]}, lambda found: found[key])


def _leftover(key: str, expected: Mapping[str, Shape]) -> bool:
    """``weight_orig`` and ``weight_u`` beside a ``weight`` that was taken."""
    for end in ("weight_orig", "weight_u"):
        if key.endswith(end) and f"{key.removesuffix(end)}weight" in expected:
            return True
    return False


def fold_spectral(found: Mapping[str, Tensor], stem: str) -> Tensor:
    """weight_orig / sigma with sigma = u^T W v, W seen as (out, rest)."""
    weight, u, v = (found[f"{stem}weight_{part}"] for part in ("orig", "u", "v"))
    return weight / torch.dot(u, torch.mv(weight.flatten(1), v))


def _any(patterns: list[re.Pattern[str]], key: str) -> bool:
    return any(p.search(key) for p in patterns)
