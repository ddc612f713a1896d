"""Registering is enough to be tested: facts of every parser, and its contract where it loads."""

from __future__ import annotations

import inspect

import pytest
import torch
from metrics_helpers import noise_images

from sisbench import segmenters
from sisbench.core import weights
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.segmenters.base import Segmenter

NAMES = segmenters.registry.names()


def space_of(name: str) -> str:
    """A label space that the parser takes; one without a list takes any."""
    return next(iter(segmenters.registry.get(name).spaces), "celebamask_hq")


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    found = segmenters.registry.get(name)
    assert issubclass(found, Segmenter)
    assert found.name == name
    assert found.title
    assert found.paper
    assert inspect.getdoc(found)
    for space in found.spaces:
        assert len(LabelSpace.named(space)) > 1
    assert not found.weights or found.weights in weights.load_registry()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_created_for_its_label_spaces_alone(name: str) -> None:
    found = segmenters.registry.get(name)
    assert isinstance(segmenters.create(name, space_of(name)), Segmenter)
    if found.spaces:
        with pytest.raises(UserError):
            segmenters.create(name, LabelSpace("foreign", ("a", "b")))
    with pytest.raises(UserError, match="no option"):
        segmenters.create(name, space_of(name), no_such_option=1)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_depend_on_one_image(name: str) -> None:
    parser = segmenters.create(name, space_of(name))
    try:
        parser.load()
    except Unavailable as error:
        pytest.skip(error.message)
    images = noise_images(3, 64, 64, 5)
    found = parser(images)
    assert found.dtype == torch.int64
    assert tuple(found.shape) == (3, *parser.compare_size((64, 64)))
    assert int(found.min()) >= 0
    assert int(found.max()) < len(parser.space)
    assert torch.equal(parser(images[1:2]), found[1:2])
    assert torch.equal(parser(images.flip(0)).flip(0), found)
    assert parser.fingerprint() == parser.fingerprint()
    for wrong in (images.float(), images[0], images[:, :1]):
        with pytest.raises(UserError):
            parser(wrong)
