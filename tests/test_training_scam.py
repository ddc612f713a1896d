"""SCAM's training against official losses, gradients and updates, and laws."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import seeded
from test_scam import scaled
from torch import Tensor

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.perceptual import Vgg19
from sisbench.methods.scam.training import ScamDiscriminator, ScamTraining
from sisbench.methods.seeded import seeded_state
from sisbench.methods.training import Step
from sisbench.training import load_recipe, recipe_names

FIXTURES = Path(__file__).parent / "fixtures" / "training"
TINY = {"latent_dim": 8, "attention_latent_dim": 8, "positional_embedding_dim": 4}
TINY |= {"num_blocks": 3, "conv_features_dim_first": 4, "num_filters_last_layer": 4}
TINY |= {"num_up_layers": 3, "height": 32, "width": 32, "num_latent_per_labels": 2}
SPACE = LabelSpace("three", ("ground", "square", "stripe"))


def read(case: str) -> tuple[dict, dict[str, Tensor], LabelSpace]:
    meta = json.loads((FIXTURES / f"scam.{case}.json").read_text())
    arrays = {k: torch.from_numpy(v) for k, v in np.load(FIXTURES / f"scam.{case}.npz").items()}
    classes = meta["config"]["encoder"]["num_labels"]
    return meta, arrays, LabelSpace("fixture", tuple(f"class {c}" for c in range(classes)))


def critic_name(ours: str, stages: int) -> str:
    """The official name of one of the discriminator's tensors."""
    parts = ours.replace("predict", f"stages.{stages}").split(".")
    stage = "last_conv" if int(parts[3]) == stages else f"conv_{parts[3]}"
    return f"discriminators.discriminator_{parts[1]}.model.{stage}.0.{parts[4]}"


def fill_critic(critic: torch.nn.Module, config: dict, seed: int) -> None:
    own = critic.state_dict()
    names = {ours: critic_name(ours, config["num_layers"]) for ours in own}
    state = seeded({names[k]: tuple(v.shape) for k, v in own.items()}, seed)
    critic.load_state_dict({ours: state[official] for ours, official in names.items()})


@lru_cache(maxsize=1)
def seeded_vgg(seed: int) -> Vgg19:
    with torch.device("meta"):
        from torchvision.models import vgg19

        shapes = {k: tuple(v.shape) for k, v in vgg19().features.state_dict().items()}
    state = seeded(shapes, seed)
    return Vgg19(
        {f"features.{k}": v * math.sqrt(2) if v.ndim > 1 else v for k, v in state.items()}, "seeded"
    )


def training_of(meta: dict, space: LabelSpace) -> ScamTraining:
    """The fixture's networks with the official defaults of everything else."""
    config, seeds = meta["config"], meta["weight_seeds"]
    method = methods.create("scam", space, **config)
    official = {
        module: {
            key: scaled(key, value, meta["weight_recipe"], "noise_seed" in meta)
            for key, value in seeded_state(keys.official_shapes(), seeds[module]).items()
        }
        for module, keys in method.key_maps().items()
    }
    method.load_state(official)
    d = config["discriminator"]
    critic = {"ndf": d["num_features_fst_conv"], "n_layers": d["num_layers"]}
    critic["scales"] = d["num_discriminator"]
    training = ScamTraining(method, critic, seeded_vgg(77))
    fill_critic(training.discriminator, d, seeds["discriminator"])
    return training


def official_gradients(training: ScamTraining) -> dict[str, float]:
    """Norms of the gradients of encoder and generator by official name."""
    found = {}
    for module, keys in training.method.key_maps().items():
        own = dict(getattr(training.method.net, module).named_parameters())
        for entry in keys._entries.values():
            (official,) = entry.official
            gradient = own[entry.ours].grad
            assert gradient is not None, official
            found[f"G_step/{module}.{official}"] = float(gradient.norm())
    return found


def noise_maps(meta: dict, batch: int) -> GivenNoise:
    blocks = meta["config"]["generator"]["num_up_layers"]
    size = meta["config"]["generator"]["height"] // 2**blocks
    maps = {}
    for j in range(2 * blocks):
        side = size * 2 ** ((j + 1) // 2)
        values = np.random.RandomState(meta["noise_seed"] + j).standard_normal(
            (batch, 1, side, side)
        )
        maps[f"block{j // 2}.{j % 2}"] = torch.from_numpy(values.astype(np.float32))
    return GivenNoise(maps)


def test_two_updates_are_official() -> None:
    meta, arrays, space = read("train_step")
    training = training_of(meta, space)
    image, label = arrays["image"].float(), arrays["label"].long()
    batch = Batch(tuple(str(i) for i in range(len(image))), image, label, None, space)
    phases = training.phases()
    networks = training.networks()
    parameters = {p.name: [q for n in p.networks for q in networks[n].parameters()] for p in phases}
    optimisers = {p.name: p.optimiser(parameters[p.name]) for p in phases}
    names = {"gan": "gen_gan_loss", "l1": "l1_loss", "perceptual": "perceptual_loss"}
    names |= {"critic": "disc_gan_loss"}
    assert {type(o) for o in optimisers.values()} == {torch.optim.AdamW}
    for iteration, expected in enumerate(meta["losses"]):
        step = Step(iteration, batch, noise_maps(meta, len(image)))
        rel = 2e-5 if iteration == 0 else 2e-3
        gradients: dict[str, float] = {}
        for phase in phases:
            for each in phases:
                for parameter in parameters[each.name]:
                    parameter.requires_grad_(each is phase)
                    parameter.grad = None
            losses = phase.losses(step)
            for name, value in losses.items():
                theirs = names[name]
                assert value.item() == pytest.approx(expected[theirs], rel=rel, abs=3e-6), theirs
                assert training.weight(name) == expected[f"lambda_{theirs}"]
            total = sum(training.weight(k) * v for k, v in losses.items())
            theirs = "gen_loss" if phase.name == "generator" else "disc_loss"
            assert total.item() == pytest.approx(expected[theirs], rel=rel)
            total.backward()
            if phase.name == "generator":
                gradients |= official_gradients(training)
                squares = sum(float(p.grad.square().sum()) for p in parameters[phase.name])
                gradients["G_step/total"] = math.sqrt(squares)
            elif iteration == 0:
                assert all(p.grad is None for p in training.method.net.parameters())
                for key, parameter in training.discriminator.named_parameters():
                    name = critic_name(key, training.options.n_layers)
                    gradients[f"D_step/discriminator.{name}"] = float(parameter.grad.norm())
            optimisers[phase.name].step()
        if iteration == 0:
            drawn = step.kept["picture"][..., ::2, ::2]
            torch.testing.assert_close(drawn, arrays["fake_it0"], rtol=0, atol=5e-5)
            wanted = meta["grad_norms_iteration_0"]
            assert wanted.pop("G_step/params_without_grad") == []
            for name, value in wanted.items():
                assert gradients[name] == pytest.approx(value, rel=1e-3), name


def test_the_perceptual_loss_is_official() -> None:
    meta, arrays, _ = read("train_step")
    network, pair = seeded_vgg(77), meta["perceptual_pair"]
    fake, real = arrays["image"].float(), arrays["other"].float()
    with torch.no_grad():
        distances = network.distances(fake, real)
        total = network(fake, real, ScamTraining.perceptual_weights)
    assert distances.tolist() == pytest.approx(pair["slice_l1_unweighted"], rel=1e-5)
    assert float(total) == pytest.approx(pair["total_weighted"], rel=1e-5)


def test_the_discriminator_is_official() -> None:
    meta, arrays, space = read("disc_celebahq")
    config = meta["config"]["discriminator"]
    width, layers, scales = (
        config[k] for k in ("num_features_fst_conv", "num_layers", "num_discriminator")
    )
    critic = ScamDiscriminator(len(space), width, layers, scales, 1, config["apply_grad_norm"])
    fill_critic(critic, config, meta["weight_seeds"]["discriminator"])
    planes = one_hot(arrays["label"].long(), len(space))
    both = torch.cat([arrays[k].float() / 127.5 - 1 for k in ("real", "fake")])
    for mode in ("eval", "train"):
        critic.train(mode == "train")
        with torch.set_grad_enabled(mode == "train"):
            found = critic(torch.cat([planes, planes]), both)
        for i, name in enumerate(("real", "fake")):
            for d in range(scales):
                got = found[d][-1][i : i + 1].detach()
                torch.testing.assert_close(
                    got, arrays[f"{mode}_{name}_d{d}"], rtol=1e-4, atol=2e-5, msg=f"{mode} {name}"
                )
        if mode == "eval":
            first = found[0][1][:1, ::16, ::4, ::4], arrays["feat_d0_conv1"]
            second = found[1][3][:1, ::64, ::2, ::2], arrays["feat_d1_conv3"]
            for got, expected in (first, second):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


# ---- laws ------------------------------------------------------------------------------------


def tiny_batch() -> Batch:
    label = torch.zeros(2, 32, 32, dtype=torch.int64)
    label[0, 8:20, 4:16], label[1, 20:] = 1, 2
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Batch(("a", "b"), image, label, None, SPACE)


def tiny_training(**options: object) -> ScamTraining:
    torch.manual_seed(0)
    method = methods.create("scam", SPACE, **TINY)
    return ScamTraining(method, {"ndf": 4, **options})


def test_one_pass_gives_the_gradients_of_both_phases() -> None:
    batch = tiny_batch()
    training = tiny_training()
    networks = training.networks()
    apart, kept = {}, {}
    for phase in training.phases():
        own = [p for n in phase.networks for p in networks[n].parameters()]
        losses = phase.losses(Step(0, batch, Noise(batch.ids, 0), kept))
        total = sum(training.weight(k) * v for k, v in losses.items())
        apart[phase.name] = torch.autograd.grad(total, own)
    found = training.one_pass(Step(0, batch, Noise(batch.ids, 0)))
    assert found is not None
    for phase in training.phases():
        own = [p for n in phase.networks for p in networks[n].parameters()]
        total = sum(training.weight(k) * v for k, v in found[phase.name].items())
        for a, b in zip(
            apart[phase.name], torch.autograd.grad(total, own, retain_graph=True), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_every_parameter_learns() -> None:
    training, batch = tiny_training(), tiny_batch()
    kept: dict[str, Tensor] = {}
    for phase in training.phases():
        losses = phase.losses(Step(0, batch, Noise(batch.ids, 0), kept))
        sum(training.weight(k) * v for k, v in losses.items()).backward()
    assert losses.keys() == {"critic"}
    for network in training.networks().values():
        assert not [k for k, p in network.named_parameters() if p.grad is None]


def test_normalised_logits_are_bounded_whatever_the_scale() -> None:
    training, batch = tiny_training(), tiny_batch()
    critic, planes = training.discriminator, one_hot(batch.label, 3)
    before = critic(planes, batch.image)
    with torch.no_grad():  # the mode needs gradients of its own
        for scale in critic.scales:
            scale.predict.weight.mul_(1000)
            scale.predict.bias.mul_(1000)
        after = critic(planes, batch.image)
    for a, b in zip(before, after, strict=True):
        assert float(a[-1].abs().max()) < 1
        torch.testing.assert_close(a[-1], b[-1], rtol=1e-3, atol=1e-5)
    single = critic(planes[:1], batch.image[:1])
    torch.testing.assert_close(single[0][-1], after[0][-1][:1], rtol=1e-4, atol=1e-6)


def test_without_gradient_normalisation_the_logits_are_raw() -> None:
    training, batch = tiny_training(grad_norm=False), tiny_batch()
    critic, planes = training.discriminator, one_hot(batch.label, 3)
    raw = critic(planes, batch.image)[0][-1]
    assert torch.equal(raw, critic.eval()(planes, batch.image)[0][-1])


@pytest.mark.parametrize("name", [n for n in recipe_names() if "scam" in n])
def test_recipes_fit(name: str) -> None:
    recipe = load_recipe(name)
    toy = name.startswith("toy-")
    space = "celebamask_hq" if toy else recipe.data.name
    with torch.device("meta"):
        method = methods.create(recipe.method, space, **recipe.options)
    options = ScamTraining.Options(**recipe.training)
    assert method.size == tuple(np.broadcast_to(recipe.data.arguments["size"], 2))
    if toy:
        assert sum(p.numel() for p in method.net.parameters()) < 1.5e6  # 3 MB as float16
        return
    assert (recipe.options, recipe.training) == ({}, {})
    assert (recipe.steps, recipe.batch, recipe.ema, recipe.decay) == (50_000, 32, None, 0)
    assert (options.gan, options.l1, options.perceptual) == (1, 10, 10)
    assert (options.feature, options.kl, options.grad_norm) == (0, 0, True)
    assert (options.lr_g, options.lr_d, options.weight_decay) == (1e-4, 4e-4, 0.01)
