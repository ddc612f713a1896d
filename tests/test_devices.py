"""Every method, feature network and parser keeps its tensors in one place when that is not the
CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from metrics_helpers import image_batch, noise_images, seeded
from pretended_device import pretended

from sisbench import methods, metrics, segmenters
from sisbench.config import RunConfig
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.diagnose.conformance import Broken, _Kit, check_batch
from sisbench.methods.seeded import seeded_state
from sisbench.pipeline import run_all
from sisbench.segmenters.identity import create_identity

SIZE = 64
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "spade": ("spade", {"ngf": 4, "nhidden": 16, "crop_size": SIZE, "encoder_size": SIZE}),
    "spade-sampled": ("spade", {"ngf": 4, "nhidden": 16, "crop_size": SIZE, "use_vae": False}),
    "sean": (
        "sean",
        {
            "ngf": 4,
            "nhidden": 16,
            "crop_size": SIZE,
            "style_length": 16,
            "style_encoder_ngf": 4,
            "num_fc_mu": 19,
        },
    ),
    "inade": ("inade", {"ngf": 4, "crop_size": SIZE}),
    "v-inade": ("v-inade", {"ngf": 4, "crop_size": SIZE}),
    "scam": ("scam", tiny_networks.SCAM),
    "sca-dm": ("sca-dm", tiny_networks.SCA_DM),
    "ca2sis": ("ca2sis", {"resolution": SIZE, "style_dim": 8, "style_enc_feat_dim": 1}),
    "oasis": ("oasis", {"channels_G": 2, "crop_size": SIZE}),
    "oasis-by-class": ("oasis", {"channels_G": 2, "crop_size": SIZE, "noise_per": "class"}),
    "sc-gan": ("sc-gan", {"ngf": 4, "nff": 4, "nrf": 4, "crop_size": SIZE}),
    "sc-gan-sampled": ("sc-gan", {"ngf": 4, "nrf": 4, "crop_size": SIZE, "pyr_pos": False}),
    "maskgan": (
        "maskgan",
        {"ngf": 4, "n_downsample_global": 2, "size": (SIZE, SIZE), "demo_labels": True},
    ),
}
CLAUSES = ("holes", "every_task")


@pytest.fixture(scope="module")
def there() -> Iterator[torch.device]:
    with pretended() as device:
        yield device


def test_the_device_refuses_a_mixture(there: torch.device) -> None:
    x = torch.ones(2, 3, device=there)
    assert x.device.type == "pretended"
    assert (x + 1).sum().item() == 12
    assert torch.equal((x * torch.tensor(2.0)).cpu(), torch.full((2, 3), 2.0))
    with pytest.raises(RuntimeError, match="on the device and on the CPU"):
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="on the device and on the CPU"):
        torch.nn.Linear(3, 2)(x)


@pytest.mark.parametrize("case", METHODS)
def test_methods(case: str, there: torch.device) -> None:
    name, options = METHODS[case]
    method = methods.create(name, "celebamask_hq", **options)
    method.load("celebamask_hq", "seeded:0", str(there))
    batch = check_batch(method.space, method.size)
    kit = _Kit(method, batch.to(there))
    for clause in CLAUSES:
        try:
            getattr(kit, clause)()
        except Broken as error:
            pytest.fail(f"{clause}: {error}")
    image = kit._any(kit.batch, kit.noise)
    assert image.device == there
    method.to("cpu")
    again = kit._any(batch, Noise(batch.ids, 0))
    assert torch.allclose(image.cpu(), again, atol=1e-4)


def test_a_run(there: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generation and scoring of a run, with the engine's device set to the pretended one."""
    monkeypatch.setattr("sisbench.core.devices.pick_device", lambda wanted: wanted)
    config = validated(
        RunConfig,
        {
            "name": "there",
            "output": str(tmp_path / "run"),
            "methods": [{"name": "sean", "weights": "bundled:toy-sean"}],
            "datasets": [{"name": "toyfaces", "split": "test", "size": 64, "n": 3}],
            "tasks": ["reconstruct", "transfer", {"shape_transfer": ["hair"]}],
            "parsers": {"celebamask_hq": "toy"},
            "engine": {"device": str(there), "batch_size": 2},
        },
        "test",
    )
    run_all(config, Progress(quiet=True))
    scores, _ = RunStore(tmp_path / "run").scores()
    found = {(s.task, s.metric) for s in scores if s.value is not None and s.method == "sean"}
    wanted = {("reconstruct", "psnr"), ("transfer", "miou"), ("shape_transfer[hair]", "miou")}
    assert found >= wanted


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("semantic-vae", {"latent": 4, "mask_size": 16}),
        ("frankenmask", {"ndf": 2, "ngf": 2, "latent": 16, "layers": 1}),
    ],
)
def test_layout_editors(name: str, options: dict[str, Any], there: torch.device) -> None:
    space = LabelSpace("test", tuple(f"c{i}" for i in range(5)))
    editor = methods.create_editor(name, space, **options)
    editor.load(space, "seeded:0", str(there))
    batch = check_batch(space, (32, 32)).to(there)
    noise = Noise(batch.ids, 0)
    edits = {
        "reconstruct": lambda: editor.reconstruct(batch, noise),
        "generate": lambda: editor.generate(batch, noise),
        "perturb": lambda: editor.perturb(batch, noise, [1]),
        "swap": lambda: editor.swap(batch, batch, noise, [1]),
        "interpolate": lambda: editor.interpolate(batch, batch, noise, 0.5),
    }
    for edit in editor.can:
        assert edits[edit]().device == there


# ---- what scores -------------------------------------------------------------------------------


def weights(module: torch.nn.Module, path: Path) -> Path:
    torch.save(seeded(module), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("preprocess", ["tf1", "clean", "pytorch_fid"])
def test_inception(preprocess: str, there: torch.device, folder: Path) -> None:
    from sisbench.metrics.inception import trunk

    file = folder / "inception.pth"
    if not file.is_file():
        weights(trunk(), file)
    batch = image_batch(noise_images(2, SIZE, SIZE, 0))
    found = [
        metrics.create_maker("inception", weights=file, preprocess=preprocess, device=d).rows(batch)
        for d in (str(there), "cpu")
    ]
    assert np.allclose(found[0]["features"], found[1]["features"], atol=1e-4)


def test_lpips(there: torch.device, folder: Path) -> None:
    from torchvision import models

    features = torch.nn.ModuleDict({"features": models.alexnet(weights=None).features})
    file = weights(features, folder / "alex.pth")
    images = noise_images(4, SIZE, SIZE, 1)
    batch = image_batch(images, images.flip(0), siblings=images.flip(0)[:, None])
    for name in ("lpips-alex", "lpips-embedding"):
        found = [
            metrics.create_maker(name, weights=file, device=d).rows(batch)
            for d in (str(there), "cpu")
        ]
        for column, values in found[0].items():
            assert np.allclose(values, found[1][column], atol=1e-5)


PARSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "celebamask_unet": ("celebamask_hq", {"input_size": SIZE, "feature_scale": 16}),
    "bisenet_face": ("celebamask_hq", {"input_size": SIZE}),
    "mit_ade20k": ("ade20k", {"imgSizes": [32, 64]}),
    "toy": ("celebamask_hq", {}),
}


@pytest.mark.parametrize("name", PARSERS)
def test_parsers(name: str, there: torch.device) -> None:
    space, options = PARSERS[name]
    parser: Any = segmenters.create(name, space, **options)
    if name == "toy":
        parser.load(None, str(there))
    else:
        shapes = parser.official_shapes()
        parser.load_state({m: seeded_state(s, 0) for m, s in shapes.items()}).to(there)
    label = torch.zeros(2, SIZE, SIZE, dtype=torch.int64)
    batch = image_batch(noise_images(2, SIZE, SIZE, 2), label=label, space=parser.space)
    rows = metrics.create_maker("confusion", parser=parser).rows(batch)
    assert (rows["confusion"].sum((1, 2)) + rows["ignored"].sum(1) > 0).all()


@pytest.mark.parametrize("name", ["reid", "facenet"])
def test_identity(name: str, there: torch.device) -> None:
    if name == "facenet":
        pytest.importorskip("facenet_pytorch")
    network = create_identity(name)
    states = {m: seeded_state(s, 0) for m, s in network.official_shapes().items()}
    network.load_state(states).to(there)
    images, label = noise_images(2, SIZE, SIZE, 3), torch.ones(2, SIZE, SIZE, dtype=torch.int64)
    fields = {"reference": images, "reference_label": label, "label": label, "target_label": label}
    batch = image_batch(images, images, photograph=images, **fields)
    maker = "reid" if name == "reid" else "identity"
    rows = metrics.create_maker(maker, network=network).rows(batch)
    assert all(len(column) == 2 for column in rows.values())
