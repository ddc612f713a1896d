"""Images made elsewhere as a method: found by name, refused or resized, keyed by content."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from test_cli import run as cli_run

from sisbench import methods
from sisbench.config import MethodConfig, RunConfig, load_config
from sisbench.core.errors import UserError
from sisbench.core.progress import Progress
from sisbench.core.schema import validated
from sisbench.core.store import CellView, RunStore
from sisbench.data.images import read_image
from sisbench.diagnose.explain import explain_scores
from sisbench.pipeline import score_run
from sisbench.protocol import get_protocol
from sisbench.run import imported
from sisbench.run.elsewhere import ImagesOptions, read_references
from sisbench.run.imported import ImageImporter
from sisbench.run.plan import Plan, make_plan
from sisbench.run.runner import generate
from sisbench.run.status import status_of

IDS = ("0", "1", "2", "10")
SIDE = 32


class Said(Progress):
    """Progress that remembers."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def picture(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """A folder of four photographs with label maps: skin, and hair in all but the last."""
    root = tmp_path / "data"
    for k, i in enumerate(IDS):
        save(root / "images" / f"{i}.png", picture(k))
        label = np.ones((SIDE, SIDE), np.uint8)
        label[: 8 + k] = 13 if i != "10" else 1
        save(root / "labels" / f"{i}.png", label)
    return {"name": "folder", "root": str(root), "space": "celebamask_hq", "size": SIDE}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image a photograph for the task ``reconstruct``."""
    for k, i in enumerate(IDS):
        save(tmp_path / "made/reconstruct" / f"{i}.png", picture(100 + k))
    return tmp_path / "made"


def config(data: dict[str, Any], root: Path, out: str = "run", **changes: Any) -> RunConfig:
    own = {k: changes.pop(k) for k in ImagesOptions.model_fields if k in changes}
    raw = {
        "name": "test",
        "output": str(root.parent / out),
        "methods": [{"name": "images", "label": "Made", "root": str(root), **own}],
        "datasets": [data],
        "tasks": ["reconstruct"],
        "metrics": ["psnr"],
        "engine": {"device": "cpu"},
    }
    return validated(RunConfig, {**raw, **changes}, "test")


def made(run: RunConfig, progress: Progress | None = None) -> list[CellView]:
    generate(make_plan(run), progress or Said())
    return RunStore(run.folder).cells()


def scored(run: RunConfig, metric: str = "psnr") -> Any:
    score_run(run.folder, [metric], [], [], Progress(quiet=True))
    return RunStore(run.folder).scores()[0][0]


def references(ids: tuple[str, ...] = IDS) -> dict[str, str]:
    return get_protocol("sisbench1").references(ids)


def test_the_pixels_of_a_run_are_those_of_the_files(data: dict[str, Any], root: Path) -> None:
    run = config(data, root)
    (cell,) = made(run)
    assert cell.entry.status == "done"
    for k, i in enumerate(IDS):
        np.testing.assert_array_equal(cell.image(i), picture(100 + k))
    score = scored(run)
    both = [(picture(100 + k), picture(k)) for k in range(4)]
    errors = [np.mean((a.astype(float) - b) ** 2) for a, b in both]
    np.testing.assert_allclose(score.value, np.mean([10 * np.log10(255**2 / e) for e in errors]))
    assert (score.n, score.marks, "resize" in score.extra) == (4, (), False)


def test_no_network_is_built_and_nothing_was_measured(
    data: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods.registry, "get", lambda name: pytest.fail(f"asked for {name}"))
    run = config(data, root, metrics=["seconds", "psnr"])
    (cell,) = made(run)
    assert {row["seconds"] for row in cell.items()} == {None}
    assert "recorded no" in scored(run, "seconds").reason


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *(("png", {}), ("bmp", {}), ("tif", {}), ("tiff", {}), ("webp", {"lossless": True})),
        *(("jpg", {}), ("jpeg", {}), ("JPG", {})),
    ],
)
def test_every_usual_format(
    suffix: str, options: dict[str, Any], data: dict[str, Any], root: Path
) -> None:
    (root / "reconstruct/2.png").unlink()
    path = save(root / f"reconstruct/2.{suffix}", picture(5), **options)
    (cell,) = made(config(data, root))
    np.testing.assert_array_equal(cell.image("2"), read_image(path, None)[0])
    if not suffix.lower().startswith("jp"):
        np.testing.assert_array_equal(cell.image("2"), picture(5))


@pytest.mark.parametrize("fault", ["16 bits", "torn"])
def test_a_bad_file_is_named_and_costs_no_other_its_score(
    fault: str, data: dict[str, Any], root: Path
) -> None:
    path = root / "reconstruct/2.png"
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:900])
    else:
        save(path, np.full((SIDE, SIDE), 999, np.uint16))
    run = config(data, root)
    (cell,) = made(run)
    assert cell.entry.status == "partial"
    assert "2.png" in cell.entry.reason
    score = scored(run)
    assert (score.n, score.marks) == (3, ("1 of 4 items failed",))


def test_other_sizes_are_refused_unless_a_filter_is_named(data: dict[str, Any], root: Path) -> None:
    save(root / "reconstruct/2.png", picture(7, 64))
    (cell,) = made(config(data, root))
    assert cell.entry.status == "impossible"
    assert "3 of 32x32, 1 of 64x64, the data set is opened at 32x32" in cell.entry.reason
    expected = {
        "nearest": Image.Resampling.NEAREST,
        "area": Image.Resampling.BOX,
        "lanczos": Image.Resampling.LANCZOS,
    }
    for name, by in expected.items():
        run = config(data, root, resize=name)
        (cell,) = made(run)
        wanted = np.asarray(Image.fromarray(picture(7, 64)).resize((SIDE, SIDE), by))
        np.testing.assert_array_equal(cell.image("2"), wanted)
        np.testing.assert_array_equal(cell.image("1"), picture(101))
        score = scored(run)
        assert score.extra["resize"] == f"images from 64x64 to 32x32 by PIL's {name}"


def test_a_filter_that_nothing_needed_is_not_said(data: dict[str, Any], root: Path) -> None:
    run = config(data, root, resize="bicubic")
    made(run)
    assert "resize" not in scored(run).extra


def test_missing_images_are_an_error_or_left_out(data: dict[str, Any], root: Path) -> None:
    (root / "reconstruct/2.png").unlink()
    save(root / "reconstruct/stranger.png", picture(1))
    with pytest.raises(UserError, match=r"1 of 4 images are missing.*: 2; 1 files there.*stranger"):
        make_plan(config(data, root))
    said, run = Said(), config(data, root, missing="skip")
    (cell,) = made(run, said)
    assert cell.entry.status == "done"
    assert "Made reconstruct: 1 files are no item's: stranger.png" in said.lines
    score = scored(run)
    assert (score.n, score.marks) == (3, ("1 of 4 images are missing",))


def test_samples_by_their_name_or_by_a_pattern(data: dict[str, Any], root: Path) -> None:
    for k, i in enumerate(IDS):
        for n in range(3):
            save(root / "sample" / f"{i}~k{n}.png", picture(10 * k + n))
            save(root / "other/sample" / f"{i}_{n:02d}.png", picture(10 * k + n))
    protocol = {"base": "sisbench1", "samples": 3}
    run = config(data, root, tasks=["sample"], protocol=protocol)
    (cell,) = made(run)
    assert len(cell.items()) == 12
    named = config(
        data,
        root / "other",
        out="run",
        tasks=["sample"],
        protocol=protocol,
        pattern="{id}_{k:02d}",
    )
    (plan_cell,) = make_plan(named).cells
    assert plan_cell.key == cell.key, "the same pixels, wherever they lie and whatever their names"
    with pytest.raises(UserError, match=r"28 of 40 images are missing"):
        make_plan(config(data, root, tasks=["sample"]))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{id}_{n}", "a pattern has no '{n}'"),
        ("{k}", "lacks {id}"),
        ("{id", "is no pattern"),
        ("{id.__class__}", "a pattern has no"),
        ("{id}_{k}", "name the task|counts samples"),
        ({"samples": "{id}"}, "did you mean 'sample'"),
    ],
)
def test_patterns_that_cannot_be(
    pattern: Any, message: str, data: dict[str, Any], root: Path
) -> None:
    with pytest.raises(UserError, match=message):
        make_plan(config(data, root, pattern=pattern))


def test_one_folder_for_a_single_task(data: dict[str, Any], root: Path) -> None:
    (cell,) = make_plan(config(data, root / "reconstruct")).cells
    assert not cell.reason
    two = make_plan(config(data, root / "reconstruct", tasks=["reconstruct", "transfer"])).cells
    assert ["no folder" in cell.reason for cell in two] == [True, True]


def test_a_task_without_a_folder_is_a_dash_of_its_own(data: dict[str, Any], root: Path) -> None:
    run = config(data, root, tasks=["reconstruct", {"class_transfer": ["hair"]}])
    cells = made(run)
    assert [c.entry.status for c in cells] == ["done", "failed"]
    assert "class_transfer-hair" in cells[1].entry.reason


def test_several_data_sets_have_a_folder_each(data: dict[str, Any], root: Path) -> None:
    sets = [data | {"label": "A"}, data | {"label": "B"}]
    shutil.copytree(root / "reconstruct", root / "A/reconstruct")
    cells = make_plan(config(data, root, datasets=sets)).cells
    assert [bool(c.reason) for c in cells] == [False, True]


def test_edits_are_those_of_the_label_maps(data: dict[str, Any], root: Path) -> None:
    for task in ("shape_transfer", "class_transfer-hair"):
        shutil.copytree(root / "reconstruct", root / task)
    tasks = [{"shape_transfer": ["hair"]}, {"class_transfer": ["hair"]}]
    (root / "shape_transfer").rename(root / "shape_transfer[hair]")
    shapes, styles = made(config(data, root, tasks=tasks))
    hair = set(IDS) - {"10"}
    for row in shapes.items():
        both = row["target"] in hair and row["reference"] in hair
        assert row["reference"] == references()[row["target"]]
        assert row["classes"] == ([13] if both else [])
        assert row["absent"] == (row["target"] in hair and row["reference"] not in hair)
        drawn = np.asarray(Image.open(shapes.label_path(row["id"])))
        k, r = IDS.index(row["target"]), IDS.index(row["reference"])
        wanted = np.where(np.arange(SIDE) < 8 + (r if both else k), 13, 1)
        if row["target"] not in hair:
            wanted[:] = 1
        elif both:  # where hair was and is no more, a hole
            wanted[8 + r : 8 + k] = 255
        np.testing.assert_array_equal(drawn, np.repeat(wanted[:, None], SIDE, 1))
    assert {tuple(row["classes"]) for row in styles.items()} == {(13,)}
    assert styles.label_path("0") is None


def test_own_pairs_are_said_and_the_protocols_are_not(data: dict[str, Any], root: Path) -> None:
    shutil.copytree(root / "reconstruct", root / "transfer")
    own = dict(zip(IDS, (*IDS[1:], IDS[0]), strict=True))
    if own == references():
        own = {v: k for k, v in own.items()}
    file = root.parent / "pairs.txt"
    file.write_text("# target reference\n" + "".join(f"{a} {b}\n" for a, b in own.items()))
    run = config(data, root, tasks=["transfer"], references=str(file), metrics=["s_fid"])
    (cell,) = made(run)
    assert {row["target"]: row["reference"] for row in cell.items()} == own
    assert "own pairs" in scored(run, "s_fid").marks
    file.write_text("".join(f"{a},{b}\n" for a, b in references().items()))
    (same,) = make_plan(run).cells
    (plain,) = make_plan(config(data, root, tasks=["transfer"])).cells
    assert same.key == plain.key
    assert not same.found.remarks
    file.write_text("".join(f"{a},{b}\n" for a, b in list(references().items())[:3]))
    (fewer,) = make_plan(run.model_copy(update={"methods": (skipping(run.methods[0]),)})).cells
    assert fewer.found.remarks == ("1 of 4 images are missing",)


def skipping(method: MethodConfig) -> MethodConfig:
    return method.model_copy(update={"options": {**method.options, "missing": "skip"}})


def test_own_pairs_stand_under_protocols_of_any_seed(data: dict[str, Any], root: Path) -> None:
    shutil.copytree(root / "reconstruct", root / "transfer")
    file = root.parent / "pairs.txt"
    file.write_text("0 1\n1 0\n2 0\n10 0\n")
    seeds = [{"base": "sisbench1", "seed": seed} for seed in range(3)]
    run = config(data, root, tasks=["transfer"], protocol=seeds, references=str(file))
    assert [len(c.protocols) for c in make_plan(run).cells] == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n0 2\n", "twice"),
        ("0\n", "expected: target"),
        ("", "no pairs"),
        ("0 77", "do not|does"),
    ],
)
def test_bad_lists_of_references(text: str, message: str, data: dict[str, Any], root: Path) -> None:
    shutil.copytree(root / "reconstruct", root / "transfer")
    file = root.parent / "pairs.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        make_plan(config(data, root, tasks=["transfer"], references=str(file)))
    with pytest.raises(UserError, match="cannot be read"):
        read_references(root / "nowhere.txt")


def test_protocols_share_images_unless_they_pair_otherwise(
    data: dict[str, Any], root: Path
) -> None:
    shutil.copytree(root / "reconstruct", root / "transfer")
    truncating = {"base": "sisbench1", "quantise": "truncate"}
    run = config(data, root, tasks=["reconstruct", "transfer"], protocol=["sisbench1", truncating])
    assert [len(c.protocols) for c in make_plan(run).cells] == [2, 2]
    other = {"base": "sisbench1", "pairs": "next"}
    cells = make_plan(run.model_copy(update={"protocol": ("sisbench1", other)})).cells
    assert [len(c.protocols) for c in cells if not c.reason] == [2]
    assert {"pair targets" in c.reason for c in cells if c.reason} == {True}


def test_own_pairs_do_not_free_drawn_classes(data: dict[str, Any], root: Path) -> None:
    shutil.copytree(root / "reconstruct", root / "class_transfer")
    file = root.parent / "pairs.txt"
    file.write_text("".join(f"{a} {b}\n" for a, b in references().items()))
    seeds = [{"base": "sisbench1", "seed": seed} for seed in (0, 1)]
    pairs = [{"base": "sisbench1", "pairs": rule} for rule in ("half", "next")]
    for task, protocol, able in (("class_transfer", seeds, False), ("class_transfer", pairs, True)):
        run = config(data, root, tasks=[task], protocol=protocol, references=str(file))
        assert {not c.reason for c in make_plan(run).cells} == {able}


def test_the_lists_of_methods_and_of_the_doctor_name_them(
    data: dict[str, Any], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Images made elsewhere" in cli_run(capsys, "methods")[1]
    raw = config(data, root).model_dump(mode="json")
    (root.parent / "run.yaml").write_text(yaml.safe_dump(raw))
    text = cli_run(capsys, "doctor", str(root.parent / "run.yaml"))[1]
    assert f"ok   method Made: images in {root}" in text


def test_an_edited_image_makes_the_cell_anew(data: dict[str, Any], root: Path) -> None:
    run = config(data, root)
    (before,) = made(run)
    save(root / "reconstruct/2.png", picture(77))
    (after,) = made(run)
    assert after.key != before.key
    np.testing.assert_array_equal(after.image("2"), picture(77))


def everything(plan: Plan) -> dict[str, bytes]:
    root = plan.config.folder / plan.cells[0].folder
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_killed_and_resumed_is_the_same(
    data: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_plan(config(data, root, out="whole"))
    generate(whole, Said())
    monkeypatch.setattr(imported, "_GROUP", 2)
    halved = make_plan(config(data, root, out="halved"))
    keep, count = ImageImporter._read, [0]

    def dies(self: ImageImporter, *arguments: Any) -> Any:
        count[0] += 1
        if count[0] > 3:
            raise KeyboardInterrupt
        return keep(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ImageImporter, "_read", dies)
        with pytest.raises(KeyboardInterrupt):
            generate(halved, Said())
    generate(halved, Said())
    assert everything(halved) == everything(whole)
    stamps = {p: p.stat().st_mtime_ns for p in halved.config.folder.rglob("*.png")}
    generate(halved, Said())
    assert {p: p.stat().st_mtime_ns for p in halved.config.folder.rglob("*.png")} == stamps


def test_shares_of_several_processes_join(data: dict[str, Any], root: Path) -> None:
    from sisbench.run.images import Timer
    from sisbench.run.loading import load_method
    from sisbench.run.stored import merge_items

    whole = make_plan(config(data, root, out="whole"))
    generate(whole, Said())
    plan = make_plan(config(data, root, out="shared"))
    (cell,) = plan.cells
    for k in (1, 0):
        source = load_method(cell, plan, "cpu", Said())
        assert not imported.fill_cell(plan, cell, source, None, Timer(), Said(), (k, 2))
    merge_items(plan.config.folder / cell.folder)
    assert everything(plan) == everything(whole)


def test_missing_and_unused_files_stand_in_the_manifest(data: dict[str, Any], root: Path) -> None:
    (root / "reconstruct" / "2.png").unlink()
    save(root / "reconstruct" / "stranger.png", picture(9))
    run = config(data, root, missing="skip")
    (cell,) = made(run)
    assert (cell.entry.missing, cell.entry.unused) == (("2",), ("stranger.png",))
    score_run(run.folder, None, [], [], Progress(quiet=True))
    (state,) = status_of(run.folder).cells
    assert state.files == "1 missing: 2; 1 no item's: stranger.png"
    text = " ".join(explain_scores(run.folder, "psnr").split())
    assert "missing 1: 2 no item's 1: stranger.png" in text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"root": "nowhere"}, "no folder nowhere"),
        ({"root": ".", "resize": "cubic"}, "resize"),
        ({"root": ".", "missinng": "skip"}, "did you mean 'missing'"),
        ({}, "root"),
        ({"root": ".", "weights": "x.pth"}, "no weights"),
    ],
)
def test_bad_entries(entry: dict[str, str], message: str, data: dict[str, Any]) -> None:
    raw = {"name": "t", "methods": [{"name": "images", **entry}], "datasets": [data]}
    with pytest.raises(UserError, match=message):
        make_plan(validated(RunConfig, raw, "test"))


def test_paths_of_a_file_are_kept_absolute(
    data: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    Path("pairs.txt").write_text("0 1\n")
    Path("images").mkdir()  # a folder of the name must not become the method's
    Path("run.yaml").write_text(
        "methods: [{name: images, root: made, references: pairs.txt}]\n"
        "datasets: [{name: toyfaces}]\n"
    )
    (method,) = load_config(Path("run.yaml")).methods
    assert method.name == "images"
    assert method.options["root"] == str(root)
    assert method.options["references"] == str(root.parent / "pairs.txt")


def test_a_layout_editor_is_not_combined_with_them(data: dict[str, Any], root: Path) -> None:
    run = config(data, root, layout_editor={"name": "semantic-vae", "weights": "seeded:0"})
    (cell,) = make_plan(run).cells
    assert "not combined with a layout editor" in cell.reason
