"""CelebAMask-HQ: the official download (part masks) or prepared pairs (images/ + labels/)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sisbench.core.errors import UserError, did_you_mean
from sisbench.core.label_space import LabelSpace
from sisbench.data.base import Dataset, Sample
from sisbench.data.celeba_parts import compose_parts
from sisbench.data.images import check_aspect, open_picture, read_image, resize_label
from sisbench.data.paired import PairedFolders, as_size, by_stem, choose, files_fingerprint

SPACE = "celebamask_hq"
FIRST_TEST_ID = 28_000
"""First item of the test set in SEAN, CA2-SIS, SCAM and SCA-DM: 28000..29999 test, others train."""
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
            raise UserError(f"no folder {self.root}", "check 'root'")
        raw = self.root / _RAW_IMAGES
        self._prepared: PairedFolders | None = None
        if raw.is_dir():
            self._images = by_stem(raw, (".jpg",))
            ids = _split_ids(self.root, tuple(self._images), split, split_rule)
            self.ids = choose(ids, limit, f"{self.root} (split '{split}')")
        else:
            self._prepared = self._open_prepared(limit)
            self.ids = self._prepared.ids

    def _open_prepared(self, limit: int | None) -> PairedFolders:
        where = self.root / self.split
        if not where.is_dir():
            where = self.root
        if not (where / "images").is_dir() or not (where / "labels").is_dir():
            raise UserError(
                f"{self.root} is neither the official layout ({_RAW_IMAGES} + {_RAW_MASKS}) nor a "
                f"prepared one ([{self.split}/]images + labels)",
                "check 'root' and 'split'; sisbench prepare writes the prepared layout",
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
        image, image_size = read_image(self._images[sample_id], self.size)
        label = self.raw_label(sample_id)
        check_aspect(image_size, (label.shape[0], label.shape[1]), self._images[sample_id])
        return Sample(sample_id, image, resize_label(label, self.size))

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
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _official_partition(root: Path, code: str) -> set[str]:
    """Ids whose original CelebA picture is in partition ``code`` (0 train, 1 val, 2 test)."""
    part = dict(line.split()[:2] for line in _lines(root / _PARTITION))
    rows: Iterable[list[str]] = (line.split() for line in _lines(root / _MAPPING)[1:])
    return {row[0] for row in rows if part.get(row[2]) == code}
