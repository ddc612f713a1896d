"""Parsers: parity with stored outputs of the official networks, resizing laws, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sisbench import segmenters
from sisbench.core import weights
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.fit import fold_batch_norms
from sisbench.core.label_space import LabelSpace
from sisbench.core.resize import resize_bilinear_pil, resize_labels_pil
from sisbench.data.celeba_parts import BISENET_PARTS, compose_parts
from sisbench.methods.seeded import seeded_state
from sisbench.segmenters.bisenet import TO_CELEBAMASK, BiSeNet, BiSeNetFace
from sisbench.segmenters.celebamask_unet import CelebAMaskUNet, UNet
from sisbench.segmenters.mit_ade20k import MITADE20K, NETWORKS
from sisbench.segmenters.mit_ade20k.networks import UPerNet

FIXTURES = Path(__file__).parent / "fixtures" / "segm"
SYNCHRONISED = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")
TINY: dict[str, Any] = {"feature_scale": 16, "input_size": 32}


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FIXTURES / f"{name}.npz") as stored:
        return json.loads((FIXTURES / f"{name}.json").read_text()), dict(stored)


def manifest(name: str) -> dict[str, dict[str, tuple[int, ...]]]:
    modules = json.loads((FIXTURES / f"{name}.manifest.json").read_text())["modules"]
    return {
        module: {k: tuple(v["shape"] if isinstance(v, dict) else v) for k, v in keys.items()}
        for module, keys in modules.items()
    }


def images(stored: np.ndarray) -> Tensor:
    """(B, H, W, 3) or (H, W, 3) -> (B, 3, H, W) uint8."""
    stored = stored[None] if stored.ndim == 3 else stored
    return torch.from_numpy(stored).permute(0, 3, 1, 2)


def seeded(shapes: dict[str, dict[str, tuple[int, ...]]], seed: Any) -> dict[str, dict]:
    return {
        m: seeded_state(s, seed[m] if isinstance(seed, dict) else seed) for m, s in shapes.items()
    }


def tiny_unet(seed: int = 0, **options: Any) -> CelebAMaskUNet:
    parser = segmenters.create("celebamask_unet", "celebamask_hq", **{**TINY, **options})
    assert isinstance(parser, CelebAMaskUNet)
    return parser.load_state(seeded(parser.official_shapes(), seed))


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


# ---- parity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["face256to512", "tensor96x160"])
def test_unet_parity(case: str) -> None:
    meta, arrays = read(f"celebamask_unet.{case}")
    parser: Any = segmenters.create("celebamask_unet", "celebamask_hq", **meta["config"])
    parser.load_state(seeded(manifest("celebamask_unet.19"), meta["weight_seed"]))
    check_faces(parser, arrays, "logits_sub", "label", 1e-5, 1e-4)


@pytest.mark.parametrize("case", ["face256to512", "tensor100x140"])
def test_bisenet_parity(case: str) -> None:
    meta, arrays = read(f"bisenet_face.{case}")
    parser: Any = segmenters.create("bisenet_face", "celebamask_hq", **meta["config"])
    parser.load_state(seeded(manifest("bisenet_face.19"), meta["weight_seed"]))
    check_faces(parser, arrays, "out_sub", "label_celebamask", 2e-5, 2e-4)
    assert tuple(meta["label_lut_bisenet_to_celebamask"]) == TO_CELEBAMASK


def check_faces(
    parser: Any, arrays: dict[str, np.ndarray], logits: str, label: str, atol: float, rtol: float
) -> None:
    x = images(arrays["image"])
    got = parser.logits(x)
    step = -(-got.shape[-1] // arrays[logits].shape[-1])
    np.testing.assert_allclose(got[..., ::step, ::step], arrays[logits], atol=atol, rtol=rtol)
    first, second = got.topk(2, 1).values.unbind(1)
    clear = (first - second).numpy() > 1e-4
    found = parser(x)
    assert found.dtype == torch.int64
    assert tuple(found.shape[1:]) == parser.compare_size(tuple(x.shape[-2:]))
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.numpy()[clear], arrays[label][clear])


def test_unet_training_loss_parity() -> None:
    """The plain network, not yet folded, is the one that was trained."""
    meta, arrays = read("celebamask_unet.train_loss")
    net = UNet()
    shapes = manifest("celebamask_unet.19")["unet"]
    net.load_state_dict(seeded_state(shapes, meta["weight_seed"]))
    logits = net.train()((images(arrays["image"]).float() / 255 - 0.5) / 0.5)
    target = torch.from_numpy(arrays["label"]).long()
    loss = F.cross_entropy(logits, target, ignore_index=250)
    loss.backward()
    assert loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)
    grad = net.final.weight.grad
    assert grad is not None
    np.testing.assert_allclose(grad.flatten(1), arrays["grad_final_weight"], rtol=1e-3, atol=1e-6)
    mean = net.state_dict()["center.conv2.1.running_mean"][::8]
    np.testing.assert_allclose(mean, arrays["running_mean_center"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["r50dilated_ppm.ms3", "r101_upernet.single256", "r101_upernet.ms5_official"]
)
def test_mit_parity(case: str) -> None:
    meta, arrays = read(f"mit_ade20k.{case}")
    parser = segmenters.create("mit_ade20k", "ade20k", **meta["config"])
    assert isinstance(parser, MITADE20K)
    shapes = manifest(f"mit_ade20k.{case.split('.')[0]}")
    parser.load_state(seeded(shapes, meta["weight_seed"]))
    x = images(arrays["image"])
    size = (x.shape[-2], x.shape[-1])
    assert parser.input_sizes(size) == [tuple(v) for v in arrays["input_sizes"].tolist()]
    scores = parser.scores(x)
    step = -(-size[0] // arrays["scores_sub"].shape[-2])
    np.testing.assert_allclose(scores[..., ::step, ::step], arrays["scores_sub"], rtol=1e-3)
    first, second = scores.topk(2, 1).values.unbind(1)
    clear = ((first - second) / first).numpy() > 1e-3
    found = parser(x) if len(parser.short_edges) == 1 else scores.argmax(1) + 1
    expected = np.broadcast_to(arrays["label"], clear.shape)
    np.testing.assert_array_equal(found.numpy()[clear] - 1, expected[clear])


@pytest.mark.parametrize("network", NETWORKS)
def test_mit_takes_every_official_key(network: str) -> None:
    parser = MITADE20K(LabelSpace.named("ade20k"), network=network)
    expected = {
        module: {k: v for k, v in keys.items() if not k.endswith(SYNCHRONISED)}
        for module, keys in manifest(f"mit_ade20k.{network}").items()
    }
    assert parser.official_shapes() == expected


def test_faces_take_every_official_key() -> None:
    faces = LabelSpace.named("celebamask_hq")
    assert CelebAMaskUNet(faces).official_shapes() == manifest("celebamask_unet.19")
    assert BiSeNetFace(faces).official_shapes() == manifest("bisenet_face.19")


# ---- laws -------------------------------------------------------------------------------------


def test_upernet_pooling_order_does_not_matter() -> None:
    """Convolve-then-enlarge equals the official enlarge-then-convolve."""
    torch.manual_seed(0)
    net = UPerNet().eval()
    for module in net.ppm_conv.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.bias, -1, 1)
    last = torch.randn(2, 2048, 5, 7)
    with torch.no_grad():
        official = [
            F.relu(
                conv(
                    F.interpolate(
                        F.adaptive_avg_pool2d(last, s), (5, 7), mode="bilinear", align_corners=False
                    )
                )
            )
            for s, conv in zip((1, 2, 3, 6), net.ppm_conv)
        ]
        expected = F.relu(net.ppm_last_conv(torch.cat([last, *official], 1)))
        torch.testing.assert_close(net.pyramid(last), expected, atol=1e-5, rtol=1e-4)


def test_folding_is_exact_to_rounding() -> None:
    net = BiSeNet().eval()
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict(seeded_state(shapes, 3))
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        fold_batch_norms(net)
        after = net(x)
    assert not [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)


def test_batch_size_does_not_matter() -> None:
    parser, x = tiny_unet(), noise(3, 3, 48, 40)
    one_by_one = torch.cat([parser(x[i : i + 1]) for i in range(3)])
    assert torch.equal(parser(x), one_by_one)
    assert parser(x[:0]).shape == (0, 32, 32)


def test_mit_input_rule() -> None:
    parser = MITADE20K(LabelSpace.named("ade20k"))
    sides = [320, 384, 480, 544, 608]
    assert parser.input_sizes((256, 256)) == [(s, s) for s in sides]
    dilated = MITADE20K(LabelSpace.named("ade20k"), network="r50dilated_ppm")
    assert dilated.input_sizes((256, 256)) == [(s, s) for s in (304, 376, 456, 528, 600)]
    assert dilated.input_sizes((100, 800))[0] == (128, 1000)  # the long edge binds
    assert parser.compare_size((256, 170)) == (256, 170)


@pytest.mark.parametrize("seed", range(3))
def test_nearest_is_pillows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for h, w, a, b in rng.integers(1, 200, (60, 4)).tolist():
        label = rng.integers(0, 151, (h, w)).astype(np.int32)
        expected = np.asarray(Image.fromarray(label).resize((b, a), Image.Resampling.NEAREST))
        found = resize_labels_pil(torch.from_numpy(label)[None].long(), (a, b))[0]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((256, 256), (512, 512)),
        ((256, 256), (320, 320)),
        ((512, 512), (160, 160)),
        ((200, 200), (131, 131)),
        ((96, 64), (256, 192)),
        ((96, 64), (60, 40)),
        ((40, 90), (77, 33)),
        ((7, 1), (20, 30)),
    ],
)
def test_bilinear_is_pillows(size: tuple[int, int], out: tuple[int, int]) -> None:
    for picture in (noise(1, 3, *size), (noise(1, 3, *size) > 127).byte() * 255):
        as_array = picture[0].permute(1, 2, 0).numpy()
        pillow = Image.fromarray(as_array).resize(out[::-1], Image.Resampling.BILINEAR)
        found = resize_bilinear_pil(picture, out)[0].permute(1, 2, 0)
        np.testing.assert_array_equal(found, np.asarray(pillow))


def test_label_resize_parity() -> None:
    _, arrays = read("label_resize.half")
    truth = torch.from_numpy(arrays["gt"])
    found = resize_labels_pil(truth, (48, 48))
    np.testing.assert_array_equal(found, arrays["gt_pil_nearest"])
    assert (found.numpy() != arrays["gt_torch_nearest"]).mean() > 0.2  # the other rule is another


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic_align"])
def test_unet_resize_options(resize: str) -> None:
    x = noise(1, 3, 16, 16)
    parser = tiny_unet(resize=resize)
    if resize == "bicubic_align":
        x = x.float() / 127.5 - 1
        big = F.interpolate(x, (32, 32), mode="bicubic", align_corners=True)
        expected = parser.loaded()["unet"](big)
        found = parser.logits(noise(1, 3, 16, 16))
    else:
        bring = resize_labels_pil if resize == "nearest" else resize_bilinear_pil
        expected, found = parser.logits(bring(x, (32, 32))), parser.logits(x)
    torch.testing.assert_close(found, expected)


def test_compose_parts_parity() -> None:
    meta, arrays = read("celeba_parts.compose")
    height, width = meta["size"]
    masks = np.unpackbits(arrays["masks_packed"], axis=1, count=height * width)
    parts = dict(zip(meta["parts"], masks.reshape(-1, height, width).astype(bool)))
    parts = {k: v for k, v in parts.items() if k not in meta["absent_parts"]}
    shuffled = dict(reversed(parts.items()))
    size = (height, width)
    for given in (parts, shuffled):
        np.testing.assert_array_equal(compose_parts(given, size), arrays["label_celebamask"])
    found = compose_parts(parts, size, BISENET_PARTS)
    np.testing.assert_array_equal(found, arrays["label_bisenet"])
    with pytest.raises(UserError, match="must be"):
        compose_parts(parts, (8, 8))
    with pytest.raises(UserError, match="beard"):
        compose_parts({"beard": np.ones(size, bool)}, size)


# ---- weights ----------------------------------------------------------------------------------


def test_files_folders_and_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = tiny_unet()
    state = seeded(parser.official_shapes(), 0)["unet"]
    wrapped = {f"module.{k}": v for k, v in state.items() if not k.endswith("_tracked")}
    torch.save({"state_dict": wrapped}, tmp_path / "model.pth")
    x = noise(1, 3, 32, 32)
    for source in (tmp_path, tmp_path / "model.pth", None):
        monkeypatch.setattr(weights, "path", lambda name: tmp_path / "model.pth")
        other = CelebAMaskUNet(LabelSpace.named("celebamask_hq"), **TINY).load(source)
        assert torch.equal(other(x), parser(x))
        assert other.weights_info["source"] == "official"
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors")
    other.load(tmp_path / "model.safetensors")
    assert torch.equal(other(x), parser(x))


@pytest.mark.parametrize("network", NETWORKS)
def test_every_file_is_registered(network: str) -> None:
    space = LabelSpace.named("ade20k")
    with torch.device("meta"):
        parts = MITADE20K(space, network=network).parts()
    for part in parts.values():
        assert weights.get(part.registered).file.endswith(part.pattern.rsplit("*", 1)[-1])
    for name in ("celebamask_unet", "bisenet_face"):
        assert weights.get(name).file.endswith(".pth")


def test_absent_and_wrong_files(tmp_path: Path) -> None:
    parser = segmenters.create("celebamask_unet", "celebamask_hq", **TINY)
    with pytest.raises(Unavailable, match="nowhere"):
        parser.load(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="must hold one file"):
        parser.load(tmp_path)
    (tmp_path / "model.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="a plain text"):
        parser.load(tmp_path)
    torch.save({"unet": Path("x")}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="no state dict"):
        parser.load(tmp_path / "code.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no state dict"):
        parser.load(tmp_path / "list.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "half.pth")
    with pytest.raises(UserError, match="folder"):
        segmenters.create("mit_ade20k", "ade20k").load(tmp_path / "half.pth")


def test_misfits_are_explained() -> None:
    parser = tiny_unet()
    state = seeded(parser.official_shapes(), 0)["unet"]

    def refused(changed: dict[str, Tensor], match: str) -> None:
        with pytest.raises(UserError, match=match):
            parser.load_state({"unet": changed})

    refused({k: v for k, v in state.items() if k != "final.bias"}, "missing .1.:\n    final.bias")
    refused({**state, "extra.weight": torch.zeros(1)}, "unexpected .1.:\n    extra.weight")
    less = {k: v[:8] if k.startswith("final") else v for k, v in state.items()}
    refused(less, "another number of classes")
    wide = seeded(CelebAMaskUNet(parser.space).official_shapes(), 0)["unet"]
    refused(wide, "another width")
    refused({f"net.{k}": v for k, v in state.items()}, "prefix 'net.'")
    refused({"some.weight": torch.zeros(2)}, "another network")
    with pytest.raises(UserError, match="takes the modules unet"):
        parser.load_state({"bisenet": state})
    assert torch.equal(
        parser.load_state(state)(noise(1, 3, 32, 32)), tiny_unet()(noise(1, 3, 32, 32))
    )


def test_fingerprint_follows_weights_and_options() -> None:
    prints = {
        tiny_unet().fingerprint(),
        tiny_unet(seed=1).fingerprint(),
        tiny_unet(resize="bilinear").fingerprint(),
        tiny_unet(input_size=48).fingerprint(),
    }
    assert len(prints) == 4
    assert tiny_unet().fingerprint() in prints


# ---- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.rand(1, 3, 32, 32), "8-bit"),
        (np.zeros((1, 3, 32, 32), np.uint8), "ndarray"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"\(B, 3, H, W\)"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), r"\(B, 3, H, W\)"),
    ],
)
def test_bad_images(bad: Any, match: str) -> None:
    with pytest.raises(UserError, match=match):
        tiny_unet()(bad)


def test_no_weights_yet() -> None:
    with pytest.raises(UserError, match="no weights yet"):
        segmenters.create("bisenet_face", "celebamask_hq")(noise(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "space", "options", "match"),
    [
        ("celebamask_unet", "ade20k", {}, "n_classes=151"),
        ("celebamask_unet", "deepfashion", {"n_classes": 19}, "19 classes"),
        ("celebamask_unet", "celebamask_hq", {"input_size": 100}, "16 must divide"),
        ("celebamask_unet", "celebamask_hq", {"input_size": "big"}, "a size is"),
        ("celebamask_unet", "celebamask_hq", {"resize": "area"}, "resize is one of"),
        ("celebamask_unet", "celebamask_hq", {"is_deconv": False}, "'is_deconv' is True"),
        ("celebamask_unet", "celebamask_hq", {"inputsize": 512}, "input_size"),
        ("bisenet_face", "ade20k", {}, "not into 'ade20k'"),
        ("bisenet_face", "celebamask_hq", {"n_classes": 11}, "'n_classes' is 19"),
        ("mit_ade20k", "celebamask_hq", {}, "not into 'celebamask_hq'"),
        ("mit_ade20k", "ade20k", {"network": "r101"}, "r101_upernet"),
        ("mit_ade20k", "ade20k", {"encoder": "resnet18"}, "encoder=resnet18"),
        ("mit_ade20k", "ade20k", {"name": "r50_upernet", "padding_constant": 8}, "no network with"),
        ("mit_ade20k", "ade20k", {"imgSizes": [0]}, "are pixels"),
        ("bisnet_face", "celebamask_hq", {}, "bisenet_face"),
    ],
)
def test_bad_options(name: str, space: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        segmenters.create(name, space, **options)


def test_own_classes() -> None:
    parser = segmenters.create("celebamask_unet", "deepfashion", n_classes=8, **TINY)
    assert isinstance(parser, CelebAMaskUNet)
    parser.load_state(seeded(parser.official_shapes(), 0))
    assert int(parser(noise(1, 3, 40, 30)).max()) < 8


# ---- SegFormer --------------------------------------------------------------------------------

FACES = LabelSpace.named("celebamask_hq")


def save_segformer(folder: Path, names: tuple[str, ...], with_head: bool = True) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
    )
    net = transformers.SegformerForSemanticSegmentation(config)
    (net if with_head else net.segformer).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.SegformerImageProcessor(size=size).save_pretrained(folder)
    return folder


def test_segformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = save_segformer(tmp_path, FACES.classes)
    parser = segmenters.create("segformer", FACES, model=str(folder)).load()
    x = noise(2, 3, 96, 80)
    found = parser(x)
    assert found.shape == (2, 512, 512)
    assert (parser(x[1:]) == found[1:]).float().mean() > 0.999  # ties of a random network
    small = resize_bilinear_pil(x, (64, 64)).float() / 255
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        logits = parser.net(pixel_values=(small - mean) / std).logits  # type: ignore[attr-defined]
    expected = F.interpolate(logits, (512, 512), mode="bilinear").argmax(1)
    assert (found == expected).float().mean() > 0.99
    reverse = {n: len(FACES) - 1 - i for i, n in enumerate(FACES.classes)}
    turned = segmenters.create("segformer", FACES, model=str(folder), mapping=reverse).load()
    assert torch.equal(turned(x), len(FACES) - 1 - found)
    assert turned.fingerprint() != parser.fingerprint()


def test_segformer_labels(tmp_path: Path) -> None:
    ade = LabelSpace.named("ade20k")
    folder = save_segformer(tmp_path / "ade", ade.classes[1:])
    parser = segmenters.create("segformer", ade, model=str(folder)).load()
    found = parser(noise(1, 3, 40, 56))
    assert found.shape == (1, 40, 56)
    assert int(found.min()) >= 1
    wrong = save_segformer(tmp_path / "wrong", FACES.classes[::-1])
    parser = segmenters.create("segformer", FACES, model=str(wrong))
    with pytest.raises(UserError, match="mapping"):
        parser.load()
    file = tmp_path / "labels.yaml"
    file.write_text("\n".join(f"{n}: {n}" for n in FACES.classes))
    segmenters.create("segformer", FACES, model=str(wrong), mapping=str(file)).load()
    short = segmenters.create("segformer", FACES, model=str(wrong), mapping={"hair": "hair"})
    with pytest.raises(UserError, match="leaves out"):
        short.load()


def test_segformer_refuses(tmp_path: Path) -> None:
    parser = segmenters.create("segformer", FACES, model=str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="cannot load"):
        parser.load()
    headless = save_segformer(tmp_path / "headless", FACES.classes, with_head=False)
    with pytest.raises(UserError, match="lacks weights"):
        parser.load(headless)
    with pytest.raises(UserError, match="no weights yet"):
        segmenters.create("segformer", FACES)(noise(1, 3, 8, 8))
    with pytest.raises(UserError, match="no default model"):
        segmenters.create("segformer", "deepfashion")
    with pytest.raises(UserError, match="no mapping file"):
        segmenters.create("segformer", FACES, mapping=str(tmp_path / "absent.yaml"))
