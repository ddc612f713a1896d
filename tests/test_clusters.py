"""Slurm and Ray for real: nodes and jobs are lost in the middle, the bytes are one process's."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_here import SlurmHere, missing
from test_shards import config, outcome

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.store import write_json
from sisbench.pipeline import run_all, run_here
from sisbench.run.engines.slurm import JOBS, jobs_of, states
from sisbench.run.status import status_of

QUIET = Progress(quiet=True)
HEAD = "        flat = one_hot"
WAITING = """\
        import os, pathlib, time
        hold = pathlib.Path(os.environ["HOLD"])
        while hold.exists() and len(list(hold.parent.glob("run/**/images/*.png"))) >= 4:
            time.sleep(0.2)
"""
PATIENCE = 1800
"""Seconds for what has to come: a machine may be busy with other things."""

lacks_slurm = [
    *missing(),
    *(["submitit"] if importlib.util.find_spec("submitit") is None else []),
]
lacks_ray = importlib.util.find_spec("ray") is None


@pytest.fixture
def held_method(method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny method, which waits after four images as long as the file $HOLD is there: jobs are
    in their middle, however fast the machine is."""
    path = Path(method_file.rpartition(":")[0])
    path.write_text(path.read_text().replace(HEAD, WAITING + HEAD))
    monkeypatch.setenv("HOLD", str(tmp_path / "hold"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return method_file


def whole(method: str, out: Path) -> dict[str, Any]:
    run_here(config(method, out, n=24), QUIET)
    return outcome(out)


def on(kind: str, method: str, out: Path, **asked: Any) -> RunConfig:
    engine = {"device": "cpu", "batch_size": 2, "workers": 1, "kind": kind, "shards": 3}
    return config(method, out, n=24, engine={**engine, kind: {"gpus": 0, "cpus": 1, **asked}})


def made(run: Path) -> int:
    return len(list(run.rglob("images/*.png")))


def wait(there: Callable[[], Any], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


def running(run: Path) -> list[str]:
    """Job ids; none where Slurm is too busy to answer."""
    try:
        return [job for job, state in states(run).items() if state == "RUNNING"]
    except UserError:
        return []


def pending(run: Path, job: str) -> bool:
    return job not in running(run) and not over(run) and states(run).get(job) == "PENDING"


def over(run: Path) -> bool:
    """That no job is queued or running."""
    try:
        return not states(run)
    except UserError:
        return False


def starts(run: Path) -> dict[str, int]:
    """How often each job started, by its log."""
    return {p.stem: p.read_text().count(" process ") for p in (run / "logs").glob("*.log")}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmHere]:
    here = SlurmHere(tmp_path / "slurm")
    monkeypatch.setenv("SLURM_CONF", str(here.config))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    here.start()
    yield here
    here.stop()


def begin(slurm: SlurmHere, run: Path, job: str) -> None:
    """Let a job that was queued again start now: Slurm makes it wait for two minutes."""
    wait(lambda: pending(run, job))
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.mark.slow
@pytest.mark.skipif(bool(lacks_slurm), reason=f"not here: {', '.join(lacks_slurm)}")
def test_slurm(held_method: str, tmp_path: Path, slurm: SlurmHere) -> None:
    run = tmp_path / "run"
    expected = whole(held_method, tmp_path / "whole")
    (tmp_path / "hold").touch()
    own = on("slurm", held_method, run)
    assert run_all(own, QUIET) is None
    jobs = jobs_of(run)
    assert len(jobs) == 7, "3 shards, 3 shards of rows, 1 that finishes"
    with pytest.raises(UserError, match="still queued"):
        run_all(own, QUIET)
    wait(lambda: made(run) >= 4 and len(running(run)) >= 2)
    found = status_of(run)
    assert [s.shard for s in found.shards] == ["1/3", "2/3", "3/3"]
    assert ("finish", "PENDING") in found.jobs.values()
    lost, cancelled = running(run)[:2]
    slurm.kill_node()
    slurm.start_node()
    assert {lost, cancelled} <= set(running(run)), "the jobs outlive slurmd"
    slurm.ask("scontrol", "requeue", lost)
    begin(slurm, run, lost)
    slurm.ask("scancel", cancelled)
    wait(lambda: cancelled not in states(run))
    assert made(run) < 48, "there was something left to lose"
    wait(lambda: lost in running(run))
    (tmp_path / "hold").unlink()
    wait(lambda: over(run))
    assert starts(run)[jobs[lost].replace("/", "-")] >= 2
    assert outcome(run) == expected
    assert not status_of(run).jobs


@pytest.mark.slow
@pytest.mark.skipif(bool(lacks_slurm), reason=f"not here: {', '.join(lacks_slurm)}")
def test_slurm_preempts_and_refuses(held_method: str, tmp_path: Path, slurm: SlurmHere) -> None:
    """A shard told that its node is taken away is queued again; an unknown partition is a line."""
    run = tmp_path / "run"
    with pytest.raises(UserError, match="Invalid partition name"):
        run_all(on("slurm", held_method, tmp_path / "no", partition="nowhere"), QUIET)
    expected = whole(held_method, tmp_path / "whole")
    (tmp_path / "hold").touch()
    run_all(on("slurm", held_method, run, lines=["--comment=a test"]), QUIET)
    wait(lambda: made(run) >= 4 and running(run))
    told = running(run)[0]
    wait(lambda: starts(run).get(jobs_of(run)[told].replace("/", "-")))  # it listens
    slurm.ask("scancel", "--signal=USR2", told)
    begin(slurm, run, told)
    (tmp_path / "hold").unlink()
    wait(lambda: over(run))
    assert starts(run)[jobs_of(run)[told].replace("/", "-")] >= 2
    assert outcome(run) == expected


@pytest.mark.slow
@pytest.mark.skipif(lacks_ray, reason="not here: ray")
def test_ray(held_method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    run = tmp_path / "run"
    expected = whole(held_method, tmp_path / "whole")
    (tmp_path / "hold").touch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    failures: list[BaseException] = []

    def lose_the_node() -> None:
        try:
            wait(lambda: made(run) >= 4 and len(starts(run)) == 3)
            cluster.remove_node(node, allow_graceful=False)
            (tmp_path / "hold").unlink()
        except BaseException as error:
            failures.append(error)

    watcher = threading.Thread(target=lose_the_node)
    watcher.start()
    try:
        with pytest.raises(UserError, match="no node of the Ray cluster has CPU 99"):
            run_all(on("ray", held_method, run, cpus=99), QUIET)
        page = run_all(on("ray", held_method, run), QUIET)
    finally:
        watcher.join()
        ray.shutdown()
        cluster.shutdown()
    assert not failures
    assert page is not None
    again = {job: n for job, n in starts(run).items() if job.startswith("run")}
    assert sum(again.values()) > 3, f"a task of the lost node started again: {again}"
    assert outcome(run) == expected


@pytest.mark.skipif("submitit" in lacks_slurm, reason="not here: submitit")
def test_a_machine_without_slurm(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Slurm here"):
        run_all(on("slurm", method_file, tmp_path / "run"), QUIET)


def test_a_slurm_that_does_not_answer(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller too busy to answer is no empty queue: nothing is submitted twice."""
    run = tmp_path / "run"
    run_here(config(method_file, run, n=2), QUIET)
    write_json(run / JOBS, {"7_0": "run-1/1"})
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho Socket timed out on send/recv operation >&2\nexit 1\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"does not say which jobs .* Socket timed out"):
        states(run)
    found = status_of(run)
    assert "Socket timed out" in found.remark
    assert not found.jobs
    monkeypatch.setenv("PATH", str(tmp_path))
    assert states(run) == {}, "no Slurm here, no jobs"


@pytest.mark.skipif(lacks_ray, reason="not here: ray")
def test_a_ray_cluster_that_is_not_there(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match="no Ray cluster at 'auto'"):
        run_all(on("ray", method_file, tmp_path / "run"), QUIET)


@pytest.mark.parametrize("line", ["qos=long", "-p gpu", "#SBATCH --qos=long", "--", "--qos long"])
def test_lines_that_are_no_options_of_sbatch(line: str, method_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no long option of sbatch"):
        on("slurm", method_file, tmp_path, lines=[line])


@pytest.mark.parametrize(("kind", "word"), [("slurm", "submitit"), ("ray", "Ray")])
def test_an_engine_that_is_not_installed(
    kind: str, word: str, method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit" if kind == "slurm" else "ray", None)
    with pytest.raises(UserError, match=f"needs {word}") as caught:
        run_all(on(kind, method_file, tmp_path / "run"), QUIET)
    assert f"sisbench[{kind}]" in caught.value.hint
