"""INADE and V-INADE against official outputs, their formulas written literally, and laws."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import Case, every
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.base import Method, Style, why_not
from sisbench.methods.inade.encoder import InstanceConv
from sisbench.methods.inade.generator import Condition, InstanceAdaptiveNorm
from sisbench.methods.inade.segments import dense_rank, find_segments
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.seeded import seeded_state

FIXTURES = Path(__file__).parent / "fixtures" / "inade"
IMAGE, CODES = 2e-4, 1e-4
SLOW = pytest.mark.slow


def space_of(config: dict) -> LabelSpace:
    classes = config["label_nc"] + config["contain_dontcare_label"]
    return LabelSpace("fixture", tuple(f"class {c}" for c in range(classes)))


def fixture(case: str) -> tuple[Method, dict[str, torch.Tensor], dict]:
    """The method with the weights of a fixture, its arrays, its meta data."""
    meta = json.loads((FIXTURES / f"inade.{case}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(FIXTURES / f"inade.{case}.npz").items()}
    config = meta["config"]
    name = "v-inade" if config["use_vae"] else "inade"
    method = methods.create(name, space_of(config), **config)
    official = {
        module: seeded_state(key_map.official_shapes(), meta["weight_seed"])
        for module, key_map in method.key_maps().items()
    }
    for value in official["netG"].values():
        if value.ndim == 3:
            value *= math.sqrt(value.numel() / value.shape[0])
    official["netG"]["conv_img.weight"] *= 0.35
    return method.load_state(official), arrays, meta


def batch_of(
    arrays: dict, space: LabelSpace, prefix: str = "", image: str = "", instances: bool = True
) -> Batch:
    label = arrays[f"{prefix}label"].long()
    pixels = arrays[image].float() / 255 * 2 - 1 if image else torch.zeros(len(label), 3, 1, 1)
    if not image:
        pixels = pixels.expand(-1, -1, *label.shape[1:])
    instance = arrays[f"{prefix}instance"].long() if instances else None
    return Batch(tuple(f"s{i}" for i in range(len(label))), pixels, label, instance, space)


def given(arrays: dict) -> GivenNoise:
    return GivenNoise({"global": arrays["noise_ins"], "instance": arrays["noise"]})


def difference(image: torch.Tensor, expected: torch.Tensor) -> float:
    return float((image[..., ::4, ::4] - expected).abs().max())


# ---- official outputs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "instances"),
    [
        ("small-novae", True),
        ("small-novae", False),
        pytest.param("celeba-novae", True, marks=SLOW),
    ],
)
def test_noise_mode_gives_the_official_image(case: str, instances: bool) -> None:
    method, arrays, _ = fixture(case)
    batch = batch_of(arrays, method.space, instances=instances)
    assert difference(method.sample(batch, given(arrays)), arrays["image"]) < IMAGE


def test_the_blocks_give_the_official_activations() -> None:
    method, arrays, _ = fixture("small-novae")
    seen: dict[str, torch.Tensor] = {}
    for name in ("head_0", "G_middle_1", "up_1"):
        method.net.netG.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out)
        )
    method.sample(batch_of(arrays, method.space), given(arrays))
    for name, value in seen.items():
        step = max(1, value.shape[-1] // 8)
        expected = arrays[f"act_{name}"]
        torch.testing.assert_close(value[:, :16, ::step, ::step], expected, atol=IMAGE, rtol=1e-4)


def test_sketch_branch_and_wide_images_give_the_official_image() -> None:
    method, arrays, _ = fixture("small-sketch-wide")
    batch = batch_of(arrays, method.space)
    assert method.size == (128, 256)
    assert method.can == frozenset()
    assert "sketch" in (why_not(method, "sample") or "")
    layout = replace(method.encode_layout(batch), sketch=arrays["sketch"])
    image = method.render(layout, method.sample_style(batch, ZeroNoise()), given(arrays))
    assert difference(image, arrays["image"]) < IMAGE
    with pytest.raises(UserError, match="sketch"):
        method.sample(batch, given(arrays))


@pytest.mark.parametrize(
    ("case", "instances"),
    [
        ("small-vae", True),
        ("small-vae", False),
        pytest.param("celeba-vae-reconstruct", False, marks=SLOW),
    ],
)
def test_encoder_and_reconstruction_are_official(case: str, instances: bool) -> None:
    method, arrays, _ = fixture(case)
    batch = batch_of(arrays, method.space, image="ref", instances=instances)
    style = method.encode_style(batch)
    logvar = style.extra["logvar"]
    for i, label in enumerate(batch.label):
        classes = label.unique()  # slot k is the k-th class
        k = len(classes)
        for axis, part in enumerate(("scale", "bias")):
            mu, var = style.codes[i, classes, axis], logvar[i, classes, axis]
            torch.testing.assert_close(mu, arrays[f"z_{part}_mu"][i, :k], atol=CODES, rtol=0)
            torch.testing.assert_close(var, arrays[f"z_{part}_logvar"][i, :k], atol=CODES, rtol=0)
        assert style.present[i].nonzero().flatten().tolist() == classes.tolist()
        absent = ~style.present[i]
        assert not style.codes[i, absent].any()
        assert not logvar[i, absent].any()
    assert difference(method.reconstruct(batch, given(arrays)), arrays["image"]) < IMAGE


@pytest.mark.parametrize("instances", [True, False])
def test_transfer_is_matched_by_class(instances: bool) -> None:
    method, arrays, meta = fixture("small-vae-transfer")
    noise, chosen = given(arrays), [meta["swap"]["class"]]
    target = batch_of(arrays, method.space, image="src", instances=instances)
    reference = batch_of(arrays, method.space, "ref_", "ref", instances)
    results = {
        "image_full_class_matched": method.transfer(target, reference, noise),
        "image_edit_one_class": method.transfer(target, reference, noise, chosen),
        "image_noise_only": method.sample(target, noise),
    }
    layout = method.encode_layout(target)
    prior, other = method.sample_style(target, noise), method.encode_style(reference)
    results["image_demo_intended"] = method.render(layout, prior.swap(other, chosen), noise)
    aliased = replace(
        other,
        codes=other.codes[:, :, [1, 1]],
        extra={"logvar": other.extra["logvar"][:, :, [1, 1]]},
        own=None,
    )  # the official demo writes the shift's statistics over the scale's
    results["image_demo_official"] = method.render(layout, prior.swap(aliased, chosen), noise)
    for name, image in results.items():
        assert difference(image, arrays[name]) < IMAGE, name


def test_dense_ranks_labels_and_edges_are_the_official_preprocessing() -> None:
    arrays = np.load(FIXTURES / "inade.preprocess.npz")
    for raw, expected in (("raw_label", "instance_from_label"), ("raw_instance",) * 2):
        values = torch.from_numpy(arrays[raw]).long()[None]
        expected = expected if raw == "raw_label" else "instance_from_instance"
        ranks, codes = dense_rank(values, 256)
        assert (ranks[0].numpy() == arrays[expected]).all()
        assert codes[0].tolist() == sorted(set(arrays[raw].ravel().tolist()))
    raw_label = torch.from_numpy(arrays["raw_label"]).long()[None]
    batch = Batch(("a",), torch.zeros(1, 3, 96, 96), raw_label, None, LabelSpace.named("ade20k"))
    layout = methods.create("inade", "ade20k", ngf=2, crop_size=32).encode_layout(batch)
    assert (layout.label[0].numpy() == arrays["label_index"]).all()
    edges = instance_edges(torch.from_numpy(arrays["instance_from_label"]).long()[None])
    assert (edges[0, 0].numpy() == arrays["edge"]).all()


@pytest.mark.parametrize("data", ["celebamask_hq", "ade20k", "cityscapes", "deepfashion"])
def test_the_defaults_are_the_official_configuration(data: str) -> None:
    name = f"inade.{data.replace('_', '')}-vae.manifest.json"
    config = json.loads((FIXTURES / name).read_text())["config"]
    with torch.device("meta"):
        given, default = (methods.create("v-inade", data, **o) for o in (config, {}))
    assert default.config == given.config
    assert default.size == (
        round(config["crop_size"] / config["aspect_ratio"]),
        config["crop_size"],
    )


# ---- the formulas, literally ------------------------------------------------------------------


def small(name: str = "v-inade", classes: int = 6, **options: object) -> Method:
    torch.manual_seed(0)
    config = {"ngf": 4, "crop_size": 64, "noise_nc": 3, **options}
    space = LabelSpace("t", tuple(f"c{i}" for i in range(classes)))
    method = methods.create(name, space, **config)
    for norm in method.net.modules():
        if isinstance(norm, InstanceAdaptiveNorm):
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            torch.nn.init.uniform_(norm.param_free_norm.running_var, 0.5, 2)
            torch.nn.init.normal_(norm.param_free_norm.running_mean)
    return method


def scene(method: Method, batch: int = 2, size: int = 64, seed: int = 0, block: int = 8) -> Batch:
    """Blocky label maps and random pixels."""
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, method.num_classes, (batch, size // block, size // block))
    label = torch.from_numpy(np.kron(grid, np.ones((1, block, block), dtype=np.int64)))
    image = torch.from_numpy(rng.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32))
    ids = tuple(f"{seed}/{i}" for i in range(batch))
    return Batch(ids, image, label, None, method.space)


@pytest.mark.parametrize("training", [False, True])
def test_norm_equals_its_formula_over_one_hot_maps(training: bool) -> None:
    norm = small().net.netG.up_0.norm_0.train(training)
    channels, classes = norm.weight.shape[1], norm.weight.shape[0]
    label = torch.randint(-1, classes, (2, 32, 32))
    instance = torch.randint(0, 4, (2, 32, 32))
    segments = find_segments(label, instance, classes)
    noise = torch.randn(2, segments.num_slots, 2, 3)
    x = torch.randn(2, channels, 16, 16)
    row = torch.arange(2)[:, None]
    y = norm(x, Condition(segments, noise[row, segments.slots]))
    labels = one_hot(resize_labels_torch(label, (16, 16)), classes)
    slots = one_hot(resize_labels_torch(instance, (16, 16)), segments.num_slots)
    driven = norm.fc_noise(noise)
    maps = []
    for axis in range(2):
        weight = torch.einsum("nchw,cd->ndhw", labels, norm.weight[:, :, axis])
        bias = torch.einsum("nchw,cd->ndhw", labels, norm.bias[:, :, axis])
        drive = torch.einsum("nkhw,nkd->ndhw", slots, driven[:, :, axis])
        maps.append(weight * drive + bias)
    bn = norm.param_free_norm
    if training:
        xn = F.batch_norm(x, None, None, training=True)
    else:
        xn = F.batch_norm(x, bn.running_mean, bn.running_var)
    torch.testing.assert_close(y, maps[0] * xn + maps[1], atol=1e-5, rtol=1e-4)
    assert not y.masked_select((resize_labels_torch(label, (16, 16)) == -1)[:, None]).any()


@pytest.mark.parametrize("stride", [1, 2])
def test_instance_convolution_equals_masked_unfold(stride: int) -> None:
    conv = InstanceConv(4, 5, stride)
    x, ids = torch.randn(2, 4, 8, 12), torch.randint(0, 3, (2, 16, 24))
    columns = F.unfold(x, 3, padding=1, stride=stride).unflatten(1, (4, 9))
    seen = ids[:, ::2, ::2][:, None].float()
    seen = F.unfold(F.pad(seen, (1, 1, 1, 1), value=-9), 3, stride=stride)
    mask = (seen == seen[:, 4:5]).float()[:, None]
    expected = conv.weight.flatten(1) @ (columns * mask).flatten(1, 2) + conv.bias[:, None]
    torch.testing.assert_close(conv(x, ids).flatten(2), expected, atol=1e-5, rtol=1e-5)


def test_statistics_equal_convolutions_averaged_over_instances() -> None:
    encoder = small().net.netE
    ids = torch.randint(0, 3, (2, 16, 16)).masked_fill(torch.rand(2, 16, 16) < 0.1, -1)
    y = torch.randn(2, 4, 16, 16)
    mu, logvar = encoder.statistics(y, ids, 5)
    names = (("scale_conv_mu", "scale_conv_var"), ("bias_conv_mu", "bias_conv_var"))
    for axis, pair in enumerate(names):
        for name, result in zip(pair, (mu, logvar), strict=True):
            conv = InstanceConv(4, 3)
            conv.load_state_dict(encoder.get_submodule(name).state_dict())
            planes = one_hot(ids, 5).flatten(2)
            sums = planes @ conv(y, ids).flatten(2).transpose(1, 2)
            expected = sums / planes.sum(2, keepdim=True).clamp_min(1)
            torch.testing.assert_close(result[:, :, axis], expected, atol=1e-5, rtol=1e-4)
    assert not mu[:, 3:].any()


# ---- laws -------------------------------------------------------------------------------------


def test_capabilities() -> None:
    assert small("inade").can == {"sample"}
    assert "V-INADE" in (why_not(small("inade"), "reconstruct") or "")
    assert small().can == {
        *("reconstruct", "transfer", "class_transfer", "shape_transfer", "subject_transfer"),
        *("sample", "mixed", "interpolate_style"),
    }
    assert "raw label map" in (why_not(small(), "interpolate_shape") or "")


def test_an_image_does_not_depend_on_the_batch() -> None:
    method = small(classes=40)
    batch = scene(method, 3, block=16)
    batch.label[1:] = batch.label[1:] % 5  # fewer instances than in sample 0
    together = method.reconstruct(batch, Noise(batch.ids))
    for i in range(3):
        alone = method.reconstruct(batch[i : i + 1], Noise(batch.ids[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=2e-5, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_swap_and_lerp_laws() -> None:
    method = small()
    a, b = scene(method, seed=1), scene(method, seed=2)
    noise, layout = Noise(a.ids), method.encode_layout(a)
    own, other = method.encode_style(a), method.encode_style(b)

    def image(style: Style) -> torch.Tensor:
        return method.render(layout, style, noise)

    assert torch.equal(image(own.swap(other, [])), image(own))
    assert torch.equal(image(own.swap(other)), image(other))
    assert torch.equal(image(own.lerp(other, 0.0)), image(own))
    torch.testing.assert_close(image(own.lerp(other, 1.0)), image(other), atol=1e-6, rtol=0)
    assert (image(own.swap(other, [2])) - image(own)).abs().max() > 1e-3
    everything = own.swap(other, [0, 2, 4]).swap(other, [1, 3, 5])
    assert torch.equal(everything.codes, other.codes)
    assert torch.equal(everything.extra["logvar"], other.extra["logvar"])


def with_instances(method: Method) -> Batch:
    """One class owns three instances of different size; ids are no ranks of the classes."""
    label = torch.zeros(1, 64, 64, dtype=torch.int64)
    instance = torch.full((1, 64, 64), 3)
    label[:, 8:40] = 2
    instance[:, 8:40, :8], instance[:, 8:40, 8:40], instance[:, 8:40, 40:] = 4, 0, 2
    image = scene(method, 1).image
    return Batch(("i",), image, label, instance, method.space)


def test_each_instance_has_its_own_statistics_and_the_largest_stands_for_the_class() -> None:
    method = small()
    batch = with_instances(method)
    noise = Noise(batch.ids)
    style = method.encode_style(batch)
    mu, logvar = method.net.netE(batch.image, batch.instance, 5)
    torch.testing.assert_close(style.codes[0, 2], mu[0, 0])  # 1024 pixels, against 768 and 256
    torch.testing.assert_close(style.codes[0, 0], mu[0, 3])
    segments = find_segments(batch.label, batch.instance, 6)
    drawn = noise.normal("instance", 5, 2, 3)[:, segments.slots[0]]
    used = mu[:, segments.slots[0]] + drawn * torch.exp(logvar[:, segments.slots[0]] / 2)
    start = noise.normal("global", 256)
    expected = method.net.netG(start, Condition(segments, used))
    torch.testing.assert_close(method.reconstruct(batch, noise), expected)
    assert torch.equal(
        method.transfer(batch, batch, noise, [2])[0],
        method.render(method.encode_layout(batch), style.swap(style, [2]), noise)[0],
    )
    merged = style.swap(style, [2])  # now every instance of class 2 looks like the largest
    assert torch.equal(merged.own.mu[0, [0, 2, 4]], style.codes[0, 2].expand(3, -1, -1))
    assert torch.equal(merged.own.mu[0, 3], style.own.mu[0, 3])


def test_sparse_instance_ids_are_ranked() -> None:
    method = small()
    batch = with_instances(method)
    sparse = replace(batch, instance=batch.instance * 1000)
    ranks = method.encode_layout(sparse).instance
    assert ranks.unique().tolist() == [0, 1, 2, 3]
    again = replace(batch, instance=ranks)
    noise = Noise(batch.ids)
    assert torch.equal(method.reconstruct(sparse, noise), method.reconstruct(again, noise))


@pytest.mark.parametrize("name", ["inade", "v-inade"])
def test_names_of_instances_only_choose_their_rows_of_the_noise(name: str) -> None:
    method = small(name)
    batch = with_instances(method)
    names = torch.tensor([3, 0, 1, 4, 2])
    renamed = replace(batch, instance=names[batch.instance])
    rows = Noise(batch.ids).normal("instance", 5, 2, 3)
    start = Noise(batch.ids).normal("global", 256)
    moved = torch.empty_like(rows)
    moved[:, names] = rows
    draw = method.reconstruct if name == "v-inade" else method.sample
    own = draw(batch, GivenNoise({"global": start, "instance": rows}))
    again = draw(renamed, GivenNoise({"global": start, "instance": moved}))
    torch.testing.assert_close(again, own, atol=1e-6, rtol=0)
    other = draw(renamed, GivenNoise({"global": start, "instance": rows}))
    assert (other - own).abs().max() > 1e-3, "rows that stay belong to other instances"


@pytest.mark.parametrize("name", ["inade", "v-inade"])
def test_wide_ids_of_one_sample_leave_the_others_alone(name: str) -> None:
    method = small(name)
    batch = scene(method, 3)
    instance = 2 * batch.label + 1  # no ranks
    instance[0] += 300
    batch = replace(batch, instance=instance)
    ranks = method.encode_layout(batch).instance
    assert torch.equal(ranks[1:], instance[1:])
    assert int(ranks[0].max()) < 6
    draw = method.reconstruct if name == "v-inade" else method.sample
    together = draw(batch, Noise(batch.ids))
    for i in range(3):
        alone = draw(batch[i : i + 1], Noise(batch.ids[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=2e-5, rtol=0)


@pytest.mark.parametrize("instances", [False, True])
def test_every_task_runs_with_holes_and_absent_classes(instances: bool) -> None:
    method = small()
    target = with_instances(method) if instances else scene(method, 1, seed=3)
    reference = scene(method, 1, seed=4)
    reference.label[reference.label == 2] = 3
    noise = Noise(target.ids)
    images = [
        method.shape_transfer(target, reference, noise, [2, 3]),
        method.subject_transfer(target, reference, noise, range(1, 6)),
        method.subject_transfer(target, reference, noise, range(1, 6), layout="reference"),
        method.mixed(target, noise, [0]),
        method.sample(target, noise),
        method.interpolate_style(target, reference, noise, 0.3),
    ]
    for image in images:
        assert image.shape == (1, 3, 64, 64)
        assert torch.isfinite(image).all()
        assert image.abs().max() <= 1
    empty = replace(target, label=torch.full_like(target.label, -1))
    assert torch.isfinite(method.sample(empty, noise)).all()


@SLOW
def test_a_reconstruction_costs_less_than_the_official_one() -> None:
    method = methods.create("v-inade", "ade20k")
    label = torch.arange(12).repeat_interleave(22)[:256].expand(1, 256, 256) * 12
    batch = Batch(("a",), torch.zeros(1, 3, 256, 256), label, None, method.space)
    with FlopCounterMode(display=False) as counter:
        method.reconstruct(batch, ZeroNoise())
    assert counter.get_total_flops() / 2e9 <= 50  # GMAC; the official networks take 67 + 13


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_nc": 7}, "7 classes"),
        ({"semantic_nc": 9}, "semantic_nc"),
        ({"no_instance": True}, "no_instance"),
        ({"use_vae": False}, "use_vae"),
        ({"noise_nc": 0}, "noise_nc"),
        ({"noise_ncs": 3}, "noise_ncs"),
        ({"num_upsampling_layers": "less"}, "normal, more, most"),
        ({"norm_G": "batch"}, "norm_G"),
        ({"crop_size": 16}, "crop_size"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**options)


def test_wrong_input_is_refused() -> None:
    method = small()
    batch = scene(method)
    noise = Noise(batch.ids)
    with pytest.raises(UserError, match=r"classes 0\.\.5"):
        method.encode_layout(replace(batch, label=batch.label + 1))
    with pytest.raises(UserError, match="instance ids"):
        method.encode_layout(replace(batch, instance=batch.label - 1))
    with pytest.raises(UserError, match="multiples of 16"):
        method.encode_style(scene(method, size=40))
    codes = torch.zeros(2, 6, 4)
    with pytest.raises(UserError, match="InstanceStyle"):
        method.render(method.encode_layout(batch), Style(codes, codes[..., 0] > 0), noise)
    wrong = GivenNoise({"global": torch.zeros(2, 256), "instance": torch.zeros(2, 9, 2, 3)})
    with pytest.raises(UserError, match="'instance' must be"):
        method.sample(batch, wrong)


def test_most_upsampling_adds_a_block() -> None:
    method = small(num_upsampling_layers="most", crop_size=128)
    assert method.size == (128, 128)
    assert method.net.netG.conv_img.in_channels == 2
    image = method.sample(scene(method, 1, size=128), Noise(("a",)))
    assert image.shape == (1, 3, 128, 128)


def test_a_misfitting_state_dict_is_refused() -> None:
    method = small("inade")
    state = seeded_state(method.key_maps()["netG"].official_shapes(), 0)
    del state["up_0.norm_s.weight"]
    with pytest.raises(UserError, match=r"up_0\.norm_s\.weight"):
        method.load_state({"netG": state})
    with pytest.raises(UserError, match="takes the modules netG"):
        method.load_state({"netG": state, "netE": {}})


# ---- the network of SCAM's table -----------------------------------------------------------------


def scam_case(**options: object) -> tuple[Case, Method]:
    case = Case.read("inade/scam-inade.small")
    method = methods.create("v-inade", case.space, **case.meta["config"], **options)
    states = {m: case.weights(m, k.official_shapes()) for m, k in method.key_maps().items()}
    for value in states["generator"].values():
        if value.ndim == 3:
            value *= math.sqrt(value.numel() / value.shape[0])
    states["generator"]["last_conv.1.weight"] *= 0.35
    return case, method.load_state(states)


def scam_batch(case: Case) -> Batch:
    label = torch.from_numpy(case.arrays["label"]).long()
    label = label.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return Batch(("a", "b"), case.image("image_in"), label, None, case.space)


def scam_noise(case: Case) -> GivenNoise:
    names = {"global": "noise_start", "instance": "noise"}
    return GivenNoise({ours: torch.from_numpy(case.arrays[n]) for ours, n in names.items()})


def test_the_network_of_scams_table_matches() -> None:
    case, method = scam_case()
    batch, kept = scam_batch(case), []
    method.net.netG.blocks[2].register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.inference_mode():
        style, layout = method.encode_style(batch), method.encode_layout(batch)
        for i, name in enumerate(("scale", "bias")):
            assert case.off_by(f"z_{name}_mu", style.codes[:, :, i]) < CODES
            assert case.off_by(f"z_{name}_logvar", style.extra["logvar"][:, :, i]) < CODES
        image = method.render(layout, style, scam_noise(case))
    inner = F.interpolate(kept[0], scale_factor=2.0)[:, :8]
    assert case.off_by("act_block_2", inner, *every(1, 1, 2, 2)) < IMAGE
    assert case.off_by("image", image, *every(1, 1, 4, 4)) < IMAGE
    assert torch.equal(method.reconstruct(batch, scam_noise(case)), image)
    for block in method.net.netG.blocks:  # applied once, the activation gives other pictures
        block.slope = 0.2
    once = method.reconstruct(batch, scam_noise(case))
    assert case.off_by("image", once.clone(), *every(1, 1, 4, 4)) > 1e-2


def test_scams_network_knows_classes_alone() -> None:
    """Slot k of the noise is class k, whatever classes the sample has; instances are not read."""
    case, method = scam_case()
    batch, noise = scam_batch(case), scam_noise(case)
    plain = method.reconstruct(batch, noise)
    ids = (torch.arange(256) // 128).expand_as(batch.label)
    assert torch.equal(method.reconstruct(replace(batch, instance=ids), noise), plain)
    one = int(batch.label[0].max())  # the last of the sample's classes, not of its ranks
    label = torch.where(batch.label == 0, one, batch.label)
    changed = noise.values["instance"].clone()
    changed[:, 0] += 1  # of a class that no pixel has
    other = GivenNoise({**noise.values, "instance": changed})
    edited = replace(batch, label=label)
    assert torch.equal(method.reconstruct(edited, noise), method.reconstruct(edited, other))
    assert not torch.equal(method.reconstruct(batch, other), plain)


def test_scams_network_is_chosen_by_its_names() -> None:
    space = LabelSpace.named("celebamask_hq")
    with torch.device("meta"):
        named = methods.create("inade", space, noise_dim=64, num_up_layers=7)
        asked = methods.create("v-inade", space, variant="scam")
    assert named.options.variant == "scam"
    assert named.can == asked.can == methods.create("v-inade", space).can
    shapes = [{m: k.official_shapes() for m, k in n.key_maps().items()} for n in (named, asked)]
    assert shapes[0] == shapes[1]
    counts = {
        m: sum(math.prod(s) for k, s in found.items() if not k.endswith(("weight_u", "weight_v")))
        for m, found in shapes[0].items()
    }
    assert counts == {"generator": 85_115_395, "encoder": 3_689_856}
    for options, said in (
        ({"crop_size": 64, "variant": "scam"}, "'crop_size' is no option of the variant 'scam'"),
        ({"height": 64, "variant": "official"}, "'height' is no option of the variant 'official'"),
        ({"variant": "scamm"}, "variant must be official or scam"),
    ):
        with pytest.raises(UserError, match=said), torch.device("meta"):
            methods.create("v-inade", space, **options)
