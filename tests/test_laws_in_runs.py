"""The laws of the tasks through a stored run, for every registered method: one run with all of its
tasks, on faces with instances, on the same in another order under other instance names, and on
twins, of which each is the other's reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tasks_in_runs import SLOW, run, same, tiny

from sisbench import methods
from sisbench.core.label_space import LabelSpace
from sisbench.core.store import CellView
from sisbench.core.tasks import method_tasks

SPACE = LabelSpace.named("celebamask_hq")
EVERY = list(SPACE.classes)
SUBJECT = [name for k, name in enumerate(EVERY) if k not in SPACE.background]
NOWHERE = "neck_l"
"""A class that no face of the data set has."""
NOISE_BY_ID = {"inade", "v-inade"}
"""Their noise of instance k is row k of a draw (the official rule): other names are other draws.
``test_inade.py`` shows that names matter in no other way."""
LARGEST = "v-inade"
"""A transfer gives all instances of a class the code of the reference's largest one: with several
instances even a copy of itself changes an image."""
FACES = '''
import copy

import numpy as np

from sisbench.data.base import Dataset, Sample
from sisbench.data.toyfaces import ToyFaces


class Faces(Dataset):
    """Toy faces with two instances a class, left and right; ``whole``: with one."""

    name = "faces"

    def __init__(
        self,
        size,
        backwards: bool = False,
        renamed: bool = False,
        twins: bool = False,
        whole: bool = False,
    ):
        self.whole = whole
        self.toy = ToyFaces("test", size=size, n=3)
        self.split, self.space, self.size = "test", self.toy.space, self.toy.size
        self.renamed, self.twins = renamed, twins
        self.ids = ["a", "b"] if twins else list(self.toy.ids)[:: -1 if backwards else 1]

    def load(self, sample_id):
        found = self.toy.load(self.toy.ids[0] if self.twins else sample_id)
        right = (np.arange(found.label.shape[1]) >= found.label.shape[1] // 2).astype(np.int64)
        instance = 2 * found.label + (0 if self.whole else right)
        if self.renamed:
            instance = np.random.default_rng(1).permutation(900)[instance]
        return Sample(sample_id, found.image, found.label, instance)

    def read_at(self, size, by="bicubic", stored_labels=False):
        view = copy.copy(self)
        view.toy = self.toy.read_at(size, by, stored_labels)
        view.size = view.toy.size
        return view

    def fingerprint(self):
        return f"{self.toy.fingerprint()}{self.ids}{self.renamed}{self.whole}"
'''

Cells = dict[tuple[str, str, str], CellView]
"""(data set, task, rule for absent classes, "" where it does not act) -> cell."""


def tasks_of(can: frozenset[str]) -> list[Any]:
    """Every task of a method; the transfer of single classes for all, for the subject's, for none
    and for some."""
    tasks: list[Any] = []
    for task in method_tasks():
        if task.name not in can:
            continue
        if task.name == "class_transfer":
            for names in (EVERY, SUBJECT, [NOWHERE], ["hair", "skin"]):
                tasks.append({"name": task.name, "classes": names})
        elif task.variants == "alphas":
            tasks.append({"name": task.name, "alpha": [0, 0.3, 1]})
        elif task.name in ("shape_transfer", "mixed"):
            tasks.append({"name": task.name, "classes": ["hair"]})
        else:
            tasks.append(task.name)
    return tasks


def slug(*names: str) -> str:
    return f"class_transfer[{'+'.join(names)}]"


NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in methods.registry.names()
]


@pytest.mark.parametrize("name", NAMES)
def test_the_laws_hold_in_a_stored_run(name: str, tmp_path: Path) -> None:
    method, size = tiny(name)
    model = methods.create(name, SPACE, **method["options"])
    can = model.can
    (tmp_path / "faces.py").write_text(FACES)
    entry = {"name": f"{tmp_path / 'faces.py'}:Faces", "size": size}
    more = {
        "protocol": [
            {"base": "sisbench1", "samples": 2, "absent": rule} for rule in ("reference", "own")
        ],
        "datasets": [
            {**entry, "label": "plain"},
            {**entry, "label": "other", "backwards": True, "renamed": name not in NOISE_BY_ID},
            {**entry, "label": "twins", "twins": True, "whole": name == LARGEST},
        ],
    }
    found = run(method, tmp_path / "run", tasks_of(can), size, **more)
    done = [c for c in found if c.entry.status == "done"]
    unable = {(c.entry.task.name, c.entry.reason) for c in found if c not in done}
    assert unable == {(task, why) for task, why in model.cannot().items() if task in can}
    can -= {task for task, _ in unable}
    cells: Cells = {}
    for cell in done:
        rule = cell.entry.generation.get("absent", "")
        cells[cell.entry.dataset.label, cell.entry.task.slug, rule] = cell
    in_another_order(cells)
    if "reconstruct" in can:
        algebra(cells, can, model.class_groups is not None)
        of_twins(cells, can)
    alone = {"datasets": more["datasets"][:1], "engine": {"device": "cpu", "batch_size": 1}}
    assert can
    (first, *_) = run(method, tmp_path / "alone", tasks_of(can)[:1], size, **(more | alone))
    assert same(first, "", cells["plain", first.entry.task.slug, ""]), "batch of one"


def in_another_order(cells: Cells) -> None:
    """Neither the order of samples nor the names of instances change an image."""
    for (data, task, rule), cell in cells.items():
        if data == "plain":
            other = cells["other", task, rule]
            assert same(other, "", cell), (task, rule, "order and names of instances")
            ids = [row["target"] for row in cell.items()]
            assert [row["target"] for row in other.items()] != ids


def algebra(cells: Cells, can: frozenset[str], grouped: bool) -> None:
    own = cells["plain", "reconstruct", ""]
    for rule in ("reference", "own"):
        whole = cells["plain", "transfer", rule]
        steps = cells["plain", "interpolate_style", rule]
        assert same(steps, "~a0", own), "alpha 0"
        assert same(steps, "~a1", whole), "alpha 1"
        assert not same(steps, "~a0", whole)
        if "class_transfer" not in can:
            continue
        assert same(cells["plain", slug(*EVERY), rule], "", whole), "all classes"
        subject = cells["plain", "subject_transfer", rule]
        assert same(cells["plain", slug(*SUBJECT), rule], "", subject), "all but the background"
        assert not same(cells["plain", slug("hair", "skin"), rule], "", own)
    if "class_transfer" in can:
        none = cells["plain", slug(NOWHERE), "own"]
        kept = [row["id"] for row in none.items() if not list(row["classes"])]
        assert grouped or len(kept) == 3
        for sample in kept:  # where classes come in groups, the whole group is exchanged
            assert np.array_equal(none.image(sample), own.image(sample)), "no class"
    if "interpolate_shape" in can:
        shapes = [c for (d, t, _), c in cells.items() if (d, t) == ("plain", "interpolate_shape")]
        assert all(same(cell, "~a0", own) for cell in shapes), "shape at alpha 0"


def of_twins(cells: Cells, can: frozenset[str]) -> None:
    """A reference that is the target's own copy changes nothing."""
    own = cells["twins", "reconstruct", ""]
    drawn = ("sample", "mixed", "reconstruct", "interpolate_shape")
    for (data, task, rule), cell in cells.items():
        if data != "twins" or task.partition("[")[0] in drawn:
            continue
        for suffix in ("~a0", "~a0.3", "~a1") if task == "interpolate_style" else ("",):
            assert same(cell, suffix, own), (task, rule, suffix, "own reference")
