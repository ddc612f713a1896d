"""What several test files share: an isolated cache and a tiny method without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_text import METHOD


@pytest.fixture(autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's weights nor their cached rows reach a test."""
    base = tmp_path_factory.mktemp("user")
    monkeypatch.setenv("SISBENCH_WEIGHTS", str(base / "weights"))
    monkeypatch.setenv("SISBENCH_CACHE", str(base / "cache"))


@pytest.fixture
def method_file(tmp_path: Path) -> str:
    """``file.py:Class`` of the tiny method."""
    path = tmp_path / "mean_colour.py"
    path.write_text(METHOD)
    return f"{path}:MeanColour"
