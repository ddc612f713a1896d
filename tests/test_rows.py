"""Rows: what is decoded, parts of a killed pass, pixels that change, files that are bad."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sisbench import metrics
from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.metrics.base import ImageBatch, RowMaker
from sisbench.pipeline import run_all, score_run
from sisbench.score import rows as rows_module
from sisbench.score.rows import Mapped, map_rows
from sisbench.score.sources import Source

ROOT = Path(__file__).resolve().parent.parent
QUIET = Progress(quiet=True)
SPACE = LabelSpace("two", ("ground", "thing"))


class Killed(BaseException):
    """As if the process were ended: nothing catches it."""


class Means(RowMaker):
    """Mean of every image; counts what it maps."""

    name = "means"

    def __init__(self, stop_at: int | None = None) -> None:
        self.mapped: list[str] = []
        self.stop_at = stop_at

    def fingerprint(self) -> str:
        return "means-1"

    def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
        if self.stop_at is not None and len(self.mapped) >= self.stop_at:
            raise Killed
        self.mapped += batch.ids
        return {"mean": batch.the("image").double().mean((1, 2, 3)).numpy()}


class Pairs(Means):
    """Another maker, which also looks at the target."""

    name = "pairs"
    needs = frozenset({"image", "target"})


def source(folder: Path, n: int, bad: dict[tuple[str, int], str] | None = None) -> Source:
    """n tiny images, each of one grey value; every read is counted in ``reads``."""
    reads.clear()

    def read(name: str, at: int) -> np.ndarray | None:
        reads[name] += 1
        if bad and (name, at) in bad:
            raise UserError(bad[name, at])
        if name == "label":
            return np.zeros((4, 4), np.int64)
        return np.full((4, 4, 3), at % 256, np.uint8) if name in ("image", "target") else None

    ids = tuple(f"{k:05d}" for k in range(n))
    return Source(folder, ids, SPACE, read, lambda _fields: "content", "test", own=True)


reads: Counter[str] = Counter()


@pytest.mark.parametrize("workers", [0, 3])
def test_a_killed_pass_resumes_at_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(rows_module, "PART", 32)
    map_rows(source(tmp_path / "whole", 100), {"means": Means()}, QUIET)
    with pytest.raises(Killed):
        map_rows(source(tmp_path / "cut", 100), {"means": Means(stop_at=80)}, QUIET, workers)
    kept = sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert len(kept) == 2
    assert all(".part" in name for name in kept)
    again = Means()
    map_rows(source(tmp_path / "cut", 100), {"means": again}, QUIET, workers)
    assert again.mapped == [f"{k:05d}" for k in range(64, 100)]
    files = {
        folder: {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()}
        for folder in ("whole", "cut")
    }
    assert files["cut"] == files["whole"]
    assert len(files["whole"]) == 1


def test_a_damaged_part_is_mapped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "PART", 32)
    with pytest.raises(Killed):
        map_rows(source(tmp_path, 100), {"means": Means(stop_at=80)}, QUIET)
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:100])
    again = Means()
    map_rows(source(tmp_path, 100), {"means": again}, QUIET)
    assert len(again.mapped) == 32 + 36


def test_a_batch_decodes_what_its_makers_need(tmp_path: Path) -> None:
    map_rows(source(tmp_path, 20), {"means": Means()}, QUIET)
    assert reads == {"image": 20}
    map_rows(source(tmp_path, 20), {"means": Means(), "pairs": Pairs()}, QUIET)
    assert reads == {"image": 20, "target": 20}  # the first maker's rows are kept
    map_rows(source(tmp_path, 20), {"means": Means(), "pairs": Pairs()}, QUIET)
    assert reads == {}


def test_a_bad_file_costs_the_rows_that_need_it(tmp_path: Path) -> None:
    bad = {("target", 3): "photograph 3 is corrupt", ("image", 18): "image 18 is corrupt"}
    makers = {"means": Means(), "pairs": Pairs()}
    for _ in range(2):  # mapped, then read back
        found = map_rows(source(tmp_path, 20, bad), makers, QUIET)
        means, pairs = found["means"], found["pairs"]
        assert isinstance(means, Mapped)
        assert isinstance(pairs, Mapped)
        assert means.left_out == {"00018": "image 18 is corrupt"}
        assert set(pairs.left_out) == {"00003", "00018"}
        assert pairs.columns["mean"].tolist() == [k for k in range(20) if k not in (3, 18)]


def test_a_maker_that_raises_gives_its_own_error(tmp_path: Path) -> None:
    class Broken(Means):
        name = "broken"

        def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
            raise ZeroDivisionError("no such thing")

    found = map_rows(source(tmp_path, 5), {"broken": Broken(), "means": Means()}, QUIET)
    assert isinstance(found["means"], Mapped)
    broken = found["broken"]
    assert isinstance(broken, UserError)
    assert re.match(r"ZeroDivisionError: no such thing \(test_rows.py, line \d+\)", broken.message)


def test_an_item_that_a_maker_refuses_costs_itself(tmp_path: Path) -> None:
    class Picky(Means):
        name = "picky"

        def rows(self, batch: ImageBatch) -> dict[str, np.ndarray]:
            if "00002" in batch.ids:
                raise UserError("class 9 in a space of 2 classes")
            return super().rows(batch)

    found = map_rows(source(tmp_path, 5), {"picky": Picky()}, QUIET)["picky"]
    assert isinstance(found, Mapped)
    assert found.left_out == {"00002": "class 9 in a space of 2 classes"}


def test_a_folder_that_cannot_be_written_costs_no_score(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    found = map_rows(source(tmp_path / "file" / "rows", 5), {"means": Means()}, QUIET)["means"]
    assert isinstance(found, Mapped)
    assert len(found.ids) == 5


@pytest.fixture
def run(method_file: str, tmp_path: Path) -> Path:
    raw: dict[str, Any] = {
        "name": "test",
        "output": str(tmp_path / "run"),
        "methods": [{"name": method_file, "label": "m"}],
        "datasets": [{"name": "toyfaces", "size": 32, "n": 4}],
        "metrics": ["psnr", "miou"],
        "parsers": {"celebamask_hq": "toy"},
    }
    run_all(validated(RunConfig, raw, "test"), QUIET)
    return tmp_path / "run"


def scored(run: Path) -> dict[str, Any]:
    found = RunStore(run).scores()[0]
    return {s.metric: s for s in found if s.task == "reconstruct" and s.method == "m"}


def images(run: Path) -> list[Path]:
    (cell,) = [c for c in RunStore(run).cells() if c.entry.task.name == "reconstruct"]
    return sorted((cell.folder / "images").glob("*.png"))


def test_scores_follow_the_pixels_on_disk(run: Path) -> None:
    before = scored(run)["psnr"].value
    first = images(run)[0]
    Image.new("RGB", (32, 32)).save(first)
    score_run(run, ["psnr"], [], [], QUIET)
    assert scored(run)["psnr"].value < before


def test_a_damaged_image_is_left_out_and_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = images(run)[0]
    first.write_bytes(first.read_bytes()[:200])
    score_run(run, None, [], [], Progress())
    said = capsys.readouterr().err
    assert first.name in said
    for score in scored(run).values():
        assert score.n == 3
        assert "1 of 4 items left out: their files are bad" in score.marks


def test_other_photographs_than_those_of_the_run_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sisbench.data.toyfaces import ToyFaces

    stored = (run / "scores.json").read_bytes()
    monkeypatch.setattr(ToyFaces, "fingerprint", lambda _self: "f" * 64)
    with pytest.raises(UserError, match="changed since its images were made"):
        score_run(run, ["psnr"], [], [], QUIET)
    assert (run / "scores.json").read_bytes() == stored


@pytest.mark.parametrize(
    "file",
    [
        "score/scorer.py",
        "score/columns.py",
        "score/real_sets.py",
        "score/ceilings.py",
        "score/scores.py",
        "score/rows.py",
        "score/sources.py",
        "diagnose/explain.py",
        "report/papers.py",
        "report/published.py",
        "core/provenance.py",
    ],
)
def test_no_metric_is_named_outside_metrics(file: str) -> None:
    text = (ROOT / "bench" / file).read_text().replace('timespec="seconds"', "")
    words = set(re.findall(r"""["']([a-z0-9_-]+)["']""", text))
    known = set(metrics.registry.names()) | set(metrics.makers.names())
    assert not words & known
