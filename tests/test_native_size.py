"""Methods of another native size than the data set: what they read, and the stated filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks
import torch
from PIL import Image

from sisbench.config import RunConfig
from sisbench.core.batch import Batch
from sisbench.core.errors import UserError
from sisbench.core.label_space import LabelSpace
from sisbench.core.noise import Noise
from sisbench.core.progress import Progress
from sisbench.core.resize import FILTERS, resize_images_pil, resize_labels_pil
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.data import Dataset, open_dataset
from sisbench.data.loader import to_batch
from sisbench.diagnose.explain import explain_scores
from sisbench.methods.codiff.method import CoDiff
from sisbench.methods.semantic_stylegan.method import SemanticStyleGAN
from sisbench.pipeline import run_all
from sisbench.run.images import to_uint8
from sisbench.run.native import fit
from sisbench.run.plan import make_plan, method_class

QUIET = Progress(quiet=True)
STORED, OPENED = 64, 16
TINY = tiny_networks.METHODS


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    """A folder of pairs of which no two neighbouring label pixels are alike, opened reduced."""
    draws = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(2):
        photo = draws.integers(0, 256, (2 * STORED, 2 * STORED, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / f"data/images/{i}.png")
        label = draws.integers(0, 19, (STORED, STORED), dtype=np.uint8)
        Image.fromarray(label).save(tmp_path / f"data/labels/{i}.png")
    root = str(tmp_path / "data")
    return {"name": "folder", "root": root, "space": "celebamask_hq", "size": OPENED}


def config(out: Path, method: dict[str, Any], data: dict[str, Any], **more: Any) -> RunConfig:
    raw = {
        "name": "native",
        "output": str(out),
        "methods": [method],
        "datasets": [data],
        "protocol": {"base": "sisbench1", "samples": 1},
        "metrics": ["psnr"],
        "engine": {"device": "cpu", "workers": 0},
    }
    return validated(RunConfig, {**raw, **more}, "test")


def cells(run: RunConfig) -> list[CellView]:
    run_all(run, QUIET)
    return RunStore(run.folder).cells()


def batch(data: Dataset, i: str = "0") -> Batch:
    return to_batch([data.load(i)], data.space)


@pytest.mark.parametrize("by", FILTERS)
def test_images_are_brought_to_the_data_set_by_the_filter_that_is_named(
    by: str, method_file: str, pairs: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": method_file, "resize": by}
    (cell,) = cells(config(tmp_path / "run", entry, pairs))
    method = method_class(method_file)().load("celebamask_hq", None)
    data = open_dataset(**{**pairs, "size": 32})
    native = method.reconstruct(batch(data), Noise(("0",), 0))
    planes = [Image.fromarray(p.numpy()).resize((16, 16), FILTERS[by]) for p in native[0]]
    expected = torch.from_numpy(np.stack([np.asarray(p) for p in planes]))[None].clamp(-1, 1)
    np.testing.assert_array_equal(cell.image("0"), to_uint8(expected, "round")[0].numpy())
    method_entry = cell.entry.method
    assert method_entry.size == (32, 32)
    assert method_entry.resized == f"images from 32x32 to 16x16 by PIL's {by}"
    assert method_entry.reads.startswith("photographs at 32x32 by PIL's bicubic")
    scores = RunStore(tmp_path / "run").scores()[0]
    assert [s.extra["resize"] for s in scores if s.method == "MeanColour"] == [method_entry.resized]
    text = explain_scores(tmp_path / "run", "psnr")
    assert method_entry.resized in text
    assert method_entry.reads in text
    page = (tmp_path / "run/report/report.html").read_text()
    assert "32x32 to 16x16" in page


def test_without_a_filter_another_size_is_refused(
    method_file: str, pairs: dict[str, Any], tmp_path: Path
) -> None:
    (cell,) = cells(config(tmp_path / "run", {"name": method_file}, pairs))
    assert cell.entry.status == "failed"
    assert "name a filter: 'resize'" in cell.entry.reason
    with pytest.raises(UserError, match="resize"):
        config(tmp_path, {"name": method_file, "resize": "blur"}, pairs)


def test_keys_follow_the_filter_and_what_a_method_reads(
    method_file: str, pairs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(entry: dict[str, Any]) -> str:
        return make_plan(config(tmp_path, entry, pairs)).cells[0].key

    codiff = {"name": "codiff", "weights": "seeded:0"}
    keys = [key({"name": method_file}), *(key({"name": method_file, "resize": f}) for f in FILTERS)]
    assert len({*keys}) == 1 + len(FILTERS)
    stored = key(codiff)
    monkeypatch.setattr(CoDiff, "stored_labels", False)
    assert key(codiff) != stored


def test_the_label_map_of_an_edit_is_kept_at_the_size_of_its_image(
    method_file: str, pairs: dict[str, Any], tmp_path: Path
) -> None:
    entry = {"name": method_file, "resize": "area"}
    run = config(
        tmp_path / "run", entry, pairs, tasks=[{"shape_transfer": ["hair"]}], metrics=["fid"]
    )
    (cell,) = cells(run)
    row = cell.item_rows()[0]
    drawn = cell.drawn_path(row)
    assert drawn is not None
    assert np.asarray(Image.open(drawn)).shape == (OPENED, OPENED)
    assert cell.image(row.id).shape[:2] == (OPENED, OPENED)


@pytest.mark.parametrize("opened", [16, 32])
def test_codiff_reduces_the_stored_label_map_in_one_step(
    opened: int, pairs: dict[str, Any], tmp_path: Path
) -> None:
    """64 to 8 in one step takes other pixels than by way of 16, whatever the run is opened at."""
    native = CoDiff(**TINY["codiff"].options).options.native
    assert native == 16
    entry = {"name": "codiff", "weights": "seeded:0", "options": TINY["codiff"].options}
    entry["resize"] = "area"
    data = {**pairs, "size": opened}
    (cell,) = cells(config(tmp_path / "run", entry, data, tasks=["sample"], metrics=["fid"]))
    assert cell.entry.status == "done"
    method = CoDiff(**TINY["codiff"].options).load("celebamask_hq", "seeded:0")
    stored = open_dataset(**{**pairs, "size": STORED})
    reduced = open_dataset(**{**pairs, "size": native})
    row = cell.item_rows()[0]
    images = [method.sample(batch(d), Noise((row.id,), 0)) for d in (stored, reduced)]
    fitted = fit(method, open_dataset(**data), "area")
    resized = [resize_images_pil(i, (opened, opened), "area") for i in images]
    kept, by_way = (to_uint8(i, "round")[0].numpy() for i in resized)
    np.testing.assert_array_equal(cell.image(row.id), kept)
    assert not np.array_equal(kept, by_way)
    assert (
        cell.entry.method.reads == fitted.reads == "label maps as stored, which the method "
        "itself reduces"
    )
    assert bool(cell.entry.method.resized) == (opened != native)


def test_photographs_come_by_the_filter_of_the_method(pairs: dict[str, Any]) -> None:
    options = {**TINY["semantic-stylegan"].options, "size": 32}
    method = SemanticStyleGAN(**options).setup("celebamask_hq")
    data = open_dataset(**pairs)
    found = fit(method, data, "area").dataset.load("0")
    with Image.open(Path(pairs["root"]) / "images/0.png") as photo:
        wanted = photo.resize((32, 32), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found.image, np.asarray(wanted))
    with Image.open(Path(pairs["root"]) / "labels/0.png") as label:
        stored = np.asarray(label).astype(np.int64)
    np.testing.assert_array_equal(found.label, resize_labels_pil(stored, (32, 32)))
    assert data.load("0").image.shape == (OPENED, OPENED, 3), "the run's own view is as it was"


def test_every_data_set_reads_at_another_size_or_says_no(pairs: dict[str, Any]) -> None:
    faces = open_dataset("toyfaces", size=32, n=2)
    other = faces.read_at((16, 16))
    same = open_dataset("toyfaces", size=16, n=2)
    np.testing.assert_array_equal(other.load(same.ids[0]).image, same.load(same.ids[0]).image)
    assert faces.read_at((16, 16), stored_labels=True).load(faces.ids[0]).label.shape == (32, 32)

    class Own(Dataset):
        name, split, space, size, ids = "own", "", LabelSpace.named("celebamask_hq"), (8, 8), ("a",)

        def load(self, sample_id: str) -> Any:
            raise NotImplementedError

        def fingerprint(self) -> str:
            return ""

    method = SemanticStyleGAN(**TINY["semantic-stylegan"].options).setup("celebamask_hq")
    with pytest.raises(UserError, match="read at its own size alone"):
        fit(method, Own(), "area")
