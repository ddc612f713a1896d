"""The whole path, configuration to report, as the command line calls it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sisbench.config import DatasetConfig, RunConfig
from sisbench.core.adapter_file import as_user_error
from sisbench.core.errors import Broken, UserError
from sisbench.core.log import ItemRow, MetricFacts, ProtocolEntry, ScoreRecord
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.shard import Shard
from sisbench.core.store import RunStore, sweep, write_json
from sisbench.protocol import Protocol, get_protocol

if TYPE_CHECKING:
    import numpy as np

    from sisbench.core.label_space import LabelSpace
    from sisbench.data import Dataset

_PATIENCE = 120.0
"""Seconds for which a job waits for the process that it replaces, as after a lost node."""
FORMATS = ("md", "tex", "csv", "html")


def run_all(
    config: RunConfig,
    progress: Progress,
    strict: bool = False,
    generate_only: bool = False,
    only: Sequence[str] = (),
    all_columns: bool = False,
) -> Path | None:
    """Make what is missing, score it, write the report, by the engine that ``config`` names.

    Args:
        only: ``kind=value``: restricts what is made (``sisbench.run.only.restricted``).
        all_columns: tables keep columns of which no method has a score.

    Returns:
        The report's page; None with ``generate_only``, or where the work was only handed to Slurm.

    Raises:
        UserError: anything that the user can mend; what is done is kept.
    """
    from sisbench.run.engines.jobs import Work

    kind = config.engine.kind
    if only and kind != "local":
        raise UserError(f"--only does not go with engine.kind: {kind}", "leave one of them out")
    work = Work(shard_job, finish_job, strict, generate_only)
    if kind == "slurm":
        from sisbench.run.engines.slurm import submit

        submit(config, work, progress)
        return None
    if kind == "ray":
        from sisbench.run.engines.ray import spread_on_ray

        spread_on_ray(config, work, progress)
        return run_here(config, progress, strict, generate_only, (), all_columns, _PATIENCE)
    return run_here(config, progress, strict, generate_only, only, all_columns)


def run_here(
    config: RunConfig,
    progress: Progress,
    strict: bool = False,
    generate_only: bool = False,
    only: Sequence[str] = (),
    all_columns: bool = False,
    patience: float = 0.1,
) -> Path | None:
    """As ``run_all``, in this process and on the devices of this machine.

    Args:
        patience: seconds to wait for shards that are about to end.
    """
    from sisbench.run.locks import run_lock
    from sisbench.run.only import restricted
    from sisbench.run.plan import make_plan
    from sisbench.run.runner import generate

    check_names(config)
    plan = restricted(make_plan(config), only)
    for label, dataset in plan.datasets.items():
        for remark in dataset.remarks():
            progress.say(f"note: data set {label}: {remark}")
    for reason in plan.closed.values():
        progress.say(f"note: {reason}")
    with run_lock(config.folder, patience):
        sweep(config.folder)
        timer = generate(plan, progress, strict)
        if timer.images:
            stages = {k: round(v, 3) for k, v in timer.seconds.items()}
            write_json(config.folder / "stages.json", {"images": timer.images, "seconds": stages})
        if generate_only:
            return None
        score_run(config.folder, None, [], [], progress, strict)
        return write_report(config.folder, say=progress.say, all_columns=all_columns)


def check_names(config: RunConfig) -> None:
    """Look for the metrics and parsers of a configuration before any image is made. One that is
    there and broken costs itself alone, when it is scored.

    Raises:
        UserError: there is none of that name; the nearest one is named.
    """
    from sisbench import metrics, segmenters

    for registry, names in (
        (metrics.registry, config.metrics or ()),
        (segmenters.registry, config.parsers.values()),
    ):
        for name in names:
            try:
                registry.get(name)
            except Broken:
                continue


def run_shard(config: RunConfig, shard: Shard, progress: Progress, patience: float = 1.0) -> None:
    """Make the missing images of one shard; ``run_all`` then joins the shards and scores.

    Args:
        patience: seconds to wait for another process on the same shard.

    Raises:
        UserError: another process works on this shard or on the whole run.
    """
    from sisbench.run.engines.shards import run_shard as make
    from sisbench.run.plan import make_plan

    make(make_plan(config), shard, progress, patience)


def shard_job(raw: Mapping[str, Any], where: str, shard: str, stage: str) -> None:
    """A job of a cluster: one shard of a run's images ("run") or of its rows ("score").

    Args:
        raw: the run's configuration; where: the folder as seen from which its paths are given.
    """
    from sisbench.run.engines.jobs import job_log

    os.chdir(where)
    config = validated(RunConfig, raw, "the run's configuration")
    with job_log(config.folder, f"{stage}-{shard}") as progress:
        if stage == "run":
            run_shard(config, Shard.parse(shard), progress, patience=_PATIENCE)
        else:
            named = Shard.parse(shard)
            score_run(config.folder, None, [], [], progress, shard=named, patience=_PATIENCE)


def finish_job(raw: Mapping[str, Any], where: str, strict: bool, generate_only: bool) -> None:
    """The last job of a cluster: what shards have left, the scores, the report."""
    from sisbench.run.engines.jobs import job_log

    os.chdir(where)
    config = validated(RunConfig, raw, "the run's configuration")
    with job_log(config.folder, "finish") as progress:
        run_here(config, progress, strict, generate_only, patience=_PATIENCE)


def stored_config(run: Path) -> tuple[RunConfig, tuple[Protocol, ...]]:
    """(configuration, protocols) that a run was made with."""
    manifest = RunStore(run).manifest()
    config = validated(RunConfig, manifest.config, str(run / "run.json"))
    stored = (validated(Protocol, p.fields(), str(run / "run.json")) for p in manifest.protocols)
    return config, tuple(stored)


def score_run(
    run: Path,
    metrics: Sequence[str] | None,
    protocols: Sequence[str],
    parsers: Sequence[str],
    progress: Progress,
    strict: bool = False,
    device: str = "",
    compile: bool = False,
    real_stats: Sequence[str] = (),
    shard: Shard | None = None,
    patience: float = 1.0,
) -> None:
    """Score the stored images of ``run``, write scores.json; ``device`` and ``compile`` go before
    the run's own. Where ``protocols`` or ``parsers`` are named, or fewer metrics than the run's,
    the other scores that are there stay. ``real_stats``: files of ``sisbench stats``, each for
    every data set or as ``LABEL=FILE``, before those of the configuration. With ``shard``, only
    keep the rows of that share: scoring without it joins them.

    Raises:
        UserError: no run there; a protocol of which no cell holds the images; under ``strict``,
            the first score that cannot be had; another process works on ``shard``, for
            ``patience`` seconds.
    """
    from sisbench.core.devices import exact_arithmetic, pick_devices
    from sisbench.report import write_scores_csv
    from sisbench.run.locks import shard_lock
    from sisbench.score.columns import Request, check_parsers
    from sisbench.score.earlier import earlier, joined, kept
    from sisbench.score.scorer import Scorer
    from sisbench.score.scores import describe
    from sisbench.share.stats import given_statistics

    exact_arithmetic()
    check_parsers(parsers)
    store = RunStore(run)
    config, own = stored_config(run)
    chosen = [_named(p, own) for p in dict.fromkeys(protocols)] or list(own)
    for protocol in chosen:
        _check_images(protocol, store)
    spaces = {cell.entry.dataset.space for cell in store.cells()}
    named = {space: list(parsers) for space in spaces} if parsers else {}
    where = pick_devices(device or config.engine.device)[0]
    request = Request(
        protocols=chosen,
        metrics=metrics or config.metrics,
        parsers=named or {space: [parser] for space, parser in config.parsers.items()},
        weights=config.weights,
        device=where,
        compile=compile or config.engine.compile,
        # a CPU has no core to spare for decoding: 15 % slower on two
        workers=0 if where == "cpu" else config.engine.workers,
        strict=strict,
        real_stats=given_statistics({d.shown: d.real_stats for d in config.datasets}, real_stats),
    )
    scorer = Scorer(store, request, progress)
    if shard is not None:
        with shard_lock(run, shard, "score", patience):
            scorer.map_share(shard.share)
        return
    scores = scorer.scores()
    about = {name: describe(name, cls) for name, cls in scorer.used.items()}
    fields = {
        p.id: ProtocolEntry.model_validate(p.model_dump(mode="json") | {"id": p.id}) for p in chosen
    }
    if scorer.sets.closed:
        made = [c.entry for c in store.cells() if c.entry.status not in ("impossible", "failed")]
        if made and all(entry.dataset.label in scorer.sets.closed for entry in made):
            raise scorer.sets.closed[
                made[0].dataset.label
            ]  # no image can be scored: nothing changes
        scores = kept(scores, scorer.sets.closed, earlier(store, progress), progress)
    before = earlier(store, progress) if metrics or protocols or parsers else None
    if before is not None:
        scores = joined(before.scores, scores, {cell.key for cell in store.cells()})
        about = before.metrics | about
        fields = {p.id: p for p in before.protocols} | fields
    used = {s.protocol for s in scores}
    store.write_scores(scores, about, [p for key, p in fields.items() if key in used])
    write_scores_csv(run, metric_facts())


def score_folders(
    images: Path,
    reference: Path,
    labels: Path | None = None,
    space: LabelSpace | str | None = None,
    metrics: Sequence[str] | None = None,
    protocol: str = "sisbench1",
    parsers: Sequence[str] = (),
    weights: Mapping[str, str | Path] | None = None,
    size: int | Sequence[int] | None = None,
    resize: str | None = None,
    missing: str = "skip",
    pattern: str = "{id}",
    device: str = "auto",
    progress: Progress | None = None,
) -> list[ScoreRecord]:
    """Scores of a folder of images against one of photographs; see ``sisbench.score_images``."""
    from sisbench.core.devices import exact_arithmetic, pick_devices
    from sisbench.core.label_space import LabelSpace
    from sisbench.data.paired import as_size
    from sisbench.score.folder_files import FolderRequest
    from sisbench.score.folders import score_folders as scores_of

    exact_arithmetic()
    if isinstance(space, str):
        from_file = space.endswith((".yaml", ".yml"))
        space = LabelSpace.from_yaml(Path(space)) if from_file else LabelSpace.named(space)
    request = FolderRequest(
        images=images,
        reference=reference,
        protocol=get_protocol(protocol),
        labels=labels,
        space=space,
        metrics=metrics,
        parsers=parsers,
        weights=weights or {},
        size=None if size is None else as_size(size, (0, 0)),
        resize=resize,
        missing=missing,
        pattern=pattern,
        device=pick_devices(device)[0],
    )
    return scores_of(request, progress or Progress(quiet=True))


def _named(name: str, own: Sequence[Protocol]) -> Protocol:
    """The run's own protocol of this name or id, else the preset."""
    return next((p for p in own if name in (p.name, p.id)), None) or get_protocol(name)


def _check_images(wanted: Protocol, store: RunStore) -> None:
    """Refuse a protocol that would have made every image of the run differently."""
    from sisbench.score.match import differences

    cells = store.cells()
    if any(not differences(cell, wanted) for cell in cells):
        return
    fields = sorted({f for cell in cells for f in differences(cell, wanted)})
    made = ", ".join(dict.fromkeys(p for cell in cells for p in cell.entry.protocols))
    raise UserError(
        f"{store.root} holds images of {made}; those of {wanted.name} differ in "
        f"{', '.join(fields)}",
        "make them too: list both under 'protocol', or: sisbench run CONFIG -p a,b",
    )


def metric_facts() -> dict[str, MetricFacts]:
    """What papers' tables need to know of every metric, used in a run or not."""
    from sisbench import metrics
    from sisbench.score.scores import describe

    found = {}
    for name, cls in metrics.registry.all()[0].items():  # a broken package's say so where scored
        try:
            maker = metrics.maker_of(cls)
            parsed = {"parser": bool(maker and maker.uses_parser)}
            found[name] = describe(name, cls).model_copy(update=parsed)
        except Exception:  # as above
            continue
    return found


class Photographs:
    """Data sets of a run, opened once, for the report's grids.

    Args:
        run: its folder.

    Raises:
        UserError: by its methods, where a data set cannot be opened, or is not the one that the
            run's images were made from.
    """

    def __init__(self, run: Path) -> None:
        self._opened: dict[str, Dataset | UserError] = {}
        cells = RunStore(run).cells()
        self._made_from = {c.entry.dataset.label: c.entry.dataset.fingerprint for c in cells}

    def sample(self, config: Mapping[str, Any], sample_id: str) -> tuple[np.ndarray, np.ndarray]:
        """(data set entry of the manifest, id) -> (photograph, label map)."""
        dataset = self._dataset(config)
        try:
            sample = dataset.load(sample_id)
        except Exception as error:  # a data set is anybody's: its pictures are left out
            raise as_user_error(error) from error
        return sample.image, sample.label

    def truth(self, config: Mapping[str, Any], task: str, item: ItemRow) -> np.ndarray | None:
        """The true image of an edit, where the data set knows it."""
        dataset = self._dataset(config)
        try:
            return dataset.truth(task, item.sample, item.reference, item.classes)
        except Exception as error:  # as above
            raise as_user_error(error) from error

    def _dataset(self, config: Mapping[str, Any]) -> Dataset:
        parsed = validated(DatasetConfig, config, "run.json")
        if parsed.shown not in self._opened:
            self._opened[parsed.shown] = self._opening(parsed)
        found = self._opened[parsed.shown]
        if isinstance(found, UserError):
            raise found
        return found

    def _opening(self, parsed: DatasetConfig) -> Dataset | UserError:
        from sisbench.data import open_dataset

        try:
            dataset = open_dataset(parsed.name, **parsed.arguments)
            before, now = self._made_from.get(parsed.shown), dataset.fingerprint()
        except Exception as error:  # as above
            return as_user_error(error)
        if before and before != now:
            return UserError(f"the data set '{parsed.shown}' changed since the images were made")
        return dataset


def write_report(
    run: Path,
    protocols: Sequence[str] = (),
    versus: str | None = None,
    formats: Sequence[str] = FORMATS,
    uncertainty: bool = False,
    out: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    all_columns: bool = False,
) -> Path:
    """Tables, charts, grids and the page, into RUN/report or ``out``; needs no torch. What is
    missing or damaged is named by ``say`` and on the page.

    Raises:
        UserError: no run there, an unknown format or method, a folder that cannot be written.
    """
    from sisbench.report import build_report

    photographs = Photographs(run)
    return build_report(
        run,
        formats=tuple(formats),
        versus=versus,
        load_sample=photographs.sample,
        load_truth=photographs.truth,
        protocols=tuple(protocols),
        uncertainty=uncertainty,
        out=out,
        say=say,
        metric_facts=metric_facts(),
        all_columns=all_columns,
    )


def demo_config(to: Path, limit: int | None) -> RunConfig:
    """The bundled run: the six trained toy methods on toyfaces."""
    import yaml

    raw = yaml.safe_load((Path(__file__).parent / "demo.yaml").read_text(encoding="utf-8"))
    raw["output"] = str(to)
    if limit is not None:
        for dataset in raw["datasets"]:
            dataset["n"] = limit
    return validated(RunConfig, raw, "demo.yaml")


def run_demo(to: Path, limit: int | None, progress: Progress) -> Path:
    """Run the bundled benchmark and leave its configuration beside the report, to start from."""
    from sisbench.core.store import write_atomic

    config = demo_config(to, limit)
    page = run_all(config, progress)
    write_atomic(to / "demo.yaml", (Path(__file__).parent / "demo.yaml").read_bytes())
    assert page is not None  # generate_only is off
    return page
