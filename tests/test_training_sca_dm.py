"""SCA-DM's training: official losses and gradients, the first stage, what moves and what stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import Case
from test_sca_dm import SMALL, batch_of, floats
from torch import nn
from training_tools import Given

from sisbench import methods
from sisbench.methods.sca_dm.method import SCADM
from sisbench.methods.sca_dm.training import SCADMTraining
from sisbench.methods.seeded import seeded_state
from sisbench.methods.training import Step

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
    assert float(losses["denoising"]) == pytest.approx(float(expected), rel=RTOL)
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
    assert float(losses["denoising"]) == pytest.approx(expected, rel=RTOL)
    found = training.weight("attention") * float(losses["attention"])
    assert found == pytest.approx(float(case.arrays[f"loss_attn_{form}"]), rel=RTOL)
    assert not [b for b in training.net.unet.modules() if b._forward_hooks]
