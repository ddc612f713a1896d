"""OASIS' training: official discriminator and losses, LabelMix, what an update moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from parity import Case, every, shapes_of
from torch import Tensor
from training_tools import Drawn, Given, fill, move

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.methods.oasis.discriminator import SegmentationDiscriminator
from sisbench.methods.oasis.training import (
    FAKE,
    OasisTraining,
    balanced,
    class_weights,
    mix,
    mix_mask,
)
from sisbench.methods.training import Step

RTOL = 1e-4


def official_name(layer: str) -> str:
    """Convolutions stand behind activation and enlargement in a ``Sequential``."""
    stem, _, conv = layer.rpartition(".")
    if conv == "conv1":
        return f"{layer}.{2 if 'up' in stem else int(stem != 'body_down.0')}"
    return f"{layer}.1" if conv == "conv2" else layer


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def training(count: int = 5, **options: object) -> OasisTraining:
    method = methods.create(
        "oasis", space(count), channels_G=2, z_dim=3, crop_size=64, contain_dontcare_label=True
    )
    return OasisTraining(method, {"width": 4, **options})


def batch_of(seed: int = 0, count: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, count, (2, 8, 8), generator=generator)
    label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    return Batch(("a", "b"), image, label, None, space(count))


def test_discriminator_and_losses_match() -> None:
    case = Case.read("training/oasis.disc_losses")
    config, scalars = case.meta["config"], case.meta["scalars"]
    count, dontcare = config["semantic_nc"], config["contain_dontcare_label"]
    network = SegmentationDiscriminator(count).eval()
    fill(network, official_name, case.meta["weights"]["netD"]["seed"])
    label = torch.from_numpy(case.arrays["label"]).long()
    real, fake = (torch.from_numpy(case.arrays[k]) / 127.5 - 1 for k in ("real", "fake"))
    seen: dict[str, Tensor] = {}

    def keep(key: str) -> Any:
        def hook(_module: Any, _args: Any, out: Tensor) -> None:
            seen.setdefault(key, out)

        return hook

    for name in ("body_down.0", "body_down.5", "body_up.0", "body_up.5"):
        network.get_submodule(name).register_forward_hook(keep(f"act_{name.replace('.', '_')}"))
    bits = torch.from_numpy(case.arrays["labelmix_bit"]).bool()
    mask = mix_mask(label, bits)
    with torch.no_grad():
        of_real = network(real)
        of_fake, mixed = network(fake), network(mix(mask, real, fake))
    cuts = {"act_body_down_0": every(1, 16, 2, 2), "act_body_up_5": every(1, 8, 4, 4)}
    for key, value in seen.items():
        assert case.off_by(key, value, *cuts.get(key, every(1, 16))) < 2e-4, key
    assert case.off_by("logits_real", of_real[..., ::2, ::2]) < 2e-4
    assert case.off_by("logits_mixed", mixed[..., ::4, ::4]) < 2e-4
    weight = class_weights(label, count, dontcare)
    assert case.off_by("class_weight", weight[:, None, ::2, ::2]) < 1e-5
    found = {
        "loss_D_real": balanced(of_real, label, weight),
        "loss_D_fake": F.cross_entropy(of_fake, torch.full_like(label, FAKE)),
        "loss_G_adv (fake judged as real)": balanced(of_fake, label, weight),
        "labelmix (before its weight)": F.mse_loss(mix(mask, of_real, of_fake), mixed),
    }
    assert found.keys() == scalars.keys()
    for name, value in found.items():
        assert float(value) == pytest.approx(scalars[name], rel=RTOL), name


def test_the_discriminator_has_the_official_layout() -> None:
    with torch.device("meta"):
        network = SegmentationDiscriminator(151)
    own = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    official = shapes_of("oasis/oasis.ade20k", "netD")
    assert sorted(own.values()) == sorted(official.values())
    assert round(sum(p.numel() for p in network.parameters()) / 1e5) == 223  # 22.3 M


def test_the_losses_of_an_update_are_those_of_the_parts() -> None:
    t = training()
    t.discriminator.eval()
    batch = batch_of()
    noise = {"z": torch.randn(2, 3), "labelmix": torch.tensor([0.9, 0.1, 0.9, 0.1, 0.1])}
    step = Step(0, batch, Given(**noise))
    losses = t.critic_losses(step)
    with torch.no_grad():
        layout = t.method.encode_layout(batch)
        t.method.net.train()
        fake = t.method.render(layout, t.method.sample_style(batch, step.noise), step.noise)
        judged = t.discriminator(fake), t.discriminator(batch.image)
    mask = (batch.label % 2 == 1) | (batch.label == 4)
    mixed = torch.where(mask[:, None], batch.image, fake)
    wanted = torch.where(mask[:, None], judged[1], judged[0])
    expected = (wanted - t.discriminator(mixed)).square().mean()
    assert float(losses["labelmix"].detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
    assert t.weight("labelmix") == 10
    assert all(p.grad is None for p in t.method.net.parameters())


def test_an_update_moves_every_parameter_of_its_phase_alone() -> None:
    t = training(l1=1.0)
    networks = t.networks()
    assert t.averaged() == ("net",)
    for phase in t.phases():
        before = {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}
        for seed in range(2):
            move(t, phase, phase.losses(Step(0, batch_of(seed), Drawn(2, seed))))
        for name, network in networks.items():
            moved = [
                not torch.equal(a, b)
                for a, b in zip(before[name], network.parameters(), strict=True)
            ]
            assert all(moved) if name in phase.networks else not any(moved), (phase.name, name)


def test_weights_count_present_classes_alone() -> None:
    label = torch.tensor([[[0, 1], [1, 2]]])
    assert class_weights(label, 4, False).flatten().tolist() == pytest.approx(
        [4 / 3, 2 / 3, 2 / 3, 4 / 3]
    )
    assert class_weights(label, 4, True).flatten().tolist() == pytest.approx([0, 1, 1, 2])


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="labelmix must not be negative"):
        training(labelmix=-1)
    with pytest.raises(UserError, match="label_mix"):
        training(label_mix=1)
