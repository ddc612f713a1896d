"""Tables of a report: ranking, dashes, marks, escaping, formats, protocols, bytes."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sisbench.core.adapter_file import load_file
from sisbench.core.errors import UserError
from sisbench.core.log import CEILING, SEEDED
from sisbench.report.build import RENDERERS, unique, write_tables
from sisbench.report.quality import RunResults, quality_tables
from sisbench.report.render import to_csv, to_html, to_latex, to_markdown, to_rich
from sisbench.report.tables import Cell, Column, Row, assemble, scrub, slug, symbol

synthetic = load_file(Path(__file__).parent / "fixtures" / "report" / "synthetic.py")
UP = Column("acc@p", "Acc", direction="up", scale=100.0, digits=1, unit="%")
DOWN = Column("fid@p", "FID", direction="down")


def table(values, column=UP, **cell):
    rows = [Row(f"m{i}", f"M{i}") for i in range(len(values))]
    cells = {(r.key, column.key): Cell(v, n=10, **cell) for r, v in zip(rows, values, strict=True)}
    return assemble("t", "T", [column], rows, cells, ["Protocol p."])


def ranks(made):
    return [line[0].rank for line in made.cells]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    found = synthetic.scores() + synthetic.scores("scadm2024", shift=1.0)
    return synthetic.make_run(tmp_path_factory.mktemp("run"), found, n=3)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (UP, [0.1, 0.3, 0.2], [0, 1, 2]),
        (DOWN, [0.1, 0.3, 0.2], [1, 0, 2]),
        (UP, [0.5001, 0.5004, 0.4, 0.3], [1, 1, 2, 0]),  # both print 50.0
        (UP, [0.9, 0.5001, 0.5002], [1, 2, 2]),
        (DOWN, [9.99, 10.0, 100.0], [1, 2, 0]),  # by number, not by text
        (UP, [0.5], [0]),  # nothing to compare with
        (UP, [0.5, None, float("nan")], [0, 0, 0]),
        (replace(UP, direction=""), [0.1, 0.2], [0, 0]),
    ],
)
def test_ranks_follow_direction_and_printed_digits(column, values, expected):
    assert ranks(table(values, column)) == expected


def test_other_set_sizes_do_not_compete():
    rows = [Row(k, k) for k in "abc"]
    cells = {("a", "fid@p"): Cell(9.0, n=500, n_real=500)}
    cells |= {(k, "fid@p"): Cell(v, n=2000, n_real=500) for k, v in (("b", 10.0), ("c", 11.0))}
    made = assemble("t", "T", [DOWN], rows, cells, [])
    assert ranks(made) == [0, 1, 2]
    assert made.notes == ("from 500 generated and 500 real images: not ranked",)
    assert made.caption == ("FID: 2,000 generated and 500 real images.",)


def test_other_parsers_do_not_compete():
    rows = [Row(k, k) for k in "abc"]
    basis = {"a": "parser x", "b": "parser y", "c": "parser y"}
    cells = {(k, "acc@p"): Cell(0.5, n=5, basis=b) for k, b in basis.items()}
    made = assemble("t", "T", [UP], rows, cells, [])
    assert ranks(made) == [0, 1, 1]
    assert "parser x" in made.notes[0]


def test_seeded_weights_never_beat_trained_ones_and_are_loud():
    rows = [Row(k, k) for k in "abc"]
    cells = {(k, "acc@p"): Cell(v, n=5) for k, v in (("a", 0.2), ("b", 0.3))}
    cells["c", "acc@p"] = Cell(0.9, n=5, marks=(SEEDED,))
    made = assemble("t", "T", [UP], rows, cells, [])
    assert ranks(made) == [2, 1, 0]
    sentence = "scores say nothing about the method"
    for render in (to_markdown, to_html):
        assert sentence in render(made)
        assert render(made).count("†") == 3  # method, figure, sentence
    assert to_latex(made).count(r"\dagger") == 3
    assert "seeded weights" in to_csv(made)
    assert ranks(table([0.1, 0.2], marks=(SEEDED,))) == [0, 0], "not among themselves either"


def test_ceiling_stands_above_and_never_competes():
    rows = [Row("a", "A"), Row("b", "B"), Row("real", "Real", ceiling=True)]
    cells = {(k, "acc@p"): Cell(v, n=5) for k, v in (("a", 0.2), ("b", 0.3), ("real", 0.9))}
    made = assemble("t", "T", [UP], rows, cells, [])
    assert [r.key for r in made.rows] == ["real", "a", "b"]
    assert ranks(made) == [0, 2, 1]


def test_dashes_have_deduplicated_footnotes():
    rows = [Row(k, k) for k in "abcd"]
    cells = {
        ("a", "acc@p"): Cell(reason="no class swap"),
        ("b", "acc@p"): Cell(reason="no class swap"),
        ("c", "acc@p"): Cell(float("inf"), n=3),
    }
    made = assemble("t", "T", [UP], rows, cells, [])
    assert made.notes == ("no class swap", "the score is not finite", "not measured in this run")
    assert [line[0].notes for line in made.cells] == [(0,), (0,), (1,), (2,)]
    assert to_markdown(made).count("–<sup>a</sup>") == 2
    assert to_csv(made).count("no class swap") == 2


def test_best_and_second_best_in_every_format():
    made = table([0.1, 0.3, 0.2])
    assert "| **30.0** |" in to_markdown(made)
    assert "| <u>20.0</u> |" in to_markdown(made)
    assert r"\textbf{30.0}" in to_latex(made)
    assert r"\underline{20.0}" in to_latex(made)
    assert "<td><strong>30.0</strong></td>" in to_html(made)
    assert "<td><u>20.0</u></td>" in to_html(made)
    lines = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [line["acc@p_rank"] for line in lines] == ["", "1", "2"]
    assert [float(line["acc@p"]) for line in lines] == [0.1, 0.3, 0.2]
    styles = [str(cell.style) for cell in to_rich(made).columns[1]._cells]
    assert styles == ["", "bold", "underline"]
    for text in (to_markdown(made), to_latex(made), to_html(made)):
        assert "T" in text
        assert "Protocol p." in text
        assert "10 images" in text


def test_headers_say_unit_and_direction():
    assert UP.header == "Acc (%) ↑"
    assert replace(UP, title="Acc (%)").header == "Acc (%) ↑"
    assert DOWN.header == "FID ↓"
    assert r"Acc (\%) $\uparrow$" in to_latex(table([0.1]))


def test_negative_zero_is_zero():
    assert UP.printed(-0.0001) == "0.0"
    assert UP.printed(-0.01) == "-1.0"


def test_titles_are_escaped():
    evil = "<script>alert(1)</script> A&B_50% $x$ {y} #1 ~^ | *b* [r]\n`c`\\"
    made = replace(table([0.1, 0.2]), rows=(Row("m0", evil), Row("m1", "fine")))
    page = to_html(made)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; A&amp;B_50%" in page
    tex = to_latex(made)
    assert r"A\&B\_50\% \$x\$ \{y\} \#1 \textasciitilde{}\textasciicircum{}" in tex
    assert "{[}r{]}" in tex
    assert tex.count("{") == tex.count("}")
    text = to_markdown(made)
    line = next(line for line in text.splitlines() if "script" in line)
    assert "<script" not in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 3  # as many cells as the header has
    assert "[r]" in to_rich(made).columns[0]._cells[0].plain


def test_uncertainty_is_shown_when_asked():
    rows = [Row("a", "A"), Row("b", "B")]
    cells = {("a", "acc@p"): Cell(0.5, se=0.012, n=3), ("b", "acc@p"): Cell(0.6, n=3)}
    shown = assemble("t", "T", [UP], rows, cells, [], uncertainty=True)
    assert "<u>50.0 ± 1.2</u>" in to_markdown(shown)
    assert r"\underline{50.0 $\pm$ 1.2}" in to_latex(shown)
    assert any("standard error" in s for s in shown.caption)
    assert "±" not in to_markdown(assemble("t", "T", [UP], rows, cells, []))


def test_one_table_for_each_protocol_and_place(run):
    made = quality_tables(RunResults.of(run))
    assert len(made) == 6
    assert all(t.caption[0] in ("Protocol ca2sis2024.", "Protocol scadm2024.") for t in made)
    assert all({c.key.split("@")[1] for c in t.columns} == {t.caption[0][9:-1]} for t in made)
    spade = next(i for i, r in enumerate(made[1].rows) if r.key == "spade")
    assert made[1].notes[made[1].cells[spade][0].notes[0]] == synthetic.CANNOT


def test_two_protocols_stand_side_by_side_and_labelled(run):
    made = quality_tables(RunResults.of(run), ("ca2sis2024", "scadm2024"))
    assert len(made) == 3
    assert [g for g, _ in made[0].groups()] == ["protocol ca2sis2024", "protocol scadm2024"]
    assert "FID ↓ (protocol scadm2024)" in to_markdown(made[0])
    console = to_rich(made[0])
    sections = [str(cell) for cell in console.columns[0]._cells if "protocol" in str(cell)]
    assert sections == ["protocol ca2sis2024", "protocol scadm2024"]
    assert len(console.columns) == 1 + len(made[0].columns) // 2
    assert r"\multicolumn{5}{c}{protocol scadm2024}" in to_latex(made[0])
    assert r"\cmidrule(lr){7-11}" in to_latex(made[0])
    with pytest.raises(UserError, match="scadm2042"):
        quality_tables(RunResults.of(run), ("scadm2042",))


def test_a_method_without_scores_is_a_dash_with_the_plans_reason(tmp_path):
    found = [s for s in synthetic.scores() if s.method != "spade"]
    made = quality_tables(RunResults.of(synthetic.make_run(tmp_path, found, n=1)))
    for one in made:
        row = next(i for i, r in enumerate(one.rows) if r.title == "SPADE")
        reasons = {one.notes[n] for cell in one.cells[row] for n in cell.notes}
        shape = "shape" in one.name
        assert reasons == {synthetic.CANNOT if shape else "not measured in this run"}
    assert not any(r.ceiling for r in made[1].rows)  # nothing real there
    assert made[0].rows[0].ceiling
    assert CEILING not in "".join(made[0].notes)


def test_same_scores_give_the_same_bytes(run, tmp_path):
    for folder in ("a", "b"):
        write_tables(tmp_path / folder, quality_tables(RunResults.of(run)), tuple(RENDERERS))
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert len(names) == 24
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert b"seconds" not in (tmp_path / "a" / name).read_bytes()
    with pytest.raises(UserError, match="docx"):
        write_tables(tmp_path, quality_tables(RunResults.of(run)), ("docx",))


def test_names_and_reasons_never_carry_paths():
    assert slug("../../etc/passwd") == "etc_passwd"
    assert slug("shape_transfer[hair]-p") == "shape_transfer_hair-p"
    assert slug("..") == "unnamed"
    assert unique(["a", "A", "b"]) == ["a", "A-2", "b"]
    assert scrub("no weights at /home/me/w/net.pth, see https://a.b/c/d") == (
        "no weights at …/net.pth, see https://a.b/c/d"
    )
    assert scrub("and/or 3/4") == "and/or 3/4"
    assert [symbol(i) for i in (0, 25, 26, 27, 702)] == ["a", "z", "aa", "ab", "aaa"]


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Block())
from pathlib import Path
from sisbench.report import build_report, console_tables
print(build_report(Path(sys.argv[1]), versus="ca2sis_table1"))
console_tables(Path(sys.argv[1]))
assert "torch" not in sys.modules
"""


def test_reports_need_no_torch(tmp_path):
    run = synthetic.make_run(tmp_path, [s for s in synthetic.scores() if s.metric == "fid"], n=1)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK, str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()
