"""CA2-SIS's training: losses and gradients against the official ones, both stages, both forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import Case, every, seeded, shapes_of
from torch import Tensor, nn

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.methods.ca2sis import CA2SIS
from sisbench.methods.ca2sis.training import (
    CA2SISTraining,
    attention_of_heads,
    attention_of_logits,
)
from sisbench.methods.ca2sis.transformer import Attention
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from sisbench.methods.layers.training.perceptual import VGG_STAGES, Vgg19
from sisbench.methods.loadable import save_weights
from sisbench.methods.training import Step
from sisbench.training import Recipe, load_recipe, recipe_names, train

RTOL = 1e-4
NARROW: dict[str, Any] = {
    "resolution": 64,
    "style_dim": 6,
    "style_enc_feat_dim": 1,
    "style_levels": 3,
    "channels": (24, 16, 16, 8),
    "heads": 2,
    "head_dim": 8,
    "mask_side": 32,
    "mapping_width": 12,
    "mapping_dim": 4,
}
SMALL_D = {"ndf": 4, "n_layers": 2}


def read(name: str) -> tuple[Case, Batch]:
    case = Case.read(name)
    label = torch.from_numpy(case.arrays["label"]).long()
    image = torch.zeros(len(label), 3, *label.shape[1:])
    if "image_u8_half" in case.arrays:
        image = doubled(case, "image_u8_half")
    space = LabelSpace.named("celebamask_hq")
    return case, Batch(tuple(map(str, range(len(label)))), image, label, None, space)


def doubled(case: Case, name: str) -> Tensor:
    half = torch.from_numpy(case.arrays[name]).float()
    return half.repeat_interleave(2, 2).repeat_interleave(2, 3) / 127.5 - 1


def fill_discriminator(network: nn.Module, stages: int, seed: int) -> dict[str, Any]:
    """Seeded values by official names; returns the official shapes."""
    ends = {"parametrizations.weight.original": "weight_orig"}
    ends |= {"parametrizations.weight.0.u": "weight_u", "parametrizations.weight.0.v": "weight_v"}
    own, names = network.state_dict(), {}
    for key in own:
        scale, _, stage, *rest = key.replace("predict", f"stages.{stages}").split(".")[1:]
        inner = "0.0" if 0 < int(stage) < stages else "0"
        end = ".".join(rest)
        names[key] = f"discriminator_{scale}.model{stage}.{inner}.{ends.get(end, end)}"
    shapes = {official: tuple(own[key].shape) for key, official in names.items()}
    state = seeded(shapes, seed)
    network.load_state_dict({key: state[official] for key, official in names.items()})
    return shapes


def trained(method: CA2SIS, perceptual: Vgg19 | None = None, **options: Any) -> CA2SISTraining:
    training = method.training()(method, options, perceptual)
    assert isinstance(training, CA2SISTraining)
    return training


def narrow(**options: Any) -> CA2SIS:
    torch.manual_seed(0)
    method = methods.create("ca2sis", "celebamask_hq", **{**NARROW, **options})
    assert isinstance(method, CA2SIS)
    return method


def official(seed: int) -> CA2SIS:
    """The official network with seeded weights, its last convolution scaled as the fixtures say."""
    method = methods.create("ca2sis", "celebamask_hq")
    shapes = method.key_maps()["netG"].official_shapes()
    state = seeded(shapes, seed)
    state["out_conv.weight"] *= 0.25
    method.load_state({"netG": state})
    assert isinstance(method, CA2SIS)
    return method


def faces(count: int = 2, seed: int = 0, side: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 19, (count, 8, 8), generator=generator)
    label = label.repeat_interleave(side // 8, 1).repeat_interleave(side // 8, 2)
    image = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    space = LabelSpace.named("celebamask_hq")
    return Batch(tuple(f"s{seed}{i}" for i in range(count)), image, label, None, space)


def step(batch: Batch, seed: int = 0) -> Step:
    return Step(0, batch, Noise(batch.ids, seed))  # type: ignore[arg-type]


# ---- the official values -----------------------------------------------------------------------


def test_discriminator_and_losses_match() -> None:
    case, batch = read("training/ca2sis.disc_losses")
    network = trained(narrow()).discriminator.eval()
    shapes = fill_discriminator(network, 3, case.meta["weight_seed"])
    assert shapes == shapes_of("ca2sis/ca2sis.celebamaskhq", "netD")
    semantics = one_hot(batch.label, 19)
    with torch.no_grad():
        fake = network(semantics, doubled(case, "fake_u8_half"))
        real = network(semantics, doubled(case, "real_u8_half"))
    cuts = {"d0_l0": (8, 8), "d0_l1": (8, 8), "d0_l2": (16, 4), "d0_l3": (1, 1)}
    cuts |= {"d1_l0": (8, 8), "d1_l1": (8, 8), "d1_l2": (16, 4), "d1_l3": (1, 1)}
    for name, (thin, apart) in cuts.items():
        found = fake[int(name[1])][int(name[4])]
        assert case.off_by(f"fake_{name}", found, *every(1, thin, apart, apart)) < 1e-4, name
    for scale in range(2):
        assert case.off_by(f"real_d{scale}_l3", real[scale][3]) < 1e-4
    expected = {k: float(case.arrays[k]) for k in ("d_fake", "d_real", "g_gan", "feat_match_x10")}
    both = expected["d_fake"] + expected["d_real"]
    assert float(hinge_discriminator(fake, real)) == pytest.approx(both, rel=RTOL)
    assert float(hinge_generator(fake)) == pytest.approx(expected["g_gan"], rel=RTOL)
    matched = 10 * float(feature_matching(fake, real))
    assert matched == pytest.approx(expected["feat_match_x10"], rel=RTOL)


def test_perceptual_loss_matches() -> None:
    case, _ = read("training/ca2sis.disc_losses")
    slices = {i: s for s, ends in enumerate(pairwise(VGG_STAGES), 1) for i in range(*ends)}
    with torch.device("meta"):
        from torchvision.models import vgg19

        shapes = {k: tuple(v.shape) for k, v in vgg19().features[:30].state_dict().items()}
    names = {k: f"slice{slices[int(k.split('.')[0])]}.{k}" for k in shapes}
    state = seeded({names[k]: shape for k, shape in shapes.items()}, case.meta["weight_seed"])
    loss = Vgg19({f"features.{k}": state[names[k]] for k in shapes}, "seeded")
    fake, real = doubled(case, "fake_u8_half"), doubled(case, "real_u8_half")
    with torch.no_grad():
        assert float(loss(fake, real)) == pytest.approx(float(case.arrays["vgg"]), rel=RTOL)
        for i, features in enumerate(loss.features(fake)):
            mean = float(features.abs().mean())
            assert mean == pytest.approx(float(case.arrays[f"vgg_absmean_{i}"]), rel=RTOL)


@pytest.mark.slow
def test_generator_step_matches() -> None:
    """Losses and gradient norms of one step at the official size."""
    case, batch = read("training/ca2sis.generator_step")
    seed = case.meta["weight_seed"]
    training = trained(official(seed))
    fill_discriminator(training.discriminator, 3, seed)
    for network in training.networks().values():
        network.eval()
    losses = training.generator_losses(step(batch))
    names = {"att_loss": "attention", "GAN": "gan", "GAN_Feat": "feature"}
    assert losses.keys() == set(names.values())
    weighted = {name: training.weight(name) * loss for name, loss in losses.items()}
    for theirs, ours in names.items():
        assert float(weighted[ours].detach()) == pytest.approx(
            case.meta["losses"][theirs], rel=RTOL
        ), ours
    total = sum(weighted.values())
    assert isinstance(total, Tensor)
    total.backward()
    assert float(total.detach()) == pytest.approx(case.meta["total"], rel=RTOL)
    check_gradients(training.method.net, case)


def check_gradients(net: nn.Module, case: Case) -> None:
    parameters = dict(net.named_parameters())
    for key, norm in case.meta["grad_norms"].items():
        gradient = parameters[key].grad
        assert gradient is not None, key
        assert float(gradient.norm()) == pytest.approx(norm, rel=2e-3), key
    moved = {key: p.grad for key, p in parameters.items() if p.grad is not None}
    without = case.meta["params_without_grad"]
    assert {k for k in parameters if k not in moved} == {k for k in parameters if without in k}
    norm = math.sqrt(sum(float(g.square().sum()) for g in moved.values()))
    assert norm == pytest.approx(case.meta["grad_norm_total"], rel=2e-3)
    assert case.off_by("grad_out_conv", moved["out_conv.weight"].flatten(1)) < 1e-2
    found = moved["reshape_conv.weight"].flatten(1)[::16]
    assert case.off_by("grad_reshape", found) < 1e-2


@pytest.mark.slow
def test_diversity_matches() -> None:
    case, batch = read("ca2sis/ca2sis.diversity")
    training = trained(official(case.meta["weight_seed"]), stage="diversity")
    noise = GivenNoise({"z": torch.from_numpy(case.arrays["noise"])})
    found = Step(0, batch, noise)  # type: ignore[arg-type]
    with torch.enable_grad():
        picture, style = training.draw(found)
    assert case.off_by("style_masked", style.codes, *every(1, 1, 4)) < 1e-4
    assert case.off_by("image", picture, *every(1, 1, 4, 4)) < 1e-3
    assert case.off_by("attention_loss", found.kept["attention"]) < 1e-5


@pytest.mark.slow
def test_attention_losses_match() -> None:
    """Published form: the fixture's values. Printed form: from its softmax maps."""
    case, batch = read("ca2sis/ca2sis.attention")
    method = official(case.meta["weight_seed"])
    with torch.no_grad():
        style, layout = method.encode_style(batch), method.encode_layout(batch)
        means: list[Tensor] = []
        heads: list[Tensor] = []
        method.draw(layout, style, means)
        method.draw(layout, style, heads, per_head=True)
    for i, (mean, logits) in enumerate(zip(means, heads, strict=True)):
        torch.testing.assert_close(logits.mean(1), mean, atol=1e-4, rtol=1e-4)
        loss = float(attention_of_logits([mean], layout.label))
        assert loss == pytest.approx(float(case.arrays["attention_loss_per_layer"][i]), rel=1e-5)
    loss = float(attention_of_logits(means, layout.label))
    assert loss == pytest.approx(float(case.arrays["attention_loss"]), rel=1e-5)
    for stage, apart in ((2, 8), (4, 128)):
        tokens = heads[stage - 2].softmax(2).flatten(3).transpose(2, 3)
        assert case.off_by(f"softmax_cross{stage}", tokens, *every(1, 1, apart, 1)) < 1e-5


# ---- both forms of the attention loss ----------------------------------------------------------


def test_attention_losses_are_what_the_formulas_say() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 5, 4, 6, generator=generator)
    label = torch.randint(-1, 5, (2, 8, 12), generator=generator)
    small = label[:, ::2, ::2]
    plain = printed = 0.0
    for b in range(2):
        for c in range(5):
            y = (small[b] == c).float()
            p = logits[b].mean(0)[c].sigmoid()
            plain -= float((y * p.log() + (1 - y) * (1 - p).log()).mean())
            x = logits[b].softmax(1)[:, c]  # (heads, h, w)
            printed -= float((y * x.log() + (1 - y) * (1 - x).log()).mean())
    found = float(attention_of_logits([logits.mean(1)], label))
    assert found == pytest.approx(plain / 10, rel=1e-5)
    assert float(attention_of_heads([logits], label)) == pytest.approx(printed / 10, rel=1e-5)
    twice = attention_of_heads([logits, 0 * logits], label)
    rest = attention_of_heads([0 * logits], label)
    assert float(twice) == pytest.approx((printed / 10 + float(rest)) / 2, rel=1e-5)


def test_a_certain_attention_has_a_finite_loss_and_gradient() -> None:
    logits = torch.zeros(1, 2, 3, 4, 4)
    logits[:, :, 1] = 300.0
    logits.requires_grad_()
    for wanted in (0, 1):
        loss = attention_of_heads([logits], torch.full((1, 4, 4), wanted))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        # a head that is certain of the wrong class is told so, however certain it is
        if wanted == 0:  # by the missed class and by the wrong one
            torch.testing.assert_close(
                gradient[:, :, 1], torch.full((1, 2, 4, 4), 2 / (2 * 3 * 16))
            )


def test_head_logits_average_to_the_mean_and_split_as_the_attention_does() -> None:
    torch.manual_seed(0)
    attention = Attention(12, 7, 3)
    x, context = torch.randn(2, 5, 12), torch.randn(2, 4, 7)
    heads = attention.head_logits(x, context)
    torch.testing.assert_close(heads.mean(1), attention.mean_logits(x, context))
    values = attention.split(attention.to_v(context))
    out = attention.last((heads.softmax(3) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, attention(x, context))


# ---- what is trained ---------------------------------------------------------------------------


def gradients(training: CA2SISTraining, phase: int, batch: Batch) -> dict[str, Tensor]:
    """The losses' sum of one phase, differentiated; by parameter name."""
    training.method.net.zero_grad()
    training.discriminator.zero_grad()
    losses = training.phases()[phase].losses(step(batch))
    total = sum(training.weight(name) * loss for name, loss in losses.items())
    assert isinstance(total, Tensor)
    total.backward()
    named = {**dict(training.method.net.named_parameters())}
    named |= {f"discriminator.{k}": p for k, p in training.discriminator.named_parameters()}
    return {k: p.grad for k, p in named.items() if p.grad is not None and p.grad.abs().sum() > 0}


def shake(network: nn.Module) -> None:
    """Away from the zeros that some layers begin with."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attention_form": "softmax"},
        {"attention": 0.0, "l1": 10.0},
    ],
)
def test_every_part_but_the_mapping_network_is_trained(options: Mapping[str, Any]) -> None:
    training = trained(narrow(), **SMALL_D, **options)
    shake(training.method.net)
    moved = gradients(training, 0, faces())
    trainable = {k for k, p in training.method.net.named_parameters() if p.requires_grad}
    assert trainable == {
        k for k, _ in training.method.net.named_parameters() if "noise_encoder" not in k
    }
    instance = {k for k in trainable if k.endswith("bias")}  # a norm after it may take it away
    assert trainable - instance <= moved.keys()
    wanted = {"gan", "feature", "attention", "l1"}
    wanted -= {name for name in ("attention", "l1") if not training.weight(name)}
    assert training.phases()[0].losses(step(faces())).keys() == wanted
    critic = gradients(training, 1, faces())
    assert critic
    assert all(k.startswith("discriminator.") for k in critic)


def test_diversity_trains_the_mapping_network_alone() -> None:
    method = narrow()
    training = trained(method, stage="diversity", **SMALL_D)
    shake(method.net)
    assert training.networks().keys() == {"noise_encoder", "discriminator"}
    assert training.averaged() == ("noise_encoder",)
    batch = faces()
    losses = training.phases()[0].losses(step(batch))
    assert losses.keys() == {"gan", "diversity", "attention"}
    found = float(losses["diversity"].detach())
    with torch.no_grad():
        z, z2 = (Noise(batch.ids).normal(name, 4) for name in ("z", "z2"))
        layout = method.encode_layout(batch)
        first, second = (method.draw(layout, method.style_of(batch, v)) for v in (z, z2))
    assert found == pytest.approx(-float((first - second).abs().mean()))
    moved = gradients(training, 0, batch)
    inner = {k for k in moved if not k.startswith("discriminator.")}
    assert inner == {k for k, _ in method.net.named_parameters() if "noise_encoder" in k}
    assert not any(part.training for part in training.fixed())


def test_the_second_picture_has_no_gradient() -> None:
    """The diversity loss pushes the first picture away from a fixed one."""
    method = narrow()
    training = trained(method, stage="diversity", **SMALL_D, attention=0.0)
    shake(method.net)
    batch = faces()
    losses = training.phases()[0].losses(step(batch))
    losses["diversity"].backward()
    found = [p.grad.clone() for p in method.net.noise_encoder.parameters()]
    method.net.zero_grad()
    noise = Noise(batch.ids)
    layout = method.encode_layout(batch)
    with torch.no_grad():
        second = method.draw(layout, method.style_of(batch, noise.normal("z2", 4)))
    first = method.draw(layout, method.style_of(batch, noise.normal("z", 4)))
    (-(first - second).abs().mean()).backward()
    for ours, parameter in zip(found, method.net.noise_encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_one_pass_gives_both_phases() -> None:
    for stage in ("style", "diversity"):
        training = trained(narrow(), stage=stage, **SMALL_D)
        found = training.one_pass(step(faces()))
        assert found.keys() == {"generator", "discriminator"}
        assert "attention" in found["generator"]
        assert found["discriminator"].keys() == {"critic"}


def test_initial_weights() -> None:
    """The generator keeps the framework's, with zeros at the end of each residual branch; the
    discriminator is Xavier-normal with gain 0.02."""
    torch.manual_seed(1)
    method = methods.create("ca2sis", "celebamask_hq", **NARROW)
    before = {k: v.clone() for k, v in method.net.state_dict().items()}
    training = trained(method)  # type: ignore[arg-type]
    for key, value in method.net.state_dict().items():
        assert torch.equal(value, before[key])
        zero = "out_layers.3" in key or "proj_out" in key
        assert zero == (not value.any()) or key.endswith("bias")
    first = training.discriminator.scales[0].stages[0]  # type: ignore[union-attr, index]
    fan = (22 + 64) * 16
    assert float(first.weight.std()) == pytest.approx(0.02 * math.sqrt(2 / fan), rel=0.05)
    assert not first.bias.any()


@pytest.mark.parametrize("name", [n for n in recipe_names() if "ca2sis" in n])
def test_recipes_fit(name: str) -> None:
    recipe = load_recipe(name)
    source = "celebamask_hq" if recipe.data.name == "toyfaces" else recipe.data.name
    with torch.device("meta"):
        method = methods.create(recipe.method, source, **recipe.options)
        training = trained(method, **recipe.training)  # type: ignore[arg-type]
    assert method.size[0] == (recipe.crop or np.ravel(recipe.data.arguments["size"])[0])
    assert (training.options.attention == 0) == ("no-attention" in name or "cityscapes" in name)
    assert (training.options.stage == "diversity") == name.endswith("diversity")
    if name.startswith("ca2sis"):
        assert (recipe.epochs, recipe.decay, recipe.decay_by) == (100, 0.5, "epoch")
        assert (recipe.perceptual == "vgg19") == (training.options.stage == "style")
        rates = training.options.lr_g, training.options.lr_d, training.options.betas
        assert rates == (1e-4, 4e-4, (0.0, 0.9))
    else:
        assert sum(p.numel() for p in method.net.parameters()) <= 1.5e6


def test_what_the_network_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="without cross-attention has no attention loss"):
        trained(narrow(no_cross_attention=True))
    assert trained(narrow(no_cross_attention=True), attention=0.0)
    with pytest.raises(UserError, match="no mapping network"):
        trained(narrow(noise_encoder=False), stage="diversity")
    for wrong in ({"stage": "styles"}, {"attention_form": "sigmoid"}, {"diversity": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            trained(narrow(), **wrong)


def test_an_untrained_mapping_network_samples_nothing(tmp_path: Path) -> None:
    for stage, able in (("style", False), ("diversity", True)):
        path = tmp_path / f"{stage}.safetensors"
        save_weights(narrow(), path, {"recipe": {"training": {"stage": stage}}})
        method = CA2SIS().load("celebamask_hq", path)
        assert ("sample" in method.can) == able
    save_weights(narrow(), tmp_path / "plain.safetensors", {})
    assert "sample" in CA2SIS().load("celebamask_hq", tmp_path / "plain.safetensors").can


def test_both_stages_through_the_trainer(tmp_path: Path) -> None:
    """The second stage begins from the first one's file and leaves its networks as they are."""

    def recipe(**more: Any) -> Recipe:
        training = {**SMALL_D, "l1": 1.0, "lr_g": 1e-2, **more.pop("training", {})}
        data = {"name": "toyfaces", "split": "train", "size": 64, "n": 4}
        plan = {"name": "small", "method": "ca2sis", "options": NARROW, "data": data}
        plan |= {"steps": 2, "batch": 2, "ema": 0.5, "device": "cpu", "training": training}
        return Recipe.model_validate({**plan, **more})

    first = train(recipe(accumulate=2), tmp_path / "style.safetensors")
    second = train(
        recipe(start=str(first), training={"stage": "diversity"}), tmp_path / "both.safetensors"
    )
    before, after = (CA2SIS().load("celebamask_hq", path) for path in (first, second))
    assert "sample" not in before.can
    assert "sample" in after.can
    old = before.net.state_dict()
    for key, value in after.net.state_dict().items():
        assert torch.equal(value, old[key]) == ("noise_encoder" not in key), key
    batch = faces()
    assert torch.isfinite(after.sample(batch, Noise(batch.ids))).all()
