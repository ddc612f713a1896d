"""Pix2PixHD against the official outputs, the plain form of the network, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity import FIXTURES, Case, every, shapes_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.config import RunConfig
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise, ZeroNoise
from sisbench.methods.base import Layout, Method, why_not
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.labels import instance_edges, one_hot
from sisbench.methods.layers.winograd import ReflectConv3
from sisbench.methods.pix2pixhd import Clusters, fit_clusters
from sisbench.methods.pix2pixhd.network import LocalGenerator, ResidualBlock, down, up
from sisbench.methods.seeded import seeded_state
from sisbench.run.plan import make_plan

ATOL = 1e-4
TINY = {"ngf": 4, "nef": 2, "crop_size": 64, "n_blocks_global": 2}


def space(count: int) -> LabelSpace:
    return LabelSpace("test", tuple(f"c{i}" for i in range(count)))


def states(method: Method, seed: int = 3) -> dict[str, dict[str, Tensor]]:
    return {m: seeded_state(k.official_shapes(), seed) for m, k in method.key_maps().items()}


def tiny(count: int = 5, **options: object) -> Method:
    method = methods.create("pix2pixhd", space(count), **{**TINY, **options})
    return method.load_state(states(method))


def batch_of(cells: tuple[int, ...], count: int = 5, instances: bool = False) -> Batch:
    """One sample for each cell size, from outlines everywhere (1) to large plain regions."""
    generator = torch.Generator().manual_seed(1)
    labels = []
    for cell in cells:
        coarse = torch.randint(0, count, (64 // cell, 64 // cell), generator=generator)
        labels.append(coarse.repeat_interleave(cell, 0).repeat_interleave(cell, 1))
    label = torch.stack(labels)
    image = torch.rand(len(cells), 3, 64, 64, generator=generator) * 2 - 1
    halves = torch.arange(64).expand(64, 64) // 32
    instance = label * 1000 + halves if instances else None
    return Batch(tuple(f"s{i}" for i in range(len(cells))), image, label, instance, space(count))


def outputs(method: Method, names: list[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name in names:
        module = method.net.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
    return found


def active(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x))


# ---- the official outputs -----------------------------------------------------------------------


@pytest.mark.slow
def test_official_size_matches_within_its_operations() -> None:
    case, at = Case.read("spade/pix2pixhd.celebamask19_feat"), every(1, 1, 4, 4)
    method, batch = case.method(), case.batch()
    layers = ["netE", "netG.trunk.down.2", "netG.trunk.blocks.0"]
    found = outputs(method, layers)
    with FlopCounterMode(display=False) as counter:
        out = method.reconstruct(batch, ZeroNoise())
    assert case.off_by("out", out, *at) < ATOL
    assert case.off_by("feat_raw", found["netE"], *at) < ATOL
    assert case.off_by("down_conv3", found["netG.trunk.down.2"], *every(1, 16, 4, 4)) < ATOL
    assert case.off_by("resblock_0", found["netG.trunk.blocks.0"], *every(1, 16, 2, 2)) < ATOL
    with torch.inference_mode():
        style = method.encode_style(batch)
        assert case.off_by("feat", style.painted(method.encode_layout(batch)), *at) < ATOL
    out = method.transfer(batch, case.batch("ref_label", "ref_image"), ZeroNoise())
    assert case.off_by("out_transfer", out, *at) < ATOL
    assert counter.get_total_flops() / 2e9 <= 35.4  # GMAC; the plain form takes 59.2


def test_instances_match() -> None:
    case, at = Case.read("spade/pix2pixhd.instances"), every(1, 1, 2, 2)
    method, batch = case.method(), case.batch()
    stages = {
        "first": ("netG.first", every(1, 4, 4, 4)),
        "down": ("netG.trunk.down.3", every(1, 8)),
        "res0": ("netG.trunk.blocks.0", every(1, 8)),
        "up0": ("netG.trunk.up.0", every(1, 8)),
    }
    found = outputs(method, ["netE", *(name for name, _ in stages.values())])
    assert case.off_by("out", method.reconstruct(batch, ZeroNoise()), *at) < ATOL
    assert case.off_by("encoder_map", found["netE"], *at) < ATOL
    for key, (name, step) in stages.items():
        got = found[name] if key == "res0" else active(found[name])
        assert case.off_by(f"act_{key}", got, *step) < ATOL, key
    with torch.inference_mode():
        style = method.encode_style(batch)
        assert case.off_by("pooled", style.painted(method.encode_layout(batch)), *at) < ATOL
    assert case.off_by("feature_rows", method.feature_rows(batch).float()) < ATOL


def test_sampling_from_clusters_matches(tmp_path: Path) -> None:
    """The official choice of a centre for each id, given as the quantiles that choose it."""
    case = Case.read("spade/pix2pixhd.instances")
    count = torch.from_numpy(case.arrays["center_count"]).long()
    path = tmp_path / "clusters.npz"
    Clusters(torch.from_numpy(case.arrays["centers"]), count).save(path)
    method, batch = case.method(clusters=str(path)), case.batch()
    values = {}
    for i, kind, chosen in case.arrays["cluster_index"].tolist():
        quantile = torch.tensor((chosen + 0.5) / max(int(count[kind]), 1))
        values[f"cluster{i}"] = torch.special.ndtri(quantile.clamp(0.01, 0.99)).expand(2, 1)
    out = method.sample(batch, GivenNoise(values))
    assert case.off_by("out_clusters", out, *every(1, 1, 2, 2)) < ATOL


class _Alone(nn.Module):
    """A stage under the names of its fixture."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.add_module("0", conv)


@torch.inference_mode()
def test_blocks_and_the_two_stage_generator_match() -> None:
    case = Case.read("spade/pix2pixhd.blocks")
    x = torch.from_numpy(case.arrays["x"]).float()
    block = nn.ModuleDict({"B": ResidualBlock(16)}).eval()
    keys = KeyMap(block)
    block["B"].map_keys(keys, "B", "B")
    shapes = {k.removeprefix("B."): s for k, s in keys.official_shapes().items()}
    keys.load({f"B.{k}": v for k, v in case.weights("res", shapes).items()}, "res")
    assert case.off_by("res", block["B"](x), *every(1, 2)) < ATOL
    for name, conv in (("down", down(16, 32)), ("up", up(16, 8))):
        stage = _Alone(conv)
        shapes = {k: tuple(v.shape) for k, v in stage.state_dict().items()}
        stage.load_state_dict(case.weights(name, shapes))
        assert case.off_by(name, active(conv(x)), *every(1, 2)) < ATOL, name
    local = LocalGenerator(6, 1, 4, 3, 2, 3).eval()
    keys = KeyMap(local)
    local.map_keys(keys)
    keys.load(case.weights("local", keys.official_shapes()), "local")
    label, instance = (torch.from_numpy(case.arrays[k]).long() for k in ("label", "instance"))
    found: list[Tensor] = []
    local.trunk.register_forward_hook(lambda _m, _i, out: found.append(out))
    out = local(label, instance_edges(instance))
    assert case.off_by("local_global_features", found[0], *every(1, 1, 2, 2)) < ATOL
    assert case.off_by("local_out", out) < ATOL


def test_key_layouts_are_the_official_ones() -> None:
    for where, manifest in (("celebamask_hq", "celebamask19_feat"), ("ade20k", "ade151_feat")):
        with torch.device("meta"):
            method = methods.create("pix2pixhd", where)
        maps = method.key_maps()
        assert set(maps) == {"netG", "netE"}
        for module, keys in maps.items():
            assert keys.official_shapes() == shapes_of(f"spade/pix2pixhd.{manifest}", module)


def test_configurations_follow_the_label_space() -> None:
    with torch.device("meta"):
        city = methods.create("pix2pixhd", LabelSpace("cityscapes", space(35).classes))
        fashion = methods.create("pix2pixhd", "deepfashion")
    assert (city.size, city.semantics.channels, city.label_feat) == ((256, 512), 36, False)
    assert (fashion.size, fashion.semantics.channels, fashion.label_feat) == ((256, 256), 8, True)


# ---- laws ---------------------------------------------------------------------------------------


def plain(w: dict[str, Tensor], x: Tensor, steps: int, blocks: int) -> Tensor:
    """The global generator, or the encoder (no blocks), layer by layer."""

    def conv(at: str, x: Tensor, pad: int = 0, **how: int) -> Tensor:
        x = F.pad(x, (pad,) * 4, mode="reflect")
        return F.conv2d(x, w[f"{at}.weight"], w[f"{at}.bias"], **how)

    x, at = active(conv("model.1", x, 3)), 4
    for _ in range(steps):
        x, at = active(conv(f"model.{at}", x, stride=2, padding=1)), at + 3
    for _ in range(blocks):
        y = active(conv(f"model.{at}.conv_block.1", x, 1))
        x, at = x + F.instance_norm(conv(f"model.{at}.conv_block.5", y, 1)), at + 1
    for _ in range(steps):
        name = f"model.{at}"
        y = F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], 2, 1, 1)
        x, at = active(y), at + 3
    return torch.tanh(conv(f"model.{at + 1}", x, 3))


@pytest.mark.parametrize("cell", [1, 8, 64])
@pytest.mark.parametrize("instances", [False, True])
def test_equals_the_plain_form(cell: int, instances: bool) -> None:
    """Also with holes, which have neither class nor features."""
    method = tiny(no_instance=not instances)
    batch = batch_of((cell, 16), instances=instances)
    label = batch.label.clone()
    label[:, 12:30, 5:33] = -1
    layout = Layout(label, torch.ones(2, 5, dtype=torch.bool), batch.instance)
    weights = states(method)
    with torch.inference_mode():
        out = method.render(layout, method.encode_style(batch), ZeroNoise())
        features = plain(weights["netE"], batch.image, 4, 0)
    planes = one_hot(label, 5)
    painted = torch.zeros_like(features)
    for i in range(2):
        for c in range(5):
            there = batch.label[i] == c
            if there.any():
                painted[i][:, label[i] == c] = features[i][:, there].mean(1)[:, None]
    parts = [planes, painted]
    if instances:
        parts.insert(1, instance_edges(batch.instance))
    expected = plain(weights["netG"], torch.cat(parts, 1), 4, 2)
    torch.testing.assert_close(out, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("size", [(6, 10), (5, 7), (2, 3), (16, 16)])
def test_the_folded_convolution_equals_the_plain_one(size: tuple[int, int]) -> None:
    conv = ReflectConv3(24, 40).eval()
    x = torch.randn(3, 24, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = conv(x)
        conv.fold()
        assert conv.folded is not None
        torch.testing.assert_close(conv(x), expected, atol=2e-6, rtol=1e-5)
    assert "folded" not in conv.state_dict()
    assert conv.train().folded is None  # weights that may change are not kept


def test_a_sample_does_not_depend_on_its_batch() -> None:
    for instances in (False, True):
        method = tiny(no_instance=not instances)
        batch = batch_of((32, 1, 16), instances=instances)
        together = method.reconstruct(batch, ZeroNoise())
        for i in range(3):
            alone = method.reconstruct(batch[i : i + 1], ZeroNoise())
            torch.testing.assert_close(alone, together[i : i + 1], atol=1e-5, rtol=0)


def test_instances_keep_their_own_features_and_follow_a_swap_of_their_class() -> None:
    method = tiny(no_instance=False)
    batch, other = batch_of((64,), instances=True), batch_of((16,), instances=True)
    style, reference = method.encode_style(batch), method.encode_style(other)
    layout = method.encode_layout(batch)
    left, right = (style.painted(layout)[0, :, 0, x] for x in (0, 63))
    assert not torch.equal(left, right)
    kind = int(batch.label[0, 0, 0])
    swapped = style.swap(reference, [kind]).painted(layout)
    torch.testing.assert_close(
        swapped, reference.codes[0, kind][None, :, None, None].expand_as(swapped)
    )
    kept = style.swap(reference, [(kind + 1) % 5]).painted(layout)
    assert torch.equal(kept, style.painted(layout))
    moved = style.lerp(reference, 0.5, [kind]).painted(layout)[0, :, 0, 0]
    torch.testing.assert_close(moved, (left + reference.codes[0, kind]) / 2)


def test_clusters_are_fitted_saved_and_sampled(tmp_path: Path) -> None:
    method, batch = tiny(), batch_of((32, 16))
    rows = method.feature_rows(batch)
    assert rows.shape[1] == 4 + 3
    clusters = fit_clusters(rows[rows[:, 1] != 2], 5, n=2)
    assert clusters.count[2] == 0
    assert clusters.count.max() == 2
    path = tmp_path / "clusters.npz"
    clusters.save(path)
    sampling = tiny(clusters=str(path))
    assert {"sample", "mixed"} <= sampling.can
    noise = Noise(batch.ids, seed=4)
    style = sampling.sample_style(batch, noise)
    assert style.unclustered.tolist() == [int((batch.label[i] == 2).any()) for i in range(2)]
    assert not style.codes[:, 2].any()
    for i in range(2):
        for c in set(batch.label[i].unique().tolist()) - {2}:
            own = clusters.centers[c, : clusters.count[c]]
            assert (own - style.codes[i, c]).abs().amax(1).min() < 1e-6
    again = sampling.sample(batch, Noise(batch.ids, seed=5))
    assert not torch.equal(sampling.sample(batch, noise), again)
    one = sampling.sample(batch[1:], Noise(batch.ids[1:], seed=5))
    torch.testing.assert_close(one, again[1:], atol=1e-5, rtol=0)


def test_another_file_of_centres_gives_other_cells(tmp_path: Path) -> None:
    """The key of a cell holds the file's content, not its name."""
    keys = []
    for k in range(2):
        path = tmp_path / "clusters.npz"
        Clusters(torch.full((19, 1, 3), float(k)), torch.ones(19).long()).save(path)
        config = RunConfig.model_validate(
            {
                "methods": [
                    {"name": "pix2pixhd", "weights": "seeded:0", "options": {"clusters": str(path)}}
                ],
                "datasets": [{"name": "toyfaces", "split": "test", "size": 64, "n": 2}],
                "tasks": ["sample"],
                "name": "run",
                "output": str(tmp_path / "run"),
            }
        )
        keys.append(make_plan(config).cells[0].key)
    assert keys[0] != keys[1]


def test_small_regions_are_not_clustered() -> None:
    row = [0, 1, 1, 0.1, 0.2, 0.3]
    rows = torch.tensor([[*row, 0.5], [*row, 0.6]])
    assert fit_clusters(rows[:1], 2).count.tolist() == [0, 0]
    assert fit_clusters(rows, 2).count.tolist() == [0, 1]


def test_gradients_flow() -> None:
    method = tiny()
    net, batch = method.net.train().requires_grad_(True), batch_of((1, 16))
    method.render(
        method.encode_layout(batch), method.encode_style(batch), ZeroNoise()
    ).square().mean().backward()
    # a bias before an instance norm has no effect, hence no gradient but rounding
    assert not [k for k, p in net.named_parameters() if p.grad is None]
    assert not [k for k, p in net.named_parameters() if k.endswith("weight") and not p.grad.any()]


def test_what_a_configuration_can_do() -> None:
    assert {"class_transfer", "subject_transfer", "interpolate_style"} <= tiny().can
    assert "no cluster centres" in (why_not(tiny(), "sample") or "")
    unbuilt = methods.registry.get("pix2pixhd")(label_feat=False, instance_feat=False)
    assert "no feature encoder" in (why_not(unbuilt, "sample") or "")
    assert "instance maps" not in (why_not(tiny(feat_num=0), "sample") or "instance maps")
    assert tiny(label_feat=False).label_feat is tiny(instance_feat=True).label_feat is False
    bare = tiny(label_feat=False, instance_feat=False)
    assert bare.can == {"reconstruct", "shape_transfer"}
    assert set(bare.key_maps()) == {"netG"}
    batch = batch_of((16,))
    assert bare.reconstruct(batch, ZeroNoise()).shape == (1, 3, 64, 64)
    with pytest.raises(Unavailable, match="no feature encoder"):
        bare.transfer(batch, batch, ZeroNoise())


def test_a_saved_network_comes_back(tmp_path: Path) -> None:
    from sisbench.methods.loadable import save_weights

    method, batch = tiny(), batch_of((16,))
    save_weights(method, tmp_path / "p.safetensors", {})
    again = methods.create("pix2pixhd", space(5)).load(space(5), tmp_path / "p.safetensors")
    expected = method.reconstruct(batch, ZeroNoise())
    torch.testing.assert_close(again.reconstruct(batch, ZeroNoise()), expected)


# ---- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, "norm must be 'instance'"),
        ({"netG": "both"}, "global or local"),
        ({"n_local_enhancers": 2}, "n_local_enhancers must be 1"),
        ({"label_feat": True, "instance_feat": True}, "exclude"),
        ({"crop_size": 40}, "multiples of 16"),
        ({"feat_num": -1}, "feat_num must not be negative"),
        ({"clusters": "/nowhere.npz"}, "clusters: no file at"),
        ({"feat_nums": 3}, "did you mean 'feat_num'"),
    ],
    ids=str,
)
def test_options_are_checked(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**options)


def test_cluster_files_are_checked(tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    Clusters(torch.zeros(4, 2, 3), torch.ones(4).long()).save(other)
    with pytest.raises(UserError, match="5 classes and 3 features"):
        tiny(clusters=str(other))
    pickled = tmp_path / "official.npy"
    np.save(pickled, np.array({0: [1.0]}, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="holds no cluster centres"):
        tiny(clusters=str(pickled))


def test_maps_are_checked() -> None:
    with pytest.raises(UserError, match="instance maps"):
        tiny(no_instance=False).reconstruct(batch_of((16,)), ZeroNoise())
    batch = batch_of((16,))
    cut = Batch(batch.ids, batch.image[:, :, :40], batch.label[:, :40], None, batch.space)
    with pytest.raises(UserError, match="multiples of 16"):
        tiny().reconstruct(cut, ZeroNoise())


def test_a_wrong_state_says_why() -> None:
    method = tiny()
    with pytest.raises(UserError, match="another number of classes"):
        method.load_state(states(tiny(6)))
    with pytest.raises(UserError, match="takes the modules netG, netE"):
        method.load_state({"netG": states(method)["netG"]})


def test_every_fixture_is_used() -> None:
    names = {p.name.split(".")[1] for p in (FIXTURES / "spade").glob("pix2pixhd.*.npz")}
    assert names == {"celebamask19_feat", "instances", "blocks"}
