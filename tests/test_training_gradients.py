"""The gradient of every training is the derivative of its losses: along a random direction of the
parameters, autograd and a central difference agree."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import EDITORS, METHODS
from torch import Tensor, nn
from training_tools import Drawn

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.methods.clade import network as clade
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.perceptual import Perceptual
from sisbench.methods.layers.training.spectral import Spectral
from sisbench.methods.maskgan import training as maskgan
from sisbench.methods.maskgan import vae
from sisbench.methods.semantic_stylegan import discriminator
from sisbench.methods.training import Losses, Phase, Step, Training

FACES = LabelSpace.named("celebamask_hq")
STEPS = (1e-7, 1e-8, 1e-6)
"""Of the difference, in float64, relative to the root mean square of each parameter; a kink of an
activation may lie within one of them, a wrong gradient is wrong by all."""
TOLERANCE = 1e-4
"""Of the difference of both derivatives, relative to the typical size of such a derivative."""
SHARP = 20.0
"""Factor of queries, so that attentions saturate."""
QUERIES = ("query", "to_q", "qkv", "q.weight", "in_proj")


@dataclass(frozen=True)
class Case:
    """One training in one of its states.

    Attributes:
        method: registry name.
        training: its options.
        options: of the method, beside those of its tiny network.
        index: update.
        instances: whether the samples have instance maps.
        held: functions whose stopped gradients are meant, with the reason: in the differences
            their values stay what they were.
        given: methods of the training in place of its own. MaskGAN's edits by an untrained MaskVAE
            are of one class, and the norm of a plane that is constant is noise.
    """

    method: str
    training: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    index: int = 0
    instances: bool = False
    held: Mapping[str, str] = field(default_factory=dict)
    given: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


_VQ = {
    "quantised": "straight through: the codes count as constants plus the latent",
    "codebook_loss": "the paper stops the encoder's gradient",
    "commitment_loss": "the paper stops the codebook's gradient",
    "adaptive_weight": "a weight, not a loss",
}
_GAN = {"ndf": 2, "l1": 1.0}
_EDITS = {"B_ngf": 2, "vae_ngf": 1, "vae_latent": 4}
_SCA_DM = {
    "size": (16, 16),
    "image_size": None,
    "channel_mult": (1, 1),
    "nhidden": 4,
    "num_downsample": 3,
    "num_upsample": 2,
    "output_dim": 4,
}
_CA2SIS = {
    "channels": (8, 8, 4, 4),
    "heads": 2,
    "head_dim": 4,
    "mask_side": 16,
    "style_levels": 3,
    "mapping_width": 8,
}
CASES = {
    "spade": Case("spade", _GAN, {"use_vae": True}),
    "sean": Case("sean", _GAN),
    "inade": Case("inade", _GAN, {"use_vae": True}),
    "v-inade": Case("v-inade", _GAN),
    "v-inade, instances": Case("v-inade", _GAN, instances=True),
    "scam": Case("scam", {"ndf": 2}),
    "scam, simplex": Case("scam", {"ndf": 2}, {"attention_type": "simplex"}),
    "ca2sis": Case("ca2sis", _GAN, _CA2SIS),
    "ca2sis, equation 6": Case("ca2sis", {**_GAN, "attention_form": "softmax"}, _CA2SIS),
    "ca2sis, diversity": Case(
        "ca2sis",
        {"ndf": 2, "stage": "diversity"},
        _CA2SIS,
        held={"_another": "the published code draws the second picture without gradient"},
    ),
    "sca-dm, first stage": Case(
        "sca-dm", {"ndf": 2, "first_steps": 1, "unit": 1.0}, _SCA_DM, held=_VQ
    ),
    "sca-dm": Case("sca-dm", {"ndf": 2, "first_steps": 1}, _SCA_DM, index=1),
    "sca-dm, attention": Case(
        "sca-dm",
        {"ndf": 2, "first_steps": 1, "attention": 0.01},
        {**_SCA_DM, "use_mask_attn": False},
        index=1,
    ),
    "sdm": Case(
        "sdm",
        {"drop": 0.5},
        held={"variational_bound": "it moves the variance alone, the mean counts as a constant"},
    ),
    "codiff": Case("codiff"),
    "oasis": Case("oasis", {"width": 2, "l1": 1.0}),
    "sc-gan": Case("sc-gan", _GAN),
    "maskgan": Case("maskgan", _GAN),
    "maskgan, mask vae": Case("maskgan", {**_GAN, "vae_steps": 1}, _EDITS),
    "maskgan, blending": Case(
        "maskgan",
        {**_GAN, "vae_steps": 1},
        _EDITS,
        index=1,
        given={"edits": lambda label: (label.roll(3, 1), label.roll(5, 2))},
    ),
    "pix2pixhd": Case("pix2pixhd", _GAN),
    "clade": Case("clade", _GAN, {"use_vae": True, "add_dist": True}),
    "sean-clade": Case("sean-clade", _GAN),
    "semantic-vae": Case("semantic-vae", {"gan": 1.0, "ndf": 2}),
    "frankenmask": Case("frankenmask"),
    "semantic-stylegan": Case(
        "semantic-stylegan", held={"moved_mean": "the lengths' running mean is a constant"}
    ),
}

HEAVY = ("sc-gan", "maskgan, blending", "semantic-stylegan", "sdm", "semantic-vae", "maskgan")
"""Cases of more than a second."""


class Features(Perceptual):
    """A small fixed network in place of VGG-19."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, padding=1) for i in range(5)
        )
        self.requires_grad_(False)

    def features(self, image: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            image = stage(image).tanh()
            found.append(image)
        return found


class Held:
    """Keeps what stopped gradients stand on: recorded once, then given again.

    Args:
        names: functions whose calls of ``Tensor.detach`` count.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.start()

    def start(self) -> None:
        """Record anew."""
        self.kept: list[Tensor] = []
        self.place, self.recording = 0, True

    def again(self) -> None:
        """Give the same values from now on, in the same order."""
        self.recording, self.place = False, 0

    def value(self, make: Callable[[], Tensor]) -> Tensor:
        """The next one."""
        if self.recording:
            self.kept.append(make())
            return self.kept[-1]
        self.place += 1
        return self.kept[self.place - 1]


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, also what is float32 by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    monkeypatch.setattr(one_hot, "__defaults__", (torch.float64,))
    places = clade.position_maps
    monkeypatch.setattr(clade, "position_maps", lambda *args: places(*args).double())
    small_constants(monkeypatch)
    yield
    torch.set_default_dtype(before)


def small_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths and sizes that are no options."""
    monkeypatch.setattr(discriminator, "WIDEST", 4)
    monkeypatch.setattr(vae, "SIDE", 128)
    monkeypatch.setattr(maskgan, "SIDE", 128)
    *others, _ = vae.MaskVAE.__init__.__defaults__ or ()
    monkeypatch.setattr(vae.MaskVAE.__init__, "__defaults__", (*others, 128))


def scene(size: tuple[int, int], case: Case) -> Batch:
    """Samples with absent classes, holes, a class of one pixel and classes that have one pixel, or
    none, in smaller sizes."""
    generator = torch.Generator().manual_seed(0)
    high, wide = size
    few = torch.randint(0, 8, (2, 8, 8), generator=generator)
    label = few.repeat_interleave(high // 8, 1).repeat_interleave(wide // 8, 2)
    label[0, : high // 4, : wide // 4] = 9
    label[1, : high // 8, : wide // 8] = 10
    label[1, high // 2 : high // 2 + 2, wide // 2 : wide // 2 + 2] = 11
    label[0, 1, 1] = 12
    label[0, high - high // 8 :, :] = HOLE
    label[1, 3, 5] = HOLE
    image = torch.rand(2, 3, *size, generator=generator) * 1.8 - 0.9
    instance = None
    if case.instances:
        instance = label.clamp_min(0) * 3 + torch.randint(0, 3, label.shape, generator=generator)
    return Batch(("a", "b"), image, label, instance, FACES)


def built(case: Case, folder: Path) -> Training:
    """The training at a point in general position: nothing is exactly zero."""
    torch.manual_seed(0)
    tiny = {**METHODS, **EDITORS}[case.method]
    registry = methods.editors if case.method in EDITORS else methods.registry
    method = registry.get(case.method)(**{**tiny.options, **case.options}).setup(FACES)
    options = dict(case.training)
    if case.method == "codiff":
        options["first_stage"] = str(folder / "first.pth")
        torch.save(method.net["first_stage"].state_dict(), options["first_stage"])
    training = type(method).training()(method, options, Features())
    generator = torch.Generator().manual_seed(1)
    for network in training.networks().values():
        for parameter in network.parameters():
            with torch.no_grad():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        for module in network.modules():
            if isinstance(module, Spectral):  # its vectors count as constants
                module.eval()
    return training


def sharpen(training: Training) -> bool:
    """Longer queries; whether there are any."""
    found = False
    for name, parameter in training.method.net.named_parameters():
        if any(word in name for word in QUERIES):
            found = True
            with torch.no_grad():
                parameter *= SHARP
    return found


class Probe:
    """The losses of one phase as a function of a shift of its parameters.

    Args:
        training, phase, case, batch: what is evaluated.
        kept: what earlier phases left.
        hold: see ``Held``.
    """

    def __init__(
        self,
        training: Training,
        phase: Phase,
        case: Case,
        batch: Batch,
        kept: dict[str, Tensor],
        hold: Held,
    ) -> None:
        self.phase, self.case, self.batch, self.kept, self.hold = phase, case, batch, kept, hold
        self.modules = list(training.networks().values())
        networks = training.networks()
        for network in networks.values():
            network.requires_grad_(False)
        self.parameters = [p for name in phase.networks for p in networks[name].parameters()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.buffers = [(b, b.clone()) for m in self.modules for b in m.buffers()]
        generator = torch.Generator().manual_seed(2)
        self.direction = [
            torch.randn(p.shape, generator=generator) * p.detach().square().mean().sqrt()
            for p in self.parameters
        ]

    def losses(self, kept: dict[str, Tensor]) -> Losses:
        with torch.no_grad():
            for buffer, value in self.buffers:
                buffer.copy_(value)
        torch.manual_seed(3)
        return self.phase.losses(Step(self.case.index, self.batch, Drawn(2), kept))

    def at(self, shift: float) -> dict[str, float]:
        """The losses ``shift`` along the direction."""
        start = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for parameter, along in zip(self.parameters, self.direction, strict=True):
                parameter += shift * along
        self.hold.again()
        found = {k: v.item() for k, v in self.losses(dict(self.kept)).items()}
        with torch.no_grad():
            for parameter, value in zip(self.parameters, start, strict=True):
                parameter.copy_(value)
        return found

    def gradients(self) -> dict[str, tuple[float, float]]:
        """Of each loss: the derivative along the direction by autograd, and the typical size of
        such derivatives; fills ``kept``."""
        found = {}
        for name, loss in self.losses(self.kept).items():
            grads = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            terms = [
                (g * d).flatten()
                for g, d in zip(grads, self.direction, strict=True)
                if g is not None
            ]
            every = torch.cat(terms) if terms else torch.zeros(1)
            found[name] = every.sum().item(), every.square().sum().sqrt().item()
        return found


def disagreements(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, sharp: bool
) -> dict[str, float]:
    """Of each loss: how far both derivatives are apart, relative to their typical size."""
    training = built(case, folder)
    if sharp and not sharpen(training):
        pytest.skip("no queries")
    batch = scene(_size(training), case)
    training.prepare(batch.label)
    own = [name for name in case.held if hasattr(training, name)]  # held whole
    functions = [name for name in case.held if name not in own]
    hold = Held(functions)
    detach = Tensor.detach

    def detached(self: Tensor) -> Tensor:
        if sys._getframe(1).f_code.co_name in hold.names:
            return hold.value(lambda: detach(self))
        return detach(self)

    monkeypatch.setattr(Tensor, "detach", detached)
    for name, function in case.given.items():
        monkeypatch.setattr(training, name, function)
    for name in own:
        make = getattr(training, name)
        fixed = lambda *args, make=make: hold.value(lambda: make(*args))  # noqa: E731
        monkeypatch.setattr(training, name, fixed)
    apart: dict[str, float] = {}
    kept: dict[str, Tensor] = {}
    for phase in training.phases():
        hold.start()
        probe = Probe(training, phase, case, batch, kept, hold)
        slopes = probe.gradients()
        found = {}
        for width in STEPS:
            after, before = probe.at(width), probe.at(-width)
            for name, (slope, size) in slopes.items():
                difference = (after[name] - before[name]) / (2 * width)
                off = abs(slope - difference) / max(size, 1e-3)
                found[name] = min(off, found.get(name, off))
            if max(found.values(), default=0) < TOLERANCE:
                break
        apart |= {f"{phase.name}: {name}": off for name, off in found.items()}
    return apart


def _size(training: Training) -> tuple[int, int]:
    method: Any = training.method
    return tuple(method.size) if hasattr(method, "size") else (32, 32)


@pytest.mark.parametrize("sharp", [False, True], ids=["plain", "sharp"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in CASES],
)
def test_gradients_are_derivatives(
    name: str, sharp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doubles: None
) -> None:
    apart = disagreements(CASES[name], tmp_path, monkeypatch, sharp)
    assert apart
    assert not {k: v for k, v in apart.items() if not v < TOLERANCE}


def test_every_training_has_a_case() -> None:
    names = []
    for registry in (methods.registry, methods.editors):
        for name in registry.names():
            try:
                registry.get(name).training()
            except Unavailable:
                continue
            names.append(name)
    assert set(names) == {case.method for case in CASES.values()}


def test_a_gradient_that_stops_at_a_bound_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, doubles: None
) -> None:
    """SCAM's token attention once divided by its sum, clamped at that sum's own least value: no
    picture differed, and a training ran away."""
    fill = Tensor.masked_fill

    def clamped(self: Tensor, mask: Tensor, value: float) -> Tensor:
        if value == 1 and sys._getframe(1).f_code.co_name == "tokens_to_pixels":
            return self.clamp_min(1)
        return fill(self, mask, value)

    monkeypatch.setattr(Tensor, "masked_fill", clamped)
    apart = disagreements(CASES["scam"], tmp_path, monkeypatch, sharp=False)
    found = {name for name, off in apart.items() if off > 10 * TOLERANCE}
    assert found == {f"generator: {loss}" for loss in ("gan", "l1", "perceptual")}
