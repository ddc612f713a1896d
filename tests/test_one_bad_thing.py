"""One bad method, data set or weights file costs itself and nothing else, and is known early."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.pipeline import score_run
from sisbench.run import preflight, runner
from sisbench.run.plan import make_plan

QUIET = Progress(quiet=True)


def config(out: Path, methods: list[Any], **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": methods,
        "datasets": [{"name": "toyfaces", "size": 32, "n": 2}],
        "metrics": ["psnr"],
        "engine": {"device": "cpu", "batch_size": 2, "workers": 0},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def made(run: RunConfig) -> dict[str, tuple[str, str]]:
    """Method label -> (status, reason), once the run has generated."""
    runner.generate(make_plan(run), QUIET)
    cells = RunStore(run.folder).cells()
    return {c.entry.method.label: (c.entry.status, c.entry.reason) for c in cells}


@pytest.mark.parametrize(
    ("place", "raised"),
    [
        ("return nn.Identity()", "raise KeyError('hair')"),
        ("return nn.Identity()", "raise MemoryError"),
        ("flat = one_hot", "assert False; flat = one_hot"),
        ("flat = one_hot", "[][3]; flat = one_hot"),
        ("size = (32, 32)", "size = (32, 32)\n    def __init__(self): raise TypeError('no')"),
        ("size = (32, 32)", "size = (32, 32)\n    def describe(self): return {'x': object()}"),
        ("size = (32, 32)", "size = (32, 32)\n    def load(self, *a): raise OSError(2, 'gone')"),
        ("size = (32, 32)", "size = (32, 32)\n    def cannot(self): return 1 / 0"),
    ],
)
def test_whatever_a_method_raises_costs_itself(
    place: str, raised: str, method_file: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    assert place in text
    bad.write_text(text.replace(place, raised))
    both = [{"name": f"{bad}:MeanColour", "label": "bad"}, {"name": method_file, "label": "good"}]
    found = made(config(tmp_path / "run", both))
    assert found["good"] == ("done", "")
    status, reason = found["bad"]
    assert status == "failed"
    assert "Error" in reason
    if "describe" not in raised:
        line = bad.read_text()[: bad.read_text().index(raised.split("\n")[-1].strip())].count("\n")
        assert f"(bad.py, line {line + 1})" in reason


def test_a_data_set_that_cannot_be_opened_costs_its_cells(method_file: str, tmp_path: Path) -> None:
    data = [{"name": "toyfaces", "size": 32, "n": 2}, {"name": "celebamask_hq", "root": "nowhere"}]
    run = config(tmp_path / "run", [method_file], datasets=data)
    runner.generate(make_plan(run), QUIET)
    good, bad = (c.entry for c in RunStore(run.folder).cells())
    assert (good.status, bad.status) == ("done", "failed")
    assert "data set celebamask_hq" in bad.reason
    score_run(run.folder, None, [], [], QUIET)
    scores = {s.dataset: s for s in RunStore(run.folder).scores()[0] if s.metric == "psnr"}
    assert scores["toyfaces"].value is not None
    assert scores["celebamask_hq"].reason
    with pytest.raises(UserError, match="nowhere"):
        make_plan(config(tmp_path / "run", [method_file], datasets=data[1:]))


def test_faults_are_known_before_anything_is_loaded(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<!doctype html><html>login</html>")
    empty = tmp_path / "empty"
    empty.mkdir()
    faults = {
        "gone": ("spade", "nope.pth", "no weights at nope.pth"),
        "page": ("spade", str(page), "a web page"),
        "folder": ("spade", str(empty), "holds no weights file"),
        "other": ("spade", "bundled:toy-sean", "weights of 'sean', not of 'spade'"),
        "size": ("sean", "bundled:toy-sean", "renders 64x64, the data set is opened at 32x32"),
        "none": ("spade", None, "needs weights"),
    }
    entries = [{"name": n, "label": k, "weights": w} for k, (n, w, _) in faults.items()]
    wide = tmp_path / "wide.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    wide.write_text(text.replace("(32, 32)", "(48, 32)"))
    entries.append({"name": f"{wide}:MeanColour", "label": "own"})

    def loaded(*_: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(runner, "load_method", loaded)
    found = made(config(tmp_path / "run", entries))
    for label, (_, _, message) in faults.items():
        assert found[label][0] == "failed"
        assert message in found[label][1]
    assert "renders 48x32" in found["own"][1]


def test_a_disk_that_is_clearly_too_full_is_said_before(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(config(tmp_path / "run", [method_file]))
    needed = preflight.bytes_needed(plan, plan.cells)
    assert needed == 2 * (32 * 32 * 2 + 16_384)
    for part, refused in ((0.4, True), (0.9, False)):
        free = SimpleNamespace(free=int(needed * part))
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _, free=free: free)
        if refused:
            with pytest.raises(UserError, match=r"36\.0 KiB"):
                runner.generate(plan, QUIET)
        else:
            runner.generate(plan, QUIET)
    assert runner.generate(plan, QUIET).images == 0
