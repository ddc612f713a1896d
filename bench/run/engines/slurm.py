"""Slurm, by submitit: one job array of shards, the same for their rows, one job that finishes."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.shard import all_shards
from sisbench.core.store import read_json, write_json
from sisbench.run.engines.jobs import Work, arguments

if TYPE_CHECKING:
    from sisbench.config import RunConfig, SlurmConfig
    from sisbench.core.progress import Progress

JOBS = "slurm/jobs.json"
"""In the run folder: job id -> what it does, of the last submission."""


def submit(config: RunConfig, work: Work, progress: Progress) -> dict[str, str]:
    """Queue the run; returns job id -> "run-3/16", "score-3/16" or "finish".

    A shard that is preempted, loses its node or reaches its time limit is queued again and goes on.

    Raises:
        UserError: submitit or Slurm is not here, jobs of this run are still queued, or Slurm
            refuses the job or does not answer.
    """
    executor = _executor(config.folder)
    queued = states(config.folder)
    if queued:
        shown = ", ".join(list(queued)[:5])
        raise UserError(
            f"{len(queued)} jobs of {config.folder} are still queued ({shown})",
            f"sisbench status {config.folder} shows them; scancel ends them",
        )
    raw, where = arguments(config)
    jobs: dict[str, str] = {}
    before = ""
    for stage in work.stages:
        _ask(executor, config, stage, before)
        shards = [str(s) for s in all_shards(config.engine.shards)]
        many = len(shards)
        array = _submitted(
            executor, _Resumable(work.shard), [raw] * many, [where] * many, shards, [stage] * many
        )
        jobs |= {job: f"{stage}-{shard}" for job, shard in zip(array, shards, strict=True)}
        write_json(config.folder / JOBS, jobs)  # known, should the next submission fail
        before = array[0].partition("_")[0]
    _ask(executor, config, "finish", before)
    flags = [work.strict], [work.generate_only]
    (last,) = _submitted(executor, _Resumable(work.finish), [raw], [where], *flags)
    jobs[last] = "finish"
    write_json(config.folder / JOBS, jobs)
    ids = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    progress.say(f"submitted jobs {ids}: sisbench status {config.folder} follows them")
    return jobs


def states(root: Path) -> dict[str, str]:
    """Job id -> Slurm's state, of the jobs of a run that are queued or running; {} where none is,
    or where there is no Slurm. It asks squeue alone: accounting may be switched off.

    Raises:
        UserError: Slurm does not answer, as a busy controller does: nothing is known of the jobs.
    """
    known = jobs_of(root)
    if not known:
        return {}
    command = ["squeue", "--noheader", "--array", "--user", getpass.getuser(), "--format=%i %T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except FileNotFoundError:
        return {}
    except (OSError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise UserError(
            f"Slurm does not say which jobs of {root} are queued: {lines[-1] if lines else error}",
            "squeue asks it; try again when it answers",
        ) from error
    rows = [line.split() for line in asked.stdout.splitlines() if line.strip()]
    return {job: state for job, state, *_ in rows if job in known}


def jobs_of(root: Path) -> dict[str, str]:
    """Job id -> what it does, of the last submission; {} where there was none."""
    try:
        return dict(read_json(root / JOBS))
    except UserError:
        return {}


class _Resumable:
    """A function whose job is queued again when Slurm takes its node away: running again is the
    resume."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(self, *given: Any) -> Any:
        return self.function(*given)

    def checkpoint(self, *given: Any) -> Any:
        """What submitit queues instead; called as the node is taken away."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *given)


def _executor(root: Path) -> Any:
    """submitit's executor, with its files in RUN/slurm.

    Raises:
        UserError: submitit or Slurm is not here.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "engine kind 'slurm' needs submitit", "pip install 'sisbench[slurm]'"
        ) from error
    try:
        return submitit.SlurmExecutor((root / JOBS).parent.absolute())
    except RuntimeError as error:
        raise UserError(
            "there is no Slurm here: no srun in PATH",
            "submit from a login node, or set engine.kind to local",
        ) from error


def _ask(executor: Any, config: RunConfig, stage: str, after: str) -> None:
    """Set what the next job asks for; it waits for the end of the job ``after``."""
    asked: SlurmConfig = config.engine.slurm
    more: dict[str, Any] = {"requeue": True}
    for line in asked.lines:
        key, equals, value = line.removeprefix("--").partition("=")
        more[key] = value if equals else True
    if after:  # whatever became of the shards: what one has left is made by the next
        more["dependency"] = f"afterany:{after}"
    options: dict[str, Any] = {
        "job_name": f"sisbench-{stage}",
        "time": max(1, round(asked.hours * 60)),
        "cpus_per_task": asked.cpus,
        "srun_args": [f"--cpus-per-task={asked.cpus}"],
        "gpus_per_node": asked.gpus or None,
        "partition": asked.partition or None,
        "account": asked.account or None,
        "mem": f"{round(asked.memory * 1024)}M" if asked.memory else None,
        "array_parallelism": asked.parallel or config.engine.shards,
        "setup": list(asked.setup) or None,
        "additional_parameters": more,
    }
    executor.update_parameters(**{k: v for k, v in options.items() if v is not None})


def _submitted(executor: Any, function: Any, *given: Sequence[Any]) -> list[str]:
    """Job ids, one a set of arguments.

    Raises:
        UserError: Slurm refuses them, with its words.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return [str(job.job_id) for job in executor.map_array(function, *given)]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = next((x for x in reversed(str(error).splitlines()) if x.strip()), "no reason given")
        raise UserError(
            f"Slurm refuses the jobs: {said}", "see engine.slurm in docs/cluster.md"
        ) from error
