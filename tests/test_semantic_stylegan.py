"""SemanticStyleGAN against the official outputs, its groups, inversion, cache and bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from parity import FIXTURES, Case, every, seeded
from PIL import Image
from semantic_stylegan_seeding import fixture_weights
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_maps import close_classes
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.core.state_dict import read_state
from sisbench.core.tasks import TASKS
from sisbench.diagnose.conformance import check_batch
from sisbench.methods.base import Layout, present_classes
from sisbench.methods.layers import stylegan
from sisbench.methods.semantic_stylegan.codes import GROUPS_OF_19
from sisbench.methods.semantic_stylegan.inversion import Descent, learning_rate
from sisbench.methods.semantic_stylegan.local import (
    LocalLayer,
    composite_weights,
    fourier_features,
)
from sisbench.methods.semantic_stylegan.lpips import _length
from sisbench.methods.semantic_stylegan.method import SemanticStyleGAN
from sisbench.methods.semantic_stylegan.render import OutputLayer, RenderLayer
from sisbench.methods.semantic_stylegan.store import InversionStore
from sisbench.protocol import get_protocol
from sisbench.run.tasks import Exchange

ATOL = 1e-4
EYES, EARS = (4, 5), (8, 9)
TINY = tiny_networks.SEMANTIC_STYLEGAN


def read(name: str) -> Case:
    return Case.read(f"semantic_stylegan/semantic_stylegan.{name}")


def from_case(case: Case, **options: Any) -> SemanticStyleGAN:
    """The method of a fixture, with its weights and the fixture's mean latent."""
    config = {**case.meta["config"], "mean_latent_draws": 1, **options}
    space = LabelSpace("test", tuple(f"c{i}" for i in range(config["seg_dim"])))
    method: Any = methods.create(case.meta["method"], space, **config)
    shapes = method.key_maps()["g_ema"].official_shapes()
    method.load_state({"g_ema": fixture_weights(seeded(shapes, case.meta["weight_seed"]))})
    if "z_mean_draws" in case.arrays:
        draws = torch.from_numpy(case.arrays["z_mean_draws"])
        method.net.mean_latent = method.net.g_ema.style(draws).mean(0)
    return method


def array(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case.arrays[name]).float()


def labels(method: SemanticStyleGAN, count: int) -> Batch:
    """Batches that only say how many samples there are."""
    size = method.size
    label = torch.zeros(count, *size, dtype=torch.int64)
    ids = tuple(f"s{i}" for i in range(count))
    return Batch(ids, torch.zeros(count, 3, *size), label, None, method.space)


@pytest.fixture
def tiny() -> SemanticStyleGAN:
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY)
    return method.load("celebamask_hq", "seeded:0")


@pytest.fixture
def faces(tiny: SemanticStyleGAN) -> Batch:
    return check_batch(tiny.space, tiny.size, 2)


@pytest.fixture
def descents(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each inversion that is really made."""
    made: list[int] = []
    start = Descent.__init__

    def counted(self: Descent, *args: Any) -> None:
        made.append(1)
        start(self, *args)

    monkeypatch.setattr(Descent, "__init__", counted)
    return made


# ---- parity: operations -------------------------------------------------------------------------


def weighted(case: Case, name: str, layer: Any, **tensors: str) -> Any:
    """``layer`` with the fixture's tensors, shaped as ours."""
    state = {
        ours: array(case, f"{name}.{key}").reshape(layer.state_dict()[ours].shape)
        for ours, key in tensors.items()
    }
    layer.load_state_dict(state)
    return layer.eval().requires_grad_(False)


def test_fir_and_linear_operations_match() -> None:
    case = read("ops")
    x, full, unit = array(case, "fir.x"), stylegan.fir_kernel(4.0), stylegan.fir_kernel()
    found = {
        "blur_up": stylegan.upfirdn2d(x, full, pad=(1, 1)),
        "upsample2": stylegan.upfirdn2d(x, full, up=2, pad=(2, 1)),
        "blur_down3": stylegan.upfirdn2d(x, unit, pad=(2, 2)),
        "blur_down1": stylegan.upfirdn2d(x, unit, pad=(1, 1)),
        "asym": stylegan.upfirdn2d(x, array(case, "fir.kernel_asym"), 2, 3, (2, -1)),
    }
    for name, value in found.items():
        assert case.off_by(f"fir.{name}", value) < 1e-5, name
    assert case.off_by("fir.upsample2", stylegan.upsample2(x, full)) < 1e-5
    assert case.off_by("pixel_norm.y", stylegan.pixel_norm(array(case, "pixel_norm.x"))) < 1e-5
    for name, lr_mul in (("linear", 1.0), ("mapping_linear", 0.01)):
        given = (array(case, f"{name}.{key}") for key in ("x", "weight", "bias"))
        y = stylegan.equalised_linear(*given, lr_mul)
        y = stylegan.scaled_leaky_relu(y) if lr_mul < 1 else y
        assert case.off_by(f"{name}.y", y) < 1e-5, name


def test_layers_match() -> None:
    case = read("ops")
    features = fourier_features(array(case, "pos.x"), 6)
    embedded = F.conv2d(features, array(case, "pos.weights") / 26**0.5)
    assert case.off_by("pos.y", embedded) < 1e-5

    local = LocalLayer(1, 6, 10)
    local.weight = torch.nn.Parameter(array(case, "styled_conv.conv.weight")[None])
    local.style_weight.data = array(case, "styled_conv.conv.modulation.weight")[None]
    local.style_bias.data = array(case, "styled_conv.conv.modulation.bias")[None]
    local.bias.data = array(case, "styled_conv.activate.bias")[None]
    x = array(case, "styled_conv.x")
    y = local(x.flatten(2)[:, None], array(case, "styled_conv.style")[:, None]).detach()
    assert case.off_by("styled_conv.y", y[:, 0].unflatten(2, x.shape[2:])) < 1e-5

    names = {"weight": "weight", "modulation": "modulation", "strength": "noise.weight"}
    for name, up in (("fixed", False), ("fixed_up", True)):
        layer = weighted(case, name, RenderLayer(6, 4, up), **names, bias="activate.bias")
        y = layer(array(case, f"{name}.x"), array(case, f"{name}.noise"))
        assert case.off_by(f"{name}.y", y) < 1e-5, name
    keys = {"weight": "conv.weight", "modulation": "conv.modulation", "bias": "bias"}
    out = weighted(case, "to_rgb", OutputLayer(6, 3), **keys)
    assert case.off_by("to_rgb.y", out(array(case, "to_rgb.x"), array(case, "to_rgb.skip"))) < 1e-5


@pytest.mark.parametrize("transparent", [(), (1, 3)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_compositing_matches(transparent: tuple[int, ...], masked: bool) -> None:
    case = read("composite")
    mask = array(case, "mask") if masked else None
    weights, p = composite_weights(array(case, "depths"), transparent, mask)
    name = "_".join(["transparent"] * bool(transparent) + ["masked"] * masked) or "plain"
    feat = (weights[:, :, None] * array(case, "feats")).sum(1)
    assert case.off_by(f"{name}.feat", feat) < 1e-6
    assert case.off_by(f"{name}.seg", p) < 1e-6


# ---- parity: the network ------------------------------------------------------------------------


def check_network(name: str, at: int, features: int) -> float:
    """Every stage of one fixture; returns GMAC of a picture. ``at`` is the step of the image,
    ``features`` that of the channels of features."""
    case = read(name)
    method = from_case(case)
    g, found = method.net.g_ema, {}
    for i, conv in enumerate(g.render.convs):
        conv.register_forward_hook(lambda _m, _i, out, i=i: found.update({i: out}))
    with torch.inference_mode():
        w = g.style(array(case, "z"))
        assert case.off_by("w", w) < ATOL
        assert case.off_by("mean_latent", method.net.mean_latent) < ATOL
        noise = GivenNoise({"z": array(case, "z")})
        assert case.off_by("w_truncated", method.latent(noise, len(w))) < ATOL
        rows = array(case, "w_plus")
        step = (13, 16) if at == 4 else (1, 1)
        assert case.off_by("latent_expanded", g.expand(rows), *every(1, *step)) == 0
        x, depths = g.local.hidden(g.expand(rows).unflatten(1, (g.rows.classes, -1)))
        side = g.local.size
        embedded = g.local.embed().unflatten(2, (side, side))
        coarse = side // 8
        assert case.off_by("pos_embed", embedded, *every(1, 1, coarse, coarse)) < ATOL
        assert case.off_by("depths", depths.unflatten(2, (side, side)), *every(1, 1, at, at)) < 1e-3
        feats = g.local.to_feat(x).unflatten(3, (side, side))
        for k in (0, 1):
            cut = every(1, features, coarse, coarse)
            assert case.off_by(f"local{k}.feat", feats[:, k], *cut) < 2e-4, k
        with FlopCounterMode(display=False) as counter:
            image, seg, composited = g(rows[:1])
        image, seg, composited = g(rows)
        assert case.off_by("seg_coarse", composited, *every(1, 1, at, at)) < ATOL
        feat, _ = g.local(g.expand(rows).unflatten(1, (g.rows.classes, -1)))
        assert case.off_by("feat", feat, *every(1, features, at, at)) < 2e-4
        for i, out in found.items():
            steps = [s // e for s, e in zip(out.shape, case.arrays[f"render.conv{i}"].shape)]
            assert case.off_by(f"render.conv{i}", out, *every(*steps)) < ATOL, i
        assert case.off_by("out", image, *every(1, 1, at, at)) < ATOL
        seg_at = 16 if at == 4 else 2
        assert case.off_by("out_seg", seg, *every(1, 1, seg_at, seg_at)) < 2e-4
        layout, style = method.from_rows(rows, labels(method, len(rows)))
        assert torch.equal(method.rows_of(layout, style), rows)
        drawn = method.render(layout, style, ZeroNoise())
        assert torch.equal(drawn, image.clamp(-1, 1))
        assert torch.equal(method.segmentation(layout, style, ZeroNoise()), seg.argmax(1))
    return float(counter.get_total_flops() / 2e9)


def test_small_network_matches() -> None:
    check_network("tiny", 1, 4)


@pytest.mark.slow
def test_official_size_matches() -> None:
    cost = check_network("celebamask13", 4, 64)
    assert cost <= 68.6  # GMAC, the official code's


@pytest.mark.parametrize(
    ("name", "at"),
    [("tiny_mix", 1), pytest.param("celebamask13_mix", 10, marks=pytest.mark.slow)],
)
def test_exchanges_of_codes_match(name: str, at: int) -> None:
    case = read(name)
    method = from_case(case)
    g, classes = method.net.g_ema, case.meta["classes"]
    a, b = array(case, "w_plus_a"), array(case, "w_plus_b")
    shapes, textures = [g.rows.shape(c) for c in classes], [g.rows.texture(c) for c in classes]
    first = g.rows.base_layers
    lerped = a.clone()
    lerped[:, textures[0]] = torch.lerp(a[:, textures[0]], b[:, textures[0]], 0.3)

    def exchanged(rows: list[int]) -> Tensor:
        out = a.clone()
        out[:, rows] = b[:, rows]
        return out

    base = list(range(first))
    every_shape, every_texture = (list(range(first + odd, g.rows.count, 2)) for odd in (0, 1))
    wanted = {
        "a": a,
        "texture_swap": exchanged(textures),
        "shape_swap": exchanged(shapes),
        "texture_all": exchanged(every_texture),
        "shape_all": exchanged(base + every_shape),
        "base_swap": exchanged(base),
        "texture_lerp": lerped,
    }
    with torch.inference_mode():
        for key, rows in wanted.items():
            image, _, coarse = g(rows)
            assert case.off_by(f"out_{key}", image, *every(1, 1, at, at)) < ATOL, key
            assert case.off_by(f"out_{key}_coarse", coarse, *every(1, 1, at, at)) < ATOL, key
        mask = torch.ones(1, g.rows.classes)
        mask[:, classes] = 0
        image, _, coarse = g(a, mask=mask)
    assert case.off_by("out_without", image, *every(1, 1, at, at)) < ATOL
    assert case.off_by("out_without_coarse", coarse, *every(1, 1, at, at)) < ATOL
    # the same exchanges, as styles and layouts make them
    x, y = (method.from_rows(rows, labels(method, 1)) for rows in (a, b))
    assert torch.equal(method.rows_of(x[0], x[1].swap(y[1], classes)), exchanged(textures))
    assert torch.equal(method.rows_of(x[0].swap(y[0], classes), x[1]), exchanged(shapes))
    assert torch.equal(method.rows_of(x[0], x[1].lerp(y[1], 0.3, classes[:1])), lerped)
    background = g.rows.shape(0)  # shapes nothing: part of the style
    whole = exchanged([background, *every_texture])
    assert torch.equal(method.rows_of(x[0], x[1].swap(y[1])), whole)
    moved = [r for r in base + every_shape if r != background]
    assert torch.equal(method.rows_of(x[0].swap(y[0]), x[1]), exchanged(moved))


def test_parts_of_19_classes_are_drawn_by_13_generators() -> None:
    case = read("labels")
    assert tuple(case.arrays["lut19to13"].tolist()) == GROUPS_OF_19
    table = torch.tensor(GROUPS_OF_19)
    merged = table[torch.from_numpy(case.arrays["label19"]).long()]
    assert case.off_by("label13_from_19", merged.to(torch.uint8)) == 0


# ---- sampling and noise -------------------------------------------------------------------------


def test_a_sample_is_a_truncated_code_and_the_checkpoints_noise() -> None:
    case = read("tiny")
    method = from_case(case, randomize_noise=False)
    w = array(case, "w_truncated")
    noise = GivenNoise({"z": array(case, "z")})
    rows = method.rows_of(
        method.from_rows(array(case, "w_plus"), labels(method, 2))[0],
        method.sample_style(labels(method, 2), noise),
    )
    textures = [method.net.g_ema.rows.texture(k) for k in range(5)]
    for row in [method.net.g_ema.rows.shape(0), *textures]:
        assert torch.allclose(rows[:, row], w, atol=1e-6)
    other = [r for r in range(12) if r not in textures and r != method.net.g_ema.rows.shape(0)]
    assert torch.equal(rows[:, other], array(case, "w_plus")[:, other])
    image = method.net.g_ema(w)[0].clamp(-1, 1)
    assert torch.allclose(method.unconditional(2, noise), image, atol=1e-5)
    untruncated = from_case(case, truncation=1.0)
    assert torch.allclose(untruncated.latent(noise, 2), array(case, "w"), atol=1e-6)


def test_noise_maps_are_drawn_where_asked() -> None:
    case = read("tiny")
    method = from_case(case, randomize_noise=True)
    layout, style = method.from_rows(array(case, "w_plus"), labels(method, 2))
    own = {f"noise_{i}": n[0] for i, n in enumerate(method.net.g_ema.render.buffers_of_noise())}
    given = GivenNoise({k: n[None].expand(2, -1, -1, -1) for k, n in own.items()})
    with torch.inference_mode():
        image = method.render(layout, style, given)
        zero = method.render(layout, style, ZeroNoise())
    assert case.off_by("out", method.net.g_ema(array(case, "w_plus"))[0]) < ATOL
    assert torch.equal(image, method.net.g_ema(array(case, "w_plus"))[0].clamp(-1, 1))
    assert not torch.equal(zero, image)


def test_the_mean_latent_follows_from_its_seed() -> None:
    case = read("tiny_mix")
    means = [
        from_case(case, mean_latent_seed=s, mean_latent_draws=n).net.mean_latent
        for s, n in ((0, 50), (0, 50), (1, 50), (0, 1500))
    ]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])
    method = from_case(case)
    z = torch.randn(1500, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(means[3], method.net.g_ema.style(z).mean(0), atol=1e-6)


# ---- groups -------------------------------------------------------------------------------------


def test_classes_of_one_generator_are_exchanged_together(tiny: SemanticStyleGAN) -> None:
    torch.manual_seed(0)
    x, y = (tiny.from_rows(torch.randn(1, tiny.options.rows, 8), labels(tiny, 1)) for _ in range(2))
    style, layout = x[1].swap(y[1], [EYES[0]]), x[0].swap(y[0], [EYES[0]])
    for c in range(19):
        theirs = c in EYES
        assert torch.equal(style.codes[:, c], (y if theirs else x)[1].codes[:, c]), c
        assert torch.equal(layout.codes[:, c], (y if theirs else x)[0].codes[:, c]), c
    assert torch.equal(layout.base, x[0].base)
    assert torch.equal(x[0].swap(y[0]).base, y[0].base)
    half = x[0].lerp(y[0], 0.5)
    assert torch.allclose(half.base, (x[0].base + y[0].base) / 2)
    assert torch.equal(x[0].lerp(y[0], 1.0).codes, y[0].codes)
    assert x[0].lerp(y[0], 0.0) is x[0]


def test_a_layout_between_two_asks_for_no_label_where_they_differ(tiny: SemanticStyleGAN) -> None:
    rows, batch = torch.zeros(1, tiny.options.rows, 8), labels(tiny, 1)
    batch.label[:, :2] = 1
    other = replace(batch, label=batch.label.clone())
    other.label[:, 1] = 13
    a, b = tiny.from_rows(rows, batch)[0], tiny.from_rows(rows, other)[0]
    between = a.lerp(b, 0.5)
    assert (between.label[:, 1] == HOLE).all()
    assert torch.equal(between.label[:, 2:], batch.label[:, 2:])
    assert between.present[0, [0, 1, 13]].all()
    with pytest.raises(UserError, match="another kind"):
        a.swap(_plain(batch), [1])


def _plain(batch: Batch) -> Any:
    return Layout(batch.label, present_classes(batch.label, 19))


def test_rules_for_absent_classes_never_cut_a_group() -> None:
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY)
    wanted, here, there = (torch.zeros(1, 19, dtype=torch.bool) for _ in range(3))
    wanted[0, [EARS[0], 13]] = True
    here[0, [EARS[1], 13]] = True  # the target shows its right ear
    there[0, [EARS[0]]] = True  # the reference its left one
    ears = close_classes(there, GROUPS_OF_19)
    assert ears[0].nonzero().flatten().tolist() == list(EARS)

    own = get_protocol("sisbench1", {"absent": "own", "shape_swap": "present_in_both"})
    task = TASKS["class_transfer"]
    exchange = Exchange(task, own, wanted, here, False, method.closed)
    chosen = exchange.styles(there)
    assert torch.equal(chosen, ears)
    assert exchange.absent.tolist() == [1]  # the hair
    shapes = Exchange(TASKS["shape_transfer"], own, wanted, here, False, method.closed).shapes(
        there
    )
    assert torch.equal(shapes, ears)


def test_groups_are_checked_and_may_be_given() -> None:
    options = {**TINY, "seg_dim": 3, "transparent_dims": (2,)}
    space = LabelSpace("test", ("a", "b", "c", "d"))
    with pytest.raises(UserError, match=r"3 generators.*4 classes") as caught:
        methods.create("semantic-stylegan", space, **options)
    assert "groups" in caught.value.hint
    with pytest.raises(UserError, match="groups must name each"):
        methods.create("semantic-stylegan", space, **options, groups=(0, 1, 1, 1))
    method = methods.create("semantic-stylegan", space, **options, groups=(0, 1, 2, 2))
    assert method.class_groups == (0, 1, 2, 2)


# ---- inversion ----------------------------------------------------------------------------------


def trunk_file(case: Case, folder: Path) -> str:
    """VGG16 as the fixture seeds it."""
    from torchvision import models

    with torch.device("meta"):
        shapes = {
            f"features.{k}": tuple(v.shape)
            for k, v in models.vgg16(weights=None).features.state_dict().items()
        }
    state = seeded(shapes, case.meta["lpips"]["seed"])
    path = folder / "vgg16.pth"
    torch.save({k: v * 2**0.5 if v.ndim == 4 else v for k, v in state.items()}, path)
    return str(path)


def test_features_that_are_all_zero_have_a_gradient() -> None:
    x = torch.zeros(1, 3, 2, 2)
    x[..., 0] = torch.rand(1, 3, 2)
    x.requires_grad_()
    length = _length(x)
    assert torch.equal(length, x.square().sum(1, keepdim=True).sqrt())
    length.sum().backward()
    assert x.grad is not None
    assert float(x.grad[..., 1].abs().max()) == 0
    torch.testing.assert_close(x.grad[..., 0], (x / length)[..., 0].detach())


def test_inversion_matches(tmp_path: Path) -> None:
    case = read("tiny_invert")
    said = dict(case.meta["inversion"])
    run = said.pop("steps_run")
    for fixed in ("adam_betas", "adam_eps"):
        said.pop(fixed)
    method = from_case(case, **said, lpips_trunk=trunk_file(case, tmp_path))
    with torch.inference_mode():  # as in every public call
        descent = Descent(method.net, method.options, method.lpips(), case.image("image"))
        assert case.off_by("latent0", descent.latent[:, :1].detach()) < 1e-5
        for i in range(run):
            rate = learning_rate(i, method.options.steps, method.options.lr)
            assert rate == pytest.approx(case.arrays["lr"][i], abs=1e-7)
            losses = descent.step()
            found = torch.stack([losses.lpips, losses.mse, losses.mean])
            assert (found - array(case, "losses")[i]).abs().max() < 5e-4, i
            if i == 0:
                assert losses.noise.item() == pytest.approx(
                    case.meta["scalars"]["noise_loss_step0"], abs=1e-4
                )
                expected = array(case, "grad0")
                off = (descent.latent.grad - expected).abs().max()
                assert off < 1e-3 * expected.abs().max()
            if i < 2:
                assert case.off_by(f"latent{i + 1}", descent.latent.detach()) < 5e-3, i
        rows = descent.found().rows[None]
        worst = (rows - array(case, "latent_end")).abs().flatten()
        assert torch.quantile(worst, 0.99) < 5e-3
        assert case.off_by("out", method.net.g_ema(rows)[0]) < 2e-2


def test_one_inversion_serves_layout_style_and_every_task(
    tiny: SemanticStyleGAN, faces: Batch, descents: list[int]
) -> None:
    noise = Noise(faces.ids, 0)
    tiny.reconstruct(faces, noise)
    tiny.transfer(faces, faces, noise, [1])
    tiny.shape_transfer(faces, faces, noise, [1])
    tiny.sample(faces, noise)
    assert len(descents) == 2


def test_inversions_are_kept_on_disk_by_content(faces: Batch, descents: list[int]) -> None:
    def codes(**options: Any) -> Tensor:
        method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY, **options)
        return method.load("celebamask_hq", "seeded:0").encode_style(faces).codes

    first = codes()
    assert len(descents) == 2
    assert torch.equal(codes(), first)
    assert torch.equal(codes(truncation=1.0), first)
    assert len(descents) == 2
    codes(lr=0.2)
    assert len(descents) == 4
    codes(keep_inversions=False)
    assert len(descents) == 6
    kept = sorted(InversionStore().folder.rglob("*.safetensors"))
    assert len(kept) == 4
    for path in kept:  # a file that was cut off is made again
        path.write_bytes(path.read_bytes()[:40])
    assert torch.equal(codes(), first)
    assert len(descents) == 8


def test_a_step_lowers_no_weight_and_draws_nothing(tiny: SemanticStyleGAN, faces: Batch) -> None:
    before = {k: v.clone() for k, v in tiny.net.state_dict().items()}
    state = torch.get_rng_state()
    tiny.encode(faces)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in tiny.net.state_dict().items())
    assert all(p.grad is None for p in tiny.net.parameters())


def test_noise_maps_belong_to_their_photograph(faces: Batch) -> None:
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY, no_noises=False)
    method.load("celebamask_hq", "seeded:0")
    own = [n.clone() for n in method.net.g_ema.render.buffers_of_noise()]
    layout, style = method.encode(faces)
    maps = [found.noises for found in layout.inversions]
    assert all(not torch.equal(a, b) for a, b in zip(maps[0], maps[1], strict=True))
    for a, b in zip(own, method.net.g_ema.render.buffers_of_noise(), strict=True):
        assert torch.equal(a, b)
    image = method.render(layout, style, ZeroNoise())
    alone = method.net.g_ema(method.rows_of(layout, style)[1:], [n[None] for n in maps[1]])[0]
    assert torch.allclose(image[1:], alone.clamp(-1, 1), atol=1e-5)
    again: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY, no_noises=False)
    again.load("celebamask_hq", "seeded:0")  # from disk
    for a, b in zip(again.encode(faces)[0].inversions[0].noises, maps[0], strict=True):
        assert torch.equal(a, b)


def test_one_code_for_all_rows(faces: Batch) -> None:
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY, w_plus=False)
    rows = method.load("celebamask_hq", "seeded:0").invert(faces.image[0]).rows
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert not torch.equal(rows[0], method.net.mean_latent)


def test_a_tuned_generator_draws_its_own_photograph_alone(
    tiny: SemanticStyleGAN, faces: Batch
) -> None:
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY, finetune_steps=4)
    method.load("celebamask_hq", "seeded:0")
    noise = Noise(faces.ids, 0)
    plain, tuned = tiny.reconstruct(faces, noise), method.reconstruct(faces, noise)
    target = faces.image

    def error(image: Tensor) -> float:
        return float((image - target).square().mean())

    assert error(tuned) < error(plain)
    other = Batch(faces.ids[::-1], faces.image.flip(0), faces.label.flip(0), None, faces.space)
    swapped = method.transfer(faces, other, noise)
    assert torch.equal(swapped, tiny.transfer(faces, other, noise))


# ---- sizes, files and bad input -----------------------------------------------------------------


def test_photographs_of_another_size_come_by_lanczos() -> None:
    """The official script resizes a photograph of any size to the network's."""
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **{**TINY, "size": 32})
    method.load("celebamask_hq", "seeded:0")
    batch = check_batch(method.space, (16, 16), 1)
    levels = ((batch.image[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    resized = np.array(Image.fromarray(levels).resize((32, 32), Image.Resampling.LANCZOS))
    enlarged = torch.from_numpy(resized).permute(2, 0, 1) / 127.5 - 1
    layout, style = method.encode(batch)
    assert torch.equal(method.invert(enlarged).rows, layout.inversions[0].rows)
    assert method.render(layout, style, ZeroNoise()).shape == (1, 3, 32, 32)


def test_without_a_trunk_for_lpips_it_says_how_to_get_one(faces: Batch) -> None:
    method: Any = methods.create(
        "semantic-stylegan", "celebamask_hq", **{**TINY, "lambda_lpips": 1.0}
    )
    method.load("celebamask_hq", "seeded:0")
    with pytest.raises(Unavailable) as caught:
        method.reconstruct(faces, ZeroNoise())
    assert "lpips-vgg" in f"{caught.value} {caught.value.hint}"


def test_edited_label_maps_are_unavailable(tiny: SemanticStyleGAN, faces: Batch) -> None:
    with pytest.raises(Unavailable, match="draws no label maps"):
        tiny.reconstruct(faces, ZeroNoise(), faces)
    with pytest.raises(Unavailable, match="draws no label maps"):
        tiny.transfer(faces, faces, ZeroNoise(), None, faces)
    with pytest.raises(UserError, match="encode a photograph"):
        tiny.render(_plain(faces), tiny.encode_style(faces), ZeroNoise())


def test_other_filters_and_missing_noise_are_refused(tiny: SemanticStyleGAN) -> None:
    shapes = tiny.key_maps()["g_ema"].official_shapes()
    state = tiny.seeded("g_ema", shapes, 0)
    wrong = {**state, "render_net.convs.0.blur.kernel": torch.ones(4, 4) / 4}
    with pytest.raises(UserError, match=r"blur\.kernel is not the filter"):
        tiny.load_state({"g_ema": wrong})
    with pytest.raises(UserError, match="noise_0"):
        tiny.load_state({"g_ema": {k: v for k, v in state.items() if "noise_0" not in k}})


def test_an_official_file_with_its_options_is_read(tiny: SemanticStyleGAN, tmp_path: Path) -> None:
    import argparse

    shapes = tiny.key_maps()["g_ema"].official_shapes()
    state = tiny.seeded("g_ema", shapes, 0)
    path = tmp_path / "CelebAMask-HQ-512x512.pt"
    torch.save({"g_ema": state, "args": argparse.Namespace(size=16)}, path)
    assert read_state(path).keys() == state.keys()
    method: Any = methods.create("semantic-stylegan", "celebamask_hq", **TINY)
    method.load("celebamask_hq", tmp_path)
    for key, value in tiny.net.state_dict().items():
        assert torch.equal(method.net.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse_size": 48}, "powers of two"),
        ({"min_feat_size": 16, "coarse_size": 16}, "powers of two"),
        ({"base_layers": 5}, "base_layers"),
        ({"transparent_dims": (13,)}, "transparent_dims"),
        ({"steps": 0}, "steps must be positive"),
        ({"latent": 8, "style_dim": 16}, "contradict"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.create("semantic-stylegan", "celebamask_hq", **{**TINY, **options})


def test_every_fixture_is_used() -> None:
    tests = Path(__file__).parent.glob("test_semantic_stylegan*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in tests)
    names = {p.name.split(".")[1] for p in (FIXTURES / "semantic_stylegan").glob("*.npz")}
    assert not [name for name in names if f'{name}"' not in source]
