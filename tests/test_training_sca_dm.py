"""SCA-DM's training: official losses and gradients, the first stage, what moves and what stays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import Case
from safetensors.torch import save_file
from test_sca_dm import SMALL, batch_of, floats
from torch import nn
from training_tools import Drawn, Given, move

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise
from sisbench.core.state_dict import read_metadata, read_state
from sisbench.data.toyfaces.dataset import ToyFaces
from sisbench.methods.layers.diffusion.blocks import SPADEResBlock
from sisbench.methods.layers.training.autoencoder import adaptive_weight, unit_loss
from sisbench.methods.sca_dm.method import SCADM
from sisbench.methods.sca_dm.training import SCADMTraining
from sisbench.methods.seeded import seeded_state
from sisbench.methods.training import Step
from sisbench.training import load_recipe, train
from sisbench.training.data import TrainingData
from sisbench.training.trainer import Trainer

RTOL = 1e-4


def seeded_method(meta: dict[str, Any], masked: bool = True) -> SCADM:
    """The networks of a fixture with its weights."""
    config = {**meta["config"], "unet": {**meta["config"]["unet"], "use_mask_attn": masked}}
    method = methods.create("sca-dm", "celebamask_hq", **{**SMALL, **config})
    states = {
        module: seeded_state(keys.official_shapes(), meta["weights"][module]["seed"])
        for module, keys in method.key_maps().items()
    }
    return method.load_state(states)  # type: ignore[return-value]


def step_of(case: Case, drop: bool) -> Step:
    """The fixture's draws; its second sample loses its style image."""
    noise = Given(
        eps=floats(case, "noise"),
        t=(torch.from_numpy(case.arrays["timesteps"]) + 0.5) / 1000,
        drop=torch.tensor([0.9, 0.1 if drop else 0.9]),
    )
    return Step(0, batch_of(case), noise)


def gradient(module: nn.Module, key: str) -> float:
    return float(module.get_parameter(key).grad.norm())  # type: ignore[union-attr]


@pytest.mark.parametrize("drop", [True, False])
def test_denoising_loss_and_gradients_match(drop: bool) -> None:
    case = Case.read("training/sca_dm.loss_narrow")
    training = SCADMTraining(seeded_method(case.meta))
    net = training.net
    with torch.no_grad():
        latent = net.first_stage.encode(batch_of(case).image)
    assert case.off_by("z", latent[..., ::2, ::2]) < 1e-4
    losses = training.diffusion_losses(step_of(case, drop))
    assert losses.keys() == {"denoising"}
    expected = case.arrays["loss_simple" if drop else "loss_simple_no_drop"]
    assert float(losses["denoising"].detach()) == pytest.approx(float(expected), rel=RTOL)
    if not drop:
        return
    losses["denoising"].backward()
    norms = case.meta["gradient_norms"]
    for name in ("unet", "style_encoder"):
        for key, norm in norms[name].items():
            assert gradient(getattr(net, name), key) == pytest.approx(norm, rel=1e-3), key
    idle = [k for k, _ in net.unet.named_parameters() if "attn2.to_q" in k or "attn2.to_k" in k]
    assert idle
    assert max(gradient(net.unet, key) for key in idle) == norms["attn2_to_q_to_k_max_abs"] == 0
    for name, parameter in net.named_parameters():  # official: all but an embedding never read
        assert (parameter.grad is None) == name.startswith("first_stage."), name


@pytest.mark.parametrize("form", ["bce", "mse"])
def test_attention_loss_matches(form: str) -> None:
    case = Case.read("training/sca_dm.loss_narrow")
    method = seeded_method(case.meta, masked=False)
    training = SCADMTraining(method, {"attention": 0.01, "attention_form": form})
    losses = training.diffusion_losses(step_of(case, drop=False))
    expected = float(case.arrays["loss_no_mask_attn"])
    assert float(losses["denoising"].detach()) == pytest.approx(expected, rel=RTOL)
    found = training.weight("attention") * float(losses["attention"].detach())
    assert found == pytest.approx(float(case.arrays[f"loss_attn_{form}"]), rel=RTOL)
    assert not [b for b in training.net.unet.modules() if b._forward_hooks]


# ---- what an update moves, and the first stage ---------------------------------------------------

TINY: dict[str, Any] = {
    "model_channels": 32,
    "channel_mult": (1, 1),
    "attention_resolutions": (2,),
    "num_res_blocks": 1,
    "nhidden": 4,
    "steps": 2,
    "size": (16, 16),
    "num_feat": 1,
    "num_downsample": 3,
    "num_upsample": 2,
    "output_dim": 4,
    "ch": 32,
    "ch_mult": (1, 1),
    "first_stage_blocks": 1,
    "n_embed": 16,
}
FACES = LabelSpace.named("celebamask_hq")


def tiny(**options: Any) -> SCADMTraining:
    torch.manual_seed(0)
    return SCADMTraining(methods.create("sca-dm", FACES, **TINY), {"ndf": 4, **options})  # type: ignore[arg-type]


def random_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 19, (2, 4, 4), generator=generator)
    label = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    image = torch.rand(2, 3, 16, 16, generator=generator) * 2 - 1
    return Batch(("a", "b"), image, label, None, FACES)


def moving(t: SCADMTraining, index: int) -> dict[str, set[str]]:
    """Networks that each phase's update moves; one that rests is left out."""
    networks, kept, found = t.networks(), {}, {}
    for phase in t.phases():
        losses = phase.losses(Step(index, random_batch(), Drawn(2), kept))
        if losses:
            before = {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}
            move(t, phase, losses)
            found[phase.name] = {
                name
                for name, network in networks.items()
                if not all(map(torch.equal, before[name], network.parameters()))
            }
    return found


def test_the_first_stage_is_trained_before_the_diffusion() -> None:
    t = tiny(first_steps=3, gan_from=1)
    assert t.averages_per_batch
    assert t.averaged() == ("unet",)
    assert moving(t, 0) == {"first stage": {"first_stage"}}
    assert moving(t, 1) == {"first stage": {"first_stage"}, "adversary": {"adversary"}}
    latent = t.net.first_stage.encode(random_batch().image)
    assert moving(t, 3) == {"diffusion": {"unet", "style_encoder"}}
    torch.testing.assert_close(t.net.first_stage.encode(random_batch().image), latent)


def test_the_first_stage_moves_whole() -> None:
    t = tiny(first_steps=9)
    before = {k: v.detach().clone() for k, v in t.net.first_stage.named_parameters()}
    for _ in range(2):
        moving(t, 0)
    for key, value in t.net.first_stage.named_parameters():
        assert not torch.equal(before[key], value) or key.endswith("bias"), key


def test_first_stage_losses_are_those_of_the_paper() -> None:
    t = tiny(first_steps=2)
    stage, batch = t.net.first_stage, random_batch()
    step = Step(0, batch, Drawn(2))
    losses = t.first_stage_losses(step)
    latent = stage.encode(batch.image)
    codes = stage.quantize.vectors(stage.quantize.indices(latent))
    gap = float((latent - codes).square().mean().detach())
    assert float(losses["codebook"].detach()) == pytest.approx(gap, rel=1e-5)
    assert float(losses["commitment"].detach()) == pytest.approx(gap, rel=1e-5)
    assert (t.weight("codebook"), t.weight("commitment")) == (1.0, 0.25)
    with torch.no_grad():  # straight through: the decoder sees codes, up to rounding
        picture = stage.decode(latent)
    torch.testing.assert_close(step.kept["picture"], picture, atol=1e-4, rtol=1e-3)
    codebook = stage.quantize.embedding.weight
    (gradient,) = torch.autograd.grad(losses["commitment"], codebook, allow_unused=True)
    assert gradient is None
    (gradient,) = torch.autograd.grad(losses["l1"], stage.encoder.conv_in.weight)
    assert float(gradient.abs().max()) > 0
    assert losses.keys() == {"codebook", "commitment", "l1", "gan"}
    assert tiny(first_steps=2, gan=0).phases()[1].name == "diffusion"


def test_the_adaptive_weight_balances_both_gradients() -> None:
    last = nn.Parameter(torch.tensor([3.0, -1.0]))
    first, second = (5 * last).sum(), 0.5 * (last**2).sum()
    weight = adaptive_weight(first, second, last)
    assert not weight.requires_grad
    assert float(adaptive_weight(first, 0 * second, last)) == 1e4
    (balanced,) = torch.autograd.grad(weight * second, last)
    assert float(balanced.norm()) == pytest.approx((2 * 25) ** 0.5, rel=1e-4)


def test_a_latent_of_unit_scale_costs_nothing() -> None:
    z = torch.randn(8, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    z = (z - z.mean((0, 2, 3), keepdim=True)) / z.transpose(0, 1).flatten(1).std(1)[:, None, None]
    assert float(unit_loss(z)) == pytest.approx(0, abs=1e-6)
    assert float(unit_loss(3 * z + 1)) == pytest.approx(1 + 4, rel=1e-4)


def test_a_given_first_stage_is_read_and_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is none"):
        tiny()
    with pytest.raises(UserError, match="take one"):
        tiny(first_stage="x.ckpt", first_steps=1)
    wanted = tiny(first_steps=1).net
    for state, name in (
        (wanted.first_stage.state_dict(), "own.safetensors"),
        (wanted.state_dict(), "trained.safetensors"),
    ):
        save_file(state, tmp_path / name)
    official = {f"first_stage_model.{k}": v for k, v in wanted.first_stage.state_dict().items()}
    torch.save({**official, "model.x": torch.zeros(1)}, tmp_path / "whole.ckpt")
    inner = {**wanted.first_stage.state_dict(), "loss.logvar": torch.zeros(1)}
    torch.save(inner, tmp_path / "vq.ckpt")
    for name in ("own.safetensors", "trained.safetensors", "whole.ckpt", "vq.ckpt"):
        t = tiny(first_stage=str(tmp_path / name))
        for a, b in zip(t.net.first_stage.parameters(), wanted.first_stage.parameters()):
            assert torch.equal(a, b)
            assert not a.requires_grad
        assert not t.net.first_stage.training
    assert moving(t, 0)["diffusion"] == {"unet", "style_encoder"}
    save_file({"other": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=r"wrong.safetensors"):
        tiny(first_stage=str(tmp_path / "wrong.safetensors"))


def test_training_begins_at_zero_noise() -> None:
    t = tiny(first_steps=1)
    eps = torch.randn(2, 3, 8, 8)
    noise = Given(eps=eps, t=torch.tensor([0.0, 0.999]), drop=torch.tensor([0.9, 0.9]))
    found = t.diffusion_losses(Step(1, random_batch(), noise))["denoising"]
    assert float(found.detach()) == pytest.approx(float(eps.square().mean()), rel=1e-5)
    blocks = [m for m in t.net.unet.modules() if isinstance(m, SPADEResBlock)]
    assert blocks
    assert all(float(b.out_layers[-1].weight.detach().abs().max()) == 0 for b in blocks)


def test_groups_of_the_norms_are_an_option_of_unet_and_first_stage() -> None:
    net = methods.create("sca-dm", FACES, **TINY, norm_groups=8).net

    def groups(module: nn.Module) -> set[int]:
        return {m.num_groups for m in module.modules() if isinstance(m, nn.GroupNorm)}

    assert groups(net.unet) == groups(net.first_stage) == {8}  # type: ignore[arg-type]
    assert groups(net.style_encoder) == {19}  # type: ignore[arg-type]
    with pytest.raises(UserError, match="must divide 32"):
        methods.create("sca-dm", FACES, **TINY, norm_groups=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drop": 1.5}, "within 0..1"),
        ({"attention_form": "l1"}, "bce or mse"),
        ({"lr": 0}, "lr must be positive"),
        ({"gan": -1}, "gan must not be negative"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(first_steps=1, **options)


def recipe_file(folder: Path, training: dict[str, Any], **changes: Any) -> Path:
    recipe = {
        "method": "sca-dm",
        "options": TINY,
        "data": {"name": "toyfaces", "split": "train", "size": 16, "n": 4},
        "steps": 4,
        "batch": 2,
        "ema": 0.5,
        "training": training,
        "device": "cpu",
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe | changes))
    return path


def test_the_trainer_lets_phases_rest(tmp_path: Path) -> None:
    """Both stages from one recipe, and weights that load."""
    path = recipe_file(tmp_path, {"first_steps": 2, "gan": 0.0})
    data = TrainingData(ToyFaces("train", 16, 4))
    trainer = Trainer(load_recipe(path), data, seed=0)
    names = [set(trainer.update()) for _ in range(4)]
    assert names == [{"codebook", "commitment", "l1"}] * 2 + [{"denoising"}] * 2
    batch = data.batch(0, 2, 0, flip=False)
    picture = trainer.finished().reconstruct(batch, Noise(batch.ids))
    assert picture.shape == batch.image.shape
    assert bool(picture.isfinite().all())


@pytest.mark.slow
def test_phases_rest_in_two_processes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First stage, then diffusion, while the adversary never moves: the updates of one process."""
    monkeypatch.setenv("SISBENCH_CACHE", str(tmp_path / "cache"))
    training = {"first_steps": 2, "gan_from": 99, "ndf": 4}
    found = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.safetensors"
        train(recipe_file(tmp_path, training, devices=devices), out)
        found.append(read_state(out))
    start = methods.create("sca-dm", FACES, **TINY).net.state_dict()
    different = [
        key
        for key, value in found[0].items()
        if not torch.allclose(found[1][key], value, atol=2e-5, rtol=1e-3)
    ]
    # before a norm a bias has a gradient of rounding alone, which Adam makes a whole step
    assert all(key.endswith(".bias") for key in different), different
    assert len(different) < 0.1 * len(found[0])
    assert found[0].keys() == start.keys()


def test_the_provenance_names_the_given_first_stage(tmp_path: Path) -> None:
    file, out = tmp_path / "first.safetensors", tmp_path / "w.safetensors"
    first = tiny(first_steps=1).net.first_stage
    save_file(first.state_dict(), file)
    path = recipe_file(tmp_path, {"first_stage": str(file)}, steps=1, ema=None)
    train(path, out)
    about = read_metadata(out)
    assert about is not None
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    wanted = {"training.first_stage": f"first.safetensors, sha256 {digest}"}
    assert about["training"]["files"] == wanted
    made = out.read_bytes()
    assert train(path, out).read_bytes() == made
    with torch.no_grad():
        next(first.parameters()).add_(1)
    save_file(first.state_dict(), file)  # the same name, other weights
    with pytest.raises(UserError, match="was not made by this recipe"):
        train(path, out)
    file.unlink()
    with pytest.raises(UserError, match="first_stage: there is no file"):
        train(path, tmp_path / "v.safetensors")
    assert out.read_bytes() == made


def test_weights_that_a_training_begins_from_are_in_the_provenance(tmp_path: Path) -> None:
    out, more = tmp_path / "w.safetensors", tmp_path / "v.safetensors"
    train(recipe_file(tmp_path, {"first_steps": 1, "gan": 0.0}, steps=1), out)
    train(recipe_file(tmp_path, {}, steps=1, start=str(out)), more)
    about = read_metadata(more)
    assert about is not None
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert about["training"]["start"] == f"w.safetensors, sha256 {digest}"
    assert "files" not in about["training"]


def test_a_missing_first_stage_is_said_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sisbench.training.session._dataset", lambda plan: pytest.fail("read"))
    with pytest.raises(UserError, match="needs the latent of a first stage"):
        train(recipe_file(tmp_path, {}, steps=1), tmp_path / "w.safetensors")
