"""Shards: whatever runs, dies, runs twice or is cut otherwise, the tables have the same bytes."""

from __future__ import annotations

import io
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from method_text import METHOD
from rich.console import Console
from typer.testing import CliRunner

from sisbench.cli import app
from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.shard import Shard, all_shards
from sisbench.core.store import CellFolder, RunStore, write_atomic
from sisbench.pipeline import run_all, run_shard, score_run
from sisbench.run import locks
from sisbench.run.engines import local
from sisbench.run.locks import busy_shards, run_lock, shard_lock
from sisbench.run.plan import Cell
from sisbench.run.status import status_of, status_tables
from sisbench.run.stored import write_items
from sisbench.score import rows as rows_module

QUIET = Progress(quiet=True)


def config(method: str, out: Path, n: int = 21, **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": [{"name": method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 32, "n": n}],
        "tasks": ["reconstruct", "shape_transfer"],
        "metrics": ["psnr", "ssim"],
        "engine": {"device": "cpu", "batch_size": 2, "workers": 1},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def outcome(run: Path) -> dict[str, Any]:
    """Every image, the scores and the tables of a finished run."""
    store = RunStore(run)
    assert [c.entry.status for c in store.cells()] == ["done"] * len(store.cells())
    images = {}
    for cell in store.cells():
        rows = cell.items()
        assert [row["index"] for row in rows] == list(range(cell.entry.items))
        assert not list(cell.folder.rglob("*part*")), "the parts were joined"
        images |= {f"{cell.folder.name}/{r['id']}": cell.image(r["id"]).tobytes() for r in rows}
    tables = {p.name: p.read_bytes() for p in (run / "report" / "tables").iterdir()}
    return images | tables | {"scores": (run / "scores.json").read_bytes()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process makes of it: a method's file counts by its content, wherever it lies."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "mean_colour.py").write_text(METHOD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SISBENCH_CACHE", str(folder / "cache"))
        run_all(config(f"{folder}/mean_colour.py:MeanColour", folder / "run"), QUIET)
    return outcome(folder / "run")


@pytest.mark.parametrize(
    ("text", "share"), [("1/1", (0, 1)), ("3/16", (2, 16)), (" 16/16", (15, 16))]
)
def test_a_shard_is_read(text: str, share: tuple[int, int]) -> None:
    assert Shard.parse(text).share == share


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "-1/4", "1/0", "1/4/2", "a/b"])
def test_a_shard_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match="is no shard"):
        Shard.parse(text)


def test_sixteen_then_five_twice_and_in_any_order(
    method_file: str, tmp_path: Path, whole: dict[str, Any]
) -> None:
    own = config(method_file, tmp_path / "run")
    for number in (9, 2, 16, 2):
        run_shard(own, Shard(number, 16), QUIET)
    for number in (5, 1, 3):
        run_shard(own, Shard(number, 5), QUIET)
    run_all(own, QUIET)
    assert outcome(tmp_path / "run") == whole


def test_shards_make_everything_and_the_whole_run_only_joins(
    method_file: str, tmp_path: Path, whole: dict[str, Any]
) -> None:
    own = config(method_file, tmp_path / "run")
    for shard in all_shards(4):
        run_shard(own, shard, QUIET)
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("images/*.png")}
    assert len(made) == 42
    run_all(own, QUIET)
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert outcome(tmp_path / "run") == whole


def test_shards_of_copied_folders_are_put_together(
    method_file: str, tmp_path: Path, whole: dict[str, Any]
) -> None:
    for shard in all_shards(3):
        run_shard(config(method_file, tmp_path / f"machine{shard.number}"), shard, QUIET)
    for shard in all_shards(3):
        shutil.copytree(tmp_path / f"machine{shard.number}", tmp_path / "run", dirs_exist_ok=True)
    run_all(config(method_file, tmp_path / "run"), QUIET)
    assert outcome(tmp_path / "run") == whole


def test_faults_are_known_before_a_shard_loads_anything(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run without shards: keys, sizes and the space on the disk."""
    foreign = tmp_path / "foreign.pth"
    torch.save({"state_dict": {"up_0.mlp_gamma.weight": torch.zeros(4, 4)}}, foreign)
    entries = [
        {"name": "spade", "label": "foreign", "weights": str(foreign)},
        {"name": "sean", "label": "size", "weights": "bundled:toy-sean"},
        {"name": method_file, "label": "good"},
    ]
    own = config(method_file, tmp_path / "run", n=4, methods=entries)
    loaded, load = [], local.load_method

    def loading(cell: Cell, *more: Any) -> Any:
        loaded.append(cell.method.label)
        return load(cell, *more)

    monkeypatch.setattr(local, "load_method", loading)
    stream = io.StringIO()
    run_shard(own, Shard(1, 2), Progress(Console(file=stream, width=400)))
    said = stream.getvalue()
    assert loaded == ["good"]
    assert re.search(r"note: no images of foreign \(2 cells\): .* does not fit", said), said
    assert "note: no images of size (2 cells): renders 64x64" in said, said
    assert len(list((tmp_path / "run").rglob("images/*.png"))) == 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="1000 bytes are free"):
        run_shard(own, Shard(2, 2), QUIET)


@pytest.mark.parametrize("first", ["failed", "made"])
def test_of_two_tries_the_one_with_an_image_counts(first: str, tmp_path: Path) -> None:
    folder = CellFolder(tmp_path)
    rows = {
        "failed": {"id": "7", "index": 0, "error": "no memory"},
        "made": {"id": "7", "index": 0},
    }
    rows["made"]["error"] = ""
    for name, row in rows.items():
        digest = "aaaa" if name == first else "bbbb"
        write_items(tmp_path / "items" / f"part-000000-{digest}.parquet", [row])
    write_atomic(folder.image_path("7"), b"")
    assert [row["error"] for row in folder.items()] == [""]
    folder.image_path("7").unlink()
    assert [row["error"] for row in folder.items()] == ["no memory" if first == "made" else ""]


def test_a_shard_leaves_the_manifest_of_the_whole_run(method_file: str, tmp_path: Path) -> None:
    own = config(method_file, tmp_path / "run", n=5)
    run_all(own, QUIET)
    before = (tmp_path / "run" / "run.json").read_bytes()
    run_shard(own, Shard(1, 2), QUIET)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    (tmp_path / "run" / "run.json").write_text("{")
    run_shard(own, Shard(1, 2), QUIET)
    assert RunStore(tmp_path / "run").manifest().name == "test"


def test_two_devices_share_a_shard(method_file: str, tmp_path: Path, whole: dict[str, Any]) -> None:
    own = config(method_file, tmp_path / "run", engine={"device": "cpu,cpu", "batch_size": 2})
    run_shard(own, Shard(2, 2), QUIET)
    first, second = status_of(tmp_path / "run", 2).shards
    assert second.left == 0 < first.left
    run_all(config(method_file, tmp_path / "run"), QUIET)
    assert outcome(tmp_path / "run") == whole


def written(own: RunConfig, path: Path) -> Path:
    path.write_text(yaml.safe_dump(own.model_dump(mode="json")))
    return path


def test_killed_shards_and_equal_shards_at_once(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(method_file.rpartition(":")[0])
    head = "        flat = one_hot"
    # the method's file is part of the cells' key: the pause is in the environment, not in it
    file.write_text(file.read_text().replace(head, f"        {PAUSE}\n{head}"))
    run_all(config(method_file, tmp_path / "whole"), QUIET)
    own = config(method_file, tmp_path / "run")
    run = [sys.executable, "-m", "sisbench", "run", "-q", "--shard", "1/2"]
    run.append(str(written(own, tmp_path / "run.yaml")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    killed = subprocess.Popen(run, env={**os.environ, "PAUSE": "3"})
    images = tmp_path / "run" / "cells"
    _wait(lambda: len(list(images.rglob("images/*.png"))) >= 2)
    assert busy_shards(tmp_path / "run") == ["run 1/2"]
    with pytest.raises(UserError, match=f"process {killed.pid}.* works on shard 1/2"):
        run_shard(own, Shard(1, 2), QUIET)
    with pytest.raises(UserError, match=r"\(run 1/2\)"):
        run_all(own, QUIET)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert busy_shards(tmp_path / "run") == []
    assert len(list(images.rglob("images/*.png"))) < 21, "over before it was killed"
    beside = subprocess.Popen(run)
    run_shard(own, Shard(2, 2), QUIET)
    assert beside.wait() == 0
    run_all(own, QUIET)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


PAUSE = "import os, time; time.sleep(float(os.environ.get('PAUSE', '0')))"


def _wait(there: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def test_scoring_shards_keep_the_rows_that_scoring_joins(
    method_file: str, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "PART", 16)
    own = config(method_file, tmp_path / "run")
    run_all(own, QUIET, generate_only=True)
    for number in (3, 1, 1):
        score_run(tmp_path / "run", None, [], [], QUIET, shard=Shard(number, 3))
    assert not (tmp_path / "run" / "scores.json").exists()
    parts = list((tmp_path / "run").rglob("rows/*.part*.npz"))
    assert 0 < len(parts) < 8, "some of 2 cells x 2 makers x 2 parts"
    score_run(tmp_path / "run", None, [], [], QUIET, shard=Shard(2, 3))
    parts = list((tmp_path / "run").rglob("rows/*.part*.npz"))
    assert len(parts) == 8

    def nothing(*_: Any) -> None:
        raise AssertionError("a row was made again")

    monkeypatch.setattr(rows_module._Pass, "_map", nothing)
    run_all(own, QUIET)
    assert outcome(tmp_path / "run") == whole


def test_file_systems_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with run_lock(tmp_path), shard_lock(tmp_path, Shard(1, 2)), shard_lock(tmp_path, Shard(1, 2)):
        assert busy_shards(tmp_path) == []


def test_a_disk_that_fails_is_no_missing_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), run_lock(tmp_path):
        pass


def test_shards_and_stages_lock_apart_and_the_whole_run_excludes_them(tmp_path: Path) -> None:
    with (
        shard_lock(tmp_path, Shard(1, 2)),
        shard_lock(tmp_path, Shard(2, 2)),
        shard_lock(tmp_path, Shard(1, 2), "score"),
    ):
        assert busy_shards(tmp_path) == ["run 1/2", "run 2/2", "score 1/2"]
        with pytest.raises(UserError, match="score 1/2"), run_lock(tmp_path):
            pass
    with (
        run_lock(tmp_path),
        pytest.raises(UserError, match="all of"),
        shard_lock(tmp_path, Shard(1, 2), patience=0),
    ):
        pass


def _hold(root: Path) -> None:
    with shard_lock(root, Shard(1, 2)):
        (root / "held").touch()
        time.sleep(1.5)


def test_a_job_waits_for_the_process_that_it_replaces(tmp_path: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
    other.start()
    _wait((tmp_path / "held").exists)
    with shard_lock(tmp_path, Shard(1, 2), patience=60):
        pass
    other.join()


def test_status_counts_cells_and_shards(method_file: str, tmp_path: Path) -> None:
    own = config(method_file, tmp_path / "run", tasks=["reconstruct"])
    run_shard(own, Shard(1, 3), QUIET)
    with shard_lock(tmp_path / "run", Shard(2, 3)):
        found = status_of(tmp_path / "run", 3)
    (cell,) = found.cells
    assert cell.items == 21
    assert cell.done + cell.left == 21
    assert [s.shard for s in found.shards] == ["1/3", "2/3", "3/3"]
    assert found.shards[0].left == 0
    assert sum(s.left for s in found.shards) == cell.left > 0
    assert sum(s.done for s in found.shards) == cell.done
    assert found.shards[1].now == "working (run)"
    assert found.jobs == {}
    assert len(list(status_tables(found))) == 2
    shown = CliRunner().invoke(app, ["status", str(tmp_path / "run"), "--shards", "3"])
    assert shown.exit_code == 0
    assert "2/3" in shown.stdout
    again = status_of(tmp_path / "run")
    assert not again.shards


def test_the_command_line_makes_and_scores_shards(
    method_file: str, tmp_path: Path, whole: dict[str, Any]
) -> None:
    path = str(written(config(method_file, tmp_path / "run"), tmp_path / "run.yaml"))
    runner = CliRunner()
    for k in (1, 2):
        assert runner.invoke(app, ["run", "-q", path, "--shard", f"{k}/2"]).exit_code == 0
    for k in (1, 2):
        given = ["score", "-q", str(tmp_path / "run"), "--shard", f"{k}/2"]
        assert runner.invoke(app, given).exit_code == 0
    assert runner.invoke(app, ["run", "-q", path]).exit_code == 0
    assert outcome(tmp_path / "run") == whole
    for more in (["--shard", "3/2"], ["--shard", "1/2", "--strict"]):
        assert isinstance(runner.invoke(app, ["run", "-q", path, *more]).exception, UserError)


def test_images_are_those_of_one_process_bit_by_bit(method_file: str, tmp_path: Path) -> None:
    """Noise and references too: a sample of the prior, whose noise is its own."""
    tasks = ["sample", "transfer", {"interpolate_style": {"alpha": [0.5, 1.0]}}]
    for name in ("one", "shards"):
        own = config(method_file, tmp_path / name, n=5, tasks=tasks)
        if name == "shards":
            for shard in all_shards(3):
                run_shard(own, shard, QUIET)
        run_all(own, QUIET, generate_only=True)
    one, shards = (RunStore(tmp_path / name).cells() for name in ("one", "shards"))
    for a, b in zip(one, shards, strict=True):
        for row in a.items():
            assert np.array_equal(a.image(row["id"]), b.image(row["id"]))
