"""ControlNet against diffusers' own pipeline, its folders, prompts and colours, and bad input."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import FIXTURES, Case, every, seeded
from safetensors.torch import load_file, save_file
from torch import Tensor

from sisbench import methods
from sisbench.config import MethodConfig, RunConfig
from sisbench.core import weights as registry
from sisbench.core.batch import Batch
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import HOLE, LabelSpace
from sisbench.core.noise import GivenNoise, Noise
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.methods.base import GlobalStyle
from sisbench.methods.controlnet import ControlNet
from sisbench.methods.controlnet.palettes import ADE20K, palette
from sisbench.methods.loadable import save_weights
from sisbench.run.keys import by_content
from sisbench.run.method_entry import find_weights
from sisbench.run.plan import make_plan
from sisbench.run.preflight import preflight

diffusers = pytest.importorskip("diffusers", reason="the extra 'diffusers' is not installed")
transformers = pytest.importorskip("transformers")

SPACE = LabelSpace.named("ade20k")
TOKENIZER = FIXTURES / "controlnet" / "tokenizer"
TINY = Case.read("controlnet/controlnet.tiny")
NEW_NAMES = int(transformers.__version__.split(".")[0]) >= 5
"""The text encoder's names, which its seeded values come from, are those of transformers 5."""


def arrays(name: str) -> Tensor:
    found = torch.from_numpy(TINY.arrays[name])
    return found.float() if found.is_floating_point() else found.long()


def build(**options: Any) -> ControlNet:
    """The fixture's networks."""
    method: Any = methods.create("controlnet", SPACE, **{**TINY.meta["config"], **options})
    shapes = {m: k.official_shapes() for m, k in method.key_maps().items()}
    seeds = TINY.meta["weights"]
    return method.load_state({m: seeded(s, seeds[m]["seed"]) for m, s in shapes.items()})


def batch_of(label: Tensor, space: LabelSpace = SPACE) -> Batch:
    ids = tuple(f"s{i}" for i in range(len(label)))
    return Batch(ids, torch.zeros(len(label), 3, *label.shape[1:]), label, None, space)


@pytest.fixture(scope="module")
def tiny() -> ControlNet:
    return build()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return batch_of(arrays("label"))


@pytest.fixture(scope="module")
def style(batch: Batch, tiny: ControlNet) -> GlobalStyle:
    """The fixture's prompts."""
    codes, negative = (
        arrays(f"{kind}prompt_embeds").flatten(1).expand(2, -1) for kind in ("", "negative_")
    )
    return GlobalStyle(codes, tiny.encode_layout(batch).present, {"negative": negative})


@pytest.fixture(scope="module")
def noise() -> GivenNoise:
    return GivenNoise({"x_T": arrays("x_T")})


@pytest.fixture(scope="module")
def folder(tiny: ControlNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixture's networks as ``save_pretrained`` writes a whole pipeline."""
    out = tmp_path_factory.mktemp("pipeline")
    scheduler = diffusers.PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085,
                                        beta_end=0.012, steps_offset=1)  # fmt: skip
    diffusers.StableDiffusionControlNetPipeline(
        **dict(tiny.net.items()),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(str(TOKENIZER)),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(out)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def parts_apart(folder: Path, home: Path) -> tuple[Path, Path]:
    """The same as a ControlNet's folder and a base model's."""
    base = Path(shutil.copytree(folder, home / "base"))
    control = Path(shutil.move(base / "controlnet", home / "control"))
    index = json.loads((base / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionPipeline"
    del index["controlnet"]
    (base / "model_index.json").write_text(json.dumps(index))
    return control, base


# ---- parity -------------------------------------------------------------------------------------


def test_the_palette_is_ade20ks() -> None:
    c = Case.read("controlnet/controlnet.palette")
    assert ADE20K[1:] == tuple(map(tuple, c.arrays["palette"].tolist()))
    colours = torch.tensor(ADE20K, dtype=torch.uint8)
    found = colours[torch.from_numpy(c.arrays["label"]).long()].permute(0, 3, 1, 2)
    assert torch.equal(found, torch.from_numpy(c.arrays["conditioning"]))


def test_the_condition(tiny: ControlNet) -> None:
    found = tiny.conditioning(arrays("label"))
    assert found.is_contiguous()
    assert torch.equal(found, arrays("conditioning").float() / 255)


@pytest.mark.skipif(not NEW_NAMES, reason="seeded for the key names of transformers 5")
def test_the_text_encoder(tiny: ControlNet) -> None:
    with torch.no_grad():
        codes = tiny.encode_text(arrays("ids")).unflatten(1, (77, 32))
    assert TINY.off_by("prompt_embeds", codes[:1]) < 1e-5
    assert TINY.off_by("negative_prompt_embeds", codes[1:]) < 1e-5


def test_the_first_residuals(tiny: ControlNet, style: GlobalStyle) -> None:
    prompts = torch.cat([style.extra["negative"], style.codes]).unflatten(1, (77, 32))
    control = tiny.conditioning(arrays("label")).repeat(2, 1, 1, 1)
    x, t = arrays("x_T").repeat(2, 1, 1, 1), torch.tensor(TINY.meta["timesteps"][0])
    with torch.no_grad():
        down, mid = tiny.residuals(x, t, prompts, control)
    for name, found in (("act_down_0", down[0]), ("act_down_last", down[-1]), ("act_mid", mid)):
        assert TINY.off_by(name, found, *every(1, 8)) < 1e-4, name


def test_every_step(tiny: ControlNet, batch: Batch, style: GlobalStyle, noise: GivenNoise) -> None:
    with torch.inference_mode():
        latents = torch.stack(list(tiny.trajectory(tiny.encode_layout(batch), style, noise)))
        image = tiny.decode(latents[-1])
    assert TINY.off_by("latents", latents.clone(), *every(1, 1, 1, 2, 2)) < 1e-3
    assert TINY.off_by("image", image.clone()) < 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [("image_strength_half", {"strength": 0.5}), ("image_no_guidance", {"guidance": 1.0})],
)
def test_strength_and_guidance(
    name: str, options: dict[str, Any], tiny: ControlNet, batch: Batch, style: GlobalStyle,
    noise: GivenNoise, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tiny, "options", replace(tiny.options, **options))
    image = tiny.render(tiny.encode_layout(batch), style, noise)
    assert TINY.off_by(name, image.clone(), *every(1, 1, 2, 2)) < 1e-4


def test_a_folder_draws_what_diffusers_pipeline_draws(folder: Path, batch: Batch) -> None:
    options: Any = {"prompt": "a face", "negative_prompt": "fog", "steps": 3, "guidance": 4.0}
    ours: Any = ControlNet(**options).load(SPACE, folder)
    image = ours.sample(batch, Noise(batch.ids, 0))
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True
    )
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = diffusers.DDIMScheduler.from_config(
        theirs.scheduler.config, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    found = theirs(
        prompt=["a face"] * 2,
        negative_prompt=["fog"] * 2,
        image=ours.conditioning(batch.label),
        latents=Noise(batch.ids, 0).normal("x_T", 4, 32, 32),
        num_inference_steps=3,
        guidance_scale=4.0,
        height=64,
        width=64,
        output_type="pt",
    ).images
    assert float((2 * found - 1 - image).abs().max()) < 1e-4


# ---- folders ------------------------------------------------------------------------------------


def test_one_folder_or_two_are_the_same(
    folder: Path, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: Any) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    control, base = parts_apart(folder, tmp_path)
    one = ControlNet(steps=2).load(SPACE, folder)
    two = ControlNet(steps=2, base=str(base)).load(SPACE, control)
    assert one.weights_info["sha256"] == two.weights_info["sha256"]
    noise = Noise(batch.ids, 0)
    assert torch.equal(one.sample(batch, noise), two.sample(batch, noise))
    assert one.options.scheduler["beta_end"] == 0.012  # type: ignore[index]
    assert "skip_prk_steps" not in one.options.scheduler  # type: ignore[operator]
    save_weights(one, tmp_path / "own.safetensors", {})
    again = ControlNet().load(SPACE, tmp_path / "own.safetensors")
    assert torch.equal(one.sample(batch, noise), again.sample(batch, noise))
    assert two.load(SPACE, control).weights_info == two.weights_info  # the base is not forgotten


def key_of(folder: Path, **options: Any) -> Any:
    config = MethodConfig(name="controlnet", weights=str(folder), options=options)
    files = find_weights(config)
    assert not files.fault
    return files.identity, by_content(ControlNet, options)


@pytest.mark.parametrize(
    "file",
    [
        "base/unet/diffusion_pytorch_model.safetensors",
        "base/vae/config.json",
        "base/tokenizer/tokenizer_config.json",
        "base/scheduler/scheduler_config.json",
        "base/text_encoder/model.safetensors",
        "control/diffusion_pytorch_model.safetensors",
        "control/config.json",
    ],
)
def test_every_file_of_both_folders_is_in_the_key(file: str, folder: Path, tmp_path: Path) -> None:
    control, base = parts_apart(folder, tmp_path)
    before = key_of(control, base=str(base))
    moved = Path(shutil.move(base, tmp_path / "elsewhere"))
    assert key_of(control, base=str(moved)) == before
    shutil.move(moved, base)
    (base / "README.md").write_text("of no consequence")
    assert key_of(control, base=str(base)) == before
    path = tmp_path / file
    if path.suffix == ".json":
        path.write_text(path.read_text() + "\n")
    else:
        save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    assert key_of(control, base=str(base)) != before


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / name)


def config(part: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def state(part: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Any:
    def rewrite(folder: Path) -> None:
        (path,) = (folder / part).glob("*.safetensors")
        save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)

    return rewrite


def without_first(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: found[k] for k in sorted(found)[1:]}


def wider_control(folder: Path) -> None:
    raw = TINY.meta["config"]["controlnet"] | {"cross_attention_dim": 64}
    shutil.rmtree(folder / "controlnet")
    diffusers.ControlNetModel.from_config(raw).save_pretrained(folder / "controlnet")


UNET = "unet/diffusion_pytorch_model"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no unet": (remove("unet"), "has no unet/"),
    "no text encoder": (remove("text_encoder"), "has no text encoder"),
    "no ControlNet": (remove("controlnet"), "holds no ControlNet"),
    "several": (lambda f: shutil.copytree(f / "controlnet", f / "controlnet_1"), "several Contr"),
    "no scheduler": (rename("scheduler/scheduler_config.json", "x"), "has no scheduler_config"),
    "no tokenizer": (
        lambda f: [p.unlink() for p in (f / "tokenizer").iterdir()],
        "holds no tokenizer",
    ),
    "another pipeline": (
        config("model_index.json", _class_name="StableDiffusionXLPipeline"),
        "another type: StableDiffusionXLPipeline",
    ),
    "another network": (
        config("controlnet/config.json", _class_name="ControlNetUnionModel"),
        "is a ControlNetUnionModel, not a ControlNetModel",
    ),
    "another text encoder": (
        config("model_index.json", text_encoder=["transformers", "T5EncoderModel"]),
        "another text encoder: T5EncoderModel",
    ),
    "no pipeline": (rename("model_index.json", "index.json"), "no folder in diffusers' layout"),
    "a pickle": (rename(f"{UNET}.safetensors", f"{UNET}.bin"), "a pickle, which is not opened"),
    "GGUF": (rename(f"{UNET}.safetensors", "unet/q4.gguf"), "GGUF"),
    "no weights": (rename(f"{UNET}.safetensors", "unet/x"), "holds no weights"),
    "a pointer": (
        lambda f: (f / f"{UNET}.safetensors").write_text("version https://git-lfs.github.com/"),
        "Git LFS pointer",
    ),
    "cut off": (
        lambda f: (f / f"{UNET}.safetensors").write_bytes(
            (f / f"{UNET}.safetensors").read_bytes()[:9000]
        ),
        "is cut off",
    ),
    "no JSON": (lambda f: (f / "vae/config.json").write_text("{"), "cannot be read as JSON"),
    "variants": (
        lambda f: [
            shutil.copy(f / f"{UNET}.safetensors", f / f"{UNET}.fp16.safetensors"),
            rename(f"{UNET}.safetensors", f"{UNET}.ema.safetensors")(f),
        ],
        "several variants",
    ),
}
BAD_WHEN_LOADED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (state("unet", without_first), "1 missing"),
    "missing text": (state("text_encoder", without_first), "1 missing"),
    "unexpected": (state("vae", lambda s: {**s, "more": torch.zeros(2)}), r"unexpected \(more\)"),
    "mis-shaped": (
        state("controlnet", lambda s: {**s, "conv_in.bias": torch.zeros(3)}),
        r"1 mis-shaped \(conv_in.bias\)",
    ),
    "another width": (wider_control, "cross_attention_dim is 64, the base model's 32"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_folders_are_named_before_anything_is_loaded(kind: str, copy: Path) -> None:
    damage, said = BAD[kind]
    damage(copy)
    with pytest.raises(UserError, match=said) as caught:
        ControlNet().check_weights(copy)
    assert "\n" not in caught.value.message
    found = find_weights(MethodConfig(name="controlnet", weights=str(copy)))
    assert found.fault.startswith(caught.value.message)


@pytest.mark.parametrize("kind", BAD_WHEN_LOADED)
def test_weights_that_do_not_fit(kind: str, copy: Path) -> None:
    damage, said = BAD_WHEN_LOADED[kind]
    damage(copy)
    with pytest.raises(UserError, match=said) as caught:
        ControlNet().load(SPACE, copy)
    assert "\n" not in caught.value.message


def test_older_and_smaller_files(folder: Path, copy: Path, batch: Batch) -> None:
    """The text encoder's names of transformers 4, configurations with keys of other versions, and
    half precision as the only variant."""
    config("text_encoder/config.json", dropout=0.0, torch_dtype="float16")(copy)
    config("unet/config.json", of_a_newer_version=1)(copy)
    prefix = "" if NEW_NAMES else "text_model."
    old = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    state(
        "text_encoder",
        lambda s: {f"text_model.{k.removeprefix(prefix)}": v for k, v in s.items()} | old,
    )(copy)
    state("unet", lambda s: {k: v.half() for k, v in s.items()})(copy)
    rename(f"{UNET}.safetensors", f"{UNET}.fp16.safetensors")(copy)
    planned = ControlNet()
    assert planned.check_weights(copy)
    assert planned.setup(SPACE).size == (64, 64)  # as before a run
    one, two = (ControlNet(steps=1).load(SPACE, f) for f in (folder, copy))
    assert {p.dtype for p in two.net.parameters()} == {torch.float32}
    for key, value in two.net["unet"].state_dict().items():
        assert torch.equal(value, one.net["unet"].state_dict()[key].half().float())
    a, b = (m.sample_style(batch, Noise(batch.ids, 0)).codes for m in (one, two))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("weights", "options", "said"),
    [
        ("controlnet", {}, "holds a ControlNet alone"),
        ("controlnet", {"base": "nowhere"}, "no folder nowhere"),
        ("controlnet", {"base": "{}/unet"}, "base is a folder of UNet2DConditionModel alone"),
        ("unet", {"base": "{}"}, "is a UNet2DConditionModel, not a ControlNetModel"),
        ("", {"base": "{}"}, "holds a base model of its own"),
        ("nowhere", {}, "no folder"),
        (f"{UNET}.safetensors", {}, "is one file"),
        ("", {"unet": {"sample_size": 8}}, "unet is read from"),
        ("", {"tokenizer": "nowhere"}, "no tokenizer in nowhere"),
        ("", {"prompt": "a" * 200}, "at most 77 are read"),
    ],
)
def test_wrong_folders(weights: str, options: dict[str, Any], said: str, folder: Path) -> None:
    given = {k: v.format(folder) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(UserError, match=said):
        ControlNet(**given).load(SPACE, folder / weights)


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"safety_checker": "on"}, "safety_checker must be None"),
        ({"guess_mode": True}, "guess_mode must be False"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 1000}, "begin at 1000"),
        ({"steps": 1001}, "steps 1001"),
        ({"strength": -1.0}, "strength must not be negative"),
        ({"size": 0}, "size must be positive"),
        ({"resolution": 63}, "no multiple of 4"),
        ({"scheduler": {"beta_first": 1}}, "scheduler has no key 'beta_first'"),
        ({"scheduler": {"_class_name": "DDPMScheduler"}}, "'DDPMScheduler' is none of"),
        ({"scheduler": {"_class_name": "PNDMScheduler"}, "eta": 1.0}, "eta is DDIM's"),
        ({"unet": {"block_out_widths": [1]}}, "unet has no key 'block_out_widths'"),
        ({"vae": {"norm_num_groups": 7}}, "vae makes no network"),
        ({"text_encoder": {"hidden_size": 64}}, "the text encoder gives 64 numbers a token"),
        ({"palette": "none.yaml"}, "no palette file none.yaml"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    merged = {**TINY.meta["config"], **options}
    if "text_encoder" in options:
        merged["text_encoder"] = TINY.meta["config"]["text_encoder"] | options["text_encoder"]
    with pytest.raises(UserError, match=said) as caught, torch.device("meta"):
        ControlNet(**merged).setup(SPACE)
    assert "\n" not in caught.value.message


def test_names_of_diffusers_and_of_the_demo() -> None:
    theirs = {"num_inference_steps": 7, "guidance_scale": 2.0, "safety_checker": None}
    o = ControlNet(**theirs, controlnet_conditioning_scale=0.5).options
    assert (o.steps, o.guidance, o.strength) == (7, 2.0, 0.5)


def test_equal_prompts_take_one_pass(
    tiny: ControlNet, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance between equal prompts is e + s (e - e): the same image for half of the work."""
    seen: list[int] = []
    unet: Any = tiny.net["unet"]
    hook = unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    noise = Noise(batch.ids, 0)
    one = tiny.sample(batch, noise)
    monkeypatch.setattr(type(tiny.options), "two_passes", True)
    two = tiny.sample(batch, noise)
    hook.remove()
    assert seen == [2] * 4 + [4] * 4
    assert float((one - two).abs().max()) < 1e-4


def test_colours(tmp_path: Path) -> None:
    faces = LabelSpace.named("celebamask_hq")
    assert palette(None, SPACE) == ADE20K
    assert palette(None, faces) == palette("space", faces) == faces.palette
    assert palette("space", SPACE) != ADE20K
    path = tmp_path / "colours.yaml"
    rows = [[i, 2 * i, 3 * i] for i in range(19)]
    path.write_text(json.dumps(rows))
    assert palette(str(path), faces) == tuple(map(tuple, rows))
    with pytest.raises(UserError, match="has 19 colours, 'ade20k' has 151"):
        palette(str(path), SPACE)
    for bad in ([[0, 0, 256]] * 19, [[0, 0]] * 19, {"a": 1}, [[0, 0, True]] * 19):
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match="is no palette"):
            palette(str(path), faces)


def test_pixels_of_no_class_are_black(tiny: ControlNet, batch: Batch) -> None:
    label = batch.label.clone()
    label[:, 0, 0], label[:, 0, 1] = 255, HOLE
    layout = tiny.encode_layout(replace(batch, label=label))
    assert layout.label[0, 0, :2].tolist() == [0, HOLE]
    assert not tiny.conditioning(layout.label)[:, :, 0, :2].any()
    with pytest.raises(UserError, match="label values"):
        tiny.encode_layout(replace(batch, label=label.clone().fill_(151)))


def test_sizes() -> None:
    def sizes(**options: Any) -> Any:
        with torch.device("meta"):
            method: Any = ControlNet(**{**TINY.meta["config"], **options}).setup(SPACE)
        return method.size, method.resolution

    assert sizes() == ((64, 64), (64, 64))
    assert sizes(size=32) == ((32, 32), (64, 64))
    assert sizes(size=(32, 64)) == ((32, 64), (64, 128))
    assert sizes(size=(64, 97)) == ((64, 97), (64, 96))
    assert sizes(resolution=(64, 96)) == ((64, 96), (64, 96))
    assert sizes(resolution=512) == ((256, 256), (512, 512))


def test_a_smaller_size_is_a_reduction_of_the_same_drawing(batch: Batch, folder: Path) -> None:
    large, small = (ControlNet(steps=1, size=s).load(SPACE, folder) for s in (64, 32))
    noise = Noise(batch.ids, 0)
    whole = large.sample(batch, noise)
    expected = torch.nn.functional.interpolate(whole, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(small.sample(batch, noise), expected)


@pytest.mark.parametrize("name", ["PNDM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_other_schedulers(name: str, tiny: ControlNet, batch: Batch, monkeypatch: Any) -> None:
    noise, own = Noise(batch.ids, 0), tiny.sample(batch, Noise(batch.ids, 0))
    options = replace(tiny.options, scheduler={"_class_name": f"{name}Scheduler"})
    monkeypatch.setattr(tiny, "options", options)
    both, alone = tiny.sample(batch, noise), tiny.sample(batch[:1], Noise(batch.ids[:1], 0))
    assert float((both[:1] - alone).abs().max()) < 1e-3
    assert torch.equal(both, tiny.sample(batch, noise))
    assert float((both - own).abs().max()) > 1e-3


def test_without_diffusers_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(Unavailable, match="needs the library diffusers") as caught:
        ControlNet().setup(SPACE)
    assert caught.value.hint == "pip install 'sisbench[diffusers]'"
    assert ControlNet().can == {"sample"}


# ---- in a run -----------------------------------------------------------------------------------


def reasons(folder: Path, method: dict[str, Any]) -> dict[str, str]:
    """Reason of each task on toy faces."""
    raw = {
        "name": "run",
        "output": str(folder),
        "methods": [{"name": "controlnet", **method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 64, "n": 2}],
        "tasks": ["sample", "reconstruct", "transfer"],
    }
    plan = make_plan(validated(RunConfig, raw, "test"))
    known = preflight(plan, [c for c in plan.cells if not c.reason])
    return {
        c.task.name: c.reason or (known[c.key].reason if c.key in known else "") for c in plan.cells
    }


def test_faces_are_an_honest_dash(folder: Path, tmp_path: Path) -> None:
    small = {k: TINY.meta["config"][k] for k in ("unet", "vae", "text_encoder", "controlnet")}
    none = reasons(tmp_path, {"options": small})
    assert "trained by their authors, weights not published" in none["sample"]
    named = reasons(tmp_path, {"weights": "controlnet-celebamask_hq", "options": small})
    assert "trained by the authors of CA2-SIS, weights not published" in named["sample"]
    ade = reasons(tmp_path, {"weights": str(folder)})
    assert "know ADE20K's colours alone" in ade["sample"]
    own = reasons(tmp_path, {"weights": str(folder), "options": {"palette": "space"}})
    assert own["sample"] == ""
    assert "no encoder" in own["reconstruct"]
    assert "no encoder" in own["transfer"]


def test_a_run_over_real_folders(folder: Path, tmp_path: Path) -> None:
    from sisbench.pipeline import run_all

    options = {"palette": "space", "prompt": "a face", "steps": 2}
    raw = {
        "name": "run",
        "output": str(tmp_path),
        "methods": [{"name": "controlnet", "weights": str(folder), "options": options}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 64, "n": 2}],
        "tasks": ["sample"],
        "metrics": ["psnr"],
    }
    page = run_all(validated(RunConfig, raw, "test"), Progress(quiet=True))
    assert page is not None
    assert "ControlNet" in page.read_text() or "controlnet" in page.read_text()
    assert list(tmp_path.rglob("cells/*/*.png")) or list(tmp_path.rglob("*.png"))


def test_folders_are_not_added_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="weights 'controlnet-ade20k'") as caught:
        registry.path("controlnet-ade20k")
    assert caught.value.hint.endswith("give the folder's path")
    with pytest.raises(UserError, match="is a folder of files"):
        registry.add("controlnet-ade20k", tmp_path)
