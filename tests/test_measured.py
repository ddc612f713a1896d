"""The findings of results/measured say no number that its CSV files do not hold."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

MEASURED = Path(__file__).parent.parent / "results" / "measured"
PUBLISHED = MEASURED.parent / "published" / "published.csv"
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+\.\d+")


def forms(value: float) -> set[str]:
    """How a text may write a value: rounded, as a share or in per cent, a difference either way."""
    return {f"{abs(value) * scale:.{digits}f}" for scale in (1, 100) for digits in (2, 3, 4)}


def held() -> set[str]:
    found = {row["value"] for row in csv.DictReader(PUBLISHED.open())}
    for file in MEASURED.glob("**/*.csv"):
        for row in csv.reader(file.open()):
            for cell in row:
                try:
                    found |= forms(float(cell))
                except ValueError:
                    continue
    return found


def test_every_number_of_the_findings_is_in_a_csv_file() -> None:
    said = [n.lstrip("+-") for n in NUMBER.findall((MEASURED / "findings.md").read_text())]
    assert len(said) > 50
    known = held()
    missing = [n for n in said if n not in known]
    assert not missing


@pytest.mark.parametrize("folder", ["faces64", "toyfaces", "order"])
def test_scores_have_intervals(folder: str) -> None:
    rows = list(csv.DictReader((MEASURED / folder / "scores.csv").open()))
    psnr = [row for row in rows if row["metric"] == "psnr" and row["value"]]
    assert psnr
    assert all(float(r["low"]) < float(r["value"]) < float(r["high"]) for r in psnr)


def test_nothing_of_the_data_is_kept() -> None:
    kinds = {path.suffix for path in MEASURED.glob("**/*") if path.is_file()}
    assert kinds <= {".md", ".csv", ".yaml", ".png"}
    pictures = {path.relative_to(MEASURED).as_posix() for path in MEASURED.glob("**/*.png")}
    assert {p for p in pictures if "/charts/" not in p} == {"faces64/transfer.png"}
