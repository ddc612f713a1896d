"""``sisbench init``: what lies in a folder, and a configuration that is valid at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisbench.config import load_config
from sisbench.core.errors import UserError
from sisbench.data.detect import detect
from sisbench.data.starter import Wanted, starter


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def pairs(root: Path, n: int) -> None:
    for k in range(n):
        save(root / f"images/{k}.jpg", np.zeros((8, 8, 3), np.uint8))
        save(root / f"labels/{k}.png", np.zeros((8, 8), np.uint8))


def test_prepared_pairs_are_found_and_counted(tmp_path: Path) -> None:
    pairs(tmp_path / "val", 3)
    pairs(tmp_path / "train", 5)
    found = detect(tmp_path)
    assert [(f.name, f.arguments["split"], f.count) for f in found] == [
        ("celebamask_hq", "val", 3),
        ("celebamask_hq", "train", 5),
    ]
    pairs(tmp_path / "own", 2)
    assert [f.arguments["split"] for f in detect(tmp_path / "own")] == ["all"]
    assert "own" in [f.arguments["split"] for f in detect(tmp_path)]


def test_official_layouts_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "a/CelebA-HQ-img/28000.jpg", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "b/images/validation/x.jpg", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "b/annotations/validation/x.png", np.zeros((8, 8), np.uint8))
    assert detect(tmp_path / "a")[0].name == "celebamask_hq"
    assert "2,000" in detect(tmp_path / "a")[0].remarks[0]
    assert [(f.name, f.count) for f in detect(tmp_path / "b")] == [("ade20k", 1)] * 2, "test is val"
    with pytest.raises(UserError, match="no data set that is known"):
        detect(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        detect(tmp_path / "nowhere")


def test_what_is_written_is_a_valid_configuration(tmp_path: Path) -> None:
    pairs(tmp_path / "data/test", 2)
    pairs(tmp_path / "data/train", 3)
    file = tmp_path / "mine.yaml"
    wanted = Wanted({"sean": "bundled:toy-sean", "spade": ""}, tmp_path / "data")
    text, found = starter(wanted, file)
    file.write_text(text)
    config = load_config(file)
    assert [m.name for m in config.methods] == ["sean", "spade"]
    assert config.datasets[0].arguments["split"] == "test"
    assert config.datasets[0].train == {"split": "train"}
    assert "2 items" in text
    assert len(found) == 2
    bundled, _ = starter(Wanted({"sean": "bundled:toy-sean"}), file)
    file.write_text(bundled)
    assert load_config(file).datasets[0].name == "toyfaces"
    with pytest.raises(UserError, match="needs a method"):
        starter(Wanted({}), file)
