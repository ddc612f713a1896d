"""SDM against the official outputs, the laws of its caches, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from parity import Case, every, seeded
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.core.resize import resize_labels_torch
from sisbench.methods.key_map import KeyMap
from sisbench.methods.layers.diffusion.respaced import Respaced, spaced_timesteps
from sisbench.methods.layers.label_maps import LabelPyramid, Level
from sisbench.methods.layers.labels import instance_edges
from sisbench.methods.sdm import SDM
from sisbench.methods.sdm.blocks import Modulation, ResBlock, SDMBlock, SelfAttention, SPADENorm
from sisbench.methods.sdm.network import Condition

TINY = tiny_networks.METHODS["sdm"].options


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def case(name: str) -> Case:
    return Case.read(f"sdm/sdm.{name}")


def floats(c: Case, name: str) -> Tensor:
    return torch.from_numpy(c.arrays[name].astype(np.float32))


def labels(c: Case, name: str = "label") -> Tensor:
    return torch.from_numpy(c.arrays[name]).long()


def build(c: Case, **options: Any) -> SDM:
    method = methods.create("sdm", "celebamask_hq", **c.meta["config"], **options)
    seed = c.meta["weights"]["model"]["seed"] if "weights" in c.meta else c.meta["weight_seed"]
    shapes = method.key_maps()["model"].official_shapes()
    return method.load_state({"model": seeded(shapes, seed)})  # type: ignore[return-value]


def batch_of(label: Tensor, space: str = "celebamask_hq") -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    image = torch.zeros(len(label), 3, *label.shape[1:])
    return Batch(ids, image, label, None, LabelSpace.named(space))


def with_options(method: SDM, **options: Any) -> SDM:
    """The same network under other sampling options."""
    other = SDM(**{**method.options.__dict__, **options})
    with torch.device("meta"):
        other.setup(method.space)
    other.net = method.net
    return other


# ---- the schedule -------------------------------------------------------------------------------


def test_spacings() -> None:
    c = case("loop_narrow")
    assert spaced_timesteps(4, "even").tolist() == c.arrays["timesteps_ddpm"].tolist()
    assert spaced_timesteps(4, "stride").tolist() == c.arrays["timesteps_ddim"].tolist()
    fifty = case("celeba64-step").meta["respaced_timestep_map"]
    assert spaced_timesteps(50, "even").tolist() == fifty
    assert spaced_timesteps(1000, "even").tolist() == list(range(1000))
    assert spaced_timesteps(50, "stride").tolist() == list(range(0, 1000, 20))
    assert spaced_timesteps(7, "stride")[1] == 143
    with pytest.raises(UserError, match="exactly 60 steps") as caught:
        spaced_timesteps(60, "stride")
    assert "59" in caught.value.hint
    assert "63" in caught.value.hint
    for steps in (1, 1001):
        with pytest.raises(UserError, match=r"within 2\.\.1000"):
            spaced_timesteps(steps, "even")


def test_all_steps_keep_the_schedule() -> None:
    schedule = Respaced.make()
    np.testing.assert_allclose(schedule.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-9)
    assert len(schedule) == 1000


# ---- layers -------------------------------------------------------------------------------------


def filled(module: nn.Module, seed: int) -> Any:
    """A block with the fixture's weights, by the official keys inside of it."""
    whole = nn.ModuleDict({"b": module})
    keys = KeyMap(whole)
    if isinstance(module, SDMBlock):
        module.map_keys(keys, "b.")
    if isinstance(module, SPADENorm):
        module.map_keys(keys, "b")
    keys.same()
    keys.load({f"b.{k}": v for k, v in official(keys, seed).items()}, "block")
    return module.eval()


def official(keys: KeyMap, seed: int) -> dict[str, Tensor]:
    return seeded({k.removeprefix("b."): s for k, s in keys.official_shapes().items()}, seed)


def test_blocks() -> None:
    c = case("blocks")
    seeds = {name: how["seed"] for name, how in c.meta["weights"].items()}
    x, emb, label, edges = floats(c, "x"), floats(c, "emb"), labels(c), floats(c, "edges")
    assert torch.equal(instance_edges(label)[:, 0], edges)
    pyramid = LabelPyramid(label, 19, edges=edges[:, None])
    nothing = LabelPyramid(torch.full_like(label[:1], -1), 19, edges=torch.zeros(1, 1, 64, 64))
    spade: SPADENorm = filled(SPADENorm(64, 20), seeds["spade"])
    found = spade(x, [spade.modulation(pyramid.at((16, 16)))], 2)
    assert c.off_by("spade", found, *every(1, 8)) < 2e-5
    res: ResBlock = filled(ResBlock(64, 128, 256), seeds["res"])
    assert c.off_by("res", res(x, res.emb_layers(emb)), *every(1, 8)) < 2e-5
    down: ResBlock = filled(ResBlock(64, 64, 256, down=True), seeds["res_down"])
    assert c.off_by("res_down", down(x, down.emb_layers(emb)), *every(1, 4)) < 2e-5
    block: SDMBlock = filled(SDMBlock(64, 128, 256, 20), seeds["sdm"])
    time, terms = block.emb_layers(emb), block.condition(pyramid, (16, 16))
    null = block.condition(nothing, (16, 16))
    h = block(x, time, [terms], 2)
    assert c.off_by("sdm", h, *every(1, 8)) < 2e-5
    first, second = block(x, time, [null, terms], 2).chunk(2)
    assert c.off_by("sdm_zero_layout", first, *every(1, 8)) < 2e-5
    assert c.off_by("sdm", second, *every(1, 8)) < 2e-5
    up: SDMBlock = filled(SDMBlock(64, 64, 256, 20, up=True), seeds["sdm_up"])
    found = up(x, up.emb_layers(emb), [up.condition(pyramid, (16, 16))], 2, up.kernel())
    assert c.off_by("sdm_up", found, *every(1, 16)) < 2e-5
    attention: SelfAttention = filled(SelfAttention(128, 64), seeds["attention"])
    assert c.off_by("attention", attention(h), *every(1, 8)) < 2e-5


def test_look_ups_are_the_convolutions() -> None:
    """Large regions, so that most pixels are looked up by class; two samples, and holes."""
    coarse = torch.tensor([[[0, 1], [2, -1]], [[3, 3], [1, 0]]])
    label = resize_labels_torch(coarse, (32, 32))
    level = LabelPyramid(label, 5, edges=instance_edges(label)).at((32, 32))
    assert level.windows is not None
    norm: SPADENorm = filled(SPADENorm(32, 6), 4)
    keys = KeyMap(nn.ModuleDict({"b": norm}))
    norm.map_keys(keys, "b")
    state = official(keys, 4)
    planes = level.planes().contiguous()
    hidden = nn.functional.conv2d(
        planes, state["mlp_shared.0.weight"], state["mlp_shared.0.bias"], padding=1
    ).relu()
    gain, shift = norm.modulation(level).maps()
    for found, name, more in ((gain, "gamma", 1), (shift, "beta", 0)):
        weight, bias = state[f"mlp_{name}.weight"], state[f"mlp_{name}.bias"]
        wanted = more + nn.functional.conv2d(hidden, weight, bias, padding=1)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)


# ---- one step -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_guided_step() -> None:
    c = case("celeba64-step")
    method = build(c, scale=c.meta["guidance_s"])
    unet, schedule = method.net, method.schedule
    label, t = labels(c), torch.tensor(c.meta["timesteps"])
    x0, noise_t, noise = (floats(c, n) for n in ("x0", "noise_t", "noise_step"))
    a = torch.from_numpy(schedule.alphas)[t].float()[:, None, None, None]
    x = a.sqrt() * x0 + (1 - a).sqrt() * noise_t
    assert c.off_by("x_t", x, *every(1, 1, 2, 2)) < 1e-5
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda m, i, out: kept.update({name: out}))

    keep("time_embed", unet.time_embed)
    for name in ("input_blocks", "output_blocks"):
        for i, group in enumerate(getattr(unet, name)):
            keep(f"{name}_{i}", list(group.children())[-1])
    keep("middle_block", list(unet.middle_block.children())[-1])
    condition = unet.condition(label, instance_edges(label))
    null = unet.null_condition(label)
    out = unet(x, t, condition)
    assert c.off_by("act_time_embed", kept["time_embed"][:, :64]) < 1e-4
    assert c.off_by("act_input_blocks_4", kept["input_blocks_4"][:, :8, ::4, ::4]) < 1e-4
    assert c.off_by("act_middle_block", kept["middle_block"][:, :16]) < 1e-4
    assert c.off_by("act_output_blocks_5", kept["output_blocks_5"][:, :8, ::4, ::4]) < 1e-4
    assert c.off_by("model_out_cond", out, *every(1, 1, 2, 2)) < 1e-4
    both = unet(x, t, condition.after(null))
    assert c.off_by("model_out_uncond", both[:2], *every(1, 1, 2, 2)) < 1e-4
    assert c.off_by("model_out_cond", both[2:], *every(1, 1, 2, 2)) < 1e-4
    eps = torch.lerp(both[:2, :3], both[2:, :3], 1.5)
    guided = torch.cat([eps, both[2:, 3:]], 1)
    ddim = {"p_mean": [], "p_log_variance": [], "pred_xstart": [], "ddpm_sample": [],
            "ddim_sample_eta0": [], "respaced_ddpm_sample_index9": []}  # fmt: skip
    short = Respaced.make(50)
    for row, i in enumerate(t.tolist()):
        one, g, n = x[row : row + 1], guided[row : row + 1], noise[row : row + 1]
        clean = schedule.clean(one, g[:, :3], i)
        ddim["pred_xstart"].append(clean)
        ddim["p_mean"].append(schedule.mean(one, clean, i))
        ddim["p_log_variance"].append(schedule.log_variance(g[:, 3:], i))
        ddim["ddpm_sample"].append(schedule.ddpm_step(one, g, i, n))
        ddim["ddim_sample_eta0"].append(schedule.ddim_step(one, g, i))
    late = torch.full((1,), short.timesteps[9])
    out = unet(x, late, condition.after(null))
    mixed = torch.cat([torch.lerp(out[:2, :3], out[2:, :3], 1.5), out[2:, 3:]], 1)
    ddim["respaced_ddpm_sample_index9"].append(short.ddpm_step(x, mixed, 9, noise))
    for name, found in ddim.items():
        assert c.off_by(name, torch.cat(found), *every(1, 1, 2, 2)) < 1e-4, name


# ---- whole loops --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow() -> SDM:
    return build(case("loop_narrow"))


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_loops(narrow: SDM, kind: str) -> None:
    c = case("loop_narrow")
    batch = batch_of(labels(c))
    noise = GivenNoise(
        {"x_T": floats(c, "x_T"), **{f"step{i}": n for i, n in enumerate(floats(c, "noise"))}}
    )
    method = with_options(
        narrow, timestep_respacing=c.meta["respacing"][kind], guidance_s=c.meta["guidance_s"],
        steps=4, spacing={"ddpm": "even", "ddim": "stride"}[kind],
    )  # fmt: skip
    assert method.options.ddim == (kind == "ddim")
    states = list(method.trajectory(method.encode_layout(batch), noise))
    assert c.off_by(f"{kind}_guided_steps", torch.stack(states), *every(1, 1, 1, 4, 4)) < 3e-4
    assert c.off_by(f"{kind}_guided", states[-1]) < 3e-4
    plain = with_options(method, scale=1.0).sample(batch, noise)
    assert c.off_by(f"{kind}_plain", plain, *every(1, 1, 2, 2)) < 3e-4


# ---- laws ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> SDM:
    return SDM(**TINY).load("celebamask_hq", "seeded:3")


def random_labels(count: int, classes: int = 19, side: int = 32) -> Tensor:
    coarse = torch.randint(classes, (count, 4, 4), generator=torch.Generator().manual_seed(5))
    return resize_labels_torch(coarse, (side, side))


def test_it_only_samples(tiny: SDM) -> None:
    assert SDM.can == tiny.can == {"sample"}
    batch = batch_of(random_labels(1))
    with pytest.raises(Unavailable):
        tiny.reconstruct(batch, Noise(batch.ids))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_sample_does_not_depend_on_its_batch(tiny: SDM, sampler: str) -> None:
    method = with_options(tiny, sampler=sampler, eta=0.5)
    batch = batch_of(random_labels(3))
    together = method.sample(batch, Noise(batch.ids))
    alone = method.sample(batch[1:2], Noise(batch.ids[1:2]))
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=0)  # 1/sqrt(abar) is 158
    assert not torch.allclose(together, method.sample(batch, Noise(batch.ids, seed=1)))


def test_which_noise_is_asked_for(tiny: SDM) -> None:
    batch, asked = batch_of(random_labels(1)), []

    class Asked(Noise):
        def normal(self, name: str, *shape: int) -> Tensor:
            asked.append(name)
            return super().normal(name, *shape)

    for options in ({}, {"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}):
        asked.clear()
        with_options(tiny, steps=4, **options).sample(batch, Asked(batch.ids))
        drawn = [] if options == {"sampler": "ddim"} else ["step0", "step1", "step2"]
        assert asked == ["x_T", *drawn]


def test_guidance_is_the_sum_of_two_passes(tiny: SDM) -> None:
    """Against both passes on their own, with the null label map as zeros everywhere."""
    label, t = random_labels(2), torch.tensor([700])
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    unet = tiny.net
    condition = unet.condition(label, instance_edges(label))
    null = unet.condition(torch.full_like(label, -1), torch.zeros(2, 1, 32, 32))
    both = unet(x, t, condition.after(unet.null_condition(label)))
    torch.testing.assert_close(both[:2], unet(x, t, null), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[2:], unet(x, t, condition), atol=1e-5, rtol=0)


def test_time_terms_are_computed_in_parts(tiny: SDM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sisbench.methods.sdm.method._TIMES", 2)
    batch = batch_of(random_labels(1))
    short = with_options(tiny, steps=5, sampler="ddim", spacing="even")
    noise = Noise(batch.ids)
    *_, found = short.trajectory(short.encode_layout(batch), noise)
    unet, schedule = short.net, short.schedule
    condition = unet.condition(batch.label, instance_edges(batch.label))
    condition = condition.after(unet.null_condition(batch.label))
    x = noise.normal("x_T", 3, 32, 32)
    for i in reversed(range(5)):
        out = unet(x, torch.from_numpy(schedule.timesteps[i : i + 1]), condition)
        eps = out[:1, :3] + 1.5 * (out[1:, :3] - out[:1, :3])
        x = schedule.ddim_step(x, torch.cat([eps, out[1:, 3:]], 1), i)
    torch.testing.assert_close(found, x, atol=1e-3, rtol=0)


# ---- label maps ---------------------------------------------------------------------------------


def test_ade20k_labels_are_shifted() -> None:
    c = case("preprocess")
    method = SDM(**TINY).setup("ade20k")
    assert not method.net.edges
    raw = labels(c, "test_label")[None].clamp(max=150)
    inside = raw == labels(c, "test_label")[None]
    assert torch.equal(method.fed(raw)[inside], labels(c, "test_label_ade20k")[None][inside])
    layout = method.encode_layout(batch_of(torch.full((1, 32, 32), 255), "ade20k"))
    assert method.fed(layout.label).unique().tolist() == [150]
    as_is = SDM(**TINY, ade_labels="as_is").setup("ade20k")
    assert torch.equal(as_is.fed(raw), raw)
    layout = as_is.encode_layout(batch_of(torch.full((1, 32, 32), 255), "ade20k"))
    assert layout.label.unique().tolist() == [150]
    hole = torch.full((1, 32, 32), -1)
    assert torch.equal(method.fed(hole), hole)


def test_edges_of_the_official_loader() -> None:
    c = case("preprocess")
    found = instance_edges(labels(c, "aspect_label")[None])[0, 0]
    assert torch.equal(found, floats(c, "aspect_edges"))


def test_where_edges_come_from() -> None:
    batch = batch_of(random_labels(1, 35), "cityscapes")
    method = SDM(**TINY).setup("cityscapes")
    with pytest.raises(UserError, match="needs instance maps") as caught:
        method.encode_layout(batch)
    assert "edges: label" in caught.value.hint
    own = SDM(**TINY, edges="label").setup("cityscapes")
    assert torch.equal(own.edge_source(own.encode_layout(batch)), batch.label)
    unlabelled = batch_of(torch.full((1, 32, 32), 255), "coco_stuff")
    coco = SDM(**TINY, edges="label").setup("coco_stuff")
    assert coco.encode_layout(unlabelled).label.unique().tolist() == [182]


# ---- files, options and bad input ---------------------------------------------------------------


def test_official_names_of_the_scripts() -> None:
    named = SDM(timestep_respacing="ddim50", use_ddim=True, s=2.0, channel_mult="1,1").options
    own = SDM(steps=50, spacing="stride", sampler="ddim", scale=2.0, channel_mult=(1, 1)).options
    assert named == own
    assert SDM(timestep_respacing="").options.steps == 1000
    assert SDM(timestep_respacing="ddim50").options.ddim
    assert not SDM(timestep_respacing="ddim50", use_ddim=False).options.ddim
    assert SDM(steps=50, sampler="ddim").options.spaced == "stride"


def test_a_file_of_averaged_weights(tmp_path: Path, tiny: SDM) -> None:
    shapes = SDM(**TINY).setup("celebamask_hq").key_maps()["model"].official_shapes()
    state = seeded(shapes, 3)
    torch.save(state, tmp_path / "ema_0.9999_best.pt")
    method = SDM(**TINY).load("celebamask_hq", tmp_path)
    for key, value in tiny.net.state_dict().items():
        assert torch.equal(method.net.state_dict()[key], value), key
    state.pop("out.0.weight")
    with pytest.raises(UserError, match=r"out\.0\.weight"):
        SDM(**TINY).setup("celebamask_hq").load_state({"model": state})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "sampler must be 'ddpm' or 'ddim'"),
        ({"spacing": "log"}, "spacing must be 'even' or 'stride'"),
        ({"eta": 2.0}, "eta must be within"),
        ({"image_size": 100}, "no official multipliers for image_size 100"),
        ({"attention_resolutions": "48"}, "must divide image_size"),
        ({"num_channels": 40}, "multiple of 32"),
        ({"num_head_channels": 48}, "must divide"),
        ({"timestep_respacing": "10,20"}, "a number of steps"),
        ({"channel_mult": "1,x"}, "channel_mult"),
        ({"noise_schedule": "cosine"}, "noise_schedule must be 'linear'"),
        ({"step": 3}, "no option 'step'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SDM(**options)


def test_bad_layouts(tiny: SDM) -> None:
    with pytest.raises(UserError, match=r"label values 19\.\.19.*classes 0\.\.18"):
        tiny.encode_layout(batch_of(torch.full((1, 32, 32), 19)))
    batch = batch_of(torch.zeros(1, 33, 32, dtype=torch.int64))
    with pytest.raises(UserError, match="multiples of 2, got 33 x 32"):
        tiny.sample(batch, Noise(batch.ids))
    with pytest.raises(UserError, match="20 classes, but 'celebamask_hq' has 19"):
        SDM(**{**TINY, "num_classes": 20}).setup("celebamask_hq")
    with pytest.raises(UserError, match="exactly 60 steps"):
        SDM(**{**TINY, "steps": 60, "spacing": "stride"}).setup("celebamask_hq")
    with pytest.raises(UserError, match="semantic_channels is 7"):
        SDM(**{**TINY, "semantic_channels": 7}).setup("celebamask_hq")


# ---- cost ---------------------------------------------------------------------------------------


def test_cost_of_a_guided_step() -> None:
    with torch.device("meta"):
        unet = SDM().setup("celebamask_hq").net
        times = unet.time_terms(torch.zeros(1))
        terms: list[Any] = []
        for factor, block in unet._blocks():
            side = 256 // factor
            pair = ((block.in_norm, side), (block.out_norm, 2 * side if block.up else side))
            terms.append((tuple(_at_every_pixel(norm, n) for norm, n in pair),))
        condition = Condition(1, 1, terms, [block.kernel() for _, block in unet._blocks()])
        x = torch.zeros(1, 3, 256, 256)

        def gmac(of: Condition) -> float:
            with FlopCounterMode(display=False) as counter:
                unet.step(x, times, of)
            return counter.get_total_flops() / 2e9

        assert gmac(condition) < 1070  # the official form takes 1721
        assert gmac(condition.after(condition)) < 1850  # and twice that


def _at_every_pixel(norm: SPADENorm, side: int) -> Modulation:
    """A modulation without any look-up: the step itself costs the same."""
    level = Level(torch.zeros(1, side, side, dtype=torch.int64), 19, 3, None, dense=True)
    return Modulation(level, torch.zeros(2 * norm.branch.channels, side**2))
