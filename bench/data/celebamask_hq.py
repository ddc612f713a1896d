"""CelebAMask-HQ: the official download (part masks) or prepared pairs (images/ + labels/)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import Filter, resize_labels_pil
from sisbench.data.base import Dataset, Sample, short_of
from sisbench.data.celeba_parts import compose_parts
from sisbench.data.images import check_aspect, open_picture, read_image
from sisbench.data.paired import PairedFolders, as_size, by_stem, choose, files_fingerprint, listed

SPACE = "celebamask_hq"
FIRST_TEST_ID = 28_000
"""SEAN, CA2-SIS, SCAM and SCA-DM: items 28000..29999 are the test set, the others the training
set."""
OFFICIAL_COUNTS = {
    ("sean", "train"): 28_000,
    ("sean", "test"): 2_000,
    ("sean", "all"): 30_000,
    ("official", "train"): 24_183,
    ("official", "val"): 2_993,
    ("official", "test"): 2_824,
    ("official", "all"): 30_000,
}
"""Photographs of a complete download by (split rule, split)."""
_RAW_IMAGES, _RAW_MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
_MAPPING, _PARTITION = "CelebA-HQ-to-CelebA-mapping.txt", "list_eval_partition.txt"
_PARTITIONS = {"train": "0", "val": "1", "test": "2"}


class CelebAMaskHQ(Dataset):
    """CelebAMask-HQ (Lee et al., CVPR 2020) in either layout; which one is seen from ``root``.

    Args:
        root: the official folder (with CelebA-HQ-img and CelebAMask-HQ-mask-anno), or a prepared
            one ([SPLIT/]images + labels).
        split: "train", "val", "test", or "all".
        size: side or [height, width], default 256.
        limit: only the first items.
        split_rule: official folder only. "sean": items from 28000 on are the test set (28,000 /
            2,000, the SIS papers' rule; no val). "official": CelebA's partition (24,183 / 2,993 /
            2,824), from the two list files beside the images. Or the path of a text file with one
            id per line.

    Raises:
        UserError: neither layout is found, an unknown split, or a missing list file.
    """

    name = "celebamask_hq"
    _by: Filter = "bicubic"
    _stored_labels = False

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        size: int | Sequence[int] | None = 256,
        limit: int | None = None,
        split_rule: str = "sean",
    ) -> None:
        self.root, self.split = Path(root), split
        self.space = LabelSpace.named(SPACE)
        self.size = as_size(size, (256, 256))
        if not self.root.is_dir():
            raise UserError(
                f"no folder {self.root}", f"looked for {self.root.absolute()}: check 'root'"
            )
        raw = self.root / _RAW_IMAGES
        self._prepared: PairedFolders | None = None
        if raw.is_dir():
            found = by_stem(raw, (".jpg",))
            self._images = {i: p for i, p in found.items() if i.isascii() and i.isdigit()}
            self._strays = [p.name for i, p in found.items() if i not in self._images]
            ids = _split_ids(self.root, tuple(self._images), split, split_rule)
            self.ids = choose(ids, limit, f"{self.root} (split '{split}')")
            self._official = None if limit else OFFICIAL_COUNTS.get((split_rule, split))
        else:
            self._prepared = self._open_prepared(limit)
            self.ids = self._prepared.ids

    def _open_prepared(self, limit: int | None) -> PairedFolders:
        where = self.root if self.split in ("", "all") else self.root / self.split
        if not (where / "images").is_dir() or not (where / "labels").is_dir():
            raise UserError(
                f"{self.root} is neither the official layout ({_RAW_IMAGES} + {_RAW_MASKS}) nor a "
                f"prepared one with split '{self.split}' ({where.name}/images + labels)",
                _splits_of(self.root),
            )
        labels = where / "labels"
        return PairedFolders(
            self.space, self.split, where / "images", labels, None, self.size, limit
        )

    def load(self, sample_id: str) -> Sample:
        """Decode one item; part masks are composed at 512 x 512, then resized by PIL's nearest."""
        if self._prepared is not None:
            return self._prepared.load(sample_id)
        if sample_id not in self._images:
            raise UserError(f"no item '{sample_id}' in {self.root}")
        label = self.raw_label(sample_id)
        stored = (label.shape[0], label.shape[1])
        size = stored if self._stored_labels else self.size
        image, image_size = read_image(self._images[sample_id], size, self._by)
        check_aspect(image_size, stored, self._images[sample_id])
        return Sample(sample_id, image, resize_labels_pil(label, size))

    def read_at(
        self, size: tuple[int, int], by: Filter = "bicubic", stored_labels: bool = False
    ) -> CelebAMaskHQ:
        """As ``Dataset.read_at``."""
        view = copy.copy(self)
        view.size, view._by, view._stored_labels = size, by, stored_labels
        if self._prepared is not None:
            view._prepared = self._prepared.read_at(size, by, stored_labels)
        return view

    def remarks(self) -> list[str]:
        """Photographs that the download lacks, and files that are none of its photographs."""
        if self._prepared is not None:
            return []
        found = short_of(len(self.ids), self._official, f"photographs of '{self.split}'")
        if self._strays:
            names = ", ".join(self._strays[:3]) + (", ..." if len(self._strays) > 3 else "")
            found.append(f"{len(self._strays)} files are no photographs of it: {names}")
        return found

    def raw_label(self, sample_id: str) -> np.ndarray:
        """The composed label map at the masks' own size, (512, 512) int64.

        Raises:
            UserError: no skin mask (every face has one), or a corrupt or mis-sized mask.
        """
        parts = {p: self._mask_path(sample_id, p) for p in self.space.classes[1:]}
        there = {p: path for p, path in parts.items() if path.is_file()}
        if "skin" not in there:
            raise UserError(f"no mask {parts['skin']}", "is the download complete?")
        masks = {p: np.asarray(open_picture(path).convert("L")) > 127 for p, path in there.items()}
        shapes = {m.shape for m in masks.values()}
        if len(shapes) > 1:
            raise UserError(f"part masks of item {sample_id} differ in size: {sorted(shapes)}")
        shape = next(iter(shapes))
        return compose_parts(masks, (shape[0], shape[1])).astype(np.int64)

    def _mask_path(self, sample_id: str, part: str) -> Path:
        number = int(sample_id)
        return self.root / _RAW_MASKS / str(number // 2000) / f"{number:05d}_{part}.png"

    def files(self, sample_id: str) -> list[Path]:
        """Every file that one sample is made of."""
        if self._prepared is not None:
            return self._prepared.files(sample_id)
        masks = (self._mask_path(sample_id, p) for p in self.space.classes[1:])
        return [self._images[sample_id], *(m for m in masks if m.is_file())]

    def fingerprint(self) -> str:
        """sha256 over label space, size, ids and the contents of all their files."""
        return files_fingerprint(self)


def _splits_of(root: Path) -> str:
    """What there is in place of a split that was not found."""
    if (root / "images").is_dir() and (root / "labels").is_dir():
        return "its pairs belong to no split: open them with 'split: all'"
    there = sorted(e.name for e in listed(root) if (root / e.name / "images").is_dir())
    return (
        f"splits there: {', '.join(there)}"
        if there
        else "check 'root' and 'split'; sisbench prepare writes the prepared layout"
    )


def _split_ids(root: Path, ids: tuple[str, ...], split: str, rule: str) -> tuple[str, ...]:
    if split == "all":
        return ids
    if split not in _PARTITIONS:
        raise UserError(f"no split '{split}'", did_you_mean(split, [*_PARTITIONS, "all"]))
    if rule == "sean":
        if split == "val":
            raise UserError("the 28,000/2,000 split has no 'val'", "use 'train', 'test' or 'all'")
        test = split == "test"
        return tuple(i for i in ids if (int(i) >= FIRST_TEST_ID) == test)
    if rule == "official":
        wanted = _official_partition(root, _PARTITIONS[split])
    else:
        wanted = set(_lines(Path(rule)))
    missing = sorted(wanted - set(ids))
    if missing and rule != "official":
        raise UserError(f"{rule} lists items that are not there: {', '.join(missing[:5])}")
    return tuple(i for i in ids if i in wanted)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"no list file {path}", "it comes with the official download")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _columns(path: Path, count: int) -> list[list[str]]:
    """The fields of every line of a list, parted by blanks or commas (Kaggle's copy is a CSV)."""
    rows = [line.replace(",", " ").split() for line in _lines(path)]
    for number, row in enumerate(rows, 1):
        if len(row) < count:
            raise UserError(
                f"{path}: line {number} has {len(row)} fields, expected {count}: {' '.join(row)!r}",
                "take the list file of the official download",
            )
    return rows


def _official_partition(root: Path, code: str) -> set[str]:
    """Ids whose original CelebA picture is in partition ``code`` (0 train, 1 val, 2 test)."""
    part = {row[0]: row[1] for row in _columns(root / _PARTITION, 2)}
    mapping = {row[0]: row[2] for row in _columns(root / _MAPPING, 3) if row[0].isdigit()}
    unknown = [name for name in mapping.values() if name not in part]
    if not mapping or unknown:
        raise UserError(
            f"{root / _MAPPING} names {unknown[:3] or 'no'} pictures that {_PARTITION} knows",
            "both list files must be of the official download",
        )
    return {i for i, name in mapping.items() if part[name] == code}
