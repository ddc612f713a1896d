"""The speed comparison itself: fair rounds, seeded results, and a small run of the pipeline."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest

from sisbench.perf.samples import degraded, pictures
from sisbench.perf.timing import interleaved


def test_rounds_are_interleaved_and_the_first_is_dropped():
    calls = []

    def spin(name, seconds):
        calls.append(name)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return name

    timed = interleaved({"a": lambda: spin("a", 0.02), "b": lambda: spin("b", 0.06)}, 3)
    assert calls == ["a", "b"] * 3
    assert len(timed["a"].seconds) == 2
    assert timed["b"].result == "b"
    assert timed["b"].median == pytest.approx(3 * timed["a"].median, rel=0.5)


def test_material_is_seeded():
    images = pictures(2, 32, 5)
    assert images.shape == (2, 32, 32, 3)
    assert np.array_equal(images, pictures(2, 32, 5))
    assert not np.array_equal(images, pictures(2, 32, 6))
    assert 0 < np.abs(degraded(images, 0).astype(int) - images).mean() < 40


def test_a_parser_and_its_published_form_give_the_same_labels():
    from sisbench.perf.parsers import compare_parsers

    out = io.StringIO()
    assert compare_parsers(["celebamask_unet"], 2, 64, 1, out) == 0, out.getvalue()
    assert "| celebamask_unet |" in out.getvalue()


@pytest.mark.slow
def test_small_pipeline_agrees_with_the_usual_tools():
    from sisbench.perf.scoring import Wanted, compare_scoring

    out = io.StringIO()
    assert compare_scoring(Wanted(6, 64, 1, part="pipeline"), out) == 0, out.getvalue()
    assert "sisbench float32" in out.getvalue()


def test_plain_counts_are_of_cases_that_are_measured():
    from sisbench.perf.methods import _CASES, _PLAIN

    assert _PLAIN.keys() <= _CASES.keys()
