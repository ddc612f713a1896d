"""What packages and files of others bring (methods, metrics, parsers, data sets): one that is
broken costs itself and nothing else, wherever it is met."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from test_cli import config, run

from sisbench import data, methods, metrics, segmenters
from sisbench.core import registry
from sisbench.core.errors import Broken, UserError
from sisbench.core.store import RunStore
from sisbench.score import real_sets

__all__ = ["config"]

GROUPS = ("sisbench.methods", "sisbench.metrics", "sisbench.datasets", "sisbench.segmenters")
BROKEN = {
    "gone": "nowhere_installed:Thing",
    "raises": "broken_package:Thing",
    "lacks": "odd_package:Missing",
    "other": "odd_package:NOT_A_CLASS",
    "foreign": "odd_package:Plain",
    "ends": "ending_package:Thing",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed packages whose entry points are broken in every way, in every group."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "broken_package.py").write_text("import torch\nraise RuntimeError('no CUDA here')\n")
    (folder / "odd_package.py").write_text("NOT_A_CLASS = 3\n\n\nclass Plain:\n    pass\n")
    (folder / "ending_package.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(folder)
    real = registry.entry_points

    def entry_points(*, group: str) -> list[EntryPoint]:
        added = [EntryPoint(name, value, group) for name, value in BROKEN.items()]
        return [*real(group=group), *(added if group in GROUPS else [])]

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("known", [methods, metrics, data, segmenters])
def test_each_says_why_it_cannot_be_had(known: object) -> None:
    found, broken = known.registry.all()  # type: ignore[attr-defined]
    assert broken.keys() == BROKEN.keys()
    assert not broken.keys() & found.keys()
    assert found
    kind = known.registry.kind  # type: ignore[attr-defined]
    said = {name: error.message for name, error in broken.items()}
    assert (
        f"{kind} 'gone' of the package nowhere_installed:Thing cannot be imported" in said["gone"]
    )
    assert "RuntimeError: no CUDA here (broken_package.py, line 2)" in said["raises"]
    assert "Missing" in said["lacks"]
    assert "SystemExit: 3" in said["ends"]
    assert f"'other' is no {kind}: 3 is no subclass of" in said["other"]
    assert "Plain is no subclass of" in said["foreign"]
    assert all(isinstance(error, Broken) for error in broken.values())


@pytest.mark.usefixtures("packages")
def test_a_run_is_made_scored_and_reported_beside_them(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    folder = config.parent / "run"
    text = config.read_text().replace("metrics:\n- psnr\n", "")
    config.write_text(text)
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 0, "nobody asked for them"
    scores = {(s.metric, s.task): s for s in RunStore(folder).scores()[0]}
    assert scores["psnr", "reconstruct"].value is not None
    for name in BROKEN:
        assert scores[name, "reconstruct"].value is None
        assert scores[name, "reconstruct"].reason
    code, text = run(capsys, "score", str(folder), "-q", "-m", "psnr", "-m", "raises")
    assert code == 1
    assert "absent: 2 scores (raises): metric 'raises' of the package" in text
    assert "no CUDA here" in text
    code, text = run(capsys, "report", str(folder), "--versus", "ca2sis")
    assert code in (0, 2), text
    assert run(capsys, "report", str(folder))[0] == 0


@pytest.mark.usefixtures("packages")
def test_lists_name_them(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    for command in (("methods",), ("datasets",), ("explain",), ("methods", "--json")):
        code, text = run(capsys, *command)
        assert code == 0
        assert "no CUDA here" in text, command
    for command in (("methods", "raises"), ("explain", "raises"), ("check", "raises")):
        code, text = run(capsys, *command)
        assert code == 2
        assert "no CUDA here" in text, command


@pytest.mark.usefixtures("packages")
def test_a_broken_data_set_costs_its_cells(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    text = config.read_text().replace("datasets:\n", "datasets:\n- name: raises\n")
    config.write_text(text)
    code, text = run(capsys, "run", str(config), "-q")
    assert code == 1
    assert "2 done, 2 failed" in text
    assert "no CUDA here" in text


METRIC = """
import numpy as np

from sisbench.metrics.base import Metric, RowMaker, Score


class Rows(RowMaker):
    name = "own"
    needs = frozenset({"image"})

    def fingerprint(self):
        return "1" * 16

    def rows(self, batch):
        return {"own": np.ones(len(batch.ids))}


class Own(Metric):
    name, title = "own", "Own"
    maker = Rows
    tasks = ("reconstruct", "transfer")

    def reduce(self, rows, real=None, *, seed=0):
        return Score(float(rows["own"].mean()), len(rows["own"]))
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("return Score(float", "return (float", "expected a Score"),
        ('Score(float(rows["own"].mean())', 'Score("much"', "TypeError"),
        ('{"own": np.ones(len(batch.ids))}', '{"own": np.ones(9)}', "9 rows for"),
        ('{"own": np.ones(len(batch.ids))}', "7", "Error"),
        ('{"own": np.ones(len(batch.ids))}', '{"ids": np.ones(len(batch.ids))}', "Error"),
        ('frozenset({"image"})', '("imagee",)', "'imagee', which is no field of a batch"),
        ('frozenset({"image"})', "None", "TypeError"),
        ("maker = Rows", 'maker = "nowhere"', "no row_maker is called 'nowhere'"),
        ('return "1" * 16', "return None", "TypeError"),
        ('tasks = ("reconstruct", "transfer")', "tasks = 3", "TypeError"),
        ("maker = Rows", "maker = Rows; bounds = 3", "Error"),
        ("maker = Rows", "maker = Rows; direction = 'sideways'", "Error"),
        ("class Own(Metric):", "class Own:", "no subclass of Metric"),
        ("class Own(Metric):", "raise OSError(5, 'x')\\nclass Own(Metric):", "OSError"),
    ],
)
def test_a_metric_of_a_file_costs_itself(
    capsys: pytest.CaptureFixture[str], config: Path, right: str, wrong: str, said: str
) -> None:
    assert right in METRIC
    file = config.parent / f"own_{abs(hash((right, wrong)))}.py"
    file.write_text(METRIC.replace(right, wrong.replace("\\n", "\n"), 1))
    folder = config.parent / "run"
    assert run(capsys, "run", str(config), "-q", "--generate-only")[0] == 0
    code, text = run(capsys, "score", str(folder), "-q", "-m", "psnr", "-m", f"{file}:Own")
    assert code == 1, text
    assert said in text
    scores = {(s.metric.rpartition(":")[2], s.task): s for s in RunStore(folder).scores()[0]}
    assert scores["psnr", "reconstruct"].value is not None
    assert scores["Own", "reconstruct"].value is None


def test_the_metric_itself_is_scored(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    file = config.parent / "own_right.py"
    file.write_text(METRIC)
    assert run(capsys, "run", str(config), "-q", "--generate-only")[0] == 0
    code, text = run(capsys, "score", str(config.parent / "run"), "-q", "-m", f"{file}:Own")
    assert code == 0, text


def test_a_file_without_the_class_is_an_error_before_anything(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    file = config.parent / "own_lacks.py"
    file.write_text(METRIC)
    assert run(capsys, "run", str(config), "-q", "--generate-only")[0] == 0
    code, text = run(capsys, "score", str(config.parent / "run"), "-m", f"{file}:Owm")
    assert code == 2
    assert "did you mean 'Own'" in text
    with pytest.raises(UserError, match="no such file"):
        metrics.registry.get(f"{config.parent}/nowhere.py:Own")


def test_a_data_set_that_is_gone_when_it_is_scored_costs_its_scores(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config.read_text().replace(
        "datasets:\n", "datasets:\n- {name: toyfaces, label: other, size: 32, n: 2}\n"
    )
    config.write_text(text)
    folder = config.parent / "run"
    assert run(capsys, "run", str(config), "-q")[0] == 0
    before = {(s.dataset, s.task, s.metric): s.value for s in RunStore(folder).scores()[0]}
    real = real_sets.open_dataset

    def opens(name: str, **arguments: object) -> object:
        if arguments["n"] == 2:
            raise ImportError("its package is gone")
        return real(name, **arguments)

    monkeypatch.setattr(real_sets, "open_dataset", opens)
    for metric, value in (("psnr", before["other", "transfer", "psnr"]), ("ssim", None)):
        code, text = run(capsys, "score", str(folder), "-m", metric)
        assert code == (0 if value is not None else 1)
        assert "data set other: ImportError: its package is gone" in text
        found = {(s.dataset, s.task, s.metric): s for s in RunStore(folder).scores()[0]}
        assert found["other", "transfer", metric].value == value
        assert found["toyfaces", "transfer", metric].value is not None
    assert "its package is gone" in found["other", "transfer", "ssim"].reason
