"""KeyMap: official keys onto our modules, with a strict report of what does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sisbench.core.errors import UserError

_SHOWN = 6


Shape = tuple[int, ...]


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
        self._shapes = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        self._entries: dict[str, _Entry] = {}
        self._unused: dict[str, Shape] = {}
        self._optional: list[re.Pattern[str]] = [re.compile(r"(^|\.)num_batches_tracked$")]
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

    def load(self, official: Mapping[str, Tensor], where: str) -> None:
        """Fill the module.

        Raises:
            UserError: lists missing, unexpected and mis-shaped keys with the likely cause.
        """
        uncovered = self._shapes.keys() - self._entries.keys() - self._analytic
        if uncovered:
            raise KeyError(f"key map does not cover {sorted(uncovered)[:_SHOWN]}")
        entries = [_folded(entry, official) for entry in self._entries.values()]
        expected = self._expected(entries)
        report = self._compare(official, expected)
        if report:
            raise UserError(f"{where} does not fit:\n{report}", likely_cause(official, expected))
        state = self.module.state_dict()
        for entry in entries:
            if entry.official.keys() <= official.keys():  # else optional: the initial value stays
                state[entry.ours] = entry.join(dict(official)).to(state[entry.ours].dtype)
        self.module.load_state_dict(state)

    def _expected(self, entries: Iterable[_Entry]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {}
        for entry in entries:
            shapes.update(entry.official)
        return shapes | self._unused

    def _compare(self, official: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> str:
        missing = [k for k in expected if k not in official and not _any(self._optional, k)]
        extra = [
            k
            for k in official
            if k not in expected
            and not _any(self._ignored, k)
            and not _any(self._optional, k)
            and not _leftover(k, expected)
        ]
        shaped = [
            f"{k}: expected {expected[k]}, file has {tuple(v.shape)}"
            for k, v in official.items()
            if k in expected and tuple(v.shape) != tuple(expected[k])
        ]
        return "\n".join(
            _listing(title, rows)
            for title, rows in (("missing", missing), ("unexpected", extra), ("mis-shaped", shaped))
            if rows
        )


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


def _listing(title: str, rows: list[str]) -> str:
    shown = "\n".join(f"    {row}" for row in rows[:_SHOWN])
    rest = f"\n    ... and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"  {title} ({len(rows)}):\n{shown}{rest}"


def likely_cause(official: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> str:
    """One sentence on why a state dict does not fit, from the pattern of the misfit."""
    if official and not official.keys() & expected.keys():
        for prefix in sorted({k.split(".", 1)[0] + "." for k in official}):
            if any(k.removeprefix(prefix) in expected for k in official):
                return f"every key carries the prefix '{prefix}': give the state dict without it"
        if any(k.startswith("discriminator") for k in official):
            return "this is a discriminator; the generator's file is needed"
        return "no key matches: this is the file of another network or method"
    for key, value in official.items():
        want = expected.get(key)
        if want is None or tuple(value.shape) == tuple(want):
            continue
        if value.ndim != len(want):
            return (
                f"{key} has {value.ndim} axes where {len(want)} are expected: another variant of "
                "the network; check the method's options (as use_vae)"
            )
        axes = [i for i, (a, b) in enumerate(zip(value.shape, want, strict=True)) if a != b]
        if axes == [1] and value.ndim == 4:
            return (
                f"{key} takes {value.shape[1]} channels where {want[1]} are expected: "
                "trained for another number of classes (label space, don't-care, instances)"
            )
        return (
            "the file was trained at another width or size: check the method's options (ngf, ...)"
        )
    return "the file is of another version of the network: check the method's options"
