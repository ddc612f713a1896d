"""Data sets: official and prepared layouts, pairing by stem, validation, prepare."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.resize import resize_labels_pil
from sisbench.data import open_dataset
from sisbench.data.check import check_items
from sisbench.data.loader import prefetch, to_batch, to_float
from sisbench.data.prepare import prepare

QUIET = Progress(quiet=True)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(value: int, side: int = 16) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Prepared pairs 2, 10 and 9: sorted by name they would stand in another order."""
    for stem, value in (("2", 1), ("10", 2), ("9", 3)):
        save(tmp_path / f"val/images/{stem}.jpg", picture(40 * value))
        save(tmp_path / f"val/labels/{stem}.png", np.full((16, 16), value, np.uint8))
    return tmp_path


def test_pairs_are_joined_by_stem_in_natural_order(pairs: Path) -> None:
    data = open_dataset("celebamask_hq", root=pairs, split="val", size=16)
    assert data.ids == ("2", "9", "10")
    for sample_id, value in (("2", 1), ("10", 2), ("9", 3)):
        sample = data.load(sample_id)
        assert sample.image.shape == (16, 16, 3)
        assert abs(int(sample.image.mean()) - 40 * value) < 4
        assert set(np.unique(sample.label)) == {value}


def test_a_stem_without_partner_is_named(pairs: Path) -> None:
    (pairs / "val/labels/9.png").rename(pairs / "val/labels/8.png")
    with pytest.raises(UserError, match=r"9, 8"):
        open_dataset("celebamask_hq", root=pairs, split="val")


def test_label_values_out_of_range_are_named(pairs: Path) -> None:
    path = save(pairs / "val/labels/9.png", np.full((16, 16), 19, np.uint8))
    data = open_dataset("celebamask_hq", root=pairs, split="val", size=16)
    with pytest.raises(UserError, match=r"9\.png.*\[19\].*0\.\.18"):
        data.load("9")
    assert len(check_items(data, QUIET)) == 1
    save(path, picture(3))
    with pytest.raises(UserError, match="one channel"):
        data.load("9")


def test_corrupt_and_misfitting_files_are_named(pairs: Path) -> None:
    data = open_dataset("celebamask_hq", root=pairs, split="val", size=16)
    save(pairs / "val/labels/2.png", np.zeros((16, 30), np.uint8))
    with pytest.raises(UserError, match=r"2\.png.*30x16.*16x16"):
        data.load("2")
    image = pairs / "val/images/9.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"9\.jpg is corrupt"):
        data.load("9")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": "nowhere"}, "no folder"),
        ({"split": "tset"}, "neither the official layout"),
        ({"limit": 0}, "at least 1"),
        ({"size": [1, 2, 3]}, "'size'"),
        ({"roof": 1}, "roof"),
    ],
)
def test_bad_arguments(pairs: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset("celebamask_hq", **{"root": pairs, "split": "val", **arguments})


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two items in the official layout: id 7 (training part) and 28001 (test part)."""
    root = tmp_path / "CelebAMask-HQ"
    for number in (7, 28001):
        save(root / f"CelebA-HQ-img/{number}.jpg", picture(90, 64))
        masks = root / f"CelebAMask-HQ-mask-anno/{number // 2000}"
        skin, hair, nose = (np.zeros((32, 32, 3), np.uint8) for _ in range(3))
        skin[8:30, 8:24], hair[2:12, 4:28], nose[16:20, 14:18] = 255, 255, 255
        for part, mask in (("skin", skin), ("hair", hair), ("nose", nose)):
            save(masks / f"{number:05d}_{part}.png", mask)
    return root


def test_raw_layout_composes_parts_in_class_order(raw: Path) -> None:
    data = open_dataset("celebamask_hq", root=raw, split="test", size=32)
    assert data.ids == ("28001",)
    label = data.load("28001").label
    assert label[0, 0] == 0
    assert label[25, 10] == 1
    assert label[18, 16] == 2, "the nose is painted over the skin"
    assert label[10, 10] == 13, "the hair is painted over the skin"
    assert open_dataset("celebamask_hq", root=raw, split="train").ids == ("7",)
    assert open_dataset("celebamask_hq", root=raw, split="all").ids == ("7", "28001")
    with pytest.raises(UserError, match="no 'val'"):
        open_dataset("celebamask_hq", root=raw, split="val")


def test_raw_layout_official_partition_and_own_list(raw: Path, tmp_path: Path) -> None:
    (raw / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx orig_idx orig_file\n7 100 000101.jpg\n28001 200 000201.jpg\n"
    )
    with pytest.raises(UserError, match="list_eval_partition"):
        open_dataset("celebamask_hq", root=raw, split="test", split_rule="official")
    (raw / "list_eval_partition.txt").write_text("000101.jpg 2\n000201.jpg 0\n")
    data = open_dataset("celebamask_hq", root=raw, split="test", split_rule="official")
    assert data.ids == ("7",)
    own = tmp_path / "ids.txt"
    own.write_text("28001\n7\n")
    assert len(open_dataset("celebamask_hq", root=raw, split_rule=str(own))) == 2
    own.write_text("5\n")
    with pytest.raises(UserError, match="lists items that are not there: 5"):
        open_dataset("celebamask_hq", root=raw, split_rule=str(own))


def test_raw_layout_without_skin_mask(raw: Path) -> None:
    (raw / "CelebAMask-HQ-mask-anno/14/28001_skin.png").unlink()
    with pytest.raises(UserError, match=r"28001_skin\.png"):
        open_dataset("celebamask_hq", root=raw, split="test").load("28001")


def test_prepare_writes_what_the_raw_layout_gives(raw: Path, tmp_path: Path) -> None:
    data = open_dataset("celebamask_hq", root=raw, split="test", size=32)
    assert prepare(data, tmp_path / "out") == (1, 0)
    assert prepare(data, tmp_path / "out") == (0, 1), "existing pairs are kept"
    again = open_dataset("celebamask_hq", root=tmp_path / "out", split="test", size=32)
    one, two = data.load("28001"), again.load("28001")
    assert np.array_equal(one.label, two.label)
    assert np.array_equal(one.image, two.image)


def test_folder_with_a_space_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", picture(10))
    save(tmp_path / "labels/a.png", np.full((16, 16), 2, np.uint8))
    space = tmp_path / "space.yaml"
    space.write_text("name: rooms\nclasses: [void, wall, floor]\nignore: 0\n")
    data = open_dataset("folder", root=tmp_path, space=str(space))
    assert data.size == (16, 16)
    assert data.space.ignore == 0
    assert set(np.unique(data.load("a").label)) == {2}


def test_fingerprint_follows_content(pairs: Path) -> None:
    first = open_dataset("celebamask_hq", root=pairs, split="val", size=16).fingerprint()
    assert open_dataset("celebamask_hq", root=pairs, split="val", size=16).fingerprint() == first
    assert open_dataset("celebamask_hq", root=pairs, split="val", size=8).fingerprint() != first
    os.utime(pairs / "val/labels/2.png")
    assert open_dataset("celebamask_hq", root=pairs, split="val", size=16).fingerprint() == first
    save(pairs / "val/labels/2.png", np.full((16, 16), 5, np.uint8))
    assert open_dataset("celebamask_hq", root=pairs, split="val", size=16).fingerprint() != first


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (32, 24)])
def test_labels_are_resized_by_pils_nearest_rule(size: tuple[int, int]) -> None:
    label = np.random.default_rng(0).integers(0, 19, (16, 16)).astype(np.uint8)
    pil = Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST)
    assert np.array_equal(resize_labels_pil(label, size), np.asarray(pil))


def test_images_become_floats_as_the_loaders_have_it() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, 3)
    floats = to_float(image)
    assert floats.shape == (1, 3, 16, 16)
    assert float(floats.min()) == -1
    assert float(floats.max()) == 1


def test_prefetch_keeps_order_and_carries_errors(pairs: Path) -> None:
    data = open_dataset("celebamask_hq", root=pairs, split="val", size=16)
    (pairs / "val/images/9.jpg").write_bytes(b"no picture")
    for workers in (0, 2):
        groups = list(prefetch(data, [["2", "9"], ["10", "10"]], workers))
        assert [list(g) for g in groups] == [["2", "9"], ["10"]]
        assert isinstance(groups[0]["9"], UserError)
        assert to_batch([groups[1]["10"]], data.space).ids == ("10",)


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real samples are not beside this checkout")
def test_real_official_layouts() -> None:
    raw = open_dataset("celebamask_hq", root=SHARED / "celebamask_hq_raw_sample/CelebAMask-HQ")
    ade = open_dataset("ade20k", root=SHARED / "ade20k_sample/ADEChallengeData2016")
    fashion = open_dataset("deepfashion", root=SHARED / "deepfashion_sample")
    for data in (raw, ade, fashion):
        assert not check_items(data, QUIET)
    assert fashion.load(fashion.ids[0]).instance is not None
