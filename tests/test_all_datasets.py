"""Registering is enough to be tested: every data set documents and refuses its arguments, and
keeps the contract where it opens without files."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.data import Dataset, open_dataset, registry

NAMES = registry.names()


@pytest.mark.parametrize("name", NAMES)
def test_facts(name: str) -> None:
    found = registry.get(name)
    assert issubclass(found, Dataset)
    assert found.name == name
    document = inspect.getdoc(found) or ""
    for argument in list(inspect.signature(found).parameters):
        assert argument in document, f"{name}: '{argument}' is not documented"


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_argument_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="no_such_argument"):
        open_dataset(name, no_such_argument=1)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "root" in inspect.signature(registry.get(n)).parameters]
)
def test_an_empty_folder_is_refused(name: str, tmp_path) -> None:
    needed = {"space": "celebamask_hq"} if name == "folder" else {}
    with pytest.raises(UserError):
        open_dataset(name, root=str(tmp_path), **needed)


@pytest.mark.parametrize(
    "name", [n for n in NAMES if "root" not in inspect.signature(registry.get(n)).parameters]
)
def test_samples_keep_the_contract(name: str) -> None:
    data = open_dataset(name)
    assert isinstance(data.space, LabelSpace)
    assert len(set(data.ids)) == len(data) > 0
    assert data.fingerprint() == open_dataset(name).fingerprint()
    for sample_id in (data.ids[0], data.ids[-1]):
        sample = data.load(sample_id)
        assert sample.id == sample_id
        assert sample.image.dtype == np.uint8
        assert sample.image.shape == (*data.size, 3)
        assert sample.label.dtype == np.int64
        assert sample.label.shape == tuple(data.size)
        known = set(range(len(data.space))) | {data.space.ignore}
        assert set(np.unique(sample.label).tolist()) <= known
        again = data.load(sample_id)
        assert np.array_equal(again.image, sample.image)
        assert np.array_equal(again.label, sample.label)
