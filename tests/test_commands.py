"""What the commands say: tables, summary and exit code of a run; what is known, also as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from test_cli import config, run
from typer.testing import CliRunner

from sisbench import cli
from sisbench.commands import work
from sisbench.core.store import RunStore
from sisbench.diagnose.explain import _prose

__all__ = ["config"]


def changed(path: Path, **changes: object) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_a_run_ends_with_tables_and_a_summary(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 0
    assert "PSNR (dB)" in text
    assert "2 cells: 2 done; 1 score, 0" not in text
    assert re.search(r"2 cells: 2 done; \d+ scores", text)


def test_each_reason_once_with_what_it_hit(
    capsys: pytest.CaptureFixture[str], config: Path, method_file: str
) -> None:
    bad = {"name": "spade", "label": "bad", "weights": "nope.pth"}
    changed(config, methods=[{"name": method_file}, bad])
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1
    assert "4 cells: 2 done, 2 failed" in text
    assert (
        text.count("failed: 2 cells (bad reconstruct, bad transfer): no weights at nope.pth") == 1
    )


def test_a_run_of_which_nothing_could_be_made_says_so(
    capsys: pytest.CaptureFixture[str], config: Path, method_file: str
) -> None:
    changed(config, tasks=["interpolate_shape"])
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1
    assert "1 cell: 1 impossible; 0 scores" in text
    assert "no layout embedding" in text


def test_bad_items_are_counted_and_named(
    capsys: pytest.CaptureFixture[str], config: Path, method_file: str
) -> None:
    path = Path(method_file.rpartition(":")[0])
    lines = (
        "if float(layout.label.float().mean()) > 0: raise KeyError('odd')\n        flat = one_hot"
    )
    path.write_text(path.read_text().replace("flat = one_hot", lines))
    code, text = run(capsys, "run", str(config))
    assert code == 1
    assert "failed in MeanColour reconstruct on toyfaces: test-00000: KeyError: 'odd'" in text
    assert "4 of 4 items failed: KeyError: 'odd' (mean_colour.py, line" in text


def test_only_restricts_the_work(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code, text = run(capsys, "run", str(config), "-q", "--only", "task=transfer")
    assert code == 0
    assert "2 cells: 1 done, 1 not made yet" in text
    cells = RunStore(config.parent / "run").cells()
    assert [(c.entry.status, len(c.items())) for c in cells] == [("partial", 0), ("done", 4)]
    code, text = run(capsys, "run", str(config), "-q", "--only", "method=MeanColour")
    assert code == 0
    assert "2 cells: 2 done;" in text
    for wrong, nearest in (
        ("task=transfe", "did you mean 'transfer'"),
        ("method=Mean", "did you mean 'MeanColour'"),
        ("tasks=transfer", "did you mean 'task'"),
        ("transfer", "expected method=NAME"),
    ):
        code, text = run(capsys, "run", str(config), "-q", "--only", wrong)
        assert code == 2
        assert nearest in text


def test_changes_from_the_command_line(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    out = config.parent / "other"
    arguments = (f"output={out}", "tasks=[reconstruct]", "--limit", "2")
    assert run(capsys, "run", str(config), *arguments, "-q")[0] == 0
    (cell,) = RunStore(out).cells()
    assert len(cell.items()) == 2
    code, text = run(capsys, "run", str(config), "engine.devise=cpu", "-q")
    assert code == 2
    assert "did you mean 'device'" in text


def test_columns_that_no_method_fills_are_one_line(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    changed(config, metrics=["fid", "psnr", "lpips"])
    folder = config.parent / "run"
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1
    line = "Absent for every method: FID, LPIPS (sisbench weights fetch inception lpips-alex)"
    assert line in " ".join(text.split())
    for suffix in ("md", "tex", "html", "csv"):
        tables = sorted((folder / "report" / "tables").glob(f"*.{suffix}"))
        assert len(tables) == 2
        for table in tables:
            printed = table.read_text()
            assert ("psnr@" if suffix == "csv" else "PSNR") in printed
            assert "fid@" not in printed
            assert not re.search(r"FID *(↓|\$)", printed)
            assert ("Absent for every method" in printed) == (suffix != "csv")
    assert ",fid," in (folder / "report" / "scores.csv").read_text()
    code, text = run(capsys, "report", str(folder), "--all-columns", "--formats", "md")
    assert "FID ↓" in text
    assert "Absent for every method" not in text
    assert all("FID ↓" in p.read_text() for p in (folder / "report" / "tables").iterdir())


def test_init_writes_a_configuration_that_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    arguments = ("--method", "spade=bundled:toy-spade", "--task", "reconstruct")
    code, text = run(capsys, "init", str(file), *arguments)
    assert code == 0
    assert f"wrote {file}" in text
    code, text = run(capsys, "init", str(file), *arguments)
    assert code == 2
    assert "--force" in text
    assert run(capsys, "init", str(file), *arguments, "--force")[0] == 0
    raw = yaml.safe_load(file.read_text())
    assert raw["methods"] == [{"name": "spade", "weights": "bundled:toy-spade"}]
    for wrong, message in (
        (("--method", "spad"), "did you mean 'spade'"),
        (("--method", "spade", "--task", "transfe"), "did you mean 'transfer'"),
        (("--method", "spade", "-p", "sisbench2"), "did you mean 'sisbench1'"),
        (("--method", "spade", "--root", "nowhere"), "no folder nowhere"),
    ):
        code, text = run(capsys, "init", str(tmp_path / "other.yaml"), *wrong)
        assert code == 2
        assert message in text


def test_what_is_known_as_text_and_as_json(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    assert re.fullmatch(r"sisbench \d.*\s*", run(capsys, "--version")[1])
    assert "Exit codes" in run(capsys, "run", "--help")[1]
    text = run(capsys, "methods", "sean")[1]
    for part in ("ngf", "64", "class_transfer", "sisbench weights add sean FILE", "256 x 256"):
        assert part in text
    about = json.loads(run(capsys, "methods", "sean", "--json")[1])
    assert about["options"]["ngf"] == {"type": "int", "default": "64"}
    assert {m["name"] for m in json.loads(run(capsys, "methods", "--json")[1])} > {"sean", "spade"}
    assert run(capsys, "methods", "saen")[0] == 2
    assert json.loads(run(capsys, "weights", "list", "--json")[1])[0]["name"] == "inception"
    assert {"name", "what"} == json.loads(run(capsys, "datasets", "--json")[1])[0].keys()
    (data,) = json.loads(run(capsys, "datasets", str(config), "--json")[1])
    assert (data["items"], data["bad"], data["size"]) == (4, [], [32, 32])
    assert "4 of 4 items decode at 32 x 32" in run(capsys, "datasets", str(config))[1]
    found = json.loads(run(capsys, "doctor", str(config), "--quick", "--json")[1])
    assert {"state", "what", "remedy"} == found[0].keys()


def test_the_doctor_names_every_fault_once(
    capsys: pytest.CaptureFixture[str], config: Path, method_file: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<html>sign in</html>")
    raises = tmp_path / "raises.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    raises.write_text(text.replace("flat = one_hot", "raise KeyError('x'); flat = one_hot"))
    methods = [
        {"name": "spade", "label": "page", "weights": str(page)},
        {"name": f"{raises}:MeanColour", "label": "raises"},
        {"name": "sean", "label": "large", "weights": "bundled:toy-sean"},
    ]
    changed(config, methods=methods)
    code, text = run(capsys, "doctor", str(config))
    assert code == 1
    assert text.count("a web page") == 1
    assert "raises, transfer on toyfaces: its first image fails: KeyError: 'x' (raises.py" in text
    assert "large, reconstruct on toyfaces: no images: renders 64x64" in text
    assert "mend the failures first" in text


def test_explain_of_a_run(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    run(capsys, "run", str(config), "-q")
    folder = str(config.parent / "run")
    code, text = run(capsys, "explain", "psnr", "--run", folder)
    assert code == 0
    value = next(s for s in RunStore(Path(folder)).scores()[0] if s.metric == "psnr").value
    assert value is not None
    assert f"{value:.2f} dB" in text
    assert "derangement" not in text.split("transfer on")[0]
    code, text = run(capsys, "explain", "psn", "--run", folder)
    assert code == 2
    assert "did you mean 'psnr'" in text


def test_explain_prints_no_code() -> None:
    class Documented:
        """One sentence with ``code``.

        Args:
            size: of something.

            more: after a blank line.

        What follows is prose.

        Example:
            >>> 1 + 1
            2

        >>> 2 + 2
        4
        """

    text = _prose(Documented)
    assert text == "One sentence with code.\n\nWhat follows is prose."


def test_a_path_that_is_a_file_or_no_home(
    capsys: pytest.CaptureFixture[str],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("x")
    code, text = run(capsys, "run", str(config), f"output={tmp_path / 'file' / 'run'}", "-q")
    assert code == 2
    assert text.startswith("error:")
    monkeypatch.setenv("SISBENCH_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("HOME", raising=False)
    assert run(capsys, "run", str(config), "-q")[0] == 0, "scores go on without a cache"


def test_score_ends_with_the_summary_and_the_exit_code_of_a_run(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    folder = str(config.parent / "run")
    assert run(capsys, "run", str(config), "-q", "--generate-only")[0] == 0
    code, text = run(capsys, "score", folder, "-q", "-m", "psnr")
    assert code == 0
    assert "2 cells: 2 done; 2 scores\n" in text
    code, text = run(capsys, "score", folder, "-q", "-m", "fid")
    assert code == 1, "the PSNR that is there was not asked for now"
    assert "2 cells: 2 done; 0 scores, 2 absent\n" in text
    assert "absent: 2 scores (fid): " in text
    code, text = run(capsys, "score", folder, "-q", "-m", "psnr", "-m", "s_fid_typo")
    assert code == 2
    code, text = run(capsys, "score", folder, "-q", "-m", "psnr", "-m", "fid_sh")
    assert code == 1
    assert "undefined: 1 metric (fid_sh): no task of this run defines it" in text
    code, text = run(capsys, "score", folder, "-q")
    assert code == 0, "no metric is named: those without weights may be absent"


def test_report_ends_with_the_summary_and_strict_with_the_code_of_the_run(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    changed(config, metrics=["psnr", "fid"])
    folder = str(config.parent / "run")
    assert run(capsys, "run", str(config), "-q")[0] == 1
    code, text = run(capsys, "report", folder, "--formats", "md")
    assert code == 0
    assert "2 cells: 2 done; 2 scores, 2 absent" in text
    assert run(capsys, "report", folder, "--formats", "md", "--strict")[0] == 1
    changed(config, metrics=["psnr"])
    assert run(capsys, "run", str(config), "-q")[0] == 0
    assert run(capsys, "report", folder, "--formats", "md", "--strict")[0] == 0


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "score", "report"):
        code, text = run(capsys, command, "--help")
        assert code == 0
        assert "Exit codes: 0" in text, command


def asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: str, *options: str
) -> tuple[int, str, Path]:
    """(exit code, output, file) of ``init`` on a terminal where somebody types ``answers``."""
    monkeypatch.setattr(work, "on_terminal", lambda: True)
    file = tmp_path / "mine.yaml"
    done = CliRunner().invoke(cli.app, ["init", str(file), *options], input=answers)
    return done.exit_code, done.output, file


def test_init_asks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers = "spade=bundled:toy-spade, sean\n\nreconstruct\n"
    code, text, file = asked(monkeypatch, tmp_path, answers)
    assert code == 0, text
    found = yaml.safe_load(file.read_text())
    assert [m["name"] for m in found["methods"]] == ["spade", "sean"]
    assert found["methods"][0]["weights"] == "bundled:toy-spade"
    assert found["datasets"][0]["name"] == "toyfaces"
    assert found["tasks"] == ["reconstruct"]
    assert "sean needs its weights" in text


def test_init_takes_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, text, file = asked(monkeypatch, tmp_path, "\n\n\n")
    assert code == 0, text
    found = yaml.safe_load(file.read_text())
    assert [m["name"] for m in found["methods"]] == ["sean"]
    assert found["tasks"] == ["reconstruct", "transfer"]


def test_init_asks_again_for_what_it_does_not_understand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for folder, mode in (("images", "RGB"), ("labels", "L")):
        (data / folder).mkdir(parents=True)
        Image.new(mode, (32, 32)).save(data / folder / "a.png")
    answers = f"spad\nspade\n{tmp_path}/nowhere\n{data}\ntransfr\ntransfer\n"
    code, text, file = asked(monkeypatch, tmp_path, answers)
    assert code == 0, text
    assert "did you mean 'spade'" in text
    assert "did you mean 'transfer'" in text
    assert text.count("folder of the data set") == 2
    found = yaml.safe_load(file.read_text())
    assert found["datasets"][0]["root"] == str(data)
    assert found["tasks"] == ["transfer"]


def test_init_asks_only_for_what_no_option_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, text, _ = asked(monkeypatch, tmp_path, "sean\n\n", "--task", "reconstruct")
    assert code == 0, text
    assert "tasks, with commas" not in text
    code, text, _ = asked(monkeypatch, tmp_path, "", "--method", "sean", "--force")
    assert code == 0, text
    assert "methods, as NAME" not in text


def test_init_left_unanswered_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, text, file = asked(monkeypatch, tmp_path, "sean\n")
    assert code != 0
    assert "Traceback" not in text
    assert not file.exists()


def test_the_doctor_tries_what_the_scores_need(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    code, text = run(capsys, "doctor", str(config))
    assert code == 0
    assert "scores: an image of the data was measured in each way (1)" in text
    foreign = config.parent / "foreign.pth"
    torch.save({"conv.weight": torch.zeros(3)}, foreign)
    changed(config, metrics=["fid", "psnr", "pnsr"], weights={"inception": str(foreign)})
    code, text = run(capsys, "doctor", str(config))
    assert code == 1
    assert re.search(r"fail fid on toyfaces: .*foreign\.pth", text)
    assert "did you mean 'psnr'" in text
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 2, "before any image is made"
    assert "did you mean 'psnr'" in text
    assert not (config.parent / "run").exists()
