"""Data sets of the papers in their official layouts, on small samples made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.data import Dataset, open_dataset
from sisbench.data.base import Sample


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def photograph(side: tuple[int, int] = (8, 16)) -> np.ndarray:
    return np.full((*side, 3), 90, np.uint8)


def first(data: Dataset) -> Sample:
    return data.load(data.ids[0])


def test_idesigner_merges_twenty_parts_to_three(tmp_path: Path) -> None:
    save(tmp_path / "test/images/a.jpg", photograph((4, 5)))
    save(tmp_path / "test/labels/a.png", np.arange(20, dtype=np.uint8).reshape(4, 5))
    data = open_dataset("idesigner", root=tmp_path, size=[4, 5])
    label = first(data).label.ravel().tolist()
    face = {1, 2, 4, 13}
    assert label == [0 if i == 0 else 1 if i in face else 2 for i in range(20)]
    assert data.space.classes == ("background", "face", "body")
    assert open_dataset("idesigner", root=tmp_path).size == (256, 170)
    with pytest.raises(UserError, match=r"0\.\.2"):
        first(open_dataset("idesigner", root=tmp_path, size=[4, 5], labels="merged"))
    save(tmp_path / "test/labels/a.png", np.full((4, 5), 20, np.uint8))
    with pytest.raises(UserError, match=r"a\.png: stored values 20\.\.20 where 0\.\.19"):
        first(data)


@pytest.fixture
def city(tmp_path: Path) -> Path:
    for number, place in ((2, "bonn"), (1, "aachen")):
        stem = f"{place}_00000{number}_000019"
        save(tmp_path / f"leftImg8bit/val/{place}/{stem}_leftImg8bit.png", photograph())
        truth = tmp_path / f"gtFine/val/{place}/{stem}_gtFine"
        label = np.tile(np.array([7, 33, 0, 23], np.uint8), (8, 4))
        save(Path(f"{truth}_labelIds.png"), label)
        save(Path(f"{truth}_instanceIds.png"), label.astype(np.uint16) * 1000 + 1)
        save(Path(f"{truth}_color.png"), photograph())
    return tmp_path


def test_cityscapes_ids_train_ids_and_instances(city: Path) -> None:
    data = open_dataset("cityscapes", root=city, size=[8, 16])
    assert data.ids == ("aachen_000001_000019", "bonn_000002_000019")
    assert first(data).label[0, :4].tolist() == [7, 33, 0, 23]
    instance = first(data).instance
    assert instance is not None
    assert instance[0, :4].tolist() == [7001, 33001, 1, 23001]
    assert data.remarks() == ["2 of the official 500 photographs of 'val'"]
    trained = open_dataset("cityscapes", root=city, size=[8, 16], labels="train_ids")
    assert first(trained).label[0, :4].tolist() == [0, 18, 255, 10]
    assert len(trained.space) == 19
    assert open_dataset("cityscapes", root=city).size == (256, 512)
    with pytest.raises(UserError, match="leftImg8bit/train"):
        open_dataset("cityscapes", root=city, split="train")
    next(city.glob("gtFine/val/bonn/*labelIds.png")).unlink()
    with pytest.raises(UserError, match="bonn"):
        open_dataset("cityscapes", root=city)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/val2017", "stuffthingmaps/val2017"),
        ("val2017", "annotations/val2017"),
        ("val_img", "val_label"),
    ],
)
def test_coco_stuff_in_each_layout(tmp_path: Path, images: str, labels: str) -> None:
    save(tmp_path / images / "000000000139.jpg", photograph())
    save(
        tmp_path / labels / "000000000139.png", np.tile([[0, 181], [255, 90]], (4, 8)).astype("u1")
    )
    data = open_dataset("coco_stuff", root=tmp_path, size=[8, 16])
    assert data.ids == ("000000000139",)
    assert set(np.unique(first(data).label)) == {0, 90, 181, 255}
    assert len(data.space) == 182
    assert (data.space.classes[0], data.space.classes[181]) == ("person", "wood")
    save(tmp_path / labels / "000000000139.png", np.full((8, 16), 182, np.uint8))
    with pytest.raises(UserError, match=r"182.*0\.\.181"):
        first(data)


def test_coco_stuff_with_spades_instance_maps(tmp_path: Path) -> None:
    for kind in ("img", "label", "inst"):
        array = photograph() if kind == "img" else np.full((8, 16), 3, np.uint16)
        save(tmp_path / f"val_{kind}/1.png", array)
    instance = first(open_dataset("coco_stuff", root=tmp_path, size=[8, 16])).instance
    assert instance is not None
    assert set(np.unique(instance)) == {3}
    with pytest.raises(UserError, match="train_img"):
        open_dataset("coco_stuff", root=tmp_path, split="train")


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("celebamask_hq", "root", ["a", "b"]),
        ("celebamask_hq", "limit", "8"),
        ("folder", "space", None),
        ("toyfaces", "n", 2.5),
        ("toyfaces", "size", {"height": 64}),
    ],
)
def test_an_argument_of_a_wrong_kind_is_named(name: str, argument: str, value: object) -> None:
    with pytest.raises(UserError, match=f"data set '{name}': {argument}: expected .*, got"):
        open_dataset(name, **{argument: value})


def test_a_data_set_of_ones_own_may_be_annotated_in_any_way(tmp_path: Path) -> None:
    """Names that only type checkers know, and kinds of its own, are its own business."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from sisbench.data.toyfaces import ToyFaces\n"
        "if TYPE_CHECKING:\n"
        "    from nowhere import Strange\n"
        "class Own:\n"
        "    pass\n"
        "class Hidden(ToyFaces):\n"
        "    def __init__(self, what: Strange) -> None:\n"
        "        super().__init__('test', 32, 1)\n"
        "class Shown(ToyFaces):\n"
        "    def __init__(self, what: Own) -> None:\n"
        "        super().__init__('test', 32, 1)\n"
    )
    assert len(open_dataset(f"{path}:Hidden", what=3)) == 1
    assert len(open_dataset(f"{path}:Shown", what=3)) == 1
