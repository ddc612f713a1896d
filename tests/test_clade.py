"""CLADE against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, Case, every, shapes_of
from plain_spade import Weights, free_norm, generate
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.clade.network import CladeNorm
from sisbench.methods.clade.position import position_maps
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.class_table import ClassMaps
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.layers.spade import Block
from sisbench.methods.seeded import seeded_state

ATOL = 1e-4
TINY = {"ngf": 4, "crop_size": 64, "use_vae": False}
SCAM = {"variant": "scam", "height": 64, "width": 64, "num_filters_last_layer": 4, "nef": 4}


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def tiny(count: int = 5, **options: object) -> Method:
    method = methods.create("clade", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded_state(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def blobs(count: int, cell: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (2, 64 // cell, 64 // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def batch_of(label: Tensor, instance: Tensor | None = None, count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(len(label), 3, *label.shape[1:], generator=generator) * 2 - 1
    return Batch(tuple(f"s{i}" for i in range(len(label))), image, label, instance, space(count))


# ---- the official outputs -----------------------------------------------------------------------


def check_generator(name: str, inner: dict[str, tuple[slice, ...]], *at: slice) -> float:
    """The picture and activations of one fixture; returns GMAC."""
    case = Case.read(f"spade/clade.{name}")
    method, found = case.method(), {}
    for layer in inner:
        module = method.net.netG.get_submodule(layer)
        module.register_forward_hook(lambda _m, _i, out, layer=layer: found.update({layer: out}))
    with FlopCounterMode(display=False) as counter:
        out = method.reconstruct(case.batch(), ZeroNoise())
    assert case.off_by("out", out, *at) < ATOL
    for layer, step in inner.items():
        assert case.off_by(layer, found[layer], *step) < ATOL, layer
    if "dist" in case.arrays:
        dist = position_maps(case.batch().label)
        assert case.off_by("dist", dist, *every(1, 1, 4, 4)) < 1e-5
    return counter.get_total_flops() / 2e9


def test_instances_and_dont_care_match() -> None:
    inner = {"head_0": (), "up_0.norm_s": every(1, 4), "up_1": every(1, 4)}
    check_generator("tiny_inst", inner)


@pytest.mark.slow
def test_official_size_of_ade20k_with_positions_matches_within_its_operations() -> None:
    inner = {
        "head_0": every(1, 16),
        "up_0.norm_s": every(1, 32, 4, 4),
        "up_1": every(1, 8, 8, 8),
    }
    assert check_generator("ade151_icpe", inner, *every(1, 1, 4, 4)) <= 42.2


def test_position_maps_match() -> None:
    case = Case.read("spade/clade.icpe")
    label = torch.from_numpy(case.arrays["label"])[None].long()
    assert case.off_by("dist", position_maps(label)[0]) < 1e-5
    assert case.off_by("dist_unnormalised", position_maps(label, normalised=False)[0]) < 1e-5


@torch.inference_mode()
def test_layers_and_block_match() -> None:
    case = Case.read("spade/clade.blocks")
    label, instance = (torch.from_numpy(case.arrays[k]).long() for k in ("label", "instance"))
    x = torch.from_numpy(case.arrays["x"]).float()
    maps = ClassMaps(label, instance_edges(instance), position_maps(label))
    forms = {
        "layer": {},
        "layer_icpe": {"position": True},
        "layer_icpe_instance": {"position": True, "instances": True},
    }
    for name, options in forms.items():
        root = nn.ModuleDict({"L": CladeNorm(24, 9, **options)}).eval()
        keys = KeyMap(root)
        root["L"].map_keys(keys, "L", "L")
        state = {k.removeprefix("L."): s for k, s in keys.official_shapes().items()}
        keys.load({f"L.{k}": v for k, v in case.weights(name, state).items()}, name)
        assert case.off_by(name, root["L"](x, maps), *every(1, 2)) < 5e-5, name
    root = nn.ModuleDict({"B": Block(24, 16, lambda c: CladeNorm(c, 9, True, True), extra=1)})
    keys = KeyMap(root.eval())
    root["B"].map_keys(keys, "B", True)
    for norm in ("norm_0", "norm_1", "norm_s"):
        getattr(root["B"], norm).map_keys(keys, f"B.{norm}", f"B.{norm}")
    state = {k.removeprefix("B."): s for k, s in keys.official_shapes().items()}
    keys.load({f"B.{k}": v for k, v in case.weights("block", state).items()}, "block")
    out = root["B"](x, lambda layer, y, _: layer(y, maps))
    assert case.off_by("block", out, *every(1, 2)) < 5e-5


def check_scam(name: str, inner: dict[str, tuple[slice, ...]], step: int) -> float:
    """CLADE or SPADE of SCAM's repository; returns GMAC of the generator."""
    case = Case.read(f"spade/{name}")
    method, found = case.method(), {}
    for layer in inner:
        module = method.net.netG.get_submodule(layer)
        module.register_forward_hook(lambda _m, _i, out, layer=layer: found.update({layer: out}))
    label, image = torch.from_numpy(case.arrays["label"]).long(), case.image("image")
    ids = tuple(str(i) for i in range(len(label)))
    photo_label = F.interpolate(label[:, None].float(), image.shape[2:]).long()[:, 0]
    photo = Batch(ids, image, photo_label, None, case.space)
    drawn = Batch(ids, torch.zeros(len(label), 3, *label.shape[1:]), label, None, case.space)
    atol, at = case.meta["tolerance"]["suggested_atol"], every(1, 1, step, step)
    with torch.inference_mode():
        style, layout = method.encode_style(photo), method.encode_layout(drawn)
        assert case.off_by("mu", style.codes) < ATOL
        assert case.off_by("logvar", style.extra["logvar"]) < ATOL
        eps = GivenNoise({"eps": torch.from_numpy(case.arrays["eps"]).float()})
        assert case.off_by("out_eps", method.render(layout, style, eps), *at) < atol
        with FlopCounterMode(display=False) as counter:
            out = method.render(layout, style, ZeroNoise())
        assert case.off_by("out_mu", out, *at) < atol
    for layer, cut in inner.items():
        key = (
            layer.replace("blocks.", "act_block_").replace(".norm_", "_mod_").replace("_s", "_res")
        )
        got = found[layer]
        if "." not in layer.removeprefix("blocks."):  # the fixture's is after the enlargement
            got = F.interpolate(got, scale_factor=2.0)
        assert case.off_by(key, got, *cut) < atol, layer
    if "out_swap" in case.arrays:
        other = replace(
            style, codes=style.codes.flip(0), extra={"logvar": style.extra["logvar"].flip(0)}
        )
        with torch.inference_mode():
            out = method.render(layout, other, ZeroNoise())
        assert case.off_by("out_swap", out, *at) < atol
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", ["scam-clade.small", "scam-spade.small"])
def test_the_networks_of_scams_table_match(name: str) -> None:
    inner = {
        "blocks.0": every(1, 8),
        "blocks.3.norm_s": every(1, 8),
        "blocks.3.norm_0": every(1, 8),
        "blocks.3": every(1, 8, 2, 2),
    }
    check_scam(name, inner, 2)


@pytest.mark.slow
def test_the_official_size_of_scams_table_matches() -> None:
    inner = {
        "blocks.0": every(1, 64),
        "blocks.3.norm_s": every(1, 128),
        "blocks.3.norm_0": every(1, 128),
        "blocks.3": every(1, 64, 4, 4),
    }
    assert check_scam("scam-clade.celebahq", inner, 4) <= 42.2


def test_the_repeated_activation_is_what_matches() -> None:
    """Applied once, the network of SCAM's table is far off: the option cannot be ignored."""
    case = Case.read("spade/scam-clade.small")
    method = case.method()
    for block in method.net.netG.blocks:
        block.slope = 0.2
    label = torch.from_numpy(case.arrays["label"]).long()
    with torch.inference_mode():
        z = torch.from_numpy(case.arrays["mu"])
        assert case.off_by("out_mu", method.net.netG(label, None, z), *every(1, 1, 2, 2)) > 1e-2


def test_key_layouts_are_the_official_ones() -> None:
    built = {
        "clade.ade20k151": ("clade", "ade20k", {"use_vae": False}),
        "clade.ade20k151_icpe": ("clade", "ade20k", {"use_vae": False, "add_dist": True}),
        "clade.celebamask19_vae": ("clade", "celebamask_hq", {}),
        "scam-clade.celebahq": ("clade", "celebamask_hq", {"variant": "scam"}),
        "scam-spade.celebahq": ("spade", "celebamask_hq", {"variant": "scam"}),
    }
    count = {}
    for manifest, (name, where, options) in built.items():
        with torch.device("meta"):
            method = methods.create(name, where, **options)
        for module, keys in method.key_maps().items():
            assert keys.official_shapes() == shapes_of(f"spade/{manifest}", module), manifest
        count[manifest] = sum(p.numel() for p in method.net.netG.parameters())
    assert count["clade.ade20k151"] == 71_427_267
    assert count["clade.ade20k151_icpe"] == 71_427_267 + 108
    assert count["clade.celebamask19_vae"] == 83_988_163


# ---- laws ---------------------------------------------------------------------------------------


def plain_norm(dist: Tensor | None, classes: int):  # type: ignore[no-untyped-def]
    """The layer as the official code writes it: one-hot, argmax, table."""

    def norm(w: Weights, name: str, x: Tensor, seg: Tensor, codes: None) -> Tensor:
        table = f"{name}.class_specified_affine"
        chosen = seg[:, :classes].argmax(1)
        weight, bias = (F.embedding(chosen, w[f"{table}.{k}"]) for k in ("weight", "bias"))
        weight, bias = weight.permute(0, 3, 1, 2), bias.permute(0, 3, 1, 2)
        if dist is not None:
            small = F.interpolate(dist, x.shape[2:], mode="nearest")
            parts = [
                (w[f"{table}.dist_conv_{p}.weight"], w[f"{table}.dist_conv_{p}.bias"]) for p in "wb"
            ]
            weight = weight * (1 + F.conv2d(small, *parts[0]))
            bias = bias * (1 + F.conv2d(small, *parts[1]))
        y = free_norm(w, name, x) * weight + bias
        if f"{name}.inst_conv.weight" in w:
            edges = F.conv2d(
                seg[:, classes:], w[f"{name}.inst_conv.weight"], w[f"{name}.inst_conv.bias"]
            )
            y = torch.cat([y, edges], 1)
        return y

    return norm


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_dist": True},
        {"add_dist": True, "no_instance": False},
        {"num_upsampling_layers": "most", "crop_size": 128},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [2, 32])
def test_equals_the_plain_form(options: dict[str, object], cell: int) -> None:
    """Also with holes: a pixel without a class takes the table's first row, as argmax says."""
    method = tiny(**options)
    size = method.size[0]
    label = F.interpolate(blobs(5, cell)[:, None].float(), (size, size))[:, 0].long()
    label[:, size // 4 : size // 2, 5 : size // 2] = -1
    instance = label * 1000 if method.semantics.instances else None
    layout = Layout(label, torch.ones(2, 5, dtype=torch.bool), instance)
    with torch.inference_mode():
        out = method.render(layout, method.encode_style(batch_of(label, instance)), ZeroNoise())
    seg = one_hot(label, 5)
    if instance is not None:
        seg = torch.cat([seg, instance_edges(instance)], 1)
    dist = position_maps(label) if method.options.add_dist else None
    weights, mode = states(method)["netG"], method.options.num_upsampling_layers or "normal"
    plain = generate(weights, seg, method.net.netG.start, mode=mode, norm=plain_norm(dist, 5))
    torch.testing.assert_close(out, plain, atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", [{**TINY, "use_vae": True, "encoder_size": 64}, SCAM], ids=str)
def test_a_sample_does_not_depend_on_its_batch(options: dict[str, object]) -> None:
    method = methods.create("clade", space(5), **options)
    method.load_state(states(method))
    batch = batch_of(blobs(5))
    together = method.reconstruct(batch, Noise(batch.ids))
    for i in range(2):
        one = batch[i : i + 1]
        alone = method.reconstruct(one, Noise(one.ids))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=0)


def test_gradients_flow() -> None:
    net = tiny(add_dist=True, no_instance=False).net.netG.train().requires_grad_(True)
    label = blobs(5, 4)
    net(label, instance_edges(label), None).square().mean().backward()
    assert not [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_positions_skip_class_0_and_holes_and_follow_the_drawn_map() -> None:
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[0, 1:4, 1:4], label[0, 6:, 6:] = 2, -1
    dist = position_maps(label)
    assert not dist[:, :, label[0] <= 0].any()
    assert dist[0, 0, 1, 1] == dist[0, 1, 1, 1] < -0.99
    method = tiny(add_dist=True)
    one, other = batch_of(blobs(5)), batch_of(blobs(5, 8, seed=5))
    layout = method.encode_layout(one).swap(method.encode_layout(other), [2])
    alone = replace(layout, label=layout.label.clone())
    style = method.encode_style(one)
    with torch.inference_mode():
        drawn = method.render(layout, style, ZeroNoise())
        assert torch.equal(drawn, method.render(alone, style, ZeroNoise()))


def test_style_is_one_vector_with_the_encoder_and_none_without() -> None:
    method = tiny(use_vae=True, encoder_size=64, nef=4, z_dim=8)
    assert {"reconstruct", "transfer", "sample", "interpolate_style"} <= method.can
    assert "one global style" in (why_not(method, "class_transfer") or "")
    plain, batch = tiny(), batch_of(blobs(5))
    assert plain.can == {"reconstruct", "shape_transfer"}
    with pytest.raises(Unavailable, match="no image encoder"):
        plain.transfer(batch, batch, ZeroNoise())


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm_mode": "spade"}, "norm_mode must be 'clade'"),
        ({"norm_G": "spectralspadeinstance3x3"}, "batch norm"),
        ({"add_distt": True}, "did you mean 'add_dist'"),
        ({"variant": "scamm"}, "official or scam"),
        ({"height": 64, "variant": "official"}, "'height' is no option of the variant 'official'"),
        ({"variant": "scam"}, "is no option of the variant 'scam'"),
        ({"use_vae": True}, "crop_size >= 256"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_up_layers": 3}, "4 or more"),
        ({"kernel_size": 5}, "kernel_size must be 3"),
        ({"height": 16}, "too small for 7 blocks"),
    ],
    ids=str,
)
def test_options_of_scams_frame_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        methods.create("clade", space(5), **{**SCAM, **options})


def test_instances_are_asked_for() -> None:
    with pytest.raises(UserError, match="instance edges"):
        tiny(no_instance=False).reconstruct(batch_of(blobs(5)), ZeroNoise())


def test_a_wrong_state_says_why() -> None:
    with pytest.raises(UserError, match="dist_conv"):
        tiny(add_dist=True).load_state(states(tiny()))
    with pytest.raises(UserError, match="another width"):
        tiny().load_state(states(tiny(ngf=8)))


def test_every_fixture_is_used() -> None:
    found = {p.name.removesuffix(".npz") for p in (FIXTURES / "spade").glob("*clade.*.npz")}
    clade = {n for n in found if n.startswith(("clade", "scam-clade"))}
    assert clade == {
        *(f"clade.{n}" for n in ("tiny_inst", "ade151_icpe", "icpe", "blocks")),
        *("scam-clade.small", "scam-clade.celebahq"),
    }
