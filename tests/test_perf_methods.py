"""Methods are measured beside their plain forms, on every kind of label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sisbench.core.errors import UserError
from sisbench.perf import methods as perf
from sisbench.perf.methods import MAPS, Asked, measure

TESTS = str(Path(__file__).parent)
TINY: dict[str, tuple[str, str, dict[str, Any]]] = {
    "spade": (
        "spade",
        "celebamask_hq",
        {"ngf": 4, "nef": 4, "nhidden": 16, "crop_size": 64, "encoder_size": 64, "z_dim": 8},
    ),
    "sean": (
        "sean",
        "celebamask_hq",
        {"ngf": 4, "nhidden": 16, "crop_size": 64, "style_length": 16, "style_encoder_ngf": 4},
    ),
    "ca2sis": (
        "ca2sis",
        "celebamask_hq",
        {"resolution": 64, "style_dim": 8, "style_enc_feat_dim": 1},
    ),
}


@pytest.mark.parametrize("case", TINY)
@pytest.mark.parametrize("maps", MAPS)
def test_the_plain_form_gives_the_same_picture(
    case: str, maps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf, "_CASES", TINY)
    monkeypatch.syspath_prepend(TESTS)
    found = measure(Asked(case, maps, 1, 1, "cpu", TESTS))
    assert found["difference"] < 1e-4
    assert 0 < found["ours gmac"] < found["plain gmac"]
    assert 0 < found["outside"] < 1
    assert len(perf._cells(case, found)) == len(perf._HEADER) - 3


def test_plain_forms_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf, "_CASES", TINY)
    with pytest.raises(UserError, match="no plain forms at"):
        measure(Asked("spade", "faces", 1, 1, "cpu", str(tmp_path)))
    found = measure(Asked("spade", "faces", 1, 1, "cpu", None))
    assert "plain" not in found
    assert perf._cells("spade", found)[-4:] == ["-"] * 4
