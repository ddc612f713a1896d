"""What the fault tests share: a tiny benchmark on disk, commands that start in no time and can be
killed, and the bytes that a finished run is compared by."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from method_text import METHOD
from PIL import Image

SEED = int(os.environ.get("SISBENCH_FAULTS_SEED", "0"))
"""Of everything that is drawn: SISBENCH_FAULTS_SEED=7 make test-faults draws others."""

SIDE = 32
ITEMS = 3
TASKS = ["reconstruct", {"shape_transfer": ["hair"]}]
METRICS = ["psnr", "miou"]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm"])
# the process that is forked from starts with the first command, before it gets our import path
_PATH = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in _PATH if p)

_PATIENCE = 1800
"""Seconds for a command that is not to be killed: a machine may be busy with other things."""

Before = Callable[..., None]
"""Called in the new process before the command, with the arguments given for it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (-9 where it was killed), what it printed, seconds."""

    code: int
    text: str
    seconds: float

    def told(self) -> str:
        """What it printed, after a look that it is no traceback."""
        assert "Traceback" not in self.text, self.text
        return self.text


def sisbench(
    *arguments: str,
    cwd: Path,
    kill_after: float | None = None,
    before: Before | None = None,
    given: tuple[Any, ...] = (),
) -> Ended:
    """Run ``sisbench ARGUMENTS`` in a process forked from one that has imported everything.

    Args:
        cwd: its folder; it holds its cache and what it prints, too.
        kill_after: seconds after which it gets SIGKILL, if it still runs then.
        before, given: a module's function and its arguments, called first.
    """
    said = cwd / "said.txt"
    process = _CONTEXT.Process(target=_command, args=(arguments, str(cwd), before, given))
    start = time.perf_counter()
    process.start()
    process.join(kill_after if kill_after is not None else _PATIENCE)
    if process.exitcode is None:
        process.kill()
        process.join()
    took = time.perf_counter() - start
    text = said.read_text(encoding="utf-8", errors="replace") if said.is_file() else ""
    assert process.exitcode is not None
    return Ended(process.exitcode, text, took)


def _command(
    arguments: tuple[str, ...], cwd: str, before: Before | None, given: tuple[Any, ...]
) -> None:
    os.chdir(cwd)
    os.environ.update(
        SISBENCH_CACHE=f"{cwd}/cache", SISBENCH_WEIGHTS=f"{cwd}/weights", COLUMNS="400"
    )
    descriptor = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
    import torch

    torch.set_num_threads(1)
    import sisbench.cli

    sys.argv = ["sisbench", *arguments]
    if before is not None:
        before(*given)
    sisbench.cli.main()


def draw_pairs(root: Path, n: int = ITEMS, side: int = SIDE) -> Path:
    """``n`` random pairs in the prepared layout."""
    rng = np.random.default_rng(5)
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = np.kron(coarse, np.ones((side // 4, side // 4, 1), np.uint8))
        label = np.kron(rng.integers(0, 19, (4, 4)), np.ones((side // 4, side // 4), np.int64))
        label[:2] = 13  # hair everywhere, so that an edit of it does something
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(label.astype(np.uint8)).save(root / "labels" / f"{i}.png")
    return root


def configuration(data: Path, method: Path) -> dict[str, Any]:
    """A run of every kind of own file, as YAML holds it."""
    return {
        "name": "faults",
        "output": "run",
        "protocol": {"base": "sisbench1", "samples": 2},
        "methods": [{"name": f"{method}:MeanColour", "label": "Mean"}],
        "datasets": [{"name": "celebamask_hq", "root": str(data), "split": "all", "size": SIDE}],
        "tasks": TASKS,
        "metrics": METRICS,
        "parsers": {"celebamask_hq": "toy"},
        "engine": {"device": "cpu", "batch_size": 2, "workers": 1},
    }


@dataclass(frozen=True)
class Bench:
    """A finished, undisturbed run to copy.

    Attributes:
        base: folder with the data, the method and ``whole``.
        whole: holds run.yaml, run/ and cache/.
        expected: ``snapshot`` of it.
        seconds: what the run took.
    """

    base: Path
    whole: Path
    expected: dict[str, Any]
    seconds: float

    def copy(self, name: str, finished: bool = True) -> Path:
        """A folder to disturb: with the finished run, or with the configuration alone."""
        to = self.base / name
        shutil.rmtree(to, ignore_errors=True)
        if finished:
            shutil.copytree(self.whole, to)
        else:
            to.mkdir()
            shutil.copy2(self.whole / "run.yaml", to)
        return to

    def check(self, folder: Path, about: object) -> None:
        """That one more run gives the undisturbed bytes."""
        again = sisbench("run", "-q", "run.yaml", cwd=folder)
        assert again.code == 0, (about, again.told())
        again.told()
        differing = different(self.expected, snapshot(folder / "run"))
        assert not differing, (about, differing)


def make_bench(base: Path, items: int = ITEMS, **changes: Any) -> Bench:
    """Draw the data, write the method and the configuration, run once undisturbed."""
    data = draw_pairs(base / "data", items)
    old = time.time() - 60  # settled: their hashes are remembered
    for path in data.rglob("*.png"):
        os.utime(path, (old, old))
    method = base / "mean_colour.py"
    method.write_text(METHOD)
    whole = base / "whole"
    whole.mkdir()
    (whole / "run.yaml").write_text(yaml.safe_dump(configuration(data, method) | changes))
    ended = sisbench("run", "-q", "run.yaml", cwd=whole)
    assert ended.code == 0, ended.text
    return Bench(base, whole, snapshot(whole / "run"), ended.seconds)


def own_files(folder: Path) -> list[Path]:
    """Every file that a run wrote, in the run's folder and in the cache, in a stable order."""
    found = [p for name in ("run", "cache") for p in (folder / name).rglob("*") if p.is_file()]
    return sorted(p for p in found if p.name != ".lock")


_MEASURED = {"seconds", "batch", "peak_memory"}
_TIMED = ("timing.csv", "report.html", "digests.json")
"""Files that hold times: what is compared is that they are there."""


def snapshot(run: Path) -> dict[str, Any]:
    """File of the folder -> its content, without what times it. A file too many (a stale part)
    shows; the temporary file of a killed process does not."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file() and p.name[0] != "."):
        name = path.relative_to(run).as_posix()
        if path.name == "stages.json":
            continue  # what the last images took: it is not made again without images
        if path.name in _TIMED:
            found[name] = path.stat().st_size > 0
        elif path.suffix == ".parquet":
            rows = found.setdefault(path.parent.relative_to(run).as_posix(), {})
            for row in pq.read_table(path).to_pylist():  # in one file or in parts, that is alike
                rows[row["id"]] = {k: v for k, v in row.items() if k not in _MEASURED}
        elif path.name in ("run.json", "cell.json"):
            raw = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {k: v for k, v in raw.items() if k != "provenance"}
        else:
            found[name] = path.read_bytes()
    return found


def different(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of files that are gone, further, or of other content."""
    names = sorted(expected.keys() | found.keys())
    nothing = object()
    return [n for n in names if expected.get(n, nothing) != found.get(n, nothing)]
