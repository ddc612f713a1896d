"""SEAN-CLADE against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, Case, every, shapes_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.scam_frame import CONVS, NORMS, start_size
from sisbench.methods.layers.spade import Block
from sisbench.methods.sean_clade.network import Present, SeanCladeNorm
from sisbench.methods.seeded import seeded_state

ATOL = 1e-4
TINY = {
    "height": 64,
    "width": 64,
    "num_filters_last_layer": 4,
    "style_dim": 16,
    "encoder_first_filters": 4,
}


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded_state(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def tiny(count: int = 5, **options: object) -> Method:
    method = methods.create("sean-clade", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def batch_of(cells: tuple[int, ...], count: int = 5, width: int = 64) -> Batch:
    """One sample for each cell size, from outlines everywhere (1) to large plain regions."""
    generator = torch.Generator().manual_seed(1)
    labels = []
    for cell in cells:
        coarse = torch.randint(0, count, (64 // cell, width // cell), generator=generator)
        labels.append(coarse.repeat_interleave(cell, 0).repeat_interleave(cell, 1))
    image = torch.rand(len(cells), 3, 64, width, generator=generator) * 2 - 1
    ids = tuple(f"s{i}" for i in range(len(cells)))
    return Batch(ids, image, torch.stack(labels), None, space(count))


# ---- the official outputs -----------------------------------------------------------------------


class OfficialStream:
    """The official draws: (N, W, H, 1) from torch's generator in its order, axes 1 and 3
    swapped."""

    def __init__(self, seed: int, count: int) -> None:
        self.generator, self.count, self.names = torch.Generator().manual_seed(seed), count, []

    def normal(self, name: str, *shape: int) -> Tensor:
        self.names.append(name)
        _, height, width = shape
        drawn = torch.randn(self.count, width, height, 1, generator=self.generator)
        return drawn.swapaxes(1, 3)


@pytest.mark.slow
def test_official_size_matches_within_its_operations() -> None:
    case = Case.read("spade/sean_clade.celebamask19")
    method, batch, at = case.method(), case.batch(), every(1, 1, 4, 4)
    found: dict[str, Tensor] = {}
    for layer in ("blocks.0", "blocks.3.norm_s", "blocks.4"):
        module = method.net.generator.get_submodule(layer)
        module.register_forward_hook(lambda _m, _i, out, layer=layer: found.update({layer: out}))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            style, layout = method.encode_style(batch), method.encode_layout(batch)
            out = method.render(layout, style, ZeroNoise())
        assert case.off_by("style_codes", style.codes, *every(1, 1, 4)) < ATOL
        assert case.off_by("out_nonoise", out, *at) < ATOL
        twice = {k: F.interpolate(v, scale_factor=2.0) for k, v in found.items()}
        assert case.off_by("block_0", twice["blocks.0"], *every(1, 16, 2, 2)) < ATOL
        assert case.off_by("block_3.mod_res", found["blocks.3.norm_s"], *every(1, 32, 4, 4)) < ATOL
        assert case.off_by("block_4", twice["blocks.4"], *every(1, 8, 8, 8)) < ATOL
        stream = OfficialStream(case.meta["noise_seed"], 1)
        assert case.off_by("out_noise", method.render(layout, style, stream), *at) < ATOL
        assert stream.names[:3] == [
            *(f"SEANCLADE_block_0.mod_{k}" for k in "01"),
            "SEANCLADE_block_1.mod_0",
        ]
        assert len(stream.names) == len(set(stream.names)) == 18
    swapped = method.transfer(batch, case.batch("ref_label", "ref_image"), ZeroNoise())
    assert case.off_by("out_swap_full_zero", swapped, *at) < ATOL
    assert counter.get_total_flops() / 2e9 <= 75  # GMAC; the plain form takes 222 and the encoder's


def test_a_tall_picture_matches() -> None:
    case = Case.read("spade/sean_clade.rect")
    method = case.method()
    found: dict[int, Tensor] = {}
    for i in (0, 5):
        method.net.generator.blocks[i].register_forward_hook(
            lambda _m, _i, out, i=i: found.update({i: F.interpolate(out, scale_factor=2.0)})
        )
    codes = torch.from_numpy(case.arrays["codes"]).float()
    label = torch.from_numpy(case.arrays["label"]).long()
    with torch.inference_mode():
        out = method.net.generator(label, codes, ZeroNoise())
    assert method.size == (256, 170)
    assert case.off_by("act_block_0", found[0], *every(1, 8)) < ATOL
    assert case.off_by("act_block_5", found[5], *every(1, 4, 8, 8)) < ATOL
    assert case.off_by("out_nonoise", out, *every(1, 1, 4, 4)) < ATOL


def test_a_wide_picture_starts_as_the_official_formula_says() -> None:
    assert start_size((128, 192), 7) == (4, 3)
    assert start_size((256, 170), 7) == (8, 5)
    method = tiny(width=96)
    batch = batch_of((16,), width=96)
    assert method.reconstruct(batch, ZeroNoise()).shape == (1, 3, 64, 96)


@torch.inference_mode()
def test_layers_and_block_match() -> None:
    case = Case.read("spade/sean_clade.blocks")
    label = torch.from_numpy(case.arrays["label"]).long()
    x, codes, noise = (torch.from_numpy(case.arrays[k]).float() for k in ("x", "codes", "noise"))
    maps = Present.of(label, codes)
    given = GivenNoise({"n": noise.swapaxes(1, 3)})
    for name, length in (("modulation", 64), ("modulation_nostyle", None)):
        root = nn.ModuleDict({"L": SeanCladeNorm(32, 5, length)}).eval()
        keys = KeyMap(root)
        root["L"].map_keys(keys, "L", "L")
        state = {k.removeprefix("L."): s for k, s in keys.official_shapes().items()}
        keys.load({f"L.{k}": v for k, v in case.weights(name, state).items()}, name)
        assert case.off_by(name, root["L"](x, maps, given, "n"), *every(1, 2)) < 5e-5, name
    root = nn.ModuleDict({"B": Block(32, 16, lambda c: SeanCladeNorm(c, 5, 64))}).eval()
    keys = KeyMap(root)
    root["B"].map_keys(keys, "B", True, "B", CONVS)
    for ours, theirs in NORMS.items():
        getattr(root["B"], ours).map_keys(keys, f"B.{ours}", f"B.{theirs}")
    state = {k.removeprefix("B."): s for k, s in keys.official_shapes().items()}
    keys.load({f"B.{k}": v for k, v in case.weights("block", state).items()}, "block")
    out = root["B"](x, lambda layer, y, _: layer(y, maps, ZeroNoise(), ""))
    assert case.off_by("block_nonoise", out, *every(1)) < 5e-5


def test_key_layouts_are_the_official_ones() -> None:
    for where, manifest, params in (
        ("celebamask_hq", "celebamask19", 240_121_511),
        ("ade20k", "ade20k151", 764_286_119),
    ):
        with torch.device("meta"):
            method = methods.create("sean-clade", where)
        for module, keys in method.key_maps().items():
            shapes = keys.official_shapes()
            if where == "ade20k":  # its manifest lists the 151 linear layers as one
                shapes = {re.sub(r"code_\d+", "code_{j}", k): s for k, s in shapes.items()}
            assert shapes == shapes_of(f"spade/sean_clade.{manifest}", module)
        unused = 2 * 3  # the shares of the three layers of the last block
        assert sum(p.numel() for p in method.net.generator.parameters()) == params - unused
        assert sum(p.numel() for p in method.net.encoder.parameters()) == 1_568_576


# ---- laws ---------------------------------------------------------------------------------------


def plain(w: dict[str, Tensor], seg: Tensor, codes: Tensor, size: tuple[int, int]) -> Tensor:
    """The generator as its specification writes it: one-hot maps, a style map for all classes."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight = w.get(f"{name}.weight")
        if weight is None:
            weight = w[f"{name}.weight_orig"]
            weight = weight / (w[f"{name}.weight_u"] @ weight.flatten(1) @ w[f"{name}.weight_v"])
        return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(name: str, x: Tensor) -> Tensor:
        free = f"{name}.normalization_layer.running"
        h = F.batch_norm(x, w[f"{free}_mean"], w[f"{free}_var"])
        s = F.interpolate(seg, x.shape[2:])
        chosen = s.argmax(1)
        gamma, beta = (
            F.embedding(chosen, w[f"{name}.segmap_encoder.{k}"]).permute(0, 3, 1, 2)
            for k in ("weight", "bias")
        )
        if f"{name}.mlp_st_gamma.weight" in w:
            style = torch.zeros(len(x), codes.shape[2], *x.shape[2:])
            for j in range(seg.shape[1]):
                linear = f"{name}.st_proj.style_code_{j}_proj.0"
                vector = F.relu(F.linear(codes[:, j], w[f"{linear}.weight"], w[f"{linear}.bias"]))
                style += vector[:, :, None, None] * s[:, j : j + 1]
            a, b = (torch.sigmoid(w[f"{name}.blending_{k}"]) for k in ("gamma", "beta"))
            gamma = a * conv(f"{name}.mlp_st_gamma", style) + (1 - a) * gamma
            beta = b * conv(f"{name}.mlp_st_beta", style) + (1 - b) * beta
        return (1 + gamma) * h + beta

    x = conv("first_conv", F.interpolate(seg, start_size(size, 7)))
    for i in range(7):
        name = f"backbone.SEANCLADE_block_{i}.sean_clade_block"
        skip = x
        if f"{name}.conv_res.weight_orig" in w:
            skip = conv(f"{name}.conv_res", norm(f"{name}.mod_res", x))
        x = conv(f"{name}.conv_0.1", F.leaky_relu(norm(f"{name}.mod_0", x), 0.2))
        x = skip + conv(f"{name}.conv_1.1", F.leaky_relu(norm(f"{name}.mod_1", x), 0.2))
        if i == 6:
            x = F.interpolate(x, size)
        elif i != 1:
            x = F.interpolate(x, scale_factor=2.0)
    return torch.tanh(conv("last_conv.1", F.leaky_relu(x, 0.2)))


@pytest.mark.parametrize("width", [64, 96, 40])
def test_equals_the_plain_form(width: int) -> None:
    """Also with holes, absent classes, plain and busy samples in one batch."""
    method = tiny(7, width=width)
    batch = batch_of((8, 1, 2), 7, width)
    label = torch.where(batch.label == 4, 1, batch.label)
    label[:, 12:30, 5:33] = -1
    layout = Layout(label, torch.ones(3, 7, dtype=torch.bool))
    with torch.inference_mode():
        codes = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
        style = replace(method.encode_style(batch), codes=codes)
        out = method.render(layout, style, ZeroNoise())
    expected = plain(states(method)["generator"], one_hot(label, 7), codes, (64, width))
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    method, batch = tiny(), batch_of((32, 1, 16))
    together = method.reconstruct(batch, Noise(batch.ids, seed=5))
    for i in range(3):
        one = batch[i : i + 1]
        alone = method.reconstruct(one, Noise(one.ids, seed=5))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=0)


def test_a_region_that_half_the_resolution_loses_has_no_code() -> None:
    method, batch = tiny(), batch_of((64,))
    label = torch.zeros_like(batch.label)
    label[0, 1, 1], label[0, 32, 32] = 3, 4
    style = method.encode_style(Batch(batch.ids, batch.image, label, None, batch.space))
    assert style.present[0].tolist() == [True, False, False, False, True]
    assert not style.codes[0, 3].any()


def test_gradients_flow() -> None:
    method = tiny()
    net = method.net.train().requires_grad_(True)
    for cell in (1, 32):
        net.zero_grad()
        batch = batch_of((cell, cell, cell))
        codes = method.encode_style(batch).codes
        out = net.generator(batch.label, codes, Noise(batch.ids))
        out.square().mean().backward()
        assert not [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_classes_can_be_exchanged_and_nothing_is_sampled() -> None:
    method = tiny()
    assert {"class_transfer", "subject_transfer", "interpolate_style"} <= method.can
    assert not {"sample", "mixed", "interpolate_shape"} & method.can


def test_a_map_without_any_class_is_drawn() -> None:
    method, batch = tiny(), batch_of((16,))
    layout = Layout(torch.full_like(batch.label, -1), torch.zeros(1, 5, dtype=torch.bool))
    with torch.inference_mode():
        out = method.render(layout, method.encode_style(batch), ZeroNoise())
    assert out.isfinite().all()


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_up_layers": 3}, "4 or more"),
        ({"height": 16}, "too small"),
        ({"kernel_size": 1}, "kernel_size must be 3"),
        ({"small_h": 9}, "small_h is 9"),
        ({"style_dim": 0}, "positive"),
        ({"style_dimm": 3}, "did you mean 'style_dim'"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


def test_a_wrong_state_says_why() -> None:
    method = tiny()
    with pytest.raises(UserError, match="style_code_5_proj"):
        method.load_state(states(tiny(6)))
    with pytest.raises(UserError, match="takes the modules generator, encoder"):
        method.load_state({"generator": states(method)["generator"]})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "spade").glob("sean_clade.*.npz")}
    assert names == {"blocks", "celebamask19", "rect"}
