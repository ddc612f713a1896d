"""SemanticStyleGAN's discriminator and losses against the official outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import Case, seeded, shapes_of
from semantic_stylegan_seeding import fixture_weights
from torch import Tensor
from torch.nn import functional as F

from sisbench.methods.layers.stylegan import fir_kernel
from sisbench.methods.semantic_stylegan.discriminator import (
    Discriminator,
    batch_deviation,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mask_loss,
)

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def case() -> Case:
    return Case.read("semantic_stylegan/semantic_stylegan.disc32")


@pytest.fixture(scope="module")
def net(case: Case) -> Discriminator:
    config = case.meta["config"]
    net = Discriminator(config["img_size"], config["seg_dim"], config["channel_multiplier"])
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    state = fixture_weights(seeded(shapes, case.meta["weight_seed"]))
    kernels = {k: fir_kernel() for k in shapes if k.endswith(".kernel")}
    net.load_state_dict({**state, **kernels})
    return net.eval().requires_grad_(False)


def floats(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case.arrays[name]).float()


def real(case: Case) -> tuple[Tensor, Tensor]:
    label = torch.from_numpy(case.arrays["label"]).long()
    onehot = F.one_hot(label, case.meta["config"]["seg_dim"]).permute(0, 3, 1, 2).float()
    return floats(case, "image"), 2 * onehot - 1


def test_logits_match(case: Case, net: Discriminator) -> None:
    image, segmentation = real(case)
    block = net.convs_img[1](net.convs_img[0](image))[:, ::16, ::4, ::4]
    stddev = batch_deviation(net.convs_img(image) + net.convs_seg(segmentation))[:, 0]
    found = {
        "img_block1": block,
        "stddev": stddev,
        "pred_real": net(image, segmentation),
        "pred_fake": net(floats(case, "fake_image"), floats(case, "fake_seg")),
        "pred_image_only": net(image),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, case.arrays[name], atol=TOLERANCE, rtol=0, err_msg=name)


def test_losses_match(case: Case, net: Discriminator) -> None:
    image, segmentation = (x.requires_grad_() for x in real(case))
    fake_segmentation = floats(case, "fake_seg")
    logits = net(image, segmentation)
    fake = net(floats(case, "fake_image"), fake_segmentation)
    found = {
        "d_logistic": discriminator_loss(logits, fake),
        "g_nonsaturating": generator_loss(fake),
        "r1_image": gradient_penalty(logits, image),
        "r1_seg": gradient_penalty(logits, segmentation),
        "mask_loss": mask_loss(fake_segmentation[..., ::4, ::4], fake_segmentation),
    }
    for name, value in found.items():
        expected = case.meta["scalars"][name]
        assert value.item() == pytest.approx(expected, rel=TOLERANCE), name


def test_the_manifest_is_the_official_network() -> None:
    with torch.device("meta"):
        net = Discriminator(512, 13)
    expected = shapes_of("semantic_stylegan/semantic_stylegan.celebamask13", "d")
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == expected
    assert sum(p.numel() for p in net.parameters()) == 51_406_593


def test_groups_of_the_deviation() -> None:
    """Sample i is of group i mod B / g; one sample differs from nothing."""
    x = torch.randn(8, 3, 2, 2)
    found = batch_deviation(x)[:, 0, 0, 0]
    for i in (0, 1):
        expected = (x[i::2].var(0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[i::2], expected.expand(4))
    assert batch_deviation(x[:1]).max() < 1.1e-4
    with pytest.raises(ValueError, match="groups of 4"):
        batch_deviation(x[:6])
