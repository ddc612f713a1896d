"""FrankenMask against the official outputs, the contract of layout editors, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import FIXTURES, Case, every, seeded
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import ZeroNoise
from sisbench.methods.frankenmask import FrankenMask

SMALL: dict[str, Any] = {"ndf": 2, "ngf": 2, "latent": 16, "layers": 2}
ATOL = 1e-4  # the fixtures ask for 1e-3 on logits


@pytest.fixture(autouse=True)
def _no_graphs() -> Any:
    with torch.no_grad():
        yield


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def state(editor: Any, seed: int) -> dict[str, dict[str, Tensor]]:
    return {"netU": seeded(editor.key_maps()["netU"].official_shapes(), seed)}


def small(**options: Any) -> FrankenMask:
    editor = methods.create_editor("frankenmask", space(6), **{**SMALL, **options})
    editor.load_state(state(editor, 1))
    assert isinstance(editor, FrankenMask)
    return editor


def faces(seed: int = 0, count: int = 2, classes: int = 6, side: int = 256) -> Batch:
    """Blocks of random classes; class 5 is absent."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes - 1, (count, 4, 4), generator=generator)
    label = label.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    ids = tuple(f"s{seed}{i}" for i in range(count))
    return Batch(ids, torch.zeros(count, 3, side, side), label, None, space(classes))


def with_class(batch: Batch, index: int) -> Batch:
    label = batch.label.clone()
    label[:, 100:140, 30:60] = index
    return Batch(batch.ids, batch.image, label, None, batch.space)


# ---- the official outputs -----------------------------------------------------------------------


def maps(case: Case, name: str, editor: FrankenMask) -> Batch:
    label = torch.from_numpy(case.arrays[name]).long()
    ids = tuple(str(i) for i in range(len(label)))
    return Batch(ids, torch.zeros(len(label), 3, 256, 256), label, None, editor.space)


@pytest.mark.parametrize(
    ("name", "codes", "real"),
    [("narrow", 1, 2), pytest.param("celebamaskhq", 4, 4, marks=pytest.mark.slow)],
)
def test_codes_logits_and_swaps_match(name: str, codes: int, real: int) -> None:
    case = Case.read(f"frankenmask/frankenmask.{name}")
    editor = methods.create_editor("frankenmask", "celebamask_hq", **case.meta["config"])
    editor.load_state(state(editor, case.meta["weights"]["netU"]["seed"]))
    assert isinstance(editor, FrankenMask)
    net, classes = editor.net, case.meta["swapped_classes"]
    own, other, face = (maps(case, k, editor) for k in ("label", "ref_label", "label_real"))
    cut, found = every(1, 1, 8, 8), net.encode(editor.planes(own)[:, 1:])
    assert case.off_by("codes", found, *every(1, 1, codes)) < ATOL
    attended = net.attend(found)
    assert case.off_by("attended", attended, *every(1, 1, codes)) < ATOL
    assert case.off_by("logits", net.decode(attended), *cut) < ATOL
    swapped = net.encode(editor.exchanged(own, other, classes)[:, 1:])
    assert case.off_by("logits_swap", net.decode(net.attend(swapped)), *cut) < ATOL
    halves = every(1, 2, 2)
    assert case.off_by("label_out", editor.reconstruct(own, ZeroNoise()), *halves) == 0
    drawn = editor.swap(own, other, ZeroNoise(), classes)
    assert case.off_by("label_swap", drawn, *halves) == 0
    present = torch.from_numpy(case.arrays["present"])
    kept = net.encode(editor.planes(face)[:, 1:]) * present[..., None]
    assert case.off_by("codes_real", kept, *every(1, 1, real)) < ATOL
    if name == "celebamaskhq":
        with FlopCounterMode(display=False) as counter:
            editor.reconstruct(face, ZeroNoise())
        assert counter.get_total_flops() / 2e9 <= 14  # GMAC; officially 17.3


def test_planes_are_exchanged_where_both_faces_have_the_class() -> None:
    case = Case.read("frankenmask/frankenmask.swap_rule")
    editor = methods.create_editor("frankenmask", "celebamask_hq", **SMALL)
    assert isinstance(editor, FrankenMask)
    own, other = (maps(case, k, editor) for k in ("label", "ref_label"))
    planes = editor.exchanged(own, other, case.meta["swapped_classes"])
    bits = (planes.int() << torch.arange(19)[:, None, None]).sum(1, dtype=torch.int32)
    assert case.off_by("bits", bits, *every(1, 2, 2)) == 0


# ---- laws ---------------------------------------------------------------------------------------


def test_an_absent_class_has_the_code_of_exact_arithmetic() -> None:
    exact, computed = small(), small(absent="as_computed")
    planes = exact.planes(faces())[:, 1:]
    codes = exact.net.encode(planes)
    assert torch.equal(codes[:, 4], exact.net.vaes.bias.expand(2, -1))
    noisy = computed.net.encode(planes)
    torch.testing.assert_close(noisy[:, :4], codes[:, :4])
    precise = computed.net.double().encode(planes.double())
    assert (precise[:, 4] - codes[:, 4]).abs().max() < 0.1 * (noisy - codes)[:, 4].abs().max()


def test_swap_and_interpolation_keep_their_laws() -> None:
    editor, own, other = small(), faces(), faces(1)
    plain = editor.reconstruct(own, ZeroNoise())
    assert (plain.dtype, plain.shape) == (torch.int64, (2, 256, 256))
    assert torch.equal(editor.swap(own, own, ZeroNoise()), plain)
    assert torch.equal(editor.swap(own, other, ZeroNoise(), [0]), plain)
    assert torch.equal(editor.swap(own, other, ZeroNoise(), [5]), plain)  # neither has it
    assert torch.equal(editor.interpolate(own, other, ZeroNoise(), 0.0), plain)
    everything = editor.interpolate(own, other, ZeroNoise(), 1.0)
    assert torch.equal(everything, editor.reconstruct(other, ZeroNoise()))
    assert not torch.equal(editor.swap(own, other, ZeroNoise(), [1, 2]), plain)


def test_a_class_that_one_face_lacks_stays() -> None:
    editor, own, other = small(), faces(), with_class(faces(1), 5)
    planes = editor.exchanged(own, other, [1, 5])
    assert torch.equal(planes[:, 5], editor.planes(own)[:, 5])
    assert torch.equal(planes[:, 1], editor.planes(other)[:, 1])
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, 1] = True  # by sample
    planes = editor.exchanged(own, other, mask)
    assert torch.equal(planes[1], editor.planes(own)[1])


def test_a_sample_does_not_depend_on_its_batch() -> None:
    editor, own, other = small(), faces(count=3), with_class(faces(1, count=3), 5)
    together = editor.swap(own, other, ZeroNoise(), [1, 2, 5])
    for i in range(3):
        alone = editor.swap(own[i : i + 1], other[i : i + 1], ZeroNoise(), [1, 2, 5])
        assert (alone != together[i : i + 1]).float().mean() < 1e-3


def test_it_draws_nothing_by_chance() -> None:
    editor, batch = small(), faces()
    assert editor.can == {"reconstruct", "swap", "interpolate"}
    for refused in (editor.generate, editor.perturb):
        with pytest.raises(Unavailable, match="FrankenMask does not do"):
            refused(batch, ZeroNoise())


def test_other_sizes_and_holes_are_read() -> None:
    editor, batch = small(), faces(side=64)
    planes = editor.planes(batch)
    assert planes.shape == (2, 6, 256, 256)
    assert torch.equal(planes, editor.planes(faces()))
    batch.label[:, :8] = -1
    assert not editor.planes(batch)[:, :, :32].any()


def test_a_checkpoint_of_the_training_script_loads(tmp_path: Path) -> None:
    editor = small()
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-5}]}
    entries = {
        "model_U_state_dict": state(editor, 1)["netU"],
        "epoch": 3,
        "optimizer_U_state_dict": optimizer,
    }
    torch.save(entries, tmp_path / "swapNet_3.pt")
    for place in (tmp_path, tmp_path / "swapNet_3.pt"):
        again = FrankenMask(**SMALL).load(space(6), place)
        batch = faces()
        expected = editor.reconstruct(batch, ZeroNoise())
        assert torch.equal(again.reconstruct(batch, ZeroNoise()), expected)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ngff": 8}, "did you mean"),
        ({"size": 128}, "size must be 256"),
        ({"nc": 4}, "nc is 4"),
        ({"latent": 20}, "multiple of heads"),
        ({"ndf": 0}, "positive"),
        ({"absent": "zero"}, "absent must be"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small(**options)


def test_wrong_input_says_why() -> None:
    editor = small()
    with pytest.raises(UserError, match=r"label values 0\.\.6"):
        editor.planes(with_class(faces(), 6))
    with pytest.raises(UserError, match="2 targets meet 1 references"):
        editor.swap(faces(), faces(count=1), ZeroNoise())
    with pytest.raises(UserError, match=r"alpha must lie in \[0, 1\]"):
        editor.interpolate(faces(), faces(), ZeroNoise(), 1.5)
    official = state(editor, 1)["netU"]
    with pytest.raises(UserError, match=r"missing \(1\)"):
        editor.load_state({"netU": {k: v for k, v in official.items() if k != "pos_enc"}})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "frankenmask").glob("*.npz")}
    assert names == {"narrow", "celebamaskhq", "swap_rule"}
