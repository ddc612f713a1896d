"""A layout editor before a method, and its own task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sisbench import methods
from sisbench.config import RunConfig
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.pipeline import run_all

EDITOR = '''
import torch
from torch import nn
from sisbench.methods.base import class_mask
from sisbench.methods.editor import LayoutEditor


class Flip(LayoutEditor):
    """Mirrors label maps; swaps take the reference's."""

    name, title, paper = "flip", "Flip", "none"
    size = (32, 32)

    def build(self, space):
        return nn.Identity()

    def reconstruct(self, batch, noise):
        return batch.label.flip(2)

    def generate(self, batch, noise, classes=None):
        return batch.label.flip(1)

    def perturb(self, batch, noise, classes=None):
        return batch.label

    def swap(self, target, reference, noise, classes=None):
        return reference.label

    def interpolate(self, target, reference, noise, alpha, classes=None):
        return target.label
'''


@pytest.fixture
def flip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "flip.py"
    path.write_text(EDITOR)
    monkeypatch.setitem(methods.editors._builtin, "flip", "flip:Flip")
    monkeypatch.syspath_prepend(tmp_path)
    return "flip"


def run(method: str, out: Path, **changes: Any) -> RunStore:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": [{"name": method}],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 4}],
        "metrics": ["miou", "accuracy", "psnr"],
        "parsers": {"celebamask_hq": "toy"},
    }
    run_all(validated(RunConfig, {**raw, **changes}, "test"), Progress(quiet=True))
    return RunStore(out)


def test_edited_maps_are_drawn_and_kept(flip: str, method_file: str, tmp_path: Path) -> None:
    plain = run(method_file, tmp_path / "plain").cells()[0]
    edited = run(method_file, tmp_path / "edited", layout_editor={"name": flip})
    cell = edited.cells()[0]
    assert cell.key != plain.key
    assert cell.label_path("test-00000") is not None
    # the tiny method is a look-up by label map: a mirrored map gives the mirrored colours
    one, two = plain.image("test-00000"), cell.image("test-00000")[:, ::-1]
    assert np.abs(one.astype(int) - two).mean() < np.abs(one.astype(int) - two[:, ::-1]).mean()
    scores = {s.metric: s for s in edited.scores()[0] if not s.marks}
    assert scores["miou"].value is not None, "the edited map is what the parser is held against"
    assert "psnr" not in scores or scores["psnr"].value is None, "it has no photograph"


def test_swaps_take_the_protocols_reference(flip: str, method_file: str, tmp_path: Path) -> None:
    store = run(method_file, tmp_path / "run", layout_editor={"name": flip, "edit": "swap"})
    assert all(row["reference"] for row in store.cells()[0].items())


def test_tasks_that_do_not_combine_say_so(flip: str, method_file: str, tmp_path: Path) -> None:
    store = run(
        method_file,
        tmp_path / "run",
        layout_editor={"name": flip},
        tasks=["shape_transfer", "layout_reconstruction"],
    )
    reasons = [c.entry.reason for c in store.cells()]
    assert "not combined with a layout editor" in reasons[0]
    assert "no layout editor" in reasons[1]


def test_the_editors_own_task(flip: str, tmp_path: Path) -> None:
    store = run(flip, tmp_path / "run", tasks=["layout_reconstruction", "reconstruct"])
    own, other = store.cells()
    assert own.entry.status == "done"
    assert "layout_reconstruction" in other.entry.reason
    scores = {s.metric: s for s in store.scores()[0] if s.task == "layout_reconstruction"}
    assert scores.keys() == {"miou", "accuracy"}
    from sisbench.data import open_dataset

    data = open_dataset("toyfaces", size=32, n=4)
    labels = [data.load(i).label for i in data.ids]
    same = np.mean([(label == label[:, ::-1]).mean() for label in labels])
    assert scores["accuracy"].value == pytest.approx(same)
