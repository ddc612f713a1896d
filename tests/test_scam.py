"""SCAM against official outputs, against its formulas written literally, and laws of its tasks."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_scam as plain
import pytest
import tiny_networks
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Method, why_not
from sisbench.methods.scam.regions import Regions
from sisbench.methods.seeded import seeded_state

FIXTURES = Path(__file__).parent / "fixtures" / "scam"
SLOW = pytest.mark.slow


def scaled(key: str, value: Tensor, recipe: str, noise: bool) -> Tensor:
    """A seeded entry as the fixtures' recipe scales it."""
    width = value.shape[-1] if value.ndim else 1
    if re.search(r"ln_[12]\.weight$", key):
        return value * (0.1 * math.sqrt(width)) + 1
    if re.search(r"ln_[12]\.bias$", key):
        return value * (0.05 * math.sqrt(width))
    if key == "latents":
        return value * math.sqrt(width)
    if key.endswith("q_linear.weight") and "q_linear" in recipe:
        return 2 * value
    if key.endswith("conv_rgb.weight"):
        return 0.4 * value
    return torch.zeros_like(value) if key.endswith("noise_var") and not noise else value


def fixture(case: str) -> tuple[Method, dict[str, Tensor], Batch, dict]:
    """The method with the weights of a fixture, its arrays, its batch, its meta data."""
    meta = json.loads((FIXTURES / f"scam.{case}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(FIXTURES / f"scam.{case}.npz").items()}
    classes = meta["config"]["encoder"]["num_labels"]
    space = LabelSpace("fixture", tuple(f"class {c}" for c in range(classes)))
    method = methods.create("scam", space, **meta["config"])
    official = {
        module: {
            key: scaled(key, value, meta["weight_recipe"], "noise_seed" in meta)
            for key, value in seeded_state(
                key_map.official_shapes(), meta["weight_seeds"][module]
            ).items()
        }
        for module, key_map in method.key_maps().items()
    }
    image = arrays["image"]
    image = image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image.float()
    ids = tuple(f"s{i}" for i in range(len(image)))
    batch = Batch(ids, image, arrays["label"].long(), None, space)
    return method.load_state(official), arrays, batch, meta


def close(image: Tensor, expected: Tensor, most: float = 5e-4) -> None:
    step = image.shape[-1] // expected.shape[-1]
    off = (image[..., ::step, ::step] - expected).abs()
    assert off.max() < most
    assert off.mean() < 5e-5


# ---- official outputs -------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["tiny_recon", "rect_recon"])
def test_codes_and_reconstruction_are_official(case: str) -> None:
    method, arrays, batch, _ = fixture(case)
    style = method.encode_style(batch)
    tokens = method.net.encoder.index.flat(style.codes)
    torch.testing.assert_close(tokens, arrays["z"], atol=1e-4, rtol=0)
    assert style.present.tolist() == [
        [c in label.unique() for c in range(len(method.space))] for label in batch.label
    ]
    close(method.reconstruct(batch, ZeroNoise()), arrays["y"])


def test_every_step_is_official() -> None:
    method, arrays, batch, _ = fixture("tiny_recon")
    found: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda _module, _inputs, out: found.__setitem__(
            name, out[0] if isinstance(out, tuple) else out
        )

    encoder, generator = method.net.encoder, method.net.generator
    for i in (0, 3):
        encoder.backbone[f"block_{i}"].cross_attention.register_forward_hook(keep(f"enc{i}_cross"))
    encoder.backbone["block_0"].register_forward_hook(keep("enc0_self"))
    generator.first_conv.register_forward_hook(keep("gen_first"))
    for b in (0, 1):
        generator.blocks[b].conv_1.register_forward_hook(keep(f"gen{b}_x"))
    for j in (0, 1):
        mod = getattr(generator.blocks[0], f"mod_{j}")
        mod.image_to_latent.register_forward_hook(keep(f"gen0_mod{j}_z"))
        mod.register_forward_hook(keep(f"gen0_mod{j}_x"))
    method.reconstruct(batch, ZeroNoise())
    found["gen0_mod0_x"] = torch.nn.functional.leaky_relu(found["gen0_mod0_x"], 0.2)
    for name, value in found.items():
        if name in arrays:
            torch.testing.assert_close(value, arrays[name], atol=1e-4, rtol=1e-4, msg=name)
    assert len(found.keys() & arrays.keys()) >= 8


def test_full_swap_subject_transfer_and_class_swaps_are_official() -> None:
    method, arrays, batch, _ = fixture("swap")
    noise, subject = ZeroNoise(), range(1, 5)
    a, b = batch[:1], batch[1:]
    turned = replace(batch, image=batch.image.flip(0), label=batch.label.flip(0))
    close(method.transfer(batch, turned, noise), arrays["y_full_swap"])
    close(method.subject_transfer(a, b, noise, subject), arrays["y_transfer_maskA"])
    on_b = method.subject_transfer(a, b, noise, subject, layout="reference")
    close(on_b, arrays["y_transfer_maskB"])
    close(method.transfer(a, b, noise, [2]), arrays["y_class_absent"])
    close(method.transfer(a, b, noise, [1]), arrays["y_class_present"])


def test_noise_enters_by_name_as_in_the_official_code() -> None:
    method, arrays, batch, meta = fixture("tiny_noise")
    sizes = [4, 8, 8, 16, 16, 32, 32, 64]
    maps = {
        f"block{j // 2}.{j % 2}": torch.from_numpy(
            np.random.RandomState(meta["noise_seed"] + j)
            .standard_normal((2, 1, size, size))
            .astype(np.float32)
        )
        for j, size in enumerate(sizes)
    }
    close(method.reconstruct(batch, GivenNoise(maps)), arrays["y_injected"])
    close(method.reconstruct(batch, ZeroNoise()), arrays["y_no_noise"])
    torch.manual_seed(123)
    drawn = {name: torch.randn(2, s, s, 1).transpose(1, 3) for name, s in zip(maps, sizes)}
    close(method.reconstruct(batch, GivenNoise(drawn)), arrays["y_torch_seed"])
    del maps["block2.1"]
    with pytest.raises(UserError, match=r"block2\.1"):
        method.reconstruct(batch, GivenNoise(maps))


@SLOW
def test_the_full_size_network_is_official() -> None:
    method, arrays, batch, _ = fixture("celebahq_recon")
    tokens = method.net.encoder.index.flat(method.encode_style(batch).codes)
    torch.testing.assert_close(tokens[..., ::4], arrays["z"], atol=1e-4, rtol=0)
    close(method.reconstruct(batch, ZeroNoise()), arrays["y"], most=5e-3)


@pytest.mark.parametrize(
    ("case", "space"),
    [("celebahq", "celebamask_hq"), ("ade20k", "ade20k"), ("idesigner", "idesigner")],
)
def test_the_defaults_are_the_official_configuration(case: str, space: str) -> None:
    config = json.loads((FIXTURES / f"scam.{case}.manifest.json").read_text())["config"]
    with torch.device("meta"):
        given, default = (methods.create("scam", space, **o) for o in (config, {}))
    assert default.config == given.config
    assert default.size == (config["generator"]["height"], config["generator"]["width"])


# ---- the formulas, literally ------------------------------------------------------------------

SMALL = {**tiny_networks.SCAM, "num_up_layers": 4, "height": 32, "width": 32}


def small(classes: int = 5, **options: object) -> Method:
    space = LabelSpace("t", tuple(f"c{i}" for i in range(classes)))
    method = methods.create("scam", space, **{**SMALL, **options})
    official = {
        module: {
            key: scaled(key, value, "q_linear", True)
            for key, value in seeded_state(key_map.official_shapes(), 5).items()
        }
        for module, key_map in method.key_maps().items()
    }
    return method.load_state(official)


def scene(method: Method, batch: int = 3, seed: int = 0, block: int = 4) -> Batch:
    """Blocky label maps and random pixels at the method's size."""
    rng = np.random.default_rng(seed)
    height, width = method.size
    grid = rng.integers(0, method.num_classes, (batch, -(-height // block), -(-width // block)))
    label = np.kron(grid, np.ones((1, block, block), dtype=np.int64))[:, :height, :width]
    image = rng.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32)
    ids = tuple(f"{seed}/{i}" for i in range(batch))
    return Batch(ids, torch.from_numpy(image), torch.from_numpy(label.copy()), None, method.space)


HEADS = {"num_cross_heads": 2, "num_self_heads": 3, "num_heads": 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        HEADS,
        {"num_latents_bg": 5, **HEADS},
        {"use_self_attention": False},
        {"attention_type": "simplex"},
        {"add_noise": False},
        {"height": 48, "width": 33},
        {"height": 32, "width": 64},
    ],
)
def test_images_equal_those_of_the_literal_form(options: dict) -> None:
    method = small(7, **options)
    batch = scene(method)
    batch.label[0].clamp_(0, 2)  # absent classes
    batch.label[1, 1, 1] = 6  # a class that vanishes in smaller sizes
    batch.label[2, 3:20, 5:9] = -1  # holes
    noise = Noise(batch.ids)
    with torch.inference_mode():
        tokens = plain.encode(method.net.encoder, method.config, batch.image, batch.label)
        expected = plain.generate(method.net.generator, method.config, batch.label, tokens, noise)
    style = method.encode_style(batch)
    found = method.net.encoder.index.flat(style.codes)
    torch.testing.assert_close(found, tokens, atol=1e-4, rtol=0)
    close(method.reconstruct(batch, noise), expected)


def test_blocks_hold_every_pixel_once_and_never_mix_classes() -> None:
    label = torch.randint(-1, 5, (3, 40, 70))
    label[1] = 2
    regions = Regions(label, 6)
    for size in ((40, 70), (80, 140), (5, 9)):
        blocks = regions.blocks(size)
        assert (blocks.filled.flatten(1).sum(1) == size[0] * size[1]).all()
        pixels = torch.arange(size[0] * size[1]).float()[None, :, None].expand(3, -1, -1)
        assert torch.equal(blocks.scatter(blocks.gather(pixels)), pixels)
        small_label = torch.nn.functional.interpolate(label[:, None].float(), size=size)
        inside = blocks.gather(small_label.flatten(2).transpose(1, 2))[..., 0]
        names = torch.cat([regions.classes, torch.full((3, 1), -1)], 1)
        owner = names.gather(1, blocks.group)[..., None].expand_as(inside)
        assert torch.equal(inside[blocks.filled], owner[blocks.filled].float())


# ---- laws -------------------------------------------------------------------------------------


def test_capabilities() -> None:
    method = small()
    assert method.can == {
        *("reconstruct", "transfer", "class_transfer", "shape_transfer", "subject_transfer"),
        "interpolate_style",
    }
    assert why_not(method, "sample") == "no prior to draw styles from"
    batch = scene(method)
    with pytest.raises(Unavailable, match="no prior"):
        method.sample(batch, Noise(batch.ids))


def test_an_image_does_not_depend_on_the_batch() -> None:
    method = small(30)
    batch = scene(method)
    batch.label[1:] = batch.label[1:] % 4
    batch.label[2, :9] = -1
    together = method.reconstruct(batch, Noise(batch.ids))
    for i in range(3):
        alone = method.reconstruct(batch[i : i + 1], Noise(batch.ids[i : i + 1]))
        torch.testing.assert_close(alone[0], together[i], atol=2e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_swap_and_lerp_laws() -> None:
    method = small()
    a, b = scene(method, seed=1), scene(method, seed=2)
    noise, layout = Noise(a.ids), method.encode_layout(a)
    own, other = method.encode_style(a), method.encode_style(b)
    assert own.codes.shape == (3, 5, 3, 16)
    assert not own.codes[:, 0, 2].any()  # class 0 has two tokens, padded to three
    assert torch.equal(own.swap(other, []).codes, own.codes)
    assert torch.equal(own.swap(other).codes, other.codes)
    assert torch.equal(own.lerp(other, 0.0).codes, own.codes)
    torch.testing.assert_close(own.lerp(other, 1.0).codes, other.codes)
    assert torch.equal(own.swap(other, [1, 3]).swap(own, [1, 3]).codes, own.codes)
    half = own.swap(other, [2])
    assert torch.equal(half.codes[:, 2], other.codes[:, 2])
    assert torch.equal(half.codes[:, 1], own.codes[:, 1])
    change = method.render(layout, half, noise) - method.render(layout, own, noise)
    assert change.abs().max() > 1e-3


def test_every_task_runs_with_holes_and_absent_classes() -> None:
    method = small()
    target, reference = scene(method, 2, seed=3), scene(method, 2, seed=4)
    reference.label[reference.label == 2] = 3
    noise = Noise(target.ids)
    empty = replace(target, label=torch.full_like(target.label, -1))
    images = [
        method.shape_transfer(target, reference, noise, [2, 3]),
        method.subject_transfer(target, reference, noise, range(1, 5)),
        method.transfer(target, reference, noise, [2]),
        method.interpolate_style(target, reference, noise, 0.3),
        method.reconstruct(empty, noise),
    ]
    for image in images:
        assert image.shape == (2, 3, 32, 32)
        assert torch.isfinite(image).all()
        assert image.abs().max() <= 1


def test_attention_maps_are_distributions_over_the_tokens_of_the_class() -> None:
    method = small(**HEADS)
    batch = scene(method)
    batch.label[0, :4] = -1
    layout, style = method.encode_layout(batch), method.encode_style(batch)
    maps = method.attention_maps(layout, style, ZeroNoise())
    assert maps.shape == (3, 4, 3, 32, 32)
    total = maps.sum(2)
    hole = (batch.label == -1)[:, None].expand_as(total)
    torch.testing.assert_close(total[~hole], torch.ones_like(total[~hole]))
    assert not total[hole].any()
    background = (batch.label == 0)[:, None].expand(-1, 4, -1, -1)
    assert not maps[:, :, 2][background].any()  # class 0 has no third token
    assert maps[:, :, :2].std() > 0.01


def test_gradients_equal_those_of_the_literal_form() -> None:
    """Also where a class has a single pixel: its tokens' sum of weights is then exactly 1."""
    method = small(7)
    batch = scene(method)
    batch.label[1, 1, 1] = 6  # a class that vanishes in smaller sizes
    batch.label[2, :16, :16] = 5  # one pixel of the coarsest size
    net, noise = method.net.requires_grad_(True).train(), Noise(batch.ids)
    weight = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(0))
    found, expected = [], []
    for gradients, literal in ((found, False), (expected, True)):
        net.zero_grad()
        if literal:
            tokens = plain.encode(net.encoder, method.config, batch.image, batch.label)
            image = plain.generate(net.generator, method.config, batch.label, tokens, noise)
        else:
            regions = Regions(batch.label, 7)
            image, _ = net.generator(batch.label, regions, net.encoder(batch.image, regions), noise)
        (image * weight).sum().backward()
        gradients += [p.grad.clone() for p in net.parameters() if p.grad is not None]
    for mine, other in zip(found, expected, strict=True):
        assert (mine - other).norm() < 1e-4 * max(float(other.norm()), 1)


def test_gradients_reach_every_parameter() -> None:
    method = small()
    net = method.net.requires_grad_(True).train()
    batch = scene(method, 2)
    regions = Regions(batch.label, 5)
    tokens = net.encoder(batch.image, regions)
    image, _ = net.generator(batch.label, regions, tokens, Noise(batch.ids))
    image.square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without


@SLOW
@pytest.mark.parametrize(
    ("space", "classes", "limit", "official"),
    [("celebamask_hq", 19, 45, 70), ("ade20k", 30, 90, 263)],
)
def test_cost_of_a_reconstruction(space: str, classes: int, limit: float, official: float) -> None:
    method = methods.create("scam", space)
    label = (torch.arange(256) * classes // 256).expand(1, 256, 256).contiguous()
    batch = Batch(("a",), torch.zeros(1, 3, 256, 256), label, None, method.space)
    with FlopCounterMode(display=False) as counter:
        method.reconstruct(batch, ZeroNoise())
    assert counter.get_total_flops() / 2e9 <= limit < official


def test_less_work_than_the_literal_form() -> None:
    method = small(40, height=64, width=64)
    batch = scene(method, 1, block=16)
    noise = ZeroNoise()
    with FlopCounterMode(display=False) as ours:
        method.reconstruct(batch, noise)
    with FlopCounterMode(display=False) as theirs, torch.inference_mode():
        tokens = plain.encode(method.net.encoder, method.config, batch.image, batch.label)
        plain.generate(method.net.generator, method.config, batch.label, tokens, noise)
    assert ours.get_total_flops() < theirs.get_total_flops() / 4


# ---- weights and bad input --------------------------------------------------------------------


def test_a_lightning_checkpoint_loads_and_its_buffers_may_be_missing(tmp_path: Path) -> None:
    method = small()
    states = {m: seeded_state(k.official_shapes(), 7) for m, k in method.key_maps().items()}
    flat = {f"{m}.{k}": v for m, state in states.items() for k, v in state.items()}
    flat = {k: v for k, v in flat.items() if not k.endswith("inv_freq")}
    flat["discriminator.discriminators.x"] = torch.zeros(1)
    torch.save({"state_dict": flat, "epoch": 3}, tmp_path / "last.ckpt")
    loaded = methods.create("scam", method.space, **SMALL).load(method.space, tmp_path)
    attention = loaded.net.encoder.backbone["block_0"].cross_attention.attention
    stem = "encoder.backbone.block_0.cross_attention.attention"
    assert torch.equal(attention.key.weight, flat[f"{stem}.v_linear.weight"])
    assert torch.equal(attention.value.weight, flat[f"{stem}.k_linear.weight"])
    del flat["encoder.latents"]
    torch.save({"state_dict": flat}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="latents"):
        loaded.load(method.space, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 6}, "num_labels is 6"),
        ({"encoder": {"num_labels": 6}, "generator": {"num_labels": 5}}, "contradict"),
        ({"num_labels_split": 4}, "num_latent_per_labels"),
        ({"image_conv": False}, "image_conv"),
        ({"encoder": {"image_conv": False}}, "image_conv"),
        ({"encoder": {"num_block": 3}}, "num_blocks"),
        ({"generator": {"class": "Other"}}, "SCAMGenerator"),
        ({"attention_type": "triplex"}, "duplex"),
        ({"num_heads": 5}, "multiple of the number of heads"),
        ({"height": 8}, "too small"),
        ({"num_latents_bg": 0}, "positive"),
        ({"latent_dims": 0}, "latent_dim"),
        ({"positional_embedding_dim": 6}, "multiples of 4"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    space = LabelSpace("t", tuple("abcde"))
    with pytest.raises(UserError, match=message):
        methods.create("scam", space, **{**SMALL, **options})


def test_wrong_input_is_refused() -> None:
    method = small()
    batch = scene(method)
    with pytest.raises(UserError, match=r"classes 0\.\.4"):
        method.encode_style(replace(batch, label=batch.label + 1))
    style = small(num_latents_bg=4).encode_style(batch)
    with pytest.raises(UserError, match="codes must be"):
        method.render(method.encode_layout(batch), style, Noise(batch.ids))
