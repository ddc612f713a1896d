"""OASIS against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, Case, every, seeded, shapes_of
from plain_spade import Weights, conv, mask_branch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.layers.labels import one_hot

TINY: dict[str, Any] = {"channels_G": 2, "z_dim": 3, "crop_size": 64}
ATOL = 1e-4


def space(count: int, name: str = "test") -> LabelSpace:
    return LabelSpace(name, tuple(f"c{i}" for i in range(count)))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def tiny(count: int = 5, **options: Any) -> Method:
    method = methods.create("oasis", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def blobs(count: int, batch: int = 2, size: int = 64, cell: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, count, (batch, size // cell, size // cell), generator=generator)
    return coarse.repeat_interleave(cell, 1).repeat_interleave(cell, 2)


def batch_of(label: Tensor, of: LabelSpace | None = None) -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    image = torch.zeros(len(label), 3, *label.shape[1:])
    return Batch(ids, image, label, None, of or space(5))


def plain(w: Weights, joined: Tensor, start: tuple[int, int]) -> Tensor:
    """The generator layer by layer; joined (B, z_dim + K, H, W) holds noise planes and classes."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean = w.get(f"{name}.first_norm.running_mean")
        free = F.instance_norm(x)
        if mean is not None:
            free = F.batch_norm(x, mean, w[f"{name}.first_norm.running_var"])
        seg = F.interpolate(joined, x.shape[2:], mode="nearest")
        gamma, beta = mask_branch(w, name, seg)
        return free * (1 + gamma) + beta

    x = conv(w, "fc", F.interpolate(joined, start, mode="nearest"))
    for i in range(6):
        name, skip = f"body.{i}", x
        if f"{name}.conv_s.weight_orig" in w:
            skip = conv(w, f"{name}.conv_s", norm(f"{name}.norm_s", x))
        x = conv(w, f"{name}.conv_0", F.leaky_relu(norm(f"{name}.norm_0", x), 0.2))
        x = skip + conv(w, f"{name}.conv_1", F.leaky_relu(norm(f"{name}.norm_1", x), 0.2))
        if i < 5:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return torch.tanh(conv(w, "conv_img", F.leaky_relu(x, 0.2)))


# ---- the official outputs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "step", "image"),
    [("small", 8, 2), pytest.param("ade20k", 64, 4, marks=pytest.mark.slow)],
)
def test_pictures_and_features_match(name: str, step: int, image: int) -> None:
    case = Case.read(f"oasis/oasis.{name}")
    config = case.meta["config"]
    of = space(config["semantic_nc"])
    method = methods.create("oasis", of, **config)
    shapes = method.key_maps()["netG"].official_shapes()
    method.load_state({"netG": seeded(shapes, case.meta["weights"]["netG"]["seed"])})
    inner: dict[str, Tensor] = {}
    for part in ("0", "3", "3.norm_s", "5"):
        module = method.net.get_submodule(f"netG.body.{part}")
        module.register_forward_hook(lambda _m, _i, out, part=part: inner.update({part: out}))
    batch = batch_of(torch.from_numpy(case.arrays["label"]).long(), of)
    z = torch.from_numpy(case.arrays["z"]).float()
    cut = every(1, 1, image, image)
    with FlopCounterMode(display=False) as counter:
        out = method.sample(batch, GivenNoise({"z": z}))
    assert case.off_by("out", out, *cut) < ATOL
    assert case.off_by("act_body_0", inner["0"], *every(1, step)) < ATOL
    assert case.off_by("act_body_3_norm_s", inner["3.norm_s"], *every(1, step)) < ATOL
    assert case.off_by("act_body_3", inner["3"], *every(1, step // 2)) < ATOL
    cut5 = every(1, step // 4 if name == "ade20k" else 4, image, image)
    assert case.off_by("act_body_5", inner["5"], *cut5) < ATOL
    assert case.off_by("out_z0", method.sample(batch, ZeroNoise()), *cut) < ATOL
    if name == "ade20k":
        assert counter.get_total_flops() / 2e9 <= 100  # GMAC; the plain form takes 194
        assert shapes == shapes_of("oasis/oasis.ade20k", "netG")


def test_official_sizes_follow_the_label_space() -> None:
    with torch.device("meta"):
        ade = methods.create("oasis", "ade20k")
        city = methods.create("oasis", space(35, "cityscapes"))
        coco = methods.create("oasis", space(182, "coco_stuff"))
    assert (ade.size, ade.num_classes) == ((256, 256), 151)
    assert (city.size, city.num_classes) == ((256, 512), 35)
    assert (coco.size, coco.num_classes) == ((256, 256), 183)
    ours = ade.key_maps()["netG"].official_shapes()
    assert ours == shapes_of("oasis/oasis.ade20k", "netG")


# ---- laws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"param_free_norm": "instance"},
        {"spade_ks": 5},
        {"no_3dnoise": True},
        {"aspect_ratio": 2.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", [2, 32])
def test_equals_the_plain_form(options: dict[str, Any], cell: int) -> None:
    method = tiny(**options)
    label = blobs(5, cell=cell)[:, : method.size[0]]
    batch = batch_of(label)
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    out = method.sample(batch, GivenNoise({"z": z}))
    joined = one_hot(label, 5)
    if method.options.planes:
        joined = torch.cat([z[:, :, None, None].expand(-1, -1, *label.shape[1:]), joined], 1)
    expected = plain(states(method)["netG"], joined, method.net["netG"].start)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)


@pytest.mark.parametrize("cell", [2, 32])
def test_noise_by_class_is_a_painted_noise_map(cell: int) -> None:
    method = tiny(noise_per="class")
    label = blobs(5, cell=cell)
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    out = method.sample(batch_of(label), GivenNoise({"z": z}))
    classes = one_hot(label, 5)
    joined = torch.cat([torch.einsum("bkhw,bkp->bphw", classes, z), classes], 1)
    expected = plain(states(method)["netG"], joined, method.net["netG"].start)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)


def test_one_class_is_drawn_anew() -> None:
    method, batch = tiny(), batch_of(blobs(5, cell=32))
    first, second = (method.sample_style(batch, Noise(batch.ids, seed)) for seed in (0, 1))
    layout = method.encode_layout(batch)
    with torch.inference_mode():
        own = method.render(layout, first, ZeroNoise())
        changed = method.render(layout, first.swap(second, [2]), ZeroNoise())
        other = method.render(layout, second, ZeroNoise())
        everything = method.render(layout, first.swap(second), ZeroNoise())
    assert torch.equal(other, everything)
    here = layout.label == 2
    moved = (own - changed).abs().amax(1)
    assert moved[here].mean() > 3 * moved[~here].mean()
    assert moved[here].max() > 1e-3


def test_a_hole_has_neither_class_nor_noise() -> None:
    method, label = tiny(), blobs(5, cell=16)
    label[:, 8:40, 4:50] = -1
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    style = method.sample_style(batch_of(blobs(5)), GivenNoise({"z": z}))
    layout = Layout(label, torch.ones(2, 5, dtype=torch.bool))
    with torch.inference_mode():
        out = method.render(layout, style, ZeroNoise())
    classes = one_hot(label, 5)
    joined = torch.cat([torch.einsum("bkhw,bkp->bphw", classes, style.codes), classes], 1)
    expected = plain(states(method)["netG"], joined, method.net["netG"].start)
    torch.testing.assert_close(out, expected, atol=3e-5, rtol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    method = tiny()
    batch = batch_of(torch.cat([blobs(5, 2, cell=32), blobs(5, 1, cell=1)]))
    together = method.sample(batch, Noise(batch.ids))
    for i in range(3):
        one = batch[i : i + 1]
        alone = method.sample(one, Noise(one.ids))
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=0)


def test_gradients_flow_through_both_forms() -> None:
    method = tiny()
    net = method.net["netG"].train().requires_grad_(True)
    for cell in (1, 32):
        net.zero_grad()
        net(blobs(5, cell=cell), torch.randn(2, 5, 3)).square().mean().backward()
        missing = [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not missing


def test_it_samples_and_nothing_else() -> None:
    method = tiny()
    assert method.can == type(method).can == {"sample"}
    for task in ("reconstruct", "transfer", "shape_transfer", "mixed", "interpolate_style"):
        assert why_not(method, task)


def test_labels_are_those_of_the_official_loaders() -> None:
    label = blobs(5)
    label[0, :8] = 255
    ade = methods.create("oasis", space(5, "ade20k"), **TINY)
    official = states(ade)
    assert torch.equal(
        ade.encode_layout(batch_of(label)).label, torch.where(label == 255, 0, label)
    )
    coco = methods.create("oasis", space(4, "coco_stuff"), **TINY).load_state(official)
    ade.load_state(official)
    label = torch.where(label == 4, 3, label)
    moved = torch.where(label == 255, 0, label + 1)
    z = GivenNoise({"z": torch.randn(2, 3, generator=torch.Generator().manual_seed(0))})
    assert torch.equal(coco.sample(batch_of(label), z), ade.sample(batch_of(moved), z))
    unlabelled = coco.encode_layout(batch_of(label)).present[:, 4]
    assert unlabelled.tolist() == [True, False]
    by_class = methods.create("oasis", space(4, "coco_stuff"), noise_per="class", **TINY)
    by_class.load_state(official)
    reference = methods.create("oasis", space(5), noise_per="class", **TINY).load_state(official)
    codes = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    drawn = by_class.sample(batch_of(label), GivenNoise({"z": codes}))
    ordered = GivenNoise({"z": torch.cat([codes[:, 4:], codes[:, :4]], 1)})
    assert torch.equal(drawn, reference.sample(batch_of(moved), ordered))


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel_G": 8}, "did you mean 'channels_G'"),
        ({"num_res_blocks": 5}, "num_res_blocks must be 6"),
        ({"labels": "raw"}, "labels must be"),
        ({"noise_per": "pixel"}, "noise_per must be"),
        ({"crop_size": 16}, "too small"),
        ({"z_dim": 0}, "z_dim must be positive"),
        ({"spade_ks": 4}, "spade_ks"),
        ({"param_free_norm": "group"}, "param_free_norm"),
        ({"labels": "shifted", "contain_dontcare_label": False}, "frees class 0"),
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
    with pytest.raises(UserError, match="another number of classes"):
        method.load_state(states(tiny(6)))
    official = states(method)["netG"]
    with pytest.raises(UserError, match=r"missing \(1\):\n.*conv_img.bias"):
        method.load_state({"netG": {k: v for k, v in official.items() if k != "conv_img.bias"}})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "oasis").glob("*.npz")}
    assert names == {"small", "ade20k"}
