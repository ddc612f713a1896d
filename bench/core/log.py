"""The run's log as typed models: what stands in run.json, cell.json, item rows and scores.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from sisbench.core.errors import UserError

SCHEMA = 2
"""Of run.json and scores.json. A key of another meaning raises it; a new optional key does not."""

SEEDED = "seeded weights"
"""Mark of a score whose method ran on seeded test weights: it says nothing about the method."""

CEILING = "ceiling"
"""Mark of a score of the real photographs themselves, as a parser's mIoU; never ranked."""

NOT_YET = "not made yet"
"""How the reason of a cell begins that was left out by ``--only``."""

BASIS = ("extractor", "parser", "resize", "compare_at", "label_map", "convention", "real_set")
"""Keys of ``ScoreRecord.extra`` (strings) that say what a score rests on; captions print them, and
scores that differ in one are not ranked against each other."""

Status = Literal["done", "partial", "impossible", "failed"]


class Entry(BaseModel):
    """Frozen. Keys that it does not declare are kept as they are: a reader loses nothing."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def written(self) -> dict[str, Any]:
        """As JSON says it: what was given, by the names in the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class WeightsEntry(Entry):
    """Where a method's weights came from (a path, ``seeded:N``, None) and their hash."""

    source: str | None = None
    sha256: str | None = None


class MethodEntry(Entry):
    """A method of the run.

    Attributes:
        label: the user's, unique within the run; title: its name in tables, the label where one
            was given.
        name: in the registry; size: (H, W); options: of its construction. The last two are known
            once it was built.
        resized: how its images came to the data set's size, or "".
        reads: what is done to the samples before it gets them, where that is not the data set's
            own way, or "".
    """

    label: str
    title: str
    name: str = ""
    paper: str = ""
    weights: WeightsEntry = WeightsEntry()
    size: tuple[int, int] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    resized: str = ""
    reads: str = ""

    @property
    def seeded(self) -> bool:
        return (self.weights.source or "").startswith("seeded:")


class DatasetEntry(Entry):
    """A data set of the run: ``n`` items of (H, W) ``size`` in a label ``space``; ``config`` opens
    it again."""

    label: str
    name: str
    split: str = ""
    space: str = ""
    size: tuple[int, int] | None = None
    n: int | None = None
    fingerprint: str = ""
    config: dict[str, Any] = Field(default_factory=dict)


class TaskEntry(Entry):
    """A task; ``slug`` names it with its classes: ``shape_transfer[hair]``."""

    name: str
    slug: str
    classes: tuple[int | str, ...] | None = None
    alpha: tuple[float, ...] = ()


class EditorEntry(Entry):
    """The layout editor before every method."""

    name: str
    weights: str | None = None

    @property
    def seeded(self) -> bool:
        return (self.weights or "").startswith("seeded:")


class CellEntry(Entry):
    """One cell: a method on a data set at a task, for all protocols that make the same images.

    Attributes:
        key: hash of all that its images depend on; folder: within the run.
        protocols: ids; generation: field of a protocol -> its value, where images depend on it.
        items: how many images are planned.
        status, reason: what became of it, and why it is not done.
        remarks: what must be said with each of its scores.
        missing, unused: of images made elsewhere, items without an image (those that a list of
            references leaves out among them) and files of the folder that are no item's.
    """

    key: str
    folder: str
    method: MethodEntry
    dataset: DatasetEntry
    task: TaskEntry
    protocols: tuple[str, ...] = ()
    generation: dict[str, Any] = Field(default_factory=dict)
    editor: EditorEntry | None = None
    items: int = 0
    status: Status = "partial"
    reason: str = ""
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @field_validator("folder")
    @classmethod
    def _inside(cls, folder: str) -> str:
        """A manifest of somebody else's must not lead a reader out of the run."""
        path = PurePath(folder)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("a cell's folder lies within its run")
        return folder

    @property
    def place(self) -> tuple[str, str, str]:
        """(method, data set, task) as scores name them."""
        return self.method.label, self.dataset.label, self.task.slug


class ProtocolEntry(Entry):
    """A protocol as the run knows it: its id, and every field beside it."""

    id: str

    def fields(self) -> dict[str, Any]:
        """Everything but the id."""
        return {k: v for k, v in self.written().items() if k != "id"}


class Manifest(Entry):
    """run.json."""

    version: int = Field(SCHEMA, alias="schema")
    name: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    protocols: tuple[ProtocolEntry, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)
    cells: tuple[CellEntry, ...] = ()


class CellLog(Entry):
    """cell.json: the cell's key and the method as it was when it made the images; ``arithmetic``
    is the kind of device and the images of one forward ("cuda:4"), which decide the last bits."""

    key: str
    method: dict[str, Any]
    arithmetic: str = ""


class ItemRow(Entry):
    """One image of a cell.

    Attributes:
        id, index: of the item, and its position in the plan.
        target, reference: sample ids; alpha: the reference's weight in an interpolation.
        classes: ids that were really edited; absent: how many a reference did not have.
        seconds, batch: of its share of a forward of ``batch`` images.
        encode_seconds: what the encoding of its photographs took, whenever it was done; it is not
            in ``seconds``. None where encoding is part of these.
        arithmetic: what the cell's was when it was made.
        sha256, label_sha256: of the files of its image and drawn label map; "" where there is none.
        peak_memory: bytes; parameters, flops: of the method, of one image.
        error: why there is no image, else "".
    """

    id: str
    index: int
    target: str = ""
    reference: str = ""
    alpha: float | None = None
    classes: tuple[int, ...] = ()
    absent: int = 0
    seconds: float | None = None
    encode_seconds: float | None = None
    batch: int | None = None
    arithmetic: str = ""
    sha256: str = ""
    label_sha256: str = ""
    peak_memory: float | None = None
    parameters: float | None = None
    flops: float | None = None
    error: str = ""

    @property
    def sample(self) -> str:
        """The target's id."""
        return self.target or self.id


class MetricFacts(Entry):
    """How a metric is printed and ranked; stored values times ``scale`` are in its ``unit``."""

    title: str = ""
    direction: Literal["up", "down", ""] = ""
    bounds: tuple[float | None, float | None] = (None, None)
    unit: str = ""
    scale: float = 1.0
    digits: int = 2
    parser: bool = Field(False, exclude=True, description="whether a parser stands behind it")


@dataclass(frozen=True)
class ScoreRecord:
    """One score of one cell under one protocol, or the reason why there is none.

    Attributes:
        method: the label of the method's entry in the configuration (unique within a run).
        title: its name in tables.
        dataset, task: label of the data set, slug of the task (``shape_transfer[hair]``).
        metric, protocol: names.
        value: as stored (fractions for percentages); None with a ``reason``.
        n, n_real: images on both sides; se, ci: standard error and 95 % interval, as ``value``.
        per_class: class name -> value; extra: what the score rests on; marks: remarks.
        cell: key of the cell.
    """

    method: str
    title: str
    dataset: str
    task: str
    metric: str
    protocol: str
    value: float | None
    reason: str = ""
    n: int = 0
    n_real: int | None = None
    se: float | None = None
    ci: tuple[float, float] | None = None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    cell: str = ""


class ScoresFile(Entry):
    """scores.json: the scores, the facts of each metric, the fields of each protocol."""

    version: int = Field(SCHEMA, alias="schema")
    metrics: dict[str, MetricFacts] = Field(default_factory=dict)
    protocols: tuple[ProtocolEntry, ...] = ()
    scores: tuple[ScoreRecord, ...] = ()


Log = TypeVar("Log", bound=BaseModel)


def as_log(model: type[Log], raw: Any, path: Path, remedy: str) -> Log:
    """What was read from ``path`` as a model of the log.

    Raises:
        UserError: another schema than this version's, a missing key, a value of a wrong kind.
    """
    if not isinstance(raw, Mapping):
        raise UserError(f"{path} is damaged: expected keys, got {type(raw).__name__}", remedy)
    if "version" in model.model_fields:
        _check_schema(raw.get("schema", 0), path)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "(top)"
        raise UserError(f"{path} is damaged: {place}: {fault['msg']}", remedy) from error


def _check_schema(schema: Any, path: Path) -> None:
    if schema == SCHEMA:
        return
    later = isinstance(schema, int) and schema > SCHEMA
    raise UserError(
        f"{path} was written by {'a later' if later else 'an earlier'} sisbench "
        f"(schema {schema}, not {SCHEMA})",
        "upgrade sisbench" if later else "run its configuration again",
    )
