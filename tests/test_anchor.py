"""The anchor of a parser: right, off by an average, off by pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.progress import Progress
from sisbench.data import open_dataset
from sisbench.score.anchor import ANCHORS, Anchor, check_anchor

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def toy() -> tuple[Anchor, str]:
    """The toy parser on twelve toy faces, its own score taken as the anchor."""
    data = open_dataset("toyfaces", size=64, n=12)
    blank = replace(ANCHORS[0], dataset="toyfaces", parser="toy", n=12, miou=0, accuracy=0)
    return blank, check_anchor(blank, data, None, "cpu", QUIET)[1]


def found(said: str, title: str) -> float:
    return float(said.split(f"{title} ")[1].split(" ")[0])


def test_within_half_a_point(toy: tuple[Anchor, str]) -> None:
    anchor, said = toy
    right = replace(anchor, miou=found(said, "mIoU") + 0.4, accuracy=found(said, "accuracy") - 0.4)
    data = open_dataset("toyfaces", size=64, n=12)
    assert check_anchor(right, data, None, "cpu", QUIET)[0]
    assert not check_anchor(replace(right, n=13), data, None, "cpu", QUIET)[0]


def test_photographs_are_not_parsed_where_that_was_not_asked_for(toy: tuple[Anchor, str]) -> None:
    data = open_dataset("toyfaces", size=64, n=3)
    assert check_anchor(toy[0], data, None, "cpu", QUIET, only_cached=True) is None
    said = check_anchor(toy[0], data, None, "cpu", QUIET)
    assert check_anchor(toy[0], data, None, "cpu", QUIET, only_cached=True) == said


def test_decoding_ahead_gives_the_same_rows(tmp_path: Path) -> None:
    from sisbench import metrics
    from sisbench.score.rows import Mapped, map_rows
    from sisbench.score.sources import Photographs, real_source

    data = open_dataset("toyfaces", size=64, n=40)
    maker = metrics.create_maker("confusion", parser="toy", space=data.space)
    source = real_source(Photographs(data, "x"))
    kept = []
    for workers in (0, 3):
        folder = tmp_path / str(workers)
        map_rows(replace(source, folder=folder), {"confusion-toy": maker}, QUIET, workers)
        kept.append([path.read_bytes() for path in sorted(folder.glob("*.npz"))])
    assert len(kept[0]) == 1
    assert kept[0] == kept[1]

    def broken(name: str, at: int) -> Any:
        if at == 17:
            raise UserError("picture 17 is damaged")
        return source.read(name, at)

    other = replace(source, read=broken, folder=None)
    found = map_rows(other, {"confusion-toy": maker}, QUIET, 2)
    rows = found["confusion-toy"]
    assert isinstance(rows, Mapped)
    assert len(rows.ids) == 39
    assert rows.left_out == {data.ids[17]: "picture 17 is damaged"}


def test_another_average_is_named(toy: tuple[Anchor, str]) -> None:
    from sisbench import metrics
    from sisbench.score.rows import Mapped, map_rows
    from sisbench.score.sources import Photographs, real_source

    anchor, said = toy
    data = open_dataset("toyfaces", size=64, n=12)
    maker = metrics.create_maker("confusion", parser="toy", space=data.space)
    source = real_source(Photographs(data, data.fingerprint()))
    rows = map_rows(source, {"confusion-toy": maker}, QUIET)["confusion-toy"]
    assert isinstance(rows, Mapped)
    named = metrics.create("miou", space=data.space).reduce(rows.columns).extra
    off = replace(anchor, miou=100 * named["miou_image_absent1"], accuracy=found(said, "accuracy"))
    right, text = check_anchor(off, data, None, "cpu", QUIET)
    assert not right
    assert "miou_image_absent1" in text


def test_wrong_pixels_are_told_from_a_wrong_average(toy: tuple[Anchor, str]) -> None:
    assert "no convention meets the anchor" in toy[1]


def test_absent_weights_are_said() -> None:
    data = open_dataset("toyfaces", size=64, n=2)
    with pytest.raises(Unavailable, match="celebamask_unet"):
        check_anchor(ANCHORS[0], data, None, "cpu", QUIET)
