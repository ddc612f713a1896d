"""Tasks through stored runs: the laws of interpolation, what a method turns out to be unable to
do, and what it may return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks

from sisbench import methods
from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.run.plan import make_plan
from sisbench.run.runner import generate

SPADE = {"ngf": 4, "nhidden": 16, "crop_size": 64, "nef": 4, "z_dim": 8, "encoder_size": 64}
SEAN = {"ngf": 4, "nhidden": 16, "crop_size": 64, "style_length": 16, "style_encoder_ngf": 4}
SLOW = {"sca-dm", "semantic-stylegan"}
"""Their smallest networks still take half a minute."""
STYLED = [n for n in methods.registry.names() if "transfer" in methods.registry.get(n)().can]
"""Every registered method that reads the style of a photograph."""


def tiny(name: str) -> tuple[dict[str, Any], list[int]]:
    """(a method of a configuration on its smallest network, the size that it draws)."""
    options = tiny_networks.METHODS[name].options
    size = methods.create(name, "celebamask_hq", **options).size
    return {"name": name, "weights": "seeded:3", "options": options}, list(size)


def run(
    method: Any, out: Path, tasks: list[Any], size: int | list[int] = 32, **changes: Any
) -> list[CellView]:
    raw = {
        "name": "test",
        "output": str(out),
        "methods": [method if isinstance(method, dict) else {"name": method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": size, "n": 2}],
        "tasks": tasks,
        "engine": {"device": "cpu", "batch_size": 2},
    }
    generate(make_plan(validated(RunConfig, {**raw, **changes}, "test")), Progress(quiet=True))
    return RunStore(out).cells()


def same(one: CellView, suffix: str, other: CellView) -> bool:
    rows = other.items()
    assert rows
    return all(np.array_equal(one.image(r["id"] + suffix), other.image(r["id"])) for r in rows)


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in STYLED), ""]
)
@pytest.mark.parametrize("absent", ["reference", "own"])
def test_an_interpolation_starts_at_reconstruct_and_ends_at_transfer(
    name: str, absent: str, method_file: str, tmp_path: Path
) -> None:
    method, size = tiny(name) if name else (method_file, [32, 32])
    tasks = ["reconstruct", "transfer", {"interpolate_style": {"alpha": [0, 0.5, 1]}}]
    rules = {"base": "sisbench1", "absent": absent}
    own, whole, steps = run(method, tmp_path, tasks, size, protocol=rules)
    assert [c.entry.status for c in (own, whole, steps)] == ["done"] * 3, steps.entry.reason
    assert same(steps, "~a0", own)
    assert same(steps, "~a1", whole)
    assert not same(steps, "~a0", whole)


def test_an_interpolated_shape_starts_at_reconstruct(tmp_path: Path) -> None:
    method, size = tiny("ca2sis")
    own, steps = run(
        method, tmp_path, ["reconstruct", {"interpolate_shape": {"alpha": [0, 1]}}], size
    )
    assert same(steps, "~a0", own)
    assert not same(steps, "~a1", own)


def test_samples_of_one_label_map_differ(method_file: str, tmp_path: Path) -> None:
    (cell,) = run(method_file, tmp_path, ["sample"], protocol={"base": "sisbench1", "samples": 2})
    first, second = (cell.image(f"test-00000~k{k}") for k in (0, 1))
    assert not np.array_equal(first, second)


def test_images_of_the_former_noise_and_rule_are_not_taken(
    method_file: str, tmp_path: Path
) -> None:
    tasks = ["interpolate_style", "transfer"]
    rules = {"base": "sisbench1", "absent": "own"}
    steps, edit = run(method_file, tmp_path, tasks, protocol=rules)
    assert steps.entry.generation["noise_of"] == "target"
    assert edit.entry.generation["absent_by"] == "style"
    from sisbench.pipeline import score_run

    score_run(tmp_path, ["psnr"], [], [], Progress(quiet=True))
    assert RunStore(tmp_path).scores()[0], "the protocol knows both when images are scored"


def changed(method_file: str, *pairs: tuple[str, str]) -> str:
    path = Path(method_file.rpartition(":")[0])
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return method_file


def test_own_codes_stay_where_the_method_finds_none(method_file: str, tmp_path: Path) -> None:
    """The method sees no nose (class 2) anywhere; label maps do."""
    found = "        return Style(codes, present_classes(batch.label, self.num_classes))\n\n"
    name = changed(
        method_file,
        (
            f"{found}    def sa",
            "        present = present_classes(batch.label, self.num_classes)\n"
            "        present[:, 2], codes[:, 2] = False, 0\n"
            "        return Style(codes, present)\n\n    def sa",
        ),
    )
    for rule, edited in (("own", []), ("reference", [2])):
        (cell,) = run(
            name,
            tmp_path / rule,
            [{"class_transfer": ["nose"]}],
            protocol={"base": "sisbench1", "absent": rule},
        )
        for row in cell.items():
            assert list(row["classes"]) == edited
            assert row["absent"] == 1


GLOBAL = (
    ("    def encode_style(self, batch: Batch) -> Style:", "    def encode_style(self, batch):"),
    (
        "        codes = region_means(batch.image, batch.label, self.num_classes)\n"
        "        return Style(codes, present_classes(batch.label, self.num_classes))\n\n    def sa",
        "        from sisbench.methods.base import GlobalStyle\n"
        "        codes = batch.image.mean((2, 3))\n"
        "        return GlobalStyle(codes, present_classes(batch.label, self.num_classes))\n\n"
        "    def sa",
    ),
    (
        "        image = torch.einsum",
        "        codes = style.codes[:, None].expand(-1, 19, -1)\n        image = torch.einsum",
    ),
    ("flat, style.codes)", "flat, codes)"),
)


def test_a_global_vector_without_annotation_gives_honest_dashes(
    method_file: str, tmp_path: Path
) -> None:
    name = changed(method_file, *GLOBAL)
    tasks = ["class_transfer", {"mixed": ["hair"]}, "transfer", "subject_transfer", "reconstruct"]
    cells = run(name, tmp_path, tasks, protocol={"base": "sisbench1", "absent": "own"})
    entries = {c.entry.task.name: c.entry for c in cells}
    for task in ("class_transfer", "mixed", "subject_transfer"):
        assert entries[task].status == "impossible"
        assert "one global style vector" in entries[task].reason
        assert not list((tmp_path / entries[task].folder).rglob("*.png"))
    assert entries["transfer"].status == entries["reconstruct"].status == "done"
    again = run(name, tmp_path, tasks, protocol={"base": "sisbench1", "absent": "own"})
    assert [c.entry.status for c in again] == [c.entry.status for c in cells]


def test_check_names_the_missing_annotation(method_file: str) -> None:
    from sisbench.diagnose.conformance import check_method

    clause = "style: codes and presence are addressable by class"
    plain = changed(method_file, GLOBAL[0])
    found = {f.clause: f for f in check_method(plain, "celebamask_hq", None, {})}
    assert found[clause].ok
    assert "encode_style returns Style: annotate it '-> Style'" in found[clause].detail
    other = Path(changed(method_file, *GLOBAL[1:]).rpartition(":")[0])
    fooled = f"{other.rename(other.with_name('fooled.py'))}:MeanColour"
    found = {f.clause: f for f in check_method(fooled, "celebamask_hq", None, {})}
    assert found[clause].ok is False
    assert "annotate it '-> GlobalStyle'" in found[clause].detail
    assert "class_transfer" in found[clause].detail


def test_a_method_that_only_samples_runs(method_file: str, tmp_path: Path) -> None:
    path = Path(method_file.rpartition(":")[0])
    text = path.read_text()
    start, end = text.index("    def encode_style"), text.index("    def sample_style")
    path.write_text(text[:start] + text[end:])
    drawn, none = run(method_file, tmp_path, ["sample", "reconstruct"])
    assert drawn.entry.status == "done"
    assert none.entry.reason == "no encoder: the style of a photograph cannot be read"


@pytest.mark.parametrize(
    ("clamp", "error"),
    [
        (".clamp(-1, 1).mul(127).add(128).to(torch.uint8)", "torch.uint8"),
        (".clamp(-1, 1).mul(2)", "values in ["),
        (".clamp(-1, 1)[:, :, :16]", "expected (1, 3, 32, 32)"),
    ],
)
def test_what_is_no_image_is_an_error_of_its_item(
    clamp: str, error: str, method_file: str, tmp_path: Path
) -> None:
    name = changed(method_file, (".clamp(-1, 1)", clamp))
    (cell,) = run(name, tmp_path, ["reconstruct"])
    assert cell.entry.status == "failed"
    assert [error in row["error"] for row in cell.items()] == [True, True]
    assert not list(tmp_path.rglob("*.png"))


EDITOR = '''
from torch import nn
from sisbench.methods.editor import LayoutEditor


class Swaps(LayoutEditor):
    """Swaps, and nothing else."""

    name, title, paper = "swaps", "Swaps", "none"
    size = (32, 32)

    def build(self, space):
        return nn.Identity()

    def swap(self, target, reference, noise, classes=None):
        return reference.label
'''


def test_an_editor_that_only_swaps(
    method_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "swaps.py").write_text(EDITOR)
    monkeypatch.setitem(methods.editors._builtin, "swaps", "swaps:Swaps")
    monkeypatch.syspath_prepend(tmp_path)
    assert methods.editors.get("swaps").can == {"swap"}
    before = {"name": "swaps", "edit": "generate"}
    with pytest.raises(UserError, match=r"does not do 'generate' \(it does: swap\)"):
        run(method_file, tmp_path / "no", ["reconstruct"], layout_editor=before)
    assert not (tmp_path / "no").exists(), "known before anything is loaded or written"
    (cell,) = run(
        method_file,
        tmp_path / "yes",
        ["reconstruct"],
        layout_editor={"name": "swaps", "edit": "swap"},
    )
    assert cell.entry.status == "done"
    (own,) = run("swaps", tmp_path / "own", ["layout_reconstruction"])
    assert own.entry.reason == "the layout editor does not reconstruct label maps"
