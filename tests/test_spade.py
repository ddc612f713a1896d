"""SPADE against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

import pytest
import torch
from parity import FIXTURES, Case, every, shapes_of
from plain_spade import generate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.layers.label_maps import LabelPyramid
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.seeded import seeded_state

TINY = {"ngf": 4, "nhidden": 16, "crop_size": 64, "use_vae": False}
ATOL = 1e-4


def space(count: int, name: str = "test") -> LabelSpace:
    return LabelSpace(name, tuple(f"c{i}" for i in range(count)))


def tiny(count: int = 5, **options: object) -> Method:
    method = methods.create("spade", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded_state(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def blobs(count: int, batch: int = 2, size: int = 64, cell: int = 16, seed: int = 0) -> Tensor:
    """Label maps with outlines and large plain regions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (batch, size // cell, size // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def batch_of(label: Tensor, instance: Tensor | None = None, count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(len(label), 3, *label.shape[1:], generator=generator) * 2 - 1
    return Batch(tuple(f"s{i}" for i in range(len(label))), image, label, instance, space(count))


def outputs(method: Method, names: list[str]) -> dict[str, Tensor]:
    """Outputs of modules of netG, filled at the next render."""
    found: dict[str, Tensor] = {}
    for name in names:
        module = method.net.netG.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    return found


# ---- the official outputs -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny_inst", "tiny_more_aspect2"])
def test_small_networks_match(name: str) -> None:
    case = Case.read(f"spade/spade.{name}")
    method = case.method()
    inner = outputs(method, ["head_0", "up_0.norm_s", "up_1"])
    assert case.off_by("out", method.reconstruct(case.batch(), ZeroNoise())) < ATOL
    assert case.off_by("head_0", inner["head_0"]) < ATOL
    assert case.off_by("up_0.norm_s", inner["up_0.norm_s"], *every(1, 4)) < ATOL
    assert case.off_by("up_1", inner["up_1"], *every(1, 4)) < ATOL
    if "edge" in case.arrays:
        edges = instance_edges(case.batch().instance)
        assert case.off_by("edge", edges) == 0


def full_size(name: str) -> tuple[Case, Method, dict[str, Tensor]]:
    case = Case.read(f"spade/spade.{name}")
    method = case.method()
    return case, method, outputs(method, ["head_0", "up_0.norm_s", "up_1", "up_3"])


def check_inner(case: Case, inner: dict[str, Tensor]) -> None:
    assert case.off_by("head_0", inner["head_0"], *every(1, 16)) < ATOL
    assert case.off_by("up_0.norm_s", inner["up_0.norm_s"], *every(1, 32, 4, 4)) < ATOL
    assert case.off_by("up_1", inner["up_1"], *every(1, 8, 8, 8)) < ATOL
    assert case.off_by("up_3", inner["up_3"], *every(1, 8, 16, 16)) < ATOL


@pytest.mark.slow
def test_official_size_with_encoder_matches() -> None:
    case, method, inner = full_size("celebamask19_vae")
    batch = case.batch()
    assert case.off_by("out_mu", method.reconstruct(batch, ZeroNoise()), *every(1, 1, 4, 4)) < ATOL
    check_inner(case, inner)
    noise = GivenNoise({"eps": torch.from_numpy(case.arrays["eps"])})
    assert case.off_by("out_z", method.reconstruct(batch, noise), *every(1, 1, 4, 4)) < ATOL
    style = method.encode_style(batch)
    assert case.off_by("mu", style.codes) < ATOL
    assert case.off_by("logvar", style.extra["logvar"]) < ATOL


def test_official_size_of_ade20k_matches_within_its_operations() -> None:
    case, method, inner = full_size("ade151")
    with FlopCounterMode(display=False) as counter:
        out = method.reconstruct(case.batch(), ZeroNoise())
    assert case.off_by("out", out, *every(1, 1, 4, 4)) < ATOL
    check_inner(case, inner)
    assert counter.get_total_flops() / 2e9 <= 145  # GMAC; the plain form takes 181


def test_key_layouts_are_the_official_ones() -> None:
    celeba = methods.create("spade", "celebamask_hq")
    ade = methods.create("spade", "ade20k", use_vae=False)
    ade_vae = methods.create("spade", "ade20k")
    for method, manifest in (
        (celeba, "spade/spade.celebamask19"),
        (ade, "spade/spade.ade20k151"),
        (ade_vae, "spade/spade.ade20k151_vae"),
    ):
        for module, keys in method.key_maps().items():
            assert keys.official_shapes() == shapes_of(manifest, module), (manifest, module)
    assert sum(p.numel() for p in celeba.net.netG.parameters()) == 109_205_443
    assert sum(p.numel() for p in celeba.net.netE.parameters()) == 10_463_424


def test_official_sizes_follow_the_label_space() -> None:
    with torch.device("meta"):
        city = methods.create("spade", LabelSpace("cityscapes", space(35).classes), use_vae=False)
        fashion = methods.create("spade", "deepfashion", use_vae=False)
    assert city.size == (256, 512)
    assert city.semantics.channels == 36
    assert (fashion.size, fashion.semantics.channels) == ((256, 256), 8)


# ---- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm_G": "spadeinstance3x3"},
        {"norm_G": "spectralspadebatch1x1"},
        {"norm_G": "spectralspadebatch5x5"},
        {"num_upsampling_layers": "most", "crop_size": 128},
        {"no_instance": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [2, 32])
def test_equals_the_plain_form(options: dict[str, object], cell: int) -> None:
    method = tiny(**options)
    size = method.size[0]
    label = blobs(5, size=size, cell=cell)
    label[:, size // 4 : size // 2, 5 : size // 2] = -1  # holes, as a shape swap leaves them
    instance = blobs(9, size=size, cell=16, seed=4) if method.semantics.instances else None
    layout = Layout(label, torch.ones(2, 5, dtype=torch.bool), instance)
    with torch.inference_mode():
        out = method.render(layout, method.encode_style(batch_of(label, instance)), ZeroNoise())
    seg = one_hot(label, 5)
    if instance is not None:
        seg = torch.cat([seg, instance_edges(instance)], 1)
    weights = states(method)["netG"]
    mode = method.options.num_upsampling_layers or "normal"
    plain = generate(weights, seg, method.net.netG.start, mode=mode)
    torch.testing.assert_close(out, plain, atol=2e-5, rtol=0)


def test_windows_are_shared_only_where_they_repeat_and_without_gradients() -> None:
    plain, busy = blobs(5, size=128, cell=64), blobs(5, size=64, cell=1)
    with torch.inference_mode():
        assert LabelPyramid(plain, 5).at((128, 128)).windows is not None
        assert LabelPyramid(busy, 5).at((64, 64)).windows is None
    assert LabelPyramid(plain, 5).at((128, 128)).windows is None


def test_a_sample_does_not_depend_on_its_batch() -> None:
    method = tiny(use_vae=True, encoder_size=64, nef=4, z_dim=8)
    label = torch.cat([blobs(5, 2, cell=32), blobs(5, 1, cell=1)])
    batch = batch_of(label)
    together = method.reconstruct(batch, Noise(batch.ids))
    for i in range(3):
        one = batch[i : i + 1]
        torch.testing.assert_close(
            method.reconstruct(one, Noise(one.ids)), together[i : i + 1], atol=1e-5, rtol=0
        )


def test_gradients_flow_through_both_forms() -> None:
    method = tiny()
    net = method.net.netG.train().requires_grad_(True)
    for cell in (1, 32):
        net.zero_grad()
        net(blobs(5, cell=cell), None, None).square().mean().backward()
        missing = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not missing


def test_style_is_one_vector_and_its_noise_is_eps() -> None:
    method = tiny(use_vae=True, encoder_size=64, nef=4, z_dim=8)
    batch = batch_of(blobs(5))
    style = method.encode_style(batch)
    assert style.codes.shape == style.extra["logvar"].shape == (2, 8)
    assert why_not(method, "class_transfer")
    assert {"reconstruct", "transfer", "sample", "interpolate_style"} <= method.can
    eps = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    z = style.codes + torch.exp(style.extra["logvar"] / 2) * eps
    layout = method.encode_layout(batch)
    with torch.inference_mode():
        drawn = method.render(layout, style, GivenNoise({"eps": eps}))
        torch.testing.assert_close(drawn, method.net.netG(layout.label, None, z))
        sampled = method.sample(batch, GivenNoise({"eps": eps}))
        torch.testing.assert_close(sampled, method.net.netG(layout.label, None, eps))


def test_without_encoder_no_style_is_transferred() -> None:
    method = tiny()
    batch, other = batch_of(blobs(5)), batch_of(blobs(5, seed=9))
    assert method.can == {"reconstruct", "shape_transfer"}
    assert "no image encoder" in (why_not(method, "transfer") or "")
    for refused in (
        lambda: method.transfer(batch, other, ZeroNoise()),
        lambda: method.interpolate_style(batch, other, ZeroNoise(), 0.5),
        lambda: method.sample(batch, ZeroNoise()),
    ):
        with pytest.raises(Unavailable, match="no image encoder"):
            refused()


def test_ade20k_takes_raw_values_or_shifted_ones() -> None:
    raw = LabelSpace("ade20k", space(7).classes)
    method = methods.create("spade", raw, **TINY)
    official = states(method)
    method.load_state(official)
    shifted = methods.create("spade", raw, ade_labels="shifted", **TINY).load_state(official)
    assert method.semantics.channels == 7  # 6 classes and don't care
    label = blobs(7)
    label[0, :4] = 255
    unlabelled = torch.where(label == 255, 6, label)
    moved = torch.where((label == 0) | (label == 255), 6, label - 1)
    batch = batch_of(label, count=7)
    assert torch.equal(method.encode_layout(batch).label, unlabelled)
    expected = method.reconstruct(batch_of(moved, count=7), ZeroNoise())
    torch.testing.assert_close(shifted.reconstruct(batch, ZeroNoise()), expected)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ngff": 8}, "did you mean 'ngf'"),
        ({"use_vae": True}, "crop_size >= 256"),
        ({"semantic_nc": 9}, "semantic_nc is 9"),
        ({"norm_G": "spectralspadebatch4x4"}, "norm_G"),
        ({"norm_E": "spectralbatch"}, "norm_E"),
        ({"num_upsampling_layers": "many"}, "num_upsampling_layers"),
        ({"crop_size": 16}, "too small"),
        ({"ade_labels": "raw"}, "ade_labels"),
        ({"encoder_size": 48, "use_vae": True}, "power of two"),
        ({"label_nc": 0}, "label_nc"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words.replace("(", r"\(")):
        tiny(**options)


def test_labels_and_instances_are_checked() -> None:
    with pytest.raises(UserError, match=r"label values 0\.\.7"):
        tiny().encode_layout(batch_of(torch.tensor([[[0, 7]]])))
    with pytest.raises(UserError, match="no instance maps"):
        tiny(no_instance=False).encode_layout(batch_of(blobs(5)))


def test_a_wrong_state_says_why() -> None:
    method, more = tiny(5), tiny(6)
    official = states(method)["netG"]
    with pytest.raises(UserError, match="trained for another number of classes"):
        method.load_state(states(more))
    method.load_state({"netG": {f"module.{k}": v for k, v in official.items()}})  # DataParallel's
    with pytest.raises(UserError, match="discriminator"):
        method.load_state({"netG": {"discriminator_0.model0.0.weight": torch.zeros(1)}})
    with pytest.raises(UserError, match=r"missing \(1\):\n.*conv_img.bias"):
        method.load_state({"netG": {k: v for k, v in official.items() if k != "conv_img.bias"}})
    with pytest.raises(UserError, match=r"unexpected \(1\):\n.*odd"):
        method.load_state({"netG": {**official, "odd": torch.zeros(1)}})
    with pytest.raises(UserError, match="use_vae"):
        tiny(use_vae=True, encoder_size=64, nef=4, z_dim=8).load_state(
            {"netG": official, "netE": {}}
        )
    with pytest.raises(UserError, match="takes the modules netG"):
        method.load_state({"generator": official})


def test_files_of_old_torch_hold_the_folded_weight() -> None:
    method = tiny()
    official = states(method)["netG"]
    old = {k: v for k, v in official.items() if not k.endswith("weight_v")}
    for key in [k for k in official if k.endswith("weight_v")]:
        stem = key.removesuffix("weight_v")
        sigma = (
            official[f"{stem}weight_u"] @ official[f"{stem}weight_orig"].flatten(1) @ official[key]
        )
        old[f"{stem}weight"] = official[f"{stem}weight_orig"] / sigma
    del old["head_0.norm_0.param_free_norm.num_batches_tracked"]
    batch = batch_of(blobs(5))
    expected = method.reconstruct(batch, ZeroNoise())
    again = methods.create("spade", space(5), **TINY).load_state({"netG": old})
    torch.testing.assert_close(again.reconstruct(batch, ZeroNoise()), expected)


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "spade").glob("spade.*.npz")}
    assert names == {"tiny_inst", "tiny_more_aspect2", "ade151", "celebamask19_vae", "tiny_train"}
