"""Charts, image grids and the page of a report."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisbench.core.adapter_file import load_file
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.report import build_report, console_tables
from sisbench.report.charts import plain
from sisbench.report.grids import _palette, colourise, draw, grids, pick
from sisbench.report.quality import RunResults

synthetic = load_file(Path(__file__).parent / "fixtures" / "report" / "synthetic.py")
EVIL = "<script>alert('x')</script> $\\frac{"


def evil_scores():
    return [replace(s, title=EVIL) if s.method == "sean" else s for s in synthetic.scores()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return synthetic.make_run(tmp_path_factory.mktemp("run"), evil_scores(), n=5)


@pytest.fixture(scope="module")
def page(run):
    path = build_report(run, load_sample=synthetic.sample, versus="ca2sis_table4")
    return path.read_text(encoding="utf-8")


def few():
    """Scores for a handful of charts."""
    return [s for s in evil_scores() if s.metric == "miou" and s.task == "reconstruct"]


class Links(HTMLParser):
    """Tags, and everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    links = Links()
    links.feed(page)
    assert links.open == []
    assert "script" not in links.tags
    assert "link" not in links.tags
    assert all(s.startswith(("#", "data:image/")) for s in links.sources)
    assert "url(" not in page
    anchors = {s[1:] for s in links.sources if s.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', page))


def test_the_page_says_what_ran_and_what_is_missing(page):
    for text in (
        "ca2sis2024",
        "inception-v3-compat 6726825d6726",
        synthetic.CANNOT,
        "0f" * 32,
        "d1" * 32,
        "quantise",
        "scores say nothing about the method",
        "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;",
        "label map …/x.png is broken",
        "No images: SPADE.",
    ):
        assert text in page.replace("&#x27;", "&#39;"), text
    assert "/home/me" not in page
    assert "/data/" not in page


def test_the_report_folder(tmp_path):
    run = synthetic.make_run(tmp_path, few(), n=5)
    build_report(run)
    names = {p.name for p in (run / "report").iterdir()}
    assert names == {"tables", "charts", "grids", "report.html", "scores.csv", "timing.csv"}
    timing = (run / "report" / "timing.csv").read_text().splitlines()
    assert timing[0].startswith("method,dataset,task,images,median_seconds")
    assert timing[0].endswith(",parameters,flops,peak_memory")
    assert timing[1].endswith(",,,"), "the synthetic run recorded none of them"
    assert timing[1].startswith("sean,celebamask_hq,reconstruct,4,")  # one of five failed
    assert len(timing) == 12
    stale = run / "report" / "tables" / "stale.md"
    stale.write_text("old")
    build_report(run, formats=("md",))
    assert {p.suffix for p in stale.parent.iterdir()} == {".md"}
    assert not stale.exists()


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = synthetic.make_run(tmp_path, few(), n=2)
    before = build_report(run, load_sample=synthetic.sample).read_bytes()
    files = {p: p.read_bytes() for p in (run / "report").rglob("*.*") if p.is_file()}
    assert build_report(run, load_sample=synthetic.sample).read_bytes() == before
    for path, data in files.items():
        assert path.read_bytes() == data, path.name


def test_a_report_never_follows_a_link_out_of_its_run(tmp_path):
    run = synthetic.make_run(tmp_path / "run", n=1)
    (tmp_path / "elsewhere").mkdir()
    (run / "report").mkdir()
    (run / "report" / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        build_report(run)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_labels_with_slashes_stay_inside_the_run(tmp_path):
    found = [replace(s, dataset="../../evil") for s in synthetic.scores() if s.metric == "fid"]
    run = synthetic.make_run(tmp_path / "run", found, n=1)
    build_report(run)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and run not in p.parents]
    assert outside == []


def test_a_run_without_scores_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no file"):
        build_report(tmp_path)


@pytest.mark.usefixtures("page")
def test_charts_are_readable_files(run):
    paths = sorted((run / "report" / "charts").glob("*.png"))
    assert len(paths) == 16
    assert {p.stem.split("-")[0] for p in paths} == {*synthetic.METRICS, "time", "classes"}
    for path in paths:
        with Image.open(path) as picture:
            assert picture.size[0] > 500
            assert len(picture.convert("L").getcolors()) > 20
        drawn = path.with_suffix(".svg").read_bytes()
        assert b"<svg" in drawn
        assert b"<dc:date>" not in drawn


def test_labels_are_no_mathematics():
    assert plain("$x$") == r"\$x\$"
    assert plain("a\nb\x00c") == "a b c"
    assert plain("x" * 50) == "x" * 33 + "…"


def test_samples_are_spread_evenly_and_common_to_all():
    ids = [str(i) for i in range(10)]
    assert pick([ids, ids], 4) == ["0", "3", "6", "9"]
    assert pick([ids, ["7", "2"]], 4) == ["2", "7"]
    assert pick([ids, []], 4) == []
    assert pick([], 4) == []


def test_grids_show_label_map_edit_reference_target_and_methods(run, monkeypatch):
    seen = []

    def watched(columns, names):
        seen.append((columns, names))
        return draw(columns, names)

    monkeypatch.setattr("sisbench.report.grids.draw", watched)
    made = grids(RunResults.of(run), synthetic.sample, rows=3)
    assert [list(columns) for columns, _ in seen] == [
        ["label map", "target", "SEAN", "SPADE", "CA2-SIS", "V-INADE†"],
        ["label map", "edited label map", "reference", "target", "SEAN", "CA2-SIS", "V-INADE†"],
        ["label map", "edited label map", "reference", "target", "SEAN", "CA2-SIS", "V-INADE†"],
        ["label map", "reference", "target", "SEAN", "SPADE", "CA2-SIS", "V-INADE†"],
    ]
    assert all("3" not in names for _, names in seen)  # SEAN failed there
    columns, names = seen[3]
    image, label = synthetic.sample(None, names[1])
    assert (columns["target"][1] == image).all()
    assert (
        columns["label map"][1][label == 13] == LabelSpace.named("celebamask_hq").palette[13]
    ).all()
    assert (columns["reference"][1] == synthetic.sample(None, "3")[0]).all()
    assert made[0].picture.size[0] > 6 * 192


def test_edits_of_classes_show_where_the_image_changed(run, monkeypatch):
    seen = []

    def watched(columns, names):
        seen.append(columns)
        return draw(columns, names)

    monkeypatch.setattr("sisbench.report.grids.draw", watched)
    made = grids(RunResults.of(run), synthetic.sample, rows=2)
    which = [g.title.endswith("where the image changed") for g in made]
    assert which == [False, False, True, False]
    assert "own reconstruction" not in made[1].note
    assert "own reconstruction" in made[2].note
    maps = seen[2]["SEAN"]
    cells = {c.entry.task.name: c for c in RunResults.of(run).cells if "sean" in c.key}
    edited, plain = (cells[t].image("0").astype(float) for t in ("shape_transfer", "reconstruct"))
    change = np.abs(edited - plain).mean(2)
    brightest = np.unravel_index(change.argmax(), change.shape)
    assert maps[0].sum(2)[brightest] == maps[0].sum(2).max()
    assert (maps[0][change == 0] == 0).all()


def test_grids_show_the_truth_of_an_edit_where_the_data_set_knows_it(run, monkeypatch):
    asked, shown = [], {}

    def truth(config, task, item):
        asked.append(task)
        return None if task == "shape_transfer" else np.full((16, 16, 3), 7, np.uint8)

    def watched(columns, ids):
        shown[len(shown)] = dict(columns)
        return draw(columns, ids)

    monkeypatch.setattr("sisbench.report.grids.draw", watched)
    grids(RunResults.of(run), synthetic.sample, rows=2, load_truth=truth)
    assert "reconstruct" not in asked
    known = [c["truth"] for c in shown.values() if "truth" in c]
    assert len(known) == len({t for t in asked if t != "shape_transfer"})
    assert all((image == 7).all() for column in known for image in column)


def test_grids_without_the_data_set_show_methods_and_say_so(run):
    def broken(config, name):
        raise UserError("no images under /data/celeba/img", "give root")

    for load in (None, broken):
        made = grids(RunResults.of(run), load)
        assert "generated images only" in made[0].note
        assert "/data" not in made[0].note
        assert made[0].picture.size[0] < 5 * 200


def test_colours_of_classes_and_holes():
    palette = _palette("celebamask_hq")
    shown = colourise(np.array([[0, 13], [-1, 255]]), palette)
    assert shown.dtype == np.uint8
    assert (shown[1] == 255).all()
    assert tuple(shown[0, 1]) == LabelSpace.named("celebamask_hq").palette[13]
    assert len({tuple(c) for c in _palette("a space of a plugin")[1:20]}) == 19


def test_console_tables_are_drawn_without_markup(run):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=140)
    for table in console_tables(run):
        console.print(table)
    text = console.file.getvalue()
    assert "FID ↓" in text
    assert "shape_transfer[hair]" in text
    assert synthetic.CANNOT in " ".join(text.split())
