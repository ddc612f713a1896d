"""A run's YAML as strict models: an unknown key is an error that names the nearest one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.layout_edits import LAYOUT_EDITS
from sisbench.core.overrides import overridden
from sisbench.core.resize import Filter
from sisbench.core.schema import Strict, validated
from sisbench.core.tasks import TASKS
from sisbench.core.yaml_file import expanded, read_yaml

PathText = Annotated[str, AfterValidator(expanded)]
"""A path, or a name: ``~`` and ``$VAR`` in it are replaced."""

IMAGES = "images"
"""In place of a method's name: images made elsewhere (``sisbench.run.elsewhere``)."""
_SBATCH = re.compile(r"--[a-z][a-z0-9-]*(=.+)?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


def options_of_file(given: Any) -> Any:
    """Options that a file holds (YAML or JSON, as an official option file), by its path; anything
    else as it is.

    Raises:
        UserError: no such file; no mapping in it.
    """
    if not isinstance(given, str):
        return given
    path = Path(expanded(given))
    found = read_yaml(path, "option file", "'options' is a mapping, or the path of a YAML or JSON")
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: expected options by name, got {type(found).__name__}")
    return dict(found)


OptionMap = Annotated[dict[str, Any], BeforeValidator(options_of_file)]
"""Construction options by name, or the path of a file that holds them."""


class DatasetConfig(Strict):
    """A data set: its name, the arguments of its class (root, split, size, limit, ...), a label."""

    name: PathText
    label: str = ""
    train: dict[str, Any] | None = Field(
        None, description="arguments that open the training split, for scores against it"
    )
    real_stats: tuple[PathText, ...] = Field(
        (), description="files of sisbench stats that stand for the photographs of their split"
    )
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, raw: Any) -> Any:
        """Every key beside the model's own is an argument of the data set's class."""
        if isinstance(raw, str):
            return {"name": raw}
        if not isinstance(raw, Mapping) or "arguments" in raw:
            return raw
        own = {k: v for k, v in raw.items() if k in ("name", "label", "train", "real_stats")}
        return own | {"arguments": {k: v for k, v in raw.items() if k not in own}}

    @field_validator("real_stats", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("train", "arguments")
    @classmethod
    def _expanded(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        if given is None:
            return None
        return {k: expanded(v) if isinstance(v, str) else v for k, v in given.items()}

    @property
    def shown(self) -> str:
        """Label in tables: given, or ``name[split]``."""
        split = self.arguments.get("split")
        return self.label or (f"{self.name}[{split}]" if split else self.name)


class MethodConfig(Strict):
    """A method: registry name (or ./file.py:Class), weights, construction options, label; or, by
    the name ``images``, images made elsewhere, whose keys (root, ...) become ``options``.

    ``resize`` is the filter (Pillow's) that brings what it draws to the data set's size, where its
    own is another; None refuses that."""

    name: PathText
    label: str = ""
    weights: PathText | None = None
    resize: Filter | None = None
    options: OptionMap = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            return {"name": raw}
        if not isinstance(raw, Mapping) or raw.get("name") != IMAGES or "options" in raw:
            return raw
        own = {k: v for k, v in raw.items() if k in ("name", "label", "weights")}
        return own | {"options": {k: v for k, v in raw.items() if k not in own}}

    @model_validator(mode="after")
    def _no_network(self) -> MethodConfig:
        if self.name == IMAGES and self.weights is not None:
            raise ValueError("images made elsewhere have no weights: leave out 'weights'")
        return self

    @property
    def shown(self) -> str:
        """Label, unique within a run; made of the name (or the class of a file) by default."""
        return self.label or self.name.rsplit(":", 1)[-1]


class TaskConfig(Strict):
    """A task and, where it edits classes, which ones.

    Attributes:
        name: one of ``core.tasks.TASKS``; see the table of tasks in the documentation.
        classes: names or ids edited together; None draws one a sample from the protocol's list.
        alpha: for interpolations, weights of the reference, each in [0, 1].
    """

    name: str
    classes: tuple[str | int, ...] | None = None
    alpha: tuple[float, ...] = (0.25, 0.5, 0.75)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: Any) -> Any:
        """``reconstruct``, or ``{shape_transfer: {classes: [hair]}}``."""
        if isinstance(raw, str):
            return {"name": raw}
        if isinstance(raw, Mapping) and "name" not in raw and len(raw) == 1:
            name, rest = next(iter(raw.items()))
            return {"name": name, **(rest if isinstance(rest, Mapping) else {"classes": rest})}
        return raw

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TASKS:
            raise ValueError(f"no task is called '{name}'; {did_you_mean(name, TASKS)}")
        return name

    @field_validator("alpha")
    @classmethod
    def _in_range(cls, alpha: tuple[float, ...]) -> tuple[float, ...]:
        if not alpha or any(not 0 <= a <= 1 for a in alpha):
            raise ValueError(f"every alpha must be within [0, 1], got {list(alpha)}")
        return alpha

    @property
    def slug(self) -> str:
        """``shape_transfer[hair]``: unique within a run, used in tables and folders."""
        if self.classes:
            return f"{self.name}[{'+'.join(map(str, self.classes))}]"
        return self.name


class EditorConfig(Strict):
    """A layout editor that stands before every method: its label maps are drawn, the style still
    comes from the photograph with its own label map.

    Attributes:
        name, weights, options: as for a method.
        edit: one of ``core.layout_edits.LAYOUT_EDITS``; "swap" and "interpolate" take the
            protocol's reference.
        classes: names or ids that are edited; None takes all of the editor's.
        alpha: for "interpolate", the weight of the reference.
    """

    name: PathText
    weights: PathText | None = None
    options: OptionMap = Field(default_factory=dict)
    edit: str = "reconstruct"
    classes: tuple[str | int, ...] | None = None
    alpha: float = Field(0.5, ge=0, le=1)

    @field_validator("edit")
    @classmethod
    def _known(cls, edit: str) -> str:
        if edit not in LAYOUT_EDITS:
            raise ValueError(f"no edit is called '{edit}'; {did_you_mean(edit, LAYOUT_EDITS)}")
        return edit


class SlurmConfig(Strict):
    """What Slurm is asked for, a shard.

    Attributes:
        partition, account: names; "" takes the cluster's default.
        hours: time limit; a shard that reaches it is queued again and goes on.
        gpus, cpus: a shard.
        memory: gigabytes; 0 takes the cluster's default.
        parallel: shards that may run at once; 0 sets no limit.
        lines: further options of sbatch, as "--qos=long" or "--exclusive".
        setup: shell lines before the work, as "module load cuda".
    """

    partition: str = ""
    account: str = ""
    hours: float = Field(24, gt=0)
    gpus: int = Field(1, ge=0)
    cpus: int = Field(4, ge=1)
    memory: float = Field(0, ge=0)
    parallel: int = Field(0, ge=0)
    lines: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()

    @field_validator("lines")
    @classmethod
    def _options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not _SBATCH.fullmatch(line):
                raise ValueError(f"'{line}' is no long option of sbatch, as --qos=long")
        return lines


class RayConfig(Strict):
    """What a Ray cluster is asked for, a shard.

    Attributes:
        address: of the cluster; "auto" finds the one that this machine belongs to.
        gpus, cpus: a shard; fractions share a device.
        resources: further ones by name, as the cluster's nodes declare them.
        retries: how often a shard starts again whose node or process was lost.
    """

    address: str = "auto"
    gpus: float = Field(1, ge=0)
    cpus: float = Field(1, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)
    retries: int = Field(3, ge=0)


class EngineConfig(Strict):
    """How the work is done; nothing here changes a score.

    Attributes:
        kind: "local" works on this machine, "slurm" and "ray" on a cluster, shard by shard.
        shards: jobs of a cluster, each an equal share of every cell.
        slurm, ray: what the cluster is asked for.
        device: "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1", "mps"; several make
            images by a process each: "cuda:0,cuda:1", or "all" GPUs.
        batch_size: images a forward; halved when the device runs out of memory.
        workers: threads that decode images ahead, and on a GPU as many that write them.
        compile: run scoring's Inception through torch.compile (a minute once, then faster).
        profile: count the operations of one image a cell (makes that image twice).
    """

    kind: Literal["local", "slurm", "ray"] = "local"
    shards: int = Field(1, ge=1)
    slurm: SlurmConfig = Field(default_factory=lambda: SlurmConfig.model_validate({}))
    ray: RayConfig = Field(default_factory=lambda: RayConfig.model_validate({}))
    device: str = "auto"
    batch_size: int = Field(4, ge=1)
    workers: int = Field(2, ge=0)
    compile: bool = False
    profile: bool = False


class RunConfig(Strict):
    """One run.

    Attributes:
        name, output: name and folder of the run (default runs/NAME).
        protocol: a preset's name, {base: NAME, field: value, ...}, or a list of such: images that
            two of them make alike are made once.
        methods, datasets, tasks: the axes of the plan.
        metrics: names; None takes every metric that a task defines.
        parsers: parser names by label space; None takes the protocol's.
        layout_editor: edits the label maps that every method draws, or None.
        weights: paths of metric weights by registry name, where they are not in the registry.
        engine: device, batch size, workers.
    """

    name: str
    output: PathText = ""
    protocol: str | dict[str, Any] | tuple[str | dict[str, Any], ...] = "sisbench1"
    methods: tuple[MethodConfig, ...] = Field(min_length=1)
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    tasks: tuple[TaskConfig, ...] = Field((TaskConfig(name="reconstruct"),), min_length=1)
    metrics: tuple[str, ...] | None = None
    parsers: dict[str, str] = Field(default_factory=dict)
    weights: dict[str, PathText] = Field(default_factory=dict)
    layout_editor: EditorConfig | None = None
    engine: EngineConfig = Field(default_factory=lambda: EngineConfig.model_validate({}))

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not _LABEL.fullmatch(name):
            raise ValueError("letters, digits, '.', '_', '+', '-' and blanks only")
        return name

    @model_validator(mode="after")
    def _unique(self) -> RunConfig:
        for what, labels in (
            ("methods", [m.shown for m in self.methods]),
            ("datasets", [d.shown for d in self.datasets]),
            ("tasks", [t.slug for t in self.tasks]),
        ):
            doubled = sorted({x for x in labels if labels.count(x) > 1})
            if doubled:
                raise ValueError(
                    f"{what}: {', '.join(doubled)} is there twice; give each a 'label'"
                )
        return self

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.output or f"runs/{self.name}")


def load_config(path: Path, assignments: Sequence[str] = (), limit: int = 0) -> RunConfig:
    """A run's configuration from YAML. Relative paths in it are as seen from the current folder;
    those of data, weights and files of methods are kept absolute, so that the run can be scored and
    reported from any folder.

    Args:
        path: the file.
        assignments, limit: changes to it, as ``overridden`` takes them.

    Raises:
        UserError: missing file, no YAML, a key twice, unknown keys, wrong values.
    """
    raw = read_yaml(path, "configuration file", "sisbench demo writes one to start from")
    if not isinstance(raw, Mapping):
        raise UserError(
            f"{path}: expected keys like methods, datasets, tasks; got {type(raw).__name__}"
        )
    changed = overridden(raw, assignments, limit)
    return _located(validated(RunConfig, {"name": path.stem, **changed}, str(path)))


def _located(config: RunConfig) -> RunConfig:
    """The same configuration with the paths of what is there made absolute."""
    editor = config.layout_editor
    return config.model_copy(
        update={
            "methods": tuple(
                m.model_copy(
                    update={
                        "name": m.name if m.name == IMAGES else _absolute(m.name),
                        "weights": _absolute(m.weights),
                        "options": _rooted(m.options) if m.name == IMAGES else m.options,
                    }
                )
                for m in config.methods
            ),
            "datasets": tuple(
                d.model_copy(
                    update={
                        "name": _absolute(d.name),
                        "arguments": _rooted(d.arguments),
                        "train": None if d.train is None else _rooted(d.train),
                        "real_stats": tuple(map(_absolute, d.real_stats)),
                    }
                )
                for d in config.datasets
            ),
            "weights": {name: _absolute(file) for name, file in config.weights.items()},
            "layout_editor": editor
            and editor.model_copy(
                update={"name": _absolute(editor.name), "weights": _absolute(editor.weights)}
            ),
        }
    )


def _rooted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    located = ("root", "references")
    return {k: _absolute(v) if k in located else v for k, v in arguments.items()}


def _absolute(text: Any) -> Any:
    """A relative path of something that is there (``./file.py:Class`` too) made absolute; anything
    else as it is."""
    if not isinstance(text, str) or not text:
        return text
    file, colon, attribute = text.partition(".py:")
    path = Path(file + ".py") if colon else Path(text)
    if path.is_absolute() or not path.exists():
        return text
    return str(path.absolute()) + (f":{attribute}" if colon else "")
