"""The tasks as declared objects: the class rules with their exact masks and label maps, what of a
protocol each image depends on, and that every list of tasks follows from the objects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sisbench import methods, metrics
from sisbench.config import RunConfig, TaskConfig
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise
from sisbench.core.schema import validated
from sisbench.core.tasks import TASKS, Edit, Task, method_tasks
from sisbench.data import open_dataset
from sisbench.methods.base import GlobalStyle, Layout, Method, Style, present_classes, why_not
from sisbench.protocol import Protocol, get_protocol
from sisbench.run.items import generation_of, noise_of, plan_items
from sisbench.run.tasks import TaskResult, image_faults, run_task

SPACE = LabelSpace("four", ("a", "b", "c", "d"), background=frozenset({0}))
OWN = [[0, 1, 1, 2], [0, 1, 2, 2]]
OTHER = [[0, 0, 1, 3], [3, 3, 0, 0]]
LOST = 1  # a class that the label map of the reference holds, and the method does not find there


class LerpLayout(Layout):
    """A label map that remembers how it was interpolated."""

    blend: Any = None

    def lerp(self, other: Layout, alpha: float, classes: Any = None) -> LerpLayout:
        found = LerpLayout(self.label, self.present)
        object.__setattr__(found, "blend", (alpha, classes.tolist()))
        return found


class Recorder(Method):
    """Codes name their sample and class: c of the target, 10 + c of the reference, 20 + c of the
    prior. What was rendered is kept."""

    name, title = "recorder", "Recorder"
    size = (2, 4)

    def build(self, space: LabelSpace) -> nn.Module:
        return nn.Identity()

    def encode_layout(self, batch: Batch) -> LerpLayout:
        return LerpLayout(batch.label, present_classes(batch.label, 4))

    def encode_style(self, batch: Batch) -> Style:
        reference = batch.ids[0] == "r"
        present = present_classes(batch.label, 4)
        if reference:
            present[:, LOST] = False
        return Style(10.0 * reference + torch.arange(4.0)[None, :, None], present)

    def sample_style(self, batch: Batch, noise: Any) -> Style:
        return Style(20 + torch.arange(4.0)[None, :, None], torch.ones(1, 4, dtype=torch.bool))

    def render(self, layout: Layout, style: Style, noise: Any) -> Tensor:
        self.drawn, self.codes = layout, style.codes[0, :, 0].tolist()
        return torch.zeros(1, 3, 2, 4)


def sample(name: str, rows: list[list[int]]) -> Batch:
    return Batch((name,), torch.zeros(1, 3, 2, 4), torch.tensor([rows]), None, SPACE)


def protocol(**changes: Any) -> Protocol:
    return Protocol(name="x", **changes)


def perform(
    method: Method, name: str, rules: Protocol, classes: list[int] | None = None
) -> TaskResult:
    task = TaskConfig(name=name, classes=classes)
    item = next(i for i in plan_items(task, rules, ["x", "r"], SPACE) if i.target == "x")
    reference = sample("r", OTHER) if item.reference else None
    return run_task(method, task, rules, [item], sample("x", OWN), reference)


HOLES = [[0, -1, 1, 2], [0, -1, 2, 2]]
ALL_SWAPPED = [[0, -1, 1, 3], [3, 3, -1, -1]]
ROWS: list[tuple[str, dict[str, str], list[int] | None, list[float], Any, set[int], int]] = [
    # task, protocol, classes asked for, codes drawn, label map drawn, edited, absent
    ("reconstruct", {}, None, [0, 1, 2, 3], None, {0, 1, 2, 3}, 0),
    ("transfer", {"absent": "reference"}, None, [10, 11, 12, 13], None, {0, 1, 2, 3}, 2),
    ("transfer", {"absent": "own"}, None, [10, 1, 2, 13], None, {0, 3}, 2),
    ("class_transfer", {"absent": "reference"}, [0, 1, 3], [10, 11, 2, 13], None, {0, 1, 3}, 1),
    ("class_transfer", {"absent": "own"}, [0, 1, 3], [10, 1, 2, 13], None, {0, 3}, 1),
    (
        "shape_transfer",
        {"shape_swap": "present_in_both"},
        [1, 2, 3],
        [0, 1, 2, 3],
        HOLES,
        {1},
        1,
    ),
    (
        "shape_transfer",
        {"shape_swap": "always"},
        [1, 2, 3],
        [0, 1, 2, 3],
        ALL_SWAPPED,
        {1, 2, 3},
        1,
    ),
    ("subject_transfer", {"absent": "reference"}, None, [0, 11, 12, 13], None, {1, 2, 3}, 2),
    ("subject_transfer", {"absent": "own"}, None, [0, 1, 2, 13], None, {3}, 2),
    (
        "subject_transfer",
        {"subject_layout": "reference"},
        None,
        [0, 11, 12, 13],
        OTHER,
        {1, 2, 3},
        2,
    ),
    ("sample", {}, None, [20, 21, 22, 23], None, {0, 1, 2, 3}, 0),
    ("mixed", {}, [1, 2], [0, 21, 22, 3], None, {1, 2}, 0),
    (
        "interpolate_style",
        {"absent": "reference"},
        None,
        [2.5, 3.5, 4.5, 5.5],
        None,
        {0, 1, 2, 3},
        2,
    ),
    ("interpolate_style", {"absent": "own"}, None, [2.5, 1, 2, 5.5], None, {0, 3}, 2),
]


@pytest.mark.parametrize(("task", "rules", "classes", "codes", "label", "edited", "absent"), ROWS)
def test_class_rules(
    task: str,
    rules: dict[str, Any],
    classes: list[int] | None,
    codes: list[float],
    label: list[list[int]] | None,
    edited: set[int],
    absent: int,
) -> None:
    method = Recorder().setup(SPACE)
    result = perform(method, task, protocol(**rules), classes)
    assert method.codes == codes
    assert method.drawn.label.tolist() == [label or OWN]
    assert (None if result.label is None else result.label.tolist()) == (label and [label])
    assert set(result.edited[0].nonzero()[:, 0].tolist()) == edited
    assert result.absent.tolist() == [absent]


@pytest.mark.parametrize(
    ("rule", "edited"), [("present_in_both", {0, 1}), ("always", {0, 1, 2, 3})]
)
def test_an_interpolated_shape_follows_the_rule_of_swaps(rule: str, edited: set[int]) -> None:
    method = Recorder().setup(SPACE)
    result = perform(method, "interpolate_shape", protocol(shape_swap=rule))
    mask = [[c in edited for c in range(4)]]
    assert method.drawn.blend == (0.25, mask)  # type: ignore[attr-defined]
    assert result.edited.tolist() == mask
    assert result.absent.tolist() == [1]


def test_every_task_and_rule_has_its_row() -> None:
    tested = {row[0] for row in ROWS} | {"interpolate_shape", "layout_reconstruction"}
    assert tested == TASKS.keys()
    for task in TASKS.values():
        for rule in {"absent", "shape_swap", "subject_layout"} & task.fields:
            default = getattr(protocol(), rule)
            values = {row[1].get(rule, default) for row in ROWS if row[0] == task.name}
            assert len(values) == 2 or task.name == "interpolate_shape", (task.name, rule)


NEEDED = {
    "reconstruct": set(),
    "transfer": {"pairs", "absent"},
    "class_transfer": {"pairs", "absent", "shape_classes"},
    "shape_transfer": {"pairs", "shape_swap", "shape_classes"},
    "subject_transfer": {"pairs", "absent", "subject_layout"},
    "sample": {"samples"},
    "mixed": {"shape_classes"},
    "interpolate_style": {"pairs", "absent", "noise_of"},
    "interpolate_shape": {"pairs", "shape_swap", "noise_of"},
    "layout_reconstruction": set(),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_key_holds_what_images_depend_on(name: str) -> None:
    common = {"noise", "quantise", "seed"}
    task, given = TaskConfig(name=name), TaskConfig(name=name, classes=("b",))
    assert generation_of(task, protocol()).keys() == common | NEEDED[name]
    assert generation_of(given, protocol()).keys() == common | NEEDED[name] - {"shape_classes"}
    own = generation_of(task, protocol(absent="own")).keys() - generation_of(task, protocol())
    assert own == ({"absent_by"} if "absent" in NEEDED[name] else set())


def test_noise_belongs_to_the_target_and_samples_have_their_own() -> None:
    def first(task: str, k: int) -> float:
        config = TaskConfig(name=task, alpha=(0.0, 0.5, 1.0))
        items = [i for i in plan_items(config, protocol(), ["x", "r"], SPACE) if i.target == "x"]
        return float(noise_of(task, protocol(), [items[k]]).normal("n", 1))

    plain = float(Noise(["x"]).normal("n", 1))
    assert first("reconstruct", 0) == first("transfer", 0) == plain
    assert {first("interpolate_style", k) for k in range(3)} == {plain}
    assert len({first("sample", k) for k in range(3)} | {plain}) == 4


# ---- what a method can do ------------------------------------------------------------------


class Unannotated(Recorder):
    """One global vector, and nothing says so."""

    def encode_style(self, batch):  # type: ignore[no-untyped-def]
        found = super().encode_style(batch)
        return GlobalStyle(found.codes[:, :, 0].repeat(1, 2), found.present)

    def encode_layout(self, batch):  # type: ignore[no-untyped-def]
        return Layout(batch.label, present_classes(batch.label, 4))

    def render(self, layout: Layout, style: Style, noise: Any) -> Tensor:
        self.codes = style.codes[0].tolist()
        return torch.zeros(1, 3, 2, 4)


class Wide(Unannotated):
    """Annotated, as wide as can be."""

    def encode_style(self, batch: Batch) -> Style:
        return super().encode_style(batch)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Unannotated, Wide])
@pytest.mark.parametrize("task", ["class_transfer", "subject_transfer", "mixed"])
def test_no_annotation_makes_single_classes_exchangeable(kind: type[Method], task: str) -> None:
    method = kind().setup(SPACE)
    assert task in method.can, "nothing is known before something was encoded"
    for classes in ([1], [0, 1, 2, 3]):  # not even all of them: that is another task
        with pytest.raises(Unavailable, match="one global style vector"):
            perform(method, task, protocol(), classes)
    assert not {"class_transfer", "subject_transfer", "mixed"} & method.can
    assert "one global style vector" in (why_not(method, task) or "")


@pytest.mark.parametrize("absent", ["own", "reference"])
def test_one_global_vector_is_transferred_whole_under_every_rule(absent: str) -> None:
    method = Unannotated().setup(SPACE)
    result = perform(method, "transfer", protocol(absent=absent))
    assert method.codes == [10, 11, 12, 13] * 2
    assert result.edited.all(), "all of it was exchanged, and that is recorded"
    perform(method, "interpolate_style", protocol(absent=absent))
    assert method.codes == [2.5, 3.5, 4.5, 5.5] * 2


def test_an_unannotated_layout_cannot_be_interpolated_either() -> None:
    with pytest.raises(Unavailable, match="no layout embedding"):
        perform(Unannotated().setup(SPACE), "interpolate_shape", protocol())


class SamplesOnly(Method):
    """No ``encode_style``."""

    name, title = "samples-only", "Samples only"
    size = (2, 4)

    def build(self, space: LabelSpace) -> nn.Module:
        return nn.Identity()

    def sample_style(self, batch: Batch, noise: Any) -> Style:
        codes = noise.normal("codes", 4, 1)
        return Style(codes, torch.ones(len(codes), 4, dtype=torch.bool))

    def render(self, layout: Layout, style: Style, noise: Any) -> Tensor:
        return torch.zeros(len(layout.label), 3, 2, 4) + style.codes.mean().tanh()


def test_a_method_that_only_samples() -> None:
    method = SamplesOnly().setup(SPACE)
    assert SamplesOnly.can == method.can == {"sample"}
    for task in method_tasks():
        assert (why_not(method, task.name) is None) == (task.name == "sample")
    assert "no encoder" in (why_not(method, "reconstruct") or "")
    with pytest.raises(Unavailable, match="Samples only: no encoder"):
        perform(method, "reconstruct", protocol())
    with pytest.raises(Unavailable, match="no encoder"):
        method.encode_style(sample("x", OWN))
    assert perform(method, "sample", protocol()).image.shape == (1, 3, 2, 4)


class Inverts(Recorder):
    """Layout and style at once."""

    calls = 0

    def encode(self, batch: Batch) -> tuple[LerpLayout, Style]:
        self.calls += 1
        return Recorder.encode_layout(self, batch), Recorder.encode_style(self, batch)


@pytest.mark.parametrize(
    ("task", "calls"),
    [(t.name, int(t.name not in ("transfer", "sample"))) for t in method_tasks()],
)
def test_layout_and_style_of_one_batch_are_found_at_once(task: str, calls: int) -> None:
    method, plain = Inverts().setup(SPACE), Recorder().setup(SPACE)
    classes = None if TASKS[task].classes == "all" else [1]
    perform(method, task, protocol(), classes)
    perform(plain, task, protocol(), classes)
    assert method.calls == calls
    assert method.codes == plain.codes


def test_a_method_of_encode_alone() -> None:
    class Once(SamplesOnly):
        def encode(self, batch: Batch) -> tuple[Layout, GlobalStyle]:
            layout = self.encode_layout(batch)
            return layout, GlobalStyle(torch.ones(1, 2), layout.present)

    assert Once.can == {"reconstruct", "transfer", "shape_transfer", "sample", "interpolate_style"}
    style = Once().setup(SPACE).encode_style(sample("x", OWN))
    assert isinstance(style, GlobalStyle)


# ---- lists that follow from the objects ----------------------------------------------------


def test_a_new_task_is_known_everywhere(
    monkeypatch: pytest.MonkeyPatch, method_file: str, tmp_path: Path
) -> None:
    """Declared once: configuration, key, items, ``can``, a stored run and its refusals."""
    from sisbench.core.progress import Progress
    from sisbench.core.store import RunStore
    from sisbench.run.plan import make_plan
    from sisbench.run.runner import generate

    def call(method: Any, edit: Edit) -> Tensor:
        return method.transfer(edit.other, edit.target, edit.noise, None)

    echo = Task(
        "echo", call, ("prior",), reference=True, classes="drawn", fields=frozenset({"pairs"})
    )
    monkeypatch.setitem(TASKS, "echo", echo)
    with pytest.raises(UserError, match="did you mean 'echo'"):
        config(method_file, tmp_path, ["ehco"])
    assert "echo" in Recorder.can
    assert "echo" in SamplesOnly.can
    assert why_not(methods.create("sean", "celebamask_hq", ngf=4), "echo") == (
        "no prior to draw styles from"
    )
    assert generation_of(TaskConfig(name="echo"), protocol()).keys() >= {"pairs"}
    items = plan_items(TaskConfig(name="echo"), protocol(), ["x", "r"], SPACE)
    assert [(i.reference, len(i.classes)) for i in items] == [("r", 1), ("x", 1)]
    generate(make_plan(config(method_file, tmp_path, ["echo"])), Progress(quiet=True))
    assert RunStore(tmp_path).cells()[0].entry.status == "done"


def config(method: str, out: Path, tasks: list[Any], **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": [{"name": method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 32, "n": 4}],
        "tasks": tasks,
        "engine": {"device": "cpu", "batch_size": 4},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def test_one_fault_gives_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        config("sean", tmp_path, ["reconstrct"])
    assert caught.value.message == (
        "test: tasks.0.name: no task is called 'reconstrct'; did you mean 'reconstruct'?"
    )


def test_every_name_in_use_is_a_task() -> None:
    for name in metrics.registry.names():
        assert set(metrics.registry.get(name).tasks) <= TASKS.keys(), name
    for name in methods.registry.names():
        assert methods.registry.get(name)().cannot().keys() <= TASKS.keys(), name
    assert set(metrics.registry.get("seconds").tasks) == {t.name for t in method_tasks()}


def test_toyfaces_draws_the_truth_of_every_edit_from_a_reference() -> None:
    data = open_dataset("toyfaces", split="val", size=32, n=2)
    for task in TASKS.values():
        truth = data.truth(task.name, *data.ids, [13])
        assert (truth is not None) == (task.reference and task.variants == "one"), task.name


def test_what_the_declarations_say() -> None:
    """The sets that scorer, grids and editors act by."""

    def those(**facts: Any) -> set[str]:
        return {t.name for t in TASKS.values() if all(getattr(t, k) == v for k, v in facts.items())}

    assert those(own_label=True) == {"reconstruct", "transfer", "class_transfer"}
    assert those(editable=True) == {"reconstruct", "transfer", "class_transfer"}
    assert those(classes="drawn") == {"class_transfer", "shape_transfer", "mixed"}
    assert those(edits="shape") == {"shape_transfer", "interpolate_shape"}
    assert those(by="editor") == {"layout_reconstruction"}
    assert those(reference=True) == {t for t, fields in NEEDED.items() if "pairs" in fields}
    assert all(dataclasses.is_dataclass(t) for t in TASKS.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        TASKS["sample"].name = "x"  # type: ignore[misc]


# ---- what a method may return --------------------------------------------------------------


@pytest.mark.parametrize(
    ("fill", "fault"),
    [
        (0.5, ""),
        (1.0005, ""),
        (1.01, r"values in \[1.01, 1.01\]"),
        (-3.0, "expected"),
        (float("nan"), "non-finite"),
        (float("inf"), "non-finite"),
    ],
)
def test_faults_of_images(fill: float, fault: str) -> None:
    import re

    good, found = image_faults(torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), fill)]))
    assert good == ""
    assert bool(found) == bool(fault)
    assert re.search(fault, found)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 2, 4, dtype=torch.uint8), "rendered torch.uint8, expected floating"),
        (torch.zeros(1, 3, 4, 2), r"rendered \(1, 3, 4, 2\), expected \(1, 3, 2, 4\)"),
        (torch.zeros(3, 2, 4), "expected"),
    ],
)
def test_what_is_no_image_is_refused(image: Tensor, message: str) -> None:
    class Odd(Recorder):
        def render(self, layout: Layout, style: Style, noise: Any) -> Tensor:
            return image

    with pytest.raises(UserError, match=message):
        perform(Odd().setup(SPACE), "reconstruct", protocol())


def test_a_preset_asks_for_the_editors_rule() -> None:
    assert get_protocol("sean2020").absent == "own"
