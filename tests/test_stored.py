"""What a cell holds: bytes that depend on nothing but the item, files that are vouched for by their
hash, label maps of any number of classes, groups that a resumed run keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pretended_device import pretended
from test_runner import config, images
from tiny_networks import METHODS

from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.store import CellView, RunStore
from sisbench.data.images import label_pixels, read_drawn
from sisbench.data.prepare import png_bytes
from sisbench.pipeline import run_all
from sisbench.run.plan import make_plan
from sisbench.run.stored import finished, group_size, groups_of

QUIET = Progress(quiet=True)


def cells(run: Path) -> dict[str, CellView]:
    return {cell.entry.task.slug: cell for cell in RunStore(run).cells()}


def files(run: Path) -> dict[str, bytes]:
    return {
        f"{p.parent.parent.name}/{p.name}": p.read_bytes()
        for p in sorted(run.glob("cells/*/images/*.png"))
    }


@pytest.mark.parametrize("name", ["spade", "ca2sis"])
def test_on_a_cpu_bytes_do_not_depend_on_the_batch_size(name: str, tmp_path: Path) -> None:
    """Networks whose images differ in single bits where several are computed together."""
    found = []
    for size in (1, 3, 5):
        raw = {
            "methods": [{"name": name, "weights": "seeded:0", "options": METHODS[name].options}],
            "datasets": [{"name": "toyfaces", "split": "test", "size": 64, "n": 5}],
            "tasks": ["reconstruct", "transfer"],
            "engine": {"device": "cpu", "batch_size": size},
        }
        run_all(config("x", tmp_path / str(size), **raw), QUIET, generate_only=True)
        found.append(files(tmp_path / str(size)))
    assert len(found[0]) == 10
    assert found[0] == found[1] == found[2]


def _cut(to: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * to)]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": _cut(0),
    "half": _cut(0.5),
    "last byte": lambda data: data[:-1],
    "garbage": lambda data: b"\x00garbage" * 9,
    "another picture": lambda data: png_bytes(np.zeros((32, 32, 3), np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_replaced_image_is_made_anew(
    damage: str, method_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    wanted = config(method_file, out, n=3, tasks=["reconstruct", "shape_transfer"])
    run_all(wanted, QUIET, generate_only=True)
    before = files(out)
    cell = cells(out)["shape_transfer"]
    image, label = cell.image_path("test-00001"), cell.label_path("test-00002")
    assert label is not None
    for path in (image, label):
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole))
        assert len(finished(cell)) == 2
        run_all(wanted, QUIET, generate_only=True)
        assert path.read_bytes() == whole
    assert files(out) == before


@pytest.mark.parametrize(
    ("ids", "mode"),
    [([0, 18, -1], "L"), ([0, 254, -1], "L"), ([0, 255, 3], "I;16"), ([-1, 400, 255], "I;16")],
)
def test_drawn_label_maps_keep_every_id_and_every_hole(
    ids: list[int], mode: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(label_pixels(np.array([ids, ids]))))
    assert Image.open(path).mode == mode
    assert read_drawn(path).tolist() == [ids, ids]
    with pytest.raises(UserError, match="16 bits"):
        label_pixels(np.array([[70_000]]))


def test_groups_follow_from_the_plan(method_file: str, tmp_path: Path) -> None:
    plan = make_plan(config(method_file, tmp_path / "run", n=5))
    cell = next(c for c in plan.cells if c.task.name == "sample")
    groups = groups_of(cell.items, 4)
    assert [len(g) for g in groups] == [4, 4, 2]
    assert [i for g in groups for i in g] == list(cell.items)
    assert [group_size(text) for text in ("", "cpu:1", "cuda:12", "x:y")] == [1, 1, 12, 1]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setattr("sisbench.core.devices.pick_device", lambda wanted: wanted)
    with pretended() as device:
        yield device


BATCHED = """

class Batched(MeanColour):
    name = "batched"
    most = MOST

    def render(self, layout, style, noise):
        if len(style.codes) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return super().render(layout, style, noise) * (1 - 0.01 * len(style.codes))
"""
"""An adapter whose image says in how large a company it was computed."""


def batched(method_file: str, most: int) -> str:
    path = Path(method_file.rpartition(":")[0])
    own = path.with_name(f"batched{most}.py")
    own.write_text(path.read_text() + BATCHED.replace("MOST", str(most)))
    return f"{own}:Batched"


def _run(method: str, out: Path, device: Any, size: int, n: int = 7) -> dict[str, np.ndarray]:
    engine = {"device": str(device), "batch_size": size}
    wanted = config(method, out, n=n, tasks=["reconstruct"], engine=engine)
    run_all(wanted, QUIET, generate_only=True)
    return images(out)


def test_a_resumed_cell_keeps_the_groups_that_it_was_begun_with(
    there: torch.device, method_file: str, tmp_path: Path
) -> None:
    method, out = batched(method_file, 99), tmp_path / "run"
    before = _run(method, out, there, 3)
    cell = cells(out)["reconstruct"]
    rows = cell.item_rows()
    assert [row.batch for row in rows] == [3, 3, 3, 3, 3, 3, 1]
    assert {row.arithmetic for row in rows} == {f"{there.type}:3"}
    for name in ("test-00000", "test-00005", "test-00006"):
        cell.image_path(name).unlink()
    after = _run(method, out, there, 2)
    assert all(np.array_equal(before[k], after[k]) for k in before)
    other = _run(method, tmp_path / "other", there, 2)
    assert any(not np.array_equal(before[k], other[k]) for k in before), "the size is seen"


def test_images_of_two_kinds_of_device_are_not_mixed(
    there: torch.device, method_file: str, tmp_path: Path
) -> None:
    method, out = batched(method_file, 99), tmp_path / "run"
    _run(method, out, there, 3)
    cells(out)["reconstruct"].image_path("test-00002").unlink()
    after = _run(method, out, "cpu", 3)
    alone = _run(method, tmp_path / "cpu", "cpu", 3)
    assert all(np.array_equal(alone[k], after[k]) for k in alone)


def test_a_cell_that_ran_out_of_memory_is_of_one_size(
    there: torch.device, method_file: str, tmp_path: Path
) -> None:
    found = _run(batched(method_file, 2), tmp_path / "run", there, 4)
    rows = cells(tmp_path / "run")["reconstruct"].item_rows()
    assert {row.arithmetic for row in rows} == {f"{there.type}:2"}
    whole = _run(batched(method_file, 99), tmp_path / "whole", there, 2)
    assert all(np.array_equal(found[k], whole[k]) for k in whole)
