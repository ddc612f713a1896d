"""Several devices: the same images as one process makes, whatever becomes of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.pipeline import run_all
from sisbench.run import runner
from sisbench.run.plan import make_plan

QUIET = Progress(quiet=True)


def config(method: str, out: Path, device: str, n: int = 7, **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": [{"name": method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 32, "n": n}],
        "tasks": ["reconstruct", "shape_transfer"],
        "metrics": ["psnr", "flops"],
        "engine": {"device": device, "batch_size": 2, "workers": 1, "profile": True},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def contents(run: Path) -> dict[str, np.ndarray]:
    found = {}
    for cell in RunStore(run).cells():
        assert cell.entry.status == "done"
        rows = cell.items()
        assert [row["index"] for row in rows] == list(range(len(rows)))
        for row in rows:
            found[f"{cell.entry.task.slug}/{row['id']}"] = cell.image(row["id"])
    return found


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_two_processes_make_the_images_of_one(method_file: str, tmp_path: Path) -> None:
    run_all(config(method_file, tmp_path / "one", "cpu"), QUIET)
    run_all(config(method_file, tmp_path / "two", "cpu,cpu"), QUIET)
    assert equal(contents(tmp_path / "one"), contents(tmp_path / "two"))
    one, two = (RunStore(tmp_path / name).scores()[0] for name in ("one", "two"))
    assert [(s.metric, s.value, s.n) for s in one] == [(s.metric, s.value, s.n) for s in two]
    manifest = RunStore(tmp_path / "two").manifest()
    assert manifest.provenance["device"] == "cpu, cpu"
    assert not list((tmp_path / "two").rglob("part-*.parquet")), "the parts were merged"
    again = runner.generate(make_plan(config(method_file, tmp_path / "two", "cpu,cpu")), QUIET)
    assert again.images == 0


def in_workers(method_file: str, line: str) -> str:
    """The tiny method with a line that only worker processes run when they render."""
    path = Path(method_file.rpartition(":")[0])
    head = "        flat = one_hot"
    check = (
        "        import multiprocessing, os, time\n"
        "        if multiprocessing.parent_process() is not None:\n"
        f"            {line}\n"
    )
    path.write_text(path.read_text().replace(head, check + head))
    return method_file


def test_what_a_worker_that_died_has_left_is_made(method_file: str, tmp_path: Path) -> None:
    run_all(config(method_file, tmp_path / "one", "cpu"), QUIET)
    broken = in_workers(method_file, "os._exit(3)")
    run_all(config(broken, tmp_path / "two", "cpu,cpu"), QUIET)
    assert equal(contents(tmp_path / "one"), contents(tmp_path / "two"))


def runs(process: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_workers_end_with_a_parent_that_was_killed(method_file: str, tmp_path: Path) -> None:
    slow = in_workers(method_file, "time.sleep(0.5)")
    raw = config(slow, tmp_path / "run", "cpu,cpu", n=60).model_dump(mode="json")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sisbench", "run", "-q", str(path)], env=environment
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.time() + 600  # of a busy machine: imports alone may take a minute
    workers, by_parent, images = [], 0, 0
    while time.time() < deadline and (len(workers) < 2 or images <= by_parent):
        assert process.poll() is None, "it ended before it was killed"
        by_parent = by_parent if len(workers) >= 2 else images  # its trials, before the workers
        workers = children.read_text().split()
        images = len(list((tmp_path / "run").rglob("images/*.png")))
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    assert images > by_parent
    deadline = time.time() + 120
    while time.time() < deadline and any(map(runs, workers)):
        time.sleep(0.1)
    assert not any(map(runs, workers))


@pytest.mark.parametrize(
    ("device", "message"), [("all", "no GPU"), ("cpu,cuda:99", "no device 'cuda:99'")]
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        runner.pick_devices(device)
