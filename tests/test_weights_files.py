"""Every kind of weights file, in every reader: a method, a parser and an extractor give the same
kind of answer to the same file."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sisbench import methods, segmenters
from sisbench.core import file_hash, state_dict
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.file_hash import forget_hashes, sha256_of
from sisbench.core.fit import fold_batch_norms
from sisbench.core.label_space import LabelSpace
from sisbench.core.state_dict import joined_hash, read_hashed, read_state, state_hash
from sisbench.core.unset import UnsetParameters
from sisbench.methods.base import Layout, Method, NoiseSource, Style
from sisbench.methods.key_map import KeyMap
from sisbench.methods.loadable import load_official, save_weights
from sisbench.methods.seeded import seeded_state
from sisbench.metrics import create_maker
from sisbench.metrics.perceptual import LPIPSNetwork, _features

State = dict[str, Tensor]
SPACE = "celebamask_hq"
SPADE = {"ngf": 4, "max_channels": 8, "nhidden": 4, "crop_size": 64, "use_vae": False}
UNET = {"feature_scale": 16, "input_size": 32}


# ---- columns ----------------------------------------------------------------------------------


def _method(path: Path) -> State:
    loaded = methods.create("spade", SPACE, **SPADE)
    return loaded.load(SPACE, path).net.state_dict()


def _parser(path: Path) -> State:
    return segmenters.create("celebamask_unet", SPACE, **UNET).load(path).loaded().state_dict()


def _extractor(path: Path) -> State:
    create_maker("lpips-alex", weights=path)  # what a run builds first: the file is resolved
    return nn.ModuleList(LPIPSNetwork("squeeze", path)._slices).state_dict()


def _states() -> dict[str, State]:
    spade = methods.create("spade", SPACE, **SPADE).key_maps()["netG"].official_shapes()
    unet = segmenters.create("celebamask_unet", SPACE, **UNET).official_shapes()["unet"]
    squeeze = {
        f"features.{k}": tuple(v.shape) for k, v in _features("squeeze").state_dict().items()
    }
    shapes = {"method": spade, "parser": unet, "extractor": squeeze}
    return {column: seeded_state(found, 3) for column, found in shapes.items()}


READERS: dict[str, Callable[[Path], State]] = {
    "method": _method,
    "parser": _parser,
    "extractor": _extractor,
}
STATES = _states()


# ---- rows: files that load --------------------------------------------------------------------


class Callback:
    """An object of a class that sisbench does not know, as Lightning stores them."""

    def __init__(self) -> None:
        self.best = {"score": 1.0}


def _cast(state: State, dtype: torch.dtype) -> State:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


def _prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{k}": v for k, v in state.items()}


def _lightning(state: State, path: Path) -> None:
    about = {"callbacks": {"checkpoint": Callback()}, "optimizer_states": [{"state": {0: {}}}]}
    torch.save({"epoch": 3, "state_dict": state, "hyper": argparse.Namespace(a=1), **about}, path)


def _torch(change: Callable[[State], Any]) -> Callable[[State, Path], None]:
    return lambda state, path: torch.save(change(state), path)


Writer = Callable[[State, Path], None]
GOOD: dict[str, tuple[str, Writer]] = {
    "plain": ("w.pth", _torch(lambda s: s)),
    ".bin": ("w.bin", _torch(lambda s: s)),
    "state_dict": ("w.pt", _torch(lambda s: {"state_dict": s, "epoch": 1})),
    "model": ("w.pth", _torch(lambda s: {"model": s, "optimizer": {"state": {}}})),
    "params": ("w.pth", _torch(lambda s: {"params": s})),
    "model_state_dict": ("w.pth", _torch(lambda s: {"model_state_dict": s, "loss": torch.ones(1)})),
    "net": ("w.pth", _torch(lambda s: {"net": s, "acc": 0.5})),
    "another name": ("w.pth", _torch(lambda s: {"generator": s, "step": 4})),
    "averaged alone": ("w.pth", _torch(lambda s: {"params_ema": s})),
    "nested": ("w.pth", _torch(lambda s: {"model": {"state_dict": s, "arch": "x"}})),
    "module.": ("w.pth", _torch(lambda s: _prefixed(s, "module."))),
    "wrapped module.": ("w.pth", _torch(lambda s: {"state_dict": _prefixed(s, "module.")})),
    "compiled": ("w.pth", _torch(lambda s: {"model": _prefixed(s, "module._orig_mod.")})),
    "legacy": ("w.pth", lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False)),
    "Lightning": ("last.ckpt", _lightning),
    "Lightning called .safetensors": ("w.safetensors", _lightning),
    "safetensors": ("w.safetensors", lambda s, p: save_file(s, p)),
    "safetensors, module.": ("w.safetensors", lambda s, p: save_file(_prefixed(s, "module."), p)),
    "safetensors called .pth": ("w.pth", lambda s, p: save_file(s, p)),
    "torch called .safetensors": ("w.safetensors", _torch(lambda s: s)),
    "float64": ("w.pth", _torch(lambda s: _cast(s, torch.float64))),
}
ROUNDED = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(
        v.dtype == expected[k].dtype and torch.equal(v, expected[k]) for k, v in found.items()
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """What every reader makes of the plain file."""
    folder = tmp_path_factory.mktemp("plain")
    found = {}
    for column, state in STATES.items():
        torch.save(state, folder / f"{column}.pth")
        found[column] = READERS[column](folder / f"{column}.pth")
    return found


@pytest.mark.parametrize("column", READERS)
@pytest.mark.parametrize("kind", GOOD)
def test_files_that_load(kind: str, column: str, tmp_path: Path, plain: dict[str, State]) -> None:
    name, write = GOOD[kind]
    write(STATES[column], tmp_path / name)
    assert _same(READERS[column](tmp_path / name), plain[column])


@pytest.mark.parametrize("column", READERS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("dtype", ROUNDED)
def test_half_precision_is_folded_in_float32(
    dtype: str, suffix: str, column: str, tmp_path: Path
) -> None:
    narrow = _cast(STATES[column], ROUNDED[dtype])
    path, wide = tmp_path / f"w{suffix}", tmp_path / "wide.pth"
    (save_file if suffix == ".safetensors" else torch.save)(narrow, path)
    torch.save(_cast(narrow, torch.float32), wide)
    assert _same(READERS[column](path), READERS[column](wide))


# ---- rows: files that are refused -------------------------------------------------------------


def _touched(path: Path) -> Path:
    return path.with_name("executed")


class Evil:
    """A pickle that creates a file where it is executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.marker, "w"))


def _bytes(content: bytes) -> Writer:
    return lambda _, path: path.write_bytes(content) and None


def _cut(write: Writer, keep: Callable[[int], int]) -> Writer:
    def writer(state: State, path: Path) -> None:
        write(state, path)
        content = path.read_bytes()
        path.write_bytes(content[: keep(len(content))])

    return writer


def _archive(mode: str) -> Writer:
    def writer(state: State, path: Path) -> None:
        inner = path.with_name("inner.pth")
        torch.save(state, inner)
        if mode == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(inner, "latest_net_G.pth")
            return
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
            tar.add(inner, "latest_net_G.pth")
        path.write_bytes(buffer.getvalue())

    return writer


def _damaged_header(state: State, path: Path) -> None:
    save_file(state, path)
    content = bytearray(path.read_bytes())
    content[9] = 0xFF
    path.write_bytes(content)


def _numpy(_: State, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def _misshaped(state: State) -> State:
    key = next(k for k, v in state.items() if v.ndim > 1)
    return state | {key: state[key][:, :1, :1].repeat(1, 2, 7, 7)[:, :, :6]}


def _integers(state: State) -> State:
    key = next(k for k, v in state.items() if v.is_floating_point())
    return state | {key: state[key].to(torch.int64)}


def _legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


HALF, LAST = (lambda n: n // 2), (lambda n: n - 1)
ZIP, SAFE = (_torch(lambda s: s)), (lambda s, p: save_file(s, p))
HTML = b"\n<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
FOLDER = r"is a folder|has no file for|must hold one file"
BAD: dict[str, tuple[str, Writer, str]] = {
    "web page": ("w.pth", _bytes(HTML), "a web page"),
    "web page called .safetensors": ("w.safetensors", _bytes(HTML), "a web page"),
    "XML": ("w.pth", _bytes(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "an XML text"),
    "JSON": ("w.pth", _bytes(json.dumps({"message": "Not Found"}).encode()), "a JSON text"),
    "text": ("w.ckpt", _bytes(b"404: Not Found"), "a plain text"),
    "LFS pointer": ("w.pth", _bytes(LFS), "Git LFS pointer"),
    "LFS pointer called .safetensors": ("w.safetensors", _bytes(LFS), "Git LFS pointer"),
    "zip": ("w.pth", _archive("zip"), r"an archive \(zip\)"),
    "tar": ("w.pth", _archive("w"), r"an archive \(tar\)"),
    "tar.gz": ("w.pth", _archive("w:gz"), r"an archive \(gzip\)"),
    "tar.bz2": ("w.pth", _archive("w:bz2"), r"an archive \(bzip2\)"),
    "tar.xz": ("w.pth", _archive("w:xz"), r"an archive \(xz\)"),
    "NumPy": ("w.pth", _numpy, "a NumPy array"),
    "empty": ("w.pth", _bytes(b""), "empty"),
    "empty .safetensors": ("w.safetensors", _bytes(b""), "empty"),
    "cut at half": ("w.pth", _cut(ZIP, HALF), "cut off"),
    "cut at last byte": ("w.pth", _cut(ZIP, LAST), "cut off"),
    "legacy cut at half": ("w.pth", _cut(_legacy, HALF), "cut off"),
    "legacy cut at last byte": ("w.pth", _cut(_legacy, LAST), "cut off"),
    "legacy cut in its pickle": ("w.pth", _cut(_legacy, lambda n: 300), "cut off"),
    "safetensors cut at half": ("w.safetensors", _cut(SAFE, HALF), "cut off"),
    "safetensors cut at last byte": ("w.safetensors", _cut(SAFE, LAST), "cut off"),
    "safetensors cut in header": ("w.safetensors", _cut(SAFE, lambda n: 60), "cut off"),
    "safetensors, damaged": ("w.safetensors", _damaged_header, "a damaged safetensors file"),
    "noise": ("w.pth", _bytes(bytes(range(128, 256)) * 9), "cannot be read as plain tensors"),
    "noise .safetensors": (
        "w.safetensors",
        _bytes(bytes(range(128, 256)) * 9),
        "safetensors|cut off",
    ),
    "object": (
        "w.pth",
        lambda s, p: torch.save(Evil(_touched(p)), p),
        "no state dict|plain tensors",
    ),
    "object, legacy": ("w.pth", lambda s, p: _legacy(Evil(_touched(p)), p), "plain tensors"),
    "network": ("w.pth", lambda s, p: torch.save(Callback(), p), "no state dict"),
    "list": ("w.pth", _torch(lambda s: list(s.values())), "no state dict"),
    "plain and averaged": ("w.pth", _torch(lambda s: {"params": s, "params_ema": s}), "several"),
    "two networks": ("w.pth", _torch(lambda s: {"netG": s, "netD": s}), "several state dicts"),
    "folder": ("w", lambda _, p: p.mkdir(), FOLDER),
    "wrong network": ("w.pth", _torch(lambda s: {"fc.weight": torch.ones(2, 2)}), "does not fit"),
    "key missing": ("w.pth", _torch(lambda s: dict(list(s.items())[1:])), r"missing \(1\)"),
    "wrong shape": ("w.pth", _torch(_misshaped), r"mis-shaped \(1\)"),
    "whole numbers": ("w.pth", _torch(_integers), r"mistyped \(1\)"),
}


@pytest.mark.parametrize("column", READERS)
@pytest.mark.parametrize("kind", BAD)
def test_files_that_are_refused(kind: str, column: str, tmp_path: Path) -> None:
    name, write, match = BAD[kind]
    path = tmp_path / name
    write(STATES[column], path)
    with pytest.raises(UserError, match=match) as caught:
        READERS[column](path)
    assert not isinstance(caught.value, Unavailable)
    assert caught.value.hint
    if "fit" not in str(caught.value):
        assert str(path) in caught.value.message
    assert not _touched(path).exists()


@pytest.mark.parametrize("column", READERS)
@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "none"])
def test_a_missing_file_is_unavailable(name: str, column: str, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=f"no weights.*{name}"):
        READERS[column](tmp_path / name)


# ---- the parts --------------------------------------------------------------------------------


def test_hashes_of_any_dtype_and_of_files(tmp_path: Path) -> None:
    state = {"a": torch.ones(2, 3), "b": torch.tensor(2), "c": torch.zeros(0)}
    other = {"m": dict(reversed(state.items()))}
    assert state_hash({"m": state}) == state_hash(other) != state_hash({"n": state})
    narrow = state_hash({"m": _cast(state, torch.bfloat16)})
    assert narrow != state_hash({"m": state})
    path = tmp_path / "w.bin"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"two")
    assert sha256_of(path) != first
    forget_hashes()
    assert joined_hash({"a": "x", "b": "x"}) == "x" != joined_hash({"a": "x", "b": "y"})


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files whose bytes are hashed."""
    found: list[str] = []
    digest = file_hash._digest
    monkeypatch.setattr(file_hash, "_digest", lambda p: (found.append(p.name), digest(p))[1])
    return found


def test_a_file_is_hashed_once_a_load(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(STATES["method"], tmp_path / "w.pth")
    os.utime(tmp_path / "w.pth", (1, 1))
    monkeypatch.setattr("sisbench.methods.loadable.state_hash", lambda _: pytest.fail("hashed"))
    _method(tmp_path / "w.pth")
    _method(tmp_path / "w.pth")
    sha256_of(tmp_path / "w.pth")
    assert hashed == ["w.pth"]


def test_a_file_from_just_now_is_hashed_once_a_load_too(tmp_path: Path, hashed: list[str]) -> None:
    """Its hash is not remembered, so a second look would read it again."""
    torch.save(STATES["method"], tmp_path / "w.pth")
    method = methods.create("spade", SPACE, **SPADE).load(SPACE, tmp_path / "w.pth")
    assert hashed == ["w.pth"]
    save_weights(method, tmp_path / "own.safetensors", {})
    own = methods.create("spade", SPACE).load(SPACE, tmp_path / "own.safetensors")
    assert hashed == ["w.pth", "own.safetensors"]
    content = (tmp_path / "own.safetensors").read_bytes()
    assert own.weights_info["sha256"] == hashlib.sha256(content).hexdigest()
    torch.save(STATES["parser"], tmp_path / "p.pth")
    _parser(tmp_path / "p.pth")
    assert hashed == ["w.pth", "own.safetensors", "p.pth"]


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATES["method"], path)
    read = state_dict.read_state

    def written_to(file: Path) -> State:
        found = read(file)
        path.write_bytes(path.read_bytes() + b"more")
        return found

    monkeypatch.setattr(state_dict, "read_state", written_to)
    with pytest.raises(UserError, match="was written to while it was read"):
        read_hashed(path)


def test_in_memory_states_are_treated_alike() -> None:
    """``module.`` and half precision, through ``load_state`` of methods and parsers."""
    method = methods.create("spade", SPACE, **SPADE)
    narrow = _prefixed(_cast(STATES["method"], torch.float16), "module.")
    load_official(method, {"netG": narrow})
    wide = methods.create("spade", SPACE, **SPADE)
    wide.load_state({"netG": _cast(_cast(STATES["method"], torch.float16), torch.float32)})
    assert _same(method.net.state_dict(), wide.net.state_dict())
    parser = segmenters.create("celebamask_unet", SPACE, **UNET)
    narrow = _prefixed(_cast(STATES["parser"], torch.bfloat16), "module.")
    other = segmenters.create("celebamask_unet", SPACE, **UNET)
    other.load_state(_cast(_cast(STATES["parser"], torch.bfloat16), torch.float32))
    assert _same(parser.load_state(narrow).loaded().state_dict(), other.loaded().state_dict())


def test_safe_globals_are_put_back(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    _lightning(STATES["parser"], tmp_path / "last.ckpt")
    read_state(tmp_path / "last.ckpt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_batch_norms_are_folded_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8).eval()
    for value in norm.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(8, generator=generator) + 0.1)
    wide = nn.Sequential(conv, norm).eval()
    x = torch.randn(1, 3, 9, 9, generator=generator).double()
    expected = wide.double()(x)
    net = wide.float()
    fold_batch_norms(net)
    assert isinstance(net[1], nn.Identity)
    assert (net.double()(x) - expected).abs().max() < 3e-7 * expected.abs().max()
    with pytest.raises(ValueError, match="running statistics"):
        fold_batch_norms(
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))
        )


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        ({"net.a": (2, 3), "net.b": (4,)}, r"prefix 'net\.'"),
        ({"discriminator_0.x": (1,)}, "a discriminator"),
        ({"x": (1,)}, "another network"),
        ({"a": (2, 3, 1), "b": (4,)}, "3 axes where 2"),
        ({"a": (2, 3), "b": (5,)}, "another number of classes"),
        ({"a": (4, 6), "b": (8,)}, "another width"),
        ({"a": (2, 3)}, "another version"),
    ],
)
def test_likely_causes(found: Mapping[str, tuple[int, ...]], cause: str) -> None:
    state = {k: torch.zeros(v) for k, v in found.items()}
    net = nn.Module()
    net.a, net.b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4))
    keys = KeyMap(net)
    keys.same()
    with pytest.raises(UserError, match=cause):
        keys.load(state, "here")


class Half(Method):
    """A method whose key map lets a file lack ``b``, and with a table that is computed."""

    name = "half"

    def build(self, space: LabelSpace) -> nn.Module:
        net = nn.Module()
        net.a, net.b = nn.Linear(3, 2), nn.Linear(3, 2)
        net.c = nn.Parameter(torch.randn(2, 2) * 0.5)
        net.register_buffer("table", torch.arange(4.0) / 3)
        nn.init.zeros_(net.a.bias)
        return net

    def key_maps(self) -> Mapping[str, KeyMap]:
        keys = KeyMap(self.net)
        keys.analytic("table")
        keys.optional(r"^b\.|^c$|bias$")
        keys.same()
        return {"net": keys}

    def encode_style(self, batch: Batch) -> Style:
        raise NotImplementedError

    def render(self, layout: Layout, style: Style, noise: NoiseSource) -> Tensor:
        raise NotImplementedError


def test_what_no_key_fills_is_an_error_and_no_memory_of_before(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    full = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 3), "b.bias": torch.ones(2)}
    torch.save(full | {"c": torch.ones(2, 2)}, path)
    net = Half().load(SPACE, path).net
    assert net.table.tolist() == (torch.arange(4.0) / 3).tolist()  # computed ones survive
    assert net.a.bias.tolist() == [0, 0]  # a constant that the file may lack, too
    assert net.c.tolist() == [[1, 1], [1, 1]]
    for absent in ("b.weight", "b.bias", "c"):
        torch.save({k: v for k, v in (full | {"c": torch.ones(2, 2)}).items() if k != absent}, path)
        with pytest.raises(UserError, match=f"no values for 1 tensors.*{absent}"):
            Half().load(SPACE, path)
    assert not any(v.isnan().any() for v in Half().setup(SPACE).net.state_dict().values())


def test_building_for_a_file_draws_nothing() -> None:
    before = torch.get_rng_state()
    with UnsetParameters():
        for name, options in (("spade", SPADE), ("sean", {"ngf": 4, "crop_size": 64})):
            methods.create(name, SPACE, **options)
    assert torch.equal(torch.get_rng_state(), before)
