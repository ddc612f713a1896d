"""docs/training.md: its method trains, is validated by the harness and runs; its table is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from test_docs_add import block
from typer.testing import CliRunner

from sisbench.cli import app
from sisbench.core.frames import Run
from sisbench.core.state_dict import read_metadata
from sisbench.training import Recipe, recipe_names

ROOT = Path(__file__).resolve().parent.parent
FACES = {"name": "toyfaces", "split": "train", "size": 32, "n": 12}


def call(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_method_of_the_document_trains_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tint.py").write_text(block("training.md", "python"))
    recipe = {"method": "./tint.py:Tint", "data": FACES, "steps": 20, "batch": 4, "device": "cpu"}
    Path("tint.yaml").write_text(yaml.safe_dump(recipe))
    checked = "validation.data={name: toyfaces, split: val, size: 32, n: 4}"
    said = call("train", "tint.yaml", "-o", "w.safetensors", "validation.every=10", checked)
    assert "wrote w.safetensors" in said
    assert len(re.findall(r"update (10|20): psnr \d\d", said)) == 2
    about = read_metadata(Path("w.safetensors"))
    assert about is not None
    assert about["training"]["images_seen"] == 80
    assert Path("w.best.safetensors").is_file()
    run = {
        "methods": [{"name": "./tint.py:Tint", "label": "own", "weights": "w.safetensors"}],
        "datasets": [FACES | {"split": "test", "n": 4}],
        "metrics": ["psnr"],
    }
    Path("run.yaml").write_text(yaml.safe_dump(run))
    call("run", "run.yaml")
    scores = Run("runs/run").scores().set_index("method")["value"]
    assert scores["own"] > 16  # mean colours of classes as they are: about 20 dB


def test_the_table_names_every_key() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for key in Recipe.model_fields:
        assert f"`{key}`" in text, key


def test_train_lists_its_recipes() -> None:
    said = call("train")
    assert all(name in said for name in (*recipe_names(), "toy-parser"))
