"""A configuration's method: its class, and its weights as far as they are known without its
networks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sisbench import methods
from sisbench.config import IMAGES, EditorConfig, MethodConfig
from sisbench.core.adapter_file import described
from sisbench.core.errors import Unavailable, UserError
from sisbench.run.elsewhere import Images

BUNDLED = "bundled:"


def method_class(name: str) -> Any:
    """The class of a method; of a layout editor, which has tasks of its own; of images made
    elsewhere.

    Raises:
        UserError: none is called so.
    """
    if name == IMAGES:
        return Images
    known = methods.editors if name in methods.editors.names() else methods.registry
    return known.get(name)


def is_editor(name: str) -> bool:
    """Whether a configuration's method is a layout editor."""
    return name in methods.editors.names()


@dataclass(frozen=True)
class Weights:
    """Where the weights of a method are, their content hash, and what is wrong with them."""

    path: str | None = None
    identity: str = "none"
    fault: str = ""


def find_weights(method: MethodConfig | EditorConfig) -> Weights:
    """The weights of a configured method, as far as they are known without its networks: whether
    they are there, what kind of file they are, which method and options a header names.

    Raises:
        UserError: an unknown method or option.
    """
    cls = method_class(method.name)
    try:
        loadable = cls(**method.options)
    except UserError:
        raise
    except Exception as error:  # a method is anybody's: it costs itself its cells
        return Weights(None, "none", described(error))
    given = method.weights
    if given is None or given.startswith("seeded:"):
        return Weights(given, given or "none")
    try:
        path = resolve_weights(given)
    except Unavailable as error:
        return Weights(None, "missing", described(error))
    try:
        check_kind(loadable, path)
        return Weights(str(path), weights_hash(path, cls))
    except (UserError, OSError) as error:
        return Weights(None, "missing", described(error))


def check_kind(loadable: Any, path: Path) -> None:
    """Raises UserError where ``path`` is known to hold no weights of a method: another kind of
    file, another method or other options in its header, a folder without weights. What a method
    with a ``load`` of its own reads is not known."""
    from sisbench.core.file_kinds import refuse_foreign
    from sisbench.core.state_dict import read_metadata
    from sisbench.methods.loadable import WEIGHT_SUFFIXES, Loadable, adopt_options

    if isinstance(loadable, Loadable) and loadable.check_weights(path):
        return
    if getattr(type(loadable), "load", None) is not Loadable.load:
        return
    if path.is_dir():
        if not loadable.files_in(path):
            raise UserError(
                f"{path} holds no weights file", f"looked for {', '.join(WEIGHT_SUFFIXES)}"
            )
        return
    refuse_foreign(path)
    about = read_metadata(path)
    if about:
        adopt_options(loadable, about, path)


def resolve_weights(name: str) -> Path:
    """A path, ``bundled:NAME`` (comes with sisbench), or a name of the weights registry.

    Raises:
        Unavailable: the file is not there.
    """
    if name.startswith(BUNDLED):
        path = (
            Path(__file__).parent.parent / "bundled" / f"{name.removeprefix(BUNDLED)}.safetensors"
        )
        if not path.is_file():
            raise Unavailable(f"no bundled weights '{name}'", f"looked for {path.name}")
        return path
    path = Path(name)
    if path.exists():
        return path
    from sisbench.core import weights

    if name in weights.load_registry():
        return Path(weights.path(name))
    tried = "" if path.is_absolute() else f"looked for {path.absolute()}; "
    raise Unavailable(
        f"no weights at {name}", f"{tried}give a path or a name of: sisbench weights list"
    )


def weights_hash(path: Path, cls: Any = None) -> str:
    """sha256 of a file, or over the files of a folder that images of a method's class depend on."""
    from sisbench.core.file_hash import sha256_of
    from sisbench.methods.loadable import Loadable

    if path.is_file():
        return sha256_of(path)
    files = getattr(cls, "files_in", Loadable.files_in)(path)
    joined = "".join(f"{name}:{sha256_of(files[name])};" for name in sorted(files))
    return hashlib.sha256(joined.encode()).hexdigest()
