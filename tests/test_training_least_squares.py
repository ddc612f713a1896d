"""Trainings of Pix2PixHD and MaskGAN: official discriminator and losses, what an update moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import Case, seeded, shapes_of
from test_maskgan import TINY, lifted, space
from torch import Tensor, nn
from training_tools import Drawn, fill, move

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.initial import normal_method
from sisbench.methods.layers.training.least_squares import FAKE, REAL, towards
from sisbench.methods.maskgan.training import MaskganTraining
from sisbench.methods.pix2pixhd.training import Pix2PixHDTraining
from sisbench.methods.training import Losses, Step, Training

RTOL = 1e-4


def seed_discriminator(network: MultiScaleDiscriminator, seed: int) -> dict[str, tuple[int, ...]]:
    """Under the official names, where the full size has the last number."""
    scales = len(network.scales)

    def official(layer: str) -> str:
        _, scale, *rest = layer.split(".")
        last = len(network.scales[0].stages)  # type: ignore[arg-type]
        at = last if rest[0] == "predict" else int(rest[1])
        return f"scale{scales - 1 - int(scale)}_layer{at}.0"

    return fill(network, official, seed)


def batch_of(case: Case, image: str, count: int = 19) -> Batch:
    label = torch.from_numpy(case.arrays["label"]).long()
    return Batch(tuple(map(str, range(len(label)))), case.image(image), label, None, space(count))


def random_batch(size: int, count: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, count, (2, 8, 8), generator=generator)
    label = label.repeat_interleave(size // 8, 1).repeat_interleave(size // 8, 2)
    image = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    return Batch(("a", "b"), image, label, None, space(count))


def pix2pixhd(**options: Any) -> Pix2PixHDTraining:
    small = {"ngf": 4, "nef": 4, "n_downsample_global": 2, "n_blocks_global": 1}
    method = methods.create("pix2pixhd", space(5), crop_size=32, n_downsample_E=2, **small)
    return Pix2PixHDTraining(method, {"ndf": 4, **options})


def maskgan(**options: Any) -> MaskganTraining:
    method = methods.create("maskgan", space(5), **TINY)
    return MaskganTraining(method, {"ndf": 4, **options})


def test_pix2pixhd_losses_match() -> None:
    case = Case.read("spade/pix2pixhd.celebamask19_feat")
    scalars = case.meta["scalars"]
    t = pix2pixhd()
    t.discriminator = MultiScaleDiscriminator(19, 64, 4, 2, 1, spectral=False)
    shapes = seed_discriminator(t.discriminator, case.meta["weight_seed"])
    assert shapes == shapes_of("spade/pix2pixhd.celebamask19_feat", "netD")
    batch = batch_of(case, "image")
    t.method = methods.create("pix2pixhd", space(19), crop_size=256, ngf=1, nef=1)
    with torch.no_grad():
        fake, real = t.judge(batch, case.image("ref_image"))
        found = {
            "lsgan_G(fake=ref_image)": towards(fake, REAL),
            "lsgan_D_fake": towards(fake, FAKE),
            "lsgan_D_real": towards(real, REAL),
            "GAN_Feat": t.weight("feature") * t.feature_loss(fake, real),
        }
    for scale in (0, 1):
        assert case.off_by(f"D.out{scale}", fake[scale][-1]) < 1e-4
    assert found.keys() == scalars.keys()
    for name, value in found.items():
        assert float(value) == pytest.approx(scalars[name], rel=RTOL), name


def seeded_maskgan(case: Case) -> MaskganTraining:
    config, seed = case.meta["config"], case.meta["weight_seed"]
    aside = ("ndf", "num_D", "n_layers_D")
    options = {k: v for k, v in config.items() if k not in aside}
    method = methods.create("maskgan", space(19), **options, vae_ngf=1, vae_latent=4)
    official = method.key_maps()["netG"].official_shapes()
    method.load_state({"netG": lifted(seeded(official, seed), method.net.netG.width)})
    widths = {"ndf": config["ndf"], "scales": config["num_D"], "n_layers": config["n_layers_D"]}
    t = MaskganTraining(method, {**widths, "vae_steps": 1, "std": 0})
    seed_discriminator(t.discriminator, seed)  # type: ignore[arg-type]
    assert t.blender is not None
    blender = {k: tuple(v.shape) for k, v in t.blender.state_dict().items()}
    t.blender.load_state_dict(seeded(blender, seed))
    return t


def test_maskgan_losses_match() -> None:
    case = Case.read("training/maskgan.train_losses")
    scalars, batch = case.meta["scalars"], batch_of(case, "image")
    t = seeded_maskgan(case)
    step = Step(1, batch, Drawn(2))
    inner, outer = (torch.from_numpy(case.arrays[f"inter_label_{i}"]).long() for i in (1, 2))
    t.edits = lambda label: (inner, outer)  # type: ignore[method-assign]
    with torch.no_grad():
        losses = t.generator_losses(step) | t.blend_losses(step)
        picture, blend = step.kept["picture"], step.kept["blend"]
        assert case.off_by("fake", picture) < 2e-4
        assert case.off_by("blend", blend[..., ::2, ::2]) < 2e-4
        of_blend, _ = t.judge(batch, blend)
        fake, real = t.judge(batch, picture)
        assert case.off_by("D.fake.feat0", fake[0][0][:, ::4, ::2, ::2]) < 2e-4
        for scale in (0, 1):
            assert case.off_by(f"D.fake.out{scale}", fake[scale][-1]) < 2e-4
        critic = t.critic_losses(step)
        found = {
            "D_fake": towards(fake, FAKE),
            "D_blend": towards(of_blend, FAKE),
            "D_real": towards(real, REAL),
            "G_GAN": losses["gan"],
            "GB_GAN": losses["blend_gan"],
            "G_GAN_Feat": t.weight("feature") * losses["feature"],
            "GB_GAN_Feat": t.weight("blend_feature") * losses["blend_feature"],
        }
    assert found.keys() == scalars.keys()
    for name, value in found.items():
        assert float(value) == pytest.approx(scalars[name], rel=RTOL), name
    total = 0.25 * (scalars["D_fake"] + scalars["D_blend"]) + 0.5 * scalars["D_real"]
    assert sum(map(float, critic.values())) == pytest.approx(total, rel=RTOL)


def moved(before: list[Tensor], network: nn.Module) -> bool:
    """Whether all parameters moved (True) or none (False)."""
    after = list(network.parameters())
    each = {not torch.equal(a, b) for a, b in zip(before, after, strict=True)}
    assert len(each) == 1
    return each.pop()


def check_phases(t: Training, batch: Batch, index: int, resting: set[str]) -> None:
    """Each phase moves its networks, whole, and no other; ``resting`` ones give no losses."""
    networks, kept = t.networks(), {}
    for phase in t.phases():
        step = Step(index, batch, Drawn(len(batch)), kept)
        losses: Losses = phase.losses(step)
        if phase.name in resting:
            assert losses == {}
            continue
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}
        move(t, phase, losses)
        for name, network in networks.items():
            assert moved(before[name], network) == (name in phase.networks), (phase.name, name)


def test_pix2pixhd_moves_generator_with_encoder_then_the_discriminator() -> None:
    t = pix2pixhd()
    assert t.averaged() == ("net",)
    check_phases(t, random_batch(32), 0, set())
    assert t.one_pass(Step(0, random_batch(32), Drawn(2))).keys() == {"generator", "discriminator"}


def test_maskgan_trains_a_mask_vae_first_then_two_ways_of_drawing() -> None:
    t = maskgan(vae_steps=2)
    assert t.averaged() == ("generator",)
    batch = random_batch(64)
    check_phases(t, batch, 1, {"generator", "blending", "discriminator"})
    t.edits = lambda label: (label, 4 - label)  # type: ignore[method-assign]
    check_phases(t, batch, 2, {"vae"})
    with pytest.raises(UserError, match="one-pass"):
        t.one_pass(Step(2, batch, Drawn(2)))
    with pytest.raises(UserError, match="two samples"):
        MaskganTraining.edits(t, batch.label[:1])
    alone = maskgan()
    assert [p.name for p in alone.phases()] == ["generator", "discriminator"]
    assert "netB" not in {k.split(".")[0] for k in t.method.net.state_dict()}


def test_a_given_mask_vae_is_read(tmp_path: Any) -> None:
    t = maskgan(vae_steps=2)
    assert t.vae is not None
    path = tmp_path / "vae.pth"
    torch.save(t.vae.state_dict(), path)
    given = maskgan(vae=str(path))
    assert given.vae is not None
    for a, b in zip(given.vae.parameters(), t.vae.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(UserError, match="take one"):
        maskgan(vae=str(path), vae_steps=1)


def test_initial_weights_are_normal_but_for_transposed_convolutions() -> None:
    method = methods.create("maskgan", space(5), **TINY)
    t = MaskganTraining(method, {"std": 0.0})
    before = {k: v.clone() for k, v in method.net.state_dict().items()}
    normal_method(method, 1e-6, t.kept_initial())
    for key, value in method.net.state_dict().items():
        kept = key.endswith("bias") or torch.equal(before[key], value)
        transposed = isinstance(
            method.net.get_submodule(key.rpartition(".")[0]), nn.ConvTranspose2d
        )
        assert kept == (key.endswith("bias") or transposed), key
