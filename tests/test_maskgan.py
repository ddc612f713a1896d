"""MaskGAN against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from parity import FIXTURES, Case, every, seeded, shapes_of
from plain_maskgan import draw, style
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.reflected_labels import ReflectedLabelConv
from sisbench.methods.maskgan.method import demo_labels
from sisbench.methods.maskgan.network import Blender
from sisbench.methods.maskgan.vae import MaskVAE

TINY: dict[str, Any] = {
    "ngf": 4,
    "n_downsample_global": 2,
    "n_blocks_global": 2,
    "size": [64, 64],
    "B_ngf": 4,
    "vae_ngf": 1,
    "vae_latent": 4,
}
ATOL = 1e-4


@pytest.fixture(autouse=True)
def _no_graphs() -> Any:
    with torch.no_grad():
        yield


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def lifted(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """Seeded weights scaled as the fixtures' are: AdaIN scales about 1, encoders that carry."""
    found = dict(state)
    for key, value in state.items():
        if key == "enc_style.model_last.1.weight":
            found[key] = value * 4
        elif key == "enc_style.model_last.1.bias":
            pair = (value * 4).reshape(-1, 2, width)  # (layer, bias | scale, channel)
            found[key] = torch.stack([pair[:, 0], 1 + pair[:, 1]], 1).flatten()
        elif key.startswith("enc_") and value.ndim == 4 and "SFT" not in key:
            found[key] = value * math.sqrt(2)
    return found


def state(method: Method, seed: int = 3) -> dict[str, Tensor]:
    shapes = method.key_maps()["netG"].official_shapes()
    return lifted(seeded(shapes, seed), method.net.netG.width)


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in module.state_dict().items()}


def tiny(count: int = 5, **options: Any) -> Method:
    method = methods.create("maskgan", space(count), **{**TINY, **options})
    return method.load_state({"netG": state(method)})


def blobs(count: int, batch: int = 2, size: int = 64, cell: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (batch, size // cell, size // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def batch_of(label: Tensor, image: Tensor | None = None, of: LabelSpace | None = None) -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    if image is None:
        generator = torch.Generator().manual_seed(int(label.sum()))
        image = torch.rand(len(label), 3, *label.shape[1:], generator=generator) * 2 - 1
    return Batch(ids, image, label, None, of or space(5))


# ---- the official outputs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("small19", 1),
        pytest.param("celebamask19_256", 4, marks=pytest.mark.slow),
        pytest.param("celebamask19", 8, marks=pytest.mark.slow),
    ],
)
def test_pictures_and_styles_match(name: str, step: int) -> None:
    case = Case.read(f"maskgan/maskgan.{name}")
    config, of = case.meta["config"], space(19)
    method = methods.create("maskgan", of, **config)
    official = method.key_maps()["netG"].official_shapes()
    method.load_state(
        {"netG": lifted(seeded(official, case.meta["weight_seed"]), method.net.netG.width)}
    )
    inner: dict[str, Tensor] = {}
    net, first = method.net.netG, method.net.netG.middle
    for key in ("1", "4", str(first), str(first + config["n_blocks_global"])):
        net.model[key].register_forward_hook(lambda _m, _i, out, key=key: inner.update({key: out}))
    own, other = (
        batch_of(torch.from_numpy(case.arrays[f"{p}label"]).long(), case.image(f"{p}image"), of)
        for p in ("", "ref_")
    )
    cut = every(1, 1, step, step)
    with FlopCounterMode(display=False) as counter:
        out = method.reconstruct(own, ZeroNoise())
    steps = {"small19": (4, 4, 1, 2), "celebamask19_256": (16, 16, 2, 4)}
    conv_in, down, res, up = steps.get(name, (32, 32, 4, 8))
    wide = config["ngf"] // 4
    assert case.off_by("conv_in", inner["1"], *every(1, wide, conv_in, conv_in)) < ATOL
    assert case.off_by("down0", inner["4"], *every(1, 2 * wide, down, down)) < ATOL
    assert case.off_by("res0", inner[str(first)], *every(1, net.width // 16, res, res)) < ATOL
    key = str(first + config["n_blocks_global"])
    assert case.off_by("up0", inner[key], *every(1, net.width // 32, up, up)) < ATOL
    assert case.off_by("out", out, *cut) < ATOL
    assert case.off_by("out_transfer", method.transfer(own, other, ZeroNoise()), *cut) < ATOL
    assert case.off_by("out_shape", method.reconstruct(own, ZeroNoise(), drawn=other), *cut) < ATOL
    thin = every(1, 1 if name == "small19" else 8)
    assert case.off_by("adain", method.encode_style(own).codes, *thin) < ATOL
    assert case.off_by("adain_ref", method.encode_style(other).codes, *thin) < ATOL
    quarter, small = net.enc_label(own.label)
    f1 = {"small19": 2, "celebamask19_256": 8}.get(name, 16)
    assert case.off_by("label_fea1", quarter, *every(1, 8, f1, f1)) < ATOL
    assert case.off_by("label_fea2", small, *every(1, 4)) < ATOL
    if name == "celebamask19_256":
        assert counter.get_total_flops() / 2e9 <= 31  # GMAC; officially 35.4


def test_the_blender_matches() -> None:
    case = Case.read("maskgan/maskgan.blender")
    blender = Blender(**case.meta["config"]).eval()
    assert shapes(Blender()) == shapes_of("maskgan/maskgan.celebamask19", "netB")
    blender.load_state_dict(seeded(shapes(blender), case.meta["weight_seed"]))
    out, alpha = blender.blend(case.image("image1"), case.image("image2"))
    assert case.off_by("alpha", alpha) < ATOL
    assert case.off_by("out", out) < ATOL


@pytest.mark.parametrize("name", ["vae_small", pytest.param("vae", marks=pytest.mark.slow)])
def test_the_mask_vae_matches(name: str) -> None:
    case = Case.read(f"maskgan/maskgan.{name}")
    vae = MaskVAE(**case.meta["config"]).eval()
    state = seeded(shapes(vae), case.meta["weight_seed"])
    vae.load_state_dict({k: v * math.sqrt(2) if v.ndim == 4 else v for k, v in state.items()})
    label, other = (torch.from_numpy(case.arrays[k]).long() for k in ("label", "ref_label"))
    cut = every(1, 1, 32, 32)
    mean, log_var = vae.encode(label)
    drawn = vae.decode(mean + (log_var / 2).exp() * torch.from_numpy(case.arrays["eps"]))
    assert case.off_by("eval.mu", mean) < ATOL
    assert case.off_by("eval.logvar", log_var) < ATOL
    assert case.off_by("eval.recon", drawn, *cut) < ATOL
    labels = drawn.argmax(1)[every(1, 8, 8)] != torch.from_numpy(case.arrays["recon_label"])
    assert labels.float().mean() <= 0.002
    inner, outer = vae.between(label, other)
    assert case.off_by("inter", inner, *cut) < ATOL
    assert case.off_by("outer", outer, *cut) < ATOL
    if name == "vae_small":
        # The official run had channels-last maps, where torch's batch statistics lose digits on a
        # CPU: it is 3e-4 from float64, ours 1e-6.
        mean, log_var = vae.train().encode(label)
        assert case.off_by("train.mu", mean) < 5e-4
        drawn = vae.decode(mean + (log_var / 2).exp() * torch.from_numpy(case.arrays["eps"]))
        assert case.off_by("train.recon", drawn, *cut) < 3e-3


def test_the_demo_reads_four_classes_wrongly() -> None:
    case = Case.read("maskgan/maskgan.preprocess")
    values = torch.from_numpy(case.arrays["u"]).long()
    assert torch.equal(demo_labels(values), torch.from_numpy(case.arrays["demo"]).long())
    ids = torch.arange(-1, 19)
    moved = ids[demo_labels(ids) != ids].tolist()
    assert moved == case.meta["scalars"]["wrong_in_demo_of_0..18"] == [7, 13, 14, 15]
    label = torch.arange(16).view(1, 4, 4).repeat_interleave(16, 1).repeat_interleave(16, 2)
    sound, demo = tiny(19), tiny(19, demo_labels=True)
    batch, read = batch_of(label, of=space(19)), demo_labels(label)
    expected = sound.reconstruct(batch_of(read, batch.image, space(19)), ZeroNoise())
    assert torch.equal(demo.reconstruct(batch, ZeroNoise()), expected)
    assert not torch.equal(sound.reconstruct(batch, ZeroNoise()), expected)


def test_key_layouts_are_the_official_ones() -> None:
    with torch.device("meta"):
        method = methods.create("maskgan", "celebamask_hq")
        vae = MaskVAE()
    official = method.key_maps()["netG"].official_shapes()
    assert official == shapes_of("maskgan/maskgan.celebamask19", "netG")
    assert shapes(vae) == shapes_of("maskgan/maskgan.celebamask19", "netVAE")
    assert method.size == (512, 512)
    assert sum(p.numel() for p in method.net.parameters()) == 89_702_595


# ---- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [2, 32])
@pytest.mark.parametrize("options", [{}, {"size": [64, 96], "n_blocks_global": 3}], ids=str)
def test_equals_the_plain_form(options: dict[str, Any], cell: int) -> None:
    method = tiny(**options)
    height, width = method.size
    label = blobs(5, size=128, cell=cell)[:, 7 : 7 + height, :width]
    batch = batch_of(label)
    w, seg = state(method), one_hot(label, 5)
    code = style(w, batch.image, seg)
    torch.testing.assert_close(method.encode_style(batch).codes, code, atol=1e-5, rtol=0)
    hole = label.clone()
    hole[:, 10:30, 5:40] = -1
    layout = Layout(hole, torch.ones(2, 5, dtype=torch.bool))
    out = method.render(layout, method.encode_style(batch), ZeroNoise())
    expected = draw(w, one_hot(hole, 5), code, 2, method.options.n_blocks_global)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)


def test_gradients_of_the_look_up_are_those_of_the_convolution() -> None:
    layer, label = ReflectedLabelConv(5, 3, 7), blobs(5, cell=32)
    looked = layer.requires_grad_(False)(label)
    with torch.enable_grad():
        out = layer.requires_grad_(True)(label)
        out.square().mean().backward()
    torch.testing.assert_close(looked, out.detach(), atol=1e-5, rtol=0)
    assert layer.weight.grad is not None
    assert layer.weight.grad.any()


def test_a_sample_does_not_depend_on_its_batch() -> None:
    method = tiny()
    batch = batch_of(torch.cat([blobs(5, 2, cell=32), blobs(5, 1, cell=1)]))
    together = method.reconstruct(batch, ZeroNoise())
    for i in range(3):
        alone = method.reconstruct(batch[i : i + 1], ZeroNoise())
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=0)


def test_the_style_is_one_vector_that_a_label_map_steers() -> None:
    method, batch = tiny(), batch_of(blobs(5))
    assert method.can == {"reconstruct", "transfer", "shape_transfer", "interpolate_style"}
    assert why_not(method, "class_transfer")
    assert why_not(method, "sample")
    steered = batch_of(blobs(5, seed=7), batch.image)
    own, other = method.encode_style(batch).codes, method.encode_style(steered).codes
    assert own.shape == (2, 4 * 2 * 16)
    assert (own - other).abs().max() > 1e-3


def test_blender_and_vae_come_with_their_state_dicts() -> None:
    method = tiny()
    pair = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    with pytest.raises(Unavailable, match="netB"):
        method.blend(*pair)
    more = {
        "netG": state(method),
        "netB": seeded(shapes(Blender(ngf=4)), 1),
        "netVAE": seeded(shapes(MaskVAE(5, 1, 1, 4)), 1),
    }
    method.load_state(more)
    assert set(method.key_maps()) == set(more)
    blended, alpha = method.blend(*pair)
    torch.testing.assert_close(blended, pair[0] * alpha + pair[1] * (1 - alpha))
    assert set(method.load_state({"netG": more["netG"]}).key_maps()) == {"netG"}


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ngff": 8}, "did you mean"),
        ({"netG": "local"}, "netG must be 'global'"),
        ({"norm": "batch"}, "norm must be 'instance'"),
        ({"size": [64, 66]}, "multiples of 4"),
        ({"size": [16, 16]}, "from 32 on"),
        ({"ngf": 0}, "positive"),
        ({"label_nc": 3}, "label_nc 3"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


def test_wrong_input_says_why() -> None:
    method = tiny()
    with pytest.raises(UserError, match=r"label values 0\.\.255"):
        method.encode_layout(batch_of(torch.tensor([[[0, 255]]])))
    official = state(method)
    with pytest.raises(UserError, match="another number of classes"):
        tiny(6).load_state({"netG": official})
    first = next(iter(official))
    with pytest.raises(UserError, match=r"missing \(1\)"):
        method.load_state({"netG": {k: v for k, v in official.items() if k != first}})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "maskgan").glob("*.npz")}
    pictures = {"small19", "celebamask19_256", "celebamask19"}
    assert names == pictures | {"blender", "vae", "vae_small", "preprocess"}
