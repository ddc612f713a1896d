"""Every registered method and layout editor: registering one is enough to be tested here."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_networks
import torch
from tiny_networks import Once, Refused, Tiny

from sisbench import methods
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.noise import Noise
from sisbench.diagnose.conformance import check_batch, check_method
from sisbench.methods.loadable import Loadable, save_weights
from sisbench.methods.options import OfficialOptions, parse_options

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
SPACE = "celebamask_hq"
NAMES = [*methods.registry.names(), *methods.editors.names()]
README = ("**Official weights**", "**Can do**", "**Noise**")
ADD = "add an entry to tests/tiny_networks.py: METHODS (or EDITORS)"


def tiny(name: str) -> Tiny:
    """The entry of ``name``; a failure that says what to add where there is none."""
    found = {**tiny_networks.METHODS, **tiny_networks.EDITORS}.get(name)
    if found is None:
        pytest.fail(f"'{name}' is registered and has no tiny network: {ADD}['{name}']")
    if found.library:
        pytest.importorskip(found.library)
    return found


def class_of(name: str) -> type[Loadable]:
    return (methods.registry if name in methods.registry.names() else methods.editors).get(name)


def built(name: str, space: str = SPACE, **options: Any) -> Loadable:
    return class_of(name)(**options).setup(space)


def image(model: Any, batch: Batch) -> torch.Tensor:
    """What the model makes of a batch without being asked for anything special."""
    styled = not hasattr(model, "can") or "reconstruct" in model.can
    return (model.reconstruct if styled else model.sample)(batch, Noise(batch.ids, 0))


def every_option() -> list[tuple[str, str]]:
    return [(n, f.name) for n in NAMES for f in dataclasses.fields(class_of(n).Options)]


# ---- the folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_its_folder_has_the_files_of_every_method(name: str) -> None:
    package = class_of(name).__module__.rsplit(".", 1)[0]
    folder = ROOT / "methods" / package.rsplit(".", 1)[-1]
    missing = [f for f in ("README.md", "options.py", "method.py") if not (folder / f).is_file()]
    assert not missing, f"{folder.name} lacks {missing}"
    assert class_of(name).__module__ == f"{package}.method"
    assert class_of(name).Options.__module__ == f"{package}.options"
    init = (folder / "__init__.py").read_text()
    assert init.startswith('"""')
    assert class_of(name).__name__ in init
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# ")
    assert not [h for h in README if h not in readme], f"{folder.name}/README.md needs {README}"


@pytest.mark.parametrize("name", NAMES)
def test_its_options_are_documented(name: str) -> None:
    options = class_of(name).Options
    texts = [c.__doc__ or "" for c in options.__mro__ if dataclasses.is_dataclass(c)]
    entry = re.compile(r"^ +([a-z][\w, \n]*?):", re.I | re.M)
    documented = {
        word
        for text in texts
        for found in entry.findall(text)
        for word in re.findall(r"\w+", found)
    }
    missing = [f.name for f in dataclasses.fields(options) if f.name not in documented]
    assert not missing, f"{options.__name__}: 'Attributes:' does not explain {missing}"


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_listed_once(name: str) -> None:
    fields = {f.name for f in dataclasses.fields(class_of(name).Options)}
    once = tiny(name).once.keys()
    assert fields == once, f"{ADD}['{name}'].once: {sorted(fields ^ once)}"


@pytest.mark.parametrize(("name", "option"), every_option())
def test_an_option_acts_or_is_checked(name: str, option: str) -> None:
    declared = tiny(name)
    case = declared.once.get(option)
    if case is None:
        pytest.fail(f"{ADD}['{name}'].once['{option}']")
    if isinstance(case, Refused):
        with pytest.raises(UserError, match=option):
            built(name, **{**declared.options, option: case.value})
        return
    base = {**declared.options, **case.base}
    changed = {**base, **case.along, option: case.value}
    with torch.device("meta"):
        first, second = structure(name, base), structure(name, changed)
    if first == second:
        assert behaviour(name, base) != behaviour(name, changed), f"{name}: {option} does nothing"


def structure(name: str, options: Mapping[str, Any]) -> Any:
    """What is known of a method without an image."""
    model = built(name, **options)
    shapes = {m: k.official_shapes() for m, k in model.key_maps().items()}
    own = {k: tuple(v.shape) for k, v in model.net.state_dict().items()}
    can = getattr(model, "can", None)
    return shapes, own, model.size, can, getattr(model, "prefixes", None)


def behaviour(name: str, options: Mapping[str, Any]) -> Any:
    """An image, and how a label map with an unlabelled pixel is read."""
    model = built(name, **options).load(SPACE, "seeded:0")
    batch = check_batch(model.space, model.size, 1)
    unlabelled = dataclasses.replace(batch, label=batch.label.clone())
    unlabelled.label[:, 0, 0] = 255
    try:
        read = model.encode_layout(unlabelled).label.tolist()  # type: ignore[attr-defined]
    except (UserError, AttributeError):
        read = None
    return image(model, batch).tolist(), read


@pytest.mark.parametrize("name", NAMES)
def test_training_keys_are_accepted_and_unknown_ones_are_not(name: str) -> None:
    options = class_of(name).Options
    official: OfficialOptions = getattr(options, "official", OfficialOptions())
    plain = parse_options(options, tiny(name).options, name)
    for key in official.training:
        assert key not in {f.name for f in dataclasses.fields(options)}
        assert parse_options(options, {**tiny(name).options, key: {"any": 1}}, name) == plain
    known = [*official.training, *(f.name for f in dataclasses.fields(options))]
    for key in known:
        with pytest.raises(UserError, match=f"no option '{key}_'") as caught:
            parse_options(options, {f"{key}_": 1}, name)
        assert f"did you mean '{key}" in caught.value.hint


# ---- weights ------------------------------------------------------------------------------------


def claimed() -> list[tuple[str, str, str]]:
    return [(n, m, s) for n in NAMES if n in tiny_networks.METHODS or n in tiny_networks.EDITORS
            for m, s in tiny(n).manifests.items()]  # fmt: skip


@pytest.mark.parametrize(("name", "manifest", "space"), claimed())
def test_official_option_files_give_the_official_key_layout(
    name: str, manifest: str, space: str
) -> None:
    raw = json.loads((FIXTURES / f"{manifest}.manifest.json").read_text())
    # SCAM's re-implementations of SPADE and CLADE are told by their manifest's name alone
    alone = {"variant": "scam"} if "scam-" in manifest else {}
    config = {k: v for k, v in raw.get("config", alone).items() if k != "note"}
    with torch.device("meta"):
        model = built(name, space, **config)
    for module, key_map in model.key_maps().items():
        found = key_map.official_shapes()
        if "templates" in raw:  # the manifest lists the layers of all classes as one
            found = {re.sub(r"(fc_mu|style_code_)\d+", r"\1{j}", k): s for k, s in found.items()}
        assert found == {k: tuple(v) for k, v in raw["modules"][module].items()}, module


def test_every_key_layout_belongs_to_a_method() -> None:
    folders = {m.split("/")[0] for _, m, _ in claimed()}
    found = {
        f"{path.parent.name}/{path.name.removesuffix('.manifest.json')}"
        for path in FIXTURES.glob("*/*.manifest.json")
        if path.parent.name in folders
    }
    ours = {m for _, m, _ in claimed()} | {"ca2sis/ca2sis.variants"}  # a list of differences
    assert found == ours, f"{ADD}[...].manifests"


@pytest.mark.parametrize("name", NAMES)
def test_seeded_weights_come_back_from_their_file(name: str, tmp_path: Path) -> None:
    options = tiny(name).options
    model = class_of(name)(**options).load(SPACE, "seeded:0")
    save_weights(model, tmp_path / "own.safetensors", {})
    again = class_of(name)().load(SPACE, tmp_path / "own.safetensors")
    assert again.options == model.options
    state = again.net.state_dict()
    for key, value in model.net.state_dict().items():
        assert torch.equal(state[key], value), key
    batch = check_batch(model.space, model.size, 1)
    assert torch.equal(image(again, batch), image(model, batch))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_can_is_known_before_it_is_built(name: str) -> None:
    assert class_of(name)().can  # type: ignore[attr-defined]


# ---- the contract, laws and all -----------------------------------------------------------------


@pytest.mark.parametrize("name", methods.registry.names())
def test_it_keeps_the_contract(name: str) -> None:
    findings = list(check_method(name, SPACE, None, dict(tiny(name).options)))
    assert not [f for f in findings if f.ok is False]
    assert sum(f.ok is True for f in findings) >= 12


def test_a_method_without_an_entry_is_told_what_to_add() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"METHODS \(or EDITORS\)\['new'\]"):
        tiny("new")


def test_the_registry_and_the_entries_agree() -> None:
    assert tiny_networks.METHODS.keys() <= set(methods.registry.names())
    assert tiny_networks.EDITORS.keys() <= set(methods.editors.names())
    assert all(
        isinstance(case, Once | Refused)
        for entry in (*tiny_networks.METHODS.values(), *tiny_networks.EDITORS.values())
        for case in entry.once.values()
    )
