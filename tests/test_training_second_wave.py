"""Trainings of CLADE, SEAN-CLADE, SC-GAN, SDM and CoDiff: SDM's official losses, what an update
moves, initial weights, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import Case
from tiny_networks import METHODS
from torch import nn
from training_tools import Drawn, Given, move

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.codiff.training import CoDiffTraining
from sisbench.methods.layers.diffusion.respaced import Respaced
from sisbench.methods.scgan.training import ScganTraining
from sisbench.methods.sdm.training import (
    SDMTraining,
    discretised_log_likelihood,
    variational_bound,
)
from sisbench.methods.training import Step, Training

FACES = LabelSpace.named("celebamask_hq")


def training(name: str, options: dict[str, Any] | None = None, **construction: Any) -> Training:
    method = methods.create(name, FACES, **{**METHODS[name].options, **construction})
    return type(method).training()(method, options or {})


def random_batch(size: tuple[int, int], count: int = 19, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, count, (2, 8, 8), generator=generator)
    label = label.repeat_interleave(size[0] // 8, 1).repeat_interleave(size[1] // 8, 2)
    image = torch.rand(2, 3, *size, generator=generator) * 2 - 1
    return Batch(("a", "b"), image, label, None, FACES)


def frozen(t: Training) -> set[str]:
    inside = {p for network in t.networks().values() for p in network.parameters()}
    return {k for k, p in t.method.net.named_parameters() if p not in inside}


@pytest.mark.parametrize("name", ["clade", "sean-clade", "sc-gan", "sdm"])
def test_an_update_moves_every_parameter_of_its_phase_alone(name: str) -> None:
    t = training(name)
    assert not frozen(t)
    networks, kept = t.networks(), {}
    for phase in t.phases():
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}
        for seed in range(3):  # what stands behind a layer that starts at zero moves one later
            step = Step(0, random_batch(t.method.size, seed=seed), Drawn(2, seed), kept)
            move(t, phase, phase.losses(step))
        for which, network in networks.items():
            still = [
                key
                for (key, after), old in zip(network.named_parameters(), before[which], strict=True)
                if torch.equal(old, after)
            ]
            if (
                which in phase.networks
            ):  # a norm of one channel a group takes the bias before it out
                assert all(key.endswith("bias") for key in still), (phase.name, which, still)
                assert len(still) < len(before[which]) / 10
            else:
                assert len(still) == len(before[which]), (phase.name, which)


def test_class_tables_and_biases_keep_their_own_initial_values() -> None:
    clade = training("clade").method.net.netG
    tables = [v for k, v in clade.named_parameters() if ".norm_" in k and k.endswith(".weight")]
    assert tables
    assert all(float(v.min()) >= 0 and 0.8 < float(v.max()) < 1 for v in tables if v.numel() > 99)
    other = training("sean-clade")
    biases = [m.bias for m in other.networks()["discriminator"].modules() if hasattr(m, "bias")]
    assert any(b is not None and bool(b.abs().max() > 0) for b in biases)


def test_sc_gan_judges_the_label_map_in_its_own_order_and_draws_a_second_picture() -> None:
    t = training("sc-gan")
    assert isinstance(t, ScganTraining)
    batch = random_batch(t.method.size)
    planes = t.semantics(batch)
    order = torch.cat([planes[:, -1:], planes[:, :-1]], 1)  # the background is the last one there
    assert torch.equal(order.argmax(1), batch.label)
    losses = t.generator_losses(Step(0, batch, Drawn(2)))
    assert losses.keys() == {"gan", "feature", "kl", "auxiliary"}
    assert t.weight("auxiliary") == 1
    assert not [m for m in t.method.net.modules() if m._forward_hooks]


# ---- SDM ----------------------------------------------------------------------------------------


def test_sdm_losses_match() -> None:
    """The network's output is given at a quarter of the pixels: the loss is over all, so it is
    checked whole in the slow test."""
    case = Case.read("sdm/sdm.celeba64-step")
    x0 = torch.from_numpy(case.arrays["x0"].astype(np.float32))
    eps = torch.from_numpy(case.arrays["noise_t"].astype(np.float32))
    t = torch.tensor(case.meta["timesteps"])
    schedule = Respaced.make(1000)
    a = torch.from_numpy(schedule.alphas)[t].float()[:, None, None, None]
    thin = (..., slice(None, None, 2), slice(None, None, 2))
    x = (a.sqrt() * x0 + (1 - a).sqrt() * eps)[thin]
    out = torch.from_numpy(case.arrays["model_out_cond"])
    squares = (out[:, :3] - eps[thin]).square().flatten(1).mean(1)
    assert squares.tolist() == pytest.approx(case.arrays["loss_mse"].tolist(), rel=0.05)
    bits = variational_bound(schedule, x0[thin], x, out, t)
    assert bits.tolist() == pytest.approx(case.arrays["loss_vb"].tolist(), rel=0.05)


@pytest.mark.slow
def test_sdm_losses_match_over_the_whole_picture() -> None:
    from test_sdm import build, floats, labels

    case = Case.read("sdm/sdm.celeba64-step")
    t = SDMTraining(build(case))  # type: ignore[arg-type]
    found: dict[str, list[float]] = {"denoising": [], "variance": []}
    steps = torch.tensor(case.meta["timesteps"])
    for row in range(2):
        part = slice(row, row + 1)
        batch = Batch(("a",), floats(case, "x0")[part], labels(case)[part], None, FACES)
        noise = Given(
            eps=floats(case, "noise_t")[part],
            t=(steps[part] + 0.5) / 1000,
            drop=torch.tensor([0.5]),
        )
        with torch.no_grad():
            for key, value in t.losses(Step(0, batch, noise)).items():
                found[key].append(float(value))
    assert found["denoising"] == pytest.approx(case.arrays["loss_mse"].tolist(), rel=1e-4)
    assert found["variance"] == pytest.approx(case.arrays["loss_vb"].tolist(), rel=1e-3)


def test_the_variational_bound_moves_the_variance_alone() -> None:
    schedule, generator = Respaced.make(1000), torch.Generator().manual_seed(0)
    image, x = (torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1 for _ in range(2))
    out = torch.randn(2, 6, 8, 8, generator=generator).requires_grad_()
    variational_bound(schedule, image, x, out, torch.tensor([0, 500])).sum().backward()
    assert out.grad is not None
    assert float(out.grad[:, :3].abs().max()) == 0
    assert float(out.grad[:, 3:].abs().amin((1, 2, 3)).max()) > 0


def test_the_bound_at_the_first_step_is_the_discretised_likelihood() -> None:
    """Number by number: at t = 0 the mean is the predicted picture, the variance lies between the
    posterior's at step 1 and the first beta, and a number costs the share of its 8-bit cell."""
    schedule, generator = Respaced.make(1000), torch.Generator().manual_seed(0)
    image = (torch.rand(1, 3, 2, 2, generator=generator).double() * 255).round() / 127.5 - 1
    image[0, 0, 0, 0], image[0, 0, 0, 1] = -1, 1  # open cells
    eps = torch.randn(image.shape, generator=generator).double()
    out = torch.randn(1, 6, 2, 2, generator=generator).double()
    a, beta = float(schedule.alphas[0]), float(schedule.betas[0])
    x = a**0.5 * image + (1 - a) ** 0.5 * eps
    posterior = float(schedule.betas[1]) * (1 - a) / (1 - float(schedule.alphas[1]))
    bits = []
    for place in np.ndindex(3, 2, 2):
        channel, *where = place
        value, noisy = (float(p[(0, *place)]) for p in (image, x))
        guess, share = (float(out[(0, channel + add, *where)]) for add in (0, 3))
        mean = (noisy - (1 - a) ** 0.5 * guess) / a**0.5
        share = (share + 1) / 2
        deviation = (beta**share * posterior ** (1 - share)) ** 0.5
        below, above = (
            0.5 * math.erfc(-(value + side / 255 - mean) / (deviation * 2**0.5)) for side in (-1, 1)
        )
        below, above = (0.0 if value == -1 else below), (1.0 if value == 1 else above)
        bits.append(-math.log2(max(above - below, 1e-12)))
    found = variational_bound(schedule, image, x, out, torch.tensor([0]))
    assert float(found) == pytest.approx(sum(bits) / len(bits), rel=1e-9)
    assert max(bits) < -math.log2(1e-11)  # none is at the floor


def test_eight_bit_values_share_all_probability() -> None:
    values = torch.arange(256).double() / 127.5 - 1
    mean, scale = torch.tensor(0.3).double(), torch.tensor(-1.5).double()
    assert float(discretised_log_likelihood(values, mean, scale).exp().sum()) == pytest.approx(1)


def test_a_dropped_label_map_is_the_empty_one() -> None:
    t = training("sdm", {"drop": 0.5})
    assert isinstance(t, SDMTraining)
    seen: list[Any] = []
    net, condition = t.method.net, t.method.net.condition
    net.condition = lambda label, edges: seen.append((label, edges)) or condition(label, edges)  # type: ignore[method-assign, func-returns-value]
    batch = random_batch(t.method.size)
    noise = {"eps": torch.randn(batch.image.shape), "t": torch.tensor([0.1, 0.9])}
    t.losses(Step(0, batch, Given(drop=torch.tensor([0.4, 0.6]), **noise)))
    label, edges = seen[0]
    assert bool((label[0] == -1).all())
    assert torch.equal(label[1], batch.label[1])
    assert float(edges[0].abs().max()) == 0
    assert float(edges[1].max()) == 1


# ---- CoDiff -------------------------------------------------------------------------------------


def test_codiff_trains_unet_and_tokens_in_a_given_latent(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is none"):
        training("codiff")
    method = methods.create("codiff", FACES, **METHODS["codiff"].options)
    file = tmp_path / "first.pth"
    torch.save(method.net["first_stage"].state_dict(), file)
    t = training("codiff", {"first_stage": str(file)})
    assert isinstance(t, CoDiffTraining)
    assert {k.split(".")[0] for k in frozen(t)} == {"first_stage"}
    wanted = method.net["first_stage"].state_dict()
    for key, value in t.first_stage.state_dict().items():
        assert torch.equal(value, wanted[key])
    assert not t.first_stage.training
    (phase,) = t.phases()
    size = t.method.size
    before = {k: v.detach().clone() for k, v in t.method.net.named_parameters()}
    for seed in range(3):
        move(t, phase, phase.losses(Step(0, random_batch(size, seed=seed), Drawn(2, seed))))
    for key, value in t.method.net.named_parameters():
        assert torch.equal(before[key], value) == key.startswith("first_stage."), key
    last: nn.Module = t.unet.out[-1]
    assert float(last.weight.abs().max()) > 0  # type: ignore[operator, union-attr]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sdm", {"drop": 2}, "within 0..1"),
        ("sdm", {"lr": 0}, "lr must be positive"),
        ("codiff", {"lr": -1}, "lr must be positive"),
        ("sc-gan", {"auxiliary": -1}, "auxiliary must not be negative"),
        ("clade", {"feat": 1}, "did you mean 'feature'"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        training(name, options)
