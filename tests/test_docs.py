"""The documents' code runs: the thirty-line method, its check, its run; links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sisbench.config import RunConfig
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.diagnose.conformance import check_method
from sisbench.pipeline import run_all

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "add-a-method.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", GUIDE, re.S)
    assert found is not None
    return found.group(1)


@pytest.fixture
def my_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(block("python"))
    return "./my_method.py:MyMethod"


def test_the_method_is_thirty_lines(my_method: str) -> None:
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 30


def test_the_method_keeps_the_contract(my_method: str) -> None:
    findings = list(check_method(my_method, "celebamask_hq", None, {}))
    assert len(findings) >= 10
    assert not [f for f in findings if f.ok is False]


def test_the_run_of_the_guide(my_method: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(block("yaml"))
    raw["datasets"][0]["n"] = 3
    page = run_all(validated(RunConfig, {"name": "my_run", **raw}, "guide"), Progress(quiet=True))
    assert page is not None
    assert "Mine" in page.read_text()
    assert "seeded" in page.read_text()


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document if document == "README.md" else ROOT / "docs" / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}"
