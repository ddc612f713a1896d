"""What methods and layout editors share: options, networks for a label space, weights, a device."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import Filter
from sisbench.core.state_dict import (
    FORMAT,
    joined_hash,
    plain_state,
    read_hashed,
    read_metadata,
    read_state,
    state_hash,
)
from sisbench.core.store import write_atomic
from sisbench.core.unset import UnsetParameters, require_set
from sisbench.methods.key_map import KeyMap
from sisbench.methods.options import parse_options, translate
from sisbench.methods.seeded import seeded_state

if TYPE_CHECKING:
    from sisbench.methods.training import Training

WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_DISCRIMINATORS = ("netD", "discriminator", "discriminators")

Self = TypeVar("Self", bound="Loadable")


def no_steps(what: str, done: int, total: int) -> None:
    """Where nobody watches."""


@dataclass
class EncodingCost:
    """Seconds that photographs took to encode where that is apart from rendering, as an inversion.

    Attributes:
        spent: in the calls so far; whole: of all that they used, also what was kept from before.
    """

    spent: float = 0.0
    whole: float = 0.0


@dataclass(frozen=True)
class NoOptions:
    """A method without options."""


class Loadable(ABC):
    """Something built for a label space from options, whose networks load official checkpoints.

    Class attributes:
        name, title, paper: registry name, name in tables, citation with arXiv id or DOI.
        size: (H, W) that the official configuration draws.
        photographs_by: Pillow's filter by which its own loader brings photographs to ``size``;
            used where that is not the data set's.
        stored_labels: whether it takes label maps at the size at which they are stored, as one
            that reduces them by a path of its own.
        Options: frozen dataclass of the construction options and their official defaults.
        files: official module name -> file-name patterns in an official checkpoint folder.
        prefixes: official module name -> what its keys begin with in a file that holds several.
        sampling_options: options that no weight depends on; they may differ from a file's own.
        file_options: options that name a file, or a folder of ``files_in``; its content is part of
            what a run's images are.
        weights_hint: what to do where no weights are given.

    Attributes:
        on_step: told of each step of long work on one photograph: (what, done, total).
        encoding_cost: what encodings took, where a method counts that; None where it is part of
            rendering.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    size: tuple[int, int] = (256, 256)
    photographs_by: ClassVar[Filter] = "bicubic"
    stored_labels: ClassVar[bool] = False
    Options: ClassVar[type] = NoOptions
    files: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    prefixes: Mapping[str, str] = MappingProxyType({})
    sampling_options: ClassVar[frozenset[str]] = frozenset()
    file_options: ClassVar[frozenset[str]] = frozenset()
    weights_hint: str = "give a checkpoint (weights: PATH), or seeded:0 to test the code alone"

    net: nn.Module
    space: LabelSpace
    weights_info: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        self.options = parse_options(self.Options, options, self.name)
        self.given_options = frozenset(translate(options, self.Options, self.name))
        self.weights_info = {"source": "none"}
        self.on_step: Callable[[str, int, int], None] = no_steps
        self.encoding_cost: EncodingCost | None = None
        self.device = torch.device("cpu")

    @classmethod
    def training(cls) -> type[Training]:
        """How it is trained (see ``sisbench.methods.training``).

        Raises:
            Unavailable: it declares no training.
        """
        raise Unavailable(
            f"{cls.title or cls.name} declares no training",
            "write a Training (docs/training.md) and return its class from training()",
        )

    # ---- construction -------------------------------------------------------------------------

    def setup(self: Self, space: LabelSpace | str) -> Self:
        """Build the networks for ``space`` (a label space or the name of one)."""
        self.space = LabelSpace.named(space) if isinstance(space, str) else space
        self.net = self.build(self.space).eval().requires_grad_(False)
        return self

    @abstractmethod
    def build(self, space: LabelSpace) -> nn.Module:
        """The networks, without trained weights, for label maps of ``space``."""

    def load(
        self: Self, space: LabelSpace | str, weights: Path | str | None, device: str = "cpu"
    ) -> Self:
        """Build for ``space`` and load ``weights``: an official checkpoint (file or folder), a
        sisbench safetensors file, ``"seeded:N"`` (the declared test source), or None for a method
        that learns nothing.

        Raises:
            UserError: the file is missing or does not fit; None for a method with parameters.
        """
        load_weights(self, space, weights)
        return self.to(device)

    def check_weights(self, path: Path) -> bool:
        """Called before any network is built, by a method that reads ``path`` in its own way: it
        takes the options that the files state, and returns True. False: nothing is known, or they
        are files that every method reads.

        Raises:
            UserError: ``path`` holds no weights of this method.
        """
        return False

    @classmethod
    def files_in(cls, folder: Path) -> dict[str, Path]:
        """The files of a folder that images depend on, by name: those with weights in it."""
        return {p.name: p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES}

    def load_state(self: Self, official: Mapping[str, Mapping[str, Tensor]]) -> Self:
        """Load official state dicts by module name, as ``{"netG": {...}, "netE": {...}}``.

        Raises:
            UserError: keys are missing, unexpected or mis-shaped (each is listed).
        """
        load_official(self, official)
        return self

    def key_maps(self) -> Mapping[str, KeyMap]:
        """Official module name -> its correspondence with ``self.net``; {} for a method that has no
        official checkpoint."""
        return {}

    def adapt_to(self, official: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Called before keys are compared, with the official state dicts by module name: a method
        whose checkpoints come in versions rebuilds itself for the one at hand."""

    def seeded(
        self, module: str, shapes: Mapping[str, tuple[int, ...]], seed: int
    ) -> dict[str, Tensor]:
        """The declared test weights of an official module (``weights: seeded:N``); a method whose
        files hold constants puts them in."""
        return seeded_state(shapes, seed)

    def how_encoded(self) -> str:
        """How photographs become layouts and styles, where a reader of the scores must know: an
        inversion with its steps; "" for an encoder."""
        return ""

    def after_load(self) -> None:
        """Called once the weights are in: fold, contract or cache what is constant at inference."""

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the networks; no silent fallback: an absent device is torch's own error."""
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


def save_weights(method: Loadable, path: Path, training: Mapping[str, Any]) -> None:
    """Write ``method.net`` as safetensors, whole or not at all; its header says how it was built
    and trained."""
    from safetensors.torch import save

    about = {
        "method": method.name,
        "space": method.space.name,
        "options": method.describe()["options"],
        "training": dict(training),
    }
    state = {k: v.detach().contiguous().cpu() for k, v in method.net.state_dict().items()}
    header = {"format": FORMAT, "sisbench": json.dumps(about, sort_keys=True)}
    write_atomic(path, save(state, header))


def load_official(method: Loadable, official: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Load official state dicts by module name into ``method`` (see ``Method.load_state``)."""
    _fill(method, official)
    method.weights_info = {"source": "state dict", "sha256": state_hash(official)}


def _fill(method: Loadable, official: Mapping[str, Mapping[str, Tensor]]) -> None:
    official = {m: plain_state(state) for m, state in official.items()}
    for module, key_map in _maps_for(method, official).items():
        key_map.load(official[module], f"{method.name}: {module}")
    require_set(method.net, method.name)
    method.after_load()


def _maps_for(
    method: Loadable, official: Mapping[str, Mapping[str, Tensor]]
) -> Mapping[str, KeyMap]:
    """The key maps of a method that was adapted to state dicts, one for each of its modules."""
    method.adapt_to(official)
    maps = method.key_maps()
    unknown = [m for m in official if m not in maps and m not in _DISCRIMINATORS]
    missing = [m for m in maps if m not in official]
    if unknown or missing:
        raise UserError(
            f"{method.name} takes the modules {', '.join(maps) or 'none'}; "
            f"got {', '.join(official) or 'none'}"
        )
    return maps


def compare_keys(method: Loadable, space: LabelSpace | str, path: Path) -> None:
    """Build ``method`` for ``space`` and compare the keys of its weights with the networks, which
    stay unset: cheap, and what ``load_weights`` refuses by its keys is known before.

    Raises:
        UserError: the file is missing, or does not fit.
    """
    about = read_metadata(path)
    if about:
        adopt_options(method, about, path)
    with UnsetParameters():
        method.setup(space)
    if about:
        _own_keys(method).check(read_state(path, mapped=True), str(path))
        return
    files = official_files(method, path)
    states = {file: read_state(file, mapped=True) for file in set(files.values())}
    official = split_official(method, files, states)
    for module, key_map in _maps_for(method, official).items():
        key_map.check(official[module], f"{method.name}: {module}")


def load_weights(method: Loadable, space: LabelSpace | str, weights: Path | str | None) -> None:
    """Build ``method`` for ``space`` and fill it (see ``Method.load``)."""
    path = None if weights is None or str(weights).startswith("seeded:") else Path(weights)
    about = read_metadata(path) if path else None
    if about:
        adopt_options(method, about, path)
    if weights is None:
        method.setup(space)
        needs_none(method)
        method.after_load()
        return
    with UnsetParameters():
        method.setup(space)
    if path is None:
        seed = _seed_of(str(weights))
        shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
        if not shapes:
            raise UserError(f"{method.name} has no official layout to seed", "leave 'weights' out")
        _fill(method, {m: method.seeded(m, s, seed) for m, s in shapes.items()})
        method.weights_info = {"source": f"seeded:{seed}", "sha256": f"seeded:{seed}"}
    elif about:
        _load_own(method, path)  # type: ignore[arg-type]
    else:
        files = official_files(method, path)
        read = {file: read_hashed(file) for file in set(files.values())}
        _fill(method, split_official(method, files, {f: state for f, (state, _) in read.items()}))
        hashes = {m: read[f][1] for m, f in files.items()}
        method.weights_info = {
            "source": "official",
            "files": {m: {"name": f.name, "sha256": hashes[m]} for m, f in files.items()},
            "sha256": joined_hash(hashes),
        }


def _seed_of(weights: str) -> int:
    text = weights.removeprefix("seeded:")
    if not text.isdigit():
        raise UserError(f"'{weights}': the seed must be a whole number", "write it as seeded:0")
    return int(text)


def needs_none(method: Loadable) -> None:
    """Raises UserError where a method without weights has parameters."""
    if any(p.numel() for p in method.net.parameters()):
        raise UserError(
            f"{method.name} needs weights and none were given",
            method.weights_hint,
        )


def adopt_options(method: Loadable, about: Mapping[str, Any], path: Path | None) -> None:
    """Take the construction options from the file, unless the user gave other ones."""
    if about["method"] != method.name:
        raise UserError(f"{path} holds weights of '{about['method']}', not of '{method.name}'")
    saved = translate(about["options"], method.Options, method.name)
    for key in method.given_options:
        if key in method.sampling_options:
            saved[key] = getattr(method.options, key)
        elif key in saved and getattr(method.options, key) != saved[key]:
            method_value = getattr(method.options, key)
            raise UserError(
                f"{path} was trained with {key}={saved[key]!r}, not with {method_value!r}",
                "leave the option out: it is taken from the file",
            )
    method.options = parse_options(method.Options, saved, method.name)


def _load_own(method: Loadable, path: Path) -> None:
    state, digest = read_hashed(path)
    _own_keys(method).load(state, str(path))
    require_set(method.net, str(path))
    method.weights_info = {
        "source": "sisbench",
        "files": {"net": {"name": path.name, "sha256": digest}},
        "sha256": digest,
        "about": read_metadata(path),
    }
    method.after_load()


def _own_keys(method: Loadable) -> KeyMap:
    """The keys of a file that sisbench wrote."""
    key_map = KeyMap(method.net)
    key_map.same()
    return key_map


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
        raise Unavailable(f"no weights at {path}", "see: sisbench weights list")
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


def split_official(
    method: Loadable, files: Mapping[str, Path], states: Mapping[Path, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """Cut the state dicts of files into the method's modules by their official key prefixes."""
    result = {}
    for module, path in files.items():
        prefix = method.prefixes.get(module, "")
        state = states[path]
        if prefix and any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        result[module] = state
    return result
