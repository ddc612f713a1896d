"""Trainings of the layout editors Semantic-VAE and FrankenMask: losses, what moves, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parity import Case, every, seeded
from torch import Tensor

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.frankenmask.training import FrankenMaskTraining
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.semantic_vae import SemanticVAE
from sisbench.methods.semantic_vae.training import (
    CELEBA_WEIGHTS,
    SemanticVAETraining,
    area_weights,
    kl_of_latents,
)
from sisbench.methods.training import Step
from sisbench.training import Recipe, load_recipe, recipe_names, train

NARROW: dict[str, Any] = {"latent": 4, "mask_size": 16, "hidden": 16, "channels": 32}
SMALL_D = {"ndf": 4, "n_layers": 2}
RTOL = 1e-4


def space(count: int) -> LabelSpace:
    if count == 19:
        return LabelSpace.named("celebamask_hq")
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def maps(classes: int = 19, count: int = 3, side: int = 32, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (count, 4, 4), generator=generator)
    label = label.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
    ids = tuple(f"s{seed}{i}" for i in range(count))
    return Batch(ids, torch.zeros(count, 3, side, side), label, None, space(classes))


def step(batch: Batch, noise: Any = None) -> Step:
    return Step(0, batch, noise or Noise(batch.ids))


def narrow(classes: int = 19, **options: Any) -> SemanticVAE:
    torch.manual_seed(0)
    editor = methods.create_editor("semantic-vae", space(classes), **NARROW)
    assert isinstance(editor, SemanticVAE)
    return editor


def trained(editor: SemanticVAE, **options: Any) -> SemanticVAETraining:
    training = editor.training()(editor, options)
    assert isinstance(training, SemanticVAETraining)
    return training


# ---- Semantic-VAE ------------------------------------------------------------------------------


def test_losses_match() -> None:
    """Official size and weights: KL, weighted and plain cross-entropy."""
    case = Case.read("ca2sis/semvae.recon")
    editor = methods.create_editor("semantic-vae", "celebamask_hq", **case.meta["config"])
    shapes = editor.key_maps()["netG"].official_shapes()
    editor.load_state({"netG": seeded(shapes, case.meta["weight_seed"])})
    label = torch.from_numpy(case.arrays["label"]).long()
    batch = Batch(("0", "1"), torch.zeros(2, 3, 256, 256), label, None, space(19))
    given = {name: torch.from_numpy(case.arrays[name]) for name in ("eps", "h0", "c0")}
    noise = GivenNoise({k: v.transpose(0, 1) if k != "eps" else v for k, v in given.items()})
    for weights, name in (("auto", "ce_weighted"), ("equal", "ce_plain")):
        training = trained(editor, class_weights=weights)  # type: ignore[arg-type]
        with torch.no_grad():
            losses = training.generator_losses(step(batch, noise))
        assert losses.keys() == {"ce", "kl"}
        assert float(losses["ce"]) == pytest.approx(float(case.arrays[name]), rel=RTOL)
        assert float(losses["kl"]) == pytest.approx(float(case.arrays["kl"]), rel=RTOL)
    assert [training.weight(k) for k in ("ce", "kl")] == [1.0, 5e-4]
    with torch.no_grad():
        logits, mu, _ = training.draw(step(batch, noise), label)
    assert case.off_by("mu", mu) < 1e-4
    assert case.off_by("logits", logits[:, 1:], *every(1, 1, 8, 8)) < 1e-4


def test_class_weights_are_the_published_ones() -> None:
    stated = Case.read("ca2sis/semvae.recon").meta["class_weights"]
    assert stated == pytest.approx(CELEBA_WEIGHTS, abs=1e-6)
    assert trained(narrow()).class_weights.tolist() == pytest.approx(stated, abs=1e-6)


def test_kl_is_a_sum_over_latents_and_a_mean_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    mu, log_var = torch.randn(2, 3, 4, 5, generator=generator).unbind()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mu, (log_var / 2).exp()), normal(torch.zeros(()), torch.ones(()))
    )
    torch.testing.assert_close(kl_of_latents(mu, log_var), expected.sum((1, 2)).mean())


def test_area_weights_are_equation_1() -> None:
    labels = torch.tensor([[[0, 0], [1, -1]], [[0, 2], [2, 2]]], dtype=torch.int16)
    assert area_weights(labels, 4).tolist() == [1 - 3 / 8, 1 - 1 / 8, 1 - 3 / 8, 1.0]
    training = trained(narrow(5))
    batch = maps(5)
    with pytest.raises(UserError, match="needs the training set's label maps"):
        training.generator_losses(step(batch))
    training.prepare(batch.label)
    planes = one_hot(batch.label, 5)
    expected = 1 - planes.mean((0, 2, 3))
    torch.testing.assert_close(training.class_weights, expected)
    official = trained(narrow())
    official.prepare(maps().label)
    assert official.class_weights.tolist() == pytest.approx(CELEBA_WEIGHTS)


def test_cross_entropy_is_equation_2() -> None:
    training = trained(narrow(5), class_weights=(1.0, 2.0, 3.0, 4.0, 5.0))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 3, 3, generator=generator)
    label = torch.randint(-1, 5, (2, 3, 3), generator=generator)
    assert (label == -1).any()
    total = weight = 0.0
    for b in range(2):
        for y in range(3):
            for x in range(3):
                c = int(label[b, y, x])
                if c >= 0:
                    total -= (c + 1) * float(logits[b, :, y, x].log_softmax(0)[c])
                    weight += c + 1
    assert float(training.cross_entropy(logits, label)) == pytest.approx(total / weight)


@pytest.mark.parametrize("gan", [0.0, 1.0])
def test_every_parameter_is_trained(gan: float) -> None:
    editor = narrow()
    training = trained(editor, gan=gan, **SMALL_D)
    with torch.no_grad():
        for parameter in editor.net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    found = {phase.name: phase.losses(step(maps())) for phase in training.phases()}
    names = {"ce", "kl"} | ({"gan", "feature"} if gan else set())
    assert found["generator"].keys() == names
    total = sum(training.weight(k) * v for k, v in found["generator"].items())
    assert isinstance(total, Tensor)
    total.backward()
    still = {k for k, p in editor.net.named_parameters() if p.grad is None or not p.grad.any()}
    assert not {k for k in still if not k.endswith("bias")}
    assert training.averaged() == ("net",)
    assert ("discriminator" in found) == (gan > 0) == ("discriminator" in training.networks())
    if training.discriminator is not None:
        training.discriminator.zero_grad()
        editor.net.zero_grad()
        found["discriminator"]["critic"].backward()
        assert all(p.grad is not None for p in training.discriminator.parameters())
        assert all(p.grad is None for p in editor.net.parameters())


def test_the_discriminator_sees_nothing_but_label_maps() -> None:
    training = trained(narrow(), gan=1.0, **SMALL_D)
    network = training.discriminator
    assert network is not None
    assert network.scales[0].stages[0].weight.shape[1] == 19  # type: ignore[union-attr, index]
    label = maps().label
    fake, real = training.judge(5 * one_hot(label, 19), label)
    network.eval()
    again, same = training.judge(one_hot(label, 19), label)
    torch.testing.assert_close(again[0][-1], same[0][-1])
    assert not torch.equal(fake[0][-1], real[0][-1])


def test_a_few_updates_lower_the_loss() -> None:
    training = trained(narrow(5), lr_g=3e-3, betas=(0.5, 0.99))
    batch = maps(5)
    training.prepare(batch.label)
    (phase,) = training.phases()
    optimiser = phase.optimiser(training.method.net.parameters())
    seen = []
    for _ in range(40):
        losses = phase.losses(step(batch, ZeroNoise()))
        optimiser.zero_grad()
        (losses["ce"] + 5e-4 * losses["kl"]).backward()
        optimiser.step()
        seen.append(float(losses["ce"].detach()))
    assert seen[-1] < 0.5 * seen[0]
    rebuilt = training.method.reconstruct(batch, ZeroNoise())
    assert float((rebuilt == batch.label).float().mean()) > 0.7


def test_areas_come_from_the_training_set_through_the_trainer(tmp_path: Path) -> None:
    data = {"name": "toyfaces", "split": "train", "size": 64, "n": 4}
    options = {**NARROW, "latent": 16}
    plan = {"name": "small", "method": "semantic-vae", "options": options, "data": data}
    plan |= {"steps": 2, "batch": 2, "device": "cpu", "training": {"class_weights": "areas"}}
    out = train(Recipe.model_validate(plan), tmp_path / "vae.safetensors")
    editor = SemanticVAE().load("celebamask_hq", out)
    assert editor.reconstruct(maps(side=64), ZeroNoise()).shape == (3, 64, 64)


@pytest.mark.parametrize(
    "name", [n for n in recipe_names() if load_recipe(n).method in methods.editors.names()]
)
def test_recipes_of_editors_fit(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        editor = methods.create_editor(recipe.method, "celebamask_hq", **recipe.options)
        training = editor.training()(editor, recipe.training)
    assert editor.size[0] == (recipe.crop or recipe.data.arguments["size"])
    if name.startswith("toy"):
        assert sum(p.numel() for p in editor.net.parameters()) <= 1.5e6
    else:
        assert [phase.name for phase in training.phases()] == ["generator"]


def test_bad_options_are_refused() -> None:
    with pytest.raises(UserError, match="2 class weights for 5 classes"):
        trained(narrow(5), class_weights=(1.0, 1.0))
    with pytest.raises(UserError, match="19 class weights for 5 classes"):
        trained(narrow(5), class_weights="official")
    for wrong in ({"class_weights": "some"}, {"kl": -1.0}, {"ndf": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            trained(narrow(), **wrong)


# ---- FrankenMask -------------------------------------------------------------------------------


def frankenmask() -> FrankenMaskTraining:
    torch.manual_seed(0)
    editor = methods.create_editor(
        "frankenmask", space(5), ndf=2, ngf=2, latent=16, heads=2, layers=1
    )
    training = editor.training()(editor)
    assert isinstance(training, FrankenMaskTraining)
    return training


def test_frankenmask_loss_is_the_cross_entropy_of_all_classes() -> None:
    training = frankenmask()
    training.method.net.eval()
    batch = maps(5, side=256)
    label = batch.label.clone()
    label[:, :9] = -1
    batch = Batch(batch.ids, batch.image, label, None, batch.space)
    (phase,) = training.phases()
    losses = phase.losses(step(batch))
    assert losses.keys() == {"ce"}
    net, planes = training.method.net, one_hot(label, 5)
    with torch.no_grad():
        logits = net.decode(net.attend(net.encode(planes[:, 1:])))
    background = (logits.sum(1, keepdim=True) <= 0).float()
    assert 0 < float(background.mean()) < 1
    chances = torch.cat([background, logits], 1).log_softmax(1)
    expected = -(chances * planes).sum() / planes.sum()
    assert float(losses["ce"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_frankenmask_trains_everything() -> None:
    training = frankenmask()
    (phase,) = training.phases()
    optimiser = phase.optimiser(training.method.net.parameters())
    group = optimiser.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-5, (0.9, 0.999))
    phase.losses(step(maps(5, side=256)))["ce"].backward()
    assert all(p.grad is not None for p in training.method.net.parameters())
    dropout = [m for m in training.method.net.modules() if isinstance(m, torch.nn.Dropout)]
    assert dropout
    assert all(m.p == 0.1 and m.training for m in dropout)
    batch = maps(5, side=256)
    first, second = (phase.losses(step(batch))["ce"] for _ in range(2))
    assert not torch.equal(first, second)  # dropout draws


def test_frankenmask_refuses_bad_rates() -> None:
    with pytest.raises(UserError, match="lr must be positive"):
        FrankenMaskTraining(frankenmask().method, {"lr": 0.0})
