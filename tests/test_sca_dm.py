"""SCA-DM against the official outputs, the laws of its look-ups, and bad input."""

from __future__ import annotations

import copy
import gc
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from parity import Case, every, shapes_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import Layout, Method, Style, present_classes
from sisbench.methods.layers.diffusion.attention import Attention, SpatialTransformer
from sisbench.methods.layers.diffusion.blocks import ResBlock, SPADEResBlock, Upsample
from sisbench.methods.layers.diffusion.ddim import DDIM, alphas_cumprod, ddim_timesteps
from sisbench.methods.layers.diffusion.unet import timestep_embedding
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.sca_dm import SCADM
from sisbench.methods.seeded import seeded_state

TINY = tiny_networks.SCA_DM


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def case(name: str) -> Case:
    return Case.read(f"sca_dm/sca_dm.{name}")


def floats(c: Case, name: str) -> Tensor:
    return torch.from_numpy(c.arrays[name].astype(np.float32))


def labels(c: Case) -> Tensor:
    return torch.from_numpy(c.arrays["label"]).long()


def photograph(c: Case) -> Tensor:
    return torch.from_numpy(c.arrays["image"]).permute(0, 3, 1, 2) / 127.5 - 1


OFF_ZERO = 9e-3
"""A zero image makes constant planes, and group norm enlarges the rounding of their mean 316 times:
the official float32 codes are up to 0.0073 from float64, ours less than 1e-5."""

OFF_LAYER = 1e-4
"""The official layers are up to 7e-5 from float64, as their group norm ran over channels-last."""

SMALL: dict[str, Any] = {"model_channels": 32, "num_feat": 1, "ddconfig": {"ch": 32}}
"""Networks that a fixture says nothing of."""


def build(c: Case) -> SCADM:
    """The method of a fixture, seeded as its meta says."""
    config = c.meta["config"]
    small = {} if "unet" in config else SMALL
    method = methods.create("sca-dm", "celebamask_hq", **{**small, **config})
    states = {}
    for module, key_map in method.key_maps().items():
        how = c.meta["weights"].get(module, {"seed": 0})
        states[module] = seeded_state(key_map.official_shapes(), how["seed"])
        for key, factor in how.get("multiply", {}).items():
            states[module][key] = states[module][key] * factor
    return method.load_state(states)  # type: ignore[return-value]


def with_options(method: SCADM, **options: Any) -> SCADM:
    """The same networks under other sampling options."""
    other = SCADM(**{**method.options.__dict__, **options})
    other.space, other.net = method.space, method.net
    return other


def batch_of(c: Case, rows: slice = slice(None)) -> Batch:
    image, label = photograph(c)[rows], labels(c)[rows]
    ids = tuple(map(str, range(len(label))))
    return Batch(ids, image, label, None, LabelSpace.named("celebamask_hq"))


def seeded(module: nn.Module) -> Any:
    module.load_state_dict(seeded_state({k: v.shape for k, v in module.state_dict().items()}, 0))
    return module.eval()


@pytest.fixture(scope="module")
def narrow() -> SCADM:
    """Networks of ``ddim_narrow`` and ``mix_narrow``, which share their weights."""
    return build(case("ddim_narrow"))


# ---- schedule ---------------------------------------------------------------------------------


def test_schedule() -> None:
    c = case("schedule")
    found = alphas_cumprod()[c.arrays["index"]]
    np.testing.assert_array_equal(found, c.arrays["alphas_cumprod"])
    for steps in c.arrays["steps"]:
        ddim = DDIM.make(int(steps), eta=1.0)
        np.testing.assert_array_equal(ddim.timesteps, c.arrays[f"timesteps_{steps}"])
        for mine, theirs in (("alphas",) * 2, ("alphas_prev",) * 2, ("sigmas", "sigmas_eta1")):
            expected = c.arrays[f"{theirs}_{steps}"]
            np.testing.assert_allclose(getattr(ddim, mine), expected, atol=1e-6)


def test_time_embedding() -> None:
    c = case("schedule")
    t = torch.from_numpy(c.arrays["temb_t"])
    assert c.off_by("temb_224", timestep_embedding(t, 224)) < 1e-5
    assert c.off_by("temb_32", timestep_embedding(t, 32)) < 1e-5


def test_step_counts_that_the_official_sampler_refuses() -> None:
    refused = set()
    for steps in range(1, 1001):
        try:
            found = len(ddim_timesteps(steps))
        except UserError:
            refused.add(steps)
        else:
            assert found == -(-1000 // (1000 // steps))
    late = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
    assert refused == late
    with pytest.raises(UserError, match="the official sampler fails") as caught:
        ddim_timesteps(300)
    assert "divisor of 1000 instead, as 125, 200, 250" in caught.value.hint


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range(steps: int) -> None:
    with pytest.raises(UserError, match=r"within 1\.\.1000"):
        methods.registry.get("sca-dm")(steps=steps)


# ---- layers -----------------------------------------------------------------------------------


def test_masked_cross_attention() -> None:
    c = case("cross_attention")
    layer: Attention = seeded(Attention(64, 1280, 32))
    x, codes = floats(c, "x"), floats(c, "context")
    small = resize_labels_torch(labels(c), (16, 16))
    mask = one_hot(small, 19).flatten(2).transpose(1, 2)  # (B, 256, C)
    soft = floats(c, "soft_mask").repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    zeroed = codes.clone()
    zeroed[:, int(c.arrays["zeroed_class"])] = 0

    def check(name: str, found: Tensor, step: int) -> None:
        assert c.off_by(name, found, slice(None), slice(None, None, step)) < 1e-5, name

    check("out_soft", layer.masked(x, codes, soft.flatten(2).transpose(1, 2)), 8)
    check("out_no_mask", layer.attend(x, layer.keys(codes)), 8)
    check("sim", layer.scores(x, codes).flatten(0, 1), 16)
    check("out_onehot", layer.masked(x, codes, mask), 4)
    check("out_zeroed_class", layer.masked(x, zeroed, mask), 4)
    check("out_zero_mask", layer.masked(x, codes, 0 * mask), 16)
    check("out_zero_mask_zero_context", layer.masked(x, 0 * codes, 0 * mask), 64)

    rows, index = torch.arange(2)[:, None], small.flatten(1)
    check("out_onehot", layer.table(codes)[rows, index], 4)
    check("out_zeroed_class", layer.table(zeroed)[rows, index], 4)
    check("out_zero_mask", layer.table(codes)[rows, torch.full_like(index, 19)], 16)
    check("out_zero_mask_zero_context", layer.table(0 * codes)[rows, index], 64)


def test_blocks() -> None:
    c = case("blocks")
    x, emb, codes = floats(c, "x"), floats(c, "emb"), floats(c, "context")
    small = resize_labels_torch(labels(c), (16, 16))
    block: SPADEResBlock = seeded(SPADEResBlock(96, 64, 128, 19))
    kept: dict[str, Tensor] = {}
    block.in_norm.register_forward_hook(lambda *a: kept.update(first=a[2]))
    block.out_norm.register_forward_hook(lambda *a: kept.update(second=a[2]))
    h = block(x, block.emb_layers(emb), [block.affines(one_hot(small, 19))], 2)
    assert c.off_by("spade_in_norm", kept["first"], *every(1, 8)) < 2e-5
    assert c.off_by("spade_out_norm", kept["second"], *every(1, 8)) < 2e-5
    assert c.off_by("spade_resblock", h, *every(1, 4)) < 2e-5
    empty = block(x, block.emb_layers(emb), [block.null_affines((16, 16))], 2)
    assert c.off_by("spade_resblock_zero_mask", empty, *every(1, 8)) < 2e-5
    plain: ResBlock = seeded(ResBlock(96, 64, 128))
    assert c.off_by("plain_resblock", plain(x, plain.emb_layers(emb)), *every(1, 4)) < 2e-5

    layer: SpatialTransformer = seeded(SpatialTransformer(64, 1280, 32))
    attn1: Attention = layer.transformer_blocks[0].attn1  # type: ignore[assignment]
    attn1.register_forward_hook(lambda *a: kept.update(attn1=a[2]))
    term = layer.style_term(codes, small)
    assert c.off_by("transformer", layer(h, [term], 2), *every(1, 4)) < 2e-5
    assert c.off_by("attn1", kept["attn1"], *every(1, 8)) < 2e-5
    assert isinstance(term, Tensor)
    assert c.off_by("attn2", term, *every(1, 8)) < 2e-5
    unmasked = layer(h, [layer.style_term(codes, None)], 2)
    assert c.off_by("transformer_no_mask", unmasked, *every(1, 8)) < 2e-5


@pytest.mark.parametrize("size", [(1, 2), (2, 3), (5, 8)])
def test_empty_layout_is_spread_from_nine_pixels(size: tuple[int, int]) -> None:
    block: SPADEResBlock = seeded(SPADEResBlock(32, 32, 16, 5))
    for found, expected in zip(
        block.null_affines(size), block.affines(torch.zeros(1, 5, *size)), strict=True
    ):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_enlargement_is_one_transposed_convolution(size: tuple[int, int]) -> None:
    layer: Upsample = seeded(Upsample(32))
    x = torch.randn(2, 32, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x, layer.kernel()), layer(x), atol=1e-5, rtol=0)


# ---- networks ---------------------------------------------------------------------------------


def check_against_float64(encoder: nn.Module, batch: Batch, kept: dict[str, Tensor]) -> None:
    """Every layer that the hooks kept, for a channels-last image (torch's own norm is off 8e-5)."""
    assert not batch.image.is_contiguous()
    found = dict(kept)
    copy.deepcopy(encoder).double()(batch.image.double(), batch.label)  # the hooks overwrite kept
    for name, value in found.items():
        torch.testing.assert_close(value.double(), kept[name], atol=1e-5, rtol=2e-6)


def check_style(c: Case, steps: dict[str, tuple[int, ...]], codes: int) -> None:
    method = build(c)
    kept: dict[str, Tensor] = {}
    encoder = method.net.style_encoder
    for group in (encoder.Encoder, encoder.Decoder):
        for name, layer in group.items():
            layer.register_forward_hook(lambda m, i, out, name=name: kept.update({name: out}))
    batch = batch_of(c)
    style = method.encode_style(batch)
    assert c.off_by("codes", style.codes, *every(1, 1, codes)) < 2e-5
    assert c.off_by("code_mean", style.codes.mean(2)) < 2e-5
    for name, step in steps.items():
        assert c.off_by(name, kept[name], *every(*step)) < OFF_LAYER, name
    check_against_float64(encoder, batch, kept)
    zero = method.sample_style(batch, ZeroNoise())
    assert c.off_by("codes_zero_image", zero.codes, *every(1, 1, 2 * codes)) < OFF_ZERO
    exact = copy.deepcopy(encoder).double()(torch.zeros_like(batch.image).double(), batch.label)
    torch.testing.assert_close(zero.codes.double(), exact, atol=1e-5, rtol=0)
    absent = c.meta["absent_classes"]
    assert not style.present[:, absent].any()
    torch.testing.assert_close(style.codes[:, absent], zero.codes[:, absent])


def test_style_narrow() -> None:
    steps = {
        "first_layer": (1, 8, 16, 16),
        "enc_layer_0": (1, 16, 8, 8),
        "enc_layer_5": (1, 64),
        "dec_layer_0": (1, 64),
        "dec_layer_1": (1, 64, 2, 2),
        "dec_layer_4": (1, 8, 16, 16),
    }
    check_style(case("style_narrow"), steps, 8)


def check_unet(c: Case, atol: float, hooks: dict[str, tuple[int, ...]], emb: int = 8) -> None:
    method = build(c)
    unet, x, codes = method.net.unet, floats(c, "latent"), floats(c, "context")
    t, size = torch.from_numpy(c.arrays["timesteps"]), (x.shape[2], x.shape[3])
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda m, i, out: kept.update({name: out}))

    keep("time_embed", unet.time_embed)
    keep("middle_block", list(unet.middle_block.children())[-1])
    for name in hooks:
        kind, _, index = name.partition("_")
        if index.isdigit():
            keep(name, list(getattr(unet, f"{kind}_blocks")[int(index)].children())[-1])
    condition = unet.condition(labels(c), codes, size)
    null = unet.null_condition(len(x), size)
    assert c.off_by("eps", unet(x, t, condition)) < atol
    assert c.off_by("time_embed", kept["time_embed"], *every(1, emb)) < atol
    for name, step in hooks.items():
        assert c.off_by(name, kept[name], *every(*step)) < atol, name
    assert c.off_by("eps_uncond", unet(x, t, null), *every(1, 1, 2, 2)) < atol
    first, second = unet(x, t, condition.after(null)).chunk(2)
    assert c.off_by("eps_uncond", first, *every(1, 1, 2, 2)) < atol
    assert c.off_by("eps", second) < atol


def test_unet_narrow() -> None:
    hooks = {
        "middle_block": (1, 8),
        "input_1": (1, 8, 2, 2),
        "input_4": (1, 8),
        "input_11": (1, 8),
        "output_2": (1, 8),
        "output_5": (1, 8),
        "output_11": (1, 8, 2, 2),
    }
    check_unet(case("unet_narrow"), 5e-5, hooks)


def check_first_stage(c: Case) -> None:
    stage = build(c).net.first_stage
    image, latent = photograph(c), floats(c, "latent")
    encoded = stage.encode(image)
    assert c.off_by("prequant", encoded, *every(1, 1, 2, 2)) < 5e-5
    assert c.off_by("prequant_mean", encoded.mean((2, 3))) < 5e-5
    for name, z in (("indices", latent), ("indices_of_encoded", encoded)):
        wrong = stage.quantize.indices(z) != torch.from_numpy(c.arrays[name]).long()
        assert wrong.float().mean() <= 0.002, name
    given = torch.from_numpy(c.arrays["indices"]).long()
    assert c.off_by("quantised", stage.quantize.vectors(given), *every(1, 1, 2, 2)) < 5e-5
    assert c.off_by("decoded", stage.decode(latent), *every(1, 1, 4, 4)) < 5e-5
    free = stage.decode(latent, quantize=False)
    assert c.off_by("decoded_no_quantisation", free, *every(1, 1, 4, 4)) < 5e-5
    assert c.off_by("reconstruction", stage.decode(encoded), *every(1, 1, 4, 4)) < 5e-5


def test_first_stage_narrow() -> None:
    check_first_stage(case("vq_narrow"))


# ---- the pipeline -----------------------------------------------------------------------------


def last(method: SCADM, layout: Layout, style: Style, noise: Any) -> Tensor:
    *_, (latent, _) = method.trajectory(layout, style, noise)
    return latent


def check_ddim(method: SCADM, c: Case, atol: float, step: int) -> None:
    batch = batch_of(c)
    layout, style = method.encode_layout(batch), method.encode_style(batch)
    noise = GivenNoise({"x_T": floats(c, "x_T")})
    assert c.off_by("codes", style.codes, *every(1, 1, 16)) < 2e-5
    path = list(method.trajectory(layout, style, noise))
    for name, found in zip(("x_steps", "x0_steps"), zip(*path, strict=True), strict=True):
        assert c.off_by(name, torch.stack(found), *every(1, 1, 1, step, step)) < atol
    assert c.off_by("latent", path[-1][0]) < atol
    decoded = method.decode(floats(c, "latent"))
    expected = torch.from_numpy(c.arrays["decoded"]).clamp(-1, 1)
    torch.testing.assert_close(decoded[..., ::4, ::4], expected, atol=1e-4, rtol=0)
    image = method.render(layout, style, noise)
    assert image.shape == batch.image.shape
    off = ((image[..., ::4, ::4] + 1) / 2 - floats(c, "final")).abs() > 1e-3
    assert off.float().mean() < 0.01  # a code may flip


def test_ddim_narrow(narrow: SCADM) -> None:
    check_ddim(narrow, case("ddim_narrow"), 1e-3, 2)


def test_ddim_narrow_variants(narrow: SCADM) -> None:
    c = case("ddim_narrow")
    batch = batch_of(c)
    layout, style = narrow.encode_layout(batch), narrow.encode_style(batch)
    steps = {f"step{i}": n for i, n in enumerate(floats(c, "noise_eta1"))}
    noise = GivenNoise({"x_T": floats(c, "x_T"), **steps})

    def check(name: str, found: Tensor, *step: slice, atol: float = 5e-3) -> None:
        assert c.off_by(name, found, *step) < atol, name

    check("latent_scale1", last(with_options(narrow, scale=1.0), layout, style, noise))
    check("latent_eta1", last(with_options(narrow, eta=1.0), layout, style, noise))
    doubled = last(with_options(narrow, scale=2.4), layout, style, noise)
    check("latent_scale_doubled", doubled, *every(1, 1, 2, 2))
    paper = with_options(narrow, scale=0.2, guidance="paper")
    check("latent", last(paper, layout, style, noise))
    zero = narrow.sample_style(batch, noise)
    check("latent_noise_based", last(narrow, layout, zero, noise), atol=5 * OFF_ZERO)
    image = (narrow.sample(batch, noise)[..., ::4, ::4] + 1) / 2
    assert ((image - floats(c, "final_noise_based")).abs() > 1e-3).float().mean() < 0.05


def test_mix_narrow(narrow: SCADM) -> None:
    c = case("mix_narrow")
    noise = GivenNoise({"x_T": floats(c, "x_T")})
    a, b, other = (batch_of(c, slice(i, i + 1)) for i in range(3))
    layout = narrow.encode_layout(a)
    style_a, style_b, style_c = (narrow.encode_style(x) for x in (a, b, other))
    zero = narrow.sample_style(a, noise)
    for name, style in (("codes_a", style_a), ("codes_b", style_b)):
        assert c.off_by(name, style.codes, *every(1, 1, 16)) < 2e-5
    assert c.off_by("codes_zero_image", zero.codes, *every(1, 1, 16)) < OFF_ZERO
    of = {k: v.tolist() for k, v in c.arrays.items() if k.endswith(("classes",)) or "classes_" in k}
    mixed = style_a.swap(style_b, of["classes_b"])
    nothing = Style(torch.zeros_like(zero.codes), zero.present)
    styles = {
        "mix": mixed.swap(zero, of["classes_noise"]),
        "mix_zero_vector": mixed.swap(nothing, of["classes_noise"]),
        "swap": style_a.swap(style_b, of["swap_classes"]),
        "full_swap": style_c,
        "interp": style_a.lerp(style_b, 0.25),
        "recon": style_a,
    }
    for name, style in styles.items():
        latent = last(narrow, layout, style, noise)
        step = latent.shape[-1] // c.arrays[f"latent_{name}"].shape[-1]
        atol = 5 * OFF_ZERO if name == "mix" else 5e-3
        assert c.off_by(f"latent_{name}", latent, *every(1, 1, step, step)) < atol, name
        image = (narrow.decode(latent)[..., ::4, ::4] + 1) / 2
        off = (image - floats(c, f"final_{name}")).abs() > 1e-3
        assert off.float().mean() < 0.01, name


def test_training_loss_and_gradients() -> None:
    c = case("loss_narrow")
    method = build(c)
    net = method.net.requires_grad_(True)
    batch, noise, t = batch_of(c), floats(c, "noise"), torch.from_numpy(c.arrays["timesteps"])
    z = net.first_stage.encode(batch.image)
    assert c.off_by("z", z, *every(1, 1, 2, 2)) < 5e-5
    a = torch.from_numpy(alphas_cumprod())[t][:, None, None, None]
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise

    def loss(drop: bool) -> Tensor:
        image = batch.image.clone()
        image[1] *= not drop
        codes = net.style_encoder(image, batch.label)
        condition = net.unet.condition(batch.label, codes, (16, 16))
        return nn.functional.mse_loss(net.unet(noisy, t, condition), noise)

    assert float(loss(False)) == pytest.approx(float(c.arrays["loss_simple_no_drop"]), rel=1e-4)
    net.unet.masked = False
    assert float(loss(False)) == pytest.approx(float(c.arrays["loss_no_mask_attn"]), rel=1e-4)
    net.unet.masked = True
    with torch.enable_grad():
        value = loss(True)
        value.backward()
    assert float(value) == pytest.approx(float(c.arrays["loss_simple"]), rel=1e-4)
    for module in ("unet", "style_encoder"):
        for key, norm in c.meta["gradient_norms"][module].items():
            gradient = net.get_parameter(f"{module}.{key}").grad
            assert gradient is not None
            assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3), key


# ---- laws -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Method:
    return methods.registry.get("sca-dm")(**TINY).load("celebamask_hq", "seeded:3")


def random_batch(count: int, classes: int = 19, side: int = 64) -> Batch:
    g = torch.Generator().manual_seed(5)
    image = torch.rand(count, 3, side, side, generator=g) * 2 - 1
    coarse = torch.randint(classes, (count, 8, 8), generator=g)
    label = resize_labels_torch(coarse, (side, side))
    ids = tuple(f"s{i}" for i in range(count))
    return Batch(ids, image, label, None, LabelSpace.named("celebamask_hq"))


def test_a_sample_does_not_depend_on_its_batch(tiny: Method) -> None:
    batch = random_batch(3)
    together = tiny.reconstruct(batch, Noise(batch.ids))
    alone = tiny.reconstruct(batch[1:2], Noise(batch.ids[1:2]))
    assert (together[1:2] - alone).abs().gt(1e-3).float().mean() < 0.01


def test_tasks_and_range(tiny: Method) -> None:
    able = "reconstruct transfer class_transfer shape_transfer subject_transfer sample mixed"
    assert tiny.can == {*able.split(), "interpolate_style"}
    batch = random_batch(2)
    noise = Noise(batch.ids)
    image = tiny.shape_transfer(batch[:1], batch[1:], Noise(batch.ids[:1]), [1, 2, 3])  # holes
    assert image.shape == (1, 3, 64, 64)
    assert float(image.abs().max()) <= 1
    one, two = (tiny.sample(batch, n) for n in (noise, Noise(batch.ids, seed=1)))
    assert not torch.allclose(one, two)  # variety comes from the start


def test_holes_follow_the_general_attention() -> None:
    layer: SpatialTransformer = seeded(SpatialTransformer(32, 40, 32))
    g = torch.Generator().manual_seed(1)
    x, codes = torch.randn(1, 16, 32, generator=g), torch.randn(1, 5, 40, generator=g)
    label = torch.arange(16).reshape(1, 4, 4) % 6 - 1  # -1 is a hole
    mask = one_hot(label, 5).flatten(2).transpose(1, 2)
    attention: Attention = layer.transformer_blocks[0].attn2  # type: ignore[assignment]
    expected = attention.masked(x, codes, mask)
    found = layer.style_term(codes, torch.where(label < 0, 5, label))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.fixture
def meta_device() -> Any:
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("meta_device")
@pytest.mark.parametrize("space", ["celebamask_hq", "cityscapes"])
def test_official_keys_and_shapes(space: str) -> None:
    method = methods.create("sca-dm", space)
    maps = method.key_maps()
    for module, key_map in maps.items():
        assert key_map.official_shapes() == shapes_of(f"sca_dm/sca_dm.{space}", module)
    averaged = maps["unet"].dotted()
    assert len(averaged) == len(set(averaged.values())) == 801
    assert not averaged.keys() & set(averaged.values())
    counts = (486_912_387, 18_069_304, 55_322_782)
    if space == "celebamask_hq":
        for (_, key_map), count in zip(maps.items(), counts, strict=True):
            shapes = key_map.official_shapes().values()
            assert sum(int(np.prod(s)) for s in shapes) == count
    assert method.size == ((256, 512) if space == "cityscapes" else (256, 256))


@pytest.mark.usefixtures("meta_device")
def test_cost_of_a_guided_step() -> None:
    unet = SCADM().setup("celebamask_hq").net.unet

    def gmac(function: Any) -> tuple[float, Any]:
        with FlopCounterMode(display=False) as counter:
            out = function()
        return counter.get_total_flops() / 2e9, out

    label, codes = torch.zeros(1, 256, 256, dtype=torch.int64), torch.zeros(1, 19, 1280)
    once, condition = gmac(lambda: unet.condition(label, codes, (64, 64)))
    null_once, null = gmac(lambda: unet.null_condition(1, (64, 64)))
    times = unet.time_biases(torch.zeros(1))
    step, eps = gmac(lambda: unet.step(torch.zeros(1, 3, 64, 64), times, condition.after(null)))
    assert eps.shape == (2, 3, 64, 64)
    assert step + (once + null_once) / 50 < 232  # the official form takes 338


# ---- options, files and bad input -------------------------------------------------------------


def test_sections_and_flat_names_are_the_same_configuration() -> None:
    c = case("ddim_narrow")
    sectioned = SCADM(**c.meta["config"]).options
    assert sectioned == SCADM(
        steps=4, scale=1.2, image_size=32, in_channels=3, model_channels=32, num_feat=1,
        n_embed=512, ch=32, resolution=128, num_classes=19, context_dim=1280,
        attention_resolutions=[8, 4, 2],
    ).options  # fmt: skip
    assert sectioned.factor == 4
    for name in ("unet_narrow", "style_narrow", "vq_narrow", "loss_narrow", "mix_narrow"):
        SCADM(**case(name).meta["config"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unet": {"chanel_mult": [1]}}, "no option 'unet.chanel_mult'"),
        ({"ddconfig": {"chs": 3}}, "no option 'ddconfig.chs'"),
        ({"step": 3}, "no option 'step'"),
        ({"steps": 4, "ddim_steps": 5}, "steps=4, ddim_steps=5"),
        ({"scale_factor": 0.18}, "scale_factor must be 1.0"),
        ({"ddconfig": {"attn_resolutions": [16]}}, "attn_resolutions"),
        ({"size": 256}, "'size' must be"),
        ({"size": [256]}, "'size' must be"),
        ({"latent_size": 64}, "latent_size: must be three whole numbers"),
        ({"latent_size": [3, 64, 64], "size": [256, 512]}, r"a latent of \(64, 64\) gives images"),
        ({"latent_size": [4, 64, 64], "in_channels": 3}, "contradict"),
        ({"context_dim": 1024}, "context_dim is 1024"),
        ({"image_size": 32, "resolution": 256}, "resolution says 256"),
        ({"guidance": "both"}, "'code' or 'paper'"),
        ({"eta": -0.1}, "eta must be 0 or more"),
        ({"eta": 3.0}, "more noise"),
        ({"model_channels": 40}, "multiple of 32"),
        ({"steps": 1000}, "the official sampler fails"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SCADM(**options)


def test_more_classes_than_the_label_space() -> None:
    with pytest.raises(UserError, match="20 classes, but 'celebamask_hq' has 19"):
        methods.create("sca-dm", "celebamask_hq", num_classes=20, **TINY)


@pytest.mark.parametrize("call", ["encode_layout", "encode_style"])
def test_labels_outside_of_the_classes(tiny: Method, call: str) -> None:
    batch = random_batch(1)
    batch.label[0, 0, 0] = 19
    with pytest.raises(UserError, match=r"label values 0\.\.19.*classes 0\.\.18"):
        getattr(tiny, call)(batch)


def test_sides_that_cannot_be_halved(tiny: Method) -> None:
    label = torch.zeros(1, 66, 64, dtype=torch.int64)
    layout = Layout(label, present_classes(label, 19))
    style = Style(torch.zeros(1, 19, 1280), torch.zeros(1, 19, dtype=torch.bool))
    with pytest.raises(UserError, match="multiples of 4"):
        tiny.render(layout, style, ZeroNoise())


def lightning_file(path: Path, ema: bool) -> dict[str, dict[str, Tensor]]:
    """A checkpoint as Lightning writes it, with a callback of a class that is not installed."""
    method = methods.create("sca-dm", "celebamask_hq", **TINY)
    maps = method.key_maps()
    states = {m: seeded_state(k.official_shapes(), i) for i, (m, k) in enumerate(maps.items())}
    prefix = method.prefixes | {"unet": "model.diffusion_model."}  # type: ignore[attr-defined]
    whole = {prefix[m] + k: v for m, state in states.items() for k, v in state.items()}
    whole["betas"] = torch.zeros(1000)
    if ema:
        averaged = {"diffusion_model." + k: v + 1 for k, v in states["unet"].items()}
        whole |= {"model_ema." + k.replace(".", ""): v for k, v in averaged.items()}
        whole["model_ema.decay"] = torch.tensor(0.9999)
        whole["model_ema.num_updates"] = torch.tensor(7, dtype=torch.int32)
    module = types.ModuleType("absent_lightning")
    callback = type("ModelCheckpoint", (), {"__module__": "absent_lightning"})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    sys.modules["absent_lightning"] = module
    extra = {callback: {"best": torch.tensor(0.5)}, "object": callback()}
    torch.save({"epoch": 235, "callbacks": extra, "state_dict": whole}, path)
    del sys.modules["absent_lightning"]
    return states


@pytest.mark.parametrize("ema", [False, True])
def test_lightning_checkpoint(tmp_path: Path, ema: bool) -> None:
    states = lightning_file(tmp_path / "epoch=000235.ckpt", ema=True)
    method = SCADM(ema=ema, **TINY).load("celebamask_hq", tmp_path)
    found = method.net.unet.state_dict()
    for key, value in found.items():
        torch.testing.assert_close(value, states["unet"][key] + int(ema))
    codebook = states["first_stage"]["quantize.embedding.weight"]
    assert torch.equal(method.net.first_stage.quantize.embedding.weight, codebook)
    assert "absent_lightning" not in sys.modules


def test_checkpoint_without_averaged_weights(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    lightning_file(path, ema=False)
    with pytest.raises(UserError, match="no averaged weights") as caught:
        SCADM(**TINY).load("celebamask_hq", path)
    assert "ema: false" in caught.value.hint
    SCADM(ema=False, **TINY).load("celebamask_hq", path)


def test_own_file_takes_other_sampling_options(tmp_path: Path, tiny: Method) -> None:
    from sisbench.methods.loadable import save_weights

    path = tmp_path / "own.safetensors"
    save_weights(tiny, path, {})
    again = SCADM(steps=5).load("celebamask_hq", path)
    assert len(again.ddim) == again.options.steps == 5
    assert again.options.model_channels == 32
    with pytest.raises(UserError, match="trained with num_feat"):
        SCADM(num_feat=2).load("celebamask_hq", path)


# ---- full size --------------------------------------------------------------------------------


@pytest.fixture
def freed() -> Any:
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("freed")
def test_style_full() -> None:
    steps = {
        "first_layer": (1, 8, 16, 16),
        "enc_layer_0": (1, 16, 8, 8),
        "enc_layer_5": (1, 64),
        "dec_layer_0": (1, 64),
        "dec_layer_1": (1, 64, 2, 2),
        "dec_layer_4": (1, 8, 16, 16),
    }
    check_style(case("style_full"), steps, 4)


@pytest.mark.slow
@pytest.mark.usefixtures("freed")
def test_first_stage_full() -> None:
    check_first_stage(case("vq_full"))


@pytest.mark.slow
@pytest.mark.usefixtures("freed")
def test_unet_full() -> None:
    hooks = {
        "middle_block": (1, 28),
        "input_3": (1, 28, 2, 2),
        "input_5": (1, 28, 2, 2),
        "input_11": (1, 28),
        "output_2": (1, 28),
        "output_5": (1, 28, 2, 2),
        "output_11": (1, 28, 4, 4),
    }
    check_unet(case("unet_full"), 1e-4, hooks)


@pytest.mark.slow
@pytest.mark.usefixtures("freed")
def test_ddim_full() -> None:
    c = case("ddim_full")
    check_ddim(build(c), c, 1e-3, 4)
