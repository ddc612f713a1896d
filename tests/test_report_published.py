"""Published figures, the specifications of paper tables, and measured figures beside them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from sisbench.core.adapter_file import load_file
from sisbench.core.errors import UserError
from sisbench.pipeline import metric_facts
from sisbench.report.papers import RESULTS, load_published, load_specs
from sisbench.report.published import paper_table, paper_tables
from sisbench.report.quality import RunResults
from sisbench.report.render import to_markdown

synthetic = load_file(Path(__file__).parent / "fixtures" / "report" / "synthetic.py")

FACTS = metric_facts()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    found = synthetic.scores() + synthetic.scores("scadm2024@12345678", shift=1.0)
    return RunResults.of(synthetic.make_run(tmp_path_factory.mktemp("run"), found, n=1))


def blocks(table):
    return [name for name, _ in table.blocks()]


def cell(table, row, column):
    y = next(i for i, r in enumerate(table.rows) if r.key == row)
    x = next(i for i, c in enumerate(table.columns) if c.key == column)
    return table.cells[y][x]


def test_every_published_figure_stands_in_exactly_one_table():
    wanted = Counter(
        (f.source, f.table, f.dataset, f.task, f.method, f.metric) for f in load_published()
    )
    assert len(wanted) == 255
    assert set(wanted.values()) == {1}
    shown = Counter()
    for path in sorted((RESULTS / "tables").glob("*.yaml")):
        spec = load_specs(path.stem)[path.stem]
        made = paper_table(path.stem, spec, None, facts=FACTS)
        for row, line in zip(made.rows, made.cells, strict=True):
            for column, one in zip(spec.columns, line, strict=True):
                if one.value is not None:
                    where = (column.dataset, column.task, row.title, column.metric)
                    shown[(spec.source, spec.table, *where)] += 1
    assert shown == wanted


def test_published_ranks_are_those_of_the_paper(results):
    spec = load_specs("ca2sis_table1")["ca2sis_table1"]
    made = paper_table("t", spec, results, "ca2sis2024", FACTS)
    fid = "celebamask_hq/reconstruct/fid"
    assert cell(made, "published/CA2-SIS w/o AttLoss", fid).rank == 1
    assert cell(made, "published/CA2-SIS", fid).rank == 2
    assert cell(made, "published/SEAN", "celebamask_hq/reconstruct/miou").rank == 1
    assert cell(made, "measured/ca2sis", fid).rank == 1  # each block ranks by itself
    assert cell(made, "difference/SEAN", fid).rank == 0
    assert cell(made, "published/MaskGAN", "ade20k/reconstruct/fid").text == "–"


def test_differences_and_their_sign(results):
    spec = load_specs("ca2sis_table4")["ca2sis_table4"]
    made = paper_table("t", spec, results, "scadm2024@12345678", FACTS)
    assert blocks(made) == [
        "Published: CA2-SIS, Table 4",
        "Measured: protocol scadm2024@12345678",
        "Difference: measured − published",
    ]
    assert cell(made, "published/SEAN", "celebamask_hq/reconstruct/fid").text == "18.72"
    assert cell(made, "measured/sean", "celebamask_hq/reconstruct/fid").text == "19.72"
    assert cell(made, "difference/SEAN", "celebamask_hq/reconstruct/fid").text == "+1.00"
    # "shape_transfer" stands for the run's only variant of it
    assert cell(made, "measured/sean", "celebamask_hq/shape_transfer/fid_sh").text == "21.04"
    assert cell(made, "measured/spade", "celebamask_hq/shape_transfer/fid_sh").text == "–"
    assert synthetic.CANNOT in made.notes


def test_percentages_keep_the_papers_digits_and_compare_as_fractions(results):
    spec = load_specs("scadm_table1")["scadm_table1"]
    made = paper_table("t", spec, results, "ca2sis2024", FACTS)
    miou = "celebamask_hq/reconstruct/miou"
    assert cell(made, "published/SEAN", miou).text == "82.4"
    assert cell(made, "published/SEAN", miou).value == pytest.approx(0.824)
    assert cell(made, "difference/SEAN", miou).text == "−3.78"


def test_segmentation_scores_never_stand_without_evaluator_and_convention(results):
    spec = load_specs("scadm_table1")["scadm_table1"]
    text = to_markdown(paper_table("t", spec, results, "ca2sis2024", FACTS)).replace("\\", "")
    assert "evaluator celebamask_unet ab12cd34ab12, resize bilinear, compared at 512" in text
    assert "mIoU by evaluator" in text
    assert "convention miou_dataset_union" in text
    assert "mixes two pipelines" in text
    published = [r.key for r in paper_table("t", spec, None, facts=FACTS).rows]
    made = paper_table("t", spec, results, "ca2sis2024", FACTS)
    assert all(
        c.rank == 0 for r, line in zip(made.rows, made.cells) if r.key in published for c in line
    )


def test_what_the_paper_has_and_the_run_lacks_is_named(results):
    spec = load_specs("scadm_table1")["scadm_table1"]
    caption = " ".join(paper_table("t", spec, results, "ca2sis2024", FACTS).caption)
    assert "Published but not in this run: MaskGAN, SemanticStyleGAN, SCA-DM." in caption


def test_ambiguous_tasks_are_dashes(tmp_path):
    found = synthetic.scores()
    twice = [s for s in found if s.task == "shape_transfer[hair]"]
    more = [type(s)(**(vars(s) | {"task": "shape_transfer[skin]"})) for s in twice]
    run = synthetic.make_run(tmp_path, found + more, n=1)
    spec = load_specs("ca2sis_table4")["ca2sis_table4"]
    made = paper_table("t", spec, RunResults.of(run), "ca2sis2024", FACTS)
    assert cell(made, "measured/sean", "celebamask_hq/shape_transfer/fid_sh").value is None
    assert any("several tasks" in note for note in made.notes)


def test_versus_names_a_paper_a_table_or_a_file(results, tmp_path):
    assert len(paper_tables("ca2sis", results, ["ca2sis2024"], FACTS)) == 7
    assert len(paper_tables("scam_table1", results, results.protocols, FACTS)) == 2
    own = tmp_path / "mine.yaml"
    column = {"dataset": "celebamask_hq", "task": "reconstruct", "metric": "fid"}
    spec = {"source": "ca2sis", "table": "4", "title": "Mine", "columns": [column]}
    own.write_text(yaml.safe_dump(spec), encoding="utf-8")
    (made,) = paper_tables(str(own), results, ["ca2sis2024"], FACTS)
    assert made.title == "Mine (celebamask_hq), against ca2sis2024"
    assert made.name == "mine-ca2sis2024"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source: ca2sis\ntable: '1'\ntitle: x\ncolumns: []\n", "columns"),
        ("source: ca2sis\ntable: '1'\ntitle: x\ncolumn: []\n", "columns"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_specifications_are_user_errors(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        load_specs(str(tmp_path / "x.yaml"))


def test_unknown_tables_and_broken_figures_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="ca2sis_table1"):
        load_specs("ca2sis_table11")
    with pytest.raises(UserError, match="no table specification"):
        load_specs("nowhere.yaml")
    bad = tmp_path / "p.csv"
    bad.write_text("source,table,dataset,task,method,metric,value\na,1,d,t,m,fid,x\n")
    with pytest.raises(UserError, match=r"p\.csv:2"):
        load_published(bad)
    bad = tmp_path / "q.csv"
    bad.write_text("source,table\n")
    with pytest.raises(UserError, match="lacks the columns dataset"):
        load_published(bad)
