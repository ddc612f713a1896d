"""CoDiff against the official outputs, its two forms of checkpoint, and bad input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from parity import FIXTURES, Case, every, seeded, shapes_of
from torch import Tensor, nn

from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.methods.base import GlobalStyle, Layout, present_classes
from sisbench.methods.codiff import CoDiff
from sisbench.methods.codiff.conditions import caption_ids
from sisbench.methods.codiff.dynamic import decay, mask_weight
from sisbench.methods.layers.diffusion.attention import SpatialTransformer
from sisbench.methods.layers.diffusion.blocks import Downsample, ResBlock, Upsample
from sisbench.methods.layers.diffusion.unet import UNet
from sisbench.methods.seeded import seeded_state
from sisbench.run.keys import by_content

TINY = tiny_networks.METHODS["codiff"].options
SMALL: dict[str, Any] = {
    "unet": {"model_channels": 32},
    "ddconfig": {"ch": 32},
    "n_layer": 1,
    "vocab_size": 8,
}
"""Networks that a fixture says nothing of."""


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


def case(name: str) -> Case:
    return Case.read(f"codiff/codiff.{name}")


def floats(c: Case, name: str) -> Tensor:
    return torch.from_numpy(c.arrays[name].astype(np.float32))


def labels(c: Case, name: str = "label") -> Tensor:
    return torch.from_numpy(c.arrays[name]).long()


def config(c: Case) -> dict[str, Any]:
    raw = c.meta.get("config", {})
    known = {**SMALL, **{k: v for k, v in raw.items() if k != "steps_really_run"}}
    if "n_embed" in raw:
        known["unet"] = {**SMALL["unet"], "context_dim": raw["n_embed"]}
    return known


def build(c: Case, **options: Any) -> CoDiff:
    """The method of a fixture, seeded as its meta says."""
    method = CoDiff(**{**config(c), **options}).setup("celebamask_hq")
    states = {}
    for module, key_map in method.key_maps().items():
        how = c.meta["weights"].get(module, {"seed": 0})
        states[module] = seeded(key_map.official_shapes(), how["seed"])
    return method.load_state(states)


def batch_of(label: Tensor) -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    image = torch.zeros(len(label), 3, *label.shape[1:])
    return Batch(ids, image, label, None, LabelSpace.named("celebamask_hq"))


def filled(module: nn.Module, seed: int) -> Any:
    module.load_state_dict(seeded_state({k: v.shape for k, v in module.state_dict().items()}, seed))
    return module.eval()


def with_options(method: CoDiff, **options: Any) -> CoDiff:
    """The same networks under other sampling options."""
    other = CoDiff(**{**dataclasses.asdict(method.options), **options})
    with torch.device("meta"):
        other.setup(method.space)
    other.net = method.net
    return other


# ---- conditions ---------------------------------------------------------------------------------


def test_mask_tokens() -> None:
    c = case("mask_tokens")
    method = build(c)
    stage: Any = method.net["cond_stage"]
    for name in ("label256", "label512", "label_odd"):
        found = stage.grid(labels(c, name))
        assert torch.equal(found, labels(c, f"classes_{name}")), name
    context = stage(labels(c, "label256"), 19)
    assert c.off_by("context", context, *every(1, 1, 5)) < 1e-5


def test_text_encoder() -> None:
    c = case("text_narrow")
    method = build(c, text=True, vocab_size=c.meta["config"]["vocab_size"])
    codes = method.encode_text(labels(c, "ids"))
    assert c.off_by("tokens", codes.unflatten(1, (77, 640)), *every(1, 1, 4)) < 1e-4


def test_captions_become_ids(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    words = [f"[unused{i}]" for i in range(110)]
    words[0], words[100], words[101], words[102] = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
    words[103], words[104:108] = "[MASK]", ["she", "smile", "##s", "."]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words) + "\n")
    ids = caption_ids(["She smiles.", "?"], str(path), 110, 8)
    assert ids.tolist() == [[101, 104, 105, 106, 107, 102, 0, 0], [101, 100, 102, 0, 0, 0, 0, 0]]
    assert caption_ids(["she she she she"], str(path), 110, 4).tolist() == [[101, 104, 104, 102]]
    with pytest.raises(UserError, match="110 lines, expected 30522"):
        caption_ids(["?"], str(path), 30522, 8)
    with pytest.raises(UserError, match="no vocabulary at"):
        caption_ids(["?"], str(tmp_path / "none.txt"), 110, 8)


# ---- networks -----------------------------------------------------------------------------------


def test_blocks() -> None:
    c = case("blocks")
    seeds = {name: how["seed"] for name, how in c.meta["weights"].items()}
    x, emb, context = floats(c, "x"), floats(c, "emb"), floats(c, "context")
    res: ResBlock = filled(ResBlock(96, 64, 256), seeds["res"])
    h = res(x, res.emb_layers(emb))
    assert c.off_by("res", h, *every(1, 4)) < 2e-5
    same: ResBlock = filled(ResBlock(96, 96, 256), seeds["res_same"])
    assert c.off_by("res_same", same(x, same.emb_layers(emb)), *every(1, 8)) < 2e-5
    layer: SpatialTransformer = filled(SpatialTransformer(64, 640, 2), seeds["transformer"])
    block: Any = layer.transformer_blocks[0]
    kept: dict[str, Tensor] = {}
    for name in ("attn1", "ff"):
        getattr(block, name).register_forward_hook(
            lambda m, i, o, name=name: kept.update({name: o})
        )
    attend = block.attn2.attend
    block.attn2.attend = lambda *a: kept.setdefault("attn2", attend(*a))
    found = layer(h, [layer.style_term(context, None)], len(x))
    assert c.off_by("transformer", found, *every(1, 4)) < 2e-5
    for name in ("attn1", "attn2", "ff"):
        assert c.off_by(name, kept[name], *every(1, 4, 4)) < 2e-5, name
    down, up = filled(Downsample(64), seeds["down"]), filled(Upsample(64), seeds["up"])
    assert c.off_by("down", down(h), *every(1, 4)) < 2e-5
    assert c.off_by("up", up(h, up.kernel()), *every(1, 16)) < 2e-5


def check_unet(c: Case, hooks: Mapping[str, tuple[int, ...]], atol: float) -> None:
    method = build(c)
    unet: Any = method.net["unet"]
    kept: dict[str, Tensor] = {}
    for name in hooks:
        part, _, index = name.removeprefix("act_").rpartition("_")
        module = (
            getattr(unet, part)[int(index)] if index.isdigit() else getattr(unet, f"{part}_{index}")
        )
        last = module if name == "act_time_embed" else list(module.children())[-1]
        last.register_forward_hook(lambda m, i, o, name=name: kept.update({name: o}))
    tokens = method.tokens(labels(c))
    if "context" in c.arrays:
        assert c.off_by("context", tokens, *every(1, 1, 10)) < 1e-5
    t = torch.tensor(c.meta["timesteps"])
    eps = unet(floats(c, "x_t"), t, unet.token_condition(tokens))
    for name, step in hooks.items():
        assert c.off_by(name, kept[name], *every(*step)) < atol, name
    assert c.off_by("eps", eps) < atol


def test_unet_narrow() -> None:
    hooks = {
        "act_time_embed": (1, 4),
        "act_input_blocks_4": (1, 8),
        "act_middle_block": (1, 8),
        "act_output_blocks_5": (1, 8),
    }
    check_unet(case("unet_narrow"), hooks, 1e-4)


@pytest.mark.slow
def test_unet_full() -> None:
    hooks = {
        "act_input_blocks_7": (1, 32),
        "act_middle_block": (1, 32),
        "act_output_blocks_8": (1, 32, 4, 4),
    }
    check_unet(case("mask_full"), hooks, 5e-4)


def check_first_stage(c: Case, step: int) -> None:
    stage: Any = build(c).net["first_stage"]
    image, z = floats(c, "image") / 127.5 - 1, floats(c, "z")
    mean, logvar = stage.moments(image)
    cut = every(1, 1, 2, 2) if mean.shape != c.arrays["mean"].shape else every(1)
    assert c.off_by("mean", mean, *cut) < 2e-4
    assert c.off_by("logvar", logvar, *cut) < 2e-4
    if "eps" in c.arrays:
        assert c.off_by("latent_sampled", stage.encode(image, floats(c, "eps"))) < 2e-4
    assert c.off_by("decoded", stage.decode(stage.scale * z), *every(1, 1, step, step)) < 2e-4


def test_first_stage_narrow() -> None:
    check_first_stage(case("first_stage_narrow"), 2)


@pytest.mark.slow
def test_first_stage_full() -> None:
    check_first_stage(case("first_stage_full"), 4)


# ---- whole runs ---------------------------------------------------------------------------------


def test_ddim_narrow() -> None:
    c = case("ddim_narrow")
    method = build(c)
    assert method.size == (128, 128)
    np.testing.assert_array_equal(method.ddim.timesteps, c.arrays["timesteps"])
    np.testing.assert_allclose(method.ddim.sigmas, c.arrays["sigmas_eta1"], atol=1e-6)
    batch = batch_of(labels(c))
    noise = GivenNoise(
        {"x_T": floats(c, "x_T"), **{f"step{i}": n for i, n in enumerate(floats(c, "noise"))}}
    )
    layout, style = method.encode_layout(batch), method.sample_style(batch, noise)
    path = [torch.stack(p) for p in zip(*method.trajectory(layout, style, noise), strict=True)]
    for name, found in zip(("x_steps_eta1", "x0_steps_eta1"), path, strict=True):
        atol = 1e-4 * float(np.abs(c.arrays[name]).max())
        assert c.off_by(name, found, *every(1, 1, 1, 2, 2)) < atol, name
    spread = float(c.arrays["latent_eta1"].std())
    assert c.off_by("latent_eta1", path[0][-1]) < 1e-4 * spread
    still = with_options(method, eta=0.0)
    *_, (latent, _) = still.trajectory(layout, style, noise)
    assert c.off_by("latent_eta0", latent) < 1e-4 * spread
    image = method.sample(batch, noise)
    wanted = floats(c, "decoded").clamp(-1, 1)
    torch.testing.assert_close(image[..., ::2, ::2], wanted, atol=1e-3, rtol=0)


def test_dynamic_diffusers() -> None:
    c = case("compose_narrow")
    method = build(c, ddim_steps=2)
    assert method.options.text
    x, o = floats(c, "x_t"), method.options
    tokens = {"seg_mask": floats(c, "mask_tokens"), "text": floats(c, "text_tokens")}
    for t in c.meta["timesteps"]:
        found: dict[str, Tensor] = {}
        for name, given in tokens.items():
            for part in ("unet", "confidence_predictor"):
                unet: UNet = method.net[f"{name}_{part}"]  # type: ignore[assignment]
                out = unet(x, torch.tensor([t]), unet.token_condition(given))
                found[f"{part}_{name.removeprefix('seg_')}"] = out
        for name in ("mask", "text"):
            logit = found[f"confidence_predictor_{name}"]
            assert c.off_by(f"t{t}_logit_{name}", logit) < 1e-4
            assert c.off_by(f"t{t}_branch_{name}", found[f"unet_{name}"], *every(1, 1, 2, 2)) < 1e-4
        logits = [found[f"confidence_predictor_{n}"] for n in ("mask", "text")]
        forms = {
            "official": (o.seg_mask_schedule, o.seg_mask_scale_factor),
            "plain": ("none", 1.0),
        }
        for form, (schedule, factor) in forms.items():
            weight = mask_weight(*logits, t, schedule, factor)  # type: ignore[misc]
            eps = torch.lerp(found["unet_text"], found["unet_mask"], weight)
            assert c.off_by(f"t{t}_{form}_influence_mask", weight) < 1e-4
            assert c.off_by(f"t{t}_{form}_eps", eps) < 1e-4


def test_a_composed_run_is_the_composition(tiny_text: CoDiff) -> None:
    """The run's predictor against the plain formula, at both ends of the schedule."""
    label = torch.randint(19, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    ids = torch.randint(8, (2, 77), generator=torch.Generator().manual_seed(1))
    style = GlobalStyle(tiny_text.encode_text(ids), torch.ones(2, 19, dtype=torch.bool))
    tokens = tiny_text.tokens(label)
    predict = tiny_text._predictor(tokens, style)
    x = torch.randn(2, 3, *[tiny_text.options.image_size] * 2)
    text = style.codes.unflatten(1, (77, -1))
    for i, t in enumerate(tiny_text.ddim.timesteps.tolist()):
        out = {}
        for name, given in (("seg_mask", tokens), ("text", text)):
            for part in ("unet", "confidence_predictor"):
                unet: Any = tiny_text.net[f"{name}_{part}"]
                out[name, part] = unet(x, torch.tensor([t]), unet.token_condition(given))
        logits = torch.cat([out[n, "confidence_predictor"] for n in ("seg_mask", "text")], 1)
        w = logits.softmax(1)[:, :1] * decay("cosine_decay", t)
        w = 2 * w / (1 + w)
        wanted = (1 - w) * out["text", "unet"] + w * out["seg_mask", "unet"]
        torch.testing.assert_close(predict(x, i), wanted, atol=1e-5, rtol=0)


@pytest.fixture
def tiny_text() -> CoDiff:
    return CoDiff(**TINY, text=True, n_layer=1, vocab_size=8).load("celebamask_hq", "seeded:1")


def test_the_mask_leads_early_and_is_silent_at_the_end() -> None:
    assert decay("cosine_decay", 1000) == 1
    assert decay("cosine_decay", 0) == pytest.approx(0)
    assert decay("linear_decay", 250) == 0.25
    assert decay("none", 3) == 1


# ---- sizes --------------------------------------------------------------------------------------


def test_the_512_model_draws_512() -> None:
    assert CoDiff(variant=512).options.native == 512
    assert CoDiff().options.native == 256


def test_label_maps_of_512_are_reduced_directly() -> None:
    """512 to 32 takes pixel 16 i + 8; by way of 256 it would be 16 i + 9."""
    stage: Any = CoDiff(**TINY).setup("celebamask_hq").net["cond_stage"]
    stage.side = 32
    rows = torch.arange(512).expand(1, 512, 512)
    assert stage.grid(rows)[0, 0].tolist() == list(range(8, 512, 16))
    assert stage.grid(rows[..., 1::2, 1::2])[0, 0].tolist() == list(range(9, 512, 16))


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [256, 512])
def test_official_keys_and_shapes(variant: int) -> None:
    name = f"codiff/codiff.{variant}_mask"
    with torch.device("meta"):
        method = CoDiff(variant=variant).setup("celebamask_hq")
    raw = json.loads((FIXTURES / f"{name}.manifest.json").read_text())
    for module, key_map in method.key_maps().items():
        shapes = key_map.official_shapes()
        assert shapes == shapes_of(name, module)
        assert sum(int(np.prod(s)) for s in shapes.values()) == raw["parameters"][module]
        assert method.prefixes[module] == raw["checkpoint_prefixes"][module]


def test_official_keys_and_shapes_with_text() -> None:
    with torch.device("meta"):
        maps = CoDiff(text=True).setup("celebamask_hq").key_maps()
    mask, influence = "codiff/codiff.256_mask", "codiff/codiff.influence_unet"
    for module, manifest, part in (
        ("seg_mask_unet", mask, "unet"),
        ("text_unet", mask, "unet"),
        ("seg_mask_cond_stage", mask, "cond_stage"),
        ("first_stage", mask, "first_stage"),
        ("seg_mask_confidence_predictor", influence, "influence_unet"),
        ("text_confidence_predictor", influence, "influence_unet"),
        ("text_cond_stage", "codiff/codiff.text_cond_stage", "text_cond_stage"),
    ):
        assert maps[module].official_shapes() == shapes_of(manifest, part), module
    prefixes = json.loads((FIXTURES / f"{influence}.manifest.json").read_text())
    assert {p for m in maps.values() for p in m.prefixes} == set(  # type: ignore[attr-defined]
        prefixes["checkpoint_prefixes"].values()
    )


def lightning_file(method: CoDiff, path: Path, seed: int = 0) -> None:
    whole = {
        method.prefixes[m] + k: v
        for i, (m, key_map) in enumerate(method.key_maps().items())
        for k, v in seeded_state(key_map.official_shapes(), seed + i).items()
    }
    torch.save({"state_dict": {**whole, "betas": torch.zeros(1000)}}, path)


def test_checkpoints(tmp_path: Path) -> None:
    composed = CoDiff(**TINY, text=True, n_layer=1, vocab_size=8).setup("celebamask_hq")
    lightning_file(composed, tmp_path / "256_codiff_mask_text.ckpt")
    text = CoDiff(**composed.options.__dict__).load("celebamask_hq", tmp_path)
    alone = CoDiff(**TINY).load("celebamask_hq", tmp_path)  # the composed file holds the mask's
    for ours, theirs in (("unet", "seg_mask_unet"), ("cond_stage", "seg_mask_cond_stage")):
        state = text.net[theirs].state_dict()
        assert all(torch.equal(v, state[k]) for k, v in alone.net[ours].state_dict().items())
    lightning_file(CoDiff(**TINY).setup("celebamask_hq"), tmp_path / "256_mask.ckpt", 9)
    other = CoDiff(**TINY).load("celebamask_hq", tmp_path)
    key = "time_embed.0.weight"
    assert not torch.equal(other.net["unet"].state_dict()[key], alone.net["unet"].state_dict()[key])
    with pytest.raises(UserError, match="missing"):
        CoDiff(**TINY, text=True, n_layer=1, vocab_size=8).load(
            "celebamask_hq", tmp_path / "256_mask.ckpt"
        )


# ---- laws and bad input -------------------------------------------------------------------------


def test_tasks() -> None:
    assert CoDiff.can == {"sample"}
    assert CoDiff(**TINY).setup("celebamask_hq").can == {"sample"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": 128}, "256 or 512"),
        ({"unet": {"legacy": True}}, "legacy must be False"),
        ({"unet": {"channel_mults": [1]}}, "no option 'unet.channel_mults'"),
        ({"conditions": ["text"]}, "seg_mask, text"),
        ({"seg_mask_schedule": "sine"}, "seg_mask_schedule must be none, linear_decay"),
        ({"seg_mask_scale_factor": 0.0}, "above 0"),
        ({"mask_embed_dim": 1000}, "no square grid"),
        ({"model_channels": 40}, "multiple of 32"),
        ({"num_heads": 7}, "divide every level"),
        ({"image_size": 30}, "multiple of 8"),
        ({"caption": "a face"}, "text branch"),
        ({"steps": 1000}, "the official sampler fails"),
        ({"eta": 3.0}, "more noise"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CoDiff(**options)


def test_labels_outside_of_the_classes() -> None:
    method = CoDiff(**TINY).setup("celebamask_hq")
    with pytest.raises(UserError, match=r"label values 0\.\.19.*classes 0\.\.18"):
        method.encode_layout(batch_of(torch.tensor([[[0, 19]]])))


def test_a_sample_without_a_caption(tiny_text: CoDiff) -> None:
    batch = batch_of(torch.zeros(2, 32, 32, dtype=torch.int64))
    with pytest.raises(UserError, match="'s0' has no caption"):
        tiny_text.sample(batch, Noise(batch.ids))
    named = with_options(tiny_text, captions={"s0": "a face"})
    with pytest.raises(UserError, match="'s1' has no caption"):
        named.sample(batch, Noise(batch.ids))
    given = with_options(tiny_text, caption="a face")
    with pytest.raises(UserError, match="no vocabulary is given"):
        given.sample(batch, Noise(batch.ids))


def test_an_empty_layout_is_drawn() -> None:
    method = CoDiff(**TINY).load("celebamask_hq", "seeded:0")
    label = torch.full((1, 32, 32), -1)
    layout = Layout(label, present_classes(label, 19))
    image = method.render(layout, GlobalStyle(torch.zeros(1, 0), layout.present), Noise(["a"]))
    assert image.isfinite().all()


def test_the_vocabulary_enters_the_key_by_its_content(tmp_path: Path) -> None:
    here, there, other = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    here.write_text("[PAD]\n")
    there.write_text("[PAD]\n")
    other.write_text("[CLS]\n")
    one, two, three = (by_content(CoDiff, {"vocabulary": str(p)}) for p in (here, there, other))
    assert one == two != three
