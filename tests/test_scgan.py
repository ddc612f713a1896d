"""SC-GAN against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import FIXTURES, Case, every, seeded, shapes_of
from plain_scgan import generate
from torch import Tensor

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.label_maps import LabelPyramid
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.spade import NormKind
from sisbench.methods.scgan.generator import Block
from sisbench.methods.scgan.routing import Blur, pool_channels

TINY: dict[str, Any] = {"ngf": 4, "nff": 3, "nrf": 4, "crop_size": 64, "temperature": 40.0}
FACE = {"position": True, "pyr_pos": True, "pyr_rng": 4, "no_spectral_on_routing": True}
SCENE = {"position": False, "pyr_pos": False, "num_experts_norm": 4, "use_vae": False}
ATOL = 1e-4


@pytest.fixture(autouse=True)
def _no_graphs() -> Any:
    with torch.no_grad():
        yield


def space(count: int, name: str = "test") -> LabelSpace:
    return LabelSpace(name, tuple(f"c{i}" for i in range(count)))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    found = {}
    for module, keys in method.key_maps().items():
        state = seeded(keys.official_shapes(), seed)
        # Experts that differ: seeded ones are nearly alike.
        found[module] = {k: v * 2 if "affine" in k else v for k, v in state.items()}
    return found


def tiny(count: int = 5, **options: Any) -> Method:
    method = methods.create("sc-gan", space(count), **{**TINY, **SCENE, **options})
    return method.load_state(states(method))


def blobs(count: int, batch: int = 2, size: int = 64, cell: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (batch, size // cell, size // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def batch_of(label: Tensor, of: LabelSpace | None = None) -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(len(label), 3, *label.shape[1:], generator=generator) * 2 - 1
    return Batch(ids, image, label, None, of or space(5))


# ---- the official outputs -----------------------------------------------------------------------


def test_layers_match() -> None:
    case = Case.read("scgan/scgan.blocks")
    config, arrays = case.meta["config"], {k: torch.from_numpy(v) for k, v in case.arrays.items()}
    block = Block(24, 16, 19, NormKind(True, "syncbatch", 3), (3, 3)).eval()
    keys = KeyMap(block)
    block.map_keys(keys, "", True)
    keys.same()
    state = seeded(keys.official_shapes(), case.meta["weights"]["block"]["seed"])
    keys.load({k: v * 20 if "affine" in k else v for k, v in state.items()}, "block")
    x, label = arrays["x"].float(), arrays["label"].long()
    conv, norm = (arrays[f"logits_{k}"].float().softmax(1) for k in ("conv", "norm"))
    level = LabelPyramid(label, 19).at((12, 16))
    assert case.off_by("norm_0", block.norm_0(x, norm), *every(1, 2)) < ATOL
    assert case.off_by("conv_0", block.conv_0(x, conv), *every(1, 2)) < ATOL
    assert case.off_by("shortcut", block.shortcut(x, level), *every(1, 2)) < ATOL
    assert case.off_by("block", block(x, level, (conv, norm)), *every(1, 2)) < ATOL
    for name in ("blur", "blur_relative"):
        o = config[name]
        blur = Blur(o["size"], o["sigma"], o["iterations"], o["relative"])
        strength = blur(label, torch.ones(label.shape))
        blurred = one_hot(label, 19) * strength[:, None]
        assert case.off_by(name, blurred, *every(1, 3)) < 1e-5
    assert case.off_by("pool", pool_channels(x, config["pool_bins"])) < 1e-5


def test_routing_matches() -> None:
    case = Case.read("scgan/scgan.routing")
    method = methods.create("sc-gan", case.space, **case.meta["config"])
    routing = method.net.netG.pyramid_spaital_routing
    keys = KeyMap(routing)
    routing.map_keys(keys, "", False)
    keys.same()
    seed = case.meta["weights"]["pyramid_spaital_routing"]["seed"]
    keys.load(seeded(keys.official_shapes(), seed), "routing")
    label = torch.from_numpy(case.arrays["label"]).long()
    for i, (conv, norm) in enumerate(routing(label), 1):
        cut = every(1, 1, 2, 2) if i == 6 else ()
        assert case.off_by(f"conv{i}", conv, *cut) < ATOL
        assert case.off_by(f"norm{i}", norm, *cut) < ATOL
    image = routing.toRGB(routing.features(label)[-1])
    assert case.off_by("im", image, *every(1, 1, 2, 2)) < ATOL


def test_a_small_generator_matches_without_its_encoder() -> None:
    case = Case.read("scgan/scgan.small-vae")
    method = methods.create(case.meta["method"], case.space, **case.meta["config"])
    shapes = method.key_maps()["netG"].official_shapes()
    method.load_state({"netG": seeded(shapes, case.meta["weight_seed"])})
    noise = GivenNoise({"eps": torch.from_numpy(case.arrays["z"])})
    batch = batch_of(torch.from_numpy(case.arrays["label"]).long(), case.space)
    out = method.sample(batch, noise)
    assert case.off_by("image", out, *every(1, 1, 4, 4)) < ATOL
    assert method.can == {"sample"}
    assert "netE" in (why_not(method, "transfer") or "")
    with pytest.raises(Unavailable, match="netE"):
        method.reconstruct(batch, ZeroNoise())
    routes = method.net.netG.pyramid_spaital_routing(batch.label)
    assert case.off_by("routing_w1", routes[0][0], *every(1, 1, 2, 2)) < ATOL
    assert case.off_by("routing_w6", routes[5][0], *every(1, 1, 8, 8)) < ATOL


@pytest.mark.slow
def test_official_size_matches() -> None:
    case = Case.read("scgan/scgan.celeba512")
    method = methods.create("sc-gan", "celebamask_hq", **case.meta["config"])
    shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
    seeds = case.meta["weights"]
    method.load_state({m: seeded(s, seeds[m]["seed"]) for m, s in shapes.items()})
    inner: dict[str, Tensor] = {}
    for name in ("head_0", "G_middle_1", "up_1"):
        module = method.net.get_submodule(f"netG.{name}")
        module.register_forward_hook(lambda _m, _i, out, name=name: inner.update({name: out}))
    batch = batch_of(torch.from_numpy(case.arrays["label_stored"]).long(), method.space)
    batch = Batch(batch.ids, case.image("image"), batch.label, None, method.space)
    cut = every(1, 1, 8, 8)
    assert case.off_by("out_mu", method.reconstruct(batch, ZeroNoise()), *cut) < ATOL
    noise = GivenNoise({"eps": torch.from_numpy(case.arrays["z"]).float()})
    assert case.off_by("act_head_0", inner["head_0"], *every(1, 32)) < ATOL
    assert case.off_by("act_G_middle_1", inner["G_middle_1"], *every(1, 32, 2, 2)) < ATOL
    assert case.off_by("act_up_1", inner["up_1"], *every(1, 16, 8, 8)) < ATOL
    assert case.off_by("out_z", method.sample(batch, noise), *cut) < ATOL
    style = method.encode_style(batch)
    assert case.off_by("mu", style.codes) < ATOL
    assert case.off_by("logvar", style.extra["logvar"]) < ATOL


def test_key_layouts_are_the_official_ones() -> None:
    with torch.device("meta"):
        face = methods.create("sc-gan", "celebamask_hq")
        scene = methods.create("sc-gan", "ade20k")
    assert (face.size, scene.size) == ((512, 512), (256, 256))
    for method, manifest in ((face, "celebamaskhq512"), (scene, "ade20k256")):
        for module, keys in method.key_maps().items():
            assert keys.official_shapes() == shapes_of(f"scgan/scgan.{manifest}", module)
    assert sum(p.numel() for p in face.net.netG.parameters()) == 147_570_054
    assert sum(p.numel() for p in face.net.netE.parameters()) == 6_672_656


# ---- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        FACE,
        {"position": True},
        {"pyr_pos": True},
        {"use_vae": True, "norm_G": "sccbatch3x3"},
        {"norm_G": "spectralsccinstance3x3"},
        {"aspect_ratio": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [2, 32])
def test_equals_the_plain_form(options: dict[str, Any], cell: int) -> None:
    method = tiny(**options)
    label = blobs(5, cell=cell)[:, : method.size[0]]
    label[:, 8:20, 5:30] = -1  # a hole, as a shape swap leaves it
    z = None
    if method.options.use_vae:
        z = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    layout = Layout(label, torch.ones(2, 5, dtype=torch.bool))
    style = method.sample_style(batch_of(label.clamp_min(0)), ZeroNoise())
    noise = ZeroNoise() if z is None else GivenNoise({"eps": z})
    out = method.render(layout, style, noise)
    o = {"pyr_rng": 5, "num_experts_conv": 3, **TINY, **SCENE, **options}
    expected = generate(states(method)["netG"], label, 5, z, method.net.netG.start, **o)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    method = tiny(use_vae=True, **FACE, temperature=2.0)
    batch = batch_of(torch.cat([blobs(5, 2, cell=32), blobs(5, 1, cell=1)]))
    together = method.reconstruct(batch, Noise(batch.ids))
    for i in range(3):
        one = batch[i : i + 1]
        alone = method.reconstruct(one, Noise(one.ids))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-4, rtol=0)


def test_gradients_flow() -> None:
    net = tiny(use_vae=True).net.netG.train().requires_grad_(True)
    with torch.enable_grad():
        net(blobs(5, cell=32), torch.randn(2, 256)).square().mean().backward()
    missing = [k for k, p in net.named_parameters() if p.grad is None]
    assert all("toRGB" in k for k in missing)  # the auxiliary image is a loss of its own


def test_face_labels_lead_with_the_background_and_the_network_ends_with_it() -> None:
    faces = methods.create("sc-gan", space(5, "celebamask_hq"), **{**TINY, **SCENE})
    official = states(faces)
    faces.load_state(official)
    plain = methods.create("sc-gan", space(5), **{**TINY, **SCENE}).load_state(official)
    label = blobs(5)
    moved = torch.where(label == 0, 4, label - 1)
    expected = plain.reconstruct(batch_of(moved), ZeroNoise())
    assert torch.equal(faces.reconstruct(batch_of(label), ZeroNoise()), expected)
    unlabelled = label.clone()
    unlabelled[label == 0] = 255
    assert torch.equal(faces.reconstruct(batch_of(unlabelled), ZeroNoise()), expected)


def test_what_it_can_follows_from_the_encoder() -> None:
    method, batch = tiny(use_vae=True), batch_of(blobs(5))
    styled = {"reconstruct", "transfer", "shape_transfer", "interpolate_style", "sample"}
    assert method.can == styled
    assert method.encode_style(batch).codes.shape == (2, 256)
    scene = tiny()
    assert scene.can == {"reconstruct", "shape_transfer"}
    with pytest.raises(Unavailable, match="no image encoder"):
        scene.transfer(batch, batch, ZeroNoise())


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ngff": 8}, "did you mean"),
        ({"norm_G": "spectralspadebatch3x3"}, "norm_G"),
        ({"norm_E": "batch"}, "norm_E"),
        ({"no_instance": False}, "no_instance"),
        ({"weight_type": "sum"}, "weight_type"),
        ({"num_upsampling_layers": "more"}, "num_upsampling_layers"),
        ({"ig_sz": 6}, "odd ig_sz"),
        ({"crop_size": 16}, "too small"),
        ({"labels": "raw"}, "labels must be"),
        ({"labels": "shifted", "contain_dontcare_label": False}, "don't-care class"),
        ({"semantic_nc": 9}, "semantic_nc is 9"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


def test_wrong_input_says_why() -> None:
    method = tiny()
    with pytest.raises(UserError, match=r"label values 0\.\.7"):
        method.encode_layout(batch_of(torch.tensor([[[0, 7]]])))
    with pytest.raises(UserError, match="takes the modules netG"):
        method.load_state({**states(method), "netE": {}})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "scgan").glob("*.npz")}
    assert names == {"blocks", "routing", "small-vae", "celeba512"}
