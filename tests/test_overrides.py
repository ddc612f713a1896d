"""Changes to a configuration from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sisbench.config import load_config
from sisbench.core.errors import UserError
from sisbench.core.overrides import overridden

RAW: dict[str, Any] = {
    "methods": ["spade", {"name": "sean", "label": "SEAN", "options": {"ngf": 8}}],
    "datasets": ["toyfaces", {"name": "toyfaces", "label": "b", "split": "val"}],
}


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("engine.device=cuda", ("engine", "device"), "cuda"),
        ("engine.batch_size=2", ("engine", "batch_size"), 2),
        ("methods.1.options.ngf=4", ("methods", 1, "options", "ngf"), 4),
        ("methods.SEAN.weights=seeded:0", ("methods", 1, "weights"), "seeded:0"),
        ("methods.spade.weights=null", ("methods", 0, "weights"), None),
        ("tasks=[reconstruct, transfer]", ("tasks",), ["reconstruct", "transfer"]),
        ("datasets.b.split=test", ("datasets", 1, "split"), "test"),
    ],
)
def test_places(text: str, place: tuple[Any, ...], value: Any) -> None:
    found: Any = overridden(RAW, [text])
    for step in place:
        found = found[step]
    assert found == value
    assert "engine" not in RAW, "what was read is not changed"


def test_a_limit_is_of_every_data_set(tmp_path: Path) -> None:
    found = overridden(RAW, [], 3)["datasets"]
    assert found == [
        {"name": "toyfaces", "limit": 3},
        {"name": "toyfaces", "label": "b", "split": "val", "limit": 3},
    ]
    path = tmp_path / "a.yaml"
    path.write_text("methods: [sean]\ndatasets: [toyfaces]\n")
    config = load_config(path, ["engine.device=cpu"], 5)
    assert config.engine.device == "cpu"
    assert config.datasets[0].arguments == {"limit": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine", "sets nothing"),
        ("=3", "sets nothing"),
        ("methods.saen.weights=x", "did you mean"),
        ("methods.7.weights=x", "no entry '7'"),
        ("methods.1.label.x=3", "'label' is 'SEAN', which holds no 'x'"),
        ("engine.device=[", "is not YAML"),
    ],
)
def test_faults(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        overridden(RAW, [text])


def test_an_unknown_key_is_found_where_the_configuration_is_validated(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("methods: [sean]\ndatasets: [toyfaces]\n")
    with pytest.raises(UserError, match="did you mean 'device'"):
        load_config(path, ["engine.devise=cpu"])
