"""The algebra of styles, layouts and tasks, and what a class is able to do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.noise import Noise
from sisbench.core.state_dict import read_state
from sisbench.methods.base import GlobalStyle, Layout, Style, class_mask, present_classes, why_not
from sisbench.methods.key_map import KeyMap

SPACE = LabelSpace("four", ("a", "b", "c", "d"))


def layout(rows: list[list[int]]) -> Layout:
    label = torch.tensor([rows])
    return Layout(label, present_classes(label, 4))


def test_layout_swap_leaves_holes_and_paints_over() -> None:
    own, other = layout([[0, 1, 1], [0, 2, 2]]), layout([[1, 1, 0], [0, 0, 1]])
    swapped = own.swap(other, [1])
    assert swapped.label.tolist() == [[[1, 1, HOLE], [0, 2, 1]]]
    assert swapped.present.tolist() == [[True, True, True, False]]
    assert torch.equal(own.swap(own, [1]).label, own.label)


def test_layout_swap_of_a_class_that_the_other_lacks_only_removes() -> None:
    own, other = layout([[0, 3]]), layout([[0, 1]])
    assert own.swap(other, [3]).label.tolist() == [[[0, HOLE]]]


def test_style_laws() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, True, False, True]])
    a = Style(torch.randn(1, 4, 5), present, {"v": torch.randn(1, 4)})
    b = Style(torch.randn(1, 4, 5), ~present, {"v": torch.randn(1, 4)})
    one = a.swap(b, [2])
    assert torch.equal(one.codes[:, 2], b.codes[:, 2])
    assert torch.equal(one.codes[:, [0, 1, 3]], a.codes[:, [0, 1, 3]])
    assert torch.equal(one.extra["v"][:, 2], b.extra["v"][:, 2])
    assert one.present.tolist() == [[True, True, True, True]]
    assert torch.allclose(a.lerp(b, 0.25).codes, 0.75 * a.codes + 0.25 * b.codes)
    mask = torch.tensor([[False, True, False, False]])
    assert torch.equal(a.swap(b, mask).codes, a.swap(b, [1]).codes)


def test_global_style_swaps_whole_or_not_at_all() -> None:
    present = torch.ones(1, 4, dtype=torch.bool)
    a, b = GlobalStyle(torch.zeros(1, 8), present), GlobalStyle(torch.ones(1, 8), present)
    assert torch.equal(a.swap(b).codes, b.codes)
    with pytest.raises(Unavailable, match="global style vector"):
        a.swap(b, [1])


def test_global_style_as_wide_as_there_are_classes() -> None:
    present = torch.ones(1, 4, dtype=torch.bool)
    a, b = GlobalStyle(torch.zeros(1, 4), present), GlobalStyle(torch.ones(1, 4), present)
    assert torch.equal(a.lerp(b, 0.5).codes, torch.full((1, 4), 0.5))


def test_class_mask_refuses_what_is_no_class() -> None:
    present = torch.ones(2, 4, dtype=torch.bool)
    assert class_mask([1], present).tolist() == [[False, True, False, False]] * 2
    with pytest.raises(UserError, match="outside"):
        class_mask([4], present)
    with pytest.raises(UserError, match="bool"):
        class_mask(torch.ones(2, 3, dtype=torch.bool), present)


def batch(n: int = 2, size: int = 32) -> Batch:
    torch.manual_seed(1)
    label = torch.randint(0, 4, (n, size, size))
    return Batch(
        tuple(f"s{i}" for i in range(n)), torch.rand(n, 3, size, size) * 2 - 1, label, None, SPACE
    )


def test_tasks_follow_from_what_is_overridden(method_file: str) -> None:
    method = methods.create(method_file, SPACE)
    assert {"reconstruct", "transfer", "class_transfer", "sample", "mixed"} <= method.can
    assert "interpolate_shape" not in method.can
    assert "no layout embedding" in (why_not(method, "interpolate_shape") or "")
    x, noise = batch(), Noise(["s0", "s1"])
    assert torch.equal(method.transfer(x, x, noise), method.reconstruct(x, noise))
    assert torch.equal(method.transfer(x, x, noise, [1, 2]), method.reconstruct(x, noise))
    assert method.sample(x, noise).shape == (2, 3, 32, 32)


def test_subject_transfer_draws_the_targets_map_unless_told(method_file: str) -> None:
    method = methods.create(method_file, SPACE)
    x = batch()
    r = Batch(x.ids, x.image.flip(0), x.label.flip(0), None, SPACE)
    noise = Noise(x.ids)
    same = method.transfer(x, r, noise, [1, 2, 3])
    assert torch.equal(method.subject_transfer(x, r, noise, [1, 2, 3]), same)
    other = method.subject_transfer(x, r, noise, [1, 2, 3], "reference")
    assert not torch.equal(other, same)


def test_unknown_method_option_and_class(tmp_path: Path, method_file: str) -> None:
    with pytest.raises(UserError, match="did you mean 'sean'"):
        methods.create("saen", SPACE)
    with pytest.raises(UserError, match="has no option 'ngf'"):
        methods.create(method_file, SPACE, ngf=3)
    with pytest.raises(UserError, match="no such file"):
        methods.create("./nowhere.py:X", SPACE)
    with pytest.raises(UserError, match="no class 'Mine'"):
        methods.create(method_file.replace("MeanColour", "Mine"), SPACE)
    broken = tmp_path / "broken.py"
    broken.write_text("def (:\n")
    with pytest.raises(UserError, match="cannot be imported"):
        methods.create(f"{broken}:X", SPACE)


def test_the_spellings_of_papers_are_understood() -> None:
    assert methods.registry.get("CA2-SIS") is methods.registry.get("ca2sis")
    assert methods.registry.get("SCA-DM") is methods.registry.get("sca_dm")
    assert methods.editors.get("Semantic-VAE") is methods.editors.get("semantic-vae")


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.rows = torch.nn.Parameter(torch.zeros(2, 5))


def _map() -> tuple[_Net, KeyMap]:
    net = _Net()
    keys = KeyMap(net)
    keys.spectral("conv.weight", "c.weight")
    keys.take("conv.bias", "c.bias")
    keys.stack("rows", ["fc0.bias", "fc1.bias"])
    keys.unused("old", (1,))
    return net, keys


def _official() -> dict[str, Any]:
    torch.manual_seed(2)
    spectral = torch.nn.utils.spectral_norm(torch.nn.Conv2d(3, 4, 3))
    spectral(torch.zeros(1, 3, 5, 5))
    state = {f"c.{k}": v.detach() for k, v in spectral.state_dict().items()}
    return state | {"fc0.bias": torch.ones(5), "fc1.bias": torch.zeros(5), "old": torch.zeros(1)}


def test_key_map_folds_and_stacks() -> None:
    net, keys = _map()
    state = _official()
    keys.load(state, "test")
    w, u, v = (state[f"c.weight_{k}"] for k in ("orig", "u", "v"))
    assert torch.allclose(net.conv.weight, w / (u @ w.flatten(1) @ v))
    assert net.rows[0].tolist() == [1] * 5
    assert keys.official_shapes().keys() == state.keys()
    assert keys.spectral_names == ["conv.weight"]


def test_key_map_takes_folded_and_very_old_files() -> None:
    state = _official()
    folded = torch.randn(4, 3, 3, 3)
    new = {k: v for k, v in state.items() if "weight" not in k} | {"c.weight": folded}
    old = {k: v for k, v in state.items() if not k.endswith("weight_v")} | {"c.weight": folded}
    for given in (new, old):
        net, keys = _map()
        keys.load(given, "test")
        assert torch.equal(net.conv.weight, folded)


def test_key_map_reports_everything_that_does_not_fit() -> None:
    _, keys = _map()
    state = _official()
    del state["fc1.bias"]
    state |= {"extra": torch.zeros(1), "c.bias": torch.zeros(7)}
    with pytest.raises(UserError) as caught:
        keys.load(state, "here")
    text = str(caught.value)
    for part in (
        "here",
        "missing (1)",
        "fc1.bias",
        "unexpected (1)",
        "extra",
        "c.bias: expected (4,)",
    ):
        assert part in text


def test_key_map_names_a_prefix_as_the_cause() -> None:
    _, keys = _map()
    with pytest.raises(UserError, match=r"prefix 'net\.'"):
        keys.load({f"net.{k}": v for k, v in _official().items()}, "here")


def test_files_are_read_without_running_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, path)
    assert read_state(path)["a"].tolist() == [1, 1]
    path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        read_state(path)
    with pytest.raises(UserError, match="no weights file"):
        read_state(tmp_path / "none.pth")
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="no state dict"):
        read_state(path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/sisbench-evil-marker"),))


def test_a_pickled_object_is_never_called(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", Path("/tmp/sisbench-evil-marker")
    marker.unlink(missing_ok=True)
    torch.save({"a": torch.ones(1), "x": _Evil()}, path)
    with contextlib.suppress(UserError):
        read_state(path)
    assert not marker.exists()
