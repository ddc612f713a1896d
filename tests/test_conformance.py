"""The conformance kit on adapters that each break one clause, and its one-line errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_text import METHOD
from typer.testing import CliRunner

from sisbench.cli import app
from sisbench.core.errors import UserError
from sisbench.diagnose.conformance import check_method

RENDER = "return (image + 0.05 * grain).clamp(-1, 1)"
STYLE = "return Style(codes, present_classes(batch.label, self.num_classes))"

BREAKS = {
    "the same call twice gives the same image": (
        RENDER,
        "self.calls = getattr(self, 'calls', 0) + 1\n"
        "        return (image + 0.05 * grain + 0.01 * self.calls).clamp(-1, 1)",
    ),
    "a sample's image does not depend on its batch": (
        RENDER,
        "return (image - image.mean() + 0.05 * grain).clamp(-1, 1)",
    ),
    "a sample's image does not depend on the order of samples": (
        RENDER,
        "image[0] = image[0] / 2\n        return (image + 0.05 * grain).clamp(-1, 1)",
    ),
    "no state is kept between calls": (
        STYLE,
        "self.last = codes\n"
        "        return Style(torch.zeros_like(codes), "
        "present_classes(batch.label, self.num_classes))",
    ),
    "images do not depend on grad mode": (
        RENDER,
        "return (image + 0.1 * torch.is_grad_enabled() + 0.05 * grain).clamp(-1, 1)",
    ),
    "swapping every class is transfer, swapping none reconstruction": (
        STYLE,
        "return Uneven(codes, present_classes(batch.label, self.num_classes))",
    ),
    "interpolation ends at reconstruction and at transfer": (
        STYLE,
        "return Drifting(codes, present_classes(batch.label, self.num_classes))",
    ),
    "names of instances do not matter": (
        RENDER,
        "if layout.instance is not None:\n"
        "            image = image + 0.01 * layout.instance[:, None]\n"
        "        return (image + 0.05 * grain).clamp(-1, 1)",
    ),
    "randomness comes from the noise source alone": (
        RENDER,
        "return (image + 0.05 * torch.randn_like(image)).clamp(-1, 1)",
    ),
    "every parameter has an official key": (
        "return nn.Identity()",
        "return nn.ModuleDict({'known': nn.Linear(2, 2), 'forgotten': nn.Linear(2, 2)})\n\n"
        "    def key_maps(self):\n"
        "        from sisbench.methods.key_map import KeyMap\n"
        "        keys = KeyMap(self.net['known'])\n"
        "        keys.same()\n"
        "        return {'netG': keys}",
    ),
}
STYLES = """

class Uneven(Style):
    def swap(self, other, classes=None):
        merged = super().swap(other, classes)
        return Uneven(merged.codes * 0.9, merged.present)


class Drifting(Style):
    def lerp(self, other, alpha, classes=None):
        merged = super().lerp(other, 0.1 + 0.8 * alpha, classes)
        return Drifting(merged.codes, merged.present)
"""


def failed(tmp_path: Path, old: str, new: str) -> set[str]:
    assert old in METHOD
    code = METHOD.replace(old, new)
    if "self.last = codes" in new:  # hidden state: the last photograph's codes are drawn
        code = code.replace("flat, style.codes", "flat, self.last")
    path = tmp_path / "broken.py"
    path.write_text(code + STYLES)
    findings = check_method(f"{path}:MeanColour", "celebamask_hq", None, {})
    return {f.clause for f in findings if f.ok is False}


def test_the_sound_adapter_keeps_every_clause(method_file: str) -> None:
    findings = list(check_method(method_file, "celebamask_hq", None, {}))
    assert not [f for f in findings if f.ok is False]


@pytest.mark.parametrize("clause", BREAKS)
def test_a_broken_adapter_fails_its_clause(clause: str, tmp_path: Path) -> None:
    assert clause in failed(tmp_path, *BREAKS[clause])


def test_a_class_that_is_no_method_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "thing.py"
    path.write_text("class NotAMethod:\n    pass\n")
    with pytest.raises(UserError, match="NotAMethod is no subclass of Method"):
        list(check_method(f"{path}:NotAMethod", "celebamask_hq", None, {}))
    result = CliRunner().invoke(app, ["check", f"{path}:NotAMethod"])
    assert result.exit_code != 0
    assert "Traceback" not in result.output


@pytest.mark.parametrize("device", ["cuda:63", "abacus"])
def test_a_device_that_is_not_there_is_one_line(device: str, method_file: str) -> None:
    with pytest.raises(UserError, match=f"no device '{device}'"):
        list(check_method(method_file, "celebamask_hq", None, {}, device))
