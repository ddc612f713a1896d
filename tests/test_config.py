"""Configurations and protocols: strict, frozen, hashed; pair lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sisbench import methods
from sisbench.config import RunConfig, load_config
from sisbench.core.errors import UserError
from sisbench.core.schema import validated
from sisbench.protocol import Protocol, get_protocol, presets

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = {"name": "x", "methods": ["sean"], "datasets": ["toyfaces"]}


def config(**changes: object) -> RunConfig:
    return validated(RunConfig, {**GOOD, **changes}, "x.yaml")


def test_short_forms() -> None:
    found = config(
        tasks=["reconstruct", {"shape_transfer": ["hair"]}, {"transfer": {}}],
        datasets=[{"name": "toyfaces", "split": "test", "n": 4}],
    )
    assert [t.slug for t in found.tasks] == ["reconstruct", "shape_transfer[hair]", "transfer"]
    assert found.datasets[0].arguments == {"split": "test", "n": 4}
    assert found.datasets[0].shown == "toyfaces[test]"
    assert found.folder == Path("runs/x")


def test_a_config_survives_its_own_json() -> None:
    found = config(tasks=[{"shape_transfer": ["hair"]}], datasets=[{"name": "toyfaces", "n": 4}])
    assert RunConfig.model_validate(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methds": []}, "did you mean 'methods'"),
        ({"methods": [{"name": "sean", "wieghts": "x"}]}, "did you mean 'weights'"),
        ({"engine": {"batchsize": 2}}, "did you mean 'batch_size'"),
        ({"engine": {"batch_size": 0}}, "greater than or equal to 1"),
        ({"tasks": ["reconstrct"]}, "reconstrct"),
        ({"tasks": [{"interpolate_style": {"alpha": [2]}}]}, r"within \[0, 1\]"),
        ({"methods": []}, "at least 1"),
        ({"methods": ["sean", "sean"]}, "is there twice"),
        ({"name": "../up"}, "letters, digits"),
    ],
)
def test_faults_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no configuration file"):
        load_config(tmp_path / "none.yaml")
    path = tmp_path / "run.yaml"
    path.write_text("a: [")
    with pytest.raises(UserError, match="is not YAML"):
        load_config(path)
    path.write_text("- a")
    with pytest.raises(UserError, match="expected keys"):
        load_config(path)
    path.write_text("methods: [sean]\ndatasets: [toyfaces]\n")
    assert load_config(path).name == "run"


def test_presets_are_distinct_frozen_and_complete() -> None:
    assert {"sisbench1", "ca2sis2024", "scadm2024", "scam2022", "sean2020"} <= presets().keys()
    assert len({p.id for p in presets().values()}) == len(presets())
    with pytest.raises(ValueError, match="frozen"):
        get_protocol("sisbench1").seed = 3  # type: ignore[misc]


def test_a_changed_protocol_has_another_id_and_says_so() -> None:
    base, other = get_protocol("sisbench1"), get_protocol("sisbench1", {"noise": "zero"})
    assert other.id != base.id
    assert "noise=zero" in other.id
    with pytest.raises(UserError, match="did you mean 'noise'"):
        get_protocol("sisbench1", {"nose": "zero"})
    with pytest.raises(UserError, match="did you mean 'sean2020'"):
        get_protocol("sean2019")


def test_remarks_do_not_change_the_id_and_scoring_fields_do_not_change_images() -> None:
    base = get_protocol("sisbench1")
    assert base.model_copy(update={"remarks": ("x",)}).id == base.id
    other = base.model_copy(update={"fid": "clean"})
    assert other.id != base.id
    assert other.generation == base.generation


@pytest.mark.parametrize("rule", ["derangement", "half", "next"])
@pytest.mark.parametrize("n", [2, 5, 12])
def test_pair_lists(rule: str, n: int) -> None:
    protocol = get_protocol("sisbench1").model_copy(update={"pairs": rule})
    ids = [f"s{i:02d}" for i in range(n)]
    pairs = protocol.references(ids)
    assert sorted(pairs) == ids
    assert sorted(pairs.values()) == ids, "every photograph is a reference once"
    assert all(a != b for a, b in pairs.items())
    assert protocol.references(ids[::-1]) == pairs, "the order of the ids does not matter"


def test_one_sample_has_no_reference() -> None:
    with pytest.raises(UserError, match="at least two"):
        get_protocol("sisbench1").references(["a"])


def test_drawn_classes_depend_on_sample_and_seed_only() -> None:
    protocol = get_protocol("sisbench1")
    drawn = [protocol.drawn_class(f"s{i}", (1, 2, 13)) for i in range(300)]
    assert set(drawn) == {1, 2, 13}
    assert drawn[7] == protocol.drawn_class("s7", (1, 2, 13))
    other = Protocol(**protocol.model_dump() | {"seed": 1})
    assert drawn != [other.drawn_class(f"s{i}", (1, 2, 13)) for i in range(300)]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_options_of_a_file(suffix: str, tmp_path: Path) -> None:
    """An official option file is given as it is."""
    file = tmp_path / f"options{suffix}"
    manifest = FIXTURES / "spade" / "spade.ade20k151_vae.manifest.json"
    options = json.loads(manifest.read_text())["config"]
    file.write_text(json.dumps(options) if suffix == ".json" else yaml.safe_dump(options))
    raw = {
        "name": "x",
        "methods": [{"name": "spade", "options": str(file)}],
        "datasets": ["toyfaces"],
    }
    config = validated(RunConfig, raw, "x")
    assert config.methods[0].options == options
    assert methods.registry.get("spade")(**config.methods[0].options).options.ngf == 64
    for text, message in (("- 1\n", "expected options by name"), ("a: 1\na: 2\n", "twice")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            validated(RunConfig, raw, "x")
    file.unlink()
    with pytest.raises(UserError, match="option file"):
        validated(RunConfig, raw, "x")
