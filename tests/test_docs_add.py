"""The thirty-line metric, parser and data set of the documents are as good citizens as ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sisbench import segmenters
from sisbench.config import RunConfig
from sisbench.core.label_space import LabelSpace
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import RunStore
from sisbench.data import open_dataset
from sisbench.diagnose.doctor import examine
from sisbench.diagnose.explain import explain
from sisbench.pipeline import run_all, write_report

ROOT = Path(__file__).resolve().parent.parent
FILES = {"add-a-metric": "my_metric", "add-a-parser": "my_parser", "add-a-data-set": "my_data"}
METRIC = "./my_metric.py:ColourShift"
PARSER = "./my_parser.py:NearestColour"


def block(document: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(), re.S)
    assert found is not None
    return found.group(1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for document, name in FILES.items():
        (tmp_path / f"{name}.py").write_text(block(f"{document}.md", "python"))
    return tmp_path


@pytest.mark.parametrize("document", FILES)
def test_thirty_lines(document: str) -> None:
    code = [line for line in block(f"{document}.md", "python").splitlines() if line.strip()]
    assert len(code) <= 30


def config(method_file: str, folder: Path, **more: Any) -> dict[str, Any]:
    worse = folder / "worse.py"
    text = Path(method_file.rpartition(":")[0]).read_text()
    worse.write_text(text.replace("0.05 * grain", "0.5 * grain"))
    return {
        "name": "own",
        "output": str(folder / "run"),
        "methods": [
            {"name": method_file, "label": "one"},
            {"name": f"{worse}:MeanColour", "label": "other"},
        ],
        "metrics": [METRIC, "miou", "psnr"],
        **more,
    }


def test_metric_and_parser_are_scored_explained_and_compared(here: Path, method_file: str) -> None:
    data = [{"name": "toyfaces", "size": 32, "n": 4}]
    parsers = yaml.safe_load(block("add-a-parser.md", "yaml"))
    raw = config(method_file, here, datasets=data, **parsers)
    (here / "own.yaml").write_text(yaml.safe_dump(raw))
    assert not [f for f in examine(here / "own.yaml") if f.state == "fail"]
    run_all(validated(RunConfig, raw, "own"), Progress(quiet=True))
    scores, about = RunStore(here / "run").scores()
    own = {s.method: s for s in scores if s.metric == METRIC and s.task == "reconstruct"}
    assert own["one"].value is not None
    assert own["one"].se is not None
    assert about[METRIC].title == "Colour shift"
    parsed = [s for s in scores if s.metric == "miou" and s.task == "reconstruct"]
    assert {s.method for s in parsed} == {"one", "other", "(photographs)"}
    assert all(s.extra["parser"].startswith("nearest-colour ") for s in parsed)
    page = write_report(here / "run", versus="one").read_text()
    assert "Colour shift" in page
    assert "difference to one on the same items" in page
    text = explain(METRIC, "sisbench1")
    assert "Difference of the mean colours" in text
    assert "rows made in" in text


def test_data_set_is_run_and_scored(here: Path, method_file: str) -> None:
    raw = config(method_file, here, **yaml.safe_load(block("add-a-data-set.md", "yaml")))
    (here / "own.yaml").write_text(yaml.safe_dump(raw))
    assert not [f for f in examine(here / "own.yaml") if f.state == "fail"]
    run_all(validated(RunConfig, raw, "own"), Progress(quiet=True))
    scores, _ = RunStore(here / "run").scores()
    psnr = [s for s in scores if s.metric == "psnr" and s.task == "reconstruct"]
    assert all(s.value is not None and s.dataset == "Stripes" for s in psnr)
    reasons = {s.reason for s in scores if s.metric == "miou"}
    assert reasons == {"no parser is known for 'stripes' (name one under 'parsers')"}


def test_data_set_opens_by_name(here: Path) -> None:
    data = open_dataset("./my_data.py:Stripes", n=2)
    sample = data.load(data.ids[0])
    assert sample.image.shape == (*sample.label.shape, 3)


def test_parser_loads_by_name(here: Path) -> None:
    import torch

    space = LabelSpace.named("celebamask_hq")
    parser = segmenters.create(PARSER, space).load()
    colours = torch.tensor(space.palette, dtype=torch.uint8).T[None, :, None]  # (1, 3, 1, C)
    assert parser(colours).flatten().tolist() == list(range(len(space)))
