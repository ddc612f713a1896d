"""Random changes of configurations, manifests, scores, list files, label spaces and headers: a
``UserError``, or a value that is valid, never another exception."""

from __future__ import annotations

import copy
import json
import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from harness import ITEMS, METHOD, SEED, SIDE, Bench, draw_pairs
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from sisbench.config import load_config
from sisbench.core.errors import UserError
from sisbench.core.file_kinds import is_safetensors
from sisbench.core.label_space import LabelSpace
from sisbench.core.state_dict import read_metadata, read_state
from sisbench.core.store import RunStore, read_values
from sisbench.data import open_dataset
from sisbench.report.quality import RunResults
from sisbench.run.plan import make_plan

MANY = os.environ.get("SISBENCH_FAULTS_EXAMPLES")
EXAMPLES = {"few": 25, "many": int(MANY or 1000)}
COUNTS = ["few", pytest.param("many", marks=pytest.mark.faults)]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from([2**31, -(2**63), 10**30, 1e308, float("nan"), float("inf"), -0.0, 0.5]),
    st.sampled_from(["", " ", "~", "$HOME", "$NO_SUCH", "..", "/", "/dev/null", "a/b", "x" * 300]),
    st.sampled_from(["reconstruct", "sean", "toyfaces", "sisbench1", "cuda:99", "seeded:x", "fid"]),
    st.sampled_from(
        ["bundled:../x", "./nope.py:X", "nope.pth", "train", "\0", "\x1b[0m", "é", "=1+1"]
    ),
    st.text(string.printable, max_size=12),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.one_of(
        st.lists(below, max_size=3),
        st.dictionaries(
            st.one_of(st.text(string.ascii_lowercase, max_size=6), SCALARS), below, max_size=3
        ),
    ),
    max_leaves=6,
)


CHANGES = ["replace", "replace", "remove", "rename", "wrap", "nest", "copy", "add"]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a tree of mappings and lists, its root left out."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, inner in below:
        found.append((*at, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*at, key))
    return found


@st.composite
def mutated(draw: Callable[[st.SearchStrategy[Any]], Any], base: Any, most: int = 3) -> Any:
    """``base`` with one to ``most`` changes: a value replaced, wrapped, unwrapped or copied
    elsewhere, a key removed, renamed or added."""
    tree = copy.deepcopy(base)
    for _ in range(min(most, draw(st.sampled_from([1, 1, 1, 2, 3])))):
        known = places(tree)
        if not known:
            return tree
        *above, key = draw(st.sampled_from(known))
        holder = tree
        for step in above:
            holder = holder[step]
        kind = draw(st.sampled_from(CHANGES))
        if kind == "replace":
            holder[key] = draw(VALUES)
        elif kind == "remove":
            del holder[key]
        elif kind == "wrap":
            holder[key] = [holder[key]]
        elif kind == "nest":
            holder[key] = {draw(st.text(string.ascii_lowercase, max_size=5)): holder[key]}
        elif kind == "copy":
            holder[key] = copy.deepcopy(_at(tree, draw(st.sampled_from(known))))
        elif isinstance(holder, dict):
            new = draw(st.one_of(st.text(string.printable, max_size=8), SCALARS))
            holder[new] = holder.pop(key) if kind == "rename" else draw(VALUES)
        else:
            holder.append(draw(VALUES))
    return tree


def _at(tree: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        tree = tree[step]
    return tree


def base_configuration(method: Path, data: Path) -> dict[str, Any]:
    """A valid configuration that has every key."""
    return {
        "name": "fuzz",
        "output": "run",
        "protocol": {"base": "sisbench1", "samples": 2, "ssim": "gauss11"},
        "methods": [
            {"name": f"{method}:MeanColour", "label": "Mean"},
            {"name": "spade", "weights": "seeded:1", "options": {"ngf": 2, "crop_size": SIDE}},
        ],
        "datasets": [
            {"name": "toyfaces", "split": "test", "size": SIDE, "n": 2, "label": "Toy"},
            {
                "name": "celebamask_hq",
                "root": str(data),
                "split": "all",
                "size": SIDE,
                "limit": 2,
                "train": {"split": "all"},
            },
        ],
        "tasks": [
            "reconstruct",
            {"shape_transfer": ["hair"]},
            {"interpolate_style": {"alpha": [0.5]}},
            {"name": "class_transfer", "classes": [1, "hair"]},
        ],
        "metrics": ["psnr", "ssim"],
        "parsers": {"celebamask_hq": "toy"},
        "weights": {"inception": "nope.pth"},
        "engine": {"device": "cpu", "batch_size": 2, "workers": 1, "compile": False},
    }


def fuzz(strategy: st.SearchStrategy[Any], count: str, one: Callable[[Any], str]) -> str:
    """Call ``one`` with examples; returns how often it said what."""
    said: dict[str, int] = {}

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES[count],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def tried(example: Any) -> None:
        try:
            answer = one(example)
        except UserError as error:
            answer = "refused" if error.message.strip() else "refused without a word"
        said[answer] = said.get(answer, 0) + 1

    tried()
    assert "refused without a word" not in said
    return ", ".join(f"{n} {what}" for what, n in sorted(said.items()))


@pytest.fixture
def valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    method = tmp_path / "mean_colour.py"
    method.write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    return base_configuration(method, draw_pairs(tmp_path / "data"))


@pytest.mark.parametrize("count", COUNTS)
def test_configurations(
    valid: dict[str, Any], count: str, record_property: Callable[[str, object], None]
) -> None:
    path = Path("fuzz.yaml")
    path.write_text(yaml.safe_dump(valid))
    assert make_plan(load_config(path)).cells

    def one(raw: Any) -> str:
        path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
        plan = make_plan(load_config(path))
        assert plan.cells
        assert len({c.folder for c in plan.cells}) == len(plan.cells)
        return "valid"

    record_property("faults", fuzz(mutated(valid), count, one))


@pytest.mark.parametrize("count", COUNTS)
def test_configurations_as_text(
    valid: dict[str, Any], count: str, record_property: Callable[[str, object], None]
) -> None:
    """Bytes changed, cut and doubled in the YAML itself."""
    path = Path("fuzz.yaml")
    data = yaml.safe_dump(valid).encode()

    def one(raw: bytes) -> str:
        path.write_bytes(raw)
        make_plan(load_config(path))
        return "valid"

    record_property("faults", fuzz(bytes_near(data), count, one))


@st.composite
def bytes_near(draw: Callable[[st.SearchStrategy[Any]], Any], data: bytes) -> bytes:
    """``data`` with a few bytes replaced, inserted, removed, or a part cut off or repeated."""
    found = data
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        until = min(len(found), at + draw(st.integers(0, 9)))
        new = draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"\n", b": ", b"- ", b"\t", b"{"]))
        )
        kind = draw(st.sampled_from(["replace", "insert", "cut", "repeat"]))
        if kind == "replace":
            found = found[:at] + new + found[until:]
        elif kind == "insert":
            found = found[:at] + new + found[at:]
        elif kind == "cut":
            found = found[:at]
        else:
            found = found[:until] + found[at:]
    return found


def read_run(run: Path) -> str:
    """All that a report reads of a run."""
    results = RunResults.of(run)
    for cell in RunStore(run).cells():
        cell.item_rows()
        for record in results.scores:
            read_values(cell, record.metric, record.protocol)
    return "read"


@pytest.mark.parametrize("name", ["run.json", "scores.json", "cell.json"])
@pytest.mark.parametrize("count", COUNTS)
def test_logs(
    bench: Bench, name: str, count: str, record_property: Callable[[str, object], None]
) -> None:
    """Fields of wrong types, gone, or of other names."""
    folder = bench.copy(f"fuzz-{name}")
    path = sorted((folder / "run").rglob(name))[0]
    raw = json.loads(path.read_text())
    assert read_run(folder / "run") == "read"

    def one(changed: Any) -> str:
        path.write_text(json.dumps(changed, default=str), encoding="utf-8")
        return read_run(folder / "run")

    record_property("faults", fuzz(mutated(raw, 2), count, one))


@pytest.mark.parametrize("count", COUNTS)
def test_safetensors_headers(
    tmp_path: Path, count: str, record_property: Callable[[str, object], None]
) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    about = {"method": "spade", "space": "celebamask_hq", "options": {}, "training": {}}
    data = save(tensors, {"format": "sisbench/1", "sisbench": json.dumps(about)})
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    path = tmp_path / "w.safetensors"

    def one(changed: Any) -> str:
        if isinstance(changed, bytes):
            path.write_bytes(changed)
        else:
            text = json.dumps(changed, default=str).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        read_metadata(path)
        state = read_state(path)
        assert all(isinstance(v, torch.Tensor) for v in state.values())
        return "read" if is_safetensors(path) else "another kind"

    either = st.one_of(mutated(header, 2), bytes_near(data))
    record_property("faults", fuzz(either, count, one))


SPACE = {"name": "x", "classes": ["a", "b", "c"], "ignore": 255, "background": [0]}


@pytest.mark.parametrize("count", COUNTS)
def test_label_spaces(
    tmp_path: Path, count: str, record_property: Callable[[str, object], None]
) -> None:
    draw_pairs(tmp_path)
    path = tmp_path / "space.yaml"

    def one(changed: Any) -> str:
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        dataset = open_dataset("folder", root=tmp_path, size=SIDE, space=str(path))
        assert isinstance(dataset.space, LabelSpace)
        dataset.fingerprint()
        return "valid"

    record_property("faults", fuzz(mutated(SPACE), count, one))


@pytest.mark.parametrize("count", COUNTS)
def test_list_files(
    tmp_path: Path, count: str, record_property: Callable[[str, object], None]
) -> None:
    """Lists of items: wrong names, doubled, other encodings, paths that leave the folder."""
    raw = tmp_path / "CelebA-HQ-img"
    raw.mkdir()
    for i in range(ITEMS):
        Image.new("RGB", (8, 8)).save(raw / f"{i}.jpg")
    path = tmp_path / "list.txt"
    strange = ["../0", "/etc/passwd", "", "#", "0.png", "0 1", "\ufeff0", "\0", "00"]
    line = st.one_of(
        st.integers(0, ITEMS - 1).map(str), st.sampled_from(strange), st.text(max_size=8)
    )
    good = st.lists(st.integers(0, ITEMS - 1).map(str), min_size=1, max_size=5)
    lines = st.one_of(good, st.lists(line, max_size=5))
    encoded = st.tuples(lines, st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig", "cp500"]))

    def one(made: tuple[list[str], str]) -> str:
        path.write_bytes("\n".join(made[0]).encode(made[1], errors="replace"))
        dataset = open_dataset("celebamask_hq", root=tmp_path, split_rule=str(path))
        text = "\n".join(made[0]).removeprefix("\ufeff")  # a mark of the encoding, no character
        assert set(dataset.ids) == {line.strip() for line in text.splitlines() if line.strip()}
        dataset.fingerprint()
        return "valid"

    record_property("faults", fuzz(encoded, count, one))
