"""Values an item whose mean is the figure, and the paired comparison that rests on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sisbench import metrics
from sisbench.config import RunConfig
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.pipeline import run_all, write_report
from sisbench.report.paired import paired_tables
from sisbench.report.quality import RunResults

RNG = np.random.default_rng(0)
FEATURES = {"features": RNG.normal(size=(40, 12))}
REAL = {"features": RNG.normal(size=(60, 12)) + 0.3}
CONFUSION = {"confusion": RNG.integers(0, 50, (20, 4, 4)), "ignored": np.zeros((20, 4), int)}
PIXELS = {
    "sse": RNG.uniform(1e3, 1e5, 20),
    "count": np.full(20, 3072),
    "low": np.zeros(20, int),
    "high": np.full(20, 255),
}
CASES = [
    ("fid", FEATURES, REAL),
    ("kid", FEATURES, REAL),
    ("miou", CONFUSION, None),
    ("accuracy", CONFUSION, None),
    ("psnr", PIXELS, None),
    ("psnr_pooled", PIXELS, None),
    ("ssim", {"ssim": RNG.uniform(0, 1, 20)}, None),
    ("lpips", {"lpips": RNG.uniform(0, 1, 20)}, None),
]


@pytest.mark.parametrize(("name", "rows", "real"), CASES, ids=[c[0] for c in CASES])
def test_the_mean_of_the_values_is_the_figure(name: str, rows: dict, real: dict | None) -> None:
    metric = metrics.create(name)
    score = metric.reduce(rows, real)
    assert score.values is not None
    assert score.values.mean() == pytest.approx(score.value, rel=1e-9)


@pytest.mark.parametrize("name", ["miou", "accuracy"])
def test_pseudo_values_are_the_derivative_by_an_images_weight(name: str) -> None:
    """One image counted slightly more changes the figure by its pseudo-value's share."""
    metric, n, step = metrics.create(name), 20, 1e-4
    score = metric.reduce(CONFUSION)
    values, figure = score.values, score.value
    assert values is not None
    for k in (0, 7):
        weights = np.ones(n)
        weights[k] += step
        heavier = CONFUSION["confusion"] * weights[:, None, None]
        pooled = heavier.sum(0)
        tp, truth, found = np.diagonal(pooled), pooled.sum(1), pooled.sum(0)
        moved = tp.sum() / truth.sum() if name == "accuracy" else (tp / (truth + found - tp)).mean()
        assert (moved - figure) / step == pytest.approx((values[k] - figure) / n, rel=1e-2)


def test_kids_values_are_its_leave_one_out_differences() -> None:
    """To the order of 1 / n: the jackknife weighs the pairs within a set (n - 1) / (n - 2)."""
    metric, x = metrics.create("kid"), FEATURES["features"]
    whole, n = metric.reduce(FEATURES, REAL).value, len(x)
    left_out = [metric.reduce({"features": np.delete(x, k, 0)}, REAL).value for k in range(n)]
    jackknife = (n - 1) * (whole - np.array(left_out))
    off = np.abs(metric.reduce(FEATURES, REAL).values - whole - jackknife)
    assert off.max() < 2 / n * np.abs(jackknife).max()


def test_versus_a_method_of_the_run(method_file: str, tmp_path: Path) -> None:
    better = tmp_path / "better.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    better.write_text(text.replace("0.05 * grain", "0.0 * grain"))
    raw = {
        "name": "test",
        "output": str(tmp_path / "run"),
        "methods": [
            {"name": method_file, "label": "noisy"},
            {"name": f"{better}:MeanColour", "label": "clean"},
        ],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 8}],
        "metrics": ["psnr", "ssim", "miou"],
        "parsers": {"celebamask_hq": "toy"},
    }
    run_all(validated(RunConfig, raw, "test"), Progress(quiet=True))
    table = paired_tables(RunResults.of(tmp_path / "run"), "noisy", [])[0]
    assert [r.key for r in table.rows] == ["clean"]
    cell = dict(zip([c.key for c in table.columns], table.cells[0], strict=True))["psnr"]
    scores = {(s.method, s.metric): s for s in RunResults.of(tmp_path / "run").scores}
    difference = scores["clean", "psnr"].value - scores["noisy", "psnr"].value
    assert cell.value == pytest.approx(difference)
    assert cell.value > 0
    assert cell.n == 8
    assert cell.se < scores["clean", "psnr"].se, "pairing removes what the items share"
    page = write_report(tmp_path / "run", versus="noisy")
    assert "difference to noisy" in page.read_text()


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ((1.0, 2.0, 3.0), "tau +1.00"),
        ((3.0, 2.0, 1.0), "tau -1.00"),
        ((2.0, 2.0, 2.0), "cannot be compared"),
    ],
)
def test_two_parsers_and_whether_they_rank_alike(
    tmp_path: Path, second: tuple[float, ...], said: str
) -> None:
    from sisbench.core.log import Manifest, MetricFacts, ScoreRecord
    from sisbench.report.quality import quality_tables

    scores = [
        ScoreRecord(f"m{k}", f"m{k}", "d", "reconstruct", name, "p@1", value, n=9)
        for name, values in (("miou", (0.1, 0.2, 0.3)), ("miou@other", second))
        for k, value in enumerate(values)
    ]
    facts = MetricFacts(title="mIoU", direction="up", unit="%", scale=100.0, digits=2)
    results = RunResults(tmp_path, Manifest(), [], scores, {"miou": facts, "miou@other": facts})
    table = quality_tables(results)[0]
    assert any(said in sentence and "other" in sentence for sentence in table.caption)
