"""Label spaces, batches and noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise


def test_named_spaces_have_their_sizes() -> None:
    sizes = {"celebamask_hq": 19, "ade20k": 151, "deepfashion": 8, "idesigner": 3, "cityscapes": 35}
    for name, size in sizes.items():
        space = LabelSpace.named(name)
        assert len(space) == len(space.palette) == size
        assert len(set(space.palette)) == size, f"{name}: two classes of one colour"
    assert LabelSpace.named("celebamask_hq").index("hair") == 13
    assert LabelSpace.named("ade20k").ignore == 0


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match="celebamask_hq"):
        LabelSpace.named("celebamask")
    with pytest.raises(UserError, match="did you mean 'hair'"):
        LabelSpace.named("celebamask_hq").index("hari")


def test_space_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("name: rooms\nclasses: [void, wall, floor]\nignore: 0\nbackground: [void]\n")
    space = LabelSpace.from_yaml(path)
    assert space.classes == ("void", "wall", "floor")
    assert space.ignore == 0
    assert space.background == {0}
    path.write_text("name: rooms\nclsses: [a]\n")
    with pytest.raises(UserError, match="classes: this key is required; clsses: unknown key"):
        LabelSpace.from_yaml(path)
    path.write_text("name: rooms\nclasses: [a]\nignor: 0\n")
    with pytest.raises(UserError, match="did you mean 'ignore'"):
        LabelSpace.from_yaml(path)


def test_batch_refuses_shapes_that_do_not_fit() -> None:
    space = LabelSpace("two", ("a", "b"))
    image, label = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    batch = Batch(("x", "y"), image, label, None, space)
    assert len(batch[1:]) == 1
    assert batch[1:].ids == ("y",)
    with pytest.raises(UserError, match=r"\(2, 4, 4\)"):
        Batch(("x", "y"), image, label[:, :3], None, space)
    with pytest.raises(UserError, match="image"):
        Batch(("x",), image, label, None, space)


def test_noise_belongs_to_the_sample_and_the_name() -> None:
    both = Noise(["a", "b"], seed=3).normal("x", 5, 7)
    assert both.shape == (2, 5, 7)
    assert torch.equal(both[1:], Noise(["b"], seed=3).normal("x", 5, 7))
    assert torch.equal(both.flip(0), Noise(["b", "a"], seed=3).normal("x", 5, 7))
    for other in (
        Noise(["a", "b"], seed=4).normal("x", 5, 7),
        Noise(["a", "b"], 3).normal("y", 5, 7),
    ):
        assert not torch.allclose(both, other)
    assert torch.equal(both[:, :2], Noise(["a", "b"], 3).normal("x", 2, 7)), (
        "a longer draw continues"
    )


def test_noise_is_standard_normal() -> None:
    draw = Noise(["a"], 0).normal("x", 200_000)
    assert abs(float(draw.mean())) < 0.01
    assert abs(float(draw.std()) - 1) < 0.01


def test_given_and_zero_noise() -> None:
    assert float(ZeroNoise().normal("x", 3).abs().sum()) == 0
    given = GivenNoise({"x": torch.ones(2, 3)})
    assert torch.equal(given.normal("x", 3), torch.ones(2, 3))
    with pytest.raises(UserError, match="no noise was given for 'y'"):
        given.normal("y", 3)
    with pytest.raises(UserError, match="must be"):
        given.normal("x", 4)
