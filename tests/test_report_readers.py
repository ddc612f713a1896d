"""What readers of results rely on: labels, tidy CSV, damaged runs, other folders, strips."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sisbench.cli import app
from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.log import SEEDED
from sisbench.core.progress import Progress
from sisbench.core.registry import load_file
from sisbench.core.schema import validated
from sisbench.core.store import RunStore, write_values
from sisbench.pipeline import run_all, score_run, write_report
from sisbench.report import build_report, write_scores_csv
from sisbench.report.charts import _ordered_classes
from sisbench.report.grids import draw, grids
from sisbench.report.page import _matrix
from sisbench.report.quality import RunResults, quality_tables
from sisbench.report.render import defused, to_csv, to_html, to_latex, to_markdown

synthetic = load_file(Path(__file__).parent / "fixtures" / "report" / "synthetic.py")
QUIET = Progress(quiet=True)


def few():
    """Scores for a handful of charts."""
    return [s for s in synthetic.scores() if s.metric == "ssim"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return synthetic.make_run(tmp_path / "run", few(), n=3)


def lines(run: Path) -> list[dict[str, str]]:
    text = (run / "report" / "scores.csv").read_text()
    return list(csv.DictReader(io.StringIO(text)))


def real_run(method_file: str, folder: Path, **more) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(folder),
        "methods": [
            {"name": method_file, "label": "epoch 50"},
            {"name": method_file, "label": "=epoch 100"},
        ],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 5, "label": "faces\x07"}],
        "metrics": ["psnr"],
    }
    return validated(RunConfig, raw | more, "test")


def test_the_label_that_a_user_gives_is_shown_everywhere(method_file: str, tmp_path: Path) -> None:
    config = real_run(method_file, tmp_path / "run")
    run_all(config, QUIET)
    run_all(config, QUIET)  # a finished cell, whose cell.json knows the class's title, too
    out = tmp_path / "run" / "report"
    page = (out / "report.html").read_text()
    assert "Mean colour" not in page.replace("mean-colour", "")
    for path in [*(out / "tables").iterdir(), out / "scores.csv", *(out / "charts").glob("*.svg")]:
        text = path.read_text()
        assert path.suffix == ".svg" or "epoch 50" in text, path.name
        assert "Mean colour" not in text, path.name
    titles = [c.entry.method.title for c in RunStore(tmp_path / "run").cells()]
    assert titles == ["epoch 50", "=epoch 100"]
    assert "\x07" not in page
    assert "faces , reconstruct" in page
    assert {line["method"] for line in lines(tmp_path / "run")} == {"epoch 50", "'=epoch 100"}


def test_the_title_of_the_class_is_the_default(method_file: str, tmp_path: Path) -> None:
    run_all(real_run(method_file, tmp_path / "run", methods=[method_file]), QUIET)
    entry = RunStore(tmp_path / "run").cells()[0].entry
    assert (entry.method.title, entry.method.label) == ("Mean colour", "MeanColour")


def test_a_damaged_description_of_a_finished_cell_is_made_anew(method_file, tmp_path) -> None:
    config = real_run(method_file, tmp_path / "run")
    run_all(config, QUIET)
    own = next((tmp_path / "run").rglob("cell.json"))
    whole, manifest = own.read_bytes(), RunStore(tmp_path / "run").manifest().cells
    for damaged in (b"", whole[:40], b"[]"):
        own.write_bytes(damaged)
        run_all(config, QUIET)
        assert own.read_bytes() == whole
        assert RunStore(tmp_path / "run").manifest().cells == manifest


def test_damaged_scores_are_made_anew_also_by_a_part(method_file: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_all(real_run(method_file, run), QUIET)
    whole = (run / "scores.json").read_bytes()
    for metrics in (None, ["psnr"]):
        (run / "scores.json").write_bytes(whole[:-30])
        score_run(run, metrics, [], [], QUIET)
        assert (run / "scores.json").read_bytes() == whole


def test_scores_csv_is_tidy_and_prints_as_tables_do(tmp_path: Path) -> None:
    run = synthetic.make_run(tmp_path / "run", n=1)
    write_scores_csv(run)
    found = lines(run)
    assert len(found) == len(synthetic.scores())
    head = "run,method,dataset,task,protocol,metric,value,se,low,high,n,p,note"
    assert ",".join(found[0]) == head
    by = {(r["method"], r["task"], r["metric"]): r for r in found}
    miou = by["ca2sis", "reconstruct", "miou"]
    assert miou["value"] == "78.544"
    assert float(miou["se"]) == pytest.approx(78.544 * 0.006)
    assert miou["n"] == "2000"
    assert by["ca2sis", "reconstruct", "ssim"]["value"] == "0.5403"
    absent = by["spade", "shape_transfer[hair]", "miou"]
    assert (absent["value"], absent["note"]) == ("", synthetic.CANNOT)
    assert by["v-inade", "reconstruct", "fid"]["note"] == SEEDED


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", " =x"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    assert defused(text) == f"'{text}"
    assert defused("x=1") == "x=1"
    assert defused("") == ""


def test_every_csv_is_defused_and_numbers_stay(tmp_path: Path) -> None:
    evil = [
        replace(s, method="=cmd()", title="@x", dataset="+d", value=-0.5)
        if s.method == "sean"
        else s
        for s in few()
    ]
    run = synthetic.make_run(tmp_path / "run", evil, n=1)
    build_report(run)
    for path in (run / "report").rglob("*.csv"):
        for row in csv.reader(io.StringIO(path.read_text())):
            for field in row:
                number = field.replace(".", "").lstrip("-").isdigit()
                assert number or field[:1] not in ("=", "+", "-", "@"), (path.name, field)
    own = next(r for r in lines(run) if r["method"] == "'=cmd()")
    assert own["value"] == "-0.5"


def paired_run(tmp_path: Path) -> Path:
    run = synthetic.make_run(tmp_path / "run", few(), n=3)
    store = RunStore(run)
    cells = {c.entry.place[::2]: c.key for c in store.cells()}
    found = [replace(s, cell=cells[s.method, s.task]) for s in store.scores()[0]]
    store.write_scores(found, synthetic.METRICS)
    rng = np.random.default_rng(0)
    for cell in store.cells():
        if cell.entry.task.name == "reconstruct":
            ids = [str(i) for i in range(12)]
            write_values(cell, "ssim", "ca2sis2024", ids, rng.normal(size=12))
    return run


def test_p_values_stand_in_every_format(tmp_path: Path) -> None:
    run = paired_run(tmp_path)
    with pytest.raises(UserError) as caught:
        build_report(run, versus="SAEN")
    assert caught.value.hint in ("did you mean 'SEAN'?", "did you mean 'sean'?")
    build_report(run, versus="SEAN")  # by its title
    table = next((run / "report" / "tables").glob("*versus-sean*.csv"))
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    for row in rows:
        assert 0 < float(row["ssim_p"]) <= 1
        for suffix in (".md", ".tex", ".html"):
            shown = f"(p {float(row['ssim_p']):.3f})"
            assert shown in table.with_suffix(suffix).read_text()
    tidy = {r["method"]: r for r in lines(run)}
    assert tidy["spade"]["p"] == f"{float(rows[0]['ssim_p']):.10g}"
    assert tidy["spade"]["note"] == "p: against sean, paired"
    assert tidy["sean"]["p"] == ""
    quality = to_csv(quality_tables(RunResults.of(run))[0])
    assert "_p" not in quality.splitlines()[0].replace("_protocol", "")


def test_versus_tables_stay_and_follow_the_scores(tmp_path: Path) -> None:
    run = paired_run(tmp_path)
    build_report(run, versus="spade")
    build_report(run, versus="ca2sis_table1", formats=("md",))
    build_report(run)
    names = {p.name for p in (run / "report" / "tables").glob("*.md")}
    assert any("versus-spade" in n for n in names)
    assert any("ca2sis_table1" in n for n in names)
    page = (run / "report" / "report.html").read_text()
    assert "difference to spade" in page
    again = build_report(run).read_text()
    assert again == page
    store = RunStore(run)
    rest = [s for s in store.scores()[0] if s.method != "spade"]
    for cell in store.cells():
        if cell.entry.method.label == "spade":
            shutil.rmtree(cell.folder, ignore_errors=True)
    manifest = store.manifest()
    kept = tuple(c for c in manifest.cells if c.method.label != "spade")
    store.write_manifest(manifest.model_copy(update={"cells": kept}))
    store.write_scores(rest, synthetic.METRICS)
    build_report(run)
    assert not list((run / "report" / "tables").glob("*versus-spade*")), "spade is gone"
    (run / "report" / "versus.json").write_text("[")
    build_report(run)


def test_an_unknown_opponent_lists_the_runs_methods(run: Path) -> None:
    with pytest.raises(UserError) as error:
        build_report(run, versus="nothing of the kind")
    assert "sean, spade, ca2sis, v-inade" in str(error.value)
    with pytest.raises(UserError, match="did you mean 'sean'"):
        build_report(run, versus="saen")


def test_seeded_methods_are_never_the_best(tmp_path: Path) -> None:
    seeded = [replace(s, marks=(SEEDED,)) for s in few()]
    table = quality_tables(RunResults.of(synthetic.make_run(tmp_path / "run", seeded, n=1)))[0]
    assert all(cell.rank == 0 for line in table.cells for cell in line)
    for text in (to_markdown(table), to_latex(table), to_html(table)):
        assert "second best" not in text


def test_what_came_out_is_a_matrix(tmp_path: Path) -> None:
    run = synthetic.make_run(tmp_path / "run", n=1)
    matrix = _matrix(RunResults.of(run))
    assert matrix.places == [
        "celebamask_hq, reconstruct",
        "celebamask_hq, shape_transfer[hair]",
        "celebamask_hq, transfer",
    ]
    rows = dict(matrix.rows)
    assert rows["SEAN"] == [("5 of 5 scores", ""), ("2 of 2 scores", ""), ("1 of 1 scores", "")]
    assert rows["SPADE"][1] == ("impossible: 0 of 2 scores", "a")
    assert matrix.notes == [("a", "FID-Sh, mIoU", synthetic.CANNOT)]
    assert "Real photographs" not in rows


def damage(run: Path, name: str) -> str:
    """Spoil one kind of file; what the report must say of it."""
    cell = RunStore(run).cells()[0]
    if name == "scores.json":
        path = run / "scores.json"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif name == "no scores":
        (run / "scores.json").unlink()
        return "no file …/scores.json"
    elif name == "cell.json":
        (cell.folder / "cell.json").write_text("")
    elif name == "items":
        for path in (cell.folder / "items").iterdir():
            path.write_bytes(b"garbage")
        return "0.parquet is damaged"
    elif name == "values":
        (cell.folder / "values").mkdir()
        (cell.folder / "values" / "ssim@ca2sis2024.npz").write_bytes(b"PK\x03\x04cut")
        return "ssim@ca2sis2024.npz is damaged"
    return f"{name} is damaged"


@pytest.mark.parametrize("name", ["scores.json", "no scores", "cell.json", "items", "values"])
def test_a_damaged_file_is_named_and_the_rest_is_reported(run: Path, name: str) -> None:
    wanted = damage(run, name)
    said: list[str] = []
    page = build_report(run, load_sample=synthetic.sample, say=said.append).read_text()
    assert wanted in page
    assert len(said) == 1
    assert list((run / "report" / "grids").glob("*.png"))
    if "scores" not in name:
        assert list((run / "report" / "tables").glob("*.md"))
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert "note:" in result.output


def test_a_damaged_picture_is_grey_and_named(run: Path) -> None:
    cell = RunStore(run).cells()[0]
    cell.image_path("1").write_bytes(cell.image_path("1").read_bytes()[:70])
    found = grids(RunResults.of(run), synthetic.sample)[0]
    assert found.note == "Damaged, shown in grey: SEAN 1."


def test_a_run_without_images_is_reported(run: Path) -> None:
    for folder in run.glob("cells/*/images"):
        shutil.rmtree(folder)
    build_report(run, load_sample=synthetic.sample)
    assert list((run / "report" / "grids").iterdir()) == []
    assert list((run / "report" / "tables").glob("*.md"))


def test_a_report_goes_to_another_folder(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(p for p in run.rglob("*"))
    result = CliRunner().invoke(app, ["report", "run", "--out", "paper/report"])
    assert result.exit_code == 0, result.output
    assert sorted(p for p in run.rglob("*")) == before, "nothing is written into the run"
    names = {p.name for p in Path("paper/report").iterdir()}
    assert names == {"tables", "charts", "grids", "report.html", "scores.csv", "timing.csv"}
    write_report(run, out=Path("paper/report"))  # its own folder is written again
    mine = tmp_path / "mine" / "tables"
    mine.mkdir(parents=True)
    (mine / "precious.tex").write_text("x")
    with pytest.raises(UserError, match="holds no report"):
        write_report(run, out=tmp_path / "mine")
    assert (mine / "precious.tex").is_file()


def test_a_folder_that_cannot_be_written_is_one_line(run: Path, monkeypatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sisbench.report.build.write_atomic", refuse)
    with pytest.raises(UserError, match="cannot be written: Permission denied") as error:
        build_report(run)
    assert "--out DIR" in str(error.value)
    monkeypatch.undo()
    shutil.rmtree(run / "report")
    (run / "report").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        build_report(run)


def test_interpolations_are_strips_by_alpha(method_file, tmp_path, monkeypatch) -> None:
    tasks = [{"interpolate_style": {"alpha": [1.0, 0.0, 0.5]}}]
    run_all(real_run(method_file, tmp_path / "run", tasks=tasks), QUIET)
    seen = []

    def watched(columns, names):
        seen.append((columns, names))
        return draw(columns, names)

    monkeypatch.setattr("sisbench.report.grids.draw", watched)
    loads = []

    def load(config, name):
        loads.append(name)
        return synthetic.sample(None, name[-1])

    found = grids(RunResults.of(tmp_path / "run"), load, rows=2)
    assert [g.title.split(": ")[1] for g in found] == ["epoch 50", "=epoch 100"]
    columns, names = seen[0]
    assert list(columns) == ["target", "α = 0", "α = 0.5", "α = 1", "reference"]
    assert len(names) == 2
    assert seen[1][1] == names, "the same targets for every method"
    cell = RunStore(tmp_path / "run").cells()[0]
    assert np.array_equal(columns["α = 0.5"][1], cell.image(f"{names[1]}~a0.5"))
    rows = {r.id: r for r in cell.item_rows()}
    shown = synthetic.sample(None, rows[f"{names[0]}~a0"].reference[-1])[0]
    assert np.array_equal(columns["reference"][0], shown)


def test_classes_stand_in_one_order(tmp_path: Path) -> None:
    found = RunResults.of(synthetic.make_run(tmp_path / "run", few(), n=1))
    values = [{"hair": 0.1, "skin": 0.9, "odd": 0.5, "hat": None, "background": float("nan")}]
    assert _ordered_classes(found, "celebamask_hq", values) == ["skin", "hair", "odd"]
    assert _ordered_classes(found, "celebamask_hq", [{"skin": 0.1}, {"hair": 0.9}]) == [
        "skin",
        "hair",
    ]


def test_the_page_has_no_control_characters_and_no_markup_of_labels(tmp_path: Path) -> None:
    evil = "a\x00b\x1b[31m<b onload=x>\u202e"
    found = [replace(s, title=evil, dataset=evil, reason=evil, value=None) for s in few()]
    run = synthetic.make_run(tmp_path / "run", found, n=1)
    raw = json.loads((run / "run.json").read_text())
    raw["name"] = evil
    raw["cells"][0]["reason"] = evil
    (run / "run.json").write_text(json.dumps(raw))
    page = build_report(run).read_text()
    assert "<b onload" not in page
    assert not {c for c in page if not c.isprintable()} - {"\n"}
