"""Every row of the papers' tables has a method, and a run's methods find their rows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from test_cli import run

from sisbench import methods
from sisbench.core.errors import UserError
from sisbench.core.log import MethodEntry
from sisbench.report.papers import RESULTS, load_published, load_specs, table_rows
from sisbench.report.published import _fitting
from sisbench.run.method_entry import method_class

KNOWN = (*methods.registry.names(), *methods.editors.names())
PENDING: set[str] = set()
"""Rows whose method is still to come: once it is registered, this must be empty."""


def test_every_printed_row_has_a_method() -> None:
    rows = table_rows(KNOWN)
    printed = {(p.source, p.table, p.method) for p in load_published()}
    assert len(rows) == len(printed), "each table of the file has its specification"
    assert {row.printed for row in rows if not row.method} == PENDING


def test_every_row_has_options_that_its_method_takes() -> None:
    for row in table_rows(KNOWN):
        if row.method:
            built = method_class(row.method)(**row.options).options
            assert all(getattr(built, k) == v for k, v in row.options.items())


def test_a_row_that_is_not_printed_is_refused(tmp_path: Any) -> None:
    spec = yaml.safe_load((RESULTS / "tables/ca2sis_table3.yaml").read_text())
    spec["rows"]["CA2-SIS w/o mask embedders"] = "ca2sis"
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(UserError, match="no row of CA2-SIS, Table 3 is called") as caught:
        table_rows(KNOWN, tmp_path)
    assert "CA2-SIS w/o mask embedder" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("table", "name", "options", "expected"),
    [
        ("ca2sis_table3", "ca2sis", {"no_embedding": True}, "CA2-SIS w/o mask embedder"),
        ("ca2sis_table3", "ca2sis", {"no_embedding": False}, "CA2-SIS"),
        ("ca2sis_table1", "ca2sis", {}, "CA2-SIS"),
        ("scam_table1", "spade", {"variant": "scam"}, "SPADE"),
        ("scam_table1", "spade", {"variant": "official"}, None),
        ("ca2sis_table1", "spade", {"variant": "official"}, "SPADE"),
        ("ca2sis_text_4g", "sdm", {"steps": 50, "sampler": "ddim"}, "SDM (DDIM 50 steps)"),
        ("ca2sis_text_4g", "sdm", {"steps": 50, "sampler": "ddpm"}, None),
        ("scam_table2", "scam", {"attention_type": "simplex", "use_self_attention": False},
         "SCAM ablation vii (no SA no generator SAT)"),
        ("scam_table1", "oasis", {}, None),
    ],
)  # fmt: skip
def test_a_method_of_a_run_fills_the_row_of_its_options(
    table: str, name: str, options: dict[str, Any], expected: str | None
) -> None:
    entry = MethodEntry(label="any", title="any", name=name, options=options)
    assert _fitting(load_specs(table)[table], entry) == expected


def test_methods_lists_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(run(capsys, "methods", "ca2sis", "--json")[1])["rows"]
    assert {"CA2-SIS w/o mask embedder", "CA2-SIS w/o AttLoss"} <= {row["row"] for row in found}
    text = run(capsys, "methods", "ca2sis")[1].replace("\n", " ")
    assert "CA2-SIS, Table 3: CA2-SIS w/o mask embedder, options {no_embedding: true}" in text
    assert "trained without the attention loss, which no option has" in text
    rows = json.loads(run(capsys, "methods", "--json")[1])
    assert sum(len(row["rows"]) for row in rows) == len(table_rows(KNOWN)) - len(PENDING)
