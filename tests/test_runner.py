"""The runner: the same images in any batching and order, resume after kill -9, honest failures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sisbench.config import RunConfig
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.pipeline import run_all, score_run
from sisbench.report.quality import RunResults, quality_tables
from sisbench.run import runner
from sisbench.run.images import to_uint8
from sisbench.run.locks import run_lock
from sisbench.run.method_entry import method_class, resolve_weights
from sisbench.run.plan import make_plan

QUIET = Progress(quiet=True)
TASKS = [
    "reconstruct",
    "transfer",
    {"class_transfer": ["hair"]},
    "shape_transfer",
    "subject_transfer",
    "sample",
    {"mixed": ["hair"]},
    {"interpolate_style": {"alpha": [0.5]}},
]


def config(method: str, out: Path, n: int = 6, **changes: Any) -> RunConfig:
    raw = {
        "name": "test",
        "output": str(out),
        "protocol": {"base": "sisbench1", "samples": 2},
        "methods": [{"name": method}],
        "datasets": [{"name": "toyfaces", "split": "test", "size": 32, "n": n}],
        "tasks": TASKS,
        "metrics": ["psnr", "ssim"],
        "engine": {"device": "cpu", "batch_size": 4, "workers": 2},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def images(run: Path) -> dict[str, np.ndarray]:
    found = {}
    for cell in RunStore(run).cells():
        for row in cell.items():
            found[f"{cell.entry.task.slug}/{row['id']}"] = cell.image(row["id"])
    return found


def table_bytes(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run / "report" / "tables").iterdir())}


def test_every_task_runs_and_a_second_run_computes_nothing(
    method_file: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    page = run_all(config(method_file, out), QUIET)
    assert page is not None
    assert page.is_file()
    cells = RunStore(out).cells()
    assert [c.entry.status for c in cells] == ["done"] * len(TASKS)
    assert len(images(out)) == 6 * 9, "two samples a label map, one image a target elsewhere"
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.png") if "cells" in p.parts}
    rows = {p: p.stat().st_mtime_ns for p in out.rglob("*.npz")}
    assert rows
    tables = table_bytes(out)
    timer = runner.generate(make_plan(config(method_file, out)), QUIET)
    assert timer.images == 0
    run_all(config(method_file, out), QUIET)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert {p: p.stat().st_mtime_ns for p in rows} == rows
    assert table_bytes(out) == tables


def test_images_do_not_depend_on_batch_size_or_order(method_file: str, tmp_path: Path) -> None:
    one = config(method_file, tmp_path / "one", engine={"device": "cpu", "batch_size": 1})
    five = config(method_file, tmp_path / "five", engine={"device": "cpu", "batch_size": 5})
    runner.generate(make_plan(one), QUIET)
    runner.generate(make_plan(five), QUIET)
    plan = make_plan(config(method_file, tmp_path / "shuffled"))
    shuffled = [
        type(c)(
            **{
                **vars(c),
                "items": tuple(c.items[k] for k in (3, 0, 5, 1, 4, 2) if k < len(c.items)),
            }
        )
        for c in plan.cells
        if len(c.items) == 6
    ]
    runner.generate(replace(plan, cells=shuffled), QUIET)
    first, second, third = (images(tmp_path / name) for name in ("one", "five", "shuffled"))
    assert first.keys() == second.keys()
    for name, image in first.items():
        assert np.array_equal(image, second[name]), name
    for name, image in third.items():
        assert np.array_equal(image, first[name]), name


def test_drawn_label_maps_are_kept_where_they_differ(method_file: str, tmp_path: Path) -> None:
    run = config(method_file, tmp_path / "run", tasks=["reconstruct", {"shape_transfer": ["hair"]}])
    runner.generate(make_plan(run), QUIET)
    own, swapped = RunStore(tmp_path / "run").cells()
    data = make_plan(run).datasets["toyfaces[test]"]
    assert own.label_path("test-00000") is None
    from sisbench.score.sources import Photographs, drawn_label

    photos = Photographs(data, "x")
    item = next(r for r in swapped.item_rows() if r.classes)
    drawn = drawn_label(swapped, item, photos)
    there, here = data.load(item.reference).label == 13, data.load(item.target).label == 13
    assert np.array_equal(drawn == 13, there)
    assert np.array_equal(drawn == -1, here & ~there)


def test_kill_9_and_resume_gives_the_same_bytes(method_file: str, tmp_path: Path) -> None:
    """Killed at three different moments; the tables equal those of an undisturbed run."""
    slow = Path(method_file.rpartition(":")[0])
    slow.write_text(
        slow.read_text().replace(
            "        flat = one_hot",
            "        import time\n        time.sleep(0.15)\n        flat = one_hot",
        )
    )
    files = {}
    for name in ("whole", "killed"):
        raw = config(method_file, tmp_path / name).model_dump(mode="json")
        raw["tasks"] = ["reconstruct", "transfer", "shape_transfer"]
        raw["engine"]["batch_size"] = 2
        raw["datasets"] = [{"name": "toyfaces", "split": "test", "size": 32, "n": 12}]
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "sisbench", "run", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(files["whole"])], check=True, env=environment)
    kills = 0
    for wanted in (3, 14, 30):
        process = subprocess.Popen([*command, str(files["killed"])], env=environment)
        deadline = time.time() + 120
        while time.time() < deadline and process.poll() is None:
            if len(list((tmp_path / "killed").rglob("images/*.png"))) >= wanted:
                break
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2, "the run was over before it could be killed"
    subprocess.run([*command, str(files["killed"])], check=True, env=environment)
    whole, killed = images(tmp_path / "whole"), images(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(np.array_equal(whole[k], killed[k]) for k in whole)
    assert table_bytes(tmp_path / "whole") == table_bytes(tmp_path / "killed")


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    with (
        run_lock(tmp_path),
        pytest.raises(UserError, match="another process"),
        run_lock(tmp_path),
    ):
        pass


def edited(method_file: str, render: str) -> str:
    """The tiny method with lines put before its rendering."""
    path = Path(method_file.rpartition(":")[0])
    head = "        flat = one_hot"
    path.write_text(path.read_text().replace(head, render + head))
    return method_file


def test_out_of_memory_halves_the_batch(method_file: str, tmp_path: Path) -> None:
    edited(
        method_file,
        "        if len(layout.label) > 1:\n"
        "            raise torch.cuda.OutOfMemoryError('CUDA out of memory')\n",
    )
    run = config(method_file, tmp_path / "run", tasks=["reconstruct"])
    runner.generate(make_plan(run), QUIET)
    cell = RunStore(tmp_path / "run").cells()[0]
    assert cell.entry.status == "done"
    assert {row["batch"] for row in cell.items()} == {1}


def test_one_bad_sample_does_not_end_the_run(method_file: str, tmp_path: Path) -> None:
    """A sample that renders NaN and one whose rendering raises are recorded; the rest is scored."""
    edited(
        method_file,
        "        bad = torch.isclose(style.codes[:, 0, 0], torch.tensor(1e9))\n"
        "        if bad.any():\n            raise RuntimeError('cannot draw this')\n",
    )
    text = Path(method_file.rpartition(":")[0]).read_text()
    made = "        return Style(codes, present_classes(batch.label, self.num_classes))\n"
    text = text.replace(
        f"{made}\n    def sample",
        "        for k, i in enumerate(batch.ids):\n"
        "            if i.endswith('2'):\n                codes[k] = 1e9\n"
        "            if i.endswith('4'):\n                codes[k] = float('nan')\n"
        f"{made}\n    def sample",
    )
    Path(method_file.rpartition(":")[0]).write_text(text)
    run = config(method_file, tmp_path / "run", tasks=["reconstruct"])
    run_all(run, QUIET)
    store = RunStore(tmp_path / "run")
    cell = store.cells()[0]
    assert cell.entry.status == "partial"
    assert "2 of 6 items failed" in cell.entry.reason
    errors = {row["id"]: row["error"] for row in cell.items() if row["error"]}
    assert errors.keys() == {"test-00002", "test-00004"}
    assert "cannot draw this" in errors["test-00002"]
    assert "non-finite" in errors["test-00004"]
    score = next(s for s in store.scores()[0] if s.metric == "psnr")
    assert score.n == 4
    assert any("failed" in mark for mark in score.marks)


def test_reasons_for_dashes(method_file: str, tmp_path: Path) -> None:
    run = config(
        method_file,
        tmp_path / "run",
        tasks=["reconstruct", "interpolate_shape"],
        methods=[
            {"name": method_file},
            {"name": "spade", "weights": "nowhere.pth"},
            {"name": "spade", "label": "no weights"},
        ],
        metrics=["psnr", "fid"],
    )
    run_all(run, QUIET)
    store = RunStore(tmp_path / "run")
    reasons = {(c.entry.method.label, c.entry.task.name): c.entry.reason for c in store.cells()}
    assert "no layout embedding" in reasons["MeanColour", "interpolate_shape"]
    assert "no weights at nowhere.pth" in reasons["spade", "reconstruct"]
    assert "needs weights" in reasons["no weights", "reconstruct"]
    fid = next(s for s in store.scores()[0] if s.metric == "fid" and s.method == "MeanColour")
    assert fid.value is None
    assert "inception" in fid.reason
    with pytest.raises(UserError):
        run_all(run, QUIET, strict=True)


def test_a_size_that_does_not_fit_is_a_dash_with_its_remedy(
    method_file: str, tmp_path: Path
) -> None:
    data = [{"name": "toyfaces", "split": "test", "size": 48, "n": 4}]
    run = config(method_file, tmp_path / "run", tasks=["reconstruct"], datasets=data)
    runner.generate(make_plan(run), QUIET)
    assert "renders 32x32" in RunStore(tmp_path / "run").cells()[0].entry.reason


def test_keys_follow_what_images_depend_on(method_file: str, tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        return (
            make_plan(config(method_file, tmp_path / "x", **{"tasks": ["transfer"], **changes}))
            .cells[0]
            .key
        )

    base = key()
    assert key(engine={"batch_size": 1}) == base
    assert key(metrics=["psnr"]) == base
    assert key(protocol={"base": "sisbench1", "samples": 2, "fid": "clean"}) == base
    assert key(protocol={"base": "sisbench1", "samples": 2, "seed": 1}) != base
    assert key(datasets=[{"name": "toyfaces", "size": 32, "n": 5}]) != base
    Path(method_file.rpartition(":")[0]).write_text(
        Path(method_file.rpartition(":")[0]).read_text() + "\n"
    )
    assert key() != base, "a method's own file is part of the key"


def test_costs_are_recorded(method_file: str, tmp_path: Path) -> None:
    engine = {"device": "cpu", "batch_size": 3, "profile": True}
    toy = {"name": "spade", "weights": "bundled:toy-spade"}
    data = [{"name": "toyfaces", "split": "test", "size": 64, "n": 4}]
    plain = config(method_file, tmp_path / "plain", tasks=["reconstruct"])
    run = config("x", tmp_path / "run", tasks=["reconstruct"], methods=[toy], datasets=data)
    run = run.model_copy(update={"engine": type(run.engine)(**engine)})
    run_all(run, QUIET)
    score_run(tmp_path / "run", ["seconds", "flops", "parameters", "peak_memory"], [], [], QUIET)
    found = {s.metric: s for s in RunStore(tmp_path / "run").scores()[0]}
    net = method_class("spade")().load("celebamask_hq", str(resolve_weights(toy["weights"]))).net
    assert found["parameters"].value == sum(p.numel() for p in net.parameters())
    assert found["flops"].n == 1
    assert 1e7 < found["flops"].value < 1e10
    assert found["peak_memory"].n == 4
    if sys.platform == "linux":
        assert 1e8 < found["peak_memory"].value < 1e11
    assert "GFLOP" in (tmp_path / "run" / "report" / "report.html").read_text()
    runner.generate(make_plan(plain), QUIET)
    score_run(tmp_path / "plain", ["flops"], [], [], QUIET)
    reasons = {s.metric: s.reason for s in RunStore(tmp_path / "plain").scores()[0]}
    assert "profile: true" in reasons["flops"]


HALF = {"base": "sisbench1", "pairs": "half"}


def test_protocols_share_the_images_that_they_make_alike(method_file: str, tmp_path: Path) -> None:
    both = ["sisbench1", HALF]
    tasks = ["reconstruct", "transfer"]
    run = config(method_file, tmp_path / "run", tasks=tasks, protocol=both)
    run_all(run, QUIET)
    store = RunStore(tmp_path / "run")
    made = [(c.entry.task.slug, len(c.entry.protocols)) for c in store.cells()]
    assert made == [("reconstruct", 2), ("transfer", 1), ("transfer", 1)]
    references = [[r["reference"] for r in c.items()] for c in store.cells()[1:]]
    assert references[0] != references[1]
    psnr = {(s.task, s.protocol): s for s in store.scores()[0] if s.metric == "psnr"}
    one, other = (p.id for p in store.scores_file().protocols)
    assert psnr["reconstruct", one].cell == psnr["reconstruct", other].cell
    assert psnr["transfer", one].cell != psnr["transfer", other].cell
    assert psnr["transfer", one].value != psnr["transfer", other].value
    alone = config(method_file, tmp_path / "alone", tasks=tasks, protocol=HALF)
    run_all(alone, QUIET)
    scores = RunStore(tmp_path / "alone").scores()[0]
    for s in scores:
        if s.metric == "psnr":
            assert s.value == psnr[s.task, other].value, "as in a run of its own"
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert one in page
    assert other in page
    table = quality_tables(RunResults.of(tmp_path / "run"), [one, other])[1]
    assert {g for g, _ in table.groups()} == {f"protocol {one}", f"protocol {other}"}


def test_protocols_that_round_otherwise_share_a_rendering(method_file: str, tmp_path: Path) -> None:
    cut = {"base": "sisbench1", "quantise": "truncate"}
    tasks = ["reconstruct", "shape_transfer"]
    one = config(method_file, tmp_path / "one", tasks=tasks, protocol="sisbench1")
    both = config(method_file, tmp_path / "both", tasks=tasks, protocol=["sisbench1", cut])
    alone = config(method_file, tmp_path / "alone", tasks=tasks, protocol=cut)
    assert runner.generate(make_plan(one), QUIET).images == 12
    assert runner.generate(make_plan(both), QUIET).images == 12, "each was rendered once"
    assert runner.generate(make_plan(alone), QUIET).images == 12
    folders = {"one": [0, 2], "alone": [1, 3]}
    made = RunStore(tmp_path / "both").cells()
    assert [c.entry.status for c in made] == ["done"] * 4
    for name, places in folders.items():
        for k, cell in zip(places, RunStore(tmp_path / name).cells(), strict=True):
            assert cell.key == made[k].key
            for row, same in zip(cell.items(), made[k].items(), strict=True):
                assert (row["id"], row["classes"]) == (same["id"], same["classes"])
                for path in ("images", "labels"):
                    files = [c.folder / path / f"{row['id']}.png" for c in (cell, made[k])]
                    assert files[0].is_file() == files[1].is_file()
                    if files[0].is_file():
                        assert files[0].read_bytes() == files[1].read_bytes()
    for path in list((tmp_path / "both").rglob("images/test-00003.png"))[:1]:
        path.unlink()
    assert runner.generate(make_plan(both), QUIET).images == 1, "only what is lacking"
    assert [c.entry.status for c in RunStore(tmp_path / "both").cells()] == ["done"] * 4


def test_scoring_under_another_protocol_takes_the_images_that_it_would_make(
    method_file: str, tmp_path: Path
) -> None:
    run = config(method_file, tmp_path / "run", tasks=["reconstruct", "transfer"], protocol=HALF)
    run_all(run, QUIET)
    score_run(tmp_path / "run", ["psnr"], ["sisbench1"], [], QUIET)
    scores = RunStore(tmp_path / "run").scores()[0]
    found = {s.task: s for s in scores if s.protocol.startswith("sisbench1@")}
    assert found["reconstruct"].value is not None
    assert found["transfer"].value is None
    assert "were not made: pairs differs" in found["transfer"].reason
    with pytest.raises(UserError, match=r"differ in .*quantise"):
        score_run(tmp_path / "run", ["psnr"], ["ca2sis2024"], [], QUIET)


def test_a_metric_more_leaves_the_figures_that_are_there(method_file: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "run")
    run_all(config(method_file, tmp_path / "run", tasks=["reconstruct"]), QUIET)
    first = store.scores()[0]
    score_run(tmp_path / "run", ["psnr_pooled", "ssim"], [], [], QUIET)
    second, about = store.scores()
    assert [s.metric for s in second] == [s.metric for s in first] + ["psnr_pooled"]
    assert second[: len(first)] == first
    assert {"psnr", "psnr_pooled"} <= about.keys()
    score_run(tmp_path / "run", None, [], [], QUIET)
    assert store.scores()[0] == first, "without a choice, the run's own metrics alone"


def test_a_protocol_is_listed_once(method_file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sisbench1, sisbench1"):
        make_plan(config(method_file, tmp_path, protocol=["sisbench1", "sisbench1"]))


def test_a_run_of_an_earlier_schema_says_what_to_do(method_file: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 1, "cells": []}')
    with pytest.raises(UserError, match="an earlier sisbench"):
        RunStore(tmp_path).manifest()


@pytest.mark.parametrize(
    ("rule", "expected"), [("round", [0, 0, 128, 255, 255]), ("truncate", [0, 0, 127, 254, 255])]
)
def test_quantisation_happens_once_and_by_rule(rule: str, expected: list[int]) -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 0.997, 2.0])
    image = values.view(1, 1, 1, 5).expand(1, 3, 1, 5)
    out = to_uint8(image, rule)
    assert out.shape == (1, 1, 5, 3)
    assert out[0, 0, :, 0].tolist() == expected


def test_damaged_rows_and_manifests(method_file: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = config(method_file, out, tasks=["reconstruct"])
    run_all(run, QUIET)
    tables = table_bytes(out)
    for rows in out.rglob("*.npz"):
        rows.write_bytes(b"damaged")
    run_all(run, QUIET)
    assert table_bytes(out) == tables, "damaged rows are made anew"
    (out / "run.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        RunStore(out).manifest()
    with pytest.raises(UserError, match="no file"):
        RunStore(tmp_path / "nothing").manifest()


def test_a_deleted_image_is_made_again(method_file: str, tmp_path: Path) -> None:
    run = config(method_file, tmp_path / "run", tasks=["reconstruct"])
    runner.generate(make_plan(run), QUIET)
    cell: CellView = RunStore(tmp_path / "run").cells()[0]
    before = cell.image("test-00003")
    cell.image_path("test-00003").unlink()
    assert runner.generate(make_plan(run), QUIET).images == 1
    assert np.array_equal(cell.image("test-00003"), before)
