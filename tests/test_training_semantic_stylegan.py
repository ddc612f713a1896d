"""SemanticStyleGAN's training: official mixing, its penalties, what moves and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import Case
from tiny_networks import METHODS
from torch import Tensor
from training_tools import Drawn, move

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.noise import Noise
from sisbench.data.toyfaces.dataset import ToyFaces
from sisbench.methods.semantic_stylegan import discriminator
from sisbench.methods.semantic_stylegan.network import Rows
from sisbench.methods.semantic_stylegan.training import (
    SemanticStyleGANTraining,
    mixed_rows,
    path_lengths,
)
from sisbench.methods.training import Step
from sisbench.training import load_recipe
from sisbench.training.build import require_trainable
from sisbench.training.data import TrainingData
from sisbench.training.trainer import Trainer

FACES = LabelSpace.named("celebamask_hq")
NAME = "semantic-stylegan"
OPTIONS = METHODS[NAME].options


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator that is quick: its widths are constants officially."""
    monkeypatch.setattr(discriminator, "WIDEST", 8)


def training(**options: Any) -> SemanticStyleGANTraining:
    torch.manual_seed(0)
    method = methods.create(NAME, FACES, **OPTIONS)
    found = type(method).training()(method, options)
    assert isinstance(found, SemanticStyleGANTraining)
    return found


def batch_of(count: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 19, (count, 16, 16), generator=generator)
    label[:, 0] = HOLE
    image = torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1
    return Batch(tuple("abcdef"[:count]), image, label, None, FACES)


def step(index: int = 0, count: int = 2, seed: int = 0) -> Step:
    return Step(index, batch_of(count), Drawn(count, seed))


def test_mixing_is_official() -> None:
    case = Case.read("semantic_stylegan/semantic_stylegan.tiny_mix")
    config = case.meta["config"]
    rows = Rows(*(config[k] for k in ("base_layers", "depth_layers", "local_layers", "seg_dim")))
    first, second = (torch.from_numpy(case.arrays[f"mix_w{i}"]).float() for i in (1, 2))
    parts = torch.from_numpy(case.arrays["mix_index"]).T
    expanded = mixed_rows(first, second, parts, rows)[:, rows.expanded()]
    wanted = torch.from_numpy(case.arrays["mix_latent_expanded"])
    assert torch.equal(expanded[..., :: expanded.shape[2] // wanted.shape[2]], wanted)
    assert not torch.equal(first, second)


def test_a_share_of_updates_mixes() -> None:
    t = training()
    assert t.options.mixing == 0.3
    rows = {m: training(mixing=m).rows(step()) for m in (0.0, 1.0)}
    assert torch.equal(rows[0.0], rows[0.0][:, :1].expand_as(rows[0.0]))
    one = rows[1.0][0].unique(dim=0)
    assert len(one) == 2
    base = OPTIONS["base_layers"]
    assert torch.equal(rows[1.0][:, :base], rows[0.0][:, :base])
    mixed = [len(t.rows(step(seed=s))[0].unique(dim=0)) == 2 for s in range(200)]
    assert 0.2 < sum(mixed) / 200 < 0.4


def test_penalties_come_at_their_updates_and_count_for_all() -> None:
    t = training()
    penalties = {"r1_image", "r1_segmentation"}
    for index in (0, 1, 4, 15, 16):
        generator, critic = (set(f(step(index))) for f in (t.generator_losses, t.critic_losses))
        assert generator == {"gan", "mask"} | ({"path"} if index % 4 == 0 else set())
        assert critic == {"critic"} | (penalties if index % 16 == 0 else set())
    weights = [t.weight(k) for k in ("mask", "path", "r1_image", "r1_segmentation", "gan")]
    assert weights == [100, 4 * 0.5, 16 * 10 / 2, 16 * 1000 / 2, 1]
    (g, d) = (phase.optimiser([torch.nn.Parameter(torch.zeros(1))]) for phase in t.phases())
    assert g.param_groups[0]["lr"] == pytest.approx(0.0016)
    assert d.param_groups[0]["betas"] == (0, pytest.approx(0.99 ** (16 / 17)))


def test_path_lengths_are_those_of_a_linear_picture() -> None:
    """Of a picture that is linear in the codes the gradient is known."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 5, 8, generator=generator).requires_grad_()
    weights = torch.randn(2, 3, 4, 4, generator=generator)
    matrix = torch.randn(5, 8, 3, 4, 4, generator=generator)
    image = torch.einsum("brd,rdchw->bchw", rows, matrix)
    gradient = torch.einsum("bchw,rdchw->brd", weights, matrix) / 4
    wanted = gradient.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(path_lengths(image, rows, weights), wanted)


def test_the_running_mean_of_lengths_moves_by_a_hundredth() -> None:
    t = training()
    assert float(t.path.mean) == 0
    losses = t.generator_losses(step())
    first = float(t.path.mean)
    assert first > 0  # one sample, half of two: its length is 100 times the mean
    assert float(losses["path"].detach()) == pytest.approx((99 * first) ** 2, rel=1e-4)
    t.generator_losses(step(seed=1))
    assert 0 < float(t.path.mean) != first


def test_segmentations_are_generators_and_holes_are_none() -> None:
    t = training()
    batch = batch_of()
    planes = t.segmentation(batch)
    assert planes.shape == (2, 13, 16, 16)
    assert set(planes.unique().tolist()) == {-1, 1}
    assert float(planes[:, :, 0].max()) == -1
    groups = torch.tensor(t.method.groups)[batch.label[:, 1:]]
    assert torch.equal(planes[:, :, 1:].argmax(1), groups)


def test_a_phase_moves_every_parameter_of_its_own_alone() -> None:
    t = training()
    t.method.after_load()  # folded as for a run: it must not stop the training's gradients
    t = type(t)(t.method)
    networks = t.networks()
    for phase in t.phases():
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}
        for seed in range(3):
            move(t, phase, phase.losses(step(seed=seed)))
        for name, network in networks.items():
            still = [torch.equal(a, b) for a, b in zip(before[name], network.parameters())]
            if name in phase.networks:  # the background's shape row does not shape
                assert sum(still) <= 0.02 * len(still), (phase.name, name)
            else:
                assert all(still), (phase.name, name)


def test_samples_that_make_no_whole_groups_are_refused() -> None:
    t = training()
    with pytest.raises(UserError, match="groups of 4; 6 do not make whole groups"):
        t.critic_losses(step(1, 6))
    with pytest.raises(UserError, match=r"mixing must be within 0\.\.1"):
        training(mixing=2)


def test_a_few_updates_resume_and_their_weights_draw(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    recipe = {
        "method": NAME,
        "options": {**OPTIONS, "keep_inversions": False},
        "data": {"name": "toyfaces", "split": "train", "size": 16, "n": 8},
        "steps": 2,
        "batch": 2,
        "ema": 0.5,
        "device": "cpu",
    }
    path.write_text(json.dumps(recipe))
    data = TrainingData(ToyFaces("train", 16, 8))

    def trainer() -> Trainer:
        return Trainer(load_recipe(path), data, seed=0)

    whole, half, rest = trainer(), trainer(), trainer()
    losses = [whole.update() for _ in range(2)]
    assert all(torch.tensor(list(found.values())).isfinite().all() for found in losses)
    half.update()
    half.save(tmp_path / "half.ckpt")
    assert rest.resume(tmp_path / "half.ckpt")
    rest.update()
    finished: list[Tensor] = []
    for one in (whole, rest):
        method: Any = one.finished()
        finished.append(method.unconditional(2, Noise(("a", "b"))))
        drawn = method.net.g_ema
        folded = drawn.render.convs[0].folded
        assert torch.equal(folded, drawn.render.convs[0].fold())
    assert torch.equal(*finished)
    assert bool(finished[0].isfinite().all())
    assert torch.equal(whole.networks["path"].mean, rest.networks["path"].mean)  # type: ignore[arg-type]


def test_the_recipe_fits() -> None:
    recipe = load_recipe("semantic-stylegan-celebamask_hq")
    require_trainable(recipe)
    assert recipe.ema == pytest.approx(0.5 ** (32 / 10_000))
