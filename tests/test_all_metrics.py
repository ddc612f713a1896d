"""Registering is enough to be tested: facts, examples, rows and scores of every metric."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from metrics_helpers import noise_images

from sisbench import metrics
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.store import BASIS
from sisbench.core.tasks import TASKS
from sisbench.metrics.base import Context, ImageBatch, RowMaker, Score
from sisbench.protocol import Protocol

NAMES = metrics.registry.names()
SPACE = LabelSpace.named("celebamask_hq")
CONTEXT = Context(parser="toy", space=SPACE)
FIELDS = {f for f in ImageBatch.__dataclass_fields__ if f not in ("ids", "space")}


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    found = metrics.registry.get(name)
    maker = metrics.maker_of(found)
    assert found.name == name
    assert found.title
    assert found.direction in ("up", "down")
    assert found.real in ("", "test", "train")
    assert found.kind in ("quality", "machine")
    assert found.tasks
    assert set(found.tasks) <= set(TASKS)
    assert found.source
    assert (maker is None) == bool(found.columns)
    low, high = found.bounds
    assert low is None or high is None or low < high
    fields = {*found.protocol_fields, *found.shown_where, found.convention_field} - {""}
    assert fields <= set(Protocol.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstrings_example_runs(name: str) -> None:
    found = metrics.registry.get(name)
    module = inspect.getmodule(found)
    assert module is not None
    assert ">>>" in (found.__doc__ or "")
    example = doctest.DocTestFinder(recurse=False).find(
        found, found.__name__, globs=vars(module) | {"np": np}
    )
    for test in example:
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize(
    "module", ["frechet", "kid", "identity", "pixel", "perceptual", "segmentation", "locality"]
)
def test_examples_of_functions(module: str) -> None:
    found = sys.modules[f"sisbench.metrics.{module}"]
    assert doctest.testmod(found, extraglobs={"np": np}).failed == 0


def test_examples_of_estimates() -> None:
    from sisbench.core import estimates

    assert doctest.testmod(estimates, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("name", metrics.makers.names())
def test_facts_of_makers(name: str) -> None:
    maker = metrics.makers.get(name)
    assert maker.name == name
    assert maker.needs
    assert maker.needs | maker.uses <= FIELDS
    assert not maker.needs & maker.uses
    assert inspect.getdoc(maker)
    if not isinstance(maker.resize, str):
        assert maker.resize_field in Protocol.model_fields
        assert set(maker.resize) == set(
            get_args(Protocol.model_fields[maker.resize_field].annotation)
        )


def whole_batch(n: int) -> ImageBatch:
    """Every field, of 64 x 64 noise."""
    size = (64, 64)
    pictures = {k: noise_images(n, *size, seed) for seed, k in enumerate(PICTURES)}
    draw = torch.Generator().manual_seed(9)
    maps = {
        k: torch.randint(0, len(SPACE), (n, *size), generator=draw)
        for k in ("label", "reference_label", "target_label")
    }
    classes = torch.rand(n, len(SPACE), generator=draw) < 0.3
    siblings = noise_images(2 * n, *size, 77).view(n, 2, 3, *size)
    ids = [f"s{k}" for k in range(n)]
    return ImageBatch(ids, space=SPACE, classes=classes, siblings=siblings, **pictures, **maps)


PICTURES = ("image", "target", "reference", "original", "photograph")


def picked(batch: ImageBatch, fields: frozenset[str], order: list[int]) -> ImageBatch:
    """The given fields of the given items, nothing else."""
    values = {f: getattr(batch, f)[order] if f in fields else None for f in FIELDS}
    return ImageBatch([batch.ids[k] for k in order], space=batch.space, **values)


def usable(name: str) -> RowMaker:
    """The maker as a run makes it; its test is left out where its weights are not here."""
    try:
        return metrics.create_maker(name, CONTEXT)
    except Unavailable as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("name", metrics.makers.names())
def test_rows_depend_on_one_sample_and_on_what_is_needed(name: str) -> None:
    maker = usable(name)
    fields, batch = maker.needs | maker.uses, whole_batch(4)
    together = maker.rows(picked(batch, fields, [0, 1, 2, 3]))
    turned = maker.rows(picked(batch, fields, [3, 2, 1, 0]))
    alone = [maker.rows(picked(batch, fields, [k])) for k in range(4)]
    for column, values in together.items():
        assert len(values) == 4
        np.testing.assert_allclose(turned[column][::-1], values, rtol=1e-6, atol=1e-7)
        single = np.concatenate([rows[column] for rows in alone])
        np.testing.assert_allclose(single, values, rtol=1e-6, atol=1e-7)
    for needed in maker.needs:
        with pytest.raises(Unavailable, match=needed):
            maker.rows(picked(batch, fields - {needed}, [0, 1]))


@pytest.mark.parametrize("name", metrics.makers.names())
def test_fingerprints_and_basis(name: str) -> None:
    maker = usable(name)
    assert maker.fingerprint() == metrics.create_maker(name, CONTEXT).fingerprint()
    others = [metrics.makers.get(n) for n in metrics.makers.names() if n != name]
    assert all(type(maker) is not other for other in others)
    assert set(maker.basis((64, 64))) <= set(BASIS)


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_set_gives_a_score_within_its_bounds(name: str) -> None:
    cls = metrics.registry.get(name)
    metric = metrics.create(name, CONTEXT)
    maker_class = metrics.maker_of(cls)
    for n in (1, 3):
        if maker_class is None:
            rows = {column: np.arange(1.0, n + 1) for column in cls.columns}
        elif maker_class.name in FEATURES:
            rows = FEATURES[maker_class.name](n)
        else:
            maker = usable(maker_class.name)
            fields = maker.needs | maker.uses
            rows = maker.rows(picked(whole_batch(n), fields, list(range(n))))
        rows["target_id"] = np.array([f"s{k}" for k in range(n)])
        real = {"features": np.random.default_rng(1).normal(size=(9, 4))} if cls.real else None
        try:
            score = metric.reduce(rows, real)
        except UserError:
            assert n <= metric.options.get("neighbours", 1)  # too few, and it says so
            continue
        check_score(score, cls, n)


def check_score(score: Score, cls: type[metrics.base.Metric], n: int) -> None:
    assert np.isfinite(score.value)
    assert score.n == n
    low, high = (None if b is None else b / cls.scale for b in cls.bounds)
    assert low is None or score.value >= low
    assert high is None or score.value <= high
    if n == 1:
        assert score.se is None, "one image tells no standard error"
        assert score.ci is None
    if score.values is not None:
        assert score.values.shape == (n,)
        assert np.mean(score.values) == pytest.approx(score.value, rel=1e-6)


def embeddings(n: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {k: draw.normal(size=(n, 8)) for k in ("embedding", "target_embedding")}


def four_features(n: int) -> dict[str, np.ndarray]:
    return {"features": np.random.default_rng(0).normal(size=(n, 4))}


FEATURES = {  # rows of makers whose weights are never at hand in a test, or of any width
    "inception": four_features,
    "toy-features": four_features,
    "efficientnet-lite0": four_features,
    "lpips-alex": lambda n: {"lpips": np.linspace(0.1, 0.3, n)},
    "lpips-vgg": lambda n: {"lpips": np.linspace(0.1, 0.3, n)},
    "lpips-squeeze": lambda n: {"lpips": np.linspace(0.1, 0.3, n)},
    "lpips-embedding": lambda n: {"distance": np.linspace(0.1, 0.3, n)},
    "identity": embeddings,
    "reid": lambda n: {
        "subject": np.linspace(0.4, 0.6, n),
        "background": np.full(n, 0.5),
        "whole_frame": np.zeros(n, bool),
    },
}


def test_metrics_without_torch():
    """A table is made, and scores are reduced, where torch cannot be imported."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "lpips", "torch_fidelity"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Refuse())
import numpy as np
from sisbench import metrics
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
    with pytest.raises(UserError, match="options or a context"):
        metrics.create("kid", Context(), subsets=3)
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
