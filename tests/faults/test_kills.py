"""SIGKILL at random moments of run, score, report, train and prepare: one more run gives the
undisturbed bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import SEED, SIDE, Bench, Ended, different, sisbench, snapshot
from writes import events, killed, listed

from sisbench.core.state_dict import read_metadata, read_state

Start = Callable[[str], Path]
"""Makes the folder that a command is started in."""


def unscored(bench: Bench, name: str) -> Path:
    """The finished run without anything that score makes."""
    folder = bench.copy(name)
    for made in [*folder.glob("run/cells/*/rows"), *folder.glob("run/cells/*/values")]:
        shutil.rmtree(made)
    (folder / "run" / "scores.json").unlink()
    return folder


def unreported(bench: Bench, name: str) -> Path:
    folder = bench.copy(name)
    shutil.rmtree(folder / "run" / "report")
    return folder


def with_recipe(bench: Bench, name: str) -> Path:
    folder = bench.base / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    recipe = {
        "name": "tiny",
        "method": "spade",
        "options": {"ngf": 2, "max_channels": 8, "nef": 2, "nhidden": 4, "z_dim": 4}
        | {"crop_size": SIDE, "encoder_size": SIDE},
        "data": {
            "name": "celebamask_hq",
            "root": str(bench.base / "data"),
            "split": "all",
            "size": SIDE,
        },
        "steps": 4,
        "batch": 2,
        "ema": 0.9,
        "training": {"ndf": 2, "n_layers": 2},
        "device": "cpu",
        "checkpoint_every": 1,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def empty(bench: Bench, name: str) -> Path:
    folder = bench.base / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def trained(folder: Path) -> dict[str, Any]:
    """Weights and what their header says, without its time; TensorBoard's events are no result."""
    path = folder / "out" / "w.safetensors"
    about = read_metadata(path)
    about["training"].pop("seconds")
    state = {k: v.numpy().tobytes() for k, v in read_state(path).items()}
    names = (p.name for p in path.parent.iterdir() if not p.name.startswith("."))
    left = sorted(name for name in names if name != "w.safetensors.log")
    return {"about": about, "files": left, **state}


def run_folder(folder: Path) -> dict[str, Any]:
    return snapshot(folder / "run")


def prepared(folder: Path) -> dict[str, Any]:
    return snapshot(folder / "to")


def commands(bench: Bench) -> dict[str, tuple[tuple[str, ...], Any, Callable[[Path], Any]]]:
    """Name -> (arguments, what makes its folder, what is compared)."""
    train = ("train", "recipe.yaml", "--out", "out/w.safetensors")
    prepare = ("prepare", "celebamask_hq", str(bench.base / "data"), "to", "--split", "all")
    return {
        "run": (("run", "-q", "run.yaml"), lambda b, n: b.copy(n, finished=False), run_folder),
        "score": (("score", "-q", "run"), unscored, run_folder),
        "report": (("report", "run"), unreported, run_folder),
        "train": (train, with_recipe, trained),
        "prepare": ((*prepare, "--size", str(SIDE)), empty, prepared),
    }


@pytest.mark.parametrize(
    ("command", "kills"),
    [
        ("run", 2),
        ("prepare", 2),
        pytest.param("run", 40, marks=pytest.mark.faults),
        pytest.param("score", 20, marks=pytest.mark.faults),
        pytest.param("report", 12, marks=pytest.mark.faults),
        pytest.param("train", 16, marks=pytest.mark.faults),
        pytest.param("prepare", 12, marks=pytest.mark.faults),
    ],
)
def test_killed_and_run_again(
    bench: Bench, command: str, kills: int, record_property: Callable[[str, object], None]
) -> None:
    """Every second kill comes at a random moment, the others at a random write, half done."""
    arguments, start, content = commands(bench)[command]
    rng = random.Random(f"{SEED} {command} {kills}")
    folder = start(bench, f"{command}-whole")
    whole = sisbench(*arguments, cwd=folder)
    assert whole.code == 0, whole.told()
    expected = content(folder)
    folder, log = start(bench, f"{command}-listed"), bench.base / "events.txt"
    assert sisbench(*arguments, cwd=folder, before=listed, given=(str(folder), str(log))).code == 0
    writes = len(events(log))
    assert writes > 5
    done = by_time = tried = 0
    while done < kills:
        folder = start(bench, f"{command}-killed")
        at = rng.randrange(writes)
        after = rng.uniform(0.02, 0.95) * whole.seconds
        if tried % 2:
            ended = sisbench(*arguments, cwd=folder, before=killed, given=(str(folder), at))
        else:
            ended = sisbench(*arguments, cwd=folder, kill_after=after)
        tried += 1
        assert tried < 3 * kills + 9, "the command ends before it can be killed"
        if ended.code != -9:
            continue  # it was done sooner
        done, by_time = done + 1, by_time + tried % 2
        again: Ended = sisbench(*arguments, cwd=folder)
        assert again.code == 0, (at, after, again.told())
        differing = different(expected, content(folder))
        assert not differing, (command, tried, at, after, differing)
    record_property("faults", f"{done} kills ({by_time} at a moment, {done - by_time} at a write)")
