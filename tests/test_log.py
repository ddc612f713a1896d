"""The typed log of a run: what is read, what is refused, what is damaged; and its data frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import sisbench
from sisbench.core.errors import UserError
from sisbench.core.log import CellEntry, MetricFacts, ScoreRecord
from sisbench.core.registry import load_file
from sisbench.core.store import CellFolder, RunStore, read_values, write_values

synthetic = load_file(Path(__file__).parent / "fixtures" / "report" / "synthetic.py")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return synthetic.make_run(tmp_path / "run", n=4)


def test_a_manifest_is_read_and_written_without_loss(run: Path) -> None:
    raw = json.loads((run / "run.json").read_text())
    raw["cells"][0]["method"]["weights"]["about"] = {"training": {"steps": 3}}
    (run / "run.json").write_text(json.dumps(raw))
    manifest = RunStore(run).manifest()
    assert manifest.written() == raw
    RunStore(run).write_manifest(manifest)
    assert json.loads((run / "run.json").read_text()) == raw
    entry = manifest.cells[0]
    assert entry.place == ("sean", "celebamask_hq", "reconstruct")
    assert entry.method.weights.sha256 == "0f" * 32
    assert not entry.method.seeded
    assert manifest.cells[3].method.seeded


def test_scores_are_read_as_they_were_written(run: Path) -> None:
    scores, facts = RunStore(run).scores()
    assert scores == synthetic.scores()
    assert facts["miou"].scale == 100.0
    before = (run / "scores.json").read_bytes()
    file = RunStore(run).scores_file()
    RunStore(run).write_scores(file.scores, file.metrics, file.protocols)
    assert (run / "scores.json").read_bytes() == before


@pytest.mark.parametrize("name", ["run.json", "scores.json"])
@pytest.mark.parametrize(
    ("schema", "said", "remedy"),
    [(1, "an earlier sisbench", "run its configuration again"), (3, "a later", "upgrade sisbench")],
)
def test_another_schema_is_one_clear_line(run, name, schema, said, remedy) -> None:
    raw = json.loads((run / name).read_text()) | {"schema": schema}
    (run / name).write_text(json.dumps(raw))
    read = RunStore(run).manifest if name == "run.json" else RunStore(run).scores_file
    with pytest.raises(UserError, match=said) as error:
        read()
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b"\xff\xfe\x00", b'{"schema": 2, "cells": [{"key": 1}]}', b"null", b"3"],
)
def test_a_damaged_manifest_is_one_clear_line(run: Path, content: bytes) -> None:
    (run / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        sisbench.open_run(run)


def test_a_manifest_never_leads_out_of_its_run(run: Path) -> None:
    raw = json.loads((run / "run.json").read_text())
    for folder in ("../../etc", "/etc", "cells/../../x"):
        raw["cells"][0]["folder"] = folder
        (run / "run.json").write_text(json.dumps(raw))
        with pytest.raises(UserError, match="lies within its run"):
            RunStore(run).cells()


def test_a_wrong_value_is_refused_where_it_is_written() -> None:
    with pytest.raises(ValueError, match="status"):
        CellEntry.model_validate(
            {"key": "k", "folder": "f", "method": {"label": "a", "title": "b"}, "status": "nearly"}
            | {"dataset": {"label": "d", "name": "d"}, "task": {"name": "t", "slug": "t"}}
        )
    with pytest.raises(ValueError, match="value"):
        ScoreRecord("m", "M", "d", "t", "fid", "p", "much")
    with pytest.raises(ValueError, match="direction"):
        MetricFacts(direction="sideways")


def test_damaged_files_of_a_cell_are_named_and_the_rest_is_read(run: Path) -> None:
    view = RunStore(run).cells()[0]
    write_values(view, "psnr", "p", ["0", "1"], np.array([1.0, 2.0]))
    whole = next((view.folder / "items").glob("*.parquet"))
    (view.folder / "items" / "part-000000.parquet").write_bytes(whole.read_bytes()[:-9])
    assert len(view.item_rows()) == 4
    (view.folder / "cell.json").write_text("")
    values = next((view.folder / "values").glob("*.npz"))
    values.write_bytes(values.read_bytes()[: values.stat().st_size // 2])
    said = view.faults()
    assert [name in text for name, text in zip(("part-", "cell.json", "psnr"), said, strict=True)]
    with pytest.raises(UserError, match="is damaged"):
        read_values(view, "psnr", "p")
    assert CellFolder(run / "nowhere").item_rows() == []
    assert CellFolder(run / "nowhere").faults() == []


def test_pictures_that_are_gone_or_damaged_are_named(run: Path) -> None:
    view = RunStore(run).cells()[0]
    view.image_path("0").write_bytes(view.image_path("0").read_bytes()[:60])
    view.image_path("1").write_text("no picture")
    view.image_path("2").unlink()
    for name, said in (("0", "damaged"), ("1", "damaged"), ("2", "gone")):
        with pytest.raises(UserError, match=said):
            view.image(name)


def test_scores_are_a_frame(run: Path) -> None:
    frame = sisbench.open_run(run).scores()
    assert len(frame) == len(synthetic.scores())
    fid = frame[(frame.metric == "fid") & (frame.method == "ca2sis")].iloc[0]
    assert (fid.value, fid.n, fid.n_real, fid.title) == (15.84, 2000, 2824, "CA2-SIS")
    assert fid.extractor == synthetic.BASIS["extractor"]
    absent = frame[frame["value"].isna()]
    assert set(absent["method"]) == {"spade"}
    assert set(absent["reason"]) == {synthetic.CANNOT}
    table = frame[frame.task == "reconstruct"].pivot(
        index="method", columns="metric", values="value"
    )
    assert table.loc["sean", "psnr"] == 16.2


def test_items_are_a_frame_with_their_values(run: Path) -> None:
    store = RunStore(run)
    cell = store.cells()[0]
    scores = [
        ScoreRecord(*cell.entry.place[:1], "SEAN", *cell.entry.place[1:], "psnr", "ca2sis2024", 1.5)
    ]
    scores[0] = ScoreRecord(**{**vars(scores[0]), "cell": cell.key})
    store.write_scores(scores, synthetic.METRICS)
    write_values(cell, "psnr", "ca2sis2024", ["0", "1"], np.array([1.0, 2.0]))
    cell.image_path("1").unlink()
    frame = sisbench.open_run(run).items()
    assert len(frame) == 11 * 4  # SPADE has no shape transfer
    own = frame[(frame.method == "sean") & (frame.task == "reconstruct")].set_index("id")
    assert own.loc[["0", "1"], "psnr"].tolist() == [1.0, 2.0]
    assert own["psnr"].isna().sum() == 2
    assert own.loc["1", "image"] == ""
    assert Path(own.loc["0", "image"]).is_file()
    assert "broken" in own.loc["3", "error"]
    (run / "scores.json").unlink()
    assert len(sisbench.open_run(run).items()) == 11 * 4, "images without scores have rows too"
    with pytest.raises(UserError, match="sisbench score RUN"):
        sisbench.open_run(run).scores()
