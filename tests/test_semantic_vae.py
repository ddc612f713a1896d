"""Semantic-VAE against the official outputs, the contract of layout editors, and bad input."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import FIXTURES, Case, every, seeded, shapes_of
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.editor import LayoutEditor
from sisbench.methods.layers.labels import with_background
from sisbench.methods.loadable import save_weights
from sisbench.methods.semantic_vae import SemanticVAE

SMALL = {"latent": 4, "mask_size": 16}
ATOL = 1e-4  # the fixtures ask for 1e-3 on logits
SIXTEENTH = every(1, 1, 16, 16)


@pytest.fixture(autouse=True)
def _no_graphs() -> Any:
    with torch.no_grad():
        yield


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def state(editor: LayoutEditor, seed: int) -> dict[str, dict[str, Tensor]]:
    return {"netG": seeded(editor.key_maps()["netG"].official_shapes(), seed)}


@lru_cache(maxsize=4)
def small(**options: Any) -> SemanticVAE:
    editor = methods.create_editor("semantic-vae", space(5), **{**SMALL, **options})
    editor.load_state(state(editor, 1))
    assert isinstance(editor, SemanticVAE)
    return editor


def random_batch(seed: int = 0, count: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 5, (count, 4, 4), generator=generator)
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    ids = tuple(f"s{seed}{i}" for i in range(count))
    return Batch(ids, torch.zeros(count, 3, 32, 32), label, None, space(5))


def exchanged(batch: Batch) -> Batch:
    return replace(batch, ids=batch.ids[::-1], label=batch.label.flip(0))


# ---- the official outputs -----------------------------------------------------------------------


@lru_cache(maxsize=1)
def celeba() -> SemanticVAE:
    meta = Case.read("ca2sis/semvae.recon").meta
    editor = methods.create_editor("semantic-vae", "celebamask_hq", **meta["config"])
    editor.load_state(state(editor, meta["weight_seed"]))
    assert isinstance(editor, SemanticVAE)
    return editor


def given(name: str) -> tuple[Case, Batch, dict[str, Tensor]]:
    """A fixture, its batch and its noise by name."""
    case = Case.read(f"ca2sis/semvae.{name}")
    label = torch.from_numpy(case.arrays["label"]).long()
    batch = Batch(("a", "b"), torch.zeros(2, 3, 256, 256), label, None, celeba().space)
    noise = {k: torch.from_numpy(case.arrays[k]) for k in ("eps", "h0", "c0")}
    noise |= {k: noise[k].transpose(0, 1) for k in ("h0", "c0")}  # (B, 6, 256), as noise is
    return case, batch, noise


def decode(z: Tensor, noise: dict[str, Tensor]) -> Tensor:
    return celeba().net.decode(z, noise["h0"], noise["c0"])


def test_reconstruction_matches_inside_and_out() -> None:
    case, batch, noise = given("recon")
    net = celeba().net
    found: dict[str, Tensor] = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, key=key: found.update({key: out})
        )
        for key, name in [(f"res{i}", f"decs_conv.decs.{i}") for i in range(4)] + [("lstm", "lstm")]
    ]
    mu, log_var = net.encode(batch.label)
    logits = decode(celeba().latents(batch, GivenNoise(noise)), noise)
    for handle in handles:
        handle.remove()
    assert case.off_by("mu", mu) < 1e-5
    assert case.off_by("logvar", log_var, *every(1, 1, 4)) < 1e-5
    assert case.off_by("lstm", found["lstm"][0], *every(1, 1, 8)) < 1e-5
    for i, steps in enumerate(((16, 4), (16, 8), (8, 16), (4, 32))):
        cut = every(1, steps[0], steps[1], steps[1])
        assert case.off_by(f"res{i}", found[f"res{i}"], *cut) < ATOL
    assert case.off_by("logits", logits, *every(1, 1, 8, 8)) < ATOL
    drawn = celeba().reconstruct(batch, GivenNoise(noise))
    assert (drawn.dtype, drawn.shape) == (torch.int64, (2, 256, 256))
    assert case.off_by("pred", drawn, *every(1, 2, 2)) == 0


def agree(case: Case, name: str, drawn: Tensor) -> bool:
    """Whether a drawn map is what the fixture's logits say, as far as they say it: where only the
    18 classes are stored, the background is not known unless a class exceeds 1."""
    logits = torch.from_numpy(case.arrays[name])
    drawn = drawn[every(1, 16, 16)]
    if logits.shape[1] == 19:
        return torch.equal(drawn, logits.argmax(1))
    sure = logits.amax(1) > 1
    return bool(sure.float().mean() > 0.9) and torch.equal(drawn[sure], logits.argmax(1)[sure] + 1)


def test_edits_match() -> None:
    case, batch, noise = given("edit")
    noise |= {"rnd": torch.from_numpy(case.arrays["rnd"]), "eps2": noise["eps"].flip(0)}
    source, part, mixed = GivenNoise(noise), case.meta["parts"], case.meta["interp_parts"]
    editor, partner = celeba(), exchanged(batch)
    assert case.off_by("z", editor.latents(batch, source), *every(1, 1, 4)) < 1e-5
    generated = editor.generate(batch, source, part)
    assert agree(case, "logits_generate", generated)
    assert case.off_by("pred_generate", generated, *every(1, 2, 2)) == 0
    assert agree(case, "logits_perturb", editor.perturb(batch, source, part))
    assert agree(case, "logits_all", editor.generate(batch, source))
    assert agree(case, "logits_swap", editor.swap(batch, partner, source, part))
    alpha = case.meta["interp_alpha"]
    half = editor.interpolate(batch, partner, source, alpha, mixed)
    assert agree(case, "logits_interp", half)


def test_the_official_strip_is_a_choice_of_alphas() -> None:
    case, batch, noise = given("interp_official")
    noise["eps2"] = torch.from_numpy(case.arrays["eps2"])
    source, partner = GivenNoise(noise), exchanged(batch)
    own, other = celeba().latents(batch, source), celeba().latents(partner, source, "eps2")
    row = case.meta["parts"][0] - 1
    one = {k: v[:1] for k, v in noise.items()}
    for step, alpha in enumerate((0, 0.25, 0.625, 0.90625, 1)):  # own weights, accumulated
        expected = torch.from_numpy(case.arrays["logits"][step])
        z = own[:1].clone()
        z[:, row] = own[:1, row].lerp(other[:1, row], alpha)
        found = with_background(decode(z, one))[SIXTEENTH]
        torch.testing.assert_close(found, expected[:1], atol=ATOL, rtol=0)
        if step == 3:
            drawn = celeba().interpolate(batch, partner, source, alpha, case.meta["parts"])
            assert torch.equal(drawn[every(1, 16, 16)], expected.argmax(1))


def test_the_key_layout_is_the_official_one() -> None:
    raw = Case.read("ca2sis/semvae.recon").meta["config"]
    official = {"classes": 18, "lstm_num": 3, "bidir": True, "no_T": True, "exclude_bg": True}
    with torch.device("meta"):
        for config in (raw, official):
            editor = methods.create_editor("semantic-vae", "celebamask_hq", **config)
            expected = shapes_of("ca2sis/semvae.celebamaskhq", "netG")
            assert editor.key_maps()["netG"].official_shapes() == expected
    assert round(sum(p.numel() for p in editor.net.parameters()) / 1e6, 2) == 25.23
    assert editor.size == (256, 256)


def test_it_takes_no_more_operations_than_the_official_code() -> None:
    batch = given("recon")[1][:1]
    with FlopCounterMode(display=False) as counter:
        celeba().reconstruct(batch, ZeroNoise())
    assert counter.get_total_flops() / 2e9 <= 8.2  # GMAC


# ---- laws ---------------------------------------------------------------------------------------


def test_background_wins_where_the_sum_is_not_positive_and_no_class_exceeds_one() -> None:
    logits = torch.tensor([[2.0, -3.0], [1.0, -1.0], [0.9, -1.0], [0.5, 0.1], [0.0, 0.0]])
    drawn = with_background(logits.t()[None, :, None]).argmax(1)
    assert drawn.flatten().tolist() == [1, 0, 0, 1, 0]


def test_a_sample_does_not_depend_on_its_batch() -> None:
    batch, other = random_batch(), random_batch(7)
    together = small().interpolate(batch, other, Noise(batch.ids), 0.5)
    assert together.shape == (3, 32, 32)
    for i in range(3):
        one = batch[i : i + 1]
        alone = small().interpolate(one, other[i : i + 1], Noise(one.ids), 0.5)
        assert torch.equal(alone, together[i : i + 1])


def test_edits_leave_the_latents_of_other_classes() -> None:
    editor, batch, noise = small(), random_batch(), Noise(random_batch().ids, 3)
    assert torch.equal(editor.generate(batch, noise, []), editor.reconstruct(batch, noise))
    other = random_batch(7)
    assert torch.equal(
        editor.interpolate(batch, other, noise, 0.0), editor.reconstruct(batch, noise)
    )
    assert torch.equal(
        editor.interpolate(batch, other, noise, 1.0, [2]), editor.swap(batch, other, noise, [2])
    )
    same = replace(other, ids=batch.ids)
    whole = editor.swap(batch, same, ZeroNoise())
    assert torch.equal(whole, editor.reconstruct(same, ZeroNoise()))
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 2] = True
    assert torch.equal(editor.perturb(batch, noise, mask), editor.perturb(batch, noise, [2]))


def test_a_swap_of_latents_is_a_swap_of_regions() -> None:
    batch, other = random_batch(), random_batch(7)
    disjoint = replace(batch, label=batch.label.clamp_max(1))
    painted = torch.where(other.label == 3, 3, disjoint.label)
    expected = small().net.encode(painted)[0]
    mine, theirs = small().net.encode(disjoint.label)[0], small().net.encode(other.label)[0]
    assert torch.equal(theirs[:, 2], expected[:, 2])
    uncovered = torch.where(other.label == 3, -1, disjoint.label)  # a hole belongs to no class
    assert torch.equal(small().net.encode(uncovered)[0][:, 0], expected[:, 0])
    assert not torch.equal(mine[:, 0], expected[:, 0])


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ({"lstm_num": 1}, 2),
        ({"bidir": False}, 3),
        ({"lstm_layers": 1, "bidirectional": False}, 1),
        ({"no_LSTM": True}, 0),
        ({"do_perm": True}, 6),
    ],
    ids=str,
)
def test_ablations_run(options: dict[str, Any], states: int) -> None:
    editor, batch = small(**options), random_batch()
    assert editor.net.states == states
    assert editor.reconstruct(batch, Noise(batch.ids)).shape == (3, 32, 32)
    one_way = not options.get("bidir", options.get("bidirectional", True))
    has_projection = any(k.startswith("resh_lin") for k in editor.net.state_dict())
    assert has_projection == (states > 0 and not one_way)


def test_permuted_classes_are_not_put_back() -> None:
    plain, permuted = small(), small(do_perm=True)
    z = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(1, 6, 4)
    exchanged_rows = z[:, [1, 0, 2, 3]]
    assert torch.equal(
        permuted.net.decode(z, zero, zero), plain.net.decode(exchanged_rows, zero, zero)
    )


def test_weights_load_as_a_methods_do(tmp_path: Path) -> None:
    batch = random_batch()
    expected = small().reconstruct(batch, ZeroNoise())
    torch.save(state(small(), 1)["netG"], tmp_path / "latest_net_G.pth")
    save_weights(small(), tmp_path / "own.safetensors", {})
    for path, options in ((tmp_path, SMALL), (tmp_path / "own.safetensors", {})):
        editor = SemanticVAE(**options).load(space(5), path)
        assert torch.equal(editor.reconstruct(batch, ZeroNoise()), expected)
        assert editor.describe()["options"]["latent"] == 4
    seeded_one = SemanticVAE(**SMALL).load(space(5), "seeded:1")
    assert torch.equal(seeded_one.reconstruct(batch, ZeroNoise()), expected)
    with pytest.raises(UserError, match="needs weights"):
        SemanticVAE(**SMALL).load(space(5), None)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latents": 4}, "did you mean 'latent'"),
        ({"latent": 5}, "a square"),
        ({"latent": 256, "resolution": 128}, "resolution must be 256"),
        ({"lstm_layers": 0}, "at least 1"),
        ({"lstm_layers": 2, "lstm_num": 3}, "contradict"),
        ({"bidir": True, "bidirectional": False}, "contradict"),
        ({"no_T": False}, "no_T"),
        ({"exclude_bg": False}, "exclude_bg"),
        ({"classes": 7}, "5 classes"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        methods.create_editor("semantic-vae", space(5), **options)


def test_input_is_checked() -> None:
    editor, batch, noise = small(), random_batch(), ZeroNoise()
    with pytest.raises(UserError, match="has no latent"):
        editor.generate(batch, noise, [0])
    with pytest.raises(UserError, match=r"outside of 0\.\.4"):
        editor.perturb(batch, noise, [5])
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        editor.interpolate(batch, batch, noise, 1.5)
    with pytest.raises(UserError, match="3 targets meet 2 references"):
        editor.swap(batch, batch[:2], noise)
    with pytest.raises(UserError, match=r"label values .*255.*classes 0\.\.4"):
        editor.reconstruct(
            replace(batch, label=batch.label.masked_fill(batch.label == 2, 255)), noise
        )
    with pytest.raises(UserError, match="no noise was given for 'h0'"):
        editor.reconstruct(batch, GivenNoise({"eps": torch.zeros(3, 4, 4)}))
    with pytest.raises(UserError, match="no editor is called 'semantic-va'"):
        methods.create_editor("semantic-va", space(5))
    with pytest.raises(UserError, match="mis-shaped"):
        small().load_state(state(small(do_perm=True, mask_size=8), 0))


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "ca2sis").glob("semvae.*.npz")}
    assert names == {"recon", "edit", "interp_official"}
