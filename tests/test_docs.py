"""The documents' code runs, they name every key and task, their lines fit, their links lead on."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel
from test_imports import PLAN

import sisbench
from sisbench.config import DatasetConfig, EditorConfig, RunConfig
from sisbench.core.noise import Noise
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.tasks import TASKS
from sisbench.data import registry as datasets
from sisbench.diagnose.conformance import check_method
from sisbench.methods import base
from sisbench.methods.key_map import KeyMap
from sisbench.methods.loadable import official_files
from sisbench.pipeline import run_all

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
KEYS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
NOTEBOOK = ROOT / "docs" / "example.ipynb"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [*PAGES, *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S)


def block(language: str) -> str:
    return blocks(language)[0]


@pytest.fixture
def my_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_method.py").write_text(block("python"))
    return "./my_method.py:MyMethod"


def test_the_method_is_thirty_lines(my_method: str) -> None:
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 30


def test_the_method_keeps_the_contract(my_method: str) -> None:
    findings = list(check_method(my_method, "celebamask_hq", None, {}))
    assert len(findings) >= 10
    assert not [f for f in findings if f.ok is False]


def test_the_run_of_the_guide(my_method: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(block("yaml"))
    raw["datasets"][0]["n"] = 3
    page = run_all(validated(RunConfig, {"name": "my_run", **raw}, "guide"), Progress(quiet=True))
    assert page is not None
    assert "Mine" in page.read_text()
    assert "seeded" in page.read_text()


def test_the_guide_states_the_signature_of_draw() -> None:
    assert [*inspect.signature(base.draw).parameters] == [
        *("noise", "name", "batch", "shape", "like")
    ]
    assert "draw(noise, name, batch, *shape, like) -> Tensor" in GUIDE


def test_the_guides_prior_draws_a_style() -> None:
    (code,) = (b for b in blocks("python") if b.startswith("def sample_style"))
    names: dict[str, Any] = dict(vars(base)) | {"Batch": object}
    exec(code, names)
    batch: Any = type("B", (), {"__len__": lambda self: 2})()
    batch.image, batch.label = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    style = names["sample_style"](SimpleNamespace(num_classes=5), batch, Noise(("a", "b"), 0))
    assert style.codes.shape == (2, 5, 16)


@pytest.mark.parametrize(
    ("number", "there", "expected"),
    [
        (0, ("latest_net_G.pth", "40_net_G.pth", "latest_net_E.pth"), "latest_net_G.pth"),
        (0, ("40_net_G.pth", "40_net_E.pth", "40_net_D.pth"), "40_net_G.pth"),
        (1, ("last.ckpt", "epoch=3.ckpt"), "last.ckpt"),
        (1, ("epoch=3.ckpt",), "epoch=3.ckpt"),
    ],
)
def test_the_guides_patterns_find_official_files(
    number: int, there: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    found: dict[str, Any] = {}
    exec([b for b in blocks("python") if b.startswith("files")][number], found)
    for name in there:
        (tmp_path / name).touch()
    method: Any = SimpleNamespace(files=found["files"], key_maps=lambda: found["files"])
    assert next(iter(official_files(method, tmp_path).values())).name == expected


def test_the_guide_names_every_way_to_map_a_key() -> None:
    ways = {
        name
        for name, call in vars(KeyMap).items()
        if inspect.isfunction(call) and call.__annotations__.get("return") == "None"
    }
    for name in {w for w in ways if not w.startswith("_")} - {"load", "check"}:
        assert f"`{name}(" in GUIDE, f"add-a-method.md does not name KeyMap.{name}"


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model with all that its fields hold."""
    found = {model}
    for field in model.model_fields.values():
        for part in re.findall(r"sisbench\.config\.(\w+)", repr(field.annotation)):
            found |= models(getattr(sisbench.config, part))
    return found


@pytest.mark.parametrize("model", sorted(models(RunConfig), key=lambda m: m.__name__))
def test_the_configuration_document_names_every_key(model: type[BaseModel]) -> None:
    for key in model.model_fields.keys() - ({"arguments"} if model is DatasetConfig else set()):
        assert re.search(rf"(^|[\s{{`-]){key}[:`]", KEYS, re.M), f"'{key}' of {model.__name__}"


def test_the_models_of_a_run_are_all_found() -> None:
    assert {EditorConfig, DatasetConfig} < models(RunConfig)
    assert len(models(RunConfig)) >= 6


@pytest.mark.parametrize("task", sorted({*TASKS, "layout_reconstruction"}))
def test_the_configuration_document_names_every_task(task: str) -> None:
    assert f"| `{task}` |" in KEYS


@pytest.mark.parametrize("name", datasets._builtin)
def test_the_configuration_document_names_every_argument_of_a_data_set(name: str) -> None:
    (row,) = (line for line in KEYS.splitlines() if line.startswith(f"| `{name}` |"))
    arguments = inspect.signature(datasets.get(name).__init__).parameters
    assert set(re.findall(r"`(\w+)`", row)) == {*arguments, name} - {"self"}


def test_the_configuration_documents_example_is_valid() -> None:
    found = re.search(r"```yaml\n(.*?)```", KEYS, re.S)
    assert found is not None
    assert validated(RunConfig, yaml.safe_load(found.group(1)), "document").layout_editor


def test_contributing_shows_the_floor_plan() -> None:
    """Its table is the plan that tests/test_imports.py enforces."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = {}
    for names, imports in re.findall(r"^\| (`.*?) \| .* \| (.*) \|$", text, re.M):
        for room in re.findall(r"`(?:bench/)?(\w+)(?:\.py)?`", names):
            shown[room] = set() if imports == "nothing of ours" else set(imports.split(", "))
    assert {room: shown.get(room) for room in PLAN} == PLAN


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_fit_a_screen(document: str) -> None:
    width = 100 if document == "README.md" else 120
    for number, line in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= width or "](" in line, f"{document}:{number} has {len(line)} columns"


@pytest.mark.skipif(
    not hasattr(sisbench, "open_run"), reason="sisbench.open_run, which it starts from, is missing"
)
def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    assert any("image/png" in o.get("data", {}) for o in shown), "no plot"
    assert any("PSNR of SPADE" in o.get("text", "") for o in shown), "no comparison"
