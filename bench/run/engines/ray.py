"""Ray: one task a shard on a cluster that is there; Ray starts those of a lost node again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sisbench.core.errors import UserError
from sisbench.core.shard import all_shards
from sisbench.run.engines.jobs import Work, arguments, log_path

if TYPE_CHECKING:
    from sisbench.config import RunConfig
    from sisbench.core.progress import Progress


def spread_on_ray(config: RunConfig, work: Work, progress: Progress) -> None:
    """Make the shards of a run, then their rows, as tasks of a Ray cluster. A shard that fails is
    named; the whole run makes what it has left.

    Raises:
        UserError: Ray or its cluster is not here, or no node has what a shard asks for.
    """
    with _cluster(config) as ray:
        _check_resources(ray, config)
        asked = config.engine.ray
        task = ray.remote(
            num_cpus=asked.cpus,
            num_gpus=asked.gpus,
            resources=dict(asked.resources),
            max_retries=asked.retries,
        )(work.shard)
        raw, where = arguments(config)
        shards = [str(s) for s in all_shards(config.engine.shards)]
        for stage in work.stages:
            waiting = {task.remote(raw, where, s, stage): s for s in shards}
            with progress.bar(f"{stage}: shards on Ray", len(shards)) as advance:
                while waiting:
                    (done,), _ = ray.wait(list(waiting), num_returns=1)
                    shard = waiting.pop(done)
                    _report(ray, done, shard, stage, config, progress)
                    advance(1)


def _report(
    ray: Any, done: Any, shard: str, stage: str, config: RunConfig, progress: Progress
) -> None:
    """Name a shard that failed, and where its log is."""
    try:
        ray.get(done)
    except ray.exceptions.RayError as error:
        lines = [x for x in str(error).splitlines() if x.strip()] or [type(error).__name__]
        log = log_path(config.folder, f"{stage}-{shard}")
        progress.say(f"{stage} {shard} failed, and is made here: {lines[-1].strip()} (see {log})")


@contextmanager
def _cluster(config: RunConfig) -> Iterator[Any]:
    """The module ``ray``, connected; a connection that was there before is taken, and stays.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("engine kind 'ray' needs Ray", "pip install 'sisbench[ray]'") from error
    if ray.is_initialized():
        yield ray
        return
    address = config.engine.ray.address
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        # SystemExit: what Ray does, a minute later, where nobody answers at an address
        said = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"no Ray cluster at '{address}': {said[:200]}",
            "start one (ray start --head), or set engine.kind to local",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_resources(ray: Any, config: RunConfig) -> None:
    """Raises UserError where no node could ever take a shard: Ray would wait without a word."""
    asked = config.engine.ray
    wanted = {"CPU": asked.cpus, "GPU": asked.gpus, **asked.resources}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(k, 0) >= v for k, v in wanted.items()) for node in nodes):
        return
    shown = ", ".join(f"{k} {v:g}" for k, v in wanted.items() if v)
    most = ", ".join(f"{k} {max(n.get(k, 0) for n in nodes):g}" for k in wanted) if nodes else "-"
    raise UserError(
        f"no node of the Ray cluster has {shown}; the most that one has: {most}",
        "change engine.ray (cpus, gpus, resources)",
    )
