"""What papers print: their scores, a specification a table, and the method behind each row."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.log import MetricFacts

RESULTS = Path(str(files("sisbench.results")))

PAPERS: Mapping[str, str] = MappingProxyType(
    {"ca2sis": "CA2-SIS", "scadm": "SCA-DM", "scam": "SCAM", "semantic_vae": "Semantic-VAE"}
)

_PREFERENCE = "user_preference"
"""What papers print of user studies, in per cent; no metric computes it."""
_TASKS: Mapping[str, str] = MappingProxyType(
    {"reconstruction": "reconstruct", "diversity": "sample"}
)
Facts = Mapping[str, MetricFacts]
"""By metric name, also of metrics that a run did not use."""


@dataclass(frozen=True)
class Published:
    """One score as printed.

    Attributes:
        value: as printed (per cent for mIoU and accuracy); text: its digits in the file.
        task: in this harness's words.
    """

    source: str
    table: str
    dataset: str
    task: str
    method: str
    metric: str
    value: float
    text: str

    def stored(self, facts: Facts) -> float:
        """The value in the unit that scores are stored in (fractions for percentages)."""
        return self.value / 100 if self.in_per_cent(facts) else self.value

    def in_per_cent(self, facts: Facts) -> bool:
        """Whether papers print it in per cent."""
        known = facts.get(self.metric)
        return self.metric == _PREFERENCE or (known is not None and known.unit == "%")


@lru_cache(maxsize=4)
def load_published(path: Path = RESULTS / "published" / "published.csv") -> tuple[Published, ...]:
    """Every published score, in the file's order.

    Raises:
        UserError: the file is missing, lacks a column, or a value is no number.
    """
    if not path.is_file():
        raise UserError(
            f"the published scores are not at {path}",
            "run from a checkout: results/ is no part of the installed package",
        )
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        wanted = ("source", "table", "dataset", "task", "method", "metric", "value")
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}")
        return tuple(_figure(row, path, line) for line, row in enumerate(reader, 2))


def _figure(row: Mapping[str, str], path: Path, line: int) -> Published:
    try:
        value = float(row["value"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}:{line}: value {row['value']!r} is no number") from error
    task = _TASKS.get(row["task"], row["task"])
    names = {k: row[k] for k in ("source", "table", "dataset", "method", "metric")}
    return Published(**names, task=task, value=value, text=row["value"])


class SpecColumn(BaseModel):
    """One column of a paper table; ``task`` is a slug, or a task whose only variant is meant."""

    model_config = ConfigDict(extra="forbid")
    dataset: str
    task: str
    metric: str


class SpecRow(BaseModel):
    """The method behind a published row.

    Attributes:
        method: its registry name; options: of its construction, where they are not the official
            ones.
        differs: how what the paper measured differs from that, where no option has it.
    """

    model_config = ConfigDict(extra="forbid")
    method: str
    options: dict[str, Any] = Field(default_factory=dict)
    differs: str = ""


class Spec(BaseModel):
    """A paper's table: which scores stand where, and what must be said about them.

    Attributes:
        source, table: as in published.csv; title: heading.
        columns: in the paper's order.
        methods: published name -> label, title or registry name in a run, where they differ.
        rows: published name -> its method, where that is not the registry name itself, or where
            options belong to it.
        remarks: sentences for the caption.
        rank_published: False where the paper's own ranking is not meaningful.
    """

    model_config = ConfigDict(extra="forbid")
    source: str
    table: str
    title: str
    columns: list[SpecColumn] = Field(min_length=1)
    methods: dict[str, str] = Field(default_factory=dict)
    rows: dict[str, SpecRow] = Field(default_factory=dict)
    remarks: list[str] = Field(default_factory=list)
    rank_published: bool = True

    @field_validator("rows", mode="before")
    @classmethod
    def _names_alone(cls, given: Any) -> Any:
        """``SEAN: sean`` is short for ``SEAN: {method: sean}``."""
        if not isinstance(given, Mapping):
            return given
        return {k: {"method": v} if isinstance(v, str) else v for k, v in given.items()}

    @property
    def printed(self) -> tuple[str, ...]:
        """The published names of its rows, in order."""
        own = (self.source, self.table)
        return tuple(
            dict.fromkeys(p.method for p in load_published() if (p.source, p.table) == own)
        )

    def row(self, printed: str) -> SpecRow:
        """The method behind a published name."""
        named = self.methods.get(printed, printed)
        return self.rows.get(printed) or SpecRow(method=named)

    @property
    def cited(self) -> str:
        """``SCA-DM, Table 1`` or ``SCA-DM, Section 4.4``."""
        section = self.table.removeprefix("text ")
        place = f"Section {section}" if section != self.table else f"Table {self.table}"
        return f"{PAPERS.get(self.source, self.source)}, {place}"


def load_specs(versus: str, folder: Path = RESULTS / "tables") -> dict[str, Spec]:
    """Specifications by name: all of a paper (``ca2sis``), one (``ca2sis_table1``), or a YAML file.

    Raises:
        UserError: no such paper, table or file; a file that breaks the schema.
    """
    if versus.endswith((".yaml", ".yml")):
        path = Path(versus)
        if not path.is_file():
            raise UserError(f"no table specification {path}", "see results/tables for examples")
        return {path.stem: _spec(path)}
    known = sorted(folder.glob("*.yaml"))
    paths = [p for p in known if p.stem == versus or p.stem.startswith(f"{versus}_")]
    if not paths:
        names = [
            *dict.fromkeys(re.split("_(?:table|text)", p.stem)[0] for p in known),
            *(p.stem for p in known),
        ]
        raise UserError(f"no published table is called '{versus}'", did_you_mean(versus, names))
    return {p.stem: _spec(p) for p in paths}


def _spec(path: Path) -> Spec:
    try:
        return Spec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: '{where}': {first['msg']}", f"keys: {', '.join(Spec.model_fields)}"
        ) from error


def plain_name(text: str) -> str:
    """A name as it is compared: ``CA2-SIS`` and ``ca2sis`` are the same."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


@dataclass(frozen=True)
class TableRow:
    """A row of a paper's table and the method that fills it.

    Attributes:
        spec: name of the table's specification (``ca2sis_table1``); cited: paper and table.
        printed: what the paper calls the row.
        method: as ``SpecRow.method``, "" where none is known; options, differs: as there.
    """

    spec: str
    cited: str
    printed: str
    method: str
    options: Mapping[str, Any]
    differs: str


def table_rows(known: Collection[str], folder: Path = RESULTS / "tables") -> list[TableRow]:
    """Every row of every table.

    Args:
        known: registry names of the methods that there are.
        folder: of the specifications.

    Raises:
        UserError: a specification names a row that the paper does not print.
    """
    names = {plain_name(name): name for name in known}
    rows = []
    for path in sorted(folder.glob("*.yaml")):
        spec = _spec(path)
        strange = sorted(spec.rows.keys() - set(spec.printed))
        if strange:
            raise UserError(
                f"{path}: no row of {spec.cited} is called '{strange[0]}'",
                did_you_mean(strange[0], spec.printed),
            )
        for printed in spec.printed:
            row = spec.row(printed)
            found = names.get(plain_name(row.method), "")
            rows.append(TableRow(path.stem, spec.cited, printed, found, row.options, row.differs))
    return rows
