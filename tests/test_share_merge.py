"""Runs of several machines as one: what goes together, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from share_runs import QUIET, other_method, scored_run, tiny_inception
from typer.testing import CliRunner

import sisbench
from sisbench.cli import app
from sisbench.core.errors import UserError
from sisbench.core.store import RunStore, read_json, write_json
from sisbench.pipeline import score_run, write_report
from sisbench.report.paired import paired_tables
from sisbench.report.quality import RunResults
from sisbench.share.merge import merging
from sisbench.share.merged import write_merged

FAST: dict[str, Any] = {"metrics": ["psnr", "ssim"], "parsers": {}}


@pytest.fixture
def two(method_file: str, tmp_path: Path) -> tuple[Path, Path]:
    """Runs of two methods on the same data, as two machines make them."""
    one = scored_run(method_file, tmp_path / "one", **FAST)
    other = [{"name": other_method(method_file, tmp_path), "label": "Clean"}]
    return one, scored_run(method_file, tmp_path / "two", methods=other, **FAST)


def values(run: Path) -> dict[tuple[str, str], float | None]:
    return {(s.method, s.metric): s.value for s in RunStore(run).scores()[0]}


def test_a_merged_run_is_a_run(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    found = merging(two)
    write_merged(found, out)
    assert found.refused == []
    assert values(out) == values(two[0]) | values(two[1])
    run = sisbench.open_run(out)
    items = run.items()
    assert items.groupby("method")["psnr"].count().to_dict() == {"Mean": 20, "Clean": 20}
    assert all(Path(p).is_file() for p in items["image"])
    image = run.cells[0].image_path(run.cells[0].item_rows()[0].id)
    assert image.stat().st_nlink == 2, "images are linked, not copied"
    (table,) = paired_tables(RunResults.of(out), "Mean", [])
    cell = dict(zip([c.key for c in table.columns], table.cells[0], strict=True))["psnr"]
    assert cell.n == 20
    assert cell.value == pytest.approx(values(out)["Clean", "psnr"] - values(out)["Mean", "psnr"])
    assert "Clean" in write_report(out, versus="Mean").read_text()
    before = values(out)
    score_run(out, None, [], [], QUIET)
    assert values(out) == before, "it can be scored again"
    names = [p["run"] for p in run.manifest.provenance["merged"]]
    assert names == ["one", "two"]


def test_without_images(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both"
    done = CliRunner().invoke(app, ["merge", *map(str, two), "-o", str(out), "--no-images"])
    assert done.exit_code == 0, done.output
    assert not list(out.rglob("*.png"))
    assert paired_tables(RunResults.of(out), "Mean", [])
    with pytest.raises(UserError, match="not empty"):
        write_merged(merging(two), out)


def test_equal_labels_are_told_apart(method_file: str, tmp_path: Path) -> None:
    one = scored_run(method_file, tmp_path / "one", **FAST)
    other = [{"name": other_method(method_file, tmp_path), "label": "Mean"}]
    two = scored_run(method_file, tmp_path / "two", methods=other, **FAST)
    out = tmp_path / "both"
    write_merged(merging([one, two]), out)
    assert values(out)["Mean (two)", "psnr"] == values(two)["Mean", "psnr"]
    assert values(out)["Mean", "psnr"] == values(one)["Mean", "psnr"]
    titles = [row.title for row in RunResults.of(out).methods]
    assert len(set(titles)) == 2


def test_the_same_images_twice_stand_once_unless_scores_differ(
    method_file: str, tmp_path: Path
) -> None:
    timed = FAST | {"metrics": ["psnr", "ssim", "seconds"]}
    one = scored_run(method_file, tmp_path / "one", **timed)
    two = scored_run(method_file, tmp_path / "two", **timed)
    found = merging([one, two])
    assert [t.entry.method.label for t in found.taken] == ["Mean"]
    assert "already there from one" in found.notes[0]
    scores = read_json(two / "scores.json")
    for score in scores["scores"]:
        score["value"] += 0.01  # another GPU, say
    write_json(two / "scores.json", scores)
    out = tmp_path / "both"
    write_merged(merging([one, two]), out)
    assert values(out)["Mean (two)", "psnr"] == pytest.approx(values(out)["Mean", "psnr"] + 0.01)
    keys = [c.key for c in RunStore(out).cells()]
    assert len(set(keys)) == 2
    frame = sisbench.open_run(out).items()
    assert frame.groupby("method")["psnr"].count().to_dict() == {"Mean": 20, "Mean (two)": 20}


def test_tasks_of_one_method_on_two_machines_are_one_row(tmp_path: Path) -> None:
    toy = [{"name": "spade", "weights": "bundled:toy-spade", "label": "SPADE"}]
    small = {"methods": toy, "datasets": [{"name": "toyfaces", "size": 64, "n": 3}], **FAST}
    one = scored_run("", tmp_path / "one", **small)
    two = scored_run("", tmp_path / "two", **small, tasks=["transfer"])
    out = tmp_path / "both"
    write_merged(merging([one, two]), out)
    assert [c.entry.place[::2] for c in RunStore(out).cells()] == [
        ("SPADE", "reconstruct"),
        ("SPADE", "transfer"),
    ]


def test_other_data_are_refused_line_by_line(two: tuple[Path, Path], tmp_path: Path) -> None:
    method = [
        {"name": other_method(two[0].parent.joinpath("mean_colour.py").as_posix() + ":x", tmp_path)}
    ]
    more = [
        {"name": "toyfaces", "size": 32, "n": 19, "label": "toyfaces"},
        {"name": "toyfaces", "size": 32, "n": 6, "label": "few"},
    ]
    three = scored_run("", tmp_path / "three", methods=method, datasets=more, **FAST)
    found = merging([two[0], three])
    (line,) = found.refused
    assert line.startswith("three: MeanColour, reconstruct on toyfaces: data fingerprint ")
    assert "one has" in line
    assert [t.entry.dataset.label for t in found.taken] == ["toyfaces", "few"], "the rest goes on"
    for args, code in (([], 0), (["--strict"], 1)):
        done = CliRunner().invoke(app, ["report", str(two[0]), str(three), *args])
        assert done.exit_code == code, done.output
        assert f"refused: {line}" in done.output.replace("\n", "")


def test_another_protocol_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    other = [{"name": "spade", "weights": "bundled:toy-spade"}]
    small = FAST | {"datasets": [{"name": "toyfaces", "size": 64, "n": 3, "label": "small"}]}
    protocol = {"base": "sisbench1", "ssim": "uniform7"}
    three = scored_run("", tmp_path / "three", methods=other, protocol=protocol, **small)
    found = merging([two[0], three])
    (line,) = found.refused
    assert "protocol sisbench1+ssim=uniform7@" in line
    assert "they differ in ssim" in line


def test_another_basis_is_a_dash_with_its_reason(two: tuple[Path, Path], tmp_path: Path) -> None:
    scores = read_json(two[1] / "scores.json")
    for score in scores["scores"]:
        if score["metric"] == "ssim":
            score["extra"]["resize"] = "bicubic"
    write_json(two[1] / "scores.json", scores)
    out = tmp_path / "both"
    done = CliRunner().invoke(app, ["merge", *map(str, two), "-o", str(out), "--strict"])
    assert done.exit_code == 1
    assert (
        "refused: two: Clean, reconstruct on toyfaces: ssim: resize bicubic, one has" in done.output
    )
    found = {(s.method, s.metric): s for s in RunStore(out).scores()[0]}
    assert found["Clean", "ssim"].value is None
    assert "resize bicubic" in found["Clean", "ssim"].reason
    assert found["Clean", "psnr"].value is not None


def test_report_of_several_runs(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    one = scored_run(method_file, tmp_path / "one")
    other = [{"name": other_method(method_file, tmp_path), "label": "Clean"}]
    two = scored_run(method_file, tmp_path / "two", methods=other)
    out = tmp_path / "report"
    args = ["report", str(one), str(two), "--versus", "Mean", "-o", str(out)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    csv = (out / "scores.csv").read_text()
    assert csv.count("Clean") == 5
    assert csv.count("(photographs)") == 1
    assert "refused" not in done.output
    assert list((out / "grids").iterdir()), "the images of both are there"
    text = json.dumps(read_json(one / "run.json"))
    assert text == json.dumps(read_json(one / "run.json"))
    assert not (tmp_path / "merged").exists()


def test_scores_under_a_protocol_that_the_first_run_lacks(
    two: tuple[Path, Path], tmp_path: Path
) -> None:
    scores = read_json(two[1] / "scores.json")
    extra = dict(scores["scores"][0], protocol="other@00000000")
    scores["scores"].append(extra)
    write_json(two[1] / "scores.json", scores)
    manifest = read_json(two[1] / "run.json")
    manifest["cells"][0]["protocols"].append("other@00000000")
    write_json(two[1] / "run.json", manifest)
    out = tmp_path / "both"
    found = merging(two)
    write_merged(found, out)
    (line,) = found.refused
    assert "two: Clean, reconstruct on toyfaces: psnr: protocol other@00000000, one has" in line
    assert {s.protocol for s in RunStore(out).scores()[0]} == {found.protocols[0].id}
    assert set(sisbench.open_run(out).items()["protocol"]) == {found.protocols[0].id}


def test_one_run_or_the_same_twice_is_no_merge(two: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match="two runs"):
        merging(two[:1])
    with pytest.raises(UserError, match="named twice"):
        merging([two[0], two[0]])
