"""The public names of ``import sisbench``: their examples run, and importing is cheap."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import sisbench

FUNCTIONS = [n for n in sisbench.__all__ if n[0].islower()]


def implementation(name: str):
    found = getattr(sisbench, name)
    return found if inspect.isfunction(found) else found.__call__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_an_example_that_runs(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(implementation(name))
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test).failed == 0


def test_every_public_name_is_there() -> None:
    assert [
        *("create_method", "create_metric", "create_parser", "open_dataset", "open_run", "run"),
        "score_images",
    ] == FUNCTIONS
    for name in sisbench.__all__:
        assert getattr(sisbench, name) is not None
    assert set(sisbench.__all__) <= set(dir(sisbench))
    with pytest.raises(AttributeError, match="no attribute 'creat_method'"):
        _ = sisbench.creat_method


def test_importing_is_light_and_run_is_a_function_and_a_room() -> None:
    code = (
        "import sys, sisbench\n"
        "assert callable(sisbench.run)\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import sisbench.run.plan\n"
        "from sisbench.run.plan import make_plan\n"
        "assert callable(sisbench.run) and sisbench.run.plan.make_plan is make_plan\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_configuration_may_be_a_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        "methods: [{name: spade, weights: 'bundled:toy-spade', label: mine}]\n"
        "datasets: [{name: toyfaces, n: 2, size: 64}]\nmetrics: [psnr]\n"
    )
    found = sisbench.run("tiny.yaml")
    assert found.path == Path("runs/tiny")
    assert found.scores()["title"].tolist() == ["mine"]
