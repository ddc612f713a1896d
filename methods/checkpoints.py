"""Weights: reading files safely, mapping official keys onto our modules, and strict reports."""

from __future__ import annotations

import hashlib
import json
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import UserError
from methods.seeded import seeded_state

if TYPE_CHECKING:
    from bench.types import LabelSpace
    from methods.loadable import Loadable

FORMAT = "sisbench/1"
_SHOWN = 6
_DISCRIMINATORS = ("netD", "discriminator", "discriminators")

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


# ---- files ------------------------------------------------------------------------------------


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .pth/.pt/.ckpt or .safetensors file; nothing in it is executed.

    Pickled objects beside the tensors are passed over. A Lightning file's ``state_dict`` and a
    ``{"state_dict": ...}`` wrapper are opened; a leading ``module.`` on every key (DataParallel) is
    stripped.

    Raises:
        UserError: no such file, not readable without running code, or no state dict.
    """
    if not path.is_file():
        raise UserError(f"no weights file at {path}", "see: sisbench weights list")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        raw = _load_plain(path)
    except Exception as error:  # torch raises a dozen types here; each means: not plain tensors
        reason = str(error).splitlines()[0][:160]
        raise UserError(
            f"{path} cannot be read as plain tensors: {reason}",
            "the file is damaged, or holds pickled objects, which sisbench does not run; "
            "re-save its state_dict with torch.save in an environment that you trust",
        ) from error
    return _plain_state(raw, path)


def _load_plain(path: Path) -> Any:
    """``torch.load`` of tensors alone; objects of unknown classes beside them (a Lightning file's
    callbacks) are passed over.

    It is torch's restricted unpickler both times. The second time each name that it does not know
    stands for an inert class, so nothing of that name is imported or called.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    known = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([_inert(name) for name in sorted(_pickled_names(path))])
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(known)


class _Inert:
    """Takes whatever a pickled object is made of, and keeps nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __setstate__(self, _state: Any) -> None: ...


def _inert(name: str) -> type:
    """An inert class called ``module name``."""
    module, _, attribute = name.partition(" ")
    return type(attribute, (_Inert,), {"__module__": module, "__qualname__": attribute})


def _pickled_names(path: Path) -> set[str]:
    """``module name`` of everything that the pickle in torch's zip file refers to."""
    with zipfile.ZipFile(path) as archive:
        member = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        text = archive.read(member)
    return {str(arg) for op, arg, _ in pickletools.genops(text) if op.name == "GLOBAL"}


def _plain_state(raw: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model", "params"):
        if isinstance(raw, Mapping) and isinstance(raw.get(wrapper), Mapping):
            raw = raw[wrapper]
    if not isinstance(raw, Mapping) or not any(isinstance(v, Tensor) for v in raw.values()):
        raise UserError(f"{path} holds no state dict (a {type(raw).__name__})")
    state = {str(k): v for k, v in raw.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def read_metadata(path: Path) -> dict[str, Any] | None:
    """What a sisbench safetensors file says of itself (method, space, options), else None."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            raw = handle.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    return json.loads(raw["sisbench"]) if raw.get("format") == FORMAT else None


def save_weights(method: Loadable, path: Path, training: Mapping[str, Any]) -> None:
    """Write ``method.net`` as safetensors; its header says how it was built and trained."""
    from safetensors.torch import save_file

    about = {
        "method": method.name,
        "space": method.space.name,
        "options": method.describe()["options"],
        "training": dict(training),
    }
    state = {k: v.detach().contiguous().cpu() for k, v in method.net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"format": FORMAT, "sisbench": json.dumps(about, sort_keys=True)})


# ---- loading into a method --------------------------------------------------------------------


def load_official(method: Loadable, official: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load official state dicts by module name into ``method`` (see ``Method.load_state``).

    A method whose checkpoints come in versions has ``adapt_to(official)``: it rebuilds itself for
    the one at hand before keys are compared.
    """
    adapt = getattr(method, "adapt_to", None)
    if adapt is not None:
        adapt(official)
    maps = method.key_maps()
    unknown = [m for m in official if m not in maps and m not in _DISCRIMINATORS]
    missing = [m for m in maps if m not in official]
    if unknown or missing:
        raise UserError(
            f"{method.name} takes the modules {', '.join(maps) or 'none'}; "
            f"got {', '.join(official) or 'none'}"
        )
    for module, key_map in maps.items():
        key_map.load(official[module], f"{method.name}: {module}")
    method.weights_info = {"source": "state dict", "sha256": state_hash(official)}
    method.after_load()


def state_hash(official: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Content hash of state dicts, independent of the order of keys."""
    digest = hashlib.sha256()
    for module in sorted(official):
        for key in sorted(official[module]):
            value = official[module][key].detach().cpu().contiguous()
            digest.update(f"{module}.{key}:{value.dtype}:{tuple(value.shape)}".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def load_weights(method: Loadable, space: LabelSpace | str, weights: Path | str | None) -> None:
    """Build ``method`` for ``space`` and fill it (see ``Method.load``)."""
    path = None if weights is None or str(weights).startswith("seeded:") else Path(weights)
    about = read_metadata(path) if path else None
    if about:
        _adopt_options(method, about, path)
    method.setup(space)
    if weights is None:
        _needs_none(method)
    elif path is None:
        seed = _seed_of(str(weights))
        shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
        if not shapes:
            raise UserError(f"{method.name} has no official layout to seed", "leave 'weights' out")
        load_official(method, {m: seeded_state(s, seed) for m, s in shapes.items()})
        method.weights_info = {"source": f"seeded:{seed}", "sha256": f"seeded:{seed}"}
    elif about:
        _load_own(method, path)  # type: ignore[arg-type]
    else:
        files = official_files(method, path)
        load_official(method, split_official(method, files))
        hashes = {m: sha256_of(f) for m, f in sorted(files.items())}
        joined = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
        method.weights_info = {
            "source": "official",
            "files": {m: {"name": f.name, "sha256": hashes[m]} for m, f in files.items()},
            "sha256": joined if len(set(hashes.values())) > 1 else next(iter(hashes.values())),
        }


def _seed_of(weights: str) -> int:
    text = weights.removeprefix("seeded:")
    if not text.isdigit():
        raise UserError(f"'{weights}': the seed must be a whole number", "write it as seeded:0")
    return int(text)


def _needs_none(method: Loadable) -> None:
    if any(p.numel() for p in method.net.parameters()):
        raise UserError(
            f"{method.name} needs weights and none were given",
            "give a checkpoint (weights: PATH), or seeded:0 to test the code alone",
        )
    method.after_load()


def _adopt_options(method: Loadable, about: Mapping[str, Any], path: Path | None) -> None:
    """Take the construction options from the file, unless the user gave other ones."""
    if about["method"] != method.name:
        raise UserError(f"{path} holds weights of '{about['method']}', not of '{method.name}'")
    saved = {k: tuple(v) if isinstance(v, list) else v for k, v in about["options"].items()}
    for key in method.given_options:
        if key in method.sampling_options:
            saved[key] = getattr(method.options, key)
        elif key in saved and getattr(method.options, key) != saved[key]:
            method_value = getattr(method.options, key)
            raise UserError(
                f"{path} was trained with {key}={saved[key]!r}, not with {method_value!r}",
                "leave the option out: it is taken from the file",
            )
    method.options = type(method.options)(**saved)


def _load_own(method: Loadable, path: Path) -> None:
    state = read_state(path)
    key_map = KeyMap(method.net)
    key_map.same()
    key_map.load(state, str(path))
    method.weights_info = {
        "source": "sisbench",
        "files": {"net": {"name": path.name, "sha256": sha256_of(path)}},
        "sha256": sha256_of(path),
        "about": read_metadata(path),
    }
    method.after_load()


def official_files(method: Loadable, path: Path) -> dict[str, Path]:
    """Official module -> file: ``path`` itself when it is a file that holds all of them, else the
    newest match of the method's patterns in the folder.

    Raises:
        UserError: no such path, or a module's file is missing or ambiguous.
    """
    modules = list(method.key_maps())
    if path.is_file():
        return dict.fromkeys(modules, path)
    if not path.is_dir():
        raise UserError(f"no weights at {path}", "see: sisbench weights list")
    found: dict[str, Path] = {}
    for module in modules:
        patterns = method.files.get(module, (f"*{module}*",))
        for pattern in patterns:
            matches = sorted(path.glob(pattern))
            if len(matches) > 1:
                names = ", ".join(m.name for m in matches[:5])
                raise UserError(f"{path} has several files for {module}: {names}", "keep one")
            if matches:
                found[module] = matches[0]
                break
        else:
            raise UserError(
                f"{path} has no file for {module}", f"expected one of: {', '.join(patterns)}"
            )
    return found


def split_official(method: Loadable, files: Mapping[str, Path]) -> dict[str, dict[str, Tensor]]:
    """Read each file once and cut it into the method's modules by their official key prefixes."""
    states = {path: read_state(path) for path in set(files.values())}
    prefixes: Mapping[str, str] = getattr(method, "prefixes", {})
    result = {}
    for module, path in files.items():
        prefix = prefixes.get(module, "")
        state = states[path]
        if prefix and any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        result[module] = state
    return result
