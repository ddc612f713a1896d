"""Drawn pictures are kept: drawn once for all who ask, never changed by one of them, bounded."""

from __future__ import annotations

import numpy as np
import pytest

from sisbench.core.errors import UserError
from sisbench.data.toyfaces import ToyFaces, dataset
from sisbench.data.toyfaces.kept import KeptArrays


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures were drawn, with nothing kept before."""
    count = [0]
    render = dataset.render

    def counted(*args: object) -> np.ndarray:
        count[0] += 1
        return render(*args)

    monkeypatch.setattr(dataset, "render", counted)
    monkeypatch.setattr(dataset, "_KEPT", KeptArrays())
    return count


def test_a_picture_is_drawn_once_for_every_data_set_that_has_it(drawn: list[int]) -> None:
    first = ToyFaces("test", 32, 5).load("test-00003")
    again = ToyFaces("test", 32, 9).load("test-00003")
    assert drawn == [1]
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.label, again.label)
    for other in (ToyFaces("test", 48), ToyFaces("test", 32, seed=1), ToyFaces("test", (32, 48))):
        other.load("test-00003")
    ToyFaces("val", 32).load("val-00003")
    ToyFaces("test", 32).load("test-00004")
    assert drawn == [6]


def test_a_true_image_is_drawn_once_for_its_pair_and_classes(drawn: list[int]) -> None:
    faces = ToyFaces("test", 32, 5)
    a, b = faces.ids[:2]
    images = [
        faces.truth("transfer", a, b),
        faces.truth("transfer", b, a),
        faces.truth("class_transfer", a, b, [13]),
        faces.truth("class_transfer", a, b, [1]),
    ]
    assert drawn == [4]
    assert all(not np.array_equal(x, y) for i, x in enumerate(images) for y in images[:i])
    assert np.array_equal(faces.truth("class_transfer", a, b, (13,)), images[2])
    assert drawn == [4]


def test_what_one_changes_another_does_not_see() -> None:
    faces = ToyFaces("test", 32, 5)
    sample = faces.load(faces.ids[0])
    image, label = sample.image.copy(), sample.label.copy()
    sample.image[:] = 0
    sample.label[:] = 0
    assert np.array_equal(faces.load(faces.ids[0]).image, image)
    assert np.array_equal(faces.load(faces.ids[0]).label, label)
    truth = faces.truth("transfer", *faces.ids[:2])
    assert truth is not None
    kept = truth.copy()
    truth[:] = 0
    assert np.array_equal(faces.truth("transfer", *faces.ids[:2]), kept)


def test_unknown_samples_are_refused_each_time(drawn: list[int]) -> None:
    faces = ToyFaces("test", 32, 5)
    for _ in range(2):
        with pytest.raises(UserError, match="no sample 'test-00007'"):
            faces.load("test-00007")
        with pytest.raises(UserError, match="no sample 'x'"):
            faces.truth("transfer", "x", faces.ids[0])
    assert ToyFaces("test", 32, 9).load("test-00007").id == "test-00007"


def test_no_more_than_the_limit_is_kept() -> None:
    kept, count = KeptArrays(limit=100), [0]

    def draw() -> tuple[np.ndarray, ...]:
        count[0] += 1
        return np.zeros(20, np.uint8), np.zeros(10, np.uint8)

    for key in (1, 2, 3, 1, 4, 1, 3, 2):  # three fit: 4 drives out 2, 2 drives out 4
        kept.of(key, draw)
    assert count == [5]
    assert kept._bytes == 90
    big = KeptArrays(limit=10)
    assert len(big.of("x", draw)) == 2
    assert big._bytes == 0
