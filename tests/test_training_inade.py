"""INADE's and V-INADE's training against official losses, gradients and buffers, and laws."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity import seeded
from torch import Tensor, nn

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.layers.training.losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    kl_to_prior,
)
from sisbench.methods.layers.training.perceptual import Vgg19
from sisbench.methods.training import Step, Training
from sisbench.training import load_recipe, recipe_names

FIXTURES = Path(__file__).parent / "fixtures" / "training"
ENDS = {"parametrizations.weight.original": "weight_orig"}
ENDS |= {"parametrizations.weight.0.u": "weight_u", "parametrizations.weight.0.v": "weight_v"}
TINY = {"crop_size": 32, "ngf": 2, "z_dim": 4, "noise_nc": 3}
SPACE = LabelSpace("three", ("ground", "square", "stripe"))


def official_name(ours: str) -> str:
    """``stages.1.parametrizations.weight.original`` -> ``stages.1.weight_orig``."""
    for mine, theirs in ENDS.items():
        ours = ours.replace(mine, theirs)
    return ours


def critic_name(ours: str, stages: int = 4) -> str:
    """The official name of one of the discriminator's tensors."""
    parts = official_name(ours).replace("predict", f"stages.{stages}").split(".")
    inner = "0.0" if 0 < int(parts[3]) < stages else "0"
    return f"discriminator_{parts[1]}.model{parts[3]}.{inner}.{parts[4]}"


def fill(network: nn.Module, seed: int, name=official_name) -> dict[str, Tensor]:
    """Seeded weights by official names, spectral vectors included."""
    own = network.state_dict()
    names = {ours: name(ours) for ours in own}
    state = seeded({names[k]: tuple(v.shape) for k, v in own.items()}, seed)
    network.load_state_dict({ours: state[official] for ours, official in names.items()})
    return network.state_dict()


def read(case: str) -> tuple[SimpleNamespace, dict[str, Tensor], Batch]:
    """Meta data, arrays, and the batch of photographs with its instance map."""
    meta = json.loads((FIXTURES / f"inade.{case}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(FIXTURES / f"inade.{case}.npz").items()}
    config = meta["config"]
    count = config["label_nc"] + config["contain_dontcare_label"]
    space = LabelSpace("fixture", tuple(f"class {c}" for c in range(count)))
    image = arrays["real"].float() / 127.5 - 1
    ids = tuple(str(i) for i in range(len(image)))
    batch = Batch(ids, image, arrays["label"].long(), arrays["instance"].long(), space)
    return SimpleNamespace(**meta), arrays, batch


def training_of(meta: SimpleNamespace, space: LabelSpace, judge_alone: bool = False) -> Training:
    """With seeded weights; ``judge_alone``: the discriminator's, beside a tiny generator."""
    config = {**meta.config, **(TINY if judge_alone else {})}
    name = "v-inade" if config["use_vae"] else "inade"
    method = methods.create(name, space, **config)
    critic = {"ndf": config["ndf"], "n_layers": config["n_layers_D"], "scales": config["num_D"]}
    training = type(method).training()(method, critic)
    seed = meta.weight_seed
    fill(training.discriminator, seed, lambda k: critic_name(k, config["n_layers_D"]))
    if judge_alone:
        return training
    state = fill(method.net.netG, seed)
    for key, value in state.items():
        if value.ndim == 3:
            value *= math.sqrt(value.numel() / value.shape[0])
        elif key == "conv_img.weight":
            value *= 0.35
    if config["use_vae"]:
        fill(method.net.netE, seed)
    return training


def norms(network: nn.Module, prefix: str, name=official_name) -> dict[str, float]:
    """The norm of each gradient by official name; -1 where there is none."""
    found = {}
    for key, parameter in network.named_parameters():
        gradient = parameter.grad
        found[prefix + name(key)] = -1.0 if gradient is None else float(gradient.norm())
    return found


@pytest.mark.parametrize("instances", [True, False])
def test_an_update_is_official(instances: bool) -> None:
    meta, arrays, batch = read("small-trainstep")
    if not instances:  # the fixture's instances are the ranks of the classes
        batch = Batch(batch.ids, batch.image, batch.label, None, batch.space)
    training = training_of(meta, batch.space)
    net, critic = training.method.net, training.discriminator
    noises = [
        GivenNoise({"global": arrays[f"noise_ins_{p}"], "instance": arrays[f"noise_{p}"]})
        for p in "gd"
    ]
    generator, discriminator = training.phases()
    assert generator.networks == ("net",)
    losses = generator.losses(Step(0, batch, noises[0]))
    assert losses.keys() == {"kl", "gan", "feature"}
    for ours, theirs in (("kl", "KLD"), ("gan", "GAN"), ("feature", "GAN_Feat")):
        value = training.weight(ours) * losses[ours]
        torch.testing.assert_close(value[None], arrays[f"gloss_{theirs}"], rtol=1e-4, atol=1e-6)
    sum(training.weight(k) * v for k, v in losses.items()).backward()
    found = norms(net, "")
    for name, expected in zip(meta.grad_names_G, arrays["grad_norms_G"].tolist(), strict=True):
        assert found[name] == pytest.approx(expected, rel=1e-3, abs=1e-6), name
    slope = net.netG.up_1.norm_0.fc_noise.weight.grad
    expected = arrays["grad_up_1_norm_0_fc_noise"]
    step = slope.shape[0] // expected.shape[0], slope.shape[1] // expected.shape[1]
    candidates = slope[:8, :8], slope[:: step[0], :: step[1]]
    assert min(float((c - expected).abs().max()) for c in candidates) < 1e-6
    norm = net.netG.up_1.norm_0.param_free_norm
    torch.testing.assert_close(norm.running_mean, arrays["bn_running_mean_up_1_after_G"])
    torch.testing.assert_close(norm.running_var, arrays["bn_running_var_up_1_after_G"])
    critic.zero_grad()
    loss = discriminator.losses(Step(0, batch, noises[1]))["critic"]
    both = arrays["dloss_D_Fake"] + arrays["dloss_D_real"]
    torch.testing.assert_close(loss[None], both, rtol=1e-5, atol=1e-5)
    loss.backward()
    found = norms(critic, "netD.", critic_name)
    for name, expected in zip(meta.grad_names_D, arrays["grad_norms_D"].tolist(), strict=True):
        assert found[name] == pytest.approx(expected, rel=1e-3), name
    torch.testing.assert_close(norm.running_mean, arrays["bn_running_mean_up_1_after_D"])


def test_the_picture_of_train_mode_is_official() -> None:
    meta, arrays, batch = read("small-trainstep")
    training = training_of(meta, batch.space)
    given = {"global": arrays["noise_ins_g"], "instance": arrays["noise_g"]}
    picture, _ = training.draw(Step(0, batch, GivenNoise(given)))
    torch.testing.assert_close(picture[..., ::4, ::4], arrays["image"], rtol=0, atol=2e-4)


def test_the_discriminator_and_each_loss_are_official() -> None:
    meta, arrays, batch = read("discriminator-losses")
    training = training_of(meta, batch.space, judge_alone=True)
    training.discriminator.eval()
    with torch.no_grad():
        fake, real = training.judge(batch, arrays["fake"].float() / 127.5 - 1)
    for scale in range(2):
        for stage, value in enumerate(fake[scale]):
            expected = arrays[f"D{scale}_layer{stage}_fake"]
            step = max(1, value.shape[-1] // 9)
            got = value[:, :8, ::step, ::step]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            real[scale][-1], arrays[f"D{scale}_out_real"], rtol=1e-4, atol=1e-4
        )
    mu, logvar = arrays["kld_mu"], arrays["kld_logvar"]
    expected = {
        "G_gan": hinge_generator(fake),
        "feat_layer3_only": training.weight("feature")
        * feature_matching(fake, real, training.matched),
        "feat_all_layers_SPADE": 10 * feature_matching(fake, real),
        "kld_unweighted": kl_to_prior(mu, logvar),
    }
    for name, value in expected.items():
        torch.testing.assert_close(value[None], arrays[f"loss_{name}"], rtol=1e-4, atol=1e-5)
    both = arrays["loss_D_fake"] + arrays["loss_D_real"]
    torch.testing.assert_close(hinge_discriminator(fake, real)[None], both, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # the network itself is compared with SPADE's fixture
def test_the_perceptual_loss_is_official() -> None:
    meta, arrays, batch = read("discriminator-losses")
    with torch.device("meta"):
        from torchvision.models import vgg19

        shapes = {f"features.{k}": tuple(v.shape) for k, v in vgg19().features.state_dict().items()}
    state = seeded(shapes, meta.weight_seed)
    state = {k: v * math.sqrt(2) if v.ndim > 1 else v for k, v in state.items()}
    network = Vgg19(state, "seeded")
    fake = arrays["fake"].float() / 127.5 - 1
    with torch.no_grad():
        distances = network.distances(fake, batch.image)
    torch.testing.assert_close(distances, arrays["vgg_l1_per_level"], rtol=1e-4, atol=1e-5)
    method = methods.create("v-inade", SPACE, **TINY)
    weights = distances.new_tensor(type(method).training().perceptual_weights)
    total = (weights * distances).sum()[None]
    torch.testing.assert_close(total, arrays["loss_vgg_unweighted"], rtol=1e-4, atol=1e-5)


# ---- laws ------------------------------------------------------------------------------------


def tiny_batch(instances: bool = False) -> Batch:
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[0, 8:20, 4:16], label[1, 20:] = 1, 2
    instance = label.clone()
    instance[0, 14:20, 4:16] = 3  # the square is two things
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(("a", "b"), image, label, instance if instances else None, SPACE)


@pytest.mark.parametrize("name", ["inade", "v-inade"])
@pytest.mark.parametrize("instances", [True, False])
def test_every_parameter_learns(name: str, instances: bool) -> None:
    method = methods.create(name, SPACE, **TINY)
    training = type(method).training()(method, {"ndf": 2})
    batch = tiny_batch(instances)
    for phase in training.phases():
        losses = phase.losses(Step(0, batch, Noise(batch.ids, 0)))
        assert ("kl" in losses) == (name == "v-inade" and phase.name == "generator")
        sum(training.weight(k) * v for k, v in losses.items()).backward()
        for network in phase.networks:
            lazy = [
                key
                for key, parameter in training.networks()[network].named_parameters()
                if parameter.grad is None
            ]
            assert not lazy


def test_initial_weights_are_official() -> None:
    torch.manual_seed(0)
    method = methods.create("v-inade", SPACE, **{**TINY, "ngf": 8})
    training = type(method).training()(method, {"ndf": 16})
    state = method.net.state_dict()
    table = state["netG.head_0.norm_0.weight"]
    assert 0 <= float(table.min()) < 0.1 < 0.9 < float(table.max()) < 1
    assert not state["netG.head_0.norm_0.bias"].any()
    for key in ("netE.layer4", "netG.fc", "netG.head_0.norm_0.fc_noise"):
        weight = state[f"{key}.weight"]
        fan = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
        assert float(weight.std()) == pytest.approx(0.02 * math.sqrt(2 / fan), rel=0.2)
        assert not state[f"{key}.bias"].any()
    weight = training.discriminator.scales[0].stages[2].parametrizations.weight.original
    fan = (weight.shape[0] + weight.shape[1]) * 16
    assert float(weight.std()) == pytest.approx(0.02 * math.sqrt(2 / fan), rel=0.1)


def test_the_divergence_counts_every_instance_once() -> None:
    method = methods.create("v-inade", SPACE, **TINY)
    training = type(method).training()(method)
    for instances in (True, False):
        batch = tiny_batch(instances)
        style = method.encode_style(batch)
        total = 0.0
        for i, label in enumerate(batch.label):
            ids = label if batch.instance is None else batch.instance[i]
            single = Batch(("x",), batch.image[i : i + 1], label[None], ids[None], SPACE)
            mu, logvar = (getattr(method.encode_style(single).own, k) for k in ("mu", "logvar"))
            for k in ids.unique().tolist():
                total += float(kl_to_prior(mu[0, k], logvar[0, k])) / 2
        assert float(training.kl(style)) == pytest.approx(total, rel=1e-4)


def test_edges_are_those_of_instances_or_classes() -> None:
    method = methods.create("inade", SPACE, **TINY)
    training = type(method).training()(method)
    plain, split = training.semantics(tiny_batch()), training.semantics(tiny_batch(True))
    assert torch.equal(plain[:, :3], one_hot(tiny_batch().label, 3))
    assert torch.equal(plain[:, 3:], instance_edges(tiny_batch().label))
    assert int(split[0, 3].sum()) > int(plain[0, 3].sum())


def test_the_sketch_branch_is_refused() -> None:
    method = methods.create("inade", SPACE, **TINY, add_sketch=True)
    with pytest.raises(UserError, match="needs a sketch"):
        type(method).training()(method)


@pytest.mark.parametrize("name", [n for n in recipe_names() if "inade" in n])
def test_recipes_fit(name: str) -> None:
    recipe = load_recipe(name)
    toy = name.startswith("toy-")
    space = "celebamask_hq" if toy else recipe.data.name
    with torch.device("meta"):
        method = methods.create(recipe.method, space, **recipe.options)
        training = type(method).training()
    options = training.Options(**recipe.training)
    side = recipe.crop or np.ravel(recipe.data.arguments["size"])
    assert method.size == tuple(np.broadcast_to(side, 2))
    if toy:
        assert sum(p.numel() for p in method.net.parameters()) < 1.5e6  # 3 MB as float16
        return
    assert (recipe.options, recipe.training, recipe.epochs) == ({}, {}, 50)
    assert (recipe.ema, recipe.decay, recipe.perceptual) == (None, 0, "vgg19")
    assert (options.feature, options.perceptual, options.kl) == (10, 10, 0.05)
    assert (options.lr_g, options.lr_d, options.betas) == (1e-4, 4e-4, (0, 0.9))
