"""Reference statistics: other tools' files in and out, and what a score against them says."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from share_runs import QUIET, SHA, config, scored_run, tiny_inception
from typer.testing import CliRunner

from sisbench import metrics
from sisbench.cli import app
from sisbench.core.errors import UserError
from sisbench.core.store import RunStore
from sisbench.diagnose.real_sets import statistics_of
from sisbench.metrics.frechet import UNSTATED
from sisbench.pipeline import run_all, score_run
from sisbench.share.stats import Statistics, import_statistics, load_statistics, write_statistics

RNG = np.random.default_rng(0)
REAL = (RNG.normal(size=(300, 12)) @ RNG.normal(size=(12, 12))).astype(np.float32)
FAKE = (RNG.normal(size=(200, 12)) + 0.3).astype(np.float32)


def written_formula(mu1: np.ndarray, s1: np.ndarray, mu2: np.ndarray, s2: np.ndarray) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrtm(S1 S2), as the paper writes it."""
    root = linalg.sqrtm(s1 @ s2)
    return float((mu1 - mu2) @ (mu1 - mu2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root).real)


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.mean(features, axis=0), np.cov(features, rowvar=False)


def foreign(folder: Path, kind: str) -> Path:
    """A file as the tool of this kind writes it."""
    mu, sigma = moments(REAL)
    path = folder / f"{kind}.npz"
    if kind == "torch-fidelity":
        path = folder / "faces-inception-v3-compat-stat-fid-2048.pt"
        torch.save({"mu": mu, "sigma": sigma}, path)
    elif kind == "guided-diffusion":
        np.savez(path, mu=mu, sigma=sigma, mu_s=np.zeros(3), sigma_s=np.eye(3))
    else:
        np.savez_compressed(path, mu=mu, sigma=sigma)
    return path


@pytest.mark.parametrize(
    ("kind", "claimed"),
    [
        ("pytorch-fid", "inception-pytorch_fid"),
        ("clean-fid", "inception-clean"),
        ("guided-diffusion", "inception-tf1"),
        ("torch-fidelity", "inception-tf1"),
    ],
)
def test_fid_from_imported_statistics_is_the_tools_own(
    kind: str, claimed: str, tmp_path: Path
) -> None:
    given = import_statistics(foreign(tmp_path, kind), tmp_path / "ours.npz", kind)
    assert given.extractor == claimed
    assert claimed in given.said
    assert kind in given.said
    score = metrics.create("fid").reduce({"features": FAKE}, given.columns)
    assert score.value == pytest.approx(written_formula(*moments(FAKE), *moments(REAL)), abs=1e-6)
    assert score.n_real is None
    assert score.marks == (UNSTATED,)
    whole = metrics.create("fid").reduce({"features": FAKE}, {"features": REAL})
    assert score.se == pytest.approx(whole.se), "the jackknife over generated images needs no more"
    assert score.values == pytest.approx(whole.values)
    with pytest.raises(UserError, match="mean and covariance alone"):
        metrics.create("kid").reduce({"features": FAKE}, given.columns)


def test_fewer_images_than_dimensions(tmp_path: Path) -> None:
    few = REAL[:6]
    mu, sigma = moments(few)
    np.savez(tmp_path / "few.npz", mu=mu, sigma=sigma)
    given = import_statistics(tmp_path / "few.npz", tmp_path / "ours.npz", "pytorch-fid", n=6)
    score = metrics.create("fid").reduce({"features": FAKE}, given.columns)
    whole = metrics.create("fid").reduce({"features": FAKE}, {"features": few})
    assert score.value == pytest.approx(whole.value, rel=1e-5)
    assert score.n_real == 6
    assert score.marks == ()


def test_features_of_torch_fidelity_bring_kid(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(REAL), tmp_path / "faces-features-2048.pt")
    given = import_statistics(
        tmp_path / "faces-features-2048.pt", tmp_path / "o.npz", "torch-fidelity"
    )
    for name in ("fid", "kid"):
        metric = metrics.create(name)
        assert metric.reduce({"features": FAKE}, given.columns) == metric.reduce(
            {"features": FAKE}, {"features": REAL}
        )


def test_a_file_that_torch_fidelity_wrote(tmp_path: Path) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics
    from torch_fidelity.utils import cache_lookup_one_recompute_on_miss

    features = torch.from_numpy(REAL)
    kept = {"cache": True, "cache_root": str(tmp_path), "verbose": False}
    stat = cache_lookup_one_recompute_on_miss(
        "faces-stat", lambda: fid_features_to_statistics(features), **kept
    )
    given = import_statistics(tmp_path / "faces-stat.pt", tmp_path / "o.npz", "torch-fidelity")
    assert given.columns["mean"] == pytest.approx(stat["mu"])


MU, SIGMA = moments(REAL)
SLANTED = SIGMA.copy()
SLANTED[0, 1] += 1
BAD = [
    ({"mu": MU}, "has no 'sigma'"),
    ({"mean": MU, "cov": SIGMA}, "holds mean, cov"),
    ({"mu": MU[:5], "sigma": SIGMA}, r"\(5,\) and \(12, 12\)"),
    ({"mu": MU, "sigma": SIGMA[:5]}, r"\(5, 12\)"),
    ({"mu": MU * np.nan, "sigma": SIGMA}, "NaN"),
    ({"mu": MU, "sigma": SLANTED}, "not symmetric"),
    ({"mu": MU, "sigma": -SIGMA}, "negative variance"),
    ({"mu": MU.astype(int), "sigma": SIGMA}, "floats"),
    ({"mu": MU, "sigma": SIGMA, "n": np.array([1, 2])}, "n must be one number"),
    ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, "holds arr_0"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD, ids=[said for _, said in BAD])
def test_a_bad_file_is_one_line(arrays: dict, said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=said):
        import_statistics(tmp_path / "bad.npz", tmp_path / "ours.npz", "pytorch-fid")
    assert not (tmp_path / "ours.npz").exists()


class Evil:
    def __reduce__(self) -> tuple:
        return (print, ("ran",))


def test_pickles_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "evil.npz", mu=np.array([Evil()], object), sigma=SIGMA)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"mu": Evil(), "sigma": SIGMA}, tmp_path / "evil2.pt")
    cases = [("evil.npz", "pytorch-fid"), ("evil.pt", "torch-fidelity")]
    for name, kind in [*cases, ("evil2.pt", "torch-fidelity")]:
        with pytest.raises(UserError, match="plain arrays"):
            import_statistics(tmp_path / name, tmp_path / "ours.npz", kind)
    assert "ran" not in capsys.readouterr().out


def test_what_the_user_states_goes_before_the_tools_own(tmp_path: Path) -> None:
    path = foreign(tmp_path, "pytorch-fid")
    given = import_statistics(
        path, tmp_path / "o.npz", "pytorch-fid", extractor="inception-tf1", split="train", n=300
    )
    assert (given.extractor, given.split) == ("inception-tf1", "train")
    assert "by the user" in given.said
    with pytest.raises(UserError, match="inception-tf1"):
        import_statistics(path, tmp_path / "o.npz", "pytorch-fid", extractor="inception-tf")
    with pytest.raises(UserError, match="does not say what"):
        load_statistics(path)


def test_scores_against_statistics(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    run = scored_run(method_file, tmp_path / "run")
    before = {s.metric: s for s in RunStore(run).scores()[0] if s.cell}
    runner = CliRunner()
    whole, bare = tmp_path / "whole.npz", tmp_path / "bare.npz"
    for path, more in ((whole, []), (bare, ["--no-features"])):
        done = runner.invoke(app, ["stats", "export", str(run), "-o", str(path), *more])
        assert done.exit_code == 0, done.output
    score_run(run, None, [], [], QUIET, real_stats=[str(whole)])
    after = {s.metric: s for s in RunStore(run).scores()[0] if s.cell}
    for name in ("fid", "kid"):
        assert after[name].value == before[name].value
        assert after[name].n_real == 20
        assert "statistics 'toyfaces-test'" in after[name].extra["real_set"]
    assert "real_set" not in before["fid"].extra
    again = config(
        method_file,
        run,
        datasets=[{"name": "toyfaces", "size": 32, "n": 20, "real_stats": str(bare)}],
    )
    run_all(again, QUIET)
    last = {s.metric: s for s in RunStore(run).scores()[0] if s.cell}
    assert last["fid"].value == pytest.approx(before["fid"].value, abs=1e-9)
    assert last["fid"].se == pytest.approx(before["fid"].se)
    assert last["kid"].value is None
    assert "needs the features of the real set" in last["kid"].reason
    assert last["psnr"] == before["psnr"]


def test_statistics_of_another_extractor_are_refused(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    run = scored_run(method_file, tmp_path / "run", metrics=["fid"])
    import_statistics(foreign(tmp_path, "clean-fid"), tmp_path / "o.npz", "clean-fid")
    score_run(run, None, [], [], QUIET, real_stats=[f"toyfaces={tmp_path / 'o.npz'}"])
    (score,) = RunStore(run).scores()[0]
    assert score.value is None
    assert "inception-clean" in score.reason
    assert "inception-tf1" in score.reason


@pytest.mark.parametrize("kind", ["pytorch-fid", "clean-fid", "torch-fidelity", "guided-diffusion"])
def test_a_data_set_goes_out_and_comes_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_inception(monkeypatch)
    to = tmp_path / ("cache" if kind == "torch-fidelity" else "out.npz")
    fid = {"pytorch-fid": "pytorch_fid", "clean-fid": "clean"}.get(kind, "tf1")
    protocol = {"pytorch_fid": "", "clean": "", "tf1": "sisbench1"}[fid]
    args = ["stats", "export", "toyfaces", "--option", "n=20", "--option", "size=32", "--to", kind]
    done = CliRunner().invoke(app, [*args, "-o", str(to), *(["-p", protocol] if protocol else [])])
    if not protocol:  # sisbench1 is tf1: these tools take another extractor
        assert isinstance(done.exception, UserError)
        assert f"'fid' is {fid}" in str(done.exception)
        return
    assert done.exit_code == 0, done.output
    file = to / "toyfaces-test-inception-v3-compat-features-2048.pt"
    file = file if kind == "torch-fidelity" else to
    given = import_statistics(file, tmp_path / "back.npz", kind)
    ours = tmp_path / "ours.npz"
    CliRunner().invoke(app, [*args[:-2], "-o", str(ours)])
    assert given.columns["features"] == pytest.approx(load_statistics(ours).columns["features"])
    assert load_statistics(ours).sha256 == SHA


def test_statistics_of_one_image_are_refused() -> None:
    with pytest.raises(UserError, match="n >= 2"):
        Statistics.of(REAL[:1])


def found(folder: Path, files: list[Path], **changes: Any) -> dict[str, str]:
    """What doctor says of statistics: text -> state."""
    data = {"name": "toyfaces", "size": 32, "n": 20, "real_stats": [str(f) for f in files]}
    run = config("sean", folder / "run", datasets=[data], **changes)
    return {f"{f.what} / {f.remedy}": f.state for f in statistics_of(run)}


def test_doctor_looks_at_the_statistics(tmp_path: Path) -> None:
    bare, whole, other = (tmp_path / f"{n}.npz" for n in ("bare", "whole", "other"))
    import_statistics(foreign(tmp_path, "guided-diffusion"), bare, "guided-diffusion")
    np.savez(tmp_path / "feats.npz", feats=REAL)
    source = tmp_path / "feats.npz"
    import_statistics(source, whole, "clean-fid", extractor="inception-tf1", split="train")
    import_statistics(source, other, "clean-fid")
    said = found(tmp_path, [bare, whole])
    assert set(said.values()) == {"ok"}
    assert any("so no KID" in text for text in said)
    assert any(f"train photographs, {len(REAL)} images, inception-tf1" in text for text in said)
    said = found(tmp_path, [other])
    assert sorted(said.values()) == ["ok", "warn"]
    assert any("inception-clean, and sisbench1@" in t and "takes inception-tf1" in t for t in said)
    twice = found(tmp_path, [bare, other])
    assert any("two statistics for the test photographs of toyfaces" in t for t in twice)
    assert "fail" in twice.values()
    bad = found(tmp_path, [tmp_path / "nowhere.npz", source])
    assert list(bad.values()) == ["fail", "fail"]
    assert all(" / " in text for text in bad)


def test_doctor_compares_the_weights_of_statistics(tmp_path: Path) -> None:
    file = tmp_path / "inception.pth"
    file.write_bytes(b"weights")
    about = {"name": "x", "source": "sisbench", "extractor": "inception-tf1", "split": "test"}
    about |= {"stated": "by the export", "weights": SHA}
    write_statistics(tmp_path / "own.npz", Statistics.of(REAL), about)
    given = {"weights": {"inception": str(file)}}
    said = found(tmp_path, [tmp_path / "own.npz"], **given)
    assert [t for t, state in said.items() if state == "warn" and f"weights {SHA[:12]}" in t]
    about["weights"] = hashlib.sha256(b"weights").hexdigest()
    write_statistics(tmp_path / "own.npz", Statistics.of(REAL), about)
    assert list(found(tmp_path, [tmp_path / "own.npz"], **given).values()) == ["ok"]
