"""SEAN against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

import re

import pytest
import torch
from parity import FIXTURES, Case, every, shapes_of
from plain_spade import generate
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, Style
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.seeded import seeded_state

ATOL = 1e-4
TINY = {
    "ngf": 4,
    "nhidden": 16,
    "crop_size": 64,
    "style_length": 16,
    "style_encoder_ngf": 4,
    "num_fc_mu": 7,
}


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded_state(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def tiny(count: int = 5, **options: object) -> Method:
    method = methods.create("sean", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def batch_of(cells: tuple[int, ...], count: int = 5) -> Batch:
    """One sample for each cell size, from outlines everywhere (1) to large plain regions."""
    generator = torch.Generator().manual_seed(1)
    labels = []
    for cell in cells:
        coarse = torch.randint(0, count, (64 // cell, 64 // cell), generator=generator)
        labels.append(coarse.repeat_interleave(cell, 0).repeat_interleave(cell, 1))
    image = torch.rand(len(cells), 3, 64, 64, generator=generator) * 2 - 1
    ids = tuple(f"s{i}" for i in range(len(cells)))
    return Batch(ids, image, torch.stack(labels), None, space(count))


def official_stream(case: Case, method: Method) -> GivenNoise:
    """The official draws: (N, W, H, 1) from torch's generator, axes 1 and 3 swapped."""
    torch.manual_seed(case.meta["noise_seed"])
    count, (height, width) = len(case.arrays["label"]), method.net.netG.start
    values = {}
    for step in method.net.netG.steps:
        factor = 2 if step.up else 1
        height, width = factor * height, factor * width
        for which in ("s", "0", "1") if step.fin != step.fout else ("0", "1"):
            drawn = torch.randn(count, width, height, 1)
            values[f"{step.name}.ace_{which}"] = drawn.swapaxes(1, 3)
    return GivenNoise(values)


def check_reconstruction(
    name: str,
    at: tuple[slice, ...],
    inner: dict[str, tuple[slice, ...]],
    features: tuple[slice, ...],
) -> float:
    """Style codes, features, picture without and with noise; returns GMAC."""
    case = Case.read(f"spade/sean.{name}")
    method, batch = case.method(), case.batch()
    found: dict[str, Tensor] = {}
    for layer in inner:
        module = method.net.netG.get_submodule(layer.replace("ace_", "norm_"))
        module.register_forward_hook(lambda _m, _i, out, layer=layer: found.update({layer: out}))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            style, layout = method.encode_style(batch), method.encode_layout(batch)
            out = method.render(layout, style, ZeroNoise())
        assert case.off_by("style_codes", style.codes, *every(1, 1, 4)) < ATOL
        assert torch.equal(style.present, style.codes.abs().sum(2) > 0)
        planes = method.net.netG.encoder.features(batch.image)
        assert case.off_by("zenc_map", planes, *features) < ATOL
        assert case.off_by("out_nonoise", out, *at) < ATOL
        for layer, step in inner.items():
            assert case.off_by(layer, found[layer], *step) < ATOL, layer
        out = method.render(layout, style, official_stream(case, method))
        assert case.off_by("out_noise", out, *at) < ATOL
    return counter.get_total_flops() / 2e9


def test_small_network_matches() -> None:
    inner = {"head_0": (), "up_0.ace_s": every(1, 4), "up_1": every(1, 2)}
    check_reconstruction("small19", (), inner, every(1, 32, 4, 4))


def test_official_size_matches() -> None:
    inner = {
        "head_0": every(1, 16),
        "up_0.ace_s": every(1, 32, 4, 4),
        "up_1": every(1, 8, 8, 8),
        "up_3": every(1, 8, 16, 16),
    }
    cost = check_reconstruction("celebamask19", every(1, 1, 4, 4), inner, every(1, 32, 16, 16))
    assert cost <= 175  # GMAC; the plain form takes 342


def check_swaps(name: str, at: tuple[slice, ...]) -> None:
    """Zero rule for every class; the editor's rules on an edited layout."""
    case = Case.read(f"spade/sean.{name}")
    method, batch = case.method(), case.batch()
    reference = case.batch("ref_label", "ref_image")
    out = method.transfer(batch, reference, ZeroNoise())
    assert case.off_by("out_swap_full_zero", out, *at) < ATOL
    with torch.inference_mode():
        own, other = method.encode_style(batch[:1]), method.encode_style(reference[:1])
        full = method.encode_style(reference).codes
        assert case.off_by("ref_style_codes", full, *every(1, 1, 4)) < ATOL
        mean = torch.from_numpy(case.arrays["mean_codes"]).float()[None]
        start = Style(torch.where(own.present[..., None], own.codes, mean), own.present)
        wanted = torch.zeros_like(own.present)
        wanted[:, case.meta["swap_classes"]] = True
        used = start.swap(other, wanted & own.present & other.present)
        assert case.off_by("used_codes", used.codes[0], *every(1, 4)) < ATOL
        edited = case.batch("edit_label", "none")
        out = method.render(method.encode_layout(edited), used, ZeroNoise())
    assert case.off_by("out_swap_classes", out, *at) < ATOL


def test_swaps_of_the_small_network_match() -> None:
    check_swaps("small19_swap", ())


@pytest.mark.slow
def test_swaps_of_the_official_size_match() -> None:
    check_swaps("celebamask19_swap", every(1, 1, 4, 4))


def test_key_layout_is_the_official_one() -> None:
    with torch.device("meta"):
        method = methods.create("sean", "celebamask_hq")
        ade = methods.create("sean", "ade20k")
    for found, manifest in ((method, "celebamask19"), (ade, "ade151_extrapolated")):
        shapes = found.key_maps()["netG"].official_shapes()
        if found is ade:  # its manifest lists the 151 linear layers as one
            shapes = {re.sub(r"fc_mu\d+", "fc_mu{j}", key): shape for key, shape in shapes.items()}
        assert shapes == shapes_of(f"spade/sean.{manifest}", "netG")
    unused = 2  # blending_gamma and blending_beta of each layer of the last block
    assert sum(p.numel() for p in method.net.parameters()) == 266_907_367 - 3 * unused


@pytest.mark.parametrize(
    "options",
    [{}, {"num_upsampling_layers": "more", "crop_size": 128, "norm_G": "spadeinstance3x3"}],
    ids=str,
)
def test_equals_the_plain_form(options: dict[str, object]) -> None:
    """Also with holes, a present class of zero code, plain and busy samples in one batch."""
    method = tiny(**options)
    batch = batch_of((32, 1, 16))
    label = batch.label.clone()
    label[:, 12:30, 5:33] = -1
    layout = Layout(label, torch.ones(3, 5, dtype=torch.bool))
    with torch.inference_mode():
        style = method.encode_style(batch)
        style.codes[:, 2] = 0
        out = method.render(layout, style, ZeroNoise())
    weights = states(method)["netG"]
    mode = method.options.num_upsampling_layers
    plain = generate(weights, one_hot(label, 5), method.net.netG.start, style.codes, mode=mode)
    torch.testing.assert_close(out, plain, atol=2e-5, rtol=0)


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
    batch = Batch(batch.ids, batch.image, label, None, batch.space)
    style = method.encode_style(batch)
    assert style.present[0].tolist() == [True, False, False, False, True]
    assert method.encode_layout(batch).present[0, 3]
    assert not style.codes[0, 3].any()


def test_gradients_flow_through_both_forms() -> None:
    method = tiny(num_fc_mu=5)
    net = method.net.netG.train().requires_grad_(True)
    for cell in (1, 32):
        net.zero_grad()
        batch = batch_of((cell, cell, cell))
        codes = net.encoder(batch.image, batch.label, 5)
        net(batch.label, codes, Noise(batch.ids)).square().mean().backward()
        missing = {k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()}
        assert not {k for k in missing if not k.endswith("fc_weight")}  # no class, no gradient


def test_classes_can_be_exchanged_and_nothing_is_sampled() -> None:
    method = tiny()
    assert {"class_transfer", "subject_transfer", "interpolate_style"} <= method.can
    assert not {"sample", "mixed", "interpolate_shape"} & method.can
    batch = batch_of((16,))
    with pytest.raises(UserError, match="no prior"):
        method.sample(batch, ZeroNoise())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"no_instance": False}, "instance"),
        ({"num_upsampling_layers": "most"}, "normal or more"),
        ({"norm_G": "spectralspadebatch1x1"}, "3x3"),
        ({"num_fc_mu": 3}, "num_fc_mu is 3 for 5"),
        ({"crop_size": 16}, "too small"),
        ({"style_len": 3}, "did you mean 'style_length'"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


def test_a_wrong_state_says_why() -> None:
    method = tiny()
    official = states(method)["netG"]
    with pytest.raises(UserError, match="another number of classes"):
        method.load_state(states(tiny(6)))
    with pytest.raises(UserError, match="fc_mu6"):
        tiny(num_fc_mu=7).load_state(states(tiny(num_fc_mu=6)))
    with pytest.raises(UserError, match="discriminator"):
        method.load_state({"netG": {"discriminator_0.model0.0.weight": torch.zeros(1)}})
    method.load_state({"netG": {f"module.{k}": v for k, v in official.items()}})  # DataParallel's


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "spade").glob("sean.*.npz")}
    assert names == {
        "small19",
        "small19_swap",
        "small19_train",
        "celebamask19",
        "celebamask19_swap",
    }
