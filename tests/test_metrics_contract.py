"""What holds for every metric: attributes, examples, no torch at import, helpful errors."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

from sisbench import metrics
from sisbench.core.errors import UserError

MODULES = (
    "efficiency",
    "frechet",
    "identity",
    "kid",
    "locality",
    "perceptual",
    "pixel",
    "segmentation",
    "statistics",
)
TASKS = {
    "reconstruct",
    "transfer",
    "class_transfer",
    "shape_transfer",
    "subject_transfer",
    "sample",
    "mixed",
    "interpolate_style",
    "interpolate_shape",
}


@pytest.mark.parametrize("name", metrics.registry.names())
def test_attributes(name):
    found = metrics.registry.get(name)
    assert found.name == name
    assert found.title
    assert found.direction in ("up", "down")
    assert found.real in ("", "test", "train")
    assert found.tasks
    assert set(found.tasks) <= TASKS
    assert found.source
    assert ">>>" in (found.__doc__ or "")
    low, high = found.bounds
    assert low is None or high is None or low < high
    if found.maker:
        assert metrics.makers.get(found.maker).name == found.maker


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    found = importlib.import_module(f"metrics.{module}")
    result = doctest.testmod(found, extraglobs={"np": np})
    assert result.failed == 0


def test_metrics_without_torch():
    """A table is made, and figures are reduced, where torch cannot be imported."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "lpips", "torch_fidelity"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Refuse())
import numpy as np, metrics
for name in metrics.registry.names():
    cls = metrics.registry.get(name)
    assert cls.title and cls.direction and cls.digits is not None
for name in metrics.makers.names():
    assert metrics.makers.get(name).name == name
x = np.random.default_rng(0).normal(size=(30, 4))
assert metrics.create("fid").reduce({"features": x + 1}, {"features": x}).value > 3
rows = {"confusion": np.eye(3, dtype=int)[None], "ignored": np.zeros((1, 3), int)}
assert metrics.create("miou").reduce(rows).value == 1
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_names_and_options():
    with pytest.raises(UserError, match="did you mean 'lpips'"):
        metrics.create("lpisp")
    with pytest.raises(UserError, match="did you mean 'interval'"):
        metrics.create("fid", intervall=True)
    with pytest.raises(UserError, match="no row_maker"):
        metrics.create_maker("inceptoin")


def test_a_metric_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from sisbench.metrics.base import Metric, Score\n"
        "class Count(Metric):\n"
        "    name = title = 'count'\n"
        "    def reduce(self, rows, real=None, *, seed=0):\n"
        "        return Score(float(len(rows['x'])), len(rows['x']))\n"
    )
    metric = metrics.create(f"{tmp_path}/mine.py:Count", anything=1)
    assert metric.reduce({"x": np.zeros(3)}).value == 3
    assert metric.options == {"anything": 1}
