"""What a user without rights meets: folders that cannot be written, files that cannot be read, no
home. The commands run under another user id, where the tests may change it (as root)."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from harness import SIDE, Bench, Ended, make_bench, sisbench

NOBODY = 65534
pytestmark = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to become somebody else"
)


def nobody() -> None:
    """This process loses its rights, for good."""
    os.environ.pop("HOME", None)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def nobody_without_cache() -> None:
    """As ``nobody``, with no folder for a cache named either."""
    nobody()
    for name in ("SISBENCH_CACHE", "SISBENCH_WEIGHTS", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)


def as_nobody(folder: Path, *arguments: str, before: Callable[[], None] = nobody) -> Ended:
    return sisbench(*arguments, cwd=folder, before=before)


def hidden_from_nobody() -> str:
    """Why another user cannot run sisbench here ("" where they can): commands import modules as
    they go, and Python, its packages or the checkout may lie in a home that is closed to others."""
    command = [sys.executable, "-c", "import encodings.utf_8_sig, sisbench.cli, sisbench.pipeline"]
    rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    try:
        ended = subprocess.run(command, cwd="/", capture_output=True, text=True, **rights)
    except OSError as error:
        return str(error)
    said = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    return said if ended.returncode else ""


@pytest.fixture(scope="module")
def open_bench() -> Iterator[Bench]:
    """A bench that everybody may read: pytest's own folders are closed to others."""
    if reason := hidden_from_nobody():
        pytest.skip(f"user {NOBODY} cannot run this Python or read this checkout: {reason}")
    base = Path(tempfile.mkdtemp(prefix="sisbench-rights-"))
    base.chmod(0o755)
    yield make_bench(base, 2, tasks=["reconstruct"], metrics=["psnr"])
    shutil.rmtree(base)


def refused(ended: Ended, *parts: str) -> None:
    """One error that names what it is about, and exit code 2."""
    text = ended.told()
    assert ended.code == 2, (ended.code, text)
    assert text.count("error:") == 1, text
    assert len(text.strip().splitlines()) <= 2, text
    for part in parts:
        assert part in text, (part, text)


def opened(folder: Path, *names: str) -> None:
    """Let everybody write into ``folder`` and the folders ``names`` in it."""
    for path in (folder, *(folder / name for name in names)):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)


def test_a_folder_that_cannot_be_written(open_bench: Bench) -> None:
    folder = open_bench.copy("closed", finished=False)
    refused(as_nobody(folder, "run", "-q", "run.yaml"), "Permission denied", "run")
    assert sorted(p.name for p in folder.iterdir()) == ["run.yaml", "said.txt"]
    open_bench.check(folder, "closed")


def test_a_cache_that_cannot_be_written_costs_nothing(open_bench: Bench) -> None:
    folder = open_bench.copy("cacheless", finished=False)
    opened(folder, "run")
    (folder / "cache").mkdir(mode=0o755)
    ended = as_nobody(folder, "run", "-q", "run.yaml")
    assert ended.code == 0, ended.told()
    assert not list((folder / "cache").iterdir())
    open_bench.check(folder, "without a cache")


@pytest.mark.faults
def test_no_home_and_no_cache(open_bench: Bench) -> None:
    folder = open_bench.copy("homeless", finished=False)
    opened(folder)
    ended = as_nobody(folder, "run", "-q", "run.yaml", before=nobody_without_cache)
    assert ended.code == 0, ended.told()
    open_bench.check(folder, "without a home")


@pytest.mark.faults
def test_a_run_that_may_only_be_read(open_bench: Bench) -> None:
    folder = open_bench.copy("readable")
    refused(as_nobody(folder, "run", "-q", "run.yaml"), "Permission denied")
    refused(as_nobody(folder, "score", "-q", "run"), "Permission denied")
    refused(as_nobody(folder, "report", "run"), "Permission denied")
    opened(folder, "elsewhere")
    ended = as_nobody(folder, "report", "run", "--out", "elsewhere/report")
    assert ended.code == 0, ended.told()
    assert (folder / "elsewhere" / "report" / "report.html").is_file()
    for command in (("status", "run"), ("explain", "psnr", "--run", "run")):
        ended = as_nobody(folder, *command)
        assert ended.code == 0, ended.told()
    open_bench.check(folder, "read only")


@pytest.mark.faults
@pytest.mark.parametrize("made", ["init", "prepare", "train", "bundle", "merge"])
def test_outputs_in_a_folder_of_others(open_bench: Bench, made: str) -> None:
    folder = open_bench.copy(f"others-{made}")
    data = str(open_bench.base / "data")
    commands = {
        "init": ("init", "new.yaml", "--method", "sean"),
        "prepare": ("prepare", "celebamask_hq", data, "to", "--split", "all", "--size", str(SIDE)),
        "train": ("train", "toy-parser", "--steps", "1", "--out", "w.safetensors"),
        "bundle": ("bundle", "run", "--out", "run.zip"),
        "merge": ("merge", "run", "--out", "merged"),
    }
    before = sorted(p.name for p in folder.iterdir())
    ended = as_nobody(folder, *commands[made])
    text = ended.told()
    assert ended.code == 2, (ended.code, text)
    assert text.count("error:") == 1, text
    left = sorted(p.name for p in folder.iterdir() if p.name != "said.txt")
    assert left == [name for name in before if name != "said.txt"]


@pytest.mark.faults
@pytest.mark.parametrize("closed", ["run.yaml", "run/run.json", "run/scores.json", "run/cells"])
def test_own_files_that_cannot_be_read(open_bench: Bench, closed: str) -> None:
    folder = open_bench.copy("unread")
    path = folder / closed
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o000)
    commands = [("run", "-q", "run.yaml")] if closed == "run.yaml" else [("report", "run")]
    opened(folder, "out")
    for command in commands:
        more = ("--out", "out/report") if command[0] == "report" else ()
        ended = as_nobody(folder, *command, *more)
        text = ended.told()
        assert ended.code in (0, 2), (ended.code, text)
        assert "denied" in text or "cannot be read" in text or "damaged" in text, text
    path.chmod(mode)
    folder.chmod(0o755)
    shutil.rmtree(folder / "out")
    open_bench.check(folder, closed)


@pytest.mark.faults
def test_data_and_weights_that_cannot_be_read(open_bench: Bench) -> None:
    folder = open_bench.copy("unread-data", finished=False)
    opened(folder)
    data = folder / "data"
    shutil.copytree(open_bench.base / "data", data)
    raw = yaml.safe_load((folder / "run.yaml").read_text())
    raw["datasets"][0]["root"] = str(data)
    weights = folder / "w.safetensors"
    weights.write_bytes(b"weights")
    raw["methods"].append({"name": "spade", "weights": str(weights)})
    (folder / "run.yaml").write_text(yaml.safe_dump(raw))
    weights.chmod(0o000)
    photograph = data / "images" / "1.png"
    photograph.chmod(0o000)
    ended = as_nobody(folder, "run", "-q", "run.yaml")
    text = ended.told()
    assert ended.code in (1, 2), text
    assert "denied" in text, text
    photograph.chmod(0o644)
    ended = as_nobody(folder, "run", "-q", "run.yaml")
    text = ended.told()
    assert ended.code == 1, text
    assert "failed: 1 cell (spade reconstruct): " in text, text
    assert "denied" in text, text
    (data / "images").chmod(0o000)
    ended = as_nobody(folder, "run", "-q", "run.yaml")
    refused(ended, "images")
    (data / "images").chmod(0o755)
