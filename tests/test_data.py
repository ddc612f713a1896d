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


def test_prepare_refuses_a_folder_of_other_pairs(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(open_dataset("celebamask_hq", root=raw, split="test", size=32), out)
    other = open_dataset("celebamask_hq", root=raw, split="test", size=16)
    with pytest.raises(UserError, match=r"size \[32, 32\] \(now \[16, 16\]\)"):
        prepare(other, out)
    (out / "test/prepared.json").unlink()
    with pytest.raises(UserError, match="is 32x32"):
        prepare(other, out)


def test_prepare_mends_what_a_kill_or_a_full_disk_left(raw: Path, tmp_path: Path) -> None:
    data = open_dataset("celebamask_hq", root=raw, split="test", size=32)
    prepare(data, tmp_path / "out")
    for part in ("images", "labels"):
        path = tmp_path / f"out/test/{part}/28001.png"
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole[:-20], b"garbage"):
            path.write_bytes(damaged)
            assert prepare(data, tmp_path / "out") == (1, 0)
            assert path.read_bytes() == whole


def test_prepare_keeps_ids_of_more_than_eight_bits(tmp_path: Path) -> None:
    label = np.arange(400, dtype=np.uint16).reshape(20, 20)
    save(tmp_path / "images/a.png", picture(10, 20))
    save(tmp_path / "labels/a.png", label)
    space = tmp_path / "space.yaml"
    space.write_text("name: many\nclasses: [" + ", ".join(f"c{i}" for i in range(400)) + "]\n")
    data = open_dataset("folder", root=tmp_path, space=str(space), size=20)
    prepare(data, tmp_path / "out")
    again = open_dataset("folder", root=tmp_path / "out", space=str(space), size=20)
    assert np.array_equal(again.load("a").label, label)


def test_a_split_that_is_not_there_is_no_other_one(pairs: Path) -> None:
    with pytest.raises(UserError, match="splits there: val"):
        open_dataset("celebamask_hq", root=pairs, split="train")
    with pytest.raises(UserError, match="split: all"):
        open_dataset("celebamask_hq", root=pairs / "val", split="test")
    assert len(open_dataset("celebamask_hq", root=pairs / "val", split="all")) == 3
    with pytest.raises(UserError, match="test_img"):
        open_dataset("deepfashion", root=pairs, split="test")


def test_stray_files_are_passed_over_and_named(raw: Path, pairs: Path) -> None:
    for folder, suffix in ((raw / "CelebA-HQ-img", "jpg"), (pairs / "val/images", "jpg")):
        for name in (f"._7.{suffix}", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"x")
        (folder / f"folder.{suffix}").mkdir()
    (raw / "CelebA-HQ-img/7 (1).jpg").write_bytes(b"x")
    data = open_dataset("celebamask_hq", root=raw, split="train", size=32)
    assert data.ids == ("7",)
    assert data.remarks() == [
        "1 of the official 28,000 photographs of 'train'",
        "1 files are no photographs of it: 7 (1).jpg",
    ]
    assert open_dataset("celebamask_hq", root=pairs, split="val").remarks() == []
    assert open_dataset("celebamask_hq", root=pairs, split="val", size=16).ids == ("2", "9", "10")


def test_names_that_cannot_stand_in_tables_are_refused(pairs: Path) -> None:
    save(pairs / "val/images/a\nb.jpg", picture(3))
    with pytest.raises(UserError, match="control"):
        open_dataset("celebamask_hq", root=pairs, split="val")


def test_jpeg_label_maps_are_refused_with_the_reason(pairs: Path) -> None:
    for path in (pairs / "val/labels").iterdir():
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(UserError, match="mIoU"):
        open_dataset("celebamask_hq", root=pairs, split="val")


def test_list_files_as_kaggle_has_them(raw: Path) -> None:
    mapping, partition = raw / "CelebA-HQ-to-CelebA-mapping.txt", raw / "list_eval_partition.txt"
    mapping.write_text("idx,orig_idx,orig_file\n7,100,000101.jpg\n28001,200,000201.jpg\n")
    partition.write_text("image_id,partition\n000101.jpg,2\n000201.jpg,0\n")
    arguments = {"root": raw, "split": "test", "split_rule": "official"}
    assert open_dataset("celebamask_hq", **arguments).ids == ("7",)
    for text in ("7\n", "7 100 other.jpg\n", "", "\xff\xfe"):
        mapping.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match="mapping"):
            open_dataset("celebamask_hq", **arguments)


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
