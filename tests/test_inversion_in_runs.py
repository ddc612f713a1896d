"""Inversions in a run: progress by steps, cost apart from rendering, kept on disk, said so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import tiny_networks
from rich.console import Console

from sisbench.config import RunConfig
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.diagnose.explain import explain, explain_scores
from sisbench.methods.semantic_stylegan import photographs
from sisbench.pipeline import run_all
from sisbench.run.plan import make_plan
from sisbench.run.runner import generate

QUIET = Progress(quiet=True)


def config(out: Path, **changes: Any) -> RunConfig:
    options = {**tiny_networks.SEMANTIC_STYLEGAN, **changes.pop("options", {})}
    raw = {
        "name": "inversion",
        "output": str(out),
        "methods": [{"name": "semantic-stylegan", "weights": "seeded:0", "options": options}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 16, "n": 2}],
        "tasks": ["reconstruct"],
        "metrics": ["psnr"],
        "engine": {"device": "cpu", "workers": 0},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def cells(run: RunConfig, progress: Progress = QUIET) -> list[CellView]:
    generate(make_plan(run), progress)
    return RunStore(run.folder).cells()


def test_steps_and_cost_are_told(tmp_path: Path) -> None:
    text = io.StringIO()
    told = Progress(Console(file=text, width=200))
    run = config(tmp_path / "run", options={"steps": 8}, tasks=["reconstruct", "transfer"])
    first, second = cells(run, told)
    lines = [line for line in text.getvalue().splitlines() if line.startswith("inversion")]
    names = ("test-00000", "test-00001")
    assert lines == [f"inversion {i}: step {k} of 8" for i in names for k in (2, 4, 6, 8)]
    for cell in (first, second):
        for row in cell.item_rows():
            assert row.seconds is not None
            assert row.encode_seconds is not None
            assert row.encode_seconds > 0
        assert "inversion into W+: 8 steps" in cell.entry.method.reads
        assert "(seed 0)" in cell.entry.method.reads
    spent = [row.encode_seconds for row in first.item_rows()]
    again = [row.encode_seconds for row in second.item_rows()]
    assert sum(again) == pytest.approx(2 * sum(spent), rel=0.5), "target and reference, as kept"
    run_all(run, QUIET)
    timing = (tmp_path / "run/report/timing.csv").read_text().splitlines()
    at = timing[0].split(",").index("encode_seconds")
    assert float(timing[1].split(",")[at]) > 0
    assert "to encode)" in (tmp_path / "run/report/report.html").read_text()


def test_the_bar_shows_the_steps() -> None:
    progress = Progress(Console(file=io.StringIO(), force_terminal=True, width=200))
    with progress.bar("a cell", 3) as advance:
        progress.step("inversion 7", 3, 400)
        assert progress._shown is not None
        advance(1)
        progress.step("inversion 7", 400, 400)
    assert "inversion 7, step 3 of 400" in progress.console.file.getvalue()  # type: ignore[attr-defined]
    assert progress._shown is None


def test_an_interrupted_run_keeps_what_it_has_inverted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = photographs.invert, []

    def counted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(photographs, "invert", counted)
    run = config(tmp_path / "run", tasks=["reconstruct", "shape_transfer"])
    with pytest.raises(KeyboardInterrupt):
        cells(run)
    assert [c.entry.status for c in cells(run)] == ["done", "done"]
    assert len(calls) == 3, "the photograph that was inverted before is not again"
    assert [c.entry.status for c in cells(config(tmp_path / "other"))] == ["done"]
    assert len(calls) == 3, "nor by another run"


def test_tuning_belongs_to_reconstructions_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tuned = photographs.tune, []

    def counted(*args: Any) -> Any:
        tuned.append(1)
        return real(*args)

    monkeypatch.setattr(photographs, "tune", counted)
    options = {"finetune_steps": 2}
    transfers = ["transfer", "shape_transfer", "sample"]
    found = cells(config(tmp_path / "a", options=options, tasks=transfers))
    assert not tuned
    plain = cells(config(tmp_path / "b", tasks=transfers))
    for cell, same in zip(found, plain, strict=True):
        for row in cell.item_rows():
            assert (cell.image(row.id) == same.image(row.id)).all()
    (cell,) = cells(config(tmp_path / "c", options=options))
    assert len(tuned) == 2
    assert "tuned 2 steps, for reconstructions alone" in cell.entry.method.reads


def test_miou_says_which_label_map_it_compares_with(tmp_path: Path) -> None:
    run = config(
        tmp_path / "run",
        tasks=["reconstruct", {"shape_transfer": ["hair"]}],
        metrics=["miou"],
        parsers={"celebamask_hq": "toy"},
    )
    run_all(run, QUIET)
    scores = {s.task: s for s in RunStore(run.folder).scores()[0] if s.value is not None}
    own, swapped = scores["reconstruct"], scores["shape_transfer[hair]"]
    assert "label_map" not in own.extra
    assert (
        swapped.extra["label_map"] == "swapped in pixel space, not the network's own segmentation"
    )
    text = " ".join(explain_scores(run.folder, "miou").split())
    assert "label map the target's own" in text
    assert "label map swapped in pixel space" in text
    tables = (run.folder / "report/tables").glob("*shape_transfer*.md")
    assert any("label map swapped in pixel space" in t.read_text() for t in tables)
    assert "never a segmentation of the network's own" in explain("miou", "sisbench1")


def test_operations_are_those_of_rendering(tmp_path: Path) -> None:
    """Whether a photograph was inverted before changes no count."""
    engine = {"device": "cpu", "workers": 0, "profile": True}
    (first,) = cells(config(tmp_path / "a", engine=engine))
    (kept,) = cells(config(tmp_path / "b", engine=engine))
    counted = [[row.flops for row in cell.item_rows()] for cell in (first, kept)]
    assert counted[0] == counted[1]
    assert counted[0][0] is not None
